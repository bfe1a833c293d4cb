"""LDM-100k, synthetic brains of a latent diffusion model: `rawdata/sub-000001/anat/sub-000001_T1w.nii.gz`.

The layout is as published code reads it; the names of the columns of participants.tsv are not published there. Those of
the thousand images on Hugging Face are taken, too; `columns` names others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from jaxneuro.manifest import Problem
from jaxneuro.sources import tree
from jaxneuro.sources.base import Source
from jaxneuro.sources.lookup import Table, table_of
from jaxneuro.sources.rows import Image, no_row, scans_of

MARKS = "participants.tsv beside a folder rawdata"
COLUMNS = {
    "subject": ("participant_id",),
    "age": ("age", "prompt_age"),
    "sex": ("sex", "gender", "prompt_sex"),
}
#: UK Biobank's coding of sex, on which the model was trained.
SEXES = {"0": "F", "1": "M"}
_IMAGE = re.compile(r"^(sub-[A-Za-z0-9]+)_T1w" + tree.NIFTI)


def looks_like(path: Path) -> bool:
    """Whether a folder has the table outside, the images inside rawdata."""
    return {"participants.tsv", "rawdata"} <= set(tree.names(path))


def read(root: Path, *, table: Path | None = None, columns: Mapping[str, str] | None = None) -> Source:
    """Read the synthetic images of LDM-100k with the age and sex that the model was asked for.

    What the images that the model learnt from had been through is not documented with them: no stage counts as done.

    Args:
      root: the folder with participants.tsv and rawdata.
      table: participants.tsv; by default the one in `root`.
      columns: what the table holds to its column, of `COLUMNS`.

    Raises:
      InputError: the folder or table cannot be read.
    """
    problems: list[Problem] = []
    people = Table(table_of(root, table, ("participants.tsv",)), COLUMNS, ("subject",), columns, problems)
    people.tell_columns(("age", "sex"), problems)
    rows = people.by("subject", problems)
    found = [
        Image(name[1], "", path)
        for path in tree.images(root / "rawdata", _IMAGE, problems)
        if (name := _IMAGE.match(path.name))
    ]

    def describe(image: Image, where: str) -> dict[str, str] | None:
        row = rows.get(image.subject)
        if row is None:
            no_row(where, image.subject, people.path, problems, several=image.subject in people.repeated)
            return None
        return {**row, "sex": SEXES.get(row.get("sex", ""), row.get("sex", ""))}

    people.tell_absent(rows, (i.subject for i in found), problems)
    return Source(
        name="LDM-100k",
        scans=scans_of(found, describe, root, problems),
        problems=problems,
        rule="every image with a row; age and sex are those that the model was asked for",
        synthetic=True,
    )
