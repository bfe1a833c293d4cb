"""`jaxneuro occlusion`: where in the brain a run's output comes from, as maps, scores and pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import nibabel as nib
import numpy as np

from jaxneuro import interop, terminal, whole
from jaxneuro.data import open_reader
from jaxneuro.errors import InputError
from jaxneuro.evaluation import evaluate
from jaxneuro.evaluation.maps import chosen, hiding, kept, making, pictures, rollout, scores, space
from jaxneuro.evaluation.maps.making import Settings
from jaxneuro.tasks import Task
from jaxneuro.training import experiment, hosts, journal, sharding

#: Random maps to compare with.
_DRAWS = 100


def occlusion(
    workdir: str | Path,
    settings: Settings | None = None,
    *,
    data: str | Path | None = None,
    task: str | None = None,
    fold: str | None = None,
    scans: int = 10,
    of: str | None = None,
    probability: bool = False,
    atlas: Path | None = None,
    labels: Path | None = None,
    truth: Path | None = None,
    tolerance_mm: float = 5.0,
    untrained: bool = False,
    each: bool = False,
    draw: bool = True,
    seed: int = 0,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Map where the output of a run's best weights comes from, over scans of a fold, and score the maps.

    Args:
      workdir: folder of a supervised run.
      settings: how maps are made.
      data: another dataset, whose scans (each subject's first session) are explained in place of the run's own.
      task: of a run that learnt several; by default the main one.
      fold: whose scans, by default test; another dataset has no folds.
      scans: how many of each class (of all scans in regression), drawn by `seed`.
      of: class to explain; by default the second of two, each scan's own of several.
      probability: explain it in place of the logit.
      atlas: NIfTI of numbered regions in the template's space, on any grid, for `regions.csv`.
      labels: table (index, name) of its regions.
      truth: NIfTI of where the effect is (above 0.5), in the template's space; by default what a synthetic cohort has
        beside its scans (`chosen.known_places`).
      tolerance_mm: see `scores.Truth`.
      untrained: go through it with an untrained network of the same architecture, too.
      each: write the map of every scan, too.
      draw: write pictures (needs nilearn and matplotlib).
      seed: of the scans drawn, random maps, untrained weights.
      out: folder for the results; by default METHOD-TASK in the run's, or METHOD-TASK-NAME-HASH for another dataset.

    Maps of scans are kept in `out` until all is written: the same call after a stop makes the others alone.

    Returns:
      What METHOD.json holds.

    Raises:
      InputError: run, settings, scans or files cannot be used; says which and why.
    """
    began = time.perf_counter()
    workdir, settings = Path(workdir), settings or Settings()
    if not tolerance_mm >= 0:
        raise InputError(f"--tolerance: found {tolerance_mm:g} mm; expected 0 or more")
    if draw:
        pictures.check()
    config, parts = evaluate.open_run(workdir)
    if not parts.tasks:
        raise InputError(
            f"{workdir}: objective '{config.objective.name}' predicts nothing to explain; expected a supervised run; "
            f"fine-tune it with --config.init.path={workdir}"
        )
    explained = chosen.explain(parts, task, of, probability)
    name = f"{settings.method}-{explained.task.name}"
    if data is not None:
        if fold is not None:
            raise InputError(
                f"--fold: found '{fold}' with --data; expected one or the other: all its scans are one fold"
            )
        parts, fold = evaluate.other(parts, Path(data), explained.task), "ood"
        name += f"-{evaluate.short_name(parts.dataset)}"
    fold = fold or "test"
    there = space.of(parts.dataset.card, parts.dataset.path)
    grid = settings.grid(there.shape)
    if settings.method == "rollout":
        rollout.check(parts.model, parts.described["name"])
    numbers, groups = chosen.scans(parts, explained.task, fold, scans, seed)
    regions, names = _regions(there, atlas, labels)
    places = _places(parts, explained.task, groups, there, truth)
    target = parts.labels[explained.task.name][numbers]
    which = [explained.which(label, of) for label in target]

    with open_reader(parts.dataset) as reader:
        volumes = np.stack([np.asarray(reader[i]) for i in numbers])
    brains = (volumes != 0).any(-1)
    brain_of = {g: brains[rows].mean(0) >= 0.5 for g, rows in groups.items()}
    if regions is not None:
        covered = float((regions[brain_of["all"]] != 0).mean())
        if not covered:
            raise InputError(f"--atlas: {atlas}: found no region in the brain; expected an atlas in MNI152 space")
        terminal.say(f"{atlas}: its regions cover {covered:.0%} of the brain")
    out = Path(out) if out else workdir / name
    # Before the work, so that a place that cannot be written is told first.
    hosts.first(lambda: out.mkdir(parents=True, exist_ok=True))
    mesh = sharding.make_mesh({"data": -1})
    step, weights, _ = evaluate.best(parts, workdir, mesh)
    networks = {"trained": weights, **({"untrained": _untrained(parts, seed, mesh)} if untrained else {})}
    hides = settings.method == "occlusion"
    described = settings.describe(there.shape) if hides else {}
    data_said = evaluate.describe_data(parts.dataset)
    found, before = {}, 0
    for name, its in networks.items():
        what = {
            "method": settings.method, **described, "task": explained.task.name, "explains": explained.what,
            "model": parts.described, "normalise": config.data.normalise, "card": data_said["card_sha256"],
            "weights": kept.digest(its), "version": journal.versions()["jaxneuro"],
        }  # fmt: skip
        known = kept.Kept(out, what, [f"{i}-{w}" for i, w in zip(numbers, which, strict=True)])
        if known.before:
            terminal.say(f"{out}: {known.before} of {len(numbers)} maps of the {name} network are made already")
        network = making.Network(explained.output, its, config.data.normalise, parts.model)
        label = settings.method if name == "trained" else f"{settings.method}, untrained network"
        found[name] = making.make(network, volumes, which, settings, mesh=mesh, label=label, known=known)
        before += known.before
    evaluate.refuse_no_numbers(
        np.array(found["trained"].outputs)[:, None], [parts.dataset.scans[i] for i in numbers], workdir
    )
    means = {n: {g: f.maps[rows].mean(0) for g, rows in groups.items()} for n, f in found.items()}
    if settings.method == "rollout":
        grid = rollout.grid(parts.model)
    told: dict[str, Any] = {}
    for group, rows in groups.items():
        brain = brain_of[group]
        told[group] = {"scans": len(rows), "peak_mm": _peak(means["trained"][group], brain, there)}
        if group in places:
            files, place = places[group]

            def against(brain: np.ndarray, place: np.ndarray = place) -> scores.Truth | None:
                return scores.truth(brain, place, there.voxel_mm, tolerance_mm)

            maps = {n: (means[n][group], f.maps[rows]) for n, f in found.items()}
            compared = _compare(
                maps, brain, brains[rows], against, None if settings.method == "gradient" else grid, seed
            )
            told[group]["truth"] = {"files": files, **compared}

    result = {
        "method": settings.method,
        "task": evaluate.describe_task(explained.task),
        "explains": explained.what,
        "unit": explained.unit,
        "checkpoint": {"step": step},
        "model": parts.described["name"],
        "normalise": config.data.normalise,
        **described,
        "fold": fold,
        "seed": seed,
        "tolerance_mm": tolerance_mm,
        "groups": told,
        "scans": _rows(parts, numbers, which, target, found["trained"].outputs, explained),
        "space": {"registered": there.registered, "affine": there.affine.tolist()},
        "passes": sum(f.passes for f in found.values()),
        "kept_from_before": before,
        "devices": f"{mesh.devices.size} x {mesh.devices.flat[0].device_kind}",
        "data": data_said,
        "versions": journal.versions(),
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "wall_seconds": round(time.perf_counter() - began, 1),
    }
    if hosts.is_first():
        behind = space.image(there, volumes.astype(np.float32).mean((0, -1)))
        nib.save(behind, out / "mean.nii.gz")
        for name, of_groups in means.items():
            for group, values in of_groups.items():
                file, image = out / pictures.file_name(group, name), space.image(there, values)
                nib.save(image, file.with_name(f"{file.name}.nii.gz"))
                if draw:
                    title, known_place = pictures.title(result, group, name), places.get(group, (None, None))[1]
                    drawing = pictures.Drawing(image, behind, brain_of[group], title, hides, known_place)
                    drawing.save(file.with_name(f"{file.name}.png"))
        if each:
            for values, i in zip(found["trained"].maps, numbers, strict=True):
                scan = parts.dataset.scans[i]
                file = out / pictures.file_name(f"scan-{scan.subject}_{scan.session}")
                nib.save(space.image(there, values), file.with_name(f"{file.name}.nii.gz"))
        if regions is not None:
            rows_of = list(scores.regions(means["trained"], brain_of["all"], regions, names, there.voxel_mm))
            scores.write_regions(out / "regions.csv", rows_of)
        whole.write_json(out / f"{settings.method}.json", result)
        kept.forget(out)
    terminal.say(
        f"{out}: {settings.method}.json, maps of {', '.join(groups)}"
        + (", pictures" if draw else "")
        + (", regions.csv" if regions is not None else "")
    )
    if not there.registered:
        terminal.say(
            "warning: the scans are not registered: each lies about its own brain's centre, and so do the maps"
        )
    return result


