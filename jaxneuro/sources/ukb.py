"""UK Biobank: `1000223_20252_2_0/T1/T1_unbiased_brain.nii.gz` (field 20252, unpacked) and a table of its fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import Problem, is_missing
from jaxneuro.sources import tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, table_of
from jaxneuro.sources.rows import Image, no_row, of_kind, scans_of

MARKS = "folders (or archives) such as 1000223_20252_2_0"
#: Sex (31), age when attended (21003) and centre (54) at the imaging visits 2 and 3, by the names of ukbconv and of the
#: Research Analysis Platform.
COLUMNS = {
    "subject": ("eid", "participant.eid"),
    "sex": ("31-0.0", "p31", "participant.p31"),
    "age_2": ("21003-2.0", "p21003_i2", "participant.p21003_i2"),
    "age_3": ("21003-3.0", "p21003_i3", "participant.p21003_i3"),
    "site_2": ("54-2.0", "p54_i2", "participant.p54_i2"),
    "site_3": ("54-3.0", "p54_i3", "participant.p54_i3"),
    "diagnosis": (),
}
#: Coding 9.
SEXES = {"0": "F", "1": "M"}
#: Kind of image to the file of UK Biobank's pipeline, and the stages that it has been through.
KINDS = {
    "unbiased_brain": ("T1_unbiased_brain.nii.gz", frozenset({"bias", "strip"})),
    "brain": ("T1_brain.nii.gz", frozenset({"strip"})),
    "head": ("T1.nii.gz", frozenset[str]()),
    "mni": ("T1_brain_to_MNI.nii.gz", frozenset({"strip", "register"})),
}
_FILE = re.compile("|".join(rf"^{re.escape(name)}$" for name, _ in KINDS.values()))
_SESSION = r"(\d+)_20252_([23])_\d"


def looks_like(path: Path) -> bool:
    """Whether a folder has unpacked folders, or archives, of field 20252 in it."""
    return tree.any_name(path, _SESSION + r"(\.zip)?")


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    image: str | None = None,
    withdrawn: str | None = None,
) -> Source:
    """Read the T1-weighted images of UK Biobank.

    There is no diagnosis unless `columns` names a column of it. Ages are in whole years, as field 21003 has them.

    Args:
      root: the folder of unpacked archives.
      table: table of the fields, one row a participant; by default ukb.csv in `root`.
      columns: what the table holds to its column, of `COLUMNS`.
      image: "unbiased_brain", "brain", "head" or "mni"; by default the kind that most sessions have.
      withdrawn: file with the EIDs of participants who have withdrawn, one a line, as UK Biobank sends it.

    Raises:
      InputError: the folder or a table cannot be read, the archives are still packed, or an option has no such value.
    """
    problems: list[Problem] = []
    fields = Table(table_of(root, table, ("ukb.csv",)), COLUMNS, ("subject",), columns, problems)
    for _, row in fields.rows:
        row["subject"] = _eid(row["subject"])
    people = fields.by("subject", problems)
    gone = _withdrawn(withdrawn) if withdrawn else set()
    # UK Biobank takes back a participant's number by a negative one.
    if taken := sum(eid.startswith("-") for eid in people):
        problems.append(Problem(str(fields.path), f"{taken} rows with a negative eid", "participants", "withdrawn"))
    found = of_kind(_images(root, problems), list(KINDS), image, problems)
    visits = sorted({i.session for i in found})
    fields.tell_columns(["sex", *(f"{what}_{visit}" for visit in visits for what in ("age", "site"))], problems)

    if withdrawn and not gone & {*people, *fields.repeated, *(i.subject for i in found)}:
        # The table may have been cleared of them already.
        known = "eids of this table or of these images"
        problems.append(
            Problem(withdrawn, f"{len(gone)} eids, none of them here", known, "check whose list it is", dropped=False)
        )

    def describe(image: Image, where: str) -> dict[str, str] | None:
        if image.subject in gone:
            problems.append(Problem(where, "a participant who has withdrawn", "consent", "delete the images"))
            return None
        row = people.get(image.subject)
        if row is None:
            several = image.subject in fields.repeated
            no_row(where, f"eid {image.subject}", fields.path, problems, several=several)
            return None
        sex = row.get("sex", "")
        return {
            "age": row.get(f"age_{image.session}", ""),
            "sex": SEXES.get(sex, sex),
            "site": row.get(f"site_{image.session}", ""),
            "diagnosis": row.get("diagnosis", ""),
        }

    kind = found[0].kind if found else "unbiased_brain"
    return Source(
        name="UK Biobank",
        scans=scans_of(found, describe, root, problems),
        problems=problems,
        rule=f"{KINDS[kind][0]} of every imaging visit of a participant who has a row and has not withdrawn",
        already=KINDS[kind][1],
        synthetic=False,
    )


def _images(root: Path, problems: list[Problem]) -> list[Image]:
    kinds = {name: kind for kind, (name, _) in KINDS.items()}
    found = []
    for path in tree.images(root, _FILE, problems):
        # Absolute, for the root may be the folder in which the command runs.
        *_, folder, inside, _ = ("", *path.absolute().parts)
        session = re.fullmatch(_SESSION, folder) if inside == "T1" else None
        if session is None:
            problems.append(
                Problem(
                    str(path.relative_to(root)),
                    "an image in another place",
                    f"EID_20252_2_0/T1/{path.name}",
                    "unpack as is",
                )
            )
        else:
            found.append(Image(_eid(session[1]), session[2], path, (folder,), kinds[path.name]))
    if not found and (packed := [n for n in tree.names(root) if re.fullmatch(_SESSION + r"\.zip", n)]):
        raise InputError(
            f"{root}: found {len(packed)} archives such as {packed[0]}; expected them unpacked; in the folder: "
            'for f in *_20252_*.zip; do unzip -q "$f" -d "${f%.zip}"; done'
        )
    return found


def _withdrawn(file: str) -> set[str]:
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"--option withdrawn: {file} cannot be read ({e}); expected EIDs, one a line") from e
    cells = [line.split(",")[0].strip().strip('"') for line in lines]
    eids = [c for i, c in enumerate(cells) if not is_missing(c) and not (i == 0 and c.lower() == "eid")]
    if strange := [c for c in eids if not re.fullmatch(r"-?\d+", c)]:
        raise InputError(f"--option withdrawn: {file}: found '{strange[0]}'; expected EIDs, one a line")
    return {_eid(eid) for eid in eids}


def _eid(text: str) -> str:
    """Return a participant's number without the zeros that a program put before it."""
    return text.lstrip("0")
