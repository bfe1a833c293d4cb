"""Several tasks at once: spider plots, each axis with a range of its own that is printed at it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxneuro.study import tables
from jaxneuro.study.figures import panels, style
from jaxneuro.study.figures.panels import Slice
from jaxneuro.study.figures.style import Plot
from jaxneuro.study.spec import Row

#: Fewer axes than this make a line of a polygon.
FEWEST = 3
#: More rows than this have a panel a backbone.
MOST_ROWS = 4
_RIM = 1.12  # where labels begin, in radii
_ACROSS, _APART, _SIDE = 1.22, 0.03, 15  # inches of the circle and around labels; characters of a line beside it


class _Box(NamedTuple):
    """Where a label is, in inches from the centre of its circle."""

    left: float
    foot: float
    right: float
    top: float

    def meets(self, other: _Box) -> bool:
        """Tell whether two labels come nearer to each other than labels may."""
        across = min(self.right, other.right) - max(self.left, other.left)
        along = min(self.top, other.top) - max(self.foot, other.foot)
        return across > -_APART and along > -_APART / 2

    def from_centre(self) -> float:
        """Return how far its nearest point is from the centre."""
        return math.hypot(max(self.left, -self.right, 0.0), max(self.foot, -self.top, 0.0))


class Range(NamedTuple):
    """Hold the values at the centre and at the rim of an axis; the rim is the better one."""

    centre: float
    rim: float

    def of(self, value: float) -> float:
        """Return where a value lies, 0 at the centre and 1 at the rim."""
        return (value - self.centre) / (self.rim - self.centre)

    def __str__(self) -> str:
        return f"{self.centre:.4g} to {self.rim:.4g}"


def axis_range(values: Sequence[float], *, lower_is_better: bool, highest: float = math.inf) -> Range:
    """Return a range of round ends that holds some values, with room at the centre so that the worst stays visible.

    Args:
      values: at least one.
      lower_is_better: the smallest is at the rim.
      highest: that the metric can be; the lowest is 0.
    """
    low, high = min(values), max(values)
    spread = (high - low) or 0.1 * abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= spread / 4.001)
    room = spread / 4
    low, high = (low, high + room) if lower_is_better else (low - room, high)
    # Rounded to what prints, so that an end that is a multiple of the step stays where it is.
    low, high = math.floor(round(low / step, 6)) * step, math.ceil(round(high / step, 6)) * step
    if low == high:
        low, high = (low, high + step) if lower_is_better else (low - step, high)
    low, high = max(low, 0.0), min(high, highest)
    return Range(high, low) if lower_is_better else Range(low, high)


def spider(slices: Sequence[Slice], rows: Sequence[Row], lower_is_better: Sequence[bool]) -> Plot:
    """Draw one axis for each slice and one polygon for each row; with fewer than three slices, dots with intervals.

    Args:
      slices: the columns of a sheet, each with at least one defined value.
      rows: those of the sheet that have runs.
      lower_is_better: of each slice.
    """
    if len(slices) < FEWEST:
        return dots(slices, rows, lower_is_better)
    ranges = [
        axis_range(
            [of.mean for of in part.values.values() if of.n],
            lower_is_better=lower,
            highest=math.inf if lower else 1.0,
        )
        for part, lower in zip(slices, lower_is_better, strict=True)
    ]
    look, gaps = panels.looks(rows), []
    alike = len({id(of) for of in look.values()}) < len(rows)
    split = list(panels.by_backbone(rows).items()) if len(rows) > MOST_ROWS or alike else [("", list(rows))]
    columns = 1 if len(split) <= 3 else 2
    with style.page_style(**style.SMALL):
        figure = Figure(facecolor="white")
        drawn = [_polygons(figure, slices, ranges, of, rows, look, split=bool(backbone)) for backbone, of in split]
        handles = {label: line for _, _, lines in drawn for label, line in lines.items()}
        _place(figure, [(axes, labels) for axes, labels, _ in drawn], [name for name, _ in split], columns, handles)
    for row in rows:
        if any(row.name not in part.values or not part.values[row.name].n for part in slices):
            gaps.append(panels.name(row, rows))
    axes_said = "; ".join(f"{part.title}: {part.metric}, {r}" for part, r in zip(slices, ranges, strict=True))
    gap = f" A gap: no value ({'; '.join(gaps)})." if gaps else ""
    described = [f"{panels.name(row, rows)} " + ", ".join(_value(part, row) for part in slices) for row in rows]
    return Plot(
        figure,
        f"Spider plot. Axes from centre to rim: {axes_said}. {'; '.join(described)}.",
        f"Means over {_all_seeds(slices)}, better outward. Each axis has a range of its own, printed at it from centre "
        f"to rim, so lengths on one axis say nothing of those on another. From scratch: hollow and dashed.{gap}",
    )


def _polygons(
    figure: Figure,
    slices: Sequence[Slice],
    ranges: Sequence[Range],
    of: Sequence[Row],
    rows: Sequence[Row],
    look: Mapping[str, dict[str, Any]],
    *,
    split: bool,
) -> tuple[Axes, list[Text], dict[str, Artist]]:
    """Draw one panel; returns its axes, the labels of its spokes, and the lines for the legend by name."""
    axes = figure.add_axes((0, 0, 1, 1), projection="polar", label=of[0].name)
    angles, labels = _spokes(axes, slices, ranges)
    lines: dict[str, Artist] = {}
    for row in of:
        values = [part.values[row.name].mean if row.name in part.values else math.nan for part in slices]
        reach = np.array([r.of(v) for r, v in zip(ranges, values, strict=True)])
        name = panels.start(row, rows) if split else panels.name(row, rows)
        closed = np.append(angles, angles[0]), np.append(reach, reach[0])
        [line] = axes.plot(*closed, linewidth=1.3, markersize=4, clip_on=False, **look[row.name])
        lines.setdefault(panels.wrapped(name, 28), line)
    return axes, labels, lines


def _spokes(axes: Axes, slices: Sequence[Slice], ranges: Sequence[Range]) -> tuple[np.ndarray, list[Text]]:
    """Draw rings and spokes; returns the angle of each spoke [n], the first upward, then clockwise, and the labels."""
    angles, labels = np.arange(len(slices)) * 2 * math.pi / len(slices), []
    axes.set(theta_offset=math.pi / 2, theta_direction=-1, ylim=(0, 1))
    axes.set_xticks(angles, [""] * len(angles))
    axes.set_yticks([0.25, 0.5, 0.75, 1], [""] * 4)
    axes.grid(color="#d0d0d0", linewidth=0.6)
    axes.spines["polar"].set_visible(False)
    for angle, part, of in zip(angles, slices, ranges, strict=True):
        side, up = math.sin(angle), math.cos(angle)
        across = "center" if abs(side) < 0.1 else "left" if side > 0 else "right"
        along = "bottom" if up > 0.6 else "top" if up < -0.6 else "center"
        title = panels.wrapped(part.title, 40 if across == "center" else _SIDE)
        text = f"{title}\n{panels.wrapped(part.metric, _SIDE)}\n{of}"
        labels.append(axes.text(angle, _RIM, text, ha=across, va=along, linespacing=1.05))
    return angles, labels


def _place(
    figure: Figure,
    drawn: Sequence[tuple[Axes, Sequence[Text]]],
    names: Sequence[str],
    columns: int,
    handles: Mapping[str, Artist],
) -> None:
    """Size the figure so that every label has room, and put names and legend into it.

    Constrained layout, which all other figures have, knows nothing of labels around a circle.
    """
    boxes = [box for _, labels in drawn for box in _clear(figure, labels)]
    upper = max(0.0, *(box.top - _ACROSS / 2 for box in boxes)) + 0.06 + (0.17 if any(names) else 0.0)
    lower = max(0.0, *(-box.foot - _ACROSS / 2 for box in boxes)) + 0.06
    several = columns * style.COLUMN > 5 or max(len(line) for name in handles for line in name.split("\n")) <= 24
    beside = 2 * columns if several else columns
    legend = 0.1 + sum(
        max(name.count("\n") + 1 for name in list(handles)[i : i + beside]) * 0.14
        for i in range(0, len(handles), beside)
    )
    rows = -(-len(drawn) // columns)
    high, wide = upper + _ACROSS + lower, style.COLUMN
    size = (columns * wide, rows * high + legend)
    figure.set_size_inches(size)
    for i, ((axes, _), name) in enumerate(zip(drawn, names, strict=True)):
        row, column = divmod(i, columns)
        left, foot = column * wide + (wide - _ACROSS) / 2, legend + (rows - 1 - row) * high + lower
        axes.set_position((left / size[0], foot / size[1], _ACROSS / size[0], _ACROSS / size[1]))
        middle, top = (column + 0.5) * wide / size[0], (foot + _ACROSS + upper - 0.03) / size[1]
        figure.text(middle, top, name, ha="center", va="top", fontweight="bold", fontsize=7.5)
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=beside, handlelength=3, borderaxespad=0.2,
        columnspacing=1.2,
    )  # fmt: skip


def _clear(figure: Figure, labels: Sequence[Text]) -> list[_Box]:
    """Move labels outward along their spokes until none meets the circle or another; returns where they are.

    Those beside the circle come first: the ones above and below it have the room to give way.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes: list[_Box] = []
    for label in sorted(labels, key=lambda label: abs(math.cos(label.get_position()[0]))):
        extent = label.get_window_extent(renderer)
        wide, high = extent.width / figure.dpi, extent.height / figure.dpi
        while (box := _box(label, wide, high)).from_centre() < _ACROSS / 2 + _APART or any(map(box.meets, boxes)):
            angle, radius = label.get_position()
            label.set_position((angle, radius + 0.04))
        boxes.append(box)
    return boxes