def _untrained(parts: experiment.Experiment, seed: int, mesh: Any) -> dict[str, Any]:
    """Return fresh weights of the run's network, on every device."""
    fresh, _ = interop.transfer(parts.model, {}, fresh=[""], seed=seed)
    weights = {"params": fresh["params"], "batch_stats": fresh.get("batch_stats", {})}
    return jax.device_put(jax.tree.map(np.asarray, weights), sharding.replicated(mesh))


def _compare(
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]],
    brain: np.ndarray,
    brains: np.ndarray,
    against: Callable[[np.ndarray], scores.Truth | None],
    grid: hiding.Grid | None,
    seed: int,
) -> dict[str, Any]:
    """Return how maps of a group and of its scans score.

    Args:
      maps: of each network, the group's map [d, h, w] and those of its scans [n, d, h, w].
      brain: of the group [d, h, w].
      brains: of its scans [n, d, h, w].
      against: what the truth is in a brain; None where there is nothing to tell apart.
      grid: of the patches; None for maps by gradients.
      seed: of the random maps.
    """
    whole = against(brain)
    if whole is None:
        return {"reason": "the region holds no voxel of the brain, or all of it"}
    of_scans = [against(b) for b in brains]
    told: dict[str, Any] = {"chance": {"share": whole.share, "hit": whole.near}}
    for name, (mean, single) in maps.items():
        found = [scores.score(m, t) for m, t in zip(single, of_scans, strict=True) if t]
        told[name] = {"group_map": scores.score(mean, whole), "mean_of_scans": scores.mean(found) if found else None}
    return told | {"random": scores.by_chance(grid, whole, _DRAWS, seed)}


