"""ADNI: folders of the LONI archive, `002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I45108/*.nii`, and ADNIMERGE.csv."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.manifest import MISSING, Problem, is_missing
from jaxneuro.sources import loni, options, tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, Visits, date_of, diagnosis_of, label_of, later, table_of
from jaxneuro.sources.rows import Image, missing, no_row, of_kind, scans_of

MARKS = "folders such as 002_S_0295, or a folder ADNI of them"
#: DX of ADNIMERGE, and its older form, which told changes since the last visit: the visit's own diagnosis counts.
#: ADNI's dementia is Alzheimer's by its criteria of inclusion.
DIAGNOSES = {
    "CN": "CN",
    "NL": "CN",
    "MCI": "MCI",
    "Dementia": "AD",
    "AD": "AD",
    "NL to MCI": "MCI",
    "NL to Dementia": "AD",
    "MCI to NL": "CN",
    "MCI to Dementia": "AD",
    "Dementia to MCI": "MCI",
    "Dementia to NL": "CN",
}
#: What ADNIMERGE's columns hold. AGE is that of the baseline, in every row.
COLUMNS = {
    "subject": ("PTID",),
    "visit": ("VISCODE",),
    "date": ("EXAMDATE",),
    "age": ("AGE",),
    "sex": ("PTGENDER",),
    "site": ("SITE",),
    "diagnosis": ("DX",),
}
#: Names of T1-weighted sequences, as the scanners' makers and ADNI's own processing (MPR, MT1) write them.
SEQUENCE = r"MP[-_ ]?RAGE|MPR|MT1|SPGR"
_SUBJECT = re.compile(r"\d{3}_S_\d{4,5}")
_REPEATED = re.compile(r"repeat|MPR-R", re.IGNORECASE)
_FASTER = re.compile(r"accel|grappa|sense", re.IGNORECASE)


def looks_like(path: Path) -> bool:
    """Whether a folder has ADNI's subjects in it, or in its folder ADNI."""
    return any(tree.any_name(folder, _SUBJECT.pattern) for folder in (path, path / "ADNI"))


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    days: int = 180,
    converters: str = "drop",
    image: str | None = None,
    sequence: str = SEQUENCE,
) -> Source:
    """Read the T1-weighted images of ADNI with the diagnosis of the visit nearest in time.

    A scan's age is the age at baseline and the days since. A session is called by its day.

    Args:
      root: the folder of subjects, or the one above it.
      table: ADNIMERGE.csv; by default the one in `root`.
      columns: what the table holds to its column, of `COLUMNS`.
      days: a visit further from the scan than this gives no diagnosis.
      converters: "drop" leaves out scans of CN of people who are AD at a later visit, "keep" keeps them. Their brains
        may have changed years before the diagnosis: as controls they would be label noise.
      image: "n3", the images that ADNI has corrected for bias, or "raw", the others; by default those that most
        sessions have, for everyone. "any" mixes both, N3 first.
      sequence: regular expression that finds the names of T1-weighted sequences.

    Raises:
      InputError: the folder or table cannot be read, or an option has no such value.
    """
    options.days("days", days)
    options.choice("converters", converters, ("drop", "keep"))
    if image is not None:
        options.choice("image", image, ("any", "n3", "raw"))
    problems: list[Problem] = []
    merge = Table(
        table_of(root, table, ("ADNIMERGE.csv",)), COLUMNS, ("subject", "visit", "date", "diagnosis"), columns, problems
    )
    merge.refuse_day_first("date")
    merge.tell_columns(("age", "sex", "site"), problems)
    people = _people(merge, problems)
    of = {s.path: s for s in loni.series(root, _SUBJECT, options.pattern("sequence", sequence), problems)}
    found = [Image(s.subject, s.session, s.path, _rank(s), _kind(s.sequence)) for s in of.values()]
    if image != "any":
        found = of_kind(found, ("n3", "raw"), image, problems)

    def describe(image: Image, where: str) -> dict[str, str] | None:
        if image.subject not in people:
            no_row(where, f"PTID {image.subject}", merge.path, problems)
            return None
        return people[image.subject].at(of[image.path].day.toordinal(), days, converters == "keep", where, problems)

    scans = scans_of(found, describe, root, problems)
    kinds = sorted({_kind(of[Path(s.path)].sequence) for s in scans})
    later_ad = "" if converters == "keep" else "; scans of CN of people who are AD later are left out"
    return Source(
        name="ADNI",
        scans=scans,
        problems=problems,
        rule=f"one T1-weighted scan a day ({' or '.join(kinds)}); the diagnosis is that of the visit nearest in time, "
        f"within {days} days{later_ad}",
        already=frozenset({"bias"} if kinds == ["n3"] else ()),
        synthetic=False,
    )


