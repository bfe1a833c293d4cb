"""The table of scans: one row a scan, read from a BIDS tree or a CSV, with every oddity on record.

A reader never stops at a bad row. It returns the rows that can be used and a list of problems, each of which says
where it was found, what was found, what was expected and what to try. Only a table that cannot be read at all raises.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from jaxneuro.errors import InputError

#: Written for a value that is not known, as BIDS does.
MISSING = "n/a"
_MISSING_WORDS = {"", "n/a", "na", "nan", "none", "null", "."}
_SEX_WORDS = {"m": "M", "male": "M", "f": "F", "female": "F"}
_IMAGE = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?(?:[a-z]+-[A-Za-z0-9]+_)*T1w\.nii(\.gz)?$")


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one subject.

    Attributes:
      subject, session: identifiers; `session` is "" where a study has one scan a subject.
      site: acquisition site or scanner.
      age: age at the scan in years; NaN when unknown.
      sex: "F", "M" or "n/a".
      diagnosis: label as the study writes it, or "n/a".
      path: the image file.
      content_hash: SHA-256 of the voxel values in RAS+ order (`jaxneuro.prepare.volumes.content_hash`); "" until
        the image has been read.
      label: any other label, such as the action of a video clip, or "n/a".
    """

    subject: str
    session: str = ""
    site: str = MISSING
    age: float = math.nan
    sex: str = MISSING
    diagnosis: str = MISSING
    path: str = ""
    content_hash: str = ""
    label: str = MISSING

    @property
    def key(self) -> tuple[str, str]:
        """Return (subject, session), unique in a manifest."""
        return self.subject, self.session

    @property
    def name(self) -> str:
        """Return `subject session` for messages."""
        return f"{self.subject} {self.session}".strip()


COLUMNS = tuple(f.name for f in fields(Scan))
_KNOWN = {*COLUMNS, "participant_id", "session_id"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was wrong with the input: where, what was found, what was expected, what to try.

    `dropped` tells whether the scan was left out (True) or kept with the value set to missing (False).
    """

    where: str
    found: str
    expected: str
    hint: str = ""
    dropped: bool = True

    def __str__(self) -> str:
        line = f"{self.where}: found {self.found}; expected {self.expected}"
        line = f"{line}; {self.hint}" if self.hint else line
        # A file's name need not be UTF-8; what is printed must be.
        return line.encode("utf-8", "backslashreplace").decode()


PROBLEM_COLUMNS = tuple(f.name for f in fields(Problem))


def read_bids(root: str | os.PathLike[str]) -> tuple[list[Scan], list[Problem]]:
    """Read the T1-weighted scans of a BIDS tree.

    Labels come from `participants.tsv`; those of a `sessions.tsv` (one a subject, `sub-X/sub-X_sessions.tsv`, or one
    at the top with a `participant_id` column) take precedence, so that a diagnosis can change between sessions.

    Returns:
      The usable scans, sorted by subject and session, and the problems.

    Raises:
      InputError: the folder or its `participants.tsv` is missing or is not a table.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such file or folder; expected a BIDS folder with participants.tsv, or a CSV")
    problems: list[Problem] = []
    participants, repeated = _participants(root / "participants.tsv", problems)
    sessions = _sessions(root, problems)

    scans: dict[tuple[str, str], Scan] = {}
    for path in sorted(root.glob("sub-*/**/*_T1w.nii*")):
        relative = path.relative_to(root)
        match = _IMAGE.match(path.name)
        if match is None or relative.parts[0] != match[1] or (match[2] and relative.parts[1] != match[2]):
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
        if (subject, session) in scans:
            kept = Path(scans[subject, session].path).name
            problems.append(
                Problem(str(relative), "a second T1w image of one session", "one a session", f"{kept} was kept")
            )
            continue
        row = participants[subject] | sessions.get((subject, session), {})
        scans[subject, session] = _scan(row, subject, session, str(path), str(relative), problems)

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
    return [scans[key] for key in sorted(scans)], problems


def read_csv(
    path: str | os.PathLike[str],
    columns: Mapping[str, str] | None = None,
    *,
    root: str | os.PathLike[str] | None = None,
) -> tuple[list[Scan], list[Problem]]:
    """Read a CSV (or TSV) with one row a scan.

    Args:
      path: the table; the delimiter follows from the ending.
      columns: our column name to theirs, such as {"subject": "PTID", "age": "AGE"}; names not given are taken as ours.
      root: folder that relative image paths start from; by default the table's own folder.

    Returns:
      The usable scans in file order, and the problems.

    Raises:
      InputError: the file is missing, has no rows, or lacks the `subject` or `path` column or a named column.
    """
    path = Path(path)
    columns = {ours: _known_name(theirs.strip()) for ours, theirs in (columns or {}).items()}
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise InputError(f"columns: found {unknown}; expected names among {list(COLUMNS)}")
    problems: list[Problem] = []
    header, rows = _table(path, problems)
    names = {ours: columns.get(ours, ours) for ours in COLUMNS}
    needed = [names[c] for c in ("subject", "path")] + list(columns.values())
    if absent := sorted({c for c in needed if c not in header}):
        raise InputError(
            f"{path}: found columns {header}; expected {absent} too; name yours with --columns subject=PTID,age=AGE"
        )
    base = Path(root) if root is not None else path.parent
    scans: list[Scan] = []
    for line, row in rows:
        where = f"{path} line {line}"
        values = {ours: row[theirs] for ours, theirs in names.items() if theirs in header}
        if _is_missing(values["subject"]):
            problems.append(Problem(where, "no subject", "an identifier"))
            continue
        session = "" if _is_missing(values.get("session", "")) else values["session"]
        if odd := [c for c in ("subject", "session") if not values.get(c, "").isprintable()]:
            problems.append(Problem(where, f"{odd[0]} {values[odd[0]]!r}", "letters, digits and signs"))
            continue
        file = base / values["path"]
        if _is_missing(values["path"]) or set("\0\r\n") & set(values["path"]) or not _is_file(file):
            shown = repr(values["path"][:200]) + ("..." if len(values["path"]) > 200 else "")
            problems.append(Problem(where, f"path {shown}", "an image file", f"looked in {base}"))
            continue
        scans.append(_scan(values, values["subject"], session, str(file), where, problems))
    return _without_duplicates(scans, str(path), problems), problems


def read(path: str | os.PathLike[str]) -> list[Scan]:
    """Read a manifest that `write` wrote, exactly.

    Raises:
      InputError: the file is missing, or its columns or a value are not those that `write` gives.
    """
    header, rows = _table(Path(path))
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}: found columns {header}; expected {list(COLUMNS)}")
    scans = []
    for line, row in rows:
        try:
            scans.append(Scan(**{c: row[c] for c in COLUMNS if c != "age"}, age=_from_missing(row["age"])))
        except ValueError as e:
            raise InputError(f"{path} line {line}: found age '{row['age']}'; expected years or {MISSING}") from e
    return scans


