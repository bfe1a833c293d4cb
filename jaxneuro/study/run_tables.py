"""Tables of one run for its report: all its metrics, on whom, from what data, by what versions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from jaxneuro.study.tables import (
    Fold,
    Table,
    cut,
    estimate,
    fold_name,
    fold_order,
    level,
    metric_name,
    metric_of,
    number,
)


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
