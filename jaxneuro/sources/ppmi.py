"""PPMI: folders of the LONI archive, `3102/MPRAGE/2011-05-10_10_28_05.0/I248501/*.nii`, and a table of cohorts.

The table is the CSV that the archive gives out with a collection (a row an image), or one of PPMI's own with a row a
participant (Participant_Status, Screening___Demographics). PPMI's code list is not open to all: the numbers of
cohorts are as published code has them (those from 5 on are not verified), and of sexes only words are understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.manifest import MISSING, Problem, is_missing
from jaxneuro.sources import loni, options, tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, date_of, diagnosis_of, later, table_of
from jaxneuro.sources.rows import Image, missing, no_row, scans_of

MARKS = "a folder PPMI, or folders of participants (such as 3102) with folders of sequences and days in them"
#: COHORT, COHORT_DEFINITION, APPRDX, and Group of the archive's CSV. Without a dopaminergic deficit (SWEDD), at risk
#: (prodromal) and genetic cohorts are neither PD nor controls: they keep names of their own.
DIAGNOSES = {
    "1": "PD",
    "2": "CN",
    "3": "SWEDD",
    "4": "Prodromal",
    "5": "GenCohort PD",
    "6": "GenCohort Unaff",
    "7": "GenRegistry PD",
    "8": "GenRegistry Unaff",
    "PD": "PD",
    "Parkinson's Disease": "PD",
    "HC": "CN",
    "Control": "CN",
    "Healthy Control": "CN",
    "SWEDD": "SWEDD",
    "Prodromal": "Prodromal",
    "GenCohort PD": "GenCohort PD",
    "GenCohort Unaff": "GenCohort Unaff",
    "GenRegistry PD": "GenRegistry PD",
    "GenRegistry Unaff": "GenRegistry Unaff",
}
COLUMNS = {
    "image": ("Image Data ID",),
    "subject": ("Subject", "PATNO"),
    "diagnosis": ("Group", "COHORT_DEFINITION", "COHORT", "APPRDX"),
    "sex": ("Sex", "GENDER"),
    "age": ("Age", "ENROLL_AGE"),
    "date": ("Acq Date", "ENROLL_DATE"),
    "site": ("SITE",),
}
SEQUENCE = r"MP[-_ ]?RAGE|SPGR|(?<![A-Z0-9])T1"
#: T1-weighted, too, but with another contrast (FLAIR, turbo spin echo, after gadolinium) or of thick slices.
UNFIT = (
    r"FLAIR|(?<![A-Z])(?:[TF]SE|2D|GD|GAD[A-Z]*|CONTRAST|POST)(?![A-Z])"
    r"|^(?!.*(?:3D|MP[-_ ]?RAGE|SPGR)).*(?<![A-Z])(?:AX|AXIAL|TRA|COR|CORONAL)(?![A-Z])"
)
#: Of several images of a day, the first of these that is there; else any.
_BEST = (re.compile(r"MP[-_ ]?RAGE", re.IGNORECASE), re.compile("SPGR", re.IGNORECASE))
_REPEATED = re.compile("repeat|rpt", re.IGNORECASE)
_SUBJECT = re.compile(r"\d{3,6}")


def looks_like(path: Path) -> bool:
    """Whether a folder has PPMI's folder in it, or participants with the archive's days two folders down."""
    if "PPMI" in tree.names(path):
        return True
    subject = next((name for name in tree.names(path) if _SUBJECT.fullmatch(name)), None)
    if subject is None:
        return False
    return any(tree.any_name(path / subject / s, r"\d{4}-\d\d-\d\d_.*") for s in tree.names(path / subject))


def read(
    root: Path,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    sequence: str | None = None,
) -> Source:
    """Read the T1-weighted images of PPMI with the participant's cohort as the diagnosis.

    Args:
      root: the folder of participants, or the one above it.
      table: the archive's CSV of the collection, whose ages are those at the scan; or a row a participant, whose age
        becomes that at the scan where the table has the day that it is of, and is missing where not. By default
        Participant_Status.csv in `root`.
      columns: what the table holds to its column, of `COLUMNS`.
      sequence: regular expression that finds the names of the sequences to take; by default `SEQUENCE` without
        `UNFIT`.

    Raises:
      InputError: the folder or table cannot be read, or an option has no such value.
    """
    problems: list[Problem] = []
    file = table_of(root, table, ("Participant_Status.csv",))
    people = Table(file, COLUMNS, ("subject", "diagnosis"), columns, problems)
    people.tell_columns(("sex", "age"), problems)
    an_image = "image" in people.columns
    rows = people.by("image" if an_image else "subject", problems)
    if not an_image:
        people.refuse_day_first("date")
    else:
        rows = {number.removeprefix("I"): row for number, row in rows.items()}
    repeated = {key.removeprefix("I") for key in people.repeated}
    unfit = re.compile(UNFIT, re.IGNORECASE) if sequence is None else None
    found = loni.series(root, _SUBJECT, options.pattern("sequence", sequence or SEQUENCE), problems, unfit)
    of = {s.path: s for s in found}

    def describe(image: Image, where: str) -> dict[str, str] | None:
        series = of[image.path]
        key = series.number if an_image else image.subject
        row = rows.get(key)
        if row is None or row["subject"] != image.subject:
            name = f"image {series.number} of {image.subject}" if an_image else f"participant {image.subject}"
            no_row(where, name, file, problems, several=key in repeated)
            return None
        age = row.get("age", MISSING)
        if not an_image and not is_missing(age):
            day = date_of(row.get("date", ""))
            if day is None:
                missing(where, f"age {age} of day '{row.get('date', '')}'", "its day", "age", problems)
            age = later(age, (series.day - day).days) if day else MISSING
        return {**row, "age": age, "diagnosis": diagnosis_of(row["diagnosis"], DIAGNOSES, where, problems)}

    return Source(
        name="PPMI",
        scans=scans_of((Image(s.subject, s.session, s.path, _rank(s)) for s in found), describe, root, problems),
        problems=problems,
        rule="one T1-weighted scan a day of every participant with a row; PD and healthy controls (CN); SWEDD, "
        "prodromal and genetic cohorts keep names of their own",
        synthetic=False,
    )


def _rank(s: loni.Series) -> tuple[int, bool, int, str]:
    """Prefer MPRAGE, then SPGR, then any other; the first acquisition; the lowest number."""
    best = next((i for i, name in enumerate(_BEST) if name.search(s.sequence)), len(_BEST))
    return best, bool(_REPEATED.search(s.sequence)), int(s.number) if s.number.isdecimal() else 0, s.number
