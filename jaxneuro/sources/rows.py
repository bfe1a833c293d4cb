"""From a row of a person's table to a scan: ages, sexes and labels as people write them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.manifest import MISSING, Problem, Scan, from_missing, is_missing

_SEX_WORDS = {"m": "M", "male": "M", "f": "F", "female": "F"}


def scan_of_row(
    row: Mapping[str, str], subject: str, session: str, path: str, where: str, problems: list[Problem]
) -> Scan:
    """Return the scan that a row describes.

    Args:
      row: cells by our column names; those that are absent are missing.
      subject, session, path: of the scan.
      where: names the row in problems.
      problems: grows by what is wrong with a value; the scan is kept with it missing.
    """

    def get(name: str) -> str:
        value = " ".join((row.get(name) or "").split())  # a line break in a label would end a row of ours
        return MISSING if is_missing(value) else value

    age = get("age")
    try:
        years = from_missing(age)
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


def is_file(path: Path) -> bool:
    """Whether a path that a table names is a file."""
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False
