"""A folder of scans to a dataset of shards: every scan prepared on its own, in parallel, then packed in order."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxneuro import __version__, lock, manifest, records, sources
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
    compression: str = "snappy",
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
      compression: of the shards, one of `records.COMPRESSIONS`.
      video: store, views and clips of `clips.prepare`; with a recipe for video only.

    Returns:
      The card of the dataset.

    Raises:
      InputError: the source cannot be read, no scan is usable, or `out` exists.
      OSError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    records.refuse_existing(out)
    records.check_compression(compression)
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
            workers=workers, progress=progress, compression=compression, **(video or {}),
        )  # fmt: skip
    if video:
        raise InputError(
            f"--{next(iter(video))}: found with recipe '{recipe}'; expected one of {list(sampling.RECIPES)}"
        )
    recipes.recipe(recipe, skip=skip, already=already, stripper=stripper)  # wrong words are told before a long walk
    found = sources.read(source, study, columns, table, options)
    if source.is_file():
        found = folds.of_column(found, source, columns or {})
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
    folder = _folder(out, work)
    records.check_place(out)
    spool = Spool(folder, records.fingerprint(chosen_card), (*chosen.shape, 1))
    with _held(spool, hidden=work is None):
        jobs = [(s.path, own_masks.get(s.path, ""), chosen, spool) for s in scans]
        done, keys = _prepare_all(scans, jobs, problems, workers, cluster, progress)
        kept, shared = manifest.drop_shared_images(done)
        problems += shared
        if not kept:
            raise InputError(f"{source}: found no usable scan; expected at least one; the first problem: {problems[0]}")
        made = fold(kept)
        if synthetic is None:
            synthetic = bool(found.synthetic)
        with records.Writer(out, shape=(*chosen.shape, 1), records=len(kept), compression=compression) as writer:
            page = quality.Page(chosen)
            _write(writer, page, kept, keys, spool, progress)
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
    return card


def _folder(out: Path, work: str | os.PathLike[str] | None) -> Path:
    """Return the folder for scans that are done; refuses one that cannot be."""
    folder = Path(work) if work is not None else out.with_name(f".{out.name}.work")
    if out.absolute() in (folder.absolute(), *folder.absolute().parents):
        raise InputError(
            f"--work: found {folder}, in --out {out}; expected another folder: --out is made when it is whole"
        )
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        raise InputError(
            f"{folder}: found a file or a link that leads nowhere; expected a folder for scans that are done; choose "
            "another --work, or remove it"
        )
    return folder


@contextmanager
def _held(spool: Spool, *, hidden: bool) -> Iterator[None]:
    """Keep the spool's folder to this process; what is done stays there when an error or a signal ends it.

    A hidden folder goes when the dataset is whole, or when no scan is done in it.
    """
    instead = "another --out" if hidden else "another --work"
    try:
        with lock.hold(spool.folder, busy="is being filled", instead=instead):
            try:
                yield
            except KeyboardInterrupt as e:
                if e.args:
                    raise
                text = f"while shards were written; the scans are kept in {spool.folder}; the same command goes on"
                raise type(e)(text) from e
            except Exception:
                if hidden:
                    spool.remove_failures()
                raise
            if hidden:
                spool.remove()
    finally:
        if hidden:
            with suppress(OSError):  # NFS keeps the file of a lock until it is closed
                spool.folder.rmdir()


def _prepare_all(
    scans: Sequence[Scan],
    jobs: Sequence[tuple[str, str, Recipe, Spool]],
    problems: list[Problem],
    workers: int,
    cluster: str,
    progress: Progress | None,
) -> tuple[list[Scan], dict[tuple[str, str], str]]:
    """Prepare every scan into the spool; returns those that can be used and their keys, and adds to the problems."""
    keys: dict[tuple[str, str], str] = {}
    done: list[Scan] = []
    one = _one_here if workers == 1 and not cluster else _one
    try:
        results = parallel.each(one, jobs, workers, cluster=cluster, lost=_lost)
        for i, (scan, (key, result)) in enumerate(zip(scans, results, strict=True)):
            if isinstance(result, Problem):
                problems.append(result)
            else:
                done.append(replace(scan, content_hash=result))
                keys[scan.key] = key
            if progress:
                progress("preparing scans", i + 1, len(scans))
    except KeyboardInterrupt as e:
        folder = jobs[0][-1].folder
        raise type(e)(f"after {len(done)} scans, kept in {folder}; the same command goes on") from e
    return done, keys


def _write(
    writer: records.Writer,
    page: quality.Page,
    scans: Sequence[Scan],
    keys: Mapping[tuple[str, str], str],
    spool: Spool,
    progress: Progress | None,
) -> None:
    """Write the shards and the records of scans that lie in the spool, and put them on the page."""
    with open(writer.folder / RECORDS, "w", encoding="utf-8", errors="backslashreplace") as lines:
        for i, scan in enumerate(scans):
            entry, volume = spool.find(keys[scan.key]) or ({}, None)
            if volume is None:
                raise OSError(f"{spool.folder}: lost a scan that was done ({scan.path}); begin again")
            record = {"subject": scan.subject, "session": scan.session, "path": scan.path, **entry["record"]}
            lines.write(json.dumps(record) + "\n")
            writer.add(volume, scan)
            page.add(scan, volume, record)
            if progress:
                progress("writing shards", i + 1, len(scans))


def _one(path: str, mask: str, recipe: Recipe, spool: Spool) -> tuple[str, str | Problem]:
    """Prepare one scan into the spool, unless it is there; returns its key, and its content's hash or what is wrong."""
    try:
        key = spool.key(path, mask)
    except OSError as e:
        return "", Problem(path, f"a file that cannot be read ({e.strerror})", "an image", "check the download")
    found = spool.find(key)
    entry = found[0] if found is not None else _fresh(path, mask, recipe, spool, key)
    if "problem" in entry:
        return key, Problem(path, *entry["problem"])
    return key, entry["record"]["content_hash"]


