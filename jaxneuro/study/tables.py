"""Metrics and predictions as tables of formatted cells, the same in the report and in the terminal."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import rich.table
from rich.text import Text

from jaxneuro.errors import InputError

Fold = Mapping[str, np.ndarray]  # the columns of predictions.csv for one fold, each [scans]

MAIN_METRIC = {"binary": "roc_auc", "multiclass": "roc_auc", "regression": "mae"}
METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "mae": "MAE",
    "rmse": "RMSE",
    "r": "Pearson r",
    "r2": "R²",
    "mae_of_mean": "MAE of predicting the training mean",
}
FOLD_NAMES = {"validation": "validation", "test": "test", "ood": "out-of-distribution"}
FEW_SUBJECTS = 100
SHORT_WORD = 20
LONG_TABLE = 50
NUMBER = re.compile(r"-?\d[\d,]*(\.\d+)?( \(.*\))?")


class Table(NamedTuple):
    """Hold one table of text: every row has a cell for each column; `notes` go under the table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def numeric(self) -> tuple[bool, ...]:
        """Tell for each column whether it holds numbers only, which line up on the right."""
        blank = ("", "undefined", "n/a")
        cells = [[row[i] for row in self.rows if row[i] not in blank] for i in range(len(self.columns))]
        return tuple(bool(column) and all(NUMBER.fullmatch(cell) for cell in column) for column in cells)


def to_rich(table: Table) -> rich.table.Table:
    """Turn a table into one that rich prints; square brackets in a name stay text, not markup."""
    drawn = rich.table.Table(
        title=Text(table.title),
        caption=Text("\n".join(table.notes)) if table.notes else None,
        title_justify="left",
        caption_justify="left",
    )
    for i, (name, numeric) in enumerate(zip(table.columns, table.numeric(), strict=True)):
        # Columns that can break at spaces give way to those of short words, which stay whole.
        words = [name, *(row[i] for row in table.rows)]
        whole = all(" " not in w and len(w) <= SHORT_WORD for w in words)
        drawn.add_column(Text(name), justify="right" if numeric else "left", overflow="fold", no_wrap=whole)
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def cut(table: Table, limit: int = LONG_TABLE, *, rest: str = "") -> Table:
    """Keep the first `limit` rows and say how many there are; `rest` names where the others stand."""
    if len(table.rows) <= limit:
        return table
    said = f"The first {limit} of {len(table.rows):,} rows are shown{'; all are in ' + rest if rest else ''}."
    return table._replace(rows=table.rows[:limit], notes=(*table.notes, said))


