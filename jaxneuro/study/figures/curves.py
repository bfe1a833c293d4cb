"""ROC curves with bands, and calibration, of the rows of a study on one set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import offset_copy

from jaxneuro.evaluation import calibration as calibrations
from jaxneuro.evaluation import estimates
from jaxneuro.study import tables
from jaxneuro.study.figures import bands, panels, style
from jaxneuro.study.figures.panels import Slice
from jaxneuro.study.figures.style import Plot
from jaxneuro.study.gather import Found

_FOOT, _TALL = 0.06, 0.14  # where histograms begin, outside 0 and 1, and how high they are


def roc(part: Slice) -> Plot | None:
    """Draw the mean ROC curve of each row's seeds with its band, a panel for each backbone; None with one class."""
    if np.ptp(next(iter(part.found.values())).target) == 0:
        return None
    look, said, backbones = panels.looks(part.rows), [], panels.by_backbone(part.rows)
    columns = min(2, len(backbones))
    sizes = list(backbones.values())
    with style.page_style(**style.SMALL):
        figure, axes = panels.grid(len(backbones), columns, 1.0)
        longest = [max(map(len, sizes[i : i + columns])) for i in range(0, len(sizes), columns)]
        figure.set_figheight(sum((1.85 if columns == 2 else 3.1) + 0.25 * most for most in longest))
        for panel, (backbone, of) in zip(axes, backbones.items(), strict=True):
            for row in of:
                found = part.found[row.name]
                grid, mean, bottom, top = _mean_curve(found)
                text = f"{panels.start(row, part.rows)}\n{part.estimate(row)}"
                said.append(f"{panels.name(row, part.rows)}: AUC {part.estimate(row)}")
                color = look[row.name]["color"]
                panel.fill_between(grid, bottom, top, color=color, alpha=0.13, linewidth=0)
                for edge in (bottom, top):
                    panel.plot(grid, edge, linewidth=0.4, alpha=0.7, color=color, linestyle=look[row.name]["linestyle"])
                # From the corner, where the curve begins: at rate 0 the grid has the top of its first rise.
                x, y = np.append(0, grid), np.append(0, mean)
                at = (11 + 5 * of.index(row), 20)
                panel.plot(x, y, linewidth=1.3, markersize=4, markevery=at, label=text, **look[row.name])
            panel.plot([0, 1], [0, 1], color=style.PALE, linestyle=":", linewidth=1)
            panel.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", anchor="N")
            panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.set_title(panels.wrapped(backbone, 56 // columns), fontweight="bold")
            panel.set_xlabel("False positive rate")
            below = offset_copy(panel.transAxes, figure, x=-20, y=-28, units="points")
            panel.legend(
                loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, borderaxespad=0, borderpad=0,
                handlelength=2.2, labelspacing=0.35,
            )  # fmt: skip
        for panel in axes[::columns]:
            panel.set_ylabel("True positive rate")
    first = next(iter(part.found.values()))
    return Plot(
        figure,
        f"ROC curves. {'; '.join(said)}.",
        f"{part.title}: ROC curves, the mean (vertically) of {panels.seeds(part.found)} on {panels.scans(part.found)}. "
        f"Bands: pointwise {100 * first.level:g} % interval of that mean, {bands.BAND_RESAMPLES:,} bootstrap resamples "
        f"of subjects, within classes. {_of_auc(part)} Dotted: chance. From scratch: dashed.",
    )


def _mean_curve(found: Found) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return false positive rates [101], the mean true positive rate of the seeds at them, and its band."""
    grid, bottom, top = bands.roc_band(
        found.target, found.predictions, np.array(found.subjects), confidence=found.level
    )
    return grid, bands.mean_roc(found.target, found.predictions, np.ones(len(found.target)), grid), bottom, top


def _of_auc(part: Slice) -> str:
    """Say what the numbers beside the curves are."""
    if all(math.isnan(of.low) for of in part.values.values()):
        return "Numbers: the mean AUC of the seeds."
    level = next(iter(part.found.values())).level
    return f"Numbers: the mean AUC of the seeds with DeLong's {100 * level:g} % interval where there is one."


def calibration(part: Slice) -> Plot:
    """Draw the reliability of the mean probability over a row's seeds, a panel for each row."""
    look, said, alone = panels.looks(part.rows), [], True
    columns = 3 if len(part.rows) > 4 else min(2, len(part.rows))
    with style.page_style(**style.SMALL):
        figure, axes = panels.grid(len(part.rows), columns, {1: 3.7, 2: 2.35, 3: 2.05}[columns])
        for panel, row in zip(axes, part.rows, strict=True):
            found = part.found[row.name]
            alone = alone and estimates.independent(found.subjects)
            slope, brier = _reliability(panel, found, look[row.name])
            wrapped = slope.replace(" (", "\n(") if columns == 3 else slope
            title = panels.wrapped(panels.name(row, part.rows), 48 // columns)
            panel.set_title(f"{title}\nslope {wrapped}\nBrier {brier}", fontsize=7, loc="left", linespacing=1.3)
            said.append(f"{panels.name(row, part.rows)}: slope {slope}, Brier score {brier}")
        for i, panel in enumerate(axes):
            if i % columns == 0:
                panel.set_ylabel("Share of class 1")
            else:
                panel.tick_params(labelleft=False)
            if i + columns >= len(axes):
                panel.set_xlabel("Mean probability")
    level = next(iter(part.found.values())).level
    exact = f" with exact {100 * level:g} % intervals" if alone else " (some subjects have several scans: no intervals)"
    wald = " Slopes have Wald's interval." if alone else ""
    return Plot(
        figure,
        f"Calibration. {'; '.join(said)}.",
        f"{part.title}: calibration of the mean probability over {panels.seeds(part.found)}, which is that of the "
        f"seeds together and not of one of them: the share of class 1 in at most 10 bins of about as many of the "
        f"{panels.scans(part.found)}{exact}.{wald} Grey: how many scans have which "
        "probability, of class 0 along the bottom, of class 1 along the top. Dotted: calibrated.",
    )


def _reliability(panel: Axes, found: Found, look: dict[str, Any]) -> tuple[str, str]:
    """Draw one row; returns its slope with its interval, and its Brier score."""
    probability, target = found.predictions.mean(0), found.target
    alone = estimates.independent(found.subjects)
    curve = calibrations.reliability(target, probability, level=found.level)
    x, y, low, high = (np.array([point[name] for point in curve]) for name in ("predicted", "observed", "low", "high"))
    panel.plot([0, 1], [0, 1], color=style.PALE, linestyle=":", linewidth=1)
    if alone:
        panel.vlines(x, low, high, color=look["color"], linewidth=0.8)
    panel.plot(x, y, **{**look, "linewidth": 1.2, "markersize": 3.4})
    edges = np.linspace(0, 1, 21)
    counts = [np.histogram(probability[target == label], edges)[0] for label in (0, 1)]
    tallest = max(int(of.max()) for of in counts)
    for of, foot, up in ((counts[0], -_FOOT, 1), (counts[1], 1 + _FOOT, -1)):
        panel.stairs(foot + up * _TALL * of / tallest, edges, baseline=foot, fill=True, color="#bdbdbd", zorder=1)
    panel.set(xlim=(-0.03, 1.03), ylim=(-_FOOT, 1 + _FOOT), aspect="equal", anchor="N")
    panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    value, low_end, high_end = calibrations.slope(target, probability, level=found.level)
    ends = f" ({low_end:.2f} to {high_end:.2f})" if alone and math.isfinite(value) else ""
    slope = f"{value:.2f}{ends}" if math.isfinite(value) else "undefined"
    return slope, tables.number(calibrations.brier(target, probability), 3)
