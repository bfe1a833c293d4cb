"""From a config to the things that a run is made of: dataset, tasks, folds, network, objective. Training and evaluation
both start here, so they cannot differ."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np
import optax

from jaxneuro import records, splits
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan
from jaxneuro.models import order
from jaxneuro.objectives.base import Objective
from jaxneuro.tasks import ALL, Task
from jaxneuro.training import optim, pairing


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
      config: the frozen config.
      dataset: the opened dataset.
      tasks: what is predicted, the main one first; empty in pre-training without a target.
      labels: for each column that the objective reads, a value of every record [number of records], NaN for none.
      folds: fold to record numbers, of scans that can be used.
      excluded: why scans cannot be, with counts.
      model: the network.
      described: its name and keywords.
      targets: what its outputs mean, a description for each task.
      objective: what is minimised.
    """

    config: ml_collections.FrozenConfigDict
    dataset: records.Dataset
    tasks: tuple[Task, ...]
    labels: dict[str, np.ndarray]
    folds: dict[str, list[int]]
    excluded: Counter[str]
    model: nn.Module
    described: dict[str, Any]
    targets: list[dict[str, Any]]
    objective: Objective

    def scans(self, fold: str) -> list[Scan]:
        """Return the scans of one fold."""
        return [self.dataset.scans[i] for i in self.folds[fold]]

    def labels_of(self, fold: str) -> dict[str, np.ndarray]:
        """Return the label columns of one fold."""
        return {name: values[self.folds[fold]] for name, values in self.labels.items()}


def build(config: ml_collections.ConfigDict, kept: list[dict[str, Any]] | None = None) -> Experiment:
    """Open the data of a config, make its folds, and build its network and objective.

    Args:
      config: the config.
      kept: what the network's outputs mean, where a run has settled it (`targets.of`); None works it out from the
        training labels.

    Raises:
      InputError: the data, task, folds, network or objective of the config cannot be used; says which and why.
      LeakageError: a subject or an image stands in two folds.
    """
    return on(config, records.open_dataset(config.data.path), kept)


def on(
    config: ml_collections.ConfigDict, dataset: records.Dataset, kept: list[dict[str, Any]] | None = None
) -> Experiment:
    """Return what `build` returns, on a dataset that is open, whatever `data.path` says."""
    config = ml_collections.FrozenConfigDict(config)
    # Runs of before there was the key have none.
    left_out = [str(site) for site in config.data.get("leave_out", ())]
    subjects, apart = splits.without(dataset.scans, dataset.splits, left_out) if left_out else (dataset.splits, {})
    tasks = _tasks(config, dataset.scans, subjects, kept) if config.objective.name == "supervised" else ()
    labels, usable, excluded = labels_for(tasks, dataset.scans)
    excluded += Counter(apart[i] for i in usable.tolist() if i in apart)
    usable = np.array([i for i in usable if i not in apart], int)
    folds = {}
    for fold in splits.FOLDS:
        fraction = config.data.fraction if fold == "train" else 1.0
        scans = [dataset.scans[i] for i in usable]
        folds[fold] = usable[splits.select(scans, subjects, fold, fraction=fraction)].tolist()
    for fold in ("train", "validation"):
        if not folds[fold]:
            wanted = f" for task '{tasks[0].name}'; expected scans with a known {tasks[0].target}" if tasks else ""
            instead = "leave out fewer sites" if left_out else "prepare with another --validation or --seed"
            raise InputError(f"{dataset.path}: fold '{fold}' is empty{wanted}; left out: {dict(excluded)}; {instead}")
    splits.check_disjoint({fold: [dataset.scans[i] for i in numbers] for fold, numbers in folds.items()})
    for task in tasks:
        absent = [c for i, c in enumerate(task.classes) if i not in labels[task.name][folds["train"]]]
        if absent or not np.isfinite(labels[task.name][folds["train"]]).any():
            what = f"with a {task.target}"
            if absent:
                there = sorted({str(getattr(s, task.target)) for s in dataset.scans})
                what = (
                    f"of class {absent}; expected all of {list(task.classes)}; the dataset has "
                    f"{', '.join(there[:10])}{', ...' if there[10:] else ''}"
                )
            more = "raise --config.data.fraction or " if config.data.fraction < 1 else ""
            more += "leave out fewer sites or " if left_out else ""
            raise InputError(f"{dataset.path}: fold 'train' holds no scan {what}; {more}check the task '{task.name}'")
    made = pairing.pair(config, pairing.Material(dataset.shape, dataset.scans, tasks, labels, folds["train"], kept))
    return Experiment(
        config=config,
        dataset=dataset,
        tasks=tasks,
        labels=made.labels,
        folds=folds,
        excluded=excluded,
        model=made.model,
        described=made.described,
        targets=made.targets,
        objective=made.objective,
    )


