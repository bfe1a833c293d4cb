"""One training loop for every objective: read, step, validate, save, and go on where a stopped run was."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxneuro import augment, data, manifest, records, terminal
from jaxneuro.errors import InputError
from jaxneuro.training import checkpoint, experiment, journal, optim, sharding, state, steps


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Train as a config says; running the same again resumes.

    Args:
      config: an experiment (`configs/`).
      workdir: folder of the run. Gets config.json, run.json, scans.csv (training scans), metrics.jsonl, tensorboard/,
        checkpoints/ and best/.

    Returns:
      Validation metrics of the best checkpoint, with its `step`.

    Raises:
      InputError: the config, its data, or the folder cannot be used.
    """
    # ---- what the run is made of; whatever is wrong with it is told before anything is written ------------------
    parts = experiment.build(config)
    config = parts.config
    mesh = sharding.make_mesh(config.mesh.to_dict())
    size = config.data.batch_size
    sharding.check_batch_size(mesh, size)
    normalise = augment.normaliser(config.data.normalise)
    views = augment.build(config.augment.to_dict())
    epoch_steps = len(parts.folds["train"]) // size
    total = config.training.epochs * epoch_steps
    optimizer, rate = optim.build(
        **{k: v for k, v in config.optimizer.items() if k != "warmup_epochs"},
        warmup_steps=round(config.optimizer.warmup_epochs * epoch_steps),
        total_steps=total,
    )
    with ExitStack() as closing:
        reader = closing.enter_context(records.Reader(parts.dataset))
        reading = how_to_read(config, mesh)
        batches = data.training_batches(
            reader, parts.folds["train"], {"target": parts.targets}, seed=config.seed, **reading
        )
        journal.check_dataset(workdir, parts.dataset.card)
        journal.claim(workdir, config.to_dict())

        # ---- state: the folder's own, else from scratch --------------------------------------------------------
        checkpoints = closing.enter_context(checkpoint.Checkpoints(workdir, keep=config.training.keep))
        shape = (size, *parts.dataset.shape)
        boxed = state.abstract(parts.model, optimizer, shape)
        where = sharding.shardings(mesh, boxed)
        found = checkpoints.restore(checkpoint.like(sharding.unbox(boxed), where))
        if found:
            now, position = found
            batches.set_state(position["data"])
            best = position["best"]
        else:
            now = state.create(parts.model, optimizer, shape, jax.random.key(config.seed), mesh)
            best = {"value": None, "step": 0}
        step = int(now.step)
        _write_down(parts, Path(workdir), now, mesh)
        log = closing.enter_context(journal.Journal(workdir, resume_at=step))
        terminal.say(_opening(parts, now, mesh, step, total))

        # ---- the steps -----------------------------------------------------------------------------------------
        apply, objective = parts.model.apply, parts.objective
        train_step = steps.train_step(
            apply, objective, optimizer, normalise=normalise, views=views, seed=config.seed, mesh=mesh, where=where
        )
        predict = steps.predict_step(apply, objective, normalise=normalise, mesh=mesh)
        pace = _Pace(size)
        report = closing.enter_context(terminal.progress("training", total))
        stop = closing.enter_context(_stop_on_interrupt())
        while step < total:
            if stop.is_set():
                checkpoints.save(now, {"data": batches.get_state(), "best": best})
                raise KeyboardInterrupt(f"at step {step} of {total}, saved; the same command goes on from there")
            with pace.waiting():
                batch = next(batches)
            now, metrics = train_step(now, sharding.put(mesh, {k: v for k, v in batch.items() if k != "index"}))
            pace.step(metrics)
            step += 1
            epoch, ends = step / epoch_steps, step % epoch_steps == 0
            if step % config.training.log_every == 0 or ends:
                values = pace.take() | {"train/learning_rate": float(rate(step - 1))}
                log.write(step, epoch, values)
                if not math.isfinite(values["train/loss"]):
                    raise InputError(
                        f"{workdir}: the loss is {values['train/loss']} at step {step}; expected a number; the last "
                        "checkpoint is whole; try a lower --config.optimizer.learning_rate in a new --workdir"
                    )
                speed = f"{values['train/volumes_per_second']:.1f} volumes/s"
                report(step, note=f"loss {values['train/loss']:.3f}  {speed}")
            if ends and (round(epoch) % config.training.evaluate_every == 0 or step == total):
                weights = {"params": now.params, "batch_stats": now.batch_stats}
                predictions = predict_fold(parts, reader, predict, weights, "validation", mesh, **reading)
                scores = objective.score(predictions, parts.targets[parts.folds["validation"]])
                log.write(step, epoch, {f"validation/{k}": v for k, v in scores.items()})
                value = scores[objective.metric]
                if best["value"] is None or better(value, best["value"], objective.mode):
                    best = {"value": None if math.isnan(value) else value, "step": step}
                    checkpoints.save_best(now, scores)
                checkpoints.save(now, {"data": batches.get_state(), "best": best})
                terminal.say(
                    f"epoch {round(epoch)}/{config.training.epochs}  step {step}  loss {values['train/loss']:.3f}  "
                    f"validation {objective.metric} {value:.3f}  {speed}{'  best' if best['step'] == step else ''}"
                )
                pace.restart()
    return {parts.objective.metric: best["value"], "step": best["step"]}