def _one_here(path: str, mask: str, recipe: Recipe, spool: Spool) -> tuple[str, str | Problem]:
    """`_one` in this process, which a scan may end (memory, a library's fault): the next run tries that one apart."""
    try:
        key = spool.key(path, mask)
    except OSError:
        return _one(path, mask, recipe, spool)
    if spool.begun(key):
        result = parallel.alone(_one, (path, mask, recipe, spool), _lost)
        if result[0]:
            spool.end(key)
        return result
    spool.begin(key)
    try:
        return _one(path, mask, recipe, spool)
    finally:
        spool.end(key)


def _lost(path: str, mask: str, recipe: Recipe, spool: Spool, how: str = "") -> tuple[str, Problem]:
    """Return what to say of a scan that ended several workers, or its process twice: not kept, for it may be memory."""
    if not how:
        return "", Problem(path, "a scan that ended several workers", "one that fits their memory", "give them more")
    return "", Problem(
        path, f"a process that was ended ({how}), though it had this scan alone", "an image",
        "look at its size and header, or give more memory; the next run tries it again",
    )  # fmt: skip


def _fresh(path: str, mask: str, recipe: Recipe, spool: Spool, key: str) -> dict[str, Any]:
    # Imported here: SimpleITK and nilearn are an extra, and take seconds.
    from jaxneuro.prepare import scan

    try:
        prepared = scan.prepare(path, recipe, mask)
    except ScanError as e:
        entry: dict[str, Any] = {"problem": [e.found, e.expected, e.hint]}
        if e.passing:  # of this machine, at this time: not kept
            return entry
    except MemoryError:  # neither
        return {"problem": ["an image too large for the memory", "a head", "check its header"]}
    else:
        entry = {"record": prepared.record}
        spool.keep(key, entry, prepared.volume)
        return entry
    spool.keep(key, entry)
    return entry
