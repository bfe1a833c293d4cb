"""Folders as the LONI archive (IDA) hands them out: `SUBJECT/SEQUENCE/DATE/IMAGE/*.nii`, for ADNI and PPMI alike."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass
from pathlib import Path

from jaxneuro.manifest import Problem
from jaxneuro.sources import tree
from jaxneuro.sources.lookup import date_of

_IMAGE = re.compile(tree.NIFTI, re.IGNORECASE)
#: In the names of sequences that show no whole head.
_PARTS = re.compile(r"mask|localizer|scout", re.IGNORECASE)


@dataclass(frozen=True)
class Series:
    """One image of the archive: whose, of which sequence, of which day, by which number, where."""

    subject: str
    sequence: str
    day: datetime.date
    number: str
    path: Path

    @property
    def session(self) -> str:
        """Return the day as 2006-05-01, which sorts in time."""
        return self.day.isoformat()


def series(
    root: Path,
    subject: re.Pattern[str],
    sequence: re.Pattern[str],
    problems: list[Problem],
    unfit: re.Pattern[str] | None = None,
) -> list[Series]:
    """Return the images of some sequences.

    Args:
      root: the folder of subjects, or one above it, or a subject's own.
      subject: what names of subjects look like, as a whole.
      sequence: searched in names of sequences.
      problems: grows by images in other places, and, in one problem, by those of other sequences.
      unfit: where it finds something in the name of a sequence, that is another one, too.

    Raises:
      InputError: there is no such folder, or only DICOM.
    """
    found, others = [], []
    for path in tree.images(root, _IMAGE, problems):
        where = str(path.relative_to(root))
        parts = path.absolute().parts[-5:-1]
        day = date_of(parts[2]) if len(parts) == 4 else None
        if day is None or not subject.fullmatch(parts[0]):
            problems.append(
                Problem(where, "an image in another place", "SUBJECT/SEQUENCE/DATE/IMAGE/*.nii", "keep LONI's folders")
            )
        elif not sequence.search(parts[1]) or any(p.search(parts[1]) for p in (_PARTS, unfit) if p):
            others.append((where, parts[1]))
        else:
            # The image's number where the folder or the file says it, else that of the series.
            known = re.fullmatch(r"I(\d+)", parts[3]) or re.search(r"_I(\d+)\.", path.name)
            found.append(Series(parts[0], parts[1], day, known[1] if known else parts[3], path))
    if others:
        kinds = sorted({name for _, name in others})
        shown = ", ".join(kinds[:10]) + (f" and {len(kinds) - 10} more" if len(kinds) > 10 else "")
        problems.append(
            Problem(
                f"{others[0][0]} and such",
                f"{len(others)} images of other sequences ({shown})",
                f"a sequence that fits '{sequence.pattern}'" + (f" and not '{unfit.pattern}'" if unfit else ""),
                "if they are T1-weighted: --option sequence=REGEX",
            )
        )
    return found
