"""A folder of scans to a dataset of shards: every scan prepared on its own, in parallel, then packed in order."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxneuro import __version__, manifest, records, sources
from jaxneuro.errors import InputError, ScanError
from jaxneuro.manifest import Problem, Scan
from jaxneuro.prepare import folds, masks, parallel, quality, recipes
from jaxneuro.prepare.recipes import Recipe
from jaxneuro.prepare.spool import Spool
from jaxneuro.video import sampling

Progress = Callable[[str, int, int], None]
#: In a dataset: what happened to each scan, a line of JSON each, in record order; and the page to look at.
RECORDS, QUALITY = "records.jsonl", "quality.html"


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
    validation: float | None = None,
    test: float | None = None,
    ood_sites: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    skip: Sequence[str] = (),
    already: Sequence[str] = (),
    stripper: str | None = None,
    work: str | os.PathLike[str] | None = None,
    cluster: str = "",
    video: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn a study's folder, or a CSV of scans, into shards; with a recipe for video, videos into clips.

    Args:
      source: the folder, in a layout of `sources.READERS`, or a CSV/TSV with one row a scan.
      out: folder to make; there is none before it is whole.
      recipe: name of a recipe in `recipes.RECIPES`, or in `sampling.RECIPES` for videos (`clips.prepare`).
      study, table, columns, options: which layout it is, its table, the table's columns, the reader's keywords: see
        `sources.read`.
      name: name of the dataset; by default that of the study, the BIDS description or the source.
      synthetic: whether the scans are synthetic; by default what the layout or the BIDS description says.
      subject_prefix: put before every subject, to tell two studies' `sub-001` apart.
      validation, test, ood_sites, seed: see `splits.make`; the first three are refused where the study publishes folds.
      workers: processes. The result does not depend on it.
      progress: called with (what, done, total).
      skip, already, stripper: stages that are left out, that the study has done (and the layout does not tell), and how
        the skull is stripped: see `recipes.recipe`.
      work: folder for scans that are done, which stays; by default one beside `out`, which goes when `out` is whole.
        Either way the same call goes on where it was stopped, and does again only scans whose files have changed.
      cluster: where scans are prepared instead of in processes here: see `parallel.each`.
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

        of_scans = {
            "study": study,
            "option": options,
            "strip": stripper,
            "skip": skip,
            "already": already,
            "work": work,
            "cluster": cluster,
        }
        if given := [flag for flag, value in of_scans.items() if value]:
            raise InputError(f"--{given[0]}: found with recipe '{recipe}'; expected none; it is for scans")
        return clips.prepare(
            source, out, recipe=recipe, table=table, columns=columns, name=name, synthetic=synthetic,
            subject_prefix=subject_prefix, validation=validation, test=test, ood_sites=ood_sites, seed=seed,
            workers=workers, progress=progress, **(video or {}),
        )  # fmt: skip
    if video:
        raise InputError(
            f"--{next(iter(video))}: found with recipe '{recipe}'; expected one of {list(sampling.RECIPES)}"
        )
    recipes.recipe(recipe, skip=skip, already=already, stripper=stripper)  # wrong words are told before a long walk
    found = sources.read(source, study, columns, table, options)
    scans, problems = found.scans, list(found.problems)
    if not scans:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise InputError(f"{source}: found no usable scan; expected at least one{first}")
    # Folds that cannot be made are told now, not after hours; the real ones follow, of the scans that can be used.
    fold = folds.maker(
        found, subject_prefix=subject_prefix, validation=validation, test=test, ood_sites=ood_sites, seed=seed
    )
    scans = manifest.rename(found.scans, subject_prefix)
    fold(scans)
    chosen = recipes.recipe(recipe, skip=skip, already=[*already, *found.already], stripper=stripper)
    chosen_card = chosen.describe()
    own_masks, unclear = masks.find(source, found.scans) if chosen.stripper == "mask" else ({}, [])
    problems += unclear
    scans = [s for s in scans if s.path not in {p.where for p in unclear}]
    folder = Path(work) if work is not None else out.with_name(f".{out.name}.work")
    spool = Spool(folder, records.fingerprint(chosen_card))
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(s.path, own_masks.get(s.path, ""), chosen, spool) for s in scans]
    keys: dict[tuple[str, str], str] = {}
    done: list[Scan] = []
    try:
        for i, (scan, (key, result)) in enumerate(
            zip(scans, parallel.each(_one, jobs, workers, cluster=cluster, lost=_lost), strict=True)
        ):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                done.append(replace(scan, content_hash=result))
                keys[scan.key] = key
            if progress:
                progress("preparing scans", i + 1, len(scans))
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(f"after {len(done)} scans, kept in {folder}; the same command goes on") from e
    kept, shared = manifest.drop_shared_images(done)
    problems += shared
    if not kept:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"{source}: found no usable scan; expected at least one; the first problem: {problems[0]}")
    made = fold(kept)
    if synthetic is None:
        synthetic = bool(found.synthetic)
    with records.Writer(out, shape=(*chosen.shape, 1), records=len(kept)) as writer:
        page = quality.Page(chosen)
        with open(writer.folder / RECORDS, "w", encoding="utf-8", errors="backslashreplace") as lines:
            for i, scan in enumerate(kept):
                entry, volume = spool.find(keys[scan.key]), spool.volume(keys[scan.key])
                if entry is None:
                    raise OSError(f"{folder}: lost a scan that was done; begin again")
                record = {"subject": scan.subject, "session": scan.session, "path": scan.path, **entry["record"]}
                lines.write(json.dumps(record) + "\n")
                writer.add(volume, scan)
                page.add(scan, volume, record)
                if progress:
                    progress("writing shards", i + 1, len(kept))
        name = name or found.name
        page.write(writer.folder / QUALITY, title=name, problems=problems)
        card = writer.finish(
            splits=made,
            problems=problems,
            name=name,
            description="synthetic scans, made by a program" if synthetic else "scans of people",
            synthetic=synthetic,
            inclusion=found.rule,
            spacing_mm=list(chosen.spacing_mm),
            axes="RAS+: depth left to right, height posterior to anterior, width inferior to superior",
            recipe=chosen_card,
            records_sha256=records.file_sha256(writer.folder / RECORDS),
            flagged=page.flagged,
            version=__version__,
        )
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    return card


def _one(path: str, mask: str, recipe: Recipe, spool: Spool) -> tuple[str, str | Problem]:
    """Prepare one scan into the spool, unless it is there; returns its key, and its content's hash or what is wrong."""
    try:
        key = spool.key(path, mask)
    except OSError as e:
        return "", Problem(path, f"a file that cannot be read ({e.strerror})", "an image", "check the download")
    entry = spool.find(key)
    if entry is None:
        entry = _fresh(path, mask, recipe, spool, key)
    if "problem" in entry:
        return key, Problem(path, *entry["problem"])
    return key, entry["record"]["content_hash"]


def _lost(path: str, mask: str, recipe: Recipe, spool: Spool) -> tuple[str, Problem]:
    return "", Problem(path, "a scan that ended several workers", "one that fits their memory", "give them more")


def _fresh(path: str, mask: str, recipe: Recipe, spool: Spool, key: str) -> dict[str, Any]:
    # Imported here: SimpleITK and nilearn are an extra, and take seconds.
    from jaxneuro.prepare import scan

    try:
        prepared = scan.prepare(path, recipe, mask)
    except ScanError as e:
        entry: dict[str, Any] = {"problem": [e.found, e.expected, e.hint]}
    except MemoryError:  # of this machine, at this time: not kept
        return {"problem": ["an image too large for the memory", "a head", "check its header"]}
    else:
        entry = {"record": prepared.record}
        spool.keep(key, entry, prepared.volume)
        return entry
    spool.keep(key, entry)
    return entry