def optimizer(parts: Experiment, epoch_steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return the optimiser of an experiment and its learning rate by step, for epochs of so many steps."""
    config, model = parts.config, parts.model
    return optim.build(
        **{k: v for k, v in config.optimizer.items() if k not in ("warmup_epochs", "average")},
        warmup_steps=round(config.optimizer.warmup_epochs * epoch_steps),
        total_steps=config.training.epochs * epoch_steps,
        layer_of=lambda path: order.layer_of(model, path),
        layers=order.layers_in(model),
    )


def labels_for(tasks: tuple[Task, ...], scans: list[Scan]) -> tuple[dict[str, np.ndarray], np.ndarray, Counter[str]]:
    """Return the labels of all scans by task, the numbers of scans that have one, and why others have none, counted.

    Without tasks every scan can be used.
    """
    labels: dict[str, np.ndarray] = {}
    usable = np.full(len(scans), not tasks)
    excluded: Counter[str] = Counter()
    for task in tasks:
        labels[task.name], has, reasons = task.targets(scans)
        usable |= has
        excluded += Counter({f"{task.name}: {k}" if len(tasks) > 1 else k: n for k, n in reasons.items()})
    return labels, np.flatnonzero(usable), excluded


#: Keys of a task in `also`, as in `task`.
_KEYS = ("kind", "target", "classes", "ignore", "only", "weight")


def _tasks(config: Any, scans: list[Scan], folds: splits.Splits, kept: list[dict[str, Any]] | None) -> tuple[Task, ...]:
    """Return the main task and those learnt along with it."""
    if config.task.name in config.also:
        raise InputError(f"also: found '{config.task.name}', the name of the task itself; expected another")
    train = set(folds.subjects["train"])
    seen = [s for s in scans if s.subject in train]
    tasks: list[Task] = []
    named: dict[str, Any] = {config.task.name: config.task, **dict(config.also.items())}
    for name, t in named.items():
        where = f"also.{name}" if tasks else "task"
        if not isinstance(t, ml_collections.ConfigDict):
            raise InputError(f"{where}: found {t!r}; expected keys such as {where}.kind=regression")
        if missing := [k for k in ("kind", "target") if k not in t]:
            raise InputError(f"{where}: found no {' and no '.join(missing)}; expected both, as a task has")
        if unknown := sorted(set(t.keys()) - {"name", *_KEYS}):
            raise InputError(f"{where}: found {', '.join(unknown)}; expected among {', '.join(_KEYS)}")
        weight = t.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise InputError(f"{where}.weight: found {weight!r}; expected a number of at least 0")
        task = Task(name, t.kind, t.target, *(tuple(t.get(k, ())) for k in ("classes", "ignore", "only")))
        if task.classes == ALL and kept and len(kept) > len(tasks):
            task = dataclasses.replace(task, classes=tuple(kept[len(tasks)].get("classes") or ALL))
        tasks.append(task.with_classes(seen))
    return tuple(tasks)
