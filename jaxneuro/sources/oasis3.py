"""OASIS-3: `OAS30001_MR_d0129/anat2/[NIFTI/]sub-OAS30001_ses-d0129_run-01_T1w.nii.gz` and OASIS3_UDSb4_cdr.csv."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Problem, from_missing, is_missing, read_table
from jaxneuro.sources import options, tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, Visits, later, table_of
from jaxneuro.sources.rows import Image, missing, no_columns, no_row, scans_of

MARKS = "folders such as OAS30001_MR_d0129"
#: dx1, the clinician's first diagnosis in words, where it is no more than one of ours. "AD dem w/depresss- contribut"
#: and the like say more, "uncertain dementia" less; they stay as the study writes them.
DIAGNOSES = {"Cognitively normal": "CN", "No dementia": "CN", "AD Dementia": "AD", "DAT": "AD"}
#: Columns of the clinical table: of the form B4 first, then of the older ADRC Clinical Data.
COLUMNS = {
    "subject": ("OASISID", "Subject"),
    "days": ("days_to_visit",),
    "visit": ("ADRC_ADRCCLINICALDATA ID",),
    "cdr": ("CDRTOT", "cdr"),
    "diagnosis": ("dx1",),
    "age_at_visit": ("age at visit",),
    "age_at_entry": ("AgeatEntry", "ageAtEntry"),
    "sex": ("GENDER", "M/F"),
    "site": (),
}
#: Codes of GENDER.
SEXES = {"1": "M", "2": "F"}
CLINICAL, DEMOGRAPHICS = "OASIS3_UDSb4_cdr.csv", "OASIS3_demographics.csv"
_SESSION = re.compile(r"(OAS3\d{4})_MR_(d\d+)")
_T1W = re.compile(r"_T1w" + tree.NIFTI)
_NAME = re.compile(r"sub-(OAS3\d{4})_ses[s]?-(d\d+)_")


def looks_like(path: Path) -> bool:
    """Whether a folder has OASIS-3's sessions in it."""
    return tree.any_name(path, _SESSION.pattern)


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    days: int = 365,
    demographics: str | None = None,
) -> Source:
    """Read the T1-weighted images of OASIS-3 with the diagnosis of the visit nearest in time.

    CDR and dx1 must agree: CDR 0 with "Cognitively normal" (or nothing) is CN, CDR above 0 with "AD Dementia" is AD;
    other words stay as they are; contradictions, and a CDR above 0 alone, leave the diagnosis missing.

    Args:
      root: the folder of sessions.
      table: OASIS3_UDSb4_cdr.csv, the older ADRC Clinical Data, or the folder OASIS3_data_files with the former in it;
        by default what lies in `root`.
      columns: what the tables hold to its column, of `COLUMNS`.
      days: a visit further from the scan than this gives no diagnosis.
      demographics: table of ages at entry and sexes; by default OASIS3_demographics.csv beside the other one.

    Raises:
      InputError: the folder or a table cannot be read, or an option has no such value.
    """
    options.days("days", days)
    problems: list[Problem] = []
    clinical, people_file = _tables(root, table, demographics)
    own, theirs = _shared(columns or {}, clinical, people_file)
    first = Table(clinical, COLUMNS, ("subject", "cdr", "diagnosis"), own, problems)
    visits, rows = _visits(first, problems)
    there = set(first.columns)
    if people_file is not None:
        second = Table(people_file, COLUMNS, ("subject", "age_at_entry"), theirs, problems)
        there |= set(second.columns)
        people = second.by("subject", problems)
        rows = {subject: rows.get(subject, {}) | people.get(subject, {}) for subject in {*rows, *people}}
    no_age = [] if there & {"age_at_entry", "age_at_visit"} else ["age_at_entry"]
    no_columns(clinical, [*no_age, *({"sex"} - there)], first.header, problems)

    def describe(image: Image, where: str) -> dict[str, str] | None:
        row = rows.get(image.subject)
        if row is None:
            no_row(where, image.subject, clinical, problems)
            return None
        day = int(image.session[1:])
        known = visits.get(image.subject)
        visit = known.nearest(day, days) if known else None
        if visit is None:
            missing(
                where, f"no clinical visit within {days} days", "one about the day of the scan", "diagnosis", problems
            )
        if not is_missing(row.get("age_at_entry", "")):
            age = later(row["age_at_entry"], day)
        else:
            age = later(visit[1].get("age_at_visit", MISSING), day - visit[0]) if visit else MISSING
        return {
            "age": age,
            "sex": SEXES.get(row.get("sex", ""), row.get("sex", "")),
            "site": row.get("site", ""),
            "diagnosis": _diagnosis(visit[1], where, problems) if visit else MISSING,
        }

    return Source(
        name="OASIS-3",
        scans=scans_of(_images(root, problems), describe, root, problems),
        problems=problems,
        rule=f"one T1w image a session; CDR and dx1 are those of the visit nearest in time, within {days} days, and "
        "must agree: CDR 0 is CN, AD Dementia with CDR above 0 is AD",
        synthetic=False,
    )


