"""Checkpoints: the last few states with the position in the data, and the best parameters. Orbax does the work.

Orbax finds a file that is cut short or gone, but not a flipped byte in the values: so a sum of all bits is kept beside
them (and in it, one of the plain values), and what does not add up is not used.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jaxneuro import terminal
from jaxneuro.errors import CorruptDataError, InputError
from jaxneuro.training.state import TrainState

_SUM = "bit_sum"
#: Put before the number of a checkpoint that cannot be used.
DAMAGED = "damaged-"


class Checkpoints:
    """The checkpoints of one run, in `workdir/checkpoints` and `workdir/best`.

    A checkpoint is written beside its place and renamed when complete, so an interrupted save leaves none that looks
    whole.

    Args:
      workdir: folder of the run.
      keep: how many of the last states to keep.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, keep: int = 2) -> None:
        self._workdir = Path(workdir).absolute()
        for name in ("checkpoints", "best"):
            # Orbax would find out in another thread, an epoch later.
            (self._workdir / name).mkdir(parents=True, exist_ok=True)
        self._last = ocp.CheckpointManager(
            self._workdir / "checkpoints",
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True),
        )
        self._best = ocp.CheckpointManager(
            self._workdir / "best",
            options=ocp.CheckpointManagerOptions(max_to_keep=1, cleanup_tmp_directories=True),
        )

    def save(self, state: TrainState, position: dict[str, Any]) -> None:
        """Save a state with the run's position (plain values for JSON); returns while files are still being written."""
        step = int(state.step)
        if step not in self._last.all_steps():
            beside = {**position, _SUM: _sum(state, position)}
            parts = {"state": ocp.args.StandardSave(state), "position": ocp.args.JsonSave(beside)}
            with self._told():
                # The position names the best checkpoint: it must be whole before the position is.
                self._best.wait_until_finished()
                self._last.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: Any) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the last state that is whole and its position, or None when there is none.

        One that is not whole is put aside under another name, with a warning, and the one before it taken.

        Args:
          like: a state of `jax.ShapeDtypeStruct` with the shardings wanted.

        Raises:
          CorruptDataError: there are checkpoints, and none is whole.
        """
        folder = self._workdir / "checkpoints"
        steps = sorted(self._last.all_steps(), reverse=True)
        damaged: dict[int, str] = {}
        parts = ocp.args.Composite(state=ocp.args.StandardRestore(like), position=ocp.args.JsonRestore())
        for step in steps:
            found, reason = _whole(lambda: self._last.restore(step, args=parts), "state", "position")  # noqa: B023
            if reason:
                damaged[step] = reason
                continue
            for number, reason in damaged.items():
                terminal.say(
                    f"warning: {folder / str(number)}: is damaged ({reason}); expected the bytes that were written; "
                    f"put aside as {self._put_aside(number)}, going on from step {step}"
                )
            return found["state"], found["position"]
        if damaged:
            raise CorruptDataError(
                f"{folder}: none of the checkpoints {steps} is whole ({damaged[steps[0]]}); expected one to go on "
                "from; begin again in a new --workdir, or check that jaxneuro is the version that wrote them"
            )
        return None

    def save_best(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Keep the parameters and batch statistics of a state as the best so far."""
        step = int(state.step)
        if step in self._best.all_steps():
            # A resumed run comes by the same step again, with the same bits.
            return
        weights = state.weights()
        beside = {**metrics, _SUM: _sum(weights, metrics)}
        parts = {"weights": ocp.args.StandardSave(weights), "metrics": ocp.args.JsonSave(beside)}
        with self._told():
            self._best.save(step, args=ocp.args.Composite(**parts))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait until everything is on disk."""
        with self._told():
            self._last.close()
            self._best.close()

    def _put_aside(self, step: int) -> str:
        folder = self._workdir / "checkpoints"
        # The same step may have been damaged before.
        names = (f"{DAMAGED}{step}{f'-{n}' if n else ''}" for n in itertools.count())
        name = next(name for name in names if not (folder / name).exists())
        if jax.process_index() == 0:
            (folder / str(step)).rename(folder / name)
        multihost_utils.sync_global_devices("put aside")
        self._last.reload()
        return name

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn a failed write, which tensorstore reports as a ValueError, into the OSError that it is."""
        try:
            yield
        except (ValueError, RuntimeError) as e:
            code = re.search(r"os_error_code='(\d+)'", str(e))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1])), str(self._workdir)) from e


