"""A folder of scans to a dataset of shards: every scan prepared on its own, in parallel, then packed in order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxneuro import __version__, manifest, records, sources, splits
from jaxneuro.errors import InputError, ScanError
from jaxneuro.manifest import Problem, Scan
from jaxneuro.prepare import parallel, volumes
from jaxneuro.video import sampling

Progress = Callable[[str, int, int], None]


def prepare(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = "paper80",
    study: str | None = None,
    table: str | os.PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    synthetic: bool | None = None,
    subject_prefix: str = "",
    validation: float = 0.15,
    test: float = 0.25,
    ood_sites: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    video: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn a study's folder, or a CSV of scans, into shards; with a recipe for video, videos into clips.

    Args:
      source: the folder, in a layout of `sources.READERS`, or a CSV/TSV with one row a scan.
      out: folder to make; nothing is left there when the run fails.
      recipe: name of a recipe in `volumes.RECIPES`, or in `sampling.RECIPES` for videos (`clips.prepare`).
      study, table, columns, options: which layout it is, its table, the table's columns, the reader's keywords: see
        `sources.read`.
      name: name of the dataset; by default that of the study, the BIDS description or the source.
      synthetic: whether the scans are synthetic; by default what the layout or the BIDS description says.
      subject_prefix: put before every subject, to tell two studies' `sub-001` apart.
      validation, test, ood_sites, seed: see `splits.make`.
      workers: processes. The result does not depend on it.
      progress: called with (what, done, total).
      video: store, views and clips of `clips.prepare`; with a recipe for video only.

    Returns:
      The card of the dataset.

    Raises:
      InputError: the source cannot be read, no scan is usable, or `out` exists.
      OSError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    if out.exists():
        raise InputError(f"{out}: already exists; expected a new folder; choose another or remove it")
    if workers < 1:
        raise InputError(f"workers: found {workers}; expected 1 or more")
    table = Path(table) if table is not None else None
    if recipe in sampling.RECIPES:
        from jaxneuro.prepare import clips  # needs PyAV, which is an extra

        for flag, value in (("study", study), ("option", options)):
            if value:
                raise InputError(
                    f"--{flag}: found with recipe '{recipe}'; expected none; videos have layouts of their own"
                )
        return clips.prepare(
            source, out, recipe=recipe, table=table, columns=columns, name=name, synthetic=synthetic,
            subject_prefix=subject_prefix, validation=validation, test=test, ood_sites=ood_sites, seed=seed,
            workers=workers, progress=progress, **(video or {}),
        )  # fmt: skip
    if video:
        raise InputError(
            f"--{next(iter(video))}: found with recipe '{recipe}'; expected one of {list(sampling.RECIPES)}"
        )
    chosen = volumes.recipe(recipe)
    found = sources.read(source, study, columns, table, options)
    scans, problems = found.scans, list(found.problems)
    if not scans:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise InputError(f"{source}: found no usable scan; expected at least one{first}")
    if found.folds and ood_sites:
        raise InputError(
            f"--ood-site: found {list(ood_sites)} with the folds that {found.name} publishes; expected none; "
            "--option folds=own makes folds anew"
        )
    scans = manifest.rename(scans, subject_prefix)

    # Folds that cannot be made are told now, not after hours; the real ones follow, of the scans that can be used.
    def fold(scans: Sequence[Scan]) -> splits.Splits:
        if found.folds:
            named = {subject_prefix + subject: name for subject, name in found.folds.items()}
            return splits.given(scans, named, seed=seed)
        return splits.make(scans, validation=validation, test=test, ood_sites=ood_sites, seed=seed)

    fold(scans)
    out.parent.mkdir(parents=True, exist_ok=True)
    spool = Path(tempfile.mkdtemp(prefix=f".{out.name}.spool-", dir=out.parent))
    try:
        files = {}
        done: list[Scan] = []
        for i, (file, result) in enumerate(_each(scans, chosen, spool, workers)):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                done.append(result)
                files[result.key] = file
            if progress:
                progress("preparing scans", i + 1, len(scans))
        kept, shared = manifest.drop_shared_images(done)
        problems += shared
        if not kept:
            raise InputError(f"{source}: found no usable scan; expected at least one; the first problem: {problems[0]}")
        folds = fold(kept)
        if synthetic is None:
            synthetic = bool(found.synthetic)
        with records.Writer(out, shape=(*chosen.shape, 1), records=len(kept)) as writer:
            for i, scan in enumerate(kept):
                writer.add(np.load(files[scan.key]), scan)
                if progress:
                    progress("writing shards", i + 1, len(kept))
            return writer.finish(
                splits=folds,
                problems=problems,
                name=name or found.name,
                description="synthetic scans, made by a program" if synthetic else "scans of people",
                synthetic=synthetic,
                inclusion=found.rule,
                spacing_mm=list(chosen.spacing_mm),
                axes="RAS+: depth left to right, height posterior to anterior, width inferior to superior",
                recipe=chosen.describe(),
                version=__version__,
            )
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _each(
    scans: Sequence[Scan], recipe: volumes.Recipe, spool: Path, workers: int
) -> Iterator[tuple[Path, Scan | Problem]]:
    jobs = [(s, recipe, spool / f"{i}.npy") for i, s in enumerate(scans)]
    return parallel.each(_one, jobs, workers)


def _one(scan: Scan, recipe: volumes.Recipe, file: Path) -> tuple[Path, Scan | Problem]:
    """Prepare one scan into `file`; a scan that cannot be used comes back as the problem it is."""
    try:
        voxels, affine = volumes.read(scan.path)
        volume = volumes.apply(recipe, voxels, affine)
    except ScanError as e:
        return file, Problem(scan.path, e.found, e.expected, e.hint)
    except MemoryError:
        return file, Problem(scan.path, "an image too large for the memory", "a head", "check its header")
    np.save(file, volume)
    return file, replace(scan, content_hash=volumes.content_hash(voxels))
