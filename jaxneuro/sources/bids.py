"""A BIDS tree: `sub-X/[ses-Y/]anat/sub-X_[ses-Y_]T1w.nii.gz`, participants.tsv, sessions.tsv."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Problem, Scan, is_missing, natural, read_table
from jaxneuro.sources import tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.rows import missing, no_columns, scan_of_row, shown

MARKS = "participants.tsv or dataset_description.json beside folders such as sub-01"
#: What `--columns` names columns by.
ROLES = ("age", "sex", "site", "diagnosis", "label")
_ANY = re.compile("_T1w" + tree.NIFTI)
_SUBJECTS = re.compile("^sub-")
_IMAGE = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?(?:[a-z]+-[A-Za-z0-9]+_)*T1w\.nii(\.gz)?$")


def looks_like(path: Path) -> bool:
    """Whether a folder has BIDS's tables and subjects, and not a column of OpenBHB's table, which looks like BIDS."""
    if not any((path / name).is_file() for name in ("participants.tsv", "dataset_description.json")):
        return False
    return tree.any_name(path, "sub-[A-Za-z0-9]+") and "siteXacq" not in tree.header(path / "participants.tsv")


def read(root: Path, *, columns: Mapping[str, str] | None = None) -> Source:
    """Read the T1-weighted scans of a BIDS tree.

    Labels come from `participants.tsv`; those of a `sessions.tsv` (one a subject, `sub-X/sub-X_sessions.tsv`, or one
    at the top with a `participant_id` column) take precedence, so that a diagnosis can change between sessions. The age
    in `participants.tsv` is that of a subject's first session alone.

    Args:
      root: the folder.
      columns: of `ROLES`, to the name of the column in `participants.tsv` or `sessions.tsv`, in place of its own.

    Returns:
      The usable scans, sorted by subject and session, and the problems.

    Raises:
      InputError: the folder or its `participants.tsv` is missing or is not a table, no table has a named
        column, or its description is not JSON.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such file or folder; expected a BIDS folder with participants.tsv, or a CSV")
    problems: list[Problem] = []
    named = _Columns(columns or {})
    participants, repeated = _participants(root / "participants.tsv", named, problems)
    sessions = _sessions(root, named, problems)
    named.check(root / "participants.tsv", problems)

    scans: dict[tuple[str, str], Scan] = {}
    images: dict[tuple[str, str], Path] = {}
    for path in tree.images(root, _ANY, problems, top=_SUBJECTS):
        relative = path.relative_to(root)
        match = _IMAGE.match(path.name)
        folder = next((part for part in relative.parts[1:2] if part.startswith("ses-")), None)
        if match is None or relative.parts[0] != match[1] or match[2] != folder:
            problems.append(
                Problem(
                    str(relative),
                    "a name that does not fit its folder",
                    "sub-X/[ses-Y/]anat/sub-X_[ses-Y_]T1w.nii.gz",
                    "rename the file",
                )
            )
            continue
        subject, session = match[1], match[2] or ""
        if subject in repeated:
            continue
        if subject not in participants:
            problems.append(
                Problem(str(relative), "a file with no row", f"{subject} in participants.tsv", "add the row")
            )
            continue
        if (subject, session) in images:
            kept = images[subject, session].name
            problems.append(
                Problem(str(relative), "a second T1w image of one session", "one a session", f"{kept} was kept")
            )
            continue
        images[subject, session] = path

    first = _first_sessions([*images, *sessions])
    for (subject, session), path in images.items():
        where = str(path.relative_to(root))
        row = participants[subject] | sessions.get((subject, session), {})
        if session != first[subject] and "age" not in sessions.get((subject, session), {}):
            row["age"] = _later_age(row, where, problems)
        scans[subject, session] = scan_of_row(row, subject, session, str(path), where, problems)

    seen = {subject for subject, _ in scans}
    for subject in participants:
        if subject not in seen:
            problems.append(
                Problem(
                    f"{root / 'participants.tsv'} {subject}",
                    "a row with no file",
                    f"{subject}/**/{subject}_*T1w.nii.gz",
                    "check the download",
                )
            )
    for subject, session in sessions:
        # A subject without any image has been told already.
        if (subject, session) not in scans and (subject in seen or subject not in participants):
            problems.append(
                Problem(f"sessions.tsv {subject} {session}", "a row with no file", "a T1w image", "check its names")
            )
    description = _description(root / "dataset_description.json")
    # What `jaxneuro cohort` writes; a study of people may cite work on synthetic scans.
    made_by = description.get("GeneratedBy")
    return Source(
        name=str(description.get("Name") or root.resolve().name),
        scans=[scans[key] for key in sorted(scans)],
        problems=problems,
        rule="every T1w image with a row in participants.tsv; labels of sessions.tsv take precedence",
        synthetic=isinstance(made_by, list)
        and any(isinstance(g, dict) and g.get("Name") == "jaxneuro cohort" for g in made_by),
    )


