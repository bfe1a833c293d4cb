"""What is explained: which output of a run, and of which scans."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro import splits
from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps.hiding import Output
from jaxneuro.tasks import Task
from jaxneuro.training import experiment, targets


class Explained(NamedTuple):
    """One output of a network.

    Attributes:
      task: that it belongs to.
      what: the output in words.
      unit: its unit, None of logits and probabilities.
      output: (weights, volumes[b, d, h, w, c], class) to [b].
      classes: names that a class can be given by; empty for regression.
    """

    task: Task
    what: str
    unit: str | None
    output: Output
    classes: tuple[str, ...]

    def which(self, label: float, given: str | None) -> int:
        """Return the class that is explained for a scan of a label: the one given, of two the second, else its own."""
        if given is not None:
            return self.classes.index(given)
        if self.task.kind == "regression":
            return 0
        return 1 if self.task.kind == "binary" else int(label)


def explain(parts: experiment.Experiment, task: str | None, given: str | None, probability: bool) -> Explained:
    """Return the output of a run that maps are of: a logit, or a regression's prediction in its unit.

    Args:
      parts: the run.
      task: its name; None for the main one.
      given: the class, None for any.
      probability: of the class, in place of its logit.

    Raises:
      InputError: the run has no such task or class.
    """
    begin = 0
    for one, described in zip(parts.tasks, parts.targets, strict=True):
        target = targets.build(described, np.zeros(0), {"class_weights": "none", "smoothing": 0.0})
        if task in (None, one.name):
            break
        begin += target.width
    else:
        raise InputError(f"--task: found '{task}'; expected one of {', '.join(t.name for t in parts.tasks)}")
    if given is not None and given not in one.classes:
        there = f"one of {', '.join(one.classes)}" if one.classes else f"none, for '{one.name}' is a regression"
        raise InputError(f"--class: found '{given}'; expected {there}")
    if probability and one.kind == "regression":
        raise InputError(f"--probability: found it with '{one.name}', a regression; expected a task with classes")
    columns = slice(begin, begin + target.width)

    def chosen(outputs: jax.Array, which: jax.Array) -> jax.Array:
        if one.kind == "regression":
            return target.predict(outputs)[:, 0]
        if one.kind == "binary":
            logit = outputs[:, 0] * (2.0 * which - 1.0)
            return jax.nn.sigmoid(logit) if probability else logit
        return jnp.take(jax.nn.softmax(outputs) if probability else outputs, which, axis=1)

    def output(weights: Any, x: jax.Array, which: jax.Array) -> jax.Array:
        return chosen(parts.model.apply(weights, x, train=False)[0][:, columns], which)

    if one.kind == "regression":
        return Explained(one, f"prediction of {one.target}", one.unit, output, ())
    of = given or (one.classes[1] if one.kind == "binary" else "each scan's own class")
    return Explained(one, f"{'probability' if probability else 'logit'} of {of}", None, output, one.classes)


def scans(
    parts: experiment.Experiment, task: Task, fold: str, count: int, seed: int
) -> tuple[list[int], dict[str, list[int]]]:
    """Return the records to explain, and the groups to average over: group to places in the list.

    Args:
      parts: the run.
      task: of it.
      fold: train, validation, test or ood.
      count: drawn of each class, or of all scans in regression, where there are more.
      seed: of the draw.

    Raises:
      InputError: no such fold, or no scan in it has a label of the task.
    """
    if fold not in parts.folds:
        raise InputError(f"--fold: found '{fold}'; expected one of {', '.join(splits.FOLDS)}")
    labels = parts.labels[task.name]
    known = [i for i in parts.folds[fold] if np.isfinite(labels[i])]
    if not known:
        there = ", ".join(f"{name} {len(numbers)}" for name, numbers in parts.folds.items())
        raise InputError(
            f"--fold: found no scan with a label of '{task.name}' in '{fold}' of {parts.dataset.path}; expected some; "
            f"scans of its folds: {there}"
        )
    rng = np.random.default_rng(seed)
    of_class: dict[str, list[int]] = {c: [i for i in known if labels[i] == n] for n, c in enumerate(task.classes)}
    records: list[int] = []
    groups: dict[str, list[int]] = {}
    for name, numbers in (of_class or {"": known}).items():
        drawn = sorted(rng.choice(numbers, min(count, len(numbers)), replace=False).tolist()) if numbers else []
        if name and drawn:
            groups[f"class-{name}"] = list(range(len(records), len(records) + len(drawn)))
        records += drawn
    return records, {"all": list(range(len(records))), **groups}


def known_places(parts: experiment.Experiment, task: Task, group: str) -> list[Path]:
    """Return the masks of where the effects of a task are, which a synthetic cohort has beside its scans; mostly none.

    They are looked for in `derivatives/truth` above the first scan, and named after what they are of: age, sex, or a
    diagnosis. For two diagnoses, or several in one group, the effects of all.
    """
    path = Path(next((s.path for s in parts.dataset.scans if s.path), ""))
    folder = next((p / "derivatives" / "truth" for p in path.parents if (p / "derivatives" / "truth").is_dir()), None)
    if folder is None:
        return []
    names: tuple[str, ...] = (task.target,)
    if task.target not in ("age", "sex"):
        one = group.removeprefix("class-")
        names = (one,) if task.kind == "multiclass" and one in task.classes else task.classes
    return [file for name in names if (file := folder / f"effect-{name}_mask.nii.gz").is_file()]