def _tables(root: Path, table: Path | None, demographics: str | None) -> tuple[Path, Path | None]:
    if table is not None and table.is_dir():
        clinical, people = (next(iter(sorted(table.rglob(name))), None) for name in (CLINICAL, DEMOGRAPHICS))
        if clinical is None:
            raise InputError(f"{table}: found no {CLINICAL} in it; expected it; name yours: --table FILE")
    else:
        clinical = table_of(root, table, (CLINICAL,))
        beside = clinical.parent / DEMOGRAPHICS
        people = beside if beside.is_file() else None
    return clinical, Path(demographics) if demographics else people


def _shared(columns: Mapping[str, str], clinical: Path, people: Path | None) -> tuple[dict[str, str], dict[str, str]]:
    """Share the given columns out to the two tables; those that neither has stay with the first, which refuses them."""

    def of(file: Path | None) -> dict[str, str]:
        there = {c.lower() for c in read_table(file, [])[0]} if file is not None and columns else set()
        return {role: name for role, name in columns.items() if name.strip().lower() in there}

    own, theirs = of(clinical), of(people)
    return {role: name for role, name in columns.items() if role in own or role not in theirs}, theirs


def _visits(clinical: Table, problems: list[Problem]) -> tuple[dict[str, Visits], dict[str, dict[str, str]]]:
    """Return the dated visits of each person, and the first row of each."""
    if not {"days", "visit"} & set(clinical.columns):
        raise InputError(
            f"{clinical.path}: found no column of days; expected days_to_visit; name yours with --columns days=NAME"
        )
    dated: dict[str, list[tuple[int, dict[str, str]]]] = {}
    first: dict[str, dict[str, str]] = {}
    for line, row in clinical.rows:
        day = re.fullmatch(r"(?:.*_d)?(-?\d+)", row.get("days") or row.get("visit", ""))
        if day is None:
            problems.append(
                Problem(f"{clinical.path} line {line}", f"days '{row.get('days', '')}'", "days from entry, such as 129")
            )
            continue
        first.setdefault(row["subject"], row)
        if not (is_missing(row["cdr"]) and is_missing(row["diagnosis"])):
            dated.setdefault(row["subject"], []).append((int(day[1]), row))
    return {subject: Visits(rows) for subject, rows in dated.items()}, first


def _images(root: Path, problems: list[Problem]) -> list[Image]:
    found = []
    for path in tree.images(root, _T1W, problems):
        folders = (_SESSION.fullmatch(part) for part in reversed(path.absolute().parts[:-1]))
        session = next((m for m in folders if m), None) or _NAME.match(path.name)
        if session is None:
            problems.append(
                Problem(
                    str(path.relative_to(root)), "an image in another place", "OAS30001_MR_d0129/anat2/*_T1w.nii.gz"
                )
            )
        else:
            found.append(Image(session[1], session[2], path, _rank(path.name)))
    return found


def _rank(name: str) -> tuple[bool, int]:
    """Prefer plain images to those of a named acquisition (acq-TSE), then the lowest run."""
    run = re.search(r"_run-(\d+)_", name)
    return "_acq-" in name, int(run[1]) if run else 0


def _diagnosis(visit: Mapping[str, str], where: str, problems: list[Problem]) -> str:
    words = "" if is_missing(visit["diagnosis"]) else visit["diagnosis"]
    label = DIAGNOSES.get(words, words)
    try:
        cdr = from_missing(visit["cdr"])
    except ValueError:
        cdr = -1.0
    agree = cdr >= 0 and {"CN": cdr == 0, "AD": cdr > 0, "": cdr == 0}.get(label, not label.isdecimal())
    if agree:
        return label or "CN"
    expected = "CDR 0 with Cognitively normal, or above 0 with a diagnosis"
    missing(where, f"CDR '{visit['cdr']}' with dx1 '{words}'", expected, "diagnosis", problems)
    return MISSING
