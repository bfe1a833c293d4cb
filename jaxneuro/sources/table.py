"""A CSV or TSV with one row a scan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import COLUMNS, Problem, Scan, is_missing, known_name, read_table, without_view
from jaxneuro.sources.base import Source
from jaxneuro.sources.rows import is_file, no_columns, scan_of_row

MARKS = "a CSV or TSV with one row a scan"


def looks_like(path: Path) -> bool:
    """Whether it is a file at all; `read` says what is wrong with it."""
    return path.is_file()


def read(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    root: Path | None = None,
) -> Source:
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
    columns = {ours: known_name(theirs.strip()) for ours, theirs in (columns or {}).items()}
    if unknown := sorted(set(columns) - set(COLUMNS)):
        raise InputError(f"columns: found {unknown}; expected names among {list(COLUMNS)}")
    problems: list[Problem] = []
    header, rows = read_table(path, problems)
    names = {ours: columns.get(ours, ours) for ours in COLUMNS}
    needed = [names[c] for c in ("subject", "path")] + list(columns.values())
    if absent := sorted({c for c in needed if c not in header}):
        raise InputError(
            f"{path}: found columns {header}; expected {absent} too; name yours with --columns subject=PTID,age=AGE"
        )
    if names["label"] not in header:
        # Where every column is one of ours, named, or that of the folds, nothing was overlooked.
        others = {name for name in header if name.lower() != "split"} - set(names.values())
        absent = [role for role in ("diagnosis", "sex", "age") if names[role] not in header]
        no_columns(path, absent if others else [], header, problems)
    base = root if root is not None else path.parent
    scans: list[Scan] = []
    for line, row in rows:
        where = f"{path} line {line}"
        values = {ours: row[theirs] for ours, theirs in names.items() if theirs in header}
        if is_missing(values["subject"]):
            problems.append(Problem(where, "no subject", "an identifier"))
            continue
        session = "" if is_missing(values.get("session", "")) else values["session"]
        if odd := [c for c in ("subject", "session") if not values.get(c, "").isprintable()]:
            problems.append(Problem(where, f"{odd[0]} {values[odd[0]]!r}", "letters, digits and signs"))
            continue
        if session != without_view(session):
            problems.append(
                Problem(where, f"session '{session}'", "a name without view-NN, which tells views of a video apart")
            )
            continue
        file = base / values["path"]
        if is_missing(values["path"]) or set("\0\r\n") & set(values["path"]) or not is_file(file):
            shown = repr(values["path"][:200]) + ("..." if len(values["path"]) > 200 else "")
            problems.append(Problem(where, f"path {shown}", "an image file", f"looked in {base}"))
            continue
        scans.append(scan_of_row(values, values["subject"], session, str(file), where, problems))
    return Source(
        name=path.stem,
        scans=_without_duplicates(scans, str(path), problems),
        problems=problems,
        rule="every row whose subject and image are there",
    )


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
