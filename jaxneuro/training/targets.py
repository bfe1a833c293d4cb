"""What the outputs of a supervised network mean: classes, scale, bins. Worked out once, from the training labels, and
kept with the run: weights that keep their head keep its meaning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxneuro import records
from jaxneuro.errors import InputError
from jaxneuro.objectives import supervised
from jaxneuro.tasks import Task

#: What must be the same for outputs to mean the same.
_MEANING = ("kind", "target", "classes", "form")


def describe(task: Task, train: np.ndarray, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task's outputs mean, as plain values for JSON.

    Args:
      task: the task.
      train: its labels of the training scans [n], NaN where unknown.
      settings: keywords of the supervised objective.

    Raises:
      InputError: every training target of a regression is the same.
    """
    described: dict[str, Any] = {"name": task.name, "kind": task.kind, "target": task.target, "unit": task.unit}
    if task.kind != "regression":
        return described | {"classes": list(task.classes)}
    known = train[np.isfinite(train)].astype(np.float64)
    if not known.std() > 0:
        raise InputError(f"task '{task.name}': every training target is {known[0]:g}; expected them to differ")
    described |= {"form": settings["regression"]}
    if settings["regression"] != "soft":
        return described | {"mean": float(known.mean()), "scale": float(known.std())}
    width = settings["bin"]
    low, high = width * math.floor(known.min() / width), width * math.ceil(known.max() / width)
    return described | {"low": low, "high": max(high, low + width), "bin": width, "deviation": settings["deviation"]}


def build(described: Mapping[str, Any], train: np.ndarray, settings: Mapping[str, Any]) -> supervised.Target:
    """Return the target that a description stands for, its class weights from the training labels [n]."""
    if described["kind"] == "regression":
        if described["form"] == "soft":
            return supervised.soft_bins(*(described[k] for k in ("low", "high", "bin", "deviation")))
        return supervised.regression(described["mean"], described["scale"], described["form"])
    count = len(described["classes"])
    weights = supervised.balanced(train, count) if settings["class_weights"] == "balanced" else None
    if described["kind"] == "binary":
        return supervised.binary(weights or (1.0, 1.0), settings["smoothing"])
    return supervised.multiclass(count, weights, settings["smoothing"])


def of(folder: str | Path) -> list[dict[str, Any]] | None:
    """Return what the outputs of a run, or of exported weights, mean; None where nobody wrote it down."""
    for name in ("run.json", "card.json"):
        if (file := Path(folder) / name).is_file():
            return records.read_json(file, expected="what a run or jaxneuro export wrote down").get("targets")
    return None


def check_same(kept: Sequence[Mapping[str, Any]], tasks: Sequence[Task], settings: Mapping[str, Any]) -> None:
    """Refuse tasks that do not give outputs the meaning that they have.

    Raises:
      InputError: names the first difference.
    """
    if len(kept) != len(tasks):
        raise InputError(
            f"init.head: keep, of a head that predicts {[k['name'] for k in kept]}; found {[t.name for t in tasks]}; "
            "expected the same; or --config.init.head=fresh"
        )
    for described, task in zip(kept, tasks, strict=True):
        ours = {"kind": task.kind, "target": task.target, "classes": list(task.classes), "form": settings["regression"]}
        for key in _MEANING:
            if key in described and described[key] != ours[key]:
                raise InputError(
                    f"init.head: keep, of a head whose {key} is {described[key]!r}; found {ours[key]!r} in task "
                    f"'{task.name}'; expected the same, for its outputs mean nothing else; or --config.init.head=fresh"
                )
