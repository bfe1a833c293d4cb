"""How much a linear model reads from a network's frozen features, beside the same of an untrained network."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from jaxneuro import augment, data, interop, models, records, splits, terminal, whole
from jaxneuro.errors import InputError
from jaxneuro.evaluation import evaluate
from jaxneuro.interop import folder, tables
from jaxneuro.tasks import Task
from jaxneuro.training import experiment, journal, loop, sharding, start, steps

#: Weights of the squared coefficients, of which validation chooses one: Ridge's alpha, 1 / C of logistic regression.
PENALTIES = tuple(10.0**k for k in range(-4, 5))
#: The one that is taken where validation cannot choose.
_PENALTY = 1.0
_MODELS = {
    "binary": "logistic regression, classes balanced",
    "multiclass": "logistic regression, classes balanced",
    "regression": "ridge regression",
}
#: Keywords of a network that the data and the probe decide.
_DECIDED = {"input_size", "in_channels", "num_outputs", "head_hidden"}


def probe(
    run: str | Path,
    config: ml_collections.ConfigDict,
    out: str | Path | None = None,
    *,
    features: str | Path | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Fit a linear model to the frozen features of a network and test it.

    The network is as it was evaluated in its run (best weights, its normalisation, no augmentation; of masked modelling
    the encoder, which sees every patch). Features are scaled, and the model fitted, on the training fold alone;
    validation chooses the penalty and, of a binary task, the threshold. An untrained network of the same architecture
    goes through the same.

    Args:
      run: folder of a run, with or without a target of its own, or one that `jaxneuro convert` or `export` wrote.
      config: a supervised experiment, which gives the data, the task and the fraction of the training subjects. Of
        `init` it says what of the weights may be adapted to its scans; its model and optimiser are not looked at.
      out: folder for probe.json; by default `probe-TASK` in the run's. Converted weights need one.
      features: file to write the features to (.npz): FOLD_features [n, k], FOLD_target, FOLD_subject, FOLD_session.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      What probe.json holds.

    Raises:
      InputError: the network, the data or the task cannot be used, or do not go together.
      LeakageError: a subject or image of validation, test or ood was trained on.
    """
    began = time.perf_counter()
    run = Path(run)
    described, normalise, made_with = _network(run)
    if config.objective.name != "supervised":
        raise InputError(
            f"objective.name: found '{config.objective.name}' in the config of a probe; expected a supervised one, "
            "whose task the features are to tell; such as --config configs/finetune_age.py"
        )
    parts = experiment.build(_with_network(config, described, run))
    (task,) = parts.tasks
    if out is None:
        if not (run / "config.json").is_file():
            raise InputError(f"--out: found none; expected a folder for probe.json, for {run} is no run's")
        out = run / f"probe-{task.name}"
    model = parts.model.copy(num_outputs=0)
    begin = _load(run, model, config)
    _check_unseen(run, begin, parts)
    if made_with:
        evaluate.compare_recipes(parts.dataset, made_with)
    normalise = normalise or parts.config.data.normalise
    untrained, _ = interop.transfer(model, {}, fresh=[""], seed=parts.config.seed)
    networks = {"trained": begin.variables, "untrained": untrained}
    found = _features(parts, model, networks, normalise)
    told = {name: linear(parts, found[name], resamples=resamples, seed=seed) for name in networks}
    result = {
        "task": evaluate.describe_task(task),
        "source": {**begin.origin, "trained_on": None if begin.seen is None else len(start.unique(begin.seen))},
        "model": {
            "name": parts.described["name"],
            "parameters": sum(x.size for x in jax.tree.leaves(begin.variables["params"])),
            "features": found["trained"]["train"].shape[1],
            "adapted": {row.ours: row.how for row in begin.rows if row.what == "adapted"},
        },
        "normalise": normalise,
        "probe": {
            "model": _MODELS[task.kind],
            "penalties": list(PENALTIES),
            "chosen_by": f"validation/{parts.objective.metric}",
            "fraction": parts.config.data.fraction,
            "folds": {fold: len(numbers) for fold, numbers in parts.folds.items()},
        },
        "interval": evaluate.describe_interval(task, resamples),
        **told,
        "untrained_seed": parts.config.seed,
        "data": evaluate.describe_data(parts.dataset),
        "excluded": [{"reason": r, "scans": n} for r, n in sorted(parts.excluded.items())],
        "versions": journal.versions(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "wall_seconds": round(time.perf_counter() - began, 1),
    }
    if jax.process_index() == 0:
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        whole.write_json(out / "probe.json", result)
        if features:
            _save(Path(features), parts, found["trained"])
        terminal.say(f"{out}: probe.json" + (f"; features: {features}" if features else ""))
    return result


def linear(
    parts: experiment.Experiment, features: Mapping[str, np.ndarray], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Return penalty, threshold, and the metrics of the folds test and ood of a linear model of features.

    Args:
      parts: the experiment; its main task is told.
      features: fold to features [n, k], in the order of `parts.folds`.
      resamples, seed: of the bootstrap over subjects.

    Raises:
      InputError: a feature is NaN or infinite.
    """
    task, objective = parts.tasks[0], parts.objective
    for fold, values in features.items():
        if bad := int((~np.isfinite(values)).any(axis=1).sum()):
            raise InputError(
                f"{parts.dataset.path}: found NaN or infinite features of {bad} of {len(values)} scans of '{fold}'; "
                "expected numbers; is data.normalise what the network was trained with?"
            )
    target = {fold: parts.labels_of(fold)[task.name] for fold in features}
    scaler = StandardScaler().fit(features["train"].astype(np.float64))
    # An empty fold has nothing to transform, which scikit-learn refuses.
    scaled = {fold: scaler.transform(x.astype(np.float64)) if len(x) else x for fold, x in features.items()}
    scores, fits = {}, {}
    for penalty in PENALTIES:
        fits[penalty] = _fit(task, scaled["train"], target["train"], penalty)
        guess = fits[penalty](scaled["validation"])
        scores[penalty] = objective.score(guess, {task.name: target["validation"]})[objective.metric]
    chosen = _best(scores, objective.mode)
    predictions = {fold: fits[chosen](x) if len(x) else np.zeros((0, 1)) for fold, x in scaled.items()}
    threshold = evaluate.choose_threshold(task, target["validation"], predictions["validation"])
    mean = float(np.mean(target["train"], dtype=np.float64))
    value = scores[chosen]
    return {
        "penalty": chosen,
        "validation": None if math.isnan(value) else value,
        "threshold": threshold,
        "folds": {
            fold: evaluate.score_fold(
                task, parts.scans(fold), target[fold], predictions[fold], threshold, mean, resamples, seed
            )
            for fold in ("test", "ood")
        },
    }


def _fit(task: Task, x: np.ndarray, target: np.ndarray, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
    """Fit a linear model to features [n, k]; returns features to predictions [n, 1], or [n, classes]."""
    if task.kind == "regression":
        ridge = Ridge(alpha=penalty).fit(x, target.astype(np.float64))
        return lambda x: ridge.predict(x)[:, None]
    logistic = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=10_000).fit(x, target.astype(int))
    return lambda x: logistic.predict_proba(x)[:, 1:] if task.kind == "binary" else logistic.predict_proba(x)


def _best(scores: Mapping[float, float], mode: str) -> float:
    """Return the penalty with the best score, of equal ones the largest; a middle one where no score is defined."""
    chosen = math.nan
    for penalty in sorted(scores, reverse=True):
        if math.isnan(chosen) or loop.better(scores[penalty], scores[chosen], mode):
            chosen = penalty
    return _PENALTY if math.isnan(scores[chosen]) else chosen


def _network(run: Path) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Return name and keywords of a network, its normalisation ("" unknown), and the recipe of its scans, if known."""
    if (run / folder.CARD).is_file():
        card = records.read_json(run / folder.CARD, ["model"], expected="what jaxneuro convert or export wrote")
        return card["model"], card.get("normalise", ""), card if "recipe_fingerprint" in card else {}
    if (run / "config.json").is_file():
        told = records.read_json(run / "run.json", ["model", "dataset"], expected="a run that began to train")
        return told["model"], evaluate.read_config(run).data.normalise, told["dataset"]
    raise InputError(f"{run}: found no network; expected the folder of a run, or one that jaxneuro convert wrote")


def _with_network(config: ml_collections.ConfigDict, described: Mapping[str, Any], run: Path) -> Any:
    """Return the config with the backbone of a network in place of its own, and its main task alone."""
    if described["name"] not in models.MODELS:
        raise InputError(f"{run}: found a network '{described['name']}'; expected one that jaxneuro info knows")
    name = models.MODELS[described["name"]].encoder or described["name"]
    known = {f.name for f in dataclasses.fields(models.MODELS[name].builder)} - _DECIDED
    changed = ml_collections.ConfigDict(config.to_dict())
    changed.model = ml_collections.ConfigDict(
        {"name": name, **{k: v for k, v in described["settings"].items() if k in known}}
    )
    changed.also = ml_collections.ConfigDict()
    return changed


def _load(run: Path, model: Any, config: Any) -> start.Start:
    """Return a network's weights as those of its backbone, and say what became of them."""
    may = {"channels": config.init.channels, "resample": config.init.resample}
    try:
        begin = start.load(run, model, {"head": "fresh", "fresh": (), "ignore": (), **may}, seed=config.seed)
    except InputError as e:
        # Here the path comes from the command line.
        raise type(e)(str(e).removeprefix("init.path: ")) from e
    terminal.say(f"{run} ({begin.origin['model']}): {tables.counts(begin.rows)}")
    if any(row.what == "adapted" for row in begin.rows):
        terminal.say(tables.changes(begin.rows))
    return begin


def _check_unseen(run: Path, begin: start.Start, parts: experiment.Experiment) -> None:
    """Refuse a test on what the weights were trained on, as far as that is known."""
    for fold in ("validation", "test", "ood"):
        splits.check_disjoint(
            {f"the training of {run}": begin.seen or [], f"{fold} of {parts.dataset.path}": parts.scans(fold)}
        )
    if not begin.origin["known"]:
        terminal.say("which scans these weights were trained on is not known here: keep them out of the test yourself")


def _features(
    parts: experiment.Experiment, model: Any, networks: Mapping[str, dict[str, Any]], normalise: str
) -> dict[str, dict[str, np.ndarray]]:
    """Return, for each network (variables by name), fold to features [n, k]."""

    def pooled(apply: Callable[..., Any], variables: Any, batch: dict[str, jax.Array], key: jax.Array) -> jax.Array:
        return apply(variables, batch["volume"], train=False)[1]["pooled"]

    mesh = sharding.make_mesh({"data": -1})
    reading = evaluate.how_to_read(parts.config, mesh)
    values_of = steps.evaluation_step(
        model.apply, parts.objective._replace(evaluate=pooled), normalise=augment.normaliser(normalise), mesh=mesh
    )
    found: dict[str, dict[str, np.ndarray]] = {}
    with (
        data.open_reader(parts.dataset) as reader,
        terminal.progress("features", len(networks) * len(parts.folds)) as report,
    ):
        for name, variables in networks.items():
            placed = jax.device_put(variables, sharding.replicated(mesh))
            found[name] = {}
            for fold in parts.folds:
                found[name][fold] = loop.evaluate_fold(parts, reader, values_of, placed, fold, mesh, **reading)
                report(len(found[name]) + (len(found) - 1) * len(parts.folds))
    return found


def _save(path: Path, parts: experiment.Experiment, features: Mapping[str, np.ndarray]) -> None:
    columns: dict[str, Any] = {}
    for fold, values in features.items():
        scans = parts.scans(fold)
        columns[f"{fold}_features"] = values
        columns[f"{fold}_target"] = parts.labels_of(fold)[parts.tasks[0].name]
        columns[f"{fold}_subject"] = np.array([s.subject for s in scans], str)
        columns[f"{fold}_session"] = np.array([s.session for s in scans], str)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:  # savez would put .npz after another ending
        np.savez_compressed(file, **columns)
