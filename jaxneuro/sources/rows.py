"""From a row of a person's table and the image beside it to a scan: ages, sexes and labels as people write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxneuro.manifest import MISSING, Problem, Scan, from_missing, is_missing
from jaxneuro.sources.options import choice

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
        missing(where, f"age '{age}'", "years between 0 and 120, or n/a", "age", problems)
    sex = get("sex")
    if sex != MISSING and sex.lower() not in _SEX_WORDS:
        missing(where, f"sex '{sex}'", "F, M or n/a", "sex", problems)
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


def no_row(where: str, who: str, table: Path, problems: list[Problem], *, several: bool = False) -> None:
    """Tell of an image that is left out, for its table has no row for it, or several, of which one must be wrong."""
    found, hint = ("several rows", "remove the wrong one") if several else ("no row", "add the row")
    problems.append(Problem(where, f"an image with {found}", f"{who} in {table}", hint))


def no_columns(table: Path, roles: Sequence[str], header: Sequence[str], problems: list[Problem]) -> None:
    """Tell, in one problem, of what no column of a table holds, if anything."""
    if roles:
        problems.append(
            Problem(
                str(table),
                f"no column of {', '.join(roles)} among {shown(header)}",
                "one each",
                f"name yours with --columns {roles[0]}=NAME; kept with {', '.join(roles)} missing",
                dropped=False,
            )
        )


def shown(header: Sequence[str]) -> str:
    """Return a table's columns, the first twelve of many, for messages."""
    return f"{list(header[:12])}" + (f" and {len(header) - 12} more" if len(header) > 12 else "")


def missing(where: str, found: str, expected: str, what: str, problems: list[Problem]) -> None:
    """Tell of a scan that is kept with a value missing."""
    problems.append(Problem(where, found, expected, f"kept with {what} missing", dropped=False))


def is_file(path: Path) -> bool:
    """Whether a path that a table names is a file."""
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


@dataclass(frozen=True, slots=True)
class Image:
    """An image that a reader found.

    Attributes:
      subject, session: whose it is; sessions sort in time.
      path: the file.
      rank: of several images of one session, the one of the smallest rank is kept, then of the smallest path.
      kind: which of a study's kinds of image it is, where there are several.
    """

    subject: str
    session: str
    path: Path
    rank: tuple[Any, ...] = ()
    kind: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Return (subject, session)."""
        return self.subject, self.session


def scans_of(
    images: Iterable[Image],
    describe: Callable[[Image, str], Mapping[str, str] | None],
    root: Path,
    problems: list[Problem],
) -> list[Scan]:
    """Return one scan a session, in the order of subject and session.

    Args:
      images: what was found under `root`.
      describe: from an image and the words that name it in problems to its row, by our column names; None leaves it
        out, for a reason that it tells itself.
      root: the study's folder.
      problems: grows by images that are not kept, and by values that are wrong.
    """
    kept: dict[tuple[str, str], Image] = {}
    scans = []
    for image in sorted(images, key=lambda i: (i.key, i.rank, str(i.path))):
        where = str(image.path.relative_to(root))
        if odd := [name for name in image.key if not name.isprintable()]:
            problems.append(Problem(where, f"the name {odd[0]!r}", "letters, digits and signs", "rename it"))
            continue
        if image.key in kept:
            hint = f"{kept[image.key].path.relative_to(root)} was kept"
            problems.append(Problem(where, "a second T1w image of one session", "one a session", hint))
            continue
        row = describe(image, where)
        if row is not None:
            kept[image.key] = image
            scans.append(scan_of_row(row, image.subject, image.session, str(image.path), where, problems))
    return scans


def of_kind(images: Sequence[Image], order: Sequence[str], wanted: str | None, problems: list[Problem]) -> list[Image]:
    """Return the images of one kind, for all of a dataset must have been through the same.

    Args:
      images: of all kinds.
      order: the kinds; the one that most sessions have is taken, the first of equals.
      wanted: the kind to take in its place.
      problems: grows by the sessions that have images of other kinds only.
    """
    if wanted is not None:
        choice("image", wanted, order)
    kinds: dict[tuple[str, str], set[str]] = {}
    for image in images:
        kinds.setdefault(image.key, set()).add(image.kind)
    kind = wanted or max(order, key=lambda k: sum(k in of for of in kinds.values()))  # max gives the first of equals
    for key, of in sorted(kinds.items()):
        if kind not in of:
            other = next(k for k in order if k in of)
            problems.append(
                Problem(
                    " ".join(key).strip(),
                    f"no image '{kind}', only '{other}'",
                    "the same kind of image of everyone",
                    f"--option image={other} takes that of everyone",
                )
            )
    return [i for i in images if i.kind == kind]
