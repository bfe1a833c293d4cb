"""Maps of where the outputs of a study's networks come from: how they are made, their table and pictures."""

from __future__ import annotations

import base64
import dataclasses
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxneuro import records
from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps import pictures
from jaxneuro.evaluation.maps.making import Settings
from jaxneuro.study import plan, progress, tables
from jaxneuro.study.drawings import SYNTHETIC, Picture
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import Sheet, Study
from jaxneuro.study.tables import Table

#: What can be said of maps beside the fields of `Settings`: keywords of `evaluation.occlusion.occlusion`.
OTHERS = ("scans", "untrained", "tolerance_mm", "seed")
#: Of the columns of a run's maps, those that a study shows, of all scans together.
_COLUMNS = ("Scans", "Network", "Share", "AUC", "mm", "Hits", "Peak, mm")
_OF_ALL = (
    "Share, AUC and mm are of the mean map of all scans, hits the mean over their maps; those of single classes, "
    "and of absolute values, are in each run's folder."
)


def keywords(given: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return how maps are made, and the other keywords of `evaluation.occlusion.occlusion`.

    Raises:
      InputError: a key that neither has.
    """
    fields = [field.name for field in dataclasses.fields(Settings)]
    if unknown := sorted(set(given) - {*fields, *OTHERS}):
        raise InputError(f"maps: found {', '.join(unknown)}; expected among {', '.join((*fields, *OTHERS))}")
    settings = {key: value for key, value in given.items() if key in fields}
    # One number of voxels is for all axes.
    settings |= {k: (v,) for k in ("patch", "stride") if isinstance(v := settings.get(k), int)}
    return Settings(**settings), {key: given[key] for key in OTHERS if key in given}


def check(given: Mapping[str, Any], shape: Sequence[int]) -> None:
    """Refuse maps that cannot be made of volumes of a shape, (depth, height, width).

    Raises:
      InputError: names the key.
    """
    settings, others = keywords(given)
    d, h, w = shape
    try:
        settings.grid((d, h, w))
    except (InputError, TypeError, ValueError) as e:
        raise InputError(f"maps: {str(e).removeprefix('--')}") from e
    for key, least in (("scans", 1), ("seed", 0)):
        if not isinstance(value := others.get(key, least), int) or value < least:
            raise InputError(f"maps.{key}: found {value!r}; expected a whole number of at least {least}")


def runs(study: Study, out: Path, sheet: Sheet) -> list[Run]:
    """Return the runs of a sheet that are to have maps, made or not."""
    rows = {row.name for row in study.rows_of(sheet)}
    return [
        job
        for job in plan.jobs(study, out)
        if isinstance(job, Run) and job.maps is not None and job.task in sheet.tasks and job.row in rows
    ]


def told(job: Run) -> dict[str, Any]:
    """Return what the maps of a finished run are said to be and how they score; raises InputError where damaged."""
    return records.read_json(progress.maps(job), ("method", "explains", "task", "groups"), expected="what maps leave")


def table(study: Study, out: Path, sheet: Sheet) -> list[Table]:
    """Return the scores of maps, or where they peak: a row for each network and what it is beside."""
    found: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    notes: dict[tuple[str, ...], tuple[str, ...]] = {}
    for job in runs(study, out, sheet):
        if progress.mapped(job):
            row = study.row(job.row)
            try:
                of = tables.maps(told(job))
            except (KeyError, TypeError, AttributeError) as e:
                raise InputError(
                    f"{progress.maps(job)}: cannot be read ({e!r}); expected what maps leave; delete its folder"
                ) from e
            kept = [i for i, column in enumerate(of.columns) if column in _COLUMNS]
            columns = tuple(of.columns[i] for i in kept)
            found.setdefault(columns, []).extend(
                (row.backbone, row.initial, *(cells[i] for i in kept)) for cells in of.rows if cells[0] == "all"
            )
            notes[columns] = (*(note for note in of.notes if not note.startswith("|.|")), _OF_ALL)
    return [
        Table(sheet.title, ("Backbone", "Initial", *columns), tuple(rows), notes[columns])
        for columns, rows in found.items()
    ]


def drawn(study: Study, out: Path, name: str) -> list[Picture]:
    """Return the pictures of the maps of a sheet, each as an `<img>` that holds it."""
    made = []
    for job in runs(study, out, study.sheets[name]):
        if not progress.mapped(job):
            continue
        row = study.row(job.row)
        synthetic = bool(told(job).get("data", {}).get("synthetic"))
        for one in pictures.gallery(progress.maps(job).parent):
            label = f"{row.backbone}, {row.initial}. {one.title}"
            content = base64.b64encode(one.path.read_bytes()).decode()
            image = f'<img src="data:image/png;base64,{content}" alt="{html.escape(label, quote=True)}">'
            caption = f"{SYNTHETIC if synthetic else ''}{label}. {one.caption}"
            made.append(Picture(name, os.path.relpath(one.path, out), image, caption, (one.path,)))
    return made