def _first_sessions(keys: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return subject to its first session."""
    first: dict[str, str] = {}
    for subject, session in sorted(keys, key=lambda k: natural(k[1])):
        first.setdefault(subject, session)
    return first


def _later_age(row: Mapping[str, str], where: str, problems: list[Problem]) -> str:
    """Return that the age of a later session is missing, and tell so where the subject has one."""
    age = row.get("age", MISSING)
    if not is_missing(age):
        missing(where, f"age {age} of participants.tsv, of the first session", "that in sessions.tsv", "age", problems)
    return MISSING


def _description(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{file}: not JSON ({e}); expected the BIDS description of the dataset") from e
    if not isinstance(found, dict):
        raise InputError(f"{file}: found a JSON {type(found).__name__}; expected the BIDS description of the dataset")
    return found


class _Columns:
    """Which columns of a study's tables hold what."""

    def __init__(self, given: Mapping[str, str]) -> None:
        if strange := sorted(set(given) - set(ROLES)):
            raise InputError(f"--columns: found {strange}; expected names among {list(ROLES)}")
        self.given = {role: name.strip() for role, name in given.items()}
        self.header: list[str] = []
        self.found: set[str] = set()

    def cells(self, header: Sequence[str], row: Mapping[str, str]) -> dict[str, str]:
        """Return a row by role."""
        there = {c.lower(): c for c in reversed(header)}
        names = {role: self.given.get(role, role).lower() for role in ROLES}
        return {role: row[there[name]] for role, name in names.items() if name in there}

    def see(self, header: Sequence[str]) -> None:
        """Take note of a table's columns."""
        self.header += [c for c in header if c not in self.header]
        self.found |= set(self.cells(header, dict.fromkeys(header, "")))

    def check(self, table: Path, problems: list[Problem]) -> None:
        """Refuse a named column that no table has, and tell of labels that have none."""
        if absent := [role for role in self.given if role not in self.found]:
            raise InputError(
                f"{table}: found columns {shown(self.header)}; expected {self.given[absent[0]]} for {absent[0]}, "
                "here or in sessions.tsv"
            )
        no_columns(table, [r for r in ("diagnosis", "sex", "age") if r not in self.found], self.header, problems)


def _participants(path: Path, named: _Columns, problems: list[Problem]) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Return subject to row, and the subjects that have more than one."""
    header, rows = read_table(path, problems)
    if "participant_id" not in header:
        raise InputError(f"{path}: found columns {header}; expected participant_id")
    named.see(header)
    count = Counter(row["participant_id"] for _, row in rows)
    for subject, n in count.items():
        if n > 1:
            problems.append(
                Problem(f"{path} {subject}", f"{n} rows", "one row a subject", "remove the wrong one; all left out")
            )
    result = {}
    for line, row in rows:
        subject = row["participant_id"]
        if not re.fullmatch(r"sub-[A-Za-z0-9]+", subject):
            problems.append(Problem(f"{path} line {line}", f"participant_id '{subject}'", "sub- and letters or digits"))
        elif count[subject] == 1:
            result[subject] = named.cells(header, row)
    return result, {subject for subject, n in count.items() if n > 1}


def _sessions(root: Path, named: _Columns, problems: list[Problem]) -> dict[tuple[str, str], dict[str, str]]:
    result: dict[tuple[str, str], dict[str, str]] = {}
    for path in [root / "sessions.tsv", *sorted(root.glob("sub-*/sub-*_sessions.tsv"))]:
        if not path.is_file():
            continue
        try:
            header, rows = read_table(path, problems)
        except InputError as e:
            problems.append(Problem(str(path), str(e), "a table of sessions"))
            continue
        need = {"session_id"} | ({"participant_id"} if path.parent == root else set())
        if not need <= set(header):
            problems.append(Problem(str(path), f"columns {header}", f"{sorted(need)} among them"))
            continue
        named.see(header)
        for line, row in rows:
            key = (row["participant_id"] if path.parent == root else path.parent.name, row["session_id"])
            if key in result:
                problems.append(
                    Problem(f"{path} line {line}", f"{key[1]} again", "one row a session", "the first was kept", False)
                )
                continue
            result[key] = {role: v for role, v in named.cells(header, row).items() if not is_missing(v)}
    return result
