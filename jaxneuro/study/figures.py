"""Figures of the report as inline SVG: ROC curves, age scatter, confusion matrix, learning curve.

Each returns a `Drawing`; where there is nothing to draw its `svg` is empty and its caption says why.
Folds differ by line style and marker as well as by colour, so that a grey print stays readable.
"""

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, roc_curve

from jaxneuro.study import tables
from jaxneuro.study.tables import Fold

WIDTH = 4.6  # inches; a column of the page, so that 9 point text stays 9 point
INK, PALE = "#333333", "#8a8a8a"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
LOOKS = {
    "test": {"color": "#0072B2", "linestyle": "-", "marker": "o"},
    "ood": {"color": "#D55E00", "linestyle": "--", "marker": "^"},
    "validation": {"color": "#009E73", "linestyle": "-.", "marker": "s"},
}
OTHER_LOOK = {"color": "#CC79A7", "linestyle": ":", "marker": "D"}
STYLE = {
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxneuro",
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a class may be called "$5"
}
BAND_RESAMPLES = 2000
MOST_POINTS = 2000


class Drawing(NamedTuple):
    """Hold one figure: its SVG ("" when there is nothing to draw) and the caption, a sentence or two."""

    svg: str
    caption: str


@contextmanager
def _page_style() -> Iterator[None]:
    """Draw with the style of the report whatever the reader's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def to_svg(figure: Figure, key: str, description: str) -> str:
    """Render a figure as one `<svg>` element for a page; `key` makes its ids unique on that page."""
    FigureCanvasSVG(figure)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    # A <style> inside one svg applies to the whole page: the root carries the same two properties instead.
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg)
    svg = re.sub(r"url\(#", f"url(#{key}-", svg)
    svg = re.sub(r"\n\s*\n", "\n", svg)
    head, body = svg.split(">", 1)
    [box] = re.findall(r'viewBox="[^"]*"', head)
    label = html.escape(description, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box} '
        f'role="img" aria-label="{label}" style="stroke-linejoin:round;stroke-linecap:butt">{body}'
    )


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _look(fold: str) -> dict[str, Any]:
    return LOOKS.get(fold, OTHER_LOOK)


def drawn_folds(folds: Mapping[str, Fold]) -> list[str]:
    """Name the folds to draw: all but validation, unless there is only validation."""
    return [fold for fold in tables.fold_order(folds) if fold != "validation"] or list(folds)


def _legend(figure: Figure, axes: Axes) -> None:
    # Below the axes, where it cannot cover data however many folds there are.
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", handlelength=3.2)


def roc(key: str, metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Drawing:
    """Draw the ROC curves of a binary task with bootstrap bands and the operating point of the threshold."""
    threshold, undefined, drawn, said = metrics.get("threshold"), [], [], []
    low, high = metrics["task"]["classes"] or ("0", "1")
    with _page_style():
        figure = _figure(4.9)
        axes = figure.add_subplot()
        for fold in drawn_folds(folds):
            target, prediction = folds[fold]["target"], folds[fold]["prediction"]
            name, look = tables.fold_name(fold), _look(fold)
            if len(set(target.tolist())) < 2:
                undefined.append(f"{name} is not drawn: it holds one class.")
                continue
            drawn.append(fold)
            recorded = metrics["folds"].get(fold, {}).get("metrics", {}).get("roc_auc")
            said.append(f"{name}: AUC {tables.estimate(recorded)}, n = {len(target):,}")
            grid, bottom, top = roc_band(
                target, prediction, folds[fold]["subject"], confidence=metrics["interval"]["level"]
            )
            line = {"color": look["color"], "linestyle": look["linestyle"]}
            axes.fill_between(grid, bottom, top, color=look["color"], alpha=0.13, linewidth=0)
            for edge in (bottom, top):
                axes.plot(grid, edge, linewidth=0.5, alpha=0.7, **line)
            false_rate, true_rate, _ = roc_curve(target, prediction)
            axes.plot(false_rate, true_rate, linewidth=1.8, label=said[-1], **line)
            if threshold:
                counts = tables.confusion_counts(target, prediction, threshold["value"])
                hit, missed, false_alarm, right = counts
                point = (false_alarm / (false_alarm + right), hit / (hit + missed))
                label = f"{name}, threshold {tables.number(threshold['value'], 3)}"
                rim = {"markeredgecolor": look["color"], "markeredgewidth": 1.8, "markersize": 9}
                mark = {"linestyle": "none", "markerfacecolor": "white", "zorder": 5, **rim}
                axes.plot(*point, look["marker"], label=label, **mark)
        if not drawn:
            return Drawing("", "There is no ROC curve. " + " ".join(undefined))
        axes.plot([0, 1], [0, 1], color=PALE, linestyle=":", linewidth=1.2, label="chance")
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
        axes.set_xlabel(f"False positive rate: {low} called {high}")
        axes.set_ylabel(f"True positive rate: {high} called {high}")
        _legend(figure, axes)
        svg = to_svg(figure, key, f"ROC curves of {high} against {low}. {'; '.join(said)}.")
    marks = " Open markers: the operating point of the threshold." if threshold else ""
    if threshold and threshold.get("chosen_on"):
        marks = f" Open markers: the threshold chosen on {threshold['chosen_on']}, applied unchanged."
    caption = (
        f"ROC curves. Bands: pointwise {tables.level(metrics)} interval, {BAND_RESAMPLES:,} bootstrap "
        f"resamples of subjects, within classes.{marks}"
    )
    return Drawing(svg, " ".join([caption, *undefined]))


def roc_band(
    target: np.ndarray, prediction: np.ndarray, subject: np.ndarray, *, confidence: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bootstrap the ROC curve over subjects: false positive rates [101] and both ends of the band [101].

    `target`, `prediction` and `subject` are [scans]. Subjects are drawn within classes (a subject's first
    scan tells which), as for the intervals. Raises ValueError when the scans hold one class.
    """
    if np.ptp(target) == 0:
        raise ValueError("an ROC curve needs both classes: every scan is of one")
    rng, grid = np.random.default_rng(seed), np.linspace(0, 1, 101)
    names, first, owner = np.unique(subject, return_index=True, return_inverse=True)
    pools = [np.flatnonzero(target[first] == label) for label in np.unique(target[first])]
    curves: list[np.ndarray] = []
    while len(curves) < BAND_RESAMPLES:
        drawn = np.concatenate([pool[rng.integers(len(pool), size=len(pool))] for pool in pools])
        weight = np.bincount(drawn, minlength=len(names))[owner]
        if np.ptp(target[weight > 0]) > 0:
            curves.append(weighted_roc(target, prediction, weight, grid))
    bottom, top = np.quantile(curves, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return grid, bottom, top


def weighted_roc(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Read true positive rates [n] at the false positive rates `grid` [n] off a weighted ROC curve.

    `target` (0 or 1), `prediction` and `weight` are [scans]. It is sklearn's curve, without the checks that
    make thousands of resamples slow.
    """
    order = np.argsort(-prediction, kind="stable")
    # Scans of one prediction cross a threshold together: only the last of each counts.
    last = np.append(np.flatnonzero(np.diff(prediction[order])), len(order) - 1)
    hits = np.append(0, np.cumsum((weight * (target == 1))[order])[last])
    alarms = np.append(0, np.cumsum((weight * (target == 0))[order])[last])
    return np.interp(grid, alarms / alarms[-1], hits / hits[-1])


def regression(key: str, metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Drawing:
    """Draw predicted against true values with the identity line, and below it the gap."""
    name, unit = metrics["task"]["target"], metrics["task"].get("unit")
    units = f" ({unit})" if unit else ""
    names = [fold for fold in drawn_folds(folds) if len(folds[fold]["target"])]
    if not names:
        return Drawing("", "There is no scatter: predictions.csv holds no usable row.")
    rng, said, thinned = np.random.default_rng(0), [], ""
    with _page_style():
        figure = _figure(6.6)
        scatter, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
        values = np.concatenate([folds[fold][column] for fold in names for column in ("target", "prediction")])
        margin = 0.04 * (np.ptp(values) or 1)
        ends = (values.min() - margin, values.max() + margin)
        for fold in names:
            target, prediction = folds[fold]["target"], folds[fold]["prediction"]
            look, title = _look(fold), tables.fold_name(fold)
            mae = tables.estimate(metrics["folds"].get(fold, {}).get("metrics", {}).get("mae"))
            said.append(f"{title}: MAE {mae}{' ' + unit if unit else ''}, n = {len(target):,}")
            shown = np.arange(len(target))
            if len(target) > MOST_POINTS:
                shown = np.sort(rng.choice(len(target), MOST_POINTS, replace=False))
                thinned += f" {MOST_POINTS:,} of the {len(target):,} scans of {title} are drawn."
            face = look["color"] if fold == "test" else "none"
            points = {"marker": look["marker"], "linestyle": "none", "markeredgewidth": 0.9}
            points |= {"markerfacecolor": face, "markeredgecolor": look["color"]}
            scatter.plot(target[shown], prediction[shown], label=said[-1], markersize=4, alpha=0.65, **points)
            gaps.plot(target[shown], (prediction - target)[shown], markersize=2.5, alpha=0.45, **points)
            if len(target) > 2 and np.ptp(target) > 0:
                slope, start = np.polyfit(target, prediction - target, 1)
                across = np.array([target.min(), target.max()])
                line = {"color": look["color"], "linestyle": look["linestyle"], "linewidth": 2}
                # A white rim lifts the fit off the points and off the fit of the other fold.
                rim = [withStroke(linewidth=4, foreground="white")]
                gaps.plot(across, slope * across + start, zorder=4, path_effects=rim, **line)
        identity = {"color": INK, "linewidth": 1.2, "zorder": 3, "linestyle": (0, (6, 2))}
        scatter.plot(ends, ends, label="identity: predicted = true", **identity)
        gaps.axhline(0, **identity)
        # Not aspect="equal": it would shrink this panel alone, and the two share an axis.
        scatter.set(xlim=ends, ylim=ends, ylabel=f"Predicted {name}{units}")
        gaps.set(xlabel=f"True {name}{units}", ylabel=f"Gap{units}")
        figure.align_ylabels()
        _legend(figure, scatter)
        svg = to_svg(figure, key, f"Predicted against true {name}. {'; '.join(said)}.")
    rhos = [f"{tables.fold_name(fold)} {rho}" for fold in names if (rho := gap_correlation(folds[fold]))]
    rho = f" Spearman correlation of the gap with the true value: {', '.join(rhos)}." if rhos else ""
    caption = (
        f"Above: predicted against true {name}, not corrected for bias. Below: the gap (predicted minus "
        f"true) with a straight fit for each fold.{rho}{thinned}"
    )
    return Drawing(svg, caption)


def gap_correlation(fold: Fold) -> str:
    """Format Spearman's rho of gap and true value; "" with fewer than three scans or without spread."""
    target, gap = fold["target"], fold["prediction"] - fold["target"]
    if len(target) < 3 or np.ptp(target) == 0 or np.ptp(gap) == 0:
        return ""
    return tables.number(float(spearmanr(target, gap).statistic))


def confusion(key: str, metrics: Mapping[str, Any], fold: str, columns: Fold) -> Drawing:
    """Draw the confusion matrix of one fold: counts, shaded by the share of the true class."""
    classes, name = metrics["task"]["classes"], tables.fold_name(fold)
    if not len(columns["target"]):
        return Drawing("", f"There is no confusion matrix of {name}: predictions.csv holds no scan of it.")
    counts = confusion_matrix(columns["target"], columns["prediction"], labels=range(len(classes)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with _page_style():
        figure = _figure(3.9)
        axes = figure.add_subplot()
        edges = np.arange(len(classes) + 1) - 0.5
        axes.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axes.set(aspect="equal", ylim=(edges[-1], edges[0]))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(counts.shape):
            color = "white" if share[row, column] > 0.62 else INK
            text = f"{counts[row, column]:,}\n{100 * share[row, column]:.0f} %"
            size = 10 if len(classes) < 6 else 7
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size)
        axes.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) < 6 else 45)
        axes.set_yticks(range(len(classes)), classes)
        axes.tick_params(length=0)
        axes.set(xlabel="Predicted class", ylabel="True class", title=f"{name}, n = {counts.sum():,}")
        axes.title.set_fontsize(10)
        said = "; ".join(
            f"{true} called {called}: {counts[row, column]}"
            for row, true in enumerate(classes)
            for column, called in enumerate(classes)
        )
        svg = to_svg(figure, key, f"Confusion matrix of {name}. {said}.")
    return Drawing(svg, f"Confusion matrix of {name}: scans, and the share of each true class in per cent.")


def learning_curve(key: str, metrics: Mapping[str, Any], log: Sequence[Mapping[str, Any]]) -> Drawing:
    """Draw training loss and the validation metric against step from the lines of metrics.jsonl."""
    chosen = metrics.get("checkpoint") or {}
    loss = series(log, "train/loss")
    validation_loss = series(log, "validation/loss")
    name, scores = _validation_series(metrics, log)
    upper, lower = len(loss[0]) or len(validation_loss[0]), len(scores[0])
    if not upper and not lower:
        return Drawing("", "There is no learning curve: metrics.jsonl holds no loss and no validation metric.")
    said, missing = [], ""
    with _page_style():
        figure = _figure(4.9 if upper and lower else 3.2)
        panels = list(np.atleast_1d(figure.subplots(bool(upper) + bool(lower), 1, sharex=True)))
        if upper:
            line = {"color": INK, "linestyle": "-", "marker": "o" if len(loss[0]) == 1 else ""}
            said += _curve(panels[0], "training", "loss", loss, line)
            said += _curve(panels[0], "validation", "loss", validation_loss, LOOKS["validation"])
            panels[0].set(ylabel="Loss")
        if lower:
            label = tables.metric_name(name, metrics)
            said += _curve(panels[-1], "validation", label, scores, LOOKS["validation"])
            panels[-1].set(ylabel=label)
        else:
            missing = " metrics.jsonl holds no validation metric."
        if "step" in chosen:
            for axes in panels:
                axes.axvline(chosen["step"], color=PALE, linestyle=":", linewidth=1.4, label="evaluated checkpoint")
        panels[-1].set(xlabel="Training step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        handles: dict[str, Artist] = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        columns = {"ncols": len(handles), "columnspacing": 1.2}
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", handlelength=3.2, **columns)
        svg = to_svg(figure, key, f"Learning curve: {'; '.join(said)}.")
    at = f" Dotted: the evaluated checkpoint, step {chosen['step']:,}." if "step" in chosen else ""
    return Drawing(svg, f"Learning curve.{at}{missing}")


def _curve(axes: Axes, who: str, what: str, found: tuple[np.ndarray, np.ndarray], look: Mapping[str, Any]) -> list[str]:
    """Plot one series unless it is empty, and describe it in a list of no or one phrase."""
    steps, values = found
    if not len(steps):
        return []
    axes.plot(steps, values, label=who, linewidth=1.5, markersize=4, **look)
    return [f"{who} {what} from {values[0]:.3g} to {values[-1]:.3g}"]


def series(log: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Collect the steps [n] and finite values [n] of one metric; a step logged again keeps its last value."""
    found = {line["step"]: line[name] for line in log if "step" in line and tables.defined(line.get(name))}
    steps = sorted(found)
    return np.array(steps, dtype=float), np.array([found[step] for step in steps], dtype=float)


def _validation_series(
    metrics: Mapping[str, Any], log: Sequence[Mapping[str, Any]]
) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """Find the validation metric to draw: the one that chose the checkpoint, the main one or the first."""
    chosen = str((metrics.get("checkpoint") or {}).get("chosen_by") or "")
    logged = [name for line in log for name in line]
    for name in dict.fromkeys([chosen, f"validation/{tables.main_metric(metrics)}", *logged]):
        if name.startswith("validation/") and name != "validation/loss":
            found = series(log, name)
            if len(found[0]):
                return name.removeprefix("validation/"), found
    return "", (np.array([]), np.array([]))
