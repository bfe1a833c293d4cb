"""The figures of a study, from what its tables are made of, as SVG and PDF in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxneuro import whole
from jaxneuro.study import plan, report
from jaxneuro.study.figures import ages, bars, curves, learning, spider, style
from jaxneuro.study.figures.panels import Slice
from jaxneuro.study.figures.style import Plot
from jaxneuro.study.gather import TEST, Found, Key
from jaxneuro.study.results import Column, Result
from jaxneuro.study.spec import Row, Study

FOLDER = "figures"
SYNTHETIC = "Synthetic scans: the machinery, not patients. "


class Picture(NamedTuple):
    """Hold one figure: the sheet it belongs to, its name, one `<svg>` for a page, its caption, and its files."""

    sheet: str
    name: str
    svg: str
    caption: str
    files: tuple[Path, ...]


def write(study: Study, out: Path, results: Mapping[str, Result], found: Mapping[Key, Found]) -> list[Picture]:
    """Draw what a study's finished runs found, into `figures/NAME.svg` and `NAME.pdf`; the same input, the same bytes.

    A sheet of tasks has a spider plot, one of fractions bars. Each task has, at its largest share of the training
    subjects, ROC curves and calibration, or a scatter, on every set, and learning curves: once, in its first sheet.
    Sheets of other kinds have none.

    Args:
      study: a checked one.
      out: its folder.
      results: sheet to its result, as `results.result` gives it.
      found: as `gather.gather` gives it.

    Returns:
      The figures, sheet by sheet; none where nothing is finished.
    """
    pictures: list[Picture] = []
    for sheet, name, plot in _plots(study, out, results, found):
        # Names that differ in signs alone are one when only letters, digits and hyphens are left.
        name += "" if name not in {picture.name for picture in pictures} else f"-{len(pictures)}"
        with style.page_style(**style.SMALL):
            caption = (SYNTHETIC if any(of.synthetic for of in found.values()) else "") + plot.caption
            svg = style.to_svg(plot.figure, f"figure-{name}", plot.description)
            plot.figure.set_layout_engine("none")  # all has its place by now
            pdf = style.to_pdf(plot.figure)
        files = tuple(out / FOLDER / f"{name}.{kind}" for kind in ("svg", "pdf"))
        (out / FOLDER).mkdir(parents=True, exist_ok=True)
        whole.write(files[0], f"{svg}\n")
        whole.write(files[1], pdf)
        pictures.append(Picture(sheet, name, svg, caption, files))
    return pictures


def _plots(
    study: Study, out: Path, results: Mapping[str, Result], found: Mapping[Key, Found]
) -> Iterator[tuple[str, str, Plot]]:
    """Yield sheet, name and figure."""
    drawn: set[Key] = set()
    for name, of in results.items():
        if of.sheet.kind not in ("metrics", "tasks", "fractions"):
            continue
        rows = study.rows_of(of.sheet)
        whole = max(of.sheet.fractions)
        mains = [column for column in of.columns if column.main and column.fraction == whole]
        slices = [(column, part) for column in mains if (part := _slice(study, of, column, rows, found))]
        if of.sheet.kind == "tasks" and slices:
            there = [row for row in rows if any(row.name in part.found for _, part in slices)]
            lower = [spider.is_error(column.metric) for column, _ in slices]
            yield name, f"{name}-spider", spider.spider([part for _, part in slices], there, lower)
        if of.sheet.kind == "fractions":
            yield from _bars(study, name, of, rows, found)
        for column, part in slices:
            keys = {column.of(row) for row in part.rows}
            if keys <= drawn:
                continue
            drawn |= keys
            yield from _of_set(name, column, part)
            if column.set == TEST and (plot := _learning(study, out, column, part)):
                yield name, f"{name}-learning-{_safe(column.task)}", plot


def _slice(study: Study, of: Result, column: Column, rows: list[Row], found: Mapping[Key, Found]) -> Slice | None:
    """Return what a column holds, without the rows that have no run; None where no row has a defined value."""
    there = tuple(row for row in rows if column.of(row) in found and (row.name, column) in of.values)
    values = {row.name: of.values[row.name, column] for row in there}
    if not any(value.n for value in values.values()):
        return None
    where, metric = column.head.rsplit(": ", 1)
    title = study.tasks[column.task].title
    return Slice(
        where if where.startswith(f"{title}, ") else f"{title}, {where}",
        column.metric,
        metric,
        there,
        {row.name: found[column.of(row)] for row in there},
        values,
    )


def _bars(
    study: Study, name: str, of: Result, rows: list[Row], found: Mapping[Key, Found]
) -> Iterator[tuple[str, str, Plot]]:
    for task in of.sheet.tasks:
        columns = [column for column in of.columns if column.task == task and column.main and column.set == TEST]
        parts = {column.fraction: part for column in columns if (part := _slice(study, of, column, rows, found))}
        parts = {
            share: part._replace(title=part.title.removesuffix(f", {share:.0%} of training"))
            for share, part in parts.items()
        }
        if parts:
            there = [row for row in rows if any(row.name in part.found for part in parts.values())]
            lower = spider.is_error(columns[0].metric)
            yield name, f"{name}-bars-{_safe(task)}", bars.bars(parts, there, lower_is_better=lower)


def _of_set(name: str, column: Column, part: Slice) -> Iterator[tuple[str, str, Plot]]:
    """Yield the figures of one task on one set."""
    of = _safe(column.task) if column.set == TEST else f"{_safe(column.task)}-{_safe(column.set)}"
    kinds = {found.kind for found in part.found.values()}
    if kinds == {"regression"}:
        yield name, f"{name}-scatter-{of}", ages.ages(part)
    elif kinds == {"binary"} and (plot := curves.roc(part)):
        yield name, f"{name}-roc-{of}", plot
        yield name, f"{name}-calibration-{of}", curves.calibration(part)


def _learning(study: Study, out: Path, column: Column, part: Slice) -> Plot | None:
    """Draw the learning curves of the rows of a column; None where no run has one."""
    logs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for row in part.rows:
        for seed in part.found[row.name].seeds:
            run = out / plan.run_name(column.task, row.name, column.fraction, seed)
            lines, _ = report.read_log(run / "metrics.jsonl")
            series = learning.series(lines or [], f"validation/{column.metric}")
            if len(series[0]):
                logs.setdefault(row.name, []).append(series)
    rows = [row for row in part.rows if row.name in logs]
    return learning.of_rows(study.tasks[column.task].title, part.metric, rows, logs) if rows else None


def _safe(name: str) -> str:
    """Return a name of letters, digits and hyphens, for a file and an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)
