"""A finished run to `predictions.csv` and `metrics.json`: validation, test, the unseen site, or another dataset."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxneuro import augment, manifest, records, splits, terminal, whole
from jaxneuro.data import open_reader
from jaxneuro.errors import InputError
from jaxneuro.evaluation import details, estimates, metrics
from jaxneuro.manifest import Scan
from jaxneuro.tasks import Task
from jaxneuro.training import checkpoint, experiment, journal, loop, optim, sharding, start, state, steps, targets

LEVEL = 0.95


def evaluate(
    workdir: str | Path,
    *,
    data: str | Path | None = None,
    task: str | None = None,
    out: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Test a run's best checkpoint.

    The threshold is chosen on the run's validation fold and applied unchanged everywhere else.

    Args:
      workdir: folder of the run.
      data: another dataset, all of whose subjects (first session) then form the fold `ood`; by default the run's own,
        with its folds validation, test and ood.
      task: of a run that learnt several, the one to test; by default the main one.
      out: folder for the results; by default `evaluation`, or `evaluation-NAME-HASH` for another dataset, in `workdir`,
        with `-TASK` for another task than the main one.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      What `metrics.json` holds.

    Raises:
      InputError: the run or the data cannot be used, or a prediction is NaN or infinite.
      LeakageError: a test subject or image was trained on.
    """
    began = time.perf_counter()
    workdir = Path(workdir)
    config, parts = open_run(workdir)
    if not parts.tasks:
        raise InputError(
            f"{workdir}: objective '{config.objective.name}' predicts nothing to test; expected a supervised run; "
            f"fine-tune it with --config.init.path={workdir}, or look at its features with jaxneuro probe {workdir}"
        )
    chosen_task, columns = _which(parts, task)
    validated = parts.scans("validation")
    parts = _of_task(parts, chosen_task)
    tested = parts if data is None else other(parts, Path(data), chosen_task)
    used = {"training": manifest.read(workdir / "scans.csv")}
    if (workdir / start.SEEN).is_file():
        used["pre-training"] = manifest.read(workdir / start.SEEN)
    if data is not None:
        # It chose the checkpoint and the threshold.
        used["validation"] = validated
    for fold in ("validation", "test", "ood"):
        for name, scans in used.items():
            # Of another dataset everyone is tested, whatever its folds.
            where = f"{fold} of {tested.dataset.path}" if data is None else str(tested.dataset.path)
            splits.check_disjoint({name: scans, where: tested.scans(fold)})

    # Whatever mesh it was trained on: every device here takes a share of each batch.
    mesh = sharding.make_mesh({"data": -1})
    step, weights, chosen = best(parts, workdir, mesh)
    values_of = steps.evaluation_step(
        parts.model.apply, parts.objective, normalise=augment.normaliser(config.data.normalise), mesh=mesh
    )
    reading = how_to_read(config, mesh)

    def predictions(of: experiment.Experiment, fold: str) -> np.ndarray:
        with open_reader(of.dataset) as reader:
            values = loop.evaluate_fold(of, reader, values_of, weights, fold, mesh, **reading)[:, columns]
        refuse_no_numbers(values, of.scans(fold), workdir)
        return values

    found = {"validation": (parts, predictions(parts, "validation"))}
    for fold in ("test", "ood"):
        found[fold] = (tested, predictions(tested, fold))
    target = {fold: of.labels_of(fold)[chosen_task.name] for fold, (of, _) in found.items()}
    threshold = choose_threshold(chosen_task, target["validation"], found["validation"][1])
    mean = float(np.nanmean(parts.labels_of("train")[chosen_task.name], dtype=np.float64))
    with terminal.progress("intervals", len(found)) as report:
        folds = {}
        for i, (fold, (of, values)) in enumerate(found.items()):
            scans = of.scans(fold)
            folds[fold] = score_fold(chosen_task, scans, target[fold], values, threshold, mean, resamples, seed)
            if scans:
                folds[fold] |= details.describe(
                    chosen_task,
                    scans,
                    target[fold],
                    values,
                    threshold,
                    mean,
                    (target["validation"], found["validation"][1]),
                    estimates.How(resamples, seed, LEVEL),
                    chose=fold == "validation",
                )
            report(i + 1)
    result = {
        "task": describe_task(chosen_task),
        "checkpoint": {"step": step, "chosen_by": f"validation/{parts.objective.metric}", **chosen},
        "model": {
            "name": parts.described["name"],
            "parameters": sum(x.size for x in jax.tree.leaves(weights["params"])),
        },
        "threshold": threshold,
        "interval": describe_interval(chosen_task, resamples),
        "folds": folds,
        "data": describe_data(tested.dataset),
        "excluded": [{"reason": r, "scans": n} for r, n in sorted(tested.excluded.items())],
        "versions": journal.versions(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "wall_seconds": round(time.perf_counter() - began, 1),
    }
    if jax.process_index() == 0:
        name = "evaluation" if data is None else f"evaluation-{short_name(tested.dataset)}"
        name += f"-{chosen_task.name}" if len(parts.tasks) > 1 and chosen_task is not parts.tasks[0] else ""
        out = Path(out) if out else workdir / name
        out.mkdir(parents=True, exist_ok=True)
        write_predictions(
            out / "predictions.csv",
            chosen_task,
            {f: (of.scans(f), target[f], v) for f, (of, v) in found.items()},
        )
        whole.write_json(out / "metrics.json", result)
        terminal.say(f"{out}: predictions.csv, metrics.json")
    return result


def read_config(workdir: str | Path) -> ml_collections.FrozenConfigDict:
    """Return the config of a run.

    Raises:
      InputError: the folder is no run's.
    """
    file = Path(workdir) / "config.json"
    keys = ["seed", "data", "task", "also", "objective", "model"]
    return ml_collections.FrozenConfigDict(records.read_json(file, keys, expected="the folder of a training run"))


def open_run(workdir: Path) -> tuple[ml_collections.FrozenConfigDict, experiment.Experiment]:
    """Return the config of a run and what was made of it, over the data that it was trained on.

    Raises:
      InputError: the folder is no run's, its dataset is gone, or is another by now.
    """
    config = read_config(workdir)
    data = Path(config.data.path)
    if not data.is_dir():
        seen = "" if data.is_absolute() else f", seen from {Path.cwd()}"
        raise InputError(
            f"{workdir / 'config.json'}: data.path: found no folder '{data}'{seen}; expected the dataset of the run, "
            "from where it was started; go there, or write the path down anew"
        )
    parts = experiment.build(config, targets.of(workdir))
    if not (workdir / "run.json").is_file():
        raise InputError(
            f"{workdir}: found no run.json; expected a run that began to train; run the same train command"
        )
    journal.check_dataset(workdir, parts.dataset.card)
    return config, parts


def write_predictions(path: Path, task: Task, folds: dict[str, tuple[list[Scan], np.ndarray, np.ndarray]]) -> None:
    """Write one row a scan or video: fold, manifest row, target, prediction (probability, class index, or the unit)."""
    probabilities = [f"probability_{c}" for c in task.classes] if task.kind == "multiclass" else []
    described = [c for c in manifest.COLUMNS if c not in ("path", "label")]
    columns = ["fold", *described, "target", "prediction", *probabilities]
    rows = []
    for fold, (scans, labels, values) in folds.items():
        for scan, target, value in zip(scans, labels, values, strict=True):
            row = [getattr(scan, c) for c in described]
            row[described.index("session")] = manifest.without_view(scan.session)
            guess = [int(value.argmax()), *map(float, value)] if probabilities else [float(value[0])]
            label = float(target) if task.kind == "regression" else int(target)
            rows.append([fold, *(_cell(v) for v in row), _cell(label), *map(_cell, guess)])
    whole.write_csv(path, columns, rows)


def how_to_read(config: ml_collections.FrozenConfigDict, mesh: Any) -> dict[str, int]:
    """Return how the loop reads, in batches that every device of the mesh takes an equal share of."""
    reading = loop.how_to_read(config, mesh)
    return {**reading, "batch_size": -(-reading["batch_size"] // mesh.size) * mesh.size}


def describe_task(task: Task) -> dict[str, Any]:
    """Return what results say of their task."""
    return {
        **{k: getattr(task, k) for k in ("name", "kind", "target", "unit")},
        "classes": list(task.classes) or None,
    }


def describe_interval(task: Task, resamples: int) -> dict[str, Any]:
    """Return what results say of the bootstrap, the method of those intervals that name no other."""
    within = "" if task.kind == "regression" else ", within classes"
    return {"method": f"percentile bootstrap over subjects{within}", "resamples": resamples, "level": LEVEL}


def describe_data(dataset: records.Dataset) -> dict[str, Any]:
    """Return what results say of the dataset that they are of."""
    card = dataset.card
    return {
        "path": str(dataset.path),
        "name": card["name"],
        "synthetic": card["synthetic"],
        "card_sha256": records.file_sha256(dataset.path / "card.json"),
        "recipe": card["recipe"],
        "recipe_fingerprint": card["recipe_fingerprint"],
    }


def compare_recipes(dataset: records.Dataset, trained: Mapping[str, Any]) -> None:
    """Warn when scans were prepared otherwise than those of a network's training, whose card or the like is given."""
    here = dataset.card
    if here["recipe_fingerprint"] != trained["recipe_fingerprint"]:
        terminal.say(
            f"warning: {dataset.path}: its recipe ({here['recipe_fingerprint']}) is not that of the training data "
            f"({trained['recipe_fingerprint']}): {_recipe_difference(here['recipe'], trained['recipe'])}"
        )


def _which(parts: experiment.Experiment, name: str | None) -> tuple[Task, slice]:
    """Return a task of a run by name, and the columns of the predictions that are its own."""
    begin = 0
    for task in parts.tasks:
        # A class each of several, else one value.
        width = len(task.classes) if task.kind == "multiclass" else 1
        if name in (None, task.name):
            return task, slice(begin, begin + width)
        begin += width
    raise InputError(f"--task: found '{name}'; expected one of {', '.join(t.name for t in parts.tasks)}")


def _of_task(parts: experiment.Experiment, task: Task) -> experiment.Experiment:
    """Return the experiment with only those scans in its folds that have a label of the task."""
    known = np.isfinite(parts.labels[task.name])
    return dataclasses.replace(parts, folds={f: [i for i in numbers if known[i]] for f, numbers in parts.folds.items()})


def other(parts: experiment.Experiment, path: Path, task: Task) -> experiment.Experiment:
    """Return the experiment with another dataset's scans that have a label of the task as its `ood` fold, its only one.

    Raises:
      InputError: it is no dataset, the run's own, or of volumes of another size.
    """
    dataset = records.open_dataset(path)
    if dataset.card["manifest_sha256"] == parts.dataset.card["manifest_sha256"]:
        raise InputError(f"{path}: is the dataset that the run was trained on; expected another; leave out --data")
    if dataset.shape != parts.dataset.shape:
        raise InputError(
            f"{path}: found volumes of {list(dataset.shape)}; expected {list(parts.dataset.shape)} as in training; "
            f"prepare with the recipe '{parts.dataset.card['recipe'].get('name')}'"
        )
    compare_recipes(dataset, parts.dataset.card)
    _, labelled, excluded = experiment.labels_for((task,), dataset.scans)
    labels, _, _ = experiment.labels_for(parts.tasks, dataset.scans)
    scans = [dataset.scans[i] for i in labelled]
    chosen = labelled[splits.select(scans, dataset.splits, "all", sessions="first")]
    return dataclasses.replace(
        parts,
        dataset=dataset,
        labels=labels,
        excluded=excluded,
        folds={"validation": [], "test": [], "ood": chosen.tolist()},
    )


def _recipe_difference(here: dict[str, Any], trained: dict[str, Any]) -> str:
    keys = [k for k in sorted({*here, *trained}) if here.get(k) != trained.get(k)]
    return "; ".join(f"{k} {here.get(k)!r}, was {trained.get(k)!r}" for k in keys)


def short_name(dataset: records.Dataset) -> str:
    """Return what results on another dataset than the run's are named after: its folder, and part of its hash."""
    # For studies like to call their folders alike.
    return f"{dataset.path.name}-{dataset.card['manifest_sha256'][:6]}"


def best(parts: experiment.Experiment, workdir: Path, mesh: Any) -> tuple[int, Any, dict[str, float]]:
    """Return step, weights and validation metrics of a run's best checkpoint, on a mesh.

    Raises:
      InputError: there is none.
    """
    optimizer, _ = optim.build(name="sgd", learning_rate=1.0, schedule="constant", warmup_steps=0, total_steps=1)
    boxed = state.abstract(parts.model, optimizer)
    where = sharding.shardings(mesh, boxed)
    like = checkpoint.like(sharding.unbox(boxed), where)
    return checkpoint.load_best(workdir, {"params": like.params, "batch_stats": like.batch_stats})


def choose_threshold(task: Task, target: np.ndarray, validation: np.ndarray) -> dict[str, Any] | None:
    """Return the threshold of a binary task, its rule and where it was chosen; None for other tasks.

    Args:
      task: the task.
      target: [n], of the validation fold.
      validation: predictions [n, 1] of it.
    """
    if task.kind != "binary":
        return None
    value = metrics.youden_threshold(target, validation[:, 0])
    if math.isnan(value):
        return {"value": 0.5, "rule": "0.5, for validation holds one class", "chosen_on": None}
    return {"value": value, "rule": "Youden's index", "chosen_on": "validation"}


def refuse_no_numbers(predictions: np.ndarray, scans: list[Scan], workdir: Path) -> None:
    """Refuse predictions [n, k] that are NaN or infinite: metrics would count them, as below the threshold for one.

    Raises:
      InputError: names the first scan.
    """
    bad = np.flatnonzero(~np.isfinite(predictions).all(axis=1))
    if len(bad):
        raise InputError(
            f"{workdir}: found a prediction that is NaN or infinite for {scans[bad[0]].name} (and {len(bad) - 1} more "
            f"of {len(scans)} scans); expected numbers; is data.normalise what the network was trained with?"
        )


def score_fold(
    task: Task,
    scans: list[Scan],
    target: np.ndarray,
    predictions: np.ndarray,
    threshold: dict[str, Any] | None,
    mean: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Describe one fold and its metrics with their intervals; a metric that is undefined has a reason.

    Args:
      task: the task.
      scans: of the fold.
      target: [n].
      predictions: [n, k], in the target's unit.
      threshold: of a binary task, as `choose_threshold` gives it.
      mean: mean target of the training fold.
      resamples, seed: of the bootstrap over subjects.
    """
    described: dict[str, Any] = {
        "scans": len(scans),
        "subjects": len({s.subject for s in scans}),
        "sites": sorted({s.site for s in scans}),
        "class_counts": {c: int((target == i).sum()) for i, c in enumerate(task.classes)} or None,
        "metrics": {},
    }
    if not scans:
        return described | {"reason": "the fold is empty"}

    how = estimates.How(resamples, seed, LEVEL)
    value = threshold["value"] if threshold else None
    subjects = [s.subject for s in scans]
    return described | {"metrics": estimates.of_task(task, subjects, target, predictions, value, mean, how)}


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return manifest.MISSING if math.isnan(value) else repr(value)
    return value