def _kind(sequence: str) -> str:
    return "n3" if "N3" in sequence else "raw"


def _rank(s: loni.Series) -> tuple[bool, bool, bool, int, str]:
    """Prefer ADNI's bias correction, the first of two acquisitions, the slower one, the latest processing."""
    corrected, number = _kind(s.sequence) == "n3", int(s.number) if s.number.isdecimal() else 0
    return (
        not corrected,
        bool(_REPEATED.search(s.sequence)),
        bool(_FASTER.search(s.sequence)),
        -number if corrected else number,
        s.number,
    )


class _Person:
    """The visits of one person."""

    def __init__(self, rows: list[tuple[int, dict[str, str]]], undated_ad: bool) -> None:
        self.undated_ad = undated_ad
        self.baseline = next(((d, r) for d, r in rows if r["visit"].lower() == "bl"), None)
        self.visits = Visits((d, r) for d, r in rows if not is_missing(r["diagnosis"]))
        self.row = rows[0][1]
        self.last_ad = max((d for d, r in rows if _is_ad(r)), default=-1)

    def at(self, day: int, within: int, keep: bool, where: str, problems: list[Problem]) -> dict[str, str] | None:
        """Return the row of a scan on a day, or None for one that is left out."""
        visit, diagnosis, age = self.visits.nearest(day, within), MISSING, MISSING
        if visit is None:
            missing(
                where, f"no diagnosis within {within} days", "a visit about the day of the scan", "diagnosis", problems
            )
        else:
            diagnosis = diagnosis_of(visit[1]["diagnosis"], DIAGNOSES, where, problems)
        if diagnosis == "CN" and (self.last_ad > day or self.undated_ad) and not keep:
            when = "a later visit" if self.last_ad > day else "a visit without a day"
            problems.append(
                Problem(where, f"CN, and AD at {when}", "controls who stay so", "--option converters=keep keeps it")
            )
            return None
        if self.baseline is None:
            missing(where, "no dated row with VISCODE bl", "the day that AGE is of", "age", problems)
        else:
            age = later(self.baseline[1].get("age", MISSING), day - self.baseline[0])
        person = self.baseline[1] if self.baseline else self.row
        return {
            "age": age,
            "sex": person.get("sex", MISSING),
            "site": person.get("site", MISSING),
            "diagnosis": diagnosis,
        }


def _is_ad(row: Mapping[str, str]) -> bool:
    return label_of(row["diagnosis"], DIAGNOSES) == "AD"


def _tell_codes(merge: Table, problems: list[Problem]) -> None:
    """Tell, once each, of diagnoses that are not known: such a visit makes nobody AD later."""
    count = Counter(r["diagnosis"] for _, r in merge.rows if label_of(r["diagnosis"], DIAGNOSES) is None)
    for code, n in count.items():
        if not is_missing(code):
            found = f"diagnosis '{code}' in {n} {'row' if n == 1 else 'rows'}"
            problems.append(
                Problem(str(merge.path), found, f"one of {', '.join(DIAGNOSES)}", "counts as none", dropped=False)
            )


def _people(merge: Table, problems: list[Problem]) -> dict[str, _Person]:
    _tell_codes(merge, problems)
    rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
    undated_ad = set()
    for line, row in merge.rows:
        day = date_of(row["date"])
        if day is None:
            problems.append(Problem(f"{merge.path} line {line}", f"date '{row['date']}'", "a day such as 2006-05-01"))
            if _is_ad(row):
                undated_ad.add(row["subject"])
        else:
            rows.setdefault(row["subject"], []).append((day.toordinal(), row))
    return {subject: _Person(theirs, subject in undated_ad) for subject, theirs in rows.items()}