def how_to_read(config: ml_collections.FrozenConfigDict, mesh: Any) -> dict[str, int]:
    """Return the arguments of `data.training_batches` and `data.evaluation_batches` that a config and a mesh decide."""
    index, count = sharding.process_part(mesh)
    return {
        "batch_size": config.data.batch_size,
        "threads": config.data.threads,
        "prefetch": config.data.prefetch,
        "process_index": index,
        "process_count": count,
    }


def predict_fold(
    parts: experiment.Experiment,
    reader: records.Reader,
    predict: Any,
    weights: dict[str, Any],
    fold: str,
    mesh: Any,
    **reading: Any,
) -> np.ndarray:
    """Return predictions [n, k] for every scan of a fold, in the fold's order, each scan once."""
    batches = data.evaluation_batches(reader, parts.folds[fold], {}, **reading)
    found = []
    for batch in batches:
        placed = sharding.put(mesh, {"volume": batch["volume"], "valid": batch["valid"]})
        out = predict(weights, placed["volume"])
        found.append(sharding.fetch(out)[sharding.fetch(placed["valid"])])
    return np.concatenate(found) if found else np.zeros((0, parts.task.num_outputs), np.float32)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second interrupts at once.

    An interrupt raised wherever the program happens to be is lost in a library's callback or mistaken for its error.
    """
    asked = threading.Event()
    # A shell that starts a job in the background makes it ignore interrupts; so it stays.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(signum: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class _Pace:
    """Collect the metrics of steps and how fast they went, between two lines of the log."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._metrics: list[dict[str, jax.Array]] = []
        self.restart()

    def restart(self) -> None:
        self._clock, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def step(self, metrics: dict[str, jax.Array]) -> None:
        # Kept on the device: reading a value here would make the host wait for the step.
        self._metrics.append(metrics)

    def take(self) -> dict[str, float]:
        """Return means of the metrics, volumes a second, and the share of time spent waiting for data."""
        values = {f"train/{k}": float(np.mean([m[k] for m in self._metrics])) for k in self._metrics[0]}
        seconds = time.perf_counter() - self._clock
        values["train/volumes_per_second"] = len(self._metrics) * self._batch_size / seconds
        values["train/waiting_for_data"] = self._waited / seconds
        self._metrics = []
        self.restart()
        return values


def better(value: float, best: float, mode: str) -> bool:
    """Tell whether a metric beats the best so far; NaN never does."""
    return value > best if mode == "max" else value < best


def _write_down(parts: experiment.Experiment, workdir: Path, now: state.TrainState, mesh: Any) -> None:
    if jax.process_index() or (workdir / "run.json").is_file():
        return
    manifest.write(workdir / "scans.csv", parts.scans("train"))
    journal.write_json(
        workdir / "run.json",
        {
            "dataset": {k: parts.dataset.card[k] for k in ("name", "synthetic", "recipe_fingerprint", *journal.SEALS)},
            "folds": {k: len(v) for k, v in parts.folds.items()},
            "excluded": [{"reason": r, "scans": n} for r, n in sorted(parts.excluded.items())],
            "parameters": sum(x.size for x in jax.tree.leaves(now.params)),
            "devices": f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
            "mesh": dict(mesh.shape),
            "versions": journal.versions(),
        },
    )


def _opening(parts: experiment.Experiment, now: state.TrainState, mesh: Any, step: int, total: int) -> str:
    count = sum(x.size for x in jax.tree.leaves(now.params))
    folds = ", ".join(f"{name} {len(numbers)}" for name, numbers in parts.folds.items())
    lines = [
        f"{parts.config.model.name}, {count:,} parameters, on {mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
        f"task {parts.task.name} ({parts.task.kind}, {parts.task.target}); scans: {folds}",
        *(f"left out: {n} scans, {reason}" for reason, n in sorted(parts.excluded.items())),
        f"resuming at step {step} of {total}" if step else f"{total} steps from scratch",
    ]
    return "\n".join(lines)
