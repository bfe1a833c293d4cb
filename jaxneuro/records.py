"""The shard format: ArrayRecord files of volumes with their metadata, a manifest, and a JSON card.

    DIR/card.json                              what the data are: shape, spacing, recipe, counts, hashes
    DIR/manifest.csv                           one row a record, in record order
    DIR/splits.json                            subjects of each fold
    DIR/failures.csv                           every scan left out or mended, with its reason
    DIR/shards/volumes-00000-of-00004.arrayrecord
    DIR/files.csv                              where values stay in video files instead: those files (`video.files`)

A record is `JXN1`, the length of a JSON header as a little-endian 32-bit integer, the header (shape, dtype, one
manifest row), and the array's bytes in C order, little-endian. ArrayRecord keeps a 64-bit hash of every record and
checks it on every read (one record a chunk: `group_size:1`), so a flipped byte is never returned as data; the card
keeps the SHA-256 of each whole file for `verify`. Snappy drops the zero background, half the bytes of a brain; without,
reading is nearly twice as fast (docs/scale.md).

A dataset is written into a hidden folder beside its place and renamed when it is complete: what stands under the
final name is whole.
"""

from __future__ import annotations

import bisect
import hashlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from array_record.python import array_record_module

from jaxneuro import manifest
from jaxneuro.errors import CorruptDataError, InputError
from jaxneuro.manifest import Problem, Scan
from jaxneuro.splits import Splits

FORMAT = "jaxneuro-shards/1"
MAGIC = b"JXN1"
#: Name to ArrayRecord's options.
COMPRESSIONS = {"snappy": "group_size:1,snappy", "none": "group_size:1,uncompressed"}
#: What `Writer.finish` puts in every card.
_KEYS = {"shape", "dtype", "counts", "manifest_sha256", "splits_sha256", "shards"}


def encode(array: np.ndarray, scan: Scan) -> bytes:
    """Serialise one volume [d, h, w, c] (or clip) and its manifest row."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    row = {k: v for k, v in asdict(scan).items() if k != "path" and v == v}
    header = json.dumps({"shape": array.shape, "dtype": array.dtype.str, "scan": row}).encode()
    return b"".join((MAGIC, struct.pack("<I", len(header)), header, array.tobytes()))


def decode(record: bytes) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the array, a read-only view of the record, and the header.

    Raises:
      CorruptDataError: the record is not of this format or has another length than its header says.
    """
    if record[:4] != MAGIC:
        raise CorruptDataError(f"found a record that starts with {record[:4]!r}; expected {MAGIC!r}")
    (length,) = struct.unpack_from("<I", record, 4)
    header = json.loads(record[8 : 8 + length])
    array = np.frombuffer(record, dtype=np.dtype(header["dtype"]), offset=8 + length)
    if array.size != np.prod(header["shape"], dtype=int):
        raise CorruptDataError(f"found {array.size} values; expected the shape {header['shape']}")
    return array.reshape(header["shape"]), header