def _regions(there: space.Space, atlas: Path | None, labels: Path | None) -> tuple[np.ndarray | None, dict[int, str]]:
    """Return the region of each voxel, None without an atlas, and the names of regions."""
    if atlas is None:
        if labels is not None:
            raise InputError("--labels: found it without --atlas; expected both")
        return None, {}
    values = space.onto(there, atlas, "--atlas")
    if (values != np.rint(values)).any() or values.min() < 0:
        raise InputError(f"--atlas: {atlas}: found values that are no whole numbers; expected a number for each region")
    if not values.any():
        raise InputError(
            f"--atlas: {atlas}: found none of its regions on the dataset's grid; expected an atlas in MNI152 space"
        )
    return values.astype(int), space.read_labels(labels) if labels else {}


def _places(
    parts: experiment.Experiment, task: Task, groups: Mapping[str, Any], there: space.Space, truth: Path | None
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return group to the files that say where its effect is, and the place, bool [d, h, w]."""
    found = {}
    for group in groups:
        if truth is None and not there.registered:
            continue
        files = [truth] if truth is not None else chosen.known_places(parts, task, group)
        if not files:
            continue
        masks = [space.onto(there, file, "--truth") > 0.5 for file in files]
        found[group] = ([str(f) for f in files], np.any(masks, axis=0))
        if not found[group][1].any():
            raise InputError(
                f"--truth: {files[0]}: found nothing above 0.5 on the dataset's grid; expected a mask in MNI152 space"
            )
    return found


def _peak(values: np.ndarray, brain: np.ndarray, there: space.Space) -> list[float]:
    """Return the centre of a map's largest voxels in the brain, RAS+ mm."""
    inside = np.where(brain, values, -np.inf)
    at = np.argwhere(inside == inside.max()).mean(0)
    return [round(float(v), 1) for v in there.affine[:3, :3] @ at + there.affine[:3, 3]]


def _rows(
    parts: experiment.Experiment,
    numbers: Sequence[int],
    which: Sequence[int],
    target: np.ndarray,
    outputs: Sequence[float],
    explained: chosen.Explained,
) -> list[dict[str, Any]]:
    """Return what is told of each scan."""
    rows = []
    for i, klass, label, output in zip(numbers, which, target, outputs, strict=True):
        scan = parts.dataset.scans[i]
        named = explained.classes[int(label)] if explained.classes else float(label)
        row = {"subject": scan.subject, "session": scan.session, "label": named, "output": output}
        rows.append(row | ({"class": explained.classes[klass]} if explained.classes else {}))
    return rows