def write(path: str | os.PathLike[str], scans: Iterable[Scan]) -> None:
    """Write a manifest as CSV with the columns of `Scan`; ages in years, shortest exact decimal."""
    rows = (asdict(s) | {"age": MISSING if math.isnan(s.age) else repr(float(s.age))} for s in scans)
    _write_rows(path, COLUMNS, rows)


def write_problems(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Write problems as CSV with the columns of `Problem`."""
    _write_rows(path, PROBLEM_COLUMNS, (asdict(p) for p in problems))


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Read problems that `write_problems` wrote."""
    _, rows = _table(Path(path))
    return [Problem(r["where"], r["found"], r["expected"], r["hint"], r["dropped"] == "True") for _, r in rows]


def drop_shared_images(scans: Iterable[Scan]) -> tuple[list[Scan], list[Problem]]:
    """Leave out every scan whose image also stands under another subject or session.

    Nobody can tell whose image it is, so none of them is kept.
    """
    scans = list(scans)
    by_hash: dict[str, list[Scan]] = {}
    for scan in scans:
        by_hash.setdefault(scan.content_hash, []).append(scan)
    problems = [
        Problem(
            scan.path,
            f"the image of {scan.name}, the same image as {', '.join(o.name for o in group if o is not scan)}",
            "an image of its own for every subject and session",
            "find out whose it is, remove the others",
        )
        for content_hash, group in by_hash.items()
        if content_hash and len(group) > 1
        for scan in group
    ]
    bad = {p.where for p in problems}
    return [s for s in scans if s.path not in bad], problems


def rename(scans: Iterable[Scan], prefix: str) -> list[Scan]:
    """Return the scans with `prefix` before every subject, to tell two studies' `sub-001` apart."""
    return [replace(s, subject=prefix + s.subject) for s in scans]


def _participants(path: Path, problems: list[Problem]) -> tuple[dict[str, dict[str, str]], set[str]]:
    """Return subject to row, and the subjects that have more than one."""
    header, rows = _table(path, problems)
    if "participant_id" not in header:
        raise InputError(f"{path}: found columns {header}; expected participant_id")
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
            result[subject] = row
    return result, {subject for subject, n in count.items() if n > 1}


def _sessions(root: Path, problems: list[Problem]) -> dict[tuple[str, str], dict[str, str]]:
    result: dict[tuple[str, str], dict[str, str]] = {}
    for path in [root / "sessions.tsv", *sorted(root.glob("sub-*/sub-*_sessions.tsv"))]:
        if not path.is_file():
            continue
        try:
            header, rows = _table(path, problems)
        except InputError as e:
            problems.append(Problem(str(path), str(e), "a table of sessions"))
            continue
        need = {"session_id"} | ({"participant_id"} if path.parent == root else set())
        if not need <= set(header):
            problems.append(Problem(str(path), f"columns {header}", f"{sorted(need)} among them"))
            continue
        for line, row in rows:
            key = (row["participant_id"] if path.parent == root else path.parent.name, row["session_id"])
            if key in result:
                problems.append(
                    Problem(f"{path} line {line}", f"{key[1]} again", "one row a session", "the first was kept", False)
                )
                continue
            result[key] = {k: v for k, v in row.items() if not _is_missing(v)}
    return result


def _without_duplicates(scans: list[Scan], where: str, problems: list[Problem]) -> list[Scan]:
    count = Counter(s.key for s in scans)
    for scan in scans:
        if count[scan.key] > 1:
            problems.append(
                Problem(
                    f"{where} {scan.path}",
                    f"{scan.name} in {count[scan.key]} rows",
                    "one row a subject and session",
                    "remove the wrong ones; all left out",
                )
            )
    return [s for s in scans if count[s.key] == 1]


def _scan(row: Mapping[str, str], subject: str, session: str, path: str, where: str, problems: list[Problem]) -> Scan:
    def get(name: str) -> str:
        value = " ".join((row.get(name) or "").split())  # a line break in a label would end a row of ours
        return MISSING if _is_missing(value) else value

    age = get("age")
    try:
        years = _from_missing(age)
        if not (math.isnan(years) or 0 <= years <= 120):
            raise ValueError
    except ValueError:
        years = math.nan
        problems.append(
            Problem(where, f"age '{age}'", "years between 0 and 120, or n/a", "kept with age missing", dropped=False)
        )
    sex = get("sex")
    if sex != MISSING and sex.lower() not in _SEX_WORDS:
        problems.append(Problem(where, f"sex '{sex}'", "F, M or n/a", "kept with sex missing", dropped=False))
    return Scan(
        subject=subject,
        session=session,
        site=get("site"),
        age=years,
        sex=_SEX_WORDS.get(sex.lower(), MISSING),
        diagnosis=get("diagnosis"),
        path=path,
        label=get("label"),
    )


def _table(path: Path, problems: list[Problem] | None = None) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and (line number, row) of a CSV or TSV; every row has every column.

    With `problems` the table is a person's: cells are stripped, our own column names are known in any case, and a row
    of another length becomes a problem. Without, it is ours, and every such thing raises.
    """
    # BIDS knows no quotes in a TSV: an unbalanced one must not swallow the rows that follow.
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if path.suffix == ".tsv" else {"strict": True}
    errors = "surrogateescape" if problems is None else "strict"  # ours may hold file names that are not UTF-8
    try:
        with open(path, newline="", encoding="utf-8-sig", errors=errors) as f:
            lines = csv.reader(f, **how)
            header = next(lines, [])
            if problems is not None:
                header = [_known_name(c.strip()) for c in header]
            rows = []
            for cells in lines:
                if not any(c.strip() for c in cells):
                    continue
                if len(cells) != len(header):
                    problem = Problem(f"{path} line {lines.line_num}", f"{len(cells)} columns", f"{len(header)}")
                    if problems is None:
                        raise InputError(str(problem))
                    problems.append(problem)
                    continue
                if problems is not None:
                    cells = [c.strip() for c in cells]
                rows.append((lines.line_num, dict(zip(header, cells, strict=True))))
    except FileNotFoundError as e:
        raise InputError(f"{path}: no such file; expected a table with one row a scan or subject") from e
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); expected UTF-8 CSV or TSV") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{path}: not a text table ({e}); expected UTF-8 CSV or TSV") from e
    if not header:
        raise InputError(f"{path}: the table is empty; expected a header line")
    if repeated := [c for c, n in Counter(header).items() if n > 1]:
        raise InputError(f"{path}: found columns {repeated} more than once; expected each once")
    return header, rows


def _known_name(column: str) -> str:
    return column.lower() if column.lower() in _KNOWN else column


def _write_rows(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as f:
        writer = csv.DictWriter(f, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _is_missing(value: str) -> bool:
    return value.strip().lower() in _MISSING_WORDS


def _from_missing(value: str) -> float:
    return math.nan if _is_missing(value) else float(value)
