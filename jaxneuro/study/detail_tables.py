"""Tables of what metrics.json says of a fold beside its metrics: calibration, operating points, groups, brain age.

Each is None where no fold says it, as in results of older versions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxneuro.study import tables
from jaxneuro.study.tables import Table

CORRECTIONS = {
    "beheshti_2019": "Beheshti et al. 2019",
    "cole_2018": "Cole et al. 2018",
    "de_lange_2020": "de Lange and Cole 2020",
}
FACTORS = {"site": "Site", "sex": "Sex", "age": "Age, years"}


def calibration(metrics: Mapping[str, Any]) -> Table | None:
    """Return slope, intercept and Brier score of a binary task, a row for each fold."""
    told = _told(metrics, "calibration")
    if not told:
        return None
    names = {"slope": "Slope", "intercept": "Intercept", "brier": "Brier score"}
    rows = [(tables.fold_name(fold), *(tables.estimate(entry.get(name)) for name in names)) for fold, entry in told]
    notes = (
        "Calibrated probabilities have slope 1 and intercept 0. A slope below 1: too extreme; an intercept below 0: "
        "too high on average. Brier score: mean squared error, 0 at best.",
        *_methods((head, entry.get(name)) for _, entry in told for name, head in names.items()),
        *(reason for fold, entry in told for reason in _reasons(fold, (entry.get(name) for name in names))),
    )
    return Table(f"Calibration, with {tables.level(metrics)} intervals", ("Fold", *names.values()), tuple(rows), notes)


def operating_points(metrics: Mapping[str, Any]) -> Table | None:
    """Return sensitivity and specificity of a binary task at thresholds of several rules, a row for each and fold."""
    told = _told(metrics, "operating_points")
    if not told:
        return None
    names = ("sensitivity", "specificity", "balanced_accuracy")
    rows, notes = [], ["Optimistic: the threshold was chosen on the very scans that it is applied to."]
    for fold, points in told:
        for point in points.values():
            rule = f"{point['rule']} (optimistic)" if point["optimistic"] else str(point["rule"])
            value = "undefined" if point["threshold"] is None else tables.number(point["threshold"], 3)
            cells = (tables.estimate(point["metrics"].get(name)) for name in names)
            rows.append((tables.fold_name(fold), rule, value, *cells))
            notes += _reasons(fold, [point, *(point["metrics"].get(name) for name in names)])
    of = [(tables.METRIC_NAMES[n], p["metrics"].get(n)) for _, points in told for p in points.values() for n in names]
    notes[1:1] = _methods(of)
    columns = ("Fold", "Rule", "Threshold", *(tables.METRIC_NAMES[name] for name in names))
    title = f"Operating points, with {tables.level(metrics)} intervals"
    return Table(title, columns, tuple(rows), tuple(dict.fromkeys(notes)))


def groups(metrics: Mapping[str, Any]) -> list[Table]:
    """Return metrics by site, by sex and by decade of age, a table each, of all folds but validation.

    Where only validation says any, of that.
    """
    told = _told(metrics, "groups")
    told = [entry for entry in told if entry[0] != "validation"] or told
    return [table for factor in FACTORS if (table := _by(metrics, factor, told)).rows]


def _by(metrics: Mapping[str, Any], factor: str, told: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    classes = metrics["task"].get("classes") or []
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    undefined: dict[str, list[str]] = {}
    every = [group for _, entry in told for group in entry[factor].values()]
    names = list(dict.fromkeys(name for group in every for name in group["metrics"]))
    for fold, entry in told:
        for group in sorted(entry[factor], key=_in_order):
            found = entry[factor][group]
            counts = found.get("class_counts") or {}
            sizes = [f"{found['scans']:,}", f"{found['subjects']:,}", *(f"{counts.get(c, 0):,}" for c in classes)]
            cells = [found["metrics"].get(name) for name in names]
            rows.append((tables.fold_name(fold), _stated(group), *sizes, *(tables.estimate(cell) for cell in cells)))
            for cell in cells:
                if cell and cell.get("reason"):
                    undefined.setdefault(cell["reason"], []).append(f"{tables.fold_name(fold)} {_stated(group)}")
        if factor == "site" and entry[factor] and entry.get("worst_site"):
            notes.append(_worst(metrics, fold, entry["worst_site"]))
    notes += [f"{', '.join(where)}: {reason}" for reason, where in undefined.items()]
    notes += _methods((tables.METRIC_NAMES[name], g["metrics"].get(name)) for g in every for name in names)
    columns = ("Fold", FACTORS[factor], "Scans", "Subjects", *classes)
    heads = [tables.metric_name(name, metrics) for name in names]
    return Table(f"By {factor}, with {tables.level(metrics)} intervals", (*columns, *heads), tuple(rows), tuple(notes))


def _worst(metrics: Mapping[str, Any], fold: str, worst: Mapping[str, Any]) -> str:
    """Name the worst site of a fold, or say why there is none."""
    if worst["site"] is None:
        return f"No worst site of {tables.fold_name(fold)}: {worst['reason']}."
    metric = tables.metric_name(worst["metric"], metrics)
    return (
        f"Worst site of {tables.fold_name(fold)}: {worst['site']}, {metric} {tables.estimate(worst)}, "
        f"{worst['scans']:,} scans. It was chosen for that among sites of {worst['minimum_scans']} scans or more, so "
        "the value is pessimistic."
    )


def bias_correction(metrics: Mapping[str, Any]) -> Table | None:
    """Return the error of ages and how the gap hangs on age: uncorrected first, then by each correction."""
    told = _told(metrics, "bias_correction")
    if not told:
        return None
    rows, notes = [], []
    for fold, entry in told:
        name = tables.fold_name(fold)
        rows.append((name, "none", *_errors(entry["raw"]), "no"))
        for key, found in entry["corrected"].items():
            uses = "yes" if found["uses_age"] else "no"
            rows.append((name, CORRECTIONS.get(key, key), *_errors(found), uses))
            if found.get("reason"):
                notes.append(f"{name}, {CORRECTIONS.get(key, key)}: {found['reason']}.")
        rows.append((name, "the training mean for everyone", tables.number(entry["mae_of_mean"]), "", "", "no"))
    first = told[0][1]
    line = first.get("line")
    fitted = f" (slope {line['slope']:.3g}, intercept {line['intercept']:.3g})" if line else ""
    optimistic = [tables.fold_name(fold) for fold, entry in told if entry.get("optimistic")]
    said = f", so corrected values of {', '.join(optimistic)} are optimistic" if optimistic else ""
    notes = [
        f"Corrections use the line of predicted on true age, fitted on {first['fitted_on']}{fitted}{said}.",
        "Corrections that take the true age feed the answer back: their MAE is no measure of a network, and small for "
        "one that has learnt nothing. The uncorrected MAE is the result.",
        *notes,
    ]
    unit = metrics["task"].get("unit")
    columns = ("Fold", "Correction", f"MAE ({unit})" if unit else "MAE", "Gap and age: Pearson r", "Spearman rho")
    return Table("Bias of brain age", (*columns, "Takes the true age"), tuple(rows), tuple(dict.fromkeys(notes)))


def every(metrics: Mapping[str, Any]) -> list[Table]:
    """Return all tables of this file that an evaluation has something for."""
    first = (operating_points(metrics), calibration(metrics), bias_correction(metrics))
    return [*(table for table in first if table), *groups(metrics)]


def _told(metrics: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return (fold, what it says under a key) of those folds that say something, in order."""
    folds = metrics["folds"]
    return [(fold, folds[fold][key]) for fold in tables.fold_order(folds) if folds[fold].get(key)]


