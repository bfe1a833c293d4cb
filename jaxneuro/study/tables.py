"""Metrics and predictions as tables of formatted cells, the same in the report and in the terminal."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import rich.table
from rich.text import Text
from sklearn.metrics import roc_auc_score

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
        f"hits: share of scans whose peak is in the region or within {result['tolerance_mm']:g} mm.",
        "Chance: of random maps; of hits, that of a peak anywhere in the brain.",
    )
    columns = ("Group", "Scans", "Network", "Share", "AUC", "|Share|", "|AUC|", "mm", "Hits")
    return Table(title, columns, tuple(rows), notes)


def interval_width(metric: Mapping[str, Any] | None) -> float | None:
    """Measure an interval from end to end; None when there is none."""
    low, high = ((metric or {}).get(end) for end in ("low", "high"))
    return high - low if defined(low) and defined(high) else None


def all_metrics(metrics: Mapping[str, Any]) -> Table:
    """List every metric of every fold with its interval; notes hold the reasons of the undefined ones."""
    folds = fold_order(metrics["folds"])
    names = list(dict.fromkeys(name for fold in folds for name in metrics["folds"][fold]["metrics"]))
    rows, notes = [], []
    for name in names:
        cells = [metric_of(metrics["folds"][fold], name) for fold in folds]
        rows.append((metric_name(name, metrics), *(estimate(cell) for cell in cells)))
    for fold in folds:
        cells = [metric_of(metrics["folds"][fold], name) for name in names]
        undefined = [cell for cell in cells if cell is not None and estimate(cell) == "undefined"]
        reasons = [cell.get("reason") or "no reason was recorded" for cell in undefined]
        notes += [f"{fold_name(fold)}: {reason}" for reason in dict.fromkeys(reasons)]
    head = tuple(f"{fold_name(fold)} (n = {metrics['folds'][fold]['scans']:,})" for fold in folds)
    title = f"All metrics, with {level(metrics)} intervals"
    return Table(title, ("Metric", *head), tuple(rows), tuple(notes))


def who(metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Table:
    """Describe who is in each fold: sizes, sites, age, sex, and scans a class."""
    classes = metrics["task"].get("classes") or []
    rows = []
    for fold in fold_order(metrics["folds"]):
        entry, predictions = metrics["folds"][fold], folds.get(fold, {})
        ages = _numbers(predictions.get("age", ()))
        age = f"{ages.mean():.1f} ({ages.min():.0f} to {ages.max():.0f})" if ages.size else "n/a"
        sexes = Counter(_stated(sex) for sex in predictions.get("sex", ()))
        sex = ", ".join(f"{count:,} {name}" for name, count in sorted(sexes.items())) or "n/a"
        sites = ", ".join(map(str, entry.get("sites") or [])) or "n/a"
        counts = entry.get("class_counts") or {}
        scans = [f"{counts[name]:,}" if name in counts else "n/a" for name in classes]
        rows.append((fold_name(fold), f"{entry['scans']:,}", f"{entry['subjects']:,}", sites, age, sex, *scans))
    columns = ("Fold", "Scans", "Subjects", "Sites", "Age, mean (range), years", "Sex", *classes)
    return Table("Who is in each fold", columns, tuple(rows))


def _stated(cell: Any) -> str:
    """Spell out a missing cell of predictions.csv."""
    return "not stated" if str(cell) in ("", "n/a") else str(cell)


def _numbers(cells: Iterable[Any]) -> np.ndarray:
    """Convert text cells to the finite numbers among them."""
    found = []
    for cell in cells:
        try:
            found.append(float(cell))
        except ValueError:
            continue
    values = np.array(found, dtype=float)
    return values[np.isfinite(values)]


def confusion_counts(target: np.ndarray, prediction: np.ndarray, threshold: float) -> tuple[int, int, int, int]:
    """Count true positives, false negatives, false positives and true negatives.

    `target` [scans] is 0 or 1, `prediction` [scans] the probability of class 1; a scan at or above the
    threshold counts as called class 1.
    """
    positive, called = target == 1, prediction >= threshold
    hits, misses = int((positive & called).sum()), int((positive & ~called).sum())
    false_alarms, rejections = int((~positive & called).sum()), int((~positive & ~called).sum())
    return hits, misses, false_alarms, rejections


def confusion(metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Table:
    """Count right and wrong calls at the threshold, a row for each fold of a binary task."""
    low, high = metrics["task"]["classes"] or ("0", "1")
    threshold, notes = metrics.get("threshold"), []
    value = threshold["value"] if threshold else 0.5
    if not threshold:
        notes.append("No threshold was chosen on validation: the counts are at a probability of 0.5.")
    rows = []
    for fold in fold_order(folds):
        counts = confusion_counts(folds[fold]["target"], folds[fold]["prediction"], value)
        rows.append((fold_name(fold), *(f"{count:,}" for count in counts)))
    columns = ("Fold", f"{high}, called {high}", f"{high}, called {low}", f"{low}, called {high}")
    title = f"Calls at the threshold of {number(value, 3)}"
    return Table(title, (*columns, f"{low}, called {low}"), tuple(rows), tuple(notes))


def sites(metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> Table:
    """Break test and out-of-distribution down by site: sizes and the plain value of one metric."""
    kind, unit = metrics["task"]["kind"], metrics["task"].get("unit")
    classes = metrics["task"].get("classes") or []
    error = f"MAE ({unit})" if unit else "MAE"
    head = {"binary": "ROC AUC", "multiclass": "Accuracy", "regression": error}[kind]
    rows = []
    for fold in fold_order(folds):
        if fold == "validation":
            continue
        columns = folds[fold]
        for site in sorted(set(columns["site"].tolist())):
            here = columns["site"] == site
            target, prediction = columns["target"][here], columns["prediction"][here]
            counts = [f"{int((target == index).sum()):,}" for index in range(len(classes))]
            cells = (fold_name(fold), _stated(site), f"{int(here.sum()):,}", *counts)
            rows.append((*cells, _site_value(kind, target, prediction)))
    note = "Plain values without intervals: on a site of few scans they are mostly noise."
    return Table("By site", ("Fold", "Site", "Scans", *classes, head), tuple(rows), (note,))


def _site_value(kind: str, target: np.ndarray, prediction: np.ndarray) -> str:
    """Format ROC AUC, accuracy or mean absolute error of `target` [scans] and `prediction` [scans]."""
    if kind == "regression":
        return number(float(np.abs(prediction - target).mean()))
    if kind == "multiclass":
        return number(float((prediction == target).mean()))
    if len(set(target.tolist())) < 2:
        return "undefined"
    return number(float(roc_auc_score(target, prediction)))


def dataset(data: Mapping[str, Any], card: Mapping[str, Any] | None) -> Table:
    """Describe the dataset of an evaluation; `card` is its card.json, None when that is missing."""
    card = card or {}
    synthetic = is_synthetic(data, card)
    counts = card.get("counts") or {}
    shards = card.get("shards")
    spacing, shape = card.get("spacing_mm"), card.get("shape")
    facts = {
        "Name": data.get("name") or card.get("name"),
        "Description": card.get("description"),
        "Folder": data.get("path"),
        "Synthetic": "not stated" if synthetic is None else "yes" if synthetic else "no",
        "Shape, voxels": _times(shape),
        "Spacing, mm": _times(spacing),
        "Axes": _plain(card.get("axes")),
        "Scans prepared": _plain(counts.get("scans")),
        "Subjects": _plain(counts.get("subjects")),
        "Failures": _plain(counts.get("failures")),
        "Values mended": _plain(counts.get("mended")),
        "Shards": _plain(len(shards) if isinstance(shards, list | dict) else shards),
    }
    rows = tuple((name, str(value)) for name, value in facts.items() if value not in (None, ""))
    return Table("Dataset", ("Property", "Value"), rows)


def is_synthetic(data: Mapping[str, Any], card: Mapping[str, Any] | None) -> bool | None:
    """Tell whether the metrics or the card call a dataset synthetic; None when neither says."""
    said = [found for found in (data.get("synthetic"), (card or {}).get("synthetic")) if found is not None]
    return any(said) if said else None


def _times(sizes: Any) -> str:
    return " × ".join(f"{size:g}" for size in sizes) if isinstance(sizes, list | tuple) else _plain(sizes)


def recipe(steps: Any) -> Table:
    """List the steps of a preparation recipe (a dict, or a list of dicts) with their settings."""
    if isinstance(steps, Mapping) and isinstance(steps.get("steps"), list):
        others = {key: value for key, value in steps.items() if key != "steps"}
        rows = [*_recipe_rows(others), *_recipe_rows(steps["steps"])]
    else:
        rows = _recipe_rows(steps)
    return Table("Recipe", ("Step", "Settings"), tuple(rows))


def _recipe_rows(steps: Any) -> list[tuple[str, str]]:
    if isinstance(steps, Mapping):
        return [(str(name), _plain(settings)) for name, settings in steps.items()]
    rows = []
    for index, step in enumerate(steps or [], start=1):
        if isinstance(step, Mapping):
            key = next((key for key in ("name", "step", "kind") if key in step), None)
            settings = {name: value for name, value in step.items() if name != key}
            rows.append((f"{index}. {step[key]}" if key else f"{index}.", _plain(settings)))
        else:
            rows.append((f"{index}. {_plain(step)}", ""))
    return rows


def _plain(value: Any) -> str:
    """Write a value read from JSON for a reader: yes and no, thousands, `name: value` pairs."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {_plain(item) or 'none'}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) or "none" for item in value)
    if isinstance(value, int):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)


