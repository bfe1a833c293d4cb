"""A dataset whose clips stay in their video files: the table of the files, reading clips by number, checking.

`files.csv` has one row a video: its path (with `#t=start,end` where it is a part of a file), the file's size and
SHA-256, and what `decode.probe` found. The card keeps its SHA-256, as it does that of the manifest.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from jaxneuro import manifest
from jaxneuro.errors import CorruptDataError, ScanError
from jaxneuro.records import Dataset, file_sha256
from jaxneuro.video import decode, sampling
from jaxneuro.video.decode import Video
from jaxneuro.video.sampling import View

COLUMNS = ("path", "bytes", "sha256", "seconds", "frames", "rate", "start", "height", "width")
_AGAIN = "copy the video again, or prepare the data again"


def write(path: Path, rows: Iterable[tuple[str, int, str, Video]]) -> None:
    """Write `files.csv` of (path, bytes, SHA-256, what was found), a video each."""
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, size, sha256, v in rows:
            writer.writerow((name, size, sha256, f"{v.seconds:.3f}", v.frames, v.rate, v.start, v.height, v.width))


class VideoReader:
    """Random access to the clips of a dataset, decoded when they are asked for; safe to share between threads.

    `reader[i]` is the clip of record i, of `shape` (t, h, w, c) and `dtype` uint8: the view that its session names, or
    the centre of the video, in time and in the picture. `reader.draw(i, key)` is a random clip of it, one for each key.

    Raises (on opening or reading):
      CorruptDataError: the table of files is not the one that was written, or a file is missing, has another size, or
        no longer decodes; the message names it. Whole files are compared by `verify`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.shape, self.dtype = dataset.shape, np.dtype(dataset.card["dtype"])
        self._scans, self._recipe = dataset.scans, sampling.of_card(dataset.card)
        self._views = sampling.parse_views(dataset.card["views"])
        self._files = {row["path"]: (int(row["bytes"]), _video(row)) for row in _read(dataset)}
        if strangers := [s.path for s in self._scans if s.path not in self._files]:
            raise CorruptDataError(
                f"{dataset.path / 'files.csv'}: found no {strangers[0]}; expected a row for it; {_AGAIN}"
            )

    def __len__(self) -> int:
        return len(self._scans)

    def __getitem__(self, index: int) -> np.ndarray:
        path, video = self._video(index)
        session = self._scans[index].session
        clips, crops = (1, 1) if session == manifest.without_view(session) else self._views
        views = sampling.test_views(self._recipe, video.frames, (video.height, video.width), clips, crops)
        number = int(session.rsplit("-", 1)[1]) if len(views) > 1 else 0
        return self._read(path, video, views[number])

    def draw(self, index: int, key: tuple[int, ...]) -> np.ndarray:
        """Return a clip of record `index` at a time and in a crop that `key` decides."""
        path, video = self._video(index)
        return self._read(path, video, sampling.draw(self._recipe, video.frames, (video.height, video.width), key))

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing stays open between clips."""

    def _video(self, index: int) -> tuple[str, Video]:
        path = self._scans[index].path
        size, video = self._files[path]
        if fault := _differs(path, size):
            raise CorruptDataError(fault)
        return path, video

    def _read(self, path: str, video: Video, view: View) -> np.ndarray:
        try:
            return decode.read(path, video, self._recipe, [view])[0]
        except ScanError as e:
            raise CorruptDataError(f"{path}: found {e.found}; expected {e.expected}, as when prepared; {_AGAIN}") from e


def verify(dataset: Dataset) -> list[str]:
    """Compare every byte of the video files with what was prepared; return one line a fault."""
    faults = {}
    for row in _read(dataset):
        file = decode.split_fragment(row["path"])[0]
        if file in faults:
            continue
        faults[file] = _differs(row["path"], int(row["bytes"]))
        if not faults[file] and (found := file_sha256(Path(file))) != row["sha256"]:
            faults[file] = f"{file}: found SHA-256 {found[:16]}…; expected {row['sha256'][:16]}…"
    return [fault for fault in faults.values() if fault]


def _read(dataset: Dataset) -> list[dict[str, str]]:
    path = dataset.path / "files.csv"
    if not path.is_file() or file_sha256(path) != dataset.card["files_sha256"]:
        raise CorruptDataError(
            f"{path}: not the file that card.json names (its SHA-256 differs); expected it unchanged; "
            "prepare the data again"
        )
    return [row for _, row in manifest.read_table(path)[1]]


def _video(row: dict[str, str]) -> Video:
    frames, height, width = (int(row[k]) for k in ("frames", "height", "width"))
    return Video(frames, Fraction(row["rate"]), Fraction(row["start"]), height, width)


def _differs(path: str, expected: int) -> str:
    """Return what is wrong with a file of so many bytes at first sight, "" for nothing."""
    file = Path(decode.split_fragment(path)[0])
    try:
        size = file.stat().st_size
    except OSError as e:
        return f"{file}: cannot be read ({e.strerror}); expected the video that was prepared; put it back, or {_AGAIN}"
    if size != expected:
        return f"{file}: found {size} bytes; expected {expected}, as when prepared; {_AGAIN}"
    return ""
