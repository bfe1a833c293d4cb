"""A folder of videos to a dataset of clips: every file looked through, then decoded into shards or left where it is."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxneuro import __version__, manifest, records, sources, splits, terminal
from jaxneuro.errors import InputError, ScanError
from jaxneuro.manifest import MISSING, Problem, Scan
from jaxneuro.prepare import folds, parallel
from jaxneuro.sources import kinetics
from jaxneuro.video import decode, files, sampling
from jaxneuro.video.decode import Video
from jaxneuro.video.sampling import Recipe, View

Progress = Callable[[str, int, int], None]
STORES = ("files", "clips")
#: Most bytes of clips that are decoded before they are written.
_AT_ONCE = 1 << 28
#: Seconds that may be missing at the end of a part; parts of Kinetics end at whole seconds, files between them.
_MAY_LACK = 0.5


@dataclass(frozen=True)
class _Found:
    """A video that can be used."""

    scan: Scan
    video: Video
    bytes: int


def prepare(
    source: Path,
    out: Path,
    *,
    recipe: str,
    store: str = "files",
    views: str = "4x3",
    clips: int = 1,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    name: str | None = None,
    synthetic: bool | None = None,
    subject_prefix: str = "",
    validation: float | None = None,
    test: float | None = None,
    ood_sites: Sequence[str] = (),
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
    compression: str = "snappy",
) -> dict[str, Any]:
    """Turn videos into a dataset of clips.

    Args:
      source: what `kinetics.read` reads, or a CSV of Kinetics beside its files, or any CSV/TSV with one row a video.
      out: folder to make; nothing is left there when the run fails.
      recipe: name of a recipe in `sampling.RECIPES`.
      store: "files" keeps only the names of the files, which are decoded in training; "clips" decodes now, into shards.
      views: clips x crops that a video outside the training fold is tested on, such as "4x3".
      clips: clips of each training video that the store "clips" draws, once and for all.
      table: a table of Kinetics that lies elsewhere than its videos.
      columns, name, subject_prefix, validation, test, ood_sites, workers, progress, compression: as of `run.prepare`.
        Folds that the source publishes are kept; others are stratified by label.
      synthetic: whether a program made the videos; by default not.
      seed: of the folds and of the training clips.

    Returns:
      The card of the dataset.

    Raises:
      InputError: the source cannot be read, no video is usable, `out` exists, or an argument is out of range.
      OSError: `out` cannot be written.
    """
    chosen = sampling.RECIPES[recipe]
    if store not in STORES:
        raise InputError(f"--store: found '{store}'; expected one of {list(STORES)}")
    if clips < 1 or (clips > 1 and store != "clips"):
        raise InputError(
            f"--clips: found {clips} with --store {store}; expected 1 or more with --store clips; a file is drawn from "
            "anew in every epoch"
        )
    each_view = sampling.parse_views(views)
    found = _read(source, table, columns)
    problems = list(found.problems)
    if not found.scans:
        raise InputError(_nothing(source, problems))
    scans = manifest.rename([replace(s, path=_absolute(s.path)) for s in found.scans], subject_prefix)

    of_diagnoses = folds.maker(
        found, subject_prefix=subject_prefix, validation=validation, test=test, ood_sites=ood_sites, seed=seed
    )

    def fold(scans: Sequence[Scan]) -> splits.Splits:
        # Strata and shares are of diagnoses; for videos, of labels.
        return of_diagnoses([replace(s, diagnosis=s.label) if s.diagnosis == MISSING else s for s in scans])

    fold(scans)
    records.check_place(out)
    done: list[_Found] = []
    for i, result in enumerate(parallel.each(_look, [(s,) for s in scans], workers)):
        if isinstance(result, Problem):
            problems.append(result)
        else:
            done.append(result)
        if progress:
            progress("looking through videos", i + 1, len(scans))
    kept = _of_one_subject(done, problems)
    if not kept:
        raise InputError(_nothing(source, problems))
    problems += [p for f in kept for p in (_ends_early(f), _short(f, chosen)) if p]
    made = fold([f.scan for f in kept])
    shares = {"validation": validation, "test": test}
    _say_empty(made, meant=[name for name, share in shares.items() if share == 0])
    train = set(made.subjects["train"])
    plan = [_rows(f, chosen, store, each_view, clips, seed, f.scan.subject in train) for f in kept]
    rows = [scan for part, _ in plan for scan in part]

    number = len(rows) if store == "clips" else 0
    with records.Writer(out, shape=chosen.shape, dtype="uint8", records=number, compression=compression) as writer:
        more: dict[str, Any] = {}
        if store == "files":
            for scan in rows:
                writer.add_row(scan)
            listed = writer.folder / "files.csv"
            files.write(listed, ((f.scan.path, f.bytes, f.scan.content_hash, f.video) for f in kept))
            more = {"kind": "video", "files_sha256": records.file_sha256(listed)}
        else:
            _decode_into(writer, kept, plan, chosen, workers, progress)
        return writer.finish(
            splits=made,
            problems=problems,
            name=name or found.name,
            description="clips of video" + (", made by a program" if synthetic else ""),
            synthetic=bool(synthetic),
            inclusion=found.rule,
            spacing_mm=None,
            axes="time, height top to bottom, width left to right; " + ("grey" if chosen.grey else "red, green, blue"),
            recipe=chosen.describe(),
            store=store,
            videos=len(kept),
            views=views,
            clips=clips if store == "clips" else None,
            version=__version__,
            **more,
        )


def _read(source: Path, table: Path | None, columns: Mapping[str, str] | None) -> sources.Source:
    if source.is_file():
        if source.suffix.lower() in kinetics.SUFFIXES:
            raise InputError(f"{source}: found a video; expected the folder that it lies in, or a table of videos")
        header = manifest.read_table(source, [])[0]
        if not kinetics.is_table(source, whole=not columns and "path" not in header):
            return _own(source, table, columns or {})
    if columns:
        raise InputError(f"--columns: found with {source}; expected a table of your own, with a row a video")
    if source.is_file() and table is not None:
        raise InputError(f"--table: found with {source}, a table of Kinetics itself; expected the folder of its videos")
    return kinetics.read(_beside(source), table=source) if source.is_file() else kinetics.read(source, table=table)


def _own(source: Path, table: Path | None, columns: Mapping[str, str]) -> sources.Source:
    """Read a person's table, in the words of videos."""
    found = sources.read(source, "table", columns, table)
    problems = [replace(p, expected="a video") if p.expected == "an image file" else p for p in found.problems]
    found = replace(found, problems=problems, rule="every row whose subject and video are there")
    return folds.of_column(found, source, columns)