def failures(rows: Sequence[Mapping[str, str]]) -> Table:
    """List what was wrong in preparation, and what became of the scan where `failures.csv` says it."""
    keys, columns = ["where", "found", "expected", "hint"], ["Where", "Found", "Expected", "Try"]
    outcomes = {"True": "left out", "False": "kept, value set to missing"}
    if any("dropped" in row for row in rows):
        keys, columns = [*keys, "dropped"], [*columns, "Scan"]
    cells = [[row.get(key) or "" for key in keys] for row in rows]
    told = tuple(tuple(outcomes.get(cell, cell) if i == 4 else cell for i, cell in enumerate(row)) for row in cells)
    return cut(Table("Failures", tuple(columns), told), rest="failures.csv")


def excluded(entries: Sequence[Mapping[str, Any]]) -> Table:
    """List the scans left out of the evaluation, by reason, with their total."""
    rows = tuple((str(entry["reason"]), f"{entry['scans']:,}") for entry in entries)
    if len(rows) > 1:
        rows += (("all reasons", f"{sum(entry['scans'] for entry in entries):,}"),)
    return cut(Table("Left out of the evaluation", ("Reason", "Scans"), rows), rest="metrics.json")


def versions(metrics: Mapping[str, Any], hashes: Mapping[str, str | None]) -> Table:
    """List the versions of the software and the hashes of what went in."""
    rows = [(name, str(version)) for name, version in (metrics.get("versions") or {}).items()]
    rows += [(name, value) for name, value in hashes.items() if value]
    return Table("Versions and hashes", ("What", "Version or hash"), tuple(rows))
