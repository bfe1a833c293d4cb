"""OASIS-1: `[disc1/]OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/*_t88_masked_gfc.*` and oasis_cross-sectional.csv.

The archives hold Analyze images (.img with .hdr), whose headers do not say reliably which side is left; published
converters write orientations of their own into them. They are not guessed here: a NIfTI image must lie beside each.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.manifest import MISSING, Problem, from_missing, is_missing
from jaxneuro.sources import options, tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, later, table_of
from jaxneuro.sources.rows import Image, missing, no_row, of_kind, scans_of

MARKS = "folders such as OAS1_0001_MR1, or folders disc1, disc2, ... of them"
COLUMNS = {
    "subject": ("ID",),
    "sex": ("M/F",),
    "age": ("Age",),
    "cdr": ("CDR",),
    "delay": ("Delay",),
    "site": (),
}
#: Kind of image to what its name ends with, and the stages that it has been through (OASIS-1 fact sheet): registered to
#: the atlas of Talairach and Tournoux (t88), gain-field corrected (gfc), masked; the average of one session's
#: acquisitions; a single acquisition.
KINDS = {
    "processed": (re.compile(r"_t88_masked_gfc\."), frozenset({"bias", "strip", "register"})),
    "average": (re.compile(r"_sbj_111\."), frozenset[str]()),
    "raw": (re.compile(r"_mpr-\d_anon\."), frozenset[str]()),
}
_FILE = re.compile(r"\.(nii|nii\.gz|img)$")
_SESSION = r"(OAS1_\d{4})_(MR\d)"
#: People younger than this were not examined for dementia (but some were) and are healthy.
_EXAMINED_FROM = 60


def looks_like(path: Path) -> bool:
    """Whether a folder has OASIS-1's sessions in it, or in its folders disc1, disc2, ..."""
    discs = [path / name for name in tree.names(path) if re.fullmatch(r"disc\d+", name)]
    return any(tree.any_name(folder, _SESSION) for folder in (path, *discs))


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    image: str | None = None,
    young: str = "missing",
) -> Source:
    """Read OASIS-1: one image a session, CDR 0 as CN, above 0 as AD.

    The second session of twenty people (MR2, within 90 days, for reliability) takes what its row leaves empty from the
    first; its age is that of the first and the delay in days.

    Args:
      root: the folder of sessions, or of discs.
      table: oasis_cross-sectional.csv; by default the one in `root`.
      columns: what the table holds to its column, of `COLUMNS`.
      image: "processed", "average" or "raw"; by default the kind that most sessions have.
      young: "missing" leaves people under 60 without a CDR without a diagnosis: against patients of 60 to 96 they would
        make a task of telling the young from the old. "CN" takes them as controls, such as for brain age.

    Raises:
      InputError: the folder or table cannot be read, or an option has no such value.
    """
    options.choice("young", young, ("missing", "CN"))
    problems: list[Problem] = []
    clinical = Table(
        table_of(root, table, ("oasis_cross-sectional.csv",)), COLUMNS, ("subject", "age", "cdr"), columns, problems
    )
    clinical.tell_columns(("sex",), problems)
    rows = clinical.by("subject", problems)
    found = of_kind(_images(root, problems), list(KINDS), image, problems)

    def describe(image: Image, where: str) -> dict[str, str] | None:
        name = f"{image.subject}_{image.session}"
        first, own = rows.get(f"{image.subject}_MR1", {}), rows.get(name, {})
        if not first and not own:
            several = bool({name, f"{image.subject}_MR1"} & clinical.repeated)
            no_row(where, name, clinical.path, problems, several=several)
            return None
        row = first | {role: cell for role, cell in own.items() if not is_missing(cell)}
        if is_missing(own.get("age", "")) and not is_missing(own.get("delay", "")):
            row["age"] = _delayed(row["age"], own["delay"])
        return row | {"diagnosis": _diagnosis(row, young, where, problems)}

    kind = found[0].kind if found else "processed"
    usable = _with_affine(found, root, problems)
    clinical.tell_absent(rows, (f"{i.subject}_{i.session}" for i in found), problems)
    return Source(
        name="OASIS-1",
        scans=scans_of(usable, describe, root, problems),
        problems=problems,
        rule=f"the {kind} image of every session; CDR 0 is CN, above 0 AD; under {_EXAMINED_FROM} without CDR: {young}",
        already=KINDS[kind][1],
        synthetic=False,
    )


def _images(root: Path, problems: list[Problem]) -> list[Image]:
    found = []
    for path in tree.images(root, _FILE, problems):
        session = next(
            (m for part in reversed(path.absolute().parts[:-1]) if (m := re.fullmatch(_SESSION, part))), None
        )
        kind = next((k for k, (name, _) in KINDS.items() if name.search(path.name)), None)
        if session and kind:
            found.append(Image(session[1], session[2], path, (path.suffix == ".img",), kind))
    return found


def _with_affine(found: list[Image], root: Path, problems: list[Problem]) -> list[Image]:
    """Return those that are NIfTI, and tell of sessions that have none."""
    usable = [i for i in found if i.path.suffix != ".img"]
    have = {i.key for i in usable}
    for image in found:
        if image.key not in have:
            have.add(image.key)
            new = shlex.quote(str(image.path.with_suffix(".nii.gz")))
            problems.append(
                Problem(
                    str(image.path.relative_to(root)),
                    "an Analyze image, which does not say which side is left",
                    "NIfTI beside it",
                    f"mri_convert {shlex.quote(str(image.path))} {new} (FreeSurfer), and look that left is left",
                )
            )
    return usable


def _delayed(age: str, delay: str) -> str:
    try:
        return later(age, from_missing(delay))
    except ValueError:
        return age


def _diagnosis(row: Mapping[str, str], young: str, where: str, problems: list[Problem]) -> str:
    try:
        cdr = from_missing(row["cdr"])
        if cdr == cdr:
            if cdr in (0, 0.5, 1, 2, 3):
                return "AD" if cdr > 0 else "CN"
            raise ValueError
    except ValueError:
        missing(where, f"CDR '{row['cdr']}'", "0, 0.5, 1, 2 or 3", "diagnosis", problems)
        return MISSING
    try:
        return "CN" if young == "CN" and from_missing(row["age"]) < _EXAMINED_FROM else MISSING
    except ValueError:  # told by scan_of_row
        return MISSING
