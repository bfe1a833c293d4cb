"""The table of scans, one row a scan, and the problems found on the way to it: what they hold, read and written."""

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


@dataclass(frozen=True, slots=True)
class Scan:
    """One scan of one subject.

    Attributes:
      subject, session: identifiers; `session` is "" where a study has one scan a subject.
      site: acquisition site or scanner.
      age: age at the scan in years; NaN when unknown.
      sex: "F", "M" or "n/a".
      diagnosis: label as the study writes it, or "n/a".
      path: the image file; of a part of a video with a media fragment, `file.mp4#t=10,20` (seconds).
      content_hash: SHA-256 of the voxel values in RAS+ order (`jaxneuro.prepare.volumes.content_hash`), of a video
        that of its file; "" until the image has been read.
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


def without_view(session: str) -> str:
    """Return a session without the `view-NN` at its end that tells views of one video apart."""
    return re.sub(r"(^|_)view-\d+$", "", session)


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


def read(path: str | os.PathLike[str]) -> list[Scan]:
    """Read a manifest that `write` wrote, exactly.

    Raises:
      InputError: the file is missing, or its columns or a value are not those that `write` gives.
    """
    header, rows = read_table(Path(path))
    if tuple(header) != COLUMNS:
        raise InputError(f"{path}: found columns {header}; expected {list(COLUMNS)}")
    scans = []
    for line, row in rows:
        try:
            scans.append(Scan(**{c: row[c] for c in COLUMNS if c != "age"}, age=from_missing(row["age"])))
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
    _, rows = read_table(Path(path))
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


def person(subject: str) -> str:
    """Return a subject's identifier without what spreadsheets and BIDS do to it: `sub-001`, `1.0` and `1` are one."""
    plain = subject.casefold().removeprefix("sub-")
    return re.sub(r"^(\d+)\.0+$", r"\1", plain).lstrip("0") or "0"


def check_spellings(scans: Iterable[Scan], where: str) -> None:
    """Refuse one person under two spellings, such as `1` and `sub-001`, who could end in two folds.

    Args:
      scans: the manifest.
      where: names it in the message.

    Raises:
      InputError: names both spellings (of the first such person, and how many there are).
    """
    spellings: dict[str, set[str]] = {}
    for scan in scans:
        spellings.setdefault(person(scan.subject), set()).add(scan.subject)
    if several := [sorted(names) for _, names in sorted(spellings.items()) if len(names) > 1]:
        first, second, *_ = several[0]
        more = f" (and {len(several) - 1} more such people)" if len(several) > 1 else ""
        raise InputError(
            f"{where}: found subjects '{first}' and '{second}'{more}; expected one spelling of one person; write it "
            "alike everywhere, or give different people names that differ in more than case, sub-, leading zeros and .0"
        )


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return what sorts names so that numbers in them count as numbers (m6 before m12)."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]


def rename(scans: Iterable[Scan], prefix: str) -> list[Scan]:
    """Return the scans with `prefix` before every subject, to tell two studies' `sub-001` apart.

    Raises:
      InputError: the prefix has a comma or what cannot be printed, or tells nobody apart (`sub-`, `0`).
    """
    if not prefix.isprintable() or "," in prefix or (prefix and person(prefix + "1") == person("1")):
        raise InputError(
            f"--subject-prefix: found {prefix!r}; expected letters, digits and signs such as ldm-, but no comma, and "
            "more than sub- or zeros"
        )
    return [replace(s, subject=prefix + s.subject) for s in scans]


def read_table(path: Path, problems: list[Problem] | None = None) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and (line number, row) of a CSV or TSV; every row has every column.

    With `problems` the table is a person's: cells are stripped (in a TSV of the quotes that R writes around them, too),
    our own column names are known in any case, and a row of another length, or one that holds others between two
    quotes, becomes a problem. Without, it is ours, and every such thing raises.
    """
    # BIDS knows no quotes in a TSV: an unbalanced one must not swallow the rows that follow.
    tabs = path.suffix == ".tsv"
    how: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    errors = "surrogateescape" if problems is None else "strict"  # ours may hold file names that are not UTF-8
    try:
        with open(path, newline="", encoding="utf-8-sig", errors=errors) as f:
            lines = csv.reader(f, **how)
            header = next(lines, [])
            if problems is not None:
                header = [known_name(_unquoted(c.strip()) if tabs else c.strip()) for c in header]
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
                    if any(_swallows_rows(c, len(header)) for c in cells):
                        problems.append(
                            Problem(
                                f"{path} line {lines.line_num}",
                                "a cell with a line break and whole rows in it",
                                "a line a row",
                                "look for a quote too many in the lines before; these rows are left out",
                            )
                        )
                        continue
                    cells = [_unquoted(c.strip()) if tabs else c.strip() for c in cells]
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


def _swallows_rows(cell: str, columns: int) -> bool:
    """Whether a cell runs from a stray quote in one row to a stray one in another: then it has all commas of a row."""
    return bool({"\r", "\n"} & set(cell)) and cell.count(",") >= columns - 1


def _unquoted(cell: str) -> str:
    return cell[1:-1].strip() if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell


def known_name(column: str) -> str:
    """Return a column's name as ours where it is one of ours in another case."""
    return column.lower() if column.lower() in _KNOWN else column


def _write_rows(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as f:
        writer = csv.DictWriter(f, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def is_missing(value: str) -> bool:
    """Whether a cell says that nothing is known."""
    return value.strip().lower() in _MISSING_WORDS


def from_missing(value: str) -> float:
    """Return a cell's number, NaN where nothing is known."""
    if "_" in value:  # which Python takes for a number's own
        raise ValueError(f"{value!r} is no number")
    return math.nan if is_missing(value) else float(value)