def _reasons(fold: str, entries: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """Return a line for each reason of an undefined value of a fold."""
    said = [f"{tables.fold_name(fold)}: {entry['reason']}" for entry in entries if entry and entry.get("reason")]
    return list(dict.fromkeys(said))


def _methods(entries: Iterable[tuple[str, Mapping[str, Any] | None]]) -> list[str]:
    """Return a line that names the method of the intervals of (metric, entry) pairs; none where none is recorded."""
    named: dict[str, list[str]] = {}
    for name, entry in entries:
        method = (entry or {}).get("method")
        if method and name not in named.setdefault(method, []):
            named[method].append(name)
    return ["Intervals: " + "; ".join(f"{', '.join(of)}: {method}" for method, of in named.items()) + "."] * bool(named)


def _errors(found: Mapping[str, Any]) -> tuple[str, str, str]:
    mae, r, rho = (found.get(name) for name in ("mae", "gap_age_r", "gap_age_rho"))
    return _number(mae), _number(r), _number(rho)


def _number(value: float | None) -> str:
    return "undefined" if value is None else tables.number(value)


def _stated(group: str) -> str:
    return "not stated" if group in ("", "n/a") else group


def _in_order(group: str) -> tuple[bool, int, str]:
    """Order decades of age by number, names by name, what is not stated last."""
    decade = re.fullmatch(r"(-?\d+)-(-?\d+)", group)
    return (group in ("", "n/a"), int(decade[1]) if decade else 0, group)
