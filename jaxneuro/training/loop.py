"""One training loop for every objective: read, step, validate, save, and go on where a stopped run was."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxneuro import augment, data, lock, manifest, terminal, whole
from jaxneuro.errors import InputError
from jaxneuro.interop import tables
from jaxneuro.training import (
    checkpoint,
    experiment,
    feed,
    hosts,
    journal,
    pictures,
    sharding,
    start,
    state,
    steps,
    stopping,
    targets,
)
from jaxneuro.training.pace import Pace


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    stop: stopping.Stop | None = None,
    judge: Callable[[int, float], bool] | None = None,
) -> dict[str, float]:
    """Train as a config says; running the same again resumes.

    Args:
      config: an experiment (`configs/`).
      workdir: folder of the run. Gets config.json, run.json, scans.csv (training scans), metrics.jsonl, tensorboard/,
        checkpoints/ and best/; init.csv and pretrained_on.csv when it starts from other weights; pictures/ from
        objectives that draw some.
      stop: what a signal sets, where the caller already listens (`stopping.on_signal`).
      judge: is told (epoch, value of the metric that chooses the best checkpoint) after each validation, before the
        state is saved, and once more where a resumed run repeats it. True ends the run there, as patience does. Every
        process of a run has to answer alike.

    Returns:
      The metric that chooses the best checkpoint, and its `step`.

    Raises:
      InputError: the config, its data, or the folder cannot be used; or a loss is not a number.
      Preempted: SIGTERM came; the state is saved.
      KeyboardInterrupt: Ctrl-C came; the state is saved.
    """
    # ---- what the run is made of; whatever is wrong with it is told before anything is written ------------------
    if stop is None:
        with stopping.on_signal() as stop:
            return train(config, workdir, stop, judge)
    versions = journal.versions()
    parts = experiment.build(config, _kept(config, workdir))
    config = parts.config
    mesh = sharding.make_mesh(config.mesh.to_dict())
    size = config.data.batch_size
    sharding.check_batch_size(mesh, size)
    normalise = augment.normaliser(config.data.normalise)
    views = augment.build(config.augment.to_dict(), sharding.across(mesh))
    epoch_steps = len(parts.folds["train"]) // size
    epochs, total = config.training.epochs, config.training.epochs * epoch_steps
    optimizer, rate = experiment.optimizer(parts, epoch_steps)
    average = config.optimizer.average
    check_parts(config, parts, mesh)
    with ExitStack() as closing:
        reader = closing.enter_context(data.open_reader(parts.dataset))
        reading = how_to_read(config, mesh)
        batches, put = feed.build(parts, reader, mesh, reading)
        boxed = state.abstract(parts.model, optimizer, average=bool(average))
        where = sharding.shardings(mesh, boxed)
        journal.check_dataset(workdir, parts.dataset.card)
        begin = _start(parts, workdir)
        journal.check_config(workdir, config.to_dict())

        def claim() -> None:
            closing.enter_context(lock.hold(workdir))
            # Checks once more: two runs may have begun at once, and the one that comes too late must not write.
            journal.claim(workdir, config.to_dict())

        hosts.first(claim)

        # ---- state: the folder's own, else that of `init`, else from scratch -----------------------------------
        checkpoints = closing.enter_context(checkpoint.Checkpoints(workdir, keep=config.training.keep))
        found = checkpoints.restore(checkpoint.like(sharding.unbox(boxed), where))
        if found:
            now, position = found
            batches.set_state(position["data"])
            best, pace = position["best"], Pace(size, position["pending"])
        else:
            now = state.create(parts.model, optimizer, jax.random.key(config.seed), where, average=bool(average))
            best, pace = {"value": None, "step": 0}, Pace(size)
            if begin:
                now = state.with_weights(now, begin.variables, where)
        step = int(now.step)
        if not found:
            hosts.first(lambda: _write_down(parts, Path(workdir), now, mesh, begin, versions))
        log: journal.Journal | journal.Silence = journal.Silence()
        if hosts.is_first():
            log = closing.enter_context(journal.Journal(workdir, resume_at=step if found else None))
        told = hosts.Agreed(stop, mesh)
        terminal.say(_opening(parts, now, mesh, step, total, begin))
        if begin and not found and any(row.what != "copied" for row in begin.rows):
            terminal.say(tables.changes(begin.rows))

        # ---- the steps -----------------------------------------------------------------------------------------
        apply, objective = parts.model.apply, parts.objective
        train_step = steps.train_step(
            apply, objective, optimizer, normalise=normalise, views=views, mesh=mesh, where=where,
            parts=config.training.accumulate, average=average,
        )  # fmt: skip
        evaluate = steps.evaluation_step(apply, objective, normalise=normalise, views=views, mesh=mesh)
        draw = pictures.drawer(parts, reader, normalise=normalise, mesh=mesh, reading=reading)

        judged = False

        def save() -> None:
            checkpoints.save(now, {"data": batches.get_state(), "best": best, "pending": pace.pending()})

        def validate(epoch: int, note: str = "") -> None:
            """Score the validation fold, keep the best weights, save the state."""
            nonlocal best, judged
            values = evaluate_fold(parts, reader, evaluate, now.weights(), "validation", mesh, **reading)
            scores = objective.score(values, parts.labels_of("validation"))
            log.write(step, epoch, {f"validation/{k}": v for k, v in scores.items()})
            value = scores[objective.metric]
            if best["value"] is None or better(value, best["value"], objective.mode):
                best = {"value": None if math.isnan(value) else value, "step": step}
                checkpoints.save_best(now, scores)
            if draw:
                log.draw(step, draw(now.weights()))
            judged = judge is not None and judge(epoch, value)
            save()
            terminal.say(
                f"epoch {epoch}/{epochs}  step {step}{note}  validation {objective.metric} {value:.3f}"
                f"{'  best' if best['step'] == step else ''}"
            )

        key = jax.random.key(config.seed)
        pace.restart()
        report = closing.enter_context(terminal.progress("training", total))
        if not total and not found:
            validate(0)  # the weights as they came: nothing is learned
        while step < total and not judged and not _waited(best, step, epoch_steps, config.training):
            if told.is_set():
                pace.check(workdir, parts.dataset.scans)
                save()
                checkpoints.close()
                raise told.error(f"at step {step} of {total}, saved; the same command goes on from there")
            with pace.waiting():
                batch = next(batches)
            now, metrics = train_step(now, put(batch), key)
            step += 1
            pace.step(step, metrics, batch["index"])
            epoch, ends = step / epoch_steps, step % epoch_steps == 0
            if step % config.training.log_every == 0 or ends:
                pace.check(workdir, parts.dataset.scans)
                values = pace.take() | {"train/learning_rate": float(rate(step - 1))}
                log.write(step, epoch, values)
                speed = f"{values['train/volumes_per_second']:.1f} volumes/s"
                report(step, note=f"loss {values['train/loss']:.3f}  {speed}")
            if ends:
                if round(epoch) % config.training.evaluate_every == 0 or step == total:
                    validate(round(epoch), f"  loss {values['train/loss']:.3f}  {speed}")
                else:
                    save()
                pace.restart()
        # While a signal only sets a flag: the last state is not to be lost to it.
        checkpoints.close()
        if step < total:
            why = f"did not improve for {config.training.patience} epochs"
            terminal.say(f"stopped early: validation {objective.metric} {'was judged too poor' if judged else why}")
    return {parts.objective.metric: best["value"], "step": best["step"]}


def check_parts(config: Any, parts: experiment.Experiment, mesh: Any) -> None:
    """Refuse a batch that the objective cannot learn from, and to take one in parts where it cannot be.

    Raises:
      InputError: says which batch sizes work, or why it cannot be taken in parts at all.
    """
    count, size = config.training.accumulate, config.data.batch_size
    if parts.objective.whole_batch and size < 2:
        raise InputError(
            f"data.batch_size: found {size} with objective '{config.objective.name}', which compares the scans of a "
            "batch with each other; expected 2 or more, the more the better"
        )
    if count > 1 and parts.objective.whole_batch:
        raise InputError(
            f"training.accumulate: found {count} with objective '{config.objective.name}', which compares the scans of "
            "a whole batch with each other; expected 1; take a smaller batch, or --config.model.remat=True"
        )
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if size % (count * ways):
        raise InputError(
            f"training.accumulate: found {count} parts of a batch of {size} over {ways} devices; expected "
            f"data.batch_size to be a multiple of {count * ways}"
        )


def _start(parts: experiment.Experiment, workdir: str | Path) -> start.Start | None:
    """Return the weights that a new run begins with, None from scratch or when the folder has its own."""
    config = parts.config
    if not config.init.path:
        if not config.training.epochs:
            raise InputError("training.epochs: found 0 without init.path; expected weights to keep as they are")
        return None
    if checkpoint.there(workdir):
        return None
    input_ = {
        "normalise": config.data.normalise,
        "recipe_fingerprint": parts.dataset.card["recipe_fingerprint"],
    }
    begin = start.load(config.init.path, parts.model, config.init.to_dict(), seed=config.seed, input_=input_)
    start.check_unseen(begin, {fold: parts.scans(fold) for fold in parts.folds})
    return begin


def _kept(config: Any, workdir: str | Path) -> list[dict[str, Any]] | None:
    """Return what the network's outputs mean where that is settled: by the run itself, or by the head that it keeps."""
    if checkpoint.there(workdir):
        return targets.of(workdir)
    if config.init.path and config.init.head == "keep":
        return targets.of(config.init.path)
    return None