@dataclass(frozen=True)
class Dataset:
    """A dataset on disk, opened and checked: its card, its scans in record order, its folds."""

    path: Path
    card: dict[str, Any]
    scans: list[Scan]
    splits: Splits

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of a volume, (depth, height, width, channel)."""
        d, h, w, c = self.card["shape"]
        return d, h, w, c

    def views(self, record: int) -> list[int]:
        """Return the records whose predictions are averaged: those of a video from its first view on, else itself."""
        first = self.scans[record]
        session = manifest.without_view(first.session)
        end = record + 1
        if session != first.session:
            while end < len(self.scans) and (
                self.scans[end].subject == first.subject
                and self.scans[end].session != (kept := manifest.without_view(self.scans[end].session))
                and kept == session
            ):
                end += 1
        return list(range(record, end))


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open a dataset and check its manifest against its card (shards are checked as they are read).

    Raises:
      InputError: no dataset is there, or it is of another format.
      CorruptDataError: the card is damaged, or the manifest is not the one that it names.
    """
    path = Path(path)
    file = path / "card.json"
    if not file.is_file():
        raise InputError(f"{path}: found no card.json; expected a folder that `jaxneuro prepare` finished")
    whole = "the card that `jaxneuro prepare` wrote; prepare the data again"
    try:
        card = read_json(file, expected=whole)
    except InputError as e:
        raise CorruptDataError(str(e)) from e
    if card.get("format") != FORMAT:
        raise InputError(f"{file}: found format {card.get('format')!r}; expected {FORMAT!r}")
    if missing := sorted(_KEYS - set(card)):
        raise CorruptDataError(f"{file}: found no {', '.join(missing)}; expected {whole}")
    for name in ("manifest", "splits"):
        file = path / f"{name}.{'csv' if name == 'manifest' else 'json'}"
        if not file.is_file() or file_sha256(file) != card[f"{name}_sha256"]:
            raise CorruptDataError(
                f"{file}: not the file that card.json names (its SHA-256 differs); expected it unchanged; "
                "prepare the data again instead of editing it"
            )
    return Dataset(path, card, manifest.read(path / "manifest.csv"), Splits.read(path / "splits.json"))


