"""A study's tables, asked: columns by what they hold, the visit nearest in time, dates, ages some days on, codes."""

from __future__ import annotations

import bisect
import datetime
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Problem, from_missing, is_missing, read_table
from jaxneuro.sources.rows import is_file, missing, no_columns, shown


class Table:
    """A study's table, its columns known by what they hold.

    Attributes:
      path: the file.
      header: the names of all its columns.
      columns: of those that were asked for, the ones that the table has: role to the table's name.
      rows: (line number, row by role) of every row; absent columns are absent.
      repeated: values that `by` left out, for they stand in more than one row.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, Sequence[str]],
        needed: Sequence[str],
        given: Mapping[str, str] | None,
        problems: list[Problem],
    ) -> None:
        """Read a table.

        Args:
          path: the file.
          columns: role to the names that the study gives it, in any case; the first that is there is taken.
          needed: roles that must be there.
          given: role to the name to take in their place, as `--columns` says.
          problems: grows by rows that are not as long as the header.

        Raises:
          InputError: the table cannot be read, or lacks a column that is needed or given.
        """
        header, rows = read_table(path, problems)
        there = {c.lower(): c for c in reversed(header)}
        given = given or {}
        if strange := sorted(set(given) - set(columns)):
            raise InputError(f"--columns: found {strange}; expected names among {list(columns)}")
        self.path, self.header = path, header
        self.columns = {}
        for role, known in columns.items():
            names = [given[role].strip()] if role in given else known
            found = [there[n.lower()] for n in names if n.lower() in there]
            if found:
                self.columns[role] = found[0]
            elif role in needed or role in given:
                raise InputError(
                    f"{path}: found columns {shown(header)}; expected {' or '.join(names) or 'another'} for {role}; "
                    f"name yours with --columns {role}=NAME, or the right table with --table FILE"
                )
        self.repeated: set[str] = set()
        self.rows = [(line, {role: row[c] for role, c in self.columns.items()}) for line, row in rows]

    def by(self, role: str, problems: list[Problem]) -> dict[str, dict[str, str]]:
        """Return one row a value of a column; values that stand in more than one row are told and left out."""
        count = Counter(row[role] for _, row in self.rows)
        for value, n in count.items():
            if n > 1 and not is_missing(value):
                self.repeated.add(value)
                problems.append(
                    Problem(
                        f"{self.path} {value}", f"{n} rows", f"one row a {role}", "remove the wrong one; all left out"
                    )
                )
        return {row[role]: row for _, row in self.rows if count[row[role]] == 1 and not is_missing(row[role])}

    def tell_columns(self, roles: Iterable[str], problems: list[Problem]) -> None:
        """Tell, in one problem, of roles that no column holds."""
        no_columns(self.path, [role for role in roles if role not in self.columns], self.header, problems)

    def refuse_day_first(self, role: str) -> None:
        """Refuse a column of dates of which one can only be day/month/year: the others would be read as month/day.

        Raises:
          InputError: names such a date.
        """
        for line, row in self.rows:
            m = re.fullmatch(r"(\d\d?)/(\d\d?)/\d{4}", row.get(role, ""))
            if m and int(m[1]) > 12:
                raise InputError(
                    f"{self.path} line {line}: found the date {m[0]}; expected month/day/year in {self.columns[role]}; "
                    "write the days of that column as 2006-05-01"
                )

    def tell_absent(self, described: Iterable[str], seen: Iterable[str], problems: list[Problem]) -> None:
        """Tell, in one problem, of rows without an image: of a study where each row should have one."""
        if absent := sorted(set(described) - set(seen)):
            problems.append(
                Problem(str(self.path), f"{len(absent)} rows with no image, such as {absent[0]}", "an image each")
            )


def table_of(root: Path, table: Path | None, names: Sequence[str]) -> Path:
    """Return the table to read: the one given, or the first of the study's names that lies in its folder.

    Raises:
      InputError: there is neither.
    """
    if table is not None:
        return table
    for name in names:
        if is_file(root / name):
            return root / name
    raise InputError(f"{root}: found no table of people; expected {' or '.join(names)} in it; name yours: --table FILE")


class Visits:
    """What is known of one person at each of several days."""

    def __init__(self, rows: Iterable[tuple[int, Mapping[str, str]]]) -> None:
        """Sort (day, row) by day; of one day, the first is asked."""
        self.rows = sorted(rows, key=lambda r: r[0])
        self.days = [day for day, _ in self.rows]

    def nearest(self, day: int, within: int) -> tuple[int, Mapping[str, str]] | None:
        """Return the (day, row) nearest to a day, the earlier of two at one distance; None beyond `within` days."""
        after = bisect.bisect_left(self.days, day)
        around = [self.days[i] for i in (after - 1, after) if 0 <= i < len(self.days)]
        if not around:
            return None
        best = min(around, key=lambda d: (abs(d - day), d))
        return self.rows[bisect.bisect_left(self.days, best)] if abs(best - day) <= within else None


def date_of(text: str) -> datetime.date | None:
    """Return the date of `2006-05-01...`, `5/1/2006`, or `05/2006` (the first of the month); None of anything else."""
    try:
        if m := re.match(r"(\d{4})-(\d\d?)-(\d\d?)(?!\d)", text):
            return datetime.date(int(m[1]), int(m[2]), int(m[3]))
        if m := re.fullmatch(r"(\d\d?)/(?:(\d\d?)/)?(\d{4})", text.strip()):
            return datetime.date(int(m[3]), int(m[1]), int(m[2] or 1))
    except ValueError:  # such as the 30th of February
        pass
    return None


def later(age: str, days: float) -> str:
    """Return an age in years some days on; what is no age stays as it is, for `scan_of_row` to tell."""
    try:
        years = from_missing(age)
    except ValueError:
        return age
    return MISSING if math.isnan(years) else repr(years + days / 365.25)


def label_of(code: str, known: Mapping[str, str]) -> str | None:
    """Return what a code stands for, in any case; None of one that is not known."""
    return known[code] if code in known else {k.lower(): label for k, label in known.items()}.get(code.lower())


def diagnosis_of(code: str, known: Mapping[str, str], where: str, problems: list[Problem]) -> str:
    """Return the diagnosis that a code stands for; of one that is not known, tell, and return that it is missing."""
    if is_missing(code):
        return MISSING
    if (label := label_of(code, known)) is not None:
        return label
    missing(where, f"diagnosis '{code}'", f"one of {', '.join(known)}", "diagnosis", problems)
    return MISSING
