"""Predicted on true age and the gap between them, a panel for each row of a study."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from jaxneuro.study import tables
from jaxneuro.study.figures import panels, style
from jaxneuro.study.figures.panels import Slice
from jaxneuro.study.figures.style import Plot
from jaxneuro.study.gather import Found

MOST_ROWS, MOST_POINTS = 6, 300


def ages(part: Slice) -> Plot:
    """Draw the mean prediction of each row's seeds on the target, and the gap below; of at most six rows."""
    rows, left = part.rows[:MOST_ROWS], part.rows[MOST_ROWS:]
    look, said = panels.looks(part.rows), []
    _, bracket, rest = part.metric.partition(" (")
    unit = bracket + rest
    columns = 3 if len(rows) > 4 else min(2, len(rows))
    blocks = -(-len(rows) // columns)
    values = np.concatenate([v.ravel() for r in rows for v in (part.found[r.name].target, _mean(part.found[r.name]))])
    gaps = np.concatenate([_mean(part.found[row.name]) - part.found[row.name].target for row in rows])
    ends, gap_ends = _ends(values), _ends(np.append(gaps, 0))
    with style.page_style(**style.SMALL):
        figure = style.new_figure(blocks * {1: 4.4, 2: 3.0, 3: 2.65}[columns], style.COLUMN)
        heights = [2.0, 1.0] * blocks
        places = figure.add_gridspec(2 * blocks, columns, height_ratios=heights)
        for i, row in enumerate(rows):
            block, column = divmod(i, columns)
            above = figure.add_subplot(places[2 * block, column])
            below = figure.add_subplot(places[2 * block + 1, column], sharex=above)
            rho = _panel(above, below, part.found[row.name], look[row.name])
            title = panels.wrapped(panels.name(row, part.rows), 48 // columns)
            error = tables.number(part.values[row.name].mean)
            above.set_title(f"{title}\nMAE {error}\nrho {rho}", fontsize=7, loc="left", linespacing=1.1)
            above.set(xlim=ends, ylim=ends)
            below.set(ylim=gap_ends)
            above.tick_params(labelbottom=False)
            above.locator_params(nbins=4)
            below.locator_params(nbins=4)
            said.append(f"{panels.name(row, part.rows)}: MAE {part.estimate(row)}, rho {rho}")
            if column == 0:
                above.set_ylabel(f"Predicted{unit}")
                below.set_ylabel(f"Gap{unit}")
            else:
                above.tick_params(labelleft=False)
                below.tick_params(labelleft=False)
            if i + columns >= len(rows):
                below.set_xlabel(f"True{unit}")
        figure.align_ylabels()
    others = f" Not drawn: {'; '.join(panels.name(row, part.rows) for row in left)}." if left else ""
    thinned = any(len(part.found[row.name].target) > MOST_POINTS for row in rows)
    some = f" {MOST_POINTS} scans of each are drawn, chosen at random." if thinned else ""
    return Plot(
        figure,
        f"Predicted on true values. {'; '.join(said)}.",
        f"{part.title}: above, the mean prediction of {panels.seeds(part.found)} on the true value, not corrected for "
        f"bias, of {panels.scans(part.found)}; dashed: identity. Below, the gap (predicted less true) with a straight "
        f"fit. {part.metric}: the mean of the seeds' own. rho: Spearman's correlation of gap and true value."
        f"{some}{others}",
    )


def _panel(above: Axes, below: Axes, found: Found, look: dict[str, Any]) -> str:
    """Draw one row; returns Spearman's rho of gap and target."""
    target, predicted = found.target, _mean(found)
    gap, shown = predicted - target, np.arange(len(target))
    if len(target) > MOST_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(target), MOST_POINTS, replace=False))
    points: dict[str, Any] = {
        "marker": "o",
        "linestyle": "none",
        "markeredgewidth": 0.5,
        "markeredgecolor": look["color"],
    }
    points |= {"markerfacecolor": "none", "alpha": 0.7}
    above.plot(target[shown], predicted[shown], markersize=2.2, **points)
    below.plot(target[shown], gap[shown], markersize=1.8, **points)
    identity: dict[str, Any] = {"color": style.INK, "linewidth": 0.9, "linestyle": (0, (5, 2)), "zorder": 3}
    above.axline((0, 0), slope=1, **identity)
    below.axhline(0, **identity)
    if len(target) < 3 or np.ptp(target) == 0 or np.ptp(gap) == 0:
        return "undefined"
    slope, start = np.polyfit(target, gap, 1)
    across = np.array([target.min(), target.max()])
    below.plot(across, slope * across + start, color=style.INK, linewidth=1.2, zorder=4)
    return tables.number(float(spearmanr(target, gap).statistic))


def _mean(found: Found) -> np.ndarray:
    """Return the mean prediction of the seeds [n]."""
    return found.predictions.mean(0)


def _ends(values: np.ndarray) -> tuple[float, float]:
    margin = 0.05 * (float(np.ptp(values)) or 1.0)
    return float(values.min()) - margin, float(values.max()) + margin
