"""Figures of one run's report: ROC curves, age scatter, calibration, confusion matrix.

Each returns a `Drawing`; where there is nothing to draw its `svg` is empty and its caption says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from scipy.stats import spearmanr
from sklearn.metrics import confusion_matrix, roc_curve

from jaxneuro.study import run_tables, tables
from jaxneuro.study.figures import bands, style
from jaxneuro.study.figures.style import Drawing
from jaxneuro.study.tables import Fold

MOST_POINTS = 2000


def drawn_folds(folds: Mapping[str, Fold]) -> list[str]:
    """Name the folds to draw: all but validation, unless there is only validation."""
    return [fold for fold in tables.fold_order(folds) if fold != "validation"] or list(folds)


def roc(key: str, metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Drawing:
    """Draw the ROC curves of a binary task with bootstrap bands and the operating point of the threshold."""
    threshold, undefined, drawn, said = metrics.get("threshold"), [], [], []
    low, high = metrics["task"]["classes"] or ("0", "1")
    with style.page_style():
        figure = style.new_figure(4.9)
        axes = figure.add_subplot()
        for fold in drawn_folds(folds):
            target, prediction = folds[fold]["target"], folds[fold]["prediction"]
            name, look = tables.fold_name(fold), style.look(fold)
            if len(set(target.tolist())) < 2:
                undefined.append(f"{name} is not drawn: it holds one class.")
                continue
            drawn.append(fold)
            recorded = metrics["folds"].get(fold, {}).get("metrics", {}).get("roc_auc")
            said.append(f"{name}: AUC {tables.estimate(recorded)}, n = {len(target):,}")
            grid, bottom, top = bands.roc_band(
                target, prediction, folds[fold]["subject"], confidence=metrics["interval"]["level"]
            )
            line = {"color": look["color"], "linestyle": look["linestyle"]}
            axes.fill_between(grid, bottom, top, color=look["color"], alpha=0.13, linewidth=0)
            for edge in (bottom, top):
                axes.plot(grid, edge, linewidth=0.5, alpha=0.7, **line)
            false_rate, true_rate, _ = roc_curve(target, prediction)
            axes.plot(false_rate, true_rate, linewidth=1.8, label=said[-1], **line)
            if threshold:
                counts = run_tables.confusion_counts(target, prediction, threshold["value"])
                hit, missed, false_alarm, right = counts
                point = (false_alarm / (false_alarm + right), hit / (hit + missed))
                label = f"{name}, threshold {tables.number(threshold['value'], 3)}"
                rim = {"markeredgecolor": look["color"], "markeredgewidth": 1.8, "markersize": 9}
                mark = {"linestyle": "none", "markerfacecolor": "white", "zorder": 5, **rim}
                axes.plot(*point, look["marker"], label=label, **mark)
        if not drawn:
            return Drawing("", "There is no ROC curve. " + " ".join(undefined))
        axes.plot([0, 1], [0, 1], color=style.PALE, linestyle=":", linewidth=1.2, label="chance")
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), aspect="equal")
        axes.set_xlabel(f"False positive rate: {low} called {high}")
        axes.set_ylabel(f"True positive rate: {high} called {high}")
        style.legend(figure, axes)
        svg = style.to_svg(figure, key, f"ROC curves of {high} against {low}. {'; '.join(said)}.")
    marks = " Open markers: the operating point of the threshold." if threshold else ""
    if threshold and threshold.get("chosen_on"):
        marks = f" Open markers: the threshold chosen on {threshold['chosen_on']}, applied unchanged."
    caption = (
        f"ROC curves. Bands: pointwise {tables.level(metrics)} interval, {bands.BAND_RESAMPLES:,} bootstrap "
        f"resamples of subjects, within classes.{marks}"
    )
    return Drawing(svg, " ".join([caption, *undefined]))


def regression(key: str, metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Drawing:
    """Draw predicted against true values with the identity line, and below it the gap."""
    name, unit = metrics["task"]["target"], metrics["task"].get("unit")
    units = f" ({unit})" if unit else ""
    names = [fold for fold in drawn_folds(folds) if len(folds[fold]["target"])]
    if not names:
        return Drawing("", "There is no scatter: predictions.csv holds no usable row.")
    rng, said, thinned = np.random.default_rng(0), [], ""
    with style.page_style():
        figure = style.new_figure(6.6)
        scatter, gaps = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
        values = np.concatenate([folds[fold][column] for fold in names for column in ("target", "prediction")])
        margin = 0.04 * (np.ptp(values) or 1)
        ends = (values.min() - margin, values.max() + margin)
        for fold in names:
            target, prediction = folds[fold]["target"], folds[fold]["prediction"]
            look, title = style.look(fold), tables.fold_name(fold)
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
        identity = {"color": style.INK, "linewidth": 1.2, "zorder": 3, "linestyle": (0, (6, 2))}
        scatter.plot(ends, ends, label="identity: predicted = true", **identity)
        gaps.axhline(0, **identity)
        # Not aspect="equal": it would shrink this panel alone, and the two share an axis.
        scatter.set(xlim=ends, ylim=ends, ylabel=f"Predicted {name}{units}")
        gaps.set(xlabel=f"True {name}{units}", ylabel=f"Gap{units}")
        figure.align_ylabels()
        style.legend(figure, scatter)
        svg = style.to_svg(figure, key, f"Predicted against true {name}. {'; '.join(said)}.")
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


def calibration(key: str, metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Drawing | None:
    """Draw the reliability curve of a binary task, and below it how its predictions are spread.

    None where no fold of metrics.json has a curve, as in results of older versions.
    """
    _, high = metrics["task"]["classes"] or ("0", "1")
    curves = {fold: metrics["folds"].get(fold, {}).get("calibration", {}).get("curve") for fold in drawn_folds(folds)}
    curves = {fold: curve for fold, curve in curves.items() if curve}
    if not curves:
        return None
    said, bare = [], []
    with style.page_style():
        figure = style.new_figure(5.9)
        reliability, spread = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        for fold, curve in curves.items():
            look, name = style.look(fold), tables.fold_name(fold)
            entry = metrics["folds"][fold]["calibration"]
            said.append(f"{name}: slope {tables.estimate(entry['slope'])}, n = {metrics['folds'][fold]['scans']:,}")
            line = {"color": look["color"], "linestyle": look["linestyle"]}
            _reliability(reliability, curve, label=said[-1], markersize=4.5, linewidth=1.4, **look)
            if curve[0]["low"] is None:
                bare.append(name)
            spread.hist(folds[fold]["prediction"], np.linspace(0, 1, 21), histtype="step", linewidth=1.4, **line)
        identity = {"color": style.PALE, "linestyle": ":", "linewidth": 1.2}
        reliability.plot([0, 1], [0, 1], label="calibrated", **identity)
        # Not aspect="equal": it would shrink this panel alone, and the two share an axis.
        reliability.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015), ylabel=f"Share of {high}")
        spread.set(xlabel=f"Predicted probability of {high}", ylabel="Scans")
        spread.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        figure.align_ylabels()
        style.legend(figure, reliability)
        svg = style.to_svg(figure, key, f"Calibration of {high}. {'; '.join(said)}.")
    exact = f", with exact {tables.level(metrics)} intervals" if len(bare) < len(curves) else ""
    without = f" Of {' and '.join(bare)} there are none: some subjects have several scans." if bare and exact else ""
    return Drawing(
        svg,
        f"Calibration. Above: the share of {high} in bins of about as many scans by predicted probability{exact}."
        f"{without} Below: how many scans have which probability.",
    )


def _reliability(axes: Axes, curve: Sequence[Mapping[str, Any]], *, label: str, **look: Any) -> None:
    """Plot the points of a reliability curve, with intervals where it has any."""
    x, y = (np.array([point[name] for point in curve]) for name in ("predicted", "observed"))
    axes.plot(x, y, label=label, **look)
    if curve[0]["low"] is not None:
        axes.vlines(x, [p["low"] for p in curve], [p["high"] for p in curve], color=look["color"], linewidth=1)


def confusion(key: str, metrics: Mapping[str, Any], fold: str, columns: Fold) -> Drawing:
    """Draw the confusion matrix of one fold: counts, shaded by the share of the true class."""
    classes, name = metrics["task"]["classes"], tables.fold_name(fold)
    if not len(columns["target"]):
        return Drawing("", f"There is no confusion matrix of {name}: predictions.csv holds no scan of it.")
    counts = confusion_matrix(columns["target"], columns["prediction"], labels=range(len(classes)))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    with style.page_style():
        figure = style.new_figure(3.9)
        axes = figure.add_subplot()
        edges = np.arange(len(classes) + 1) - 0.5
        axes.pcolormesh(edges, edges, share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axes.set(aspect="equal", ylim=(edges[-1], edges[0]))
        axes.grid(False)
        axes.spines[:].set_visible(False)
        for row, column in np.ndindex(counts.shape):
            color = "white" if share[row, column] > 0.62 else style.INK
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
        svg = style.to_svg(figure, key, f"Confusion matrix of {name}. {said}.")
    return Drawing(svg, f"Confusion matrix of {name}: scans, and the share of each true class in per cent.")
