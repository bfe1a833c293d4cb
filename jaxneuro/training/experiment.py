"""From a config to the things that a run is made of: dataset, task, folds, model, objective. Training and evaluation
both start here, so they cannot differ."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import ml_collections
import numpy as np

from jaxneuro import models, records, splits
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan
from jaxneuro.objectives import supervised
from jaxneuro.objectives.base import Objective
from jaxneuro.tasks import Task


@dataclass(frozen=True)
class Experiment:
    """What a run is made of.

    Attributes:
      config: the frozen config.
      dataset: the opened dataset.
      task: what is predicted.
      targets: target of every record [number of records] float32, NaN where there is none.
      folds: fold to record numbers, of scans that have a target.
      excluded: why scans have no target, with counts.
      model: the network.
      objective: what is minimised.
    """

    config: ml_collections.FrozenConfigDict
    dataset: records.Dataset
    task: Task
    targets: np.ndarray
    folds: dict[str, list[int]]
    excluded: Counter[str]
    model: nn.Module
    objective: Objective

    def scans(self, fold: str) -> list[Scan]:
        """Return the scans of one fold."""
        return [self.dataset.scans[i] for i in self.folds[fold]]


def build(config: ml_collections.ConfigDict) -> Experiment:
    """Open the data of a config, make its folds, and build its model and objective.

    Raises:
      InputError: the data, task, folds or model of the config cannot be used; says which and why.
      LeakageError: a subject or an image stands in two folds.
    """
    config = ml_collections.FrozenConfigDict(config)
    dataset = records.open_dataset(config.data.path)
    task = _task(config)
    targets, has, excluded = task.targets(dataset.scans)
    labelled = np.flatnonzero(has)
    scans = [dataset.scans[i] for i in labelled]
    folds = {
        fold: labelled[
            splits.select(scans, dataset.splits, fold, fraction=config.data.fraction if fold == "train" else 1.0)
        ].tolist()
        for fold in splits.FOLDS
    }
    for fold in ("train", "validation"):
        if not folds[fold]:
            raise InputError(
                f"{dataset.path}: fold '{fold}' is empty for task '{task.name}'; expected scans with a known "
                f"{task.target}; left out: {dict(excluded)}; prepare with another --validation or --seed"
            )
    splits.check_disjoint({fold: [dataset.scans[i] for i in numbers] for fold, numbers in folds.items()})
    train = targets[folds["train"]]
    absent = [c for i, c in enumerate(task.classes) if i not in train]
    if absent:
        raise InputError(
            f"{dataset.path}: fold 'train' holds no scan of class {absent}; expected all of {list(task.classes)}; "
            "raise --config.data.fraction or check task.classes"
        )
    return Experiment(
        config=config,
        dataset=dataset,
        task=task,
        targets=targets,
        folds=folds,
        excluded=excluded,
        model=_model(config, task, dataset),
        objective=_objective(task, train),
    )


def _task(config: Any) -> Task:
    t = config.task
    return Task(t.name, t.kind, t.target, tuple(t.classes), tuple(t.ignore), tuple(t.only))


def _model(config: Any, task: Task, dataset: records.Dataset) -> nn.Module:
    *size, channels = dataset.shape
    keywords = dict(config.model)
    name = keywords.pop("name")
    if fixed := sorted({"num_outputs", "input_size", "in_channels"} & set(keywords)):
        raise InputError(f"model: found {fixed}; expected none of them, for the task and the data decide; remove them")
    return models.build(name, num_outputs=task.num_outputs, input_size=tuple(size), in_channels=channels, **keywords)


def _objective(task: Task, train: np.ndarray) -> Objective:
    if task.kind == "regression":
        scale = float(train.std(dtype=np.float64))
        if not scale > 0:
            raise InputError(f"task '{task.name}': every training target is {train[0]:g}; expected them to differ")
        return supervised.regression(mean=float(train.mean(dtype=np.float64)), scale=scale)
    return {"binary": supervised.binary, "multiclass": supervised.multiclass}[task.kind]()