def number(value: Any, digits: int = 2) -> str:
    """Format one number, without a minus sign before zero; `n/a` when it is missing or not finite."""
    if not defined(value):
        return "n/a"
    text = f"{float(value):,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def defined(value: Any) -> TypeGuard[float]:
    """Tell whether a value read from JSON is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def estimate(metric: Mapping[str, Any] | None, *, reasons: bool = False) -> str:
    """Format one metric as `0.87 (0.78 to 0.95)`; `undefined`, with its reason on request."""
    if metric is None:
        return "n/a"
    if not defined(metric.get("value")):
        reason = str(metric.get("reason") or "no reason was recorded")
        return f"undefined: {reason.split('undefined: ', 1)[-1]}" if reasons else "undefined"
    value = number(metric["value"])
    if not (defined(metric.get("low")) and defined(metric.get("high"))):
        return f"{value} (no interval)"
    return f"{value} ({number(metric['low'])} to {number(metric['high'])})"


def main_metric(metrics: Mapping[str, Any]) -> str:
    """Name the metric that stands for a task; raises InputError for an unknown kind of task."""
    kind = metrics["task"]["kind"]
    if kind not in MAIN_METRIC:
        raise InputError(f"task kind: found {kind!r}; expected one of {', '.join(sorted(MAIN_METRIC))}")
    return MAIN_METRIC[kind]


def metric_of(fold: Mapping[str, Any], metric: str) -> Mapping[str, Any] | None:
    """Look up one metric of a fold of metrics.json; a fold without metrics gives its own reason."""
    found = fold["metrics"].get(metric)
    return {"value": None, "reason": fold["reason"]} if found is None and fold.get("reason") else found


def metric_name(metric: str, metrics: Mapping[str, Any]) -> str:
    """Give a metric its printed name, with the unit of the target where it has one."""
    name = METRIC_NAMES.get(metric, metric.replace("_", " "))
    unit = metrics["task"].get("unit")
    if metric == "roc_auc" and metrics["task"]["kind"] == "multiclass":
        return f"{name} (macro)"
    return f"{name} ({unit})" if unit and metric in ("mae", "rmse", "mae_of_mean") else name


def fold_name(fold: str) -> str:
    """Give a fold its printed name."""
    return FOLD_NAMES.get(fold, fold)


def fold_order(folds: Iterable[str]) -> list[str]:
    """Order folds as validation, test, out-of-distribution, then any others by name."""
    known = list(FOLD_NAMES)
    return sorted(folds, key=lambda fold: (known.index(fold) if fold in known else len(known), fold))


def level(metrics: Mapping[str, Any]) -> str:
    """Format the level of the intervals, such as `95 %`."""
    return f"{100 * metrics['interval']['level']:g} %"


def other_intervals(metrics: Mapping[str, Any]) -> str:
    """Name the metrics whose interval is not the bootstrap's, by method; "" where there are none."""
    named: dict[str, list[str]] = {}
    for fold in fold_order(metrics["folds"]):
        for name, entry in metrics["folds"][fold]["metrics"].items():
            method = entry.get("method", "bootstrap")
            if method != "bootstrap" and METRIC_NAMES.get(name, name) not in named.setdefault(method, []):
                named[method].append(METRIC_NAMES.get(name, name))
    return "; ".join(f"{', '.join(names)}: {method}" for method, names in named.items())


def summary(metrics: Mapping[str, Any]) -> Table:
    """Sum up one evaluation: a row for each fold with its size and its main metric."""
    table = summary_of_runs([("", metrics)])
    # Run, metric, task and model are the same in every row: they go into the title and the head.
    kept = [index for index, name in enumerate(table.columns) if name not in ("Run", "Metric", "Task", "Model")]
    value = f"{metric_name(main_metric(metrics), metrics)}, {level(metrics)} interval"
    columns = tuple(value if table.columns[index].startswith("Result") else table.columns[index] for index in kept)
    title = f"Summary: task {metrics['task']['name']}, model {metrics['model']['name']}"
    rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
    return Table(title, columns, rows, table.notes)