def _waited(best: dict[str, Any], step: int, epoch_steps: int, settings: Any) -> bool:
    """Tell, after a validation, whether the best score is `patience` epochs old or more; 0 waits for ever."""
    epoch, within = divmod(step, epoch_steps)
    if not settings.patience or not best["step"] or within or epoch % settings.evaluate_every:
        return False
    return epoch - best["step"] // epoch_steps >= settings.patience


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


def evaluate_fold(
    parts: experiment.Experiment,
    reader: data.Volumes,
    evaluate: Callable[..., jax.Array],
    weights: dict[str, Any],
    fold: str,
    mesh: Any,
    **reading: Any,
) -> np.ndarray:
    """Return the objective's values [n, k] of every scan of a fold, in the fold's order, each scan once.

    Those of a video are the mean over its views, as published for probabilities.
    """
    views = [parts.dataset.views(i) for i in parts.folds[fold]]
    batches = data.evaluation_batches(reader, [i for of_one in views for i in of_one], parts.labels, **reading)
    found = []
    for number, batch in enumerate(batches):
        del batch["index"]
        placed = sharding.put(mesh, batch)
        # The same draws in every evaluation, so that scores of two epochs can be compared.
        values = evaluate(weights, placed, jax.random.fold_in(jax.random.key(0), number))
        found.append(sharding.fetch(values)[sharding.fetch(placed["valid"])])
    if found:
        starts = np.cumsum([0, *(len(of_one) for of_one in views[:-1])])
        counts = np.array([[len(of_one)] for of_one in views], np.float32)
        return np.add.reduceat(np.concatenate(found), starts, axis=0) / counts
    one = jax.eval_shape(evaluate, weights, _one_batch(parts, mesh), jax.random.key(0))
    return np.zeros((0, *one.shape[1:]), np.float32)