class Reader:
    """Random access to the volumes of a dataset, safe to share between threads.

    `reader[i]` is the array of record i, of `shape` (d, h, w, c) and `dtype`, as written.

    Raises (on opening or reading):
      CorruptDataError: a shard is missing, holds another number of records than the card says, or fails its checksum;
        the message names the file and the scan.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.shape, self.dtype = dataset.shape, np.dtype(dataset.card["dtype"])
        self._files = [dataset.path / "shards" / s["file"] for s in dataset.card["shards"]]
        self._starts = [0]
        self._readers = []
        for file, shard in zip(self._files, dataset.card["shards"], strict=True):
            self._readers.append(_open_shard(file, shard["records"]))
            self._starts.append(self._starts[-1] + shard["records"])
        if len(self) != len(dataset.scans):
            raise CorruptDataError(
                f"{dataset.path}: found {len(self)} records; expected {len(dataset.scans)}, a row each in manifest.csv"
            )

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> np.ndarray:
        shard = bisect.bisect_right(self._starts, index) - 1
        scan = self._dataset.scans[index]
        try:
            array, header = decode(self._readers[shard].read([index - self._starts[shard]])[0])
        except (RuntimeError, ValueError, IndexError) as e:
            raise CorruptDataError(
                f"{self._files[shard]}: record {index - self._starts[shard]} ({scan.name}) is damaged "
                f"({str(e).splitlines()[0][:120]}); expected the bytes that were written; prepare the data again"
            ) from e
        if (found := header["scan"].get("content_hash")) != scan.content_hash:
            raise CorruptDataError(
                f"{self._files[shard]}: record {index - self._starts[shard]} holds image {found}; "
                f"expected {scan.content_hash} ({scan.name})"
            )
        return array

    def draw(self, index: int, key: tuple[int, ...]) -> np.ndarray:
        """Return record `index`: what is stored has been drawn."""
        return self[index]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()


def verify(path: str | os.PathLike[str]) -> list[str]:
    """Check every byte of a dataset against its card; return one line a fault, none when it is whole."""
    dataset = open_dataset(path)
    faults = []
    for shard in dataset.card["shards"]:
        file = dataset.path / "shards" / shard["file"]
        if not file.is_file():
            faults.append(f"{file}: missing")
        elif (found := file_sha256(file)) != shard["sha256"]:
            faults.append(f"{file}: found SHA-256 {found[:16]}…; expected {shard['sha256'][:16]}…")
    return faults


class Writer:
    """Write a dataset; nothing stands under its name before `finish`.

    Use as a context manager: `with Writer(out, shape=..., ...) as w: w.add(volume, scan) ...; w.finish(...)`.

    Args:
      out: the folder to make; refused when it exists.
      records: how many records will come, to spread them evenly over shards.
      shard_bytes: aimed size of a shard before compression.
      compression: one of `COMPRESSIONS`; a reader needs not be told.

    Raises:
      InputError: no such compression, or `out` exists.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        *,
        shape: Sequence[int],
        dtype: str = "float16",
        records: int,
        shard_bytes: int = 256 << 20,
        compression: str = "snappy",
    ) -> None:
        check_compression(compression)
        self.out, self._compression = Path(out), compression
        refuse_existing(self.out)
        self._shape, self._dtype = tuple(shape), np.dtype(dtype)
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        self._shards = max(1, -(-records * size // shard_bytes))
        self._records = records
        self._partial = _partial(self.out)
        self._scans: list[Scan] = []
        self._counts = [0] * self._shards
        self._writer: Any = None

    def __enter__(self) -> Writer:
        remove_abandoned(self.out)
        (self._partial / "shards").mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._writer is not None:
            # The error that brought us here matters, not a second one from closing a file that is thrown away.
            try:
                self._writer.close()
            except RuntimeError:
                pass
            finally:
                self._writer = None
        shutil.rmtree(self._partial, ignore_errors=True)

    def add(self, array: np.ndarray, scan: Scan) -> None:
        """Append one volume [d, h, w, c] with its manifest row.

        Raises:
          InputError: another shape or dtype than the dataset's, a value that is not finite, or more than `records`.
          OSError: the disk is full or not writable.
        """
        if array.shape != self._shape or array.dtype != self._dtype:
            raise InputError(
                f"{scan.name}: found {array.dtype}{list(array.shape)}; expected {self._dtype}{list(self._shape)}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"{scan.name}: found values that are not finite; expected numbers that fit {array.dtype}")
        if len(self._scans) == self._records:
            raise InputError(f"{scan.name}: found one record more than the {self._records} announced")
        shard = len(self._scans) * self._shards // self._records
        try:
            if self._counts[shard] == 0:
                self._close_shard()
                self._writer = array_record_module.ArrayRecordWriter(
                    str(self._file(shard)), COMPRESSIONS[self._compression]
                )
            self._writer.write(encode(array, scan))
        except RuntimeError as e:
            raise OSError(f"{self._file(shard)}: cannot be written ({str(e).splitlines()[0]})") from e
        self._counts[shard] += 1
        self._scans.append(scan)

    @property
    def folder(self) -> Path:
        """Where the dataset is being written, for further files of it."""
        return self._partial

    def add_row(self, scan: Scan) -> None:
        """Append a manifest row without a record, for a dataset whose values stay in other files."""
        self._scans.append(scan)

    def finish(self, *, splits: Splits, problems: Iterable[Problem] = (), **card: Any) -> dict[str, Any]:
        """Write manifest, folds, failures and card, and put the dataset in its place.

        Args:
          splits: the folds.
          problems: everything that was wrong with the input.
          **card: further entries of the card: name, description, synthetic, spacing_mm, axes, recipe.

        Returns:
          The card.
        """
        self._close_shard()
        problems = list(problems)
        manifest.write(self._partial / "manifest.csv", self._scans)
        manifest.write_problems(self._partial / "failures.csv", problems)
        splits.write(self._partial / "splits.json")
        files = [self._file(i) for i, n in enumerate(self._counts) if n]
        card = {
            "format": FORMAT,
            **card,
            "shape": list(self._shape),
            "dtype": str(self._dtype),
            "compression": self._compression,
            "recipe_fingerprint": fingerprint(card.get("recipe", {})),
            "counts": {
                "scans": len(self._scans),
                "subjects": len({s.subject for s in self._scans}),
                "failures": sum(p.dropped for p in problems),
                "mended": sum(not p.dropped for p in problems),
            },
            "manifest_sha256": file_sha256(self._partial / "manifest.csv"),
            "splits_sha256": file_sha256(self._partial / "splits.json"),
            "shards": [
                {"file": f.name, "records": n, "bytes": f.stat().st_size, "sha256": file_sha256(f)}
                for f, n in zip(files, (n for n in self._counts if n), strict=True)
            ],
        }
        (self._partial / "card.json").write_text(json.dumps(card, indent=1) + "\n")
        for file in self._partial.rglob("*"):
            if file.is_file():
                _sync(file)
        os.rename(self._partial, self.out)
        _sync(self.out.parent)
        return card

    def _file(self, shard: int) -> Path:
        return self._partial / "shards" / f"volumes-{shard:05d}-of-{self._shards:05d}.arrayrecord"

    def _close_shard(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.close()
            except RuntimeError as e:
                raise OSError(f"{self._partial}: cannot be written ({str(e).splitlines()[0]})") from e


def check_compression(name: str) -> None:
    """Refuse a compression that there is not.

    Raises:
      InputError: it is none of `COMPRESSIONS`.
    """
    if name not in COMPRESSIONS:
        raise InputError(f"--compression: found '{name}'; expected one of {', '.join(COMPRESSIONS)}")


def refuse_existing(out: Path) -> None:
    """Refuse a place that is taken, by a link that leads nowhere, too.

    Raises:
      InputError: something is there.
    """
    if out.is_symlink() and not out.exists():
        raise InputError(f"{out}: a link to {os.readlink(out)}, which is not there; expected no such name; remove it")
    if out.exists():
        raise InputError(f"{out}: already exists; expected a new folder; choose another or remove it")


def check_place(out: Path) -> None:
    """Make sure that a dataset can be written, before hours of work for it; removes what dead processes began there.

    Raises:
      InputError: something is there, or the place is in a file.
      OSError: its folder cannot be made or written to.
    """
    refuse_existing(out)
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir():
        raise InputError(f"{out}: found the file {above}; expected a folder to make the dataset in; choose another")
    remove_abandoned(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _partial(out).mkdir()
    _partial(out).rmdir()


def remove_abandoned(out: Path) -> None:
    """Remove what processes of this machine that were killed have begun to write for a dataset."""
    begun = f".{out.name}.partial-{socket.gethostname()}-"  # the process ids of other machines say nothing here
    for folder in out.parent.iterdir() if out.parent.is_dir() else ():
        pid = folder.name.removeprefix(begun)
        if folder.name.startswith(begun) and pid.isdecimal() and not _runs(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial-{socket.gethostname()}-{os.getpid()}")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another person's process
        return True
    return True


def fingerprint(recipe: Mapping[str, Any]) -> str:
    """Return 16 hex digits that are equal for equal recipes, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _open_shard(file: Path, records: int) -> Any:
    if not file.is_file():
        raise CorruptDataError(f"{file}: missing; expected a shard of {records} records; copy the dataset again")
    try:
        reader = array_record_module.ArrayRecordReader(str(file), "readahead_buffer_size:0")
        found = reader.num_records()
    except RuntimeError as e:
        raise CorruptDataError(f"{file}: cannot be read ({str(e).splitlines()[0][:120]}); prepare it again") from e
    if found != records:
        raise CorruptDataError(
            f"{file}: found {found} records; expected {records} (cut short or damaged); copy the dataset again"
        )
    return reader


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as hex."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_json(path: str | os.PathLike[str], keys: Iterable[str] = (), *, expected: str) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
      path: the file.
      keys: what the object must hold.
      expected: says in the error which file this should be, and what to try.

    Raises:
      InputError: the file cannot be read, is not a JSON object, or lacks a key.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({e.strerror}); expected {expected}") from e
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: not JSON ({e}); expected {expected}") from e
    if not isinstance(found, dict):
        raise InputError(f"{path}: found a JSON {type(found).__name__}, no object; expected {expected}")
    if missing := [key for key in keys if key not in found]:
        raise InputError(f"{path}: found no {', '.join(missing)}; expected {expected}")
    return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