def _beside(table: Path) -> Path:
    """Return the folder of the videos of a table of Kinetics."""
    folder = table.parent
    return folder.parent if Path(os.path.abspath(folder)).name == "annotations" else folder


def _nothing(source: Path, problems: Sequence[Problem]) -> str:
    first = f"; the first problem: {problems[0]}" if problems else ""
    lacking = source.is_file() and any(p.found == "a row with no file" for p in problems)
    elsewhere = f"; if they lie elsewhere: prepare FOLDER --table {source}" if lacking else ""
    return f"{source}: found no usable video; expected at least one{elsewhere}{first}"


def _absolute(path: str) -> str:
    """Return a path that holds wherever the dataset is used from; a fragment at its end is none of its folders'."""
    return os.path.abspath(path)


def _look(scan: Scan) -> _Found | Problem:
    """Look a video through; one that cannot be used comes back as the problem it is."""
    try:
        video = decode.probe(scan.path)
        file = Path(decode.split_fragment(scan.path)[0])
        return _Found(replace(scan, content_hash=records.file_sha256(file)), video, file.stat().st_size)
    except ScanError as e:
        return Problem(scan.path, e.found, e.expected, e.hint)
    except MemoryError:
        return Problem(scan.path, "pictures too large for the memory", "a smaller video")
    except OSError as e:
        return Problem(scan.path, f"a file that cannot be read ({e.strerror})", "a video", "download it again")


def _of_one_subject(done: Sequence[_Found], problems: list[Problem]) -> list[_Found]:
    """Leave out every file that stands under two subjects; parts of one file under one subject are all kept."""
    owners: dict[str, dict[str, None]] = {}
    for f in done:
        owners.setdefault(f.scan.content_hash, {})[f.scan.subject] = None
    kept = []
    for f in done:
        if others := [s for s in owners[f.scan.content_hash] if s != f.scan.subject]:
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            problems.append(
                Problem(
                    f.scan.path,
                    f"the file of {f.scan.name}, the same file as that of {', '.join(others[:3])}{more}",
                    "a file of its own for every subject",
                    "find out whose it is, remove the others",
                )
            )
        else:
            kept.append(f)
    return kept


