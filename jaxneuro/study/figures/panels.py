"""What the figures of a study have in common: the rows of one column of a sheet, their looks, panels by backbone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxneuro.study import tables
from jaxneuro.study.compare import Estimate
from jaxneuro.study.figures import style
from jaxneuro.study.gather import Found
from jaxneuro.study.spec import Row

#: Of what begins from scratch: hollow and dashed; of pre-trainings: filled and solid. Markers tell them apart in grey.
SCRATCH: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "linestyle": (0, (4, 1.6)), "marker": marker, "markerfacecolor": "white"}
    for color, marker in ((style.INK, "o"), (style.VERMILION, "^"), (style.BLUE, "s"), (style.GREEN, "D"))
)
STARTS: tuple[dict[str, Any], ...] = tuple(
    {"color": color, "linestyle": "-", "marker": marker}
    for color, marker in (
        (style.BLUE, "s"),
        (style.ORANGE, "^"),
        (style.GREEN, "D"),
        (style.PURPLE, "v"),
        (style.SKY, "P"),
        (style.VERMILION, "X"),
        (style.INK, "*"),
    )
)
DIGITS = 3


class Slice(NamedTuple):
    """Hold one column of a sheet: what the rows found on one set, by one metric.

    Attributes:
      title: task and set, as captions have them.
      key: of the metric, as in metrics.json.
      metric: its printed name, with its unit.
      rows: those that have runs, in the study's order.
      found, values: by the name of a row.
    """

    title: str
    key: str
    metric: str
    rows: tuple[Row, ...]
    found: Mapping[str, Found]
    values: Mapping[str, Estimate]

    def estimate(self, row: Row) -> str:
        """Format the estimate of a row as `0.912 (0.880 to 0.940)`."""
        of = self.values[row.name]
        ends = "" if math.isnan(of.low) else f" ({tables.number(of.low, DIGITS)} to {tables.number(of.high, DIGITS)})"
        return f"{tables.number(of.mean, DIGITS)}{ends}"


def looks(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return colour, line style and marker of each row by name; one start looks the same with every backbone."""
    found: dict[str, dict[str, Any]] = {}
    for among, of in ((SCRATCH, [r for r in rows if not r.pretraining]), (STARTS, [r for r in rows if r.pretraining])):
        starts = list(dict.fromkeys(start(row, rows) for row in of))
        found |= {row.name: among[starts.index(start(row, rows)) % len(among)] for row in of}
    return found


def by_backbone(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each backbone, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.backbone, []).append(row)
    return found


def start(row: Row, rows: Sequence[Row]) -> str:
    """Name what a row begins with, and the row where another of its backbone begins alike."""
    alike = sum(other.backbone == row.backbone and other.initial == row.initial for other in rows)
    return row.initial if alike < 2 else f"{row.initial} ({row.name})"


def name(row: Row, rows: Sequence[Row]) -> str:
    """Name a row by backbone and start."""
    return f"{row.backbone}, {start(row, rows)}"


def wrapped(text: str, width: int) -> str:
    """Break a text into lines of so many characters."""
    return textwrap.fill(text, width, break_long_words=True)


def grid(count: int, columns: int, height: float, width: float = style.COLUMN) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels in rows of `columns`, each row so many inches high."""
    rows = -(-count // columns)
    figure = style.new_figure(rows * height, width)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def seeds(found: Mapping[str, Found]) -> str:
    """Say how many seeds the rows have: `2 seeds`, or `1 to 3 seeds`."""
    counts = sorted({len(of.seeds) for of in found.values()})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{many} seed{'s' if counts[-1] > 1 else ''}"


def scans(found: Mapping[str, Found]) -> str:
    """Say how many scans the rows were tested on: `120 scans`, or `120 or 118 scans`."""
    return " or ".join(dict.fromkeys(f"{len(of.scans):,}" for of in found.values())) + " scans"