def _box(label: Text, wide: float, high: float) -> _Box:
    angle, radius = label.get_position()
    x, y = (of(angle) * radius * _ACROSS / 2 for of in (math.sin, math.cos))
    left = {"left": x, "right": x - wide, "center": x - wide / 2}[label.get_horizontalalignment()]
    foot = {"bottom": y, "top": y - high, "center": y - high / 2}[label.get_verticalalignment()]
    return _Box(left, foot, left + wide, foot + high)


def dots(slices: Sequence[Slice], rows: Sequence[Row], lower_is_better: Sequence[bool]) -> Plot:
    """Draw a dot with its interval for each row, a panel for each slice; the arguments are those of `spider`."""
    look, said = panels.looks(rows), []
    heights = [0.2 * len(rows) + 0.55] * len(slices)
    with style.page_style(**style.SMALL):
        figure = style.new_figure(sum(heights) + 0.1, style.COLUMN)
        for i, (part, lower) in enumerate(zip(slices, lower_is_better, strict=True)):
            axes = figure.add_subplot(len(slices), 1, i + 1)
            for y, row in enumerate(rows):
                of = part.values.get(row.name)
                if of is None or not of.n:
                    continue
                color = look[row.name]["color"]
                axes.plot([of.low, of.high], [y, y], color=color, linewidth=1.1)
                axes.plot([of.mean], [y], markersize=5, **{**look[row.name], "linestyle": "none"})
            axes.set_yticks(range(len(rows)), [panels.wrapped(panels.name(row, rows), 30) for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            direction = "lower is better" if lower else "higher is better"
            axes.set_xlabel(f"{part.metric}, {direction}")
            axes.set_title(panels.wrapped(part.title, 44), loc="left")
            said += [f"{part.title}: {panels.name(row, rows)} {_value(part, row)}" for row in rows]
    level = _level(slices)
    return Plot(
        figure,
        f"Dots. {'; '.join(said)}.",
        f"Means over {_all_seeds(slices)} with {level} intervals over the people in the test where there are any. "
        f"{len(slices)} {'axes make' if len(slices) > 1 else 'axis makes'} no polygon, so dots stand in for a spider "
        "plot. From scratch: hollow.",
    )


def _value(part: Slice, row: Row) -> str:
    return part.estimate(row) if row.name in part.values else "n/a"


def _all_seeds(slices: Sequence[Slice]) -> str:
    return panels.seeds({f"{i} {name}": of for i, part in enumerate(slices) for name, of in part.found.items()})


def _level(slices: Sequence[Slice]) -> str:
    levels = sorted({of.level for part in slices for of in part.found.values()})
    return " or ".join(f"{100 * level:g} %" for level in levels)


def is_error(metric: str) -> bool:
    """Tell whether a metric is better the lower it is."""
    return metric in (tables.MAIN_METRIC["regression"], "rmse")