def load_best(workdir: str | os.PathLike[str], like: Any = None) -> tuple[int, dict[str, Any], dict[str, float]]:
    """Return step, weights and validation metrics of a run's best checkpoint; changes nothing in the folder.

    Args:
      workdir: folder of the run.
      like: `{"params": ..., "batch_stats": ...}` of `jax.ShapeDtypeStruct`; by default NumPy arrays as they were saved.

    Raises:
      InputError: there is none.
      CorruptDataError: it is not what was written.
    """
    folder = Path(workdir).absolute() / "best"
    if folder.is_dir():
        options = ocp.CheckpointManagerOptions(read_only=True, create=False)
        with ocp.CheckpointManager(folder, options=options) as best:
            step = best.latest_step()
            if step is not None:

                def read() -> Any:
                    wanted = _as_saved(folder / str(step) / "weights") if like is None else like
                    parts = {"weights": ocp.args.StandardRestore(wanted), "metrics": ocp.args.JsonRestore()}
                    return best.restore(step, args=ocp.args.Composite(**parts))

                found, reason = _whole(read, "weights", "metrics")
                if reason:
                    raise CorruptDataError(
                        f"{folder / str(step)}: is damaged ({reason}); expected the bytes that were written; train "
                        "again, or copy it again"
                    )
                return step, found["weights"], found["metrics"]
    raise InputError(f"{workdir}: found no best checkpoint; expected a run that finished an epoch")


def there(workdir: str | os.PathLike[str]) -> bool:
    """Tell whether a run's folder holds a state to go on from."""
    folder = Path(workdir) / "checkpoints"
    return folder.is_dir() and any(p.name.isdecimal() for p in folder.iterdir())


def _as_saved(folder: Path) -> Any:
    """Return NumPy arrays of the shapes and dtypes that a checkpoint holds."""
    with ocp.StandardCheckpointer() as reader:
        tree = reader.metadata(folder).item_metadata.tree
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def bit_sum(tree: Any) -> int:
    """Return the sum of all bits of a tree as 32-bit words, leaves weighed by their place; the same on every mesh.

    A flipped bit changes it always; words lost or written over, and one leaf in place of another, but for a chance of
    2^-32.
    """
    total = 0
    for place, leaf in enumerate(jax.tree.leaves(tree), start=1):
        shards = leaf.addressable_shards if isinstance(leaf, jax.Array) else None
        pieces = [leaf] if shards is None else [s.data for s in shards if s.replica_id == 0]
        total += place * sum(int(_words(np.asarray(piece)).sum(dtype=np.uint64)) for piece in pieces)
    total %= 1 << 62
    if jax.process_count() > 1:
        halves = np.array([total >> 31, total & (1 << 31) - 1], np.uint32)
        gathered = np.asarray(multihost_utils.process_allgather(halves)).reshape(-1, 2)
        total = sum((int(high) << 31) + int(low) for high, low in gathered) % (1 << 62)
    return total


def _words(array: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint32 if flat.itemsize % 4 == 0 else np.uint8)


def _sum(tree: Any, beside: dict[str, Any]) -> int:
    """Return the sum of all bits of a tree and of a checksum of the plain values beside it."""
    return bit_sum(tree) + zlib.crc32(json.dumps(beside, sort_keys=True).encode())


def _whole(read: Callable[[], Any], tree: str, beside: str) -> tuple[dict[str, Any], str]:
    """Return what `read` returned, if it is what was written, else why it is not.

    Args:
      read: reads a checkpoint.
      tree, beside: names in it of the arrays, and of the plain values with the sum.
    """
    if not isinstance(sys.unraisablehook, _Hushed):
        sys.unraisablehook = _Hushed(sys.unraisablehook)
        logging.getLogger("asyncio").addFilter(sys.unraisablehook)
    try:
        found = read()
        values = dict(found[beside])
        written = values.pop(_SUM, None)
        total = _sum(found[tree], values)
        if total == written:
            return {tree: found[tree], beside: values}, ""
        return {}, f"its bits sum to {total}, not to {written} as written"
    except Exception as e:  # Orbax and tensorstore raise whatever they like
        reason = (str(e).splitlines() or [""])[0][:200] or type(e).__name__
    return {}, reason


class _Hushed:
    """A hook for errors that nobody can catch, and a filter of what asyncio logs: drops those of reads given up.

    One array that cannot be read makes Orbax give up the others, and each says so, pages long, at some later time.
    """

    def __init__(self, hook: Callable[[Any], object]) -> None:
        self._hook = hook

    def __call__(self, found: Any) -> None:
        if not self._given_up(found.exc_value):
            self._hook(found)

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and self._given_up(record.exc_info[1]))

    @staticmethod
    def _given_up(error: BaseException | None) -> bool:
        marks = ("Encountered error while reading array", "OCDBT", "Event loop is closed")
        return any(mark in str(error) for mark in marks)


def like(abstract: Any, where: Any) -> Any:
    """Return abstract leaves that carry their sharding, as `restore` takes them."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
