"""How much the share of the training subjects matters: bars by row and share, with every seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxneuro.study.figures import panels, style
from jaxneuro.study.figures.panels import Slice
from jaxneuro.study.figures.style import Plot
from jaxneuro.study.spec import Row

CHANCE = 0.5
#: The largest share first: from dark to light, told apart by hatches.
FILLS: tuple[dict[str, Any], ...] = (
    {"facecolor": style.BLUE, "hatch": ""},
    {"facecolor": style.ORANGE, "hatch": "////"},
    {"facecolor": style.SKY, "hatch": "...."},
    {"facecolor": style.YELLOW, "hatch": "xxxx"},
)
_THICK = 0.8  # of a row, all its bars together
_HEADING = 24  # characters of a line of a backbone's name


def bars(slices: Mapping[float, Slice], rows: Sequence[Row], *, lower_is_better: bool) -> Plot:
    """Draw a bar for each row and share, its deviation over seeds, and a dot for each seed.

    Args:
      slices: share of the training subjects to its column; at least one has a defined value.
      rows: those of the sheet that have runs.
      lower_is_better: of the metric; ROC-AUC otherwise, which chance has at 0.5.
    """
    shares = sorted(slices, reverse=True)
    any_slice = slices[shares[0]]
    begin = 0.0 if lower_is_better else baseline(slices.values())
    unit = 0.17 * (0.6 + 0.4 * len(shares))  # inches of a row
    thick, (places, head), said = _THICK / len(shares), _places(rows, unit), []
    with style.page_style(**style.SMALL):
        high = max(places.values()) + 1
        figure = style.new_figure(unit * (high + head) + 0.6, style.COLUMN)
        axes = figure.add_subplot()
        for i, share in enumerate(shares):
            part, fill = slices[share], FILLS[i % len(FILLS)]
            ys, means = [], []
            for row in rows:
                of = part.values.get(row.name)
                if of is None or not of.n:
                    continue
                y = places[row.name] - _THICK / 2 + (i + 0.5) * thick
                ys.append(y)
                means.append(of.mean)
                if of.n > 1:
                    ends = (of.mean - of.sd, of.mean + of.sd)
                    axes.plot(ends, (y, y), color="black", linewidth=1.1, marker="|", markersize=4, zorder=4)
                values = _seeds(part, row)
                spread = y + (np.arange(len(values)) - (len(values) - 1) / 2) * thick * 0.5 / max(len(values) - 1, 1)
                rim: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.6, "zorder": 5}
                axes.plot(values, spread, "o", markersize=2.6, markerfacecolor="white", **rim)
                said.append(f"{panels.name(row, rows)}, {share:.0%}: {of.mean:.3f}")
            lengths = np.array(means) - begin
            bar = {"left": begin, "edgecolor": "black", "linewidth": 0.5, **fill}
            axes.barh(ys, lengths, thick * 0.94, label=f"{share:.0%} of training", **bar)
        if not lower_is_better:
            axes.axvline(CHANCE, color=style.INK, linestyle=(0, (4, 2)), linewidth=1, label="chance", zorder=3)
        axes.set_yticks(list(places.values()), [panels.wrapped(panels.start(row, rows), 26) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        for backbone, together in panels.by_backbone(rows).items():
            y = places[together[0].name] - 0.5
            text = panels.wrapped(backbone, _HEADING)
            where = axes.get_yaxis_transform()
            axes.text(-0.02, y, text, transform=where, fontweight="bold", va="bottom", ha="right", linespacing=1)
        axes.set_ylim(high - 0.3, -head)
        axes.set_xlim(left=begin)
        axes.spines["left"].set_visible(begin != CHANCE)  # where the line of chance stands
        direction = "lower is better" if lower_is_better else "higher is better"
        axes.set_xlabel(f"{any_slice.metric}, {direction}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels) if len(labels) < 4 else 2, handlelength=2.2
        )
    return Plot(figure, f"Bars of {any_slice.metric}. {'; '.join(said)}.", _caption(slices, begin, lower_is_better))


def baseline(slices: Iterable[Slice]) -> float:
    """Return where bars of ROC-AUC begin: 0.5, or 0 if any mean, seed or end of a deviation is not above that."""
    lowest = math.inf
    for part in slices:
        for row in part.rows:
            of = part.values[row.name]
            if of.n:
                sd = of.sd if of.n > 1 else 0.0
                lowest = min(lowest, of.mean - sd, *_seeds(part, row))
    return CHANCE if lowest > CHANCE else 0.0


def _caption(slices: Mapping[float, Slice], begin: float, lower_is_better: bool) -> str:
    every = {f"{share:g} {name}": of for share, part in slices.items() for name, of in part.found.items()}
    title = slices[max(slices)].title
    if lower_is_better:
        where = " Bars begin at 0."
    elif begin:
        where = f" Bars begin at {CHANCE}, chance, for all values are above it: their lengths are not in proportion."
    else:
        where = " Bars begin at 0, for some values are not above chance."
    several = any(len(of.seeds) > 1 for of in every.values())
    error = " Lines: one standard deviation over seeds on either side;" if several else ""
    dots = " dots: the seeds." if several else " One seed: no deviation; dots: that seed."
    return f"{title}: mean over {panels.seeds(every)} by the share of the training subjects.{error}{dots}{where}"


def _places(rows: Sequence[Row], unit: float) -> tuple[dict[str, float], float]:
    """Return where each row lies on an axis that goes down, in rows of `unit` inches, and the room above the first.

    There is room for the name of each backbone above its rows.
    """
    places: dict[str, float] = {}
    rooms: list[float] = []
    y = 0.0
    for backbone, of in panels.by_backbone(rows).items():
        rooms.append((0.125 * (panels.wrapped(backbone, _HEADING).count("\n") + 1) + 0.05) / unit)
        y += rooms[-1] if places else 0.0
        for row in of:
            places[row.name] = y
            y += 1
    return places, rooms[0] + 0.5


def _seeds(part: Slice, row: Row) -> np.ndarray:
    """Return the finite values of the seeds."""
    found = part.found[row.name]
    values = found.metrics[part.key]
    return values[np.isfinite(values)]