def _ends_early(found: _Found) -> Problem | None:
    """Tell of a part whose file ends before it."""
    _, begin, end = decode.split_fragment(found.scan.path)
    # The part's first frame may come a whole frame after its start.
    if end is None or float(end - begin) - found.video.seconds <= _MAY_LACK + 1 / float(found.video.rate):
        return None
    return Problem(
        found.scan.path,
        f"{found.video.seconds:.1f} s, where the file ends",
        f"{float(end - begin):.1f} s, as its times say",
        "kept as it is; check the times and the download",
        dropped=False,
    )


def _say_empty(made: splits.Splits, *, meant: Sequence[str]) -> None:
    """Say which of the folds that runs measure by have nobody in them, but for those that were meant to."""
    for name in ("validation", "test"):
        if not made.subjects[name] and name not in meant:
            terminal.say(f"fold {name}: found no subject among {sum(map(len, made.subjects.values()))}; it is empty")


def _short(found: _Found, recipe: Recipe) -> Problem | None:
    if found.video.frames >= recipe.span:
        return None
    return Problem(
        found.scan.path,
        f"{found.video.frames} frames",
        f"{recipe.span} or more, for {recipe.frames} at a stride of {recipe.stride}",
        "kept; its clips begin again at its first frame",
        dropped=False,
    )


def _rows(
    found: _Found, recipe: Recipe, store: str, views: tuple[int, int], clips: int, seed: int, train: bool
) -> tuple[list[Scan], list[View]]:
    """Return the manifest rows of a video and, for each, its view; a training video left in its file is one row."""
    scan, video = found.scan, found.video
    size = (video.height, video.width)
    if train and store == "files":
        return [scan], []
    if train:
        # By the name of the video: the same clips whatever else is in the folder.
        digest = hashlib.sha256(f"{scan.subject}\0{scan.session}".encode("utf-8", "surrogateescape")).digest()
        key = (seed, int.from_bytes(digest[:8]))
        seen = [sampling.draw(recipe, video.frames, size, (*key, i)) for i in range(clips)]
        kind = "clip"
    else:
        seen = sampling.test_views(recipe, video.frames, size, *views)
        kind = "view"
    before = f"{scan.session}_" if scan.session else ""
    return [replace(scan, session=f"{before}{kind}-{i:02d}") for i in range(len(seen))], seen


def _decode_into(
    writer: records.Writer,
    kept: Sequence[_Found],
    plan: Sequence[tuple[list[Scan], list[View]]],
    recipe: Recipe,
    workers: int,
    progress: Progress | None,
) -> None:
    """Decode the clips of all videos, in parallel, and write them in order."""
    spool = Path(tempfile.mkdtemp(prefix=f".{writer.out.name}.spool-", dir=writer.out.parent))
    try:
        jobs = [
            (f.scan.path, f.video, recipe, views, spool / f"{i}.npy")
            for i, (f, (_, views)) in enumerate(zip(kept, plan, strict=True))
        ]
        for i, file in enumerate(parallel.each(_decode, jobs, workers)):
            # Read as a map: many views of many frames are written one by one.
            for scan, clip in zip(plan[i][0], np.load(file, mmap_mode="r"), strict=True):
                writer.add(np.asarray(clip), scan)
            file.unlink()
            if progress:
                progress("decoding clips", i + 1, len(kept))
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _decode(path: str, video: Video, recipe: Recipe, views: list[View], file: Path) -> Path:
    """Write the clips of a video as an array, a few at a time: there may be more of them than the memory holds."""
    few = max(1, _AT_ONCE // math.prod(recipe.shape))
    try:
        with open(file, "wb") as f:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(views), *recipe.shape)}
            np.lib.format.write_array_header_1_0(f, header)
            for i in range(0, len(views), few):
                f.write(decode.read(path, video, recipe, views[i : i + few]).data)
    except ScanError as e:  # a moment ago it was decoded from end to end
        raise InputError(
            f"{path}: found {e.found}; expected {e.expected}; it has changed meanwhile; begin again"
        ) from e
    return file
