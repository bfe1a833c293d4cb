"""Learning curves from the lines of metrics.jsonl: of one run, and of the rows of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxneuro.study import tables
from jaxneuro.study.figures import panels, style
from jaxneuro.study.figures.style import Drawing, Plot
from jaxneuro.study.spec import Row

Series = tuple[np.ndarray, np.ndarray]  # steps [n] and values [n]


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
    with style.page_style():
        figure = style.new_figure(4.9 if upper and lower else 3.2)
        panels = list(np.atleast_1d(figure.subplots(bool(upper) + bool(lower), 1, sharex=True)))
        if upper:
            line = {"color": style.INK, "linestyle": "-", "marker": "o" if len(loss[0]) == 1 else ""}
            said += _curve(panels[0], "training", "loss", loss, line)
            said += _curve(panels[0], "validation", "loss", validation_loss, style.LOOKS["validation"])
            panels[0].set(ylabel="Loss")
        if lower:
            label = tables.metric_name(name, metrics)
            said += _curve(panels[-1], "validation", label, scores, style.LOOKS["validation"])
            panels[-1].set(ylabel=label)
        else:
            missing = " metrics.jsonl holds no validation metric."
        if "step" in chosen:
            for axes in panels:
                axes.axvline(
                    chosen["step"], color=style.PALE, linestyle=":", linewidth=1.4, label="evaluated checkpoint"
                )
        panels[-1].set(xlabel="Training step")
        panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        handles: dict[str, Artist] = {}
        for axes in panels:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        columns = {"ncols": len(handles), "columnspacing": 1.2}
        figure.legend(handles.values(), handles.keys(), loc="outside lower left", handlelength=3.2, **columns)
        svg = style.to_svg(figure, key, f"Learning curve: {'; '.join(said)}.")
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


def of_rows(title: str, metric: str, rows: Sequence[Row], logs: Mapping[str, Sequence[Series]]) -> Plot:
    """Draw the validation metric of every seed by training step, a panel for each backbone.

    Args:
      title: task, as captions have it.
      metric: its printed name.
      rows: those that have a curve, in the study's order.
      logs: row to steps and values of each seed.
    """
    look, backbones, said = panels.looks(rows), panels.by_backbone(rows), []
    columns = min(2, len(backbones))
    with style.page_style(**style.SMALL):
        figure, axes = panels.grid(len(backbones), columns, 1.75 if columns == 2 else 2.6)
        starts = len({panels.start(row, rows) for row in rows})
        figure.set_figheight(figure.get_figheight() + 0.15 + 0.15 * -(-starts // 2))
        handles: dict[str, Artist] = {}
        for panel, (backbone, of) in zip(axes, backbones.items(), strict=True):
            for row in of:
                for steps, values in logs[row.name]:
                    mark = max(1, len(steps) // 4)
                    [line] = panel.plot(
                        steps,
                        values,
                        linewidth=0.8,
                        markersize=3,
                        markevery=mark,
                        markeredgewidth=0.7,
                        **look[row.name],
                    )
                    handles.setdefault(panels.wrapped(panels.start(row, rows), 22), line)
                last = ", ".join(f"{values[-1]:.3g}" for _, values in logs[row.name])
                said.append(f"{panels.name(row, rows)}: at the end {last}")
            panel.set_title(panels.wrapped(backbone, 56 // columns), fontweight="bold")
            panel.set_xlabel("Training step")
            panel.locator_params(nbins=4)
        ends = [end for panel in axes for end in panel.get_ylim()]
        for i, panel in enumerate(axes):
            panel.set_ylim(min(ends), max(ends))
            if i % columns == 0:
                panel.set_ylabel(metric)
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=2, handlelength=3, columnspacing=1.2
        )
    counts = sorted({len(of) for of in logs.values()})
    many = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return Plot(
        figure,
        f"Learning curves. {'; '.join(said)}.",
        f"{title}: {metric} on validation by training step, a line for each seed ({many} a row). The best checkpoint "
        "is chosen by this curve, so it is no result. From scratch: hollow and dashed.",
    )