def _one_batch(parts: experiment.Experiment, mesh: Any) -> dict[str, jax.ShapeDtypeStruct]:
    shapes: dict[str, tuple[tuple[int, ...], Any]] = dict.fromkeys(parts.labels, ((), np.float32))
    shapes |= {"volume": (parts.dataset.shape, parts.dataset.card["dtype"]), "valid": ((), bool)}
    return {k: jax.ShapeDtypeStruct((mesh.size, *shape), dtype) for k, (shape, dtype) in shapes.items()}


def better(value: float, best: float, mode: str) -> bool:
    """Tell whether a metric beats the best so far; NaN never does."""
    return value > best if mode == "max" else value < best


def _write_down(
    parts: experiment.Experiment,
    workdir: Path,
    now: state.TrainState,
    mesh: Any,
    begin: start.Start | None,
    versions: dict[str, str],
) -> None:
    manifest.write(workdir / "scans.csv", parts.scans("train"))
    if begin:
        start.write(workdir, begin)
    card = parts.dataset.card
    whole.write_json(
        workdir / "run.json",
        {
            "dataset": {
                k: card[k] for k in ("name", "synthetic", "recipe", "recipe_fingerprint", *journal.SEALS) if k in card
            },
            "normalise": parts.config.data.normalise,
            "model": parts.described,
            "targets": parts.targets,
            "init": begin.origin if begin else None,
            "folds": {k: len(v) for k, v in parts.folds.items()},
            "excluded": [{"reason": r, "scans": n} for r, n in sorted(parts.excluded.items())],
            "parameters": sum(x.size for x in jax.tree.leaves(now.params)),
            "devices": f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
            "mesh": dict(mesh.shape),
            "versions": versions,
        },
    )


def _opening(
    parts: experiment.Experiment, now: state.TrainState, mesh: Any, step: int, total: int, begin: start.Start | None
) -> str:
    count = sum(x.size for x in jax.tree.leaves(now.params))
    folds = ", ".join(f"{name} {len(numbers)}" for name, numbers in parts.folds.items())
    tasks = "; ".join(f"task {t.name} ({t.kind}, {t.target})" for t in parts.tasks) or "no target"
    lines = [
        f"{parts.described['name']}, {count:,} parameters, on {mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
        f"{parts.config.objective.name}, {tasks}; scans: {folds}",
        *(f"left out: {n} scans, {reason}" for reason, n in sorted(parts.excluded.items())),
    ]
    if step:
        return "\n".join([*lines, f"resuming at step {step} of {total}"])
    if begin is None:
        return "\n".join([*lines, f"{total} steps from scratch"])
    origin = f"{begin.origin['path']} ({begin.origin['model']})"
    lines.append(f"{total} steps from {origin}: {tables.counts(begin.rows)}; leaf by leaf in {start.REPORT}")
    if not begin.origin["known"]:
        lines.append("which scans these weights were trained on is not known here: keep them out of the test yourself")
    return "\n".join(lines)
