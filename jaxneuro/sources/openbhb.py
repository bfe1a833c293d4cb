"""OpenBHB and BHB-10K: `**/sub-123_preproc-quasiraw_T1w.nii.gz` (or with ses-1_) and participants.tsv.

OpenBHB gives its quasi-raw images out as arrays (.npy), which have no affine; they must be written as NIfTI first. The
columns of BHB-10K are not published; OpenBHB's are taken, and --columns names others.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import Problem, is_missing
from jaxneuro.sources import options, tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, table_of
from jaxneuro.sources.rows import Image, no_row, scans_of

MARKS = "participants.tsv with a column siteXacq"
#: The release has healthy people only.
DIAGNOSES = {"control": "CN"}
COLUMNS = {
    "subject": ("participant_id",),
    "session": ("session", "ses"),
    "age": ("age",),
    "sex": ("sex",),
    "site": ("siteXacq", "site"),
    "diagnosis": ("diagnosis",),
    "split": ("split",),
}
#: Published split to our fold. internal_test holds scanners of the training set and serves to validate (the challenge's
#: own test is private); external_test holds scanners that are not in it.
FOLDS = {"train": "train", "internal_test": "validation", "external_test": "ood"}
_QUASIRAW = re.compile(
    r"^sub-([A-Za-z0-9]+)_(?:ses-([A-Za-z0-9]+)_)?(?:run-\d+_)?preproc-quasiraw_T1w\.(nii|nii\.gz|npy)$"
)
_HINT = (
    "write it with the affine of quasiraw_space-MNI152_desc-brain_T1w.nii.gz of OpenBHB's resources: "
    "nib.save(nib.Nifti1Image(np.load(file).squeeze(), nib.load(template).affine), new)"
)


def looks_like(path: Path) -> bool:
    """Whether a folder's participants.tsv has the column of OpenBHB that no other study has."""
    return "siteXacq" in tree.header(path / "participants.tsv")


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    folds: str = "published",
) -> Source:
    """Read the quasi-raw images of OpenBHB, all of healthy people (CN), with the published folds.

    Args:
      root: the folder with the images in it, at any depth.
      table: participants.tsv; by default the one in `root`.
      columns: what the table holds to its column, of `COLUMNS`.
      folds: "published" takes the column of the split as `FOLDS` says; "own" has folds made anew.

    Raises:
      InputError: the folder or table cannot be read, there are arrays only, or an option has no such value.
    """
    options.choice("folds", folds, ("published", "own"))
    problems: list[Problem] = []
    people = Table(table_of(root, table, ("participants.tsv",)), COLUMNS, ("subject",), columns, problems)
    people.tell_columns(("age", "sex", "site"), problems)
    by_session = "session" in people.columns
    keys: dict[str, set[str]] = {}
    for _, row in people.rows:
        subject = row["subject"].removeprefix("sub-")
        row["scan"] = _name(subject, row.get("session", ""))
        keys.setdefault(subject, set()).add(row["scan"])
    rows = people.by("scan", problems)
    found = _images(root, by_session, problems)

    def key_of(image: Image) -> str:
        # A row without a session is of all of the subject's; an image without one is of the subject's only row.
        theirs = keys.get(image.subject, set())
        if not image.session and len(theirs) == 1:
            return next(iter(theirs))
        own = _name(image.subject, image.session)
        return own if own in rows or own in people.repeated else image.subject

    def describe(image: Image, where: str) -> dict[str, str] | None:
        row = rows.get(key_of(image))
        if row is None:
            who = _name(image.subject, image.session if by_session else "")
            no_row(where, who, people.path, problems, several=key_of(image) in people.repeated)
            return None
        word = row.get("diagnosis", "")
        return {**row, "diagnosis": "CN" if is_missing(word) else DIAGNOSES.get(word, word)}

    scans = scans_of(found, describe, root, problems)
    people.tell_absent(rows, map(key_of, found), problems)
    subjects = {s.subject for s in scans}
    published = "split" in people.columns and folds == "published"
    return Source(
        name="OpenBHB",
        scans=scans,
        problems=problems,
        rule="every quasi-raw image with a row; all are healthy (CN); folds "
        + ("as published: internal_test validates, external_test is ood" if published else "made here"),
        already=frozenset({"bias", "strip", "register"}),
        synthetic=False,
        folds=_folds(rows.values(), subjects, people.path) if published else {},
    )


def _name(subject: str, session: str) -> str:
    """Return what finds a row: `123`, or `123 ses-1` where it has a session."""
    return subject if is_missing(session) else f"{subject} ses-{session.removeprefix('ses-')}"


def _folds(rows: Iterable[Mapping[str, str]], subjects: Collection[str], path: Path) -> dict[str, str]:
    splits: dict[str, str] = {}
    for row in rows:
        subject = row["subject"].removeprefix("sub-")
        if subject in subjects and splits.setdefault(subject, row["split"]) != row["split"]:
            raise InputError(
                f"{path}: found {subject} in split '{splits[subject]}' and in '{row['split']}'; expected one for all "
                "sessions; --option folds=own makes folds anew"
            )
    if strange := sorted({s for s in splits.values() if s not in FOLDS}):
        raise InputError(
            f"{path}: found split '{strange[0]}'; expected one of {list(FOLDS)}; --option folds=own makes folds anew"
        )
    return {subject: FOLDS[split] for subject, split in splits.items()}


def _images(root: Path, by_session: bool, problems: list[Problem]) -> list[Image]:
    """Return the images; where the table tells sessions apart, so do folders such as ses-1."""
    images = []
    arrays: list[Path] = []
    for path in tree.images(root, _QUASIRAW, problems):
        name = _QUASIRAW.match(path.name)
        if name and name[3] != "npy":
            folder = path.parent.name if by_session and path.parent.name.startswith("ses-") else ""
            images.append(Image(name[1], name[2] or folder.removeprefix("ses-"), path))
        else:
            arrays.append(path)
    have = {i.path.name.split(".")[0] for i in images}
    arrays = [path for path in arrays if path.stem not in have]
    if arrays and not images:
        raise InputError(f"{arrays[0]}: found an array, as in {len(arrays)} files; expected NIfTI; {_HINT}")
    problems += [Problem(str(p.relative_to(root)), "an array, which has no affine", "NIfTI", _HINT) for p in arrays]
    return images