def summary_of_runs(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """Sum up (name, metrics) pairs in one table: a row for each run and fold, notes on wide intervals."""
    levels = {level(metrics) for _, metrics in runs}
    interval = f"{levels.pop()} interval" if len(levels) == 1 else "interval"
    # The result comes before the sizes so that a phone shows it without scrolling.
    columns = ["Run", "Fold", f"Result ({interval})", "Metric", "Scans", "Subjects", "Task", "Model"]
    with_mean = any(metrics["task"]["kind"] == "regression" for _, metrics in runs)
    if with_mean:
        columns.insert(4, "Predicting the training mean")
    rows, wide = [], []
    for name, metrics in runs:
        metric = main_metric(metrics)
        for fold in fold_order(metrics["folds"]):
            entry = metrics["folds"][fold]
            found = metric_of(entry, metric)
            row = [name, fold_name(fold), estimate(found, reasons=True), metric_name(metric, metrics)]
            if with_mean:
                mean = estimate(metric_of(entry, "mae_of_mean"))
                row.append(mean if metrics["task"]["kind"] == "regression" else "")
            row += [f"{entry['scans']:,}", f"{entry['subjects']:,}"]
            rows.append((*row, metrics["task"]["name"], metrics["model"]["name"]))
            width = interval_width(found)
            if fold != "validation" and entry["subjects"] < FEW_SUBJECTS and width is not None:
                wide.append(f"{name} {fold_name(fold)} (n = {entry['subjects']}) {number(width)}".strip())
    notes = []
    if any("validation" in metrics["folds"] for _, metrics in runs):
        notes.append("Validation chose the checkpoint or the threshold, so its own values are optimistic.")
    if wide:
        notes.append(
            f"Few subjects make wide intervals: {'; '.join(wide)} from end to end. "
            "Smaller differences between runs may be noise."
        )
    return Table("Summary", tuple(columns), tuple(rows), tuple(notes))


def probe(result: Mapping[str, Any]) -> Table:
    """Compare probes of a trained and an untrained network: a row for each fold with its main metric."""
    metric, unit = main_metric(result), metric_name(main_metric(result), result)
    regression = result["task"]["kind"] == "regression"
    rows = []
    for fold in fold_order(result["trained"]["folds"]):
        here, there = (result[network]["folds"][fold] for network in ("trained", "untrained"))
        nothing = number((metric_of(here, "mae_of_mean") or {}).get("value")) if regression else number(0.5)
        cells = (estimate(metric_of(here, metric), reasons=True), estimate(metric_of(there, metric)), nothing)
        rows.append((fold_name(fold), *cells, f"{here['scans']:,}"))
    columns = (
        "Fold",
        f"{unit}, {level(result)} interval",
        "Untrained network",
        "Training mean" if regression else "Chance",
        "Scans",
    )
    model, scans = result["model"], result["probe"]["folds"]["train"]
    penalties = " and ".join(f"{result[network]['penalty']:g} ({network})" for network in ("trained", "untrained"))
    notes = (
        f"{result['probe']['model'].capitalize()}, of {model['features']:,} features, fitted to {scans:,} scans.",
        f"Penalties: {penalties}, chosen on validation.",
    )
    return Table(f"Probe: task {result['task']['name']}, features of {model['name']}", columns, tuple(rows), notes)


def maps(result: Mapping[str, Any]) -> Table:
    """Compare maps with where the effect is, a row for each group and network; without a truth, tell their peaks."""
    rows: list[tuple[str, ...]] = []
    title = f"{result['method'].capitalize()} of the {result['explains']}: task {result['task']['name']}"
    scored = {group: told["truth"] for group, told in result["groups"].items() if "trained" in told.get("truth", {})}
    if not scored:
        for group, told in result["groups"].items():
            rows.append((group, f"{told['scans']:,}", " ".join(f"{v:.0f}" for v in told["peak_mm"])))
        return Table(title, ("Group", "Scans", "Peak, mm"), tuple(rows))
    of_map = ("share", "auc", "size_share", "size_auc", "distance_mm")
    for group, truth in scored.items():
        scans = f"{result['groups'][group]['scans']:,}"
        for network in ("trained", "untrained"):
            if network in truth:
                whole, single = truth[network]["group_map"], truth[network]["mean_of_scans"] or {}
                cells = (*(whole[k] for k in of_map), single.get("hit"))
                rows.append((group, scans, network, *(number(v) for v in cells)))
        drawn = truth["random"]["mean"]
        cells = (*(drawn[k] for k in of_map), truth["chance"]["hit"])
        rows.append((group, scans, "chance", *(number(v) for v in cells)))
    notes = (
        "Share of the map's positive values that lie in the region, and AUC of its values;",
        "|.|: of absolute values; mm from the map's peak to the region;",
        "hits: share of a scan's peak, the voxels that have its largest value, in the region or within "
        f"{result['tolerance_mm']:g} mm.",
        "Chance: of random maps; of hits, that of a peak anywhere in the brain.",
    )
    columns = ("Group", "Scans", "Network", "Share", "AUC", "|Share|", "|AUC|", "mm", "Hits")
    return Table(title, columns, tuple(rows), notes)


def interval_width(metric: Mapping[str, Any] | None) -> float | None:
    """Measure an interval from end to end; None when there is none."""
    low, high = ((metric or {}).get(end) for end in ("low", "high"))
    return high - low if defined(low) and defined(high) else None
