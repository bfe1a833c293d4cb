"""Checkpoints: the last few states with the position in the data, and the best parameters. Orbax does the work."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxneuro.errors import InputError
from jaxneuro.training.state import TrainState


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
            parts = {"state": ocp.args.StandardSave(state), "position": ocp.args.JsonSave(position)}
            with self._told():
                # The position names the best checkpoint: it must be whole before the position is.
                self._best.wait_until_finished()
                self._last.save(step, args=ocp.args.Composite(**parts))

    def restore(self, like: Any) -> tuple[TrainState, dict[str, Any]] | None:
        """Return the last state and position, or None when there is none.

        Args:
          like: a state of `jax.ShapeDtypeStruct` with the shardings wanted.
        """
        step = self._last.latest_step()
        if step is None:
            return None
        found = self._last.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like), position=ocp.args.JsonRestore())
        )
        return found["state"], found["position"]

    def save_best(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Keep the parameters and batch statistics of a state as the best so far."""
        step = int(state.step)
        if step in self._best.all_steps():
            # A resumed run comes by the same step again, with the same bits.
            return
        weights = {"params": state.params, "batch_stats": state.batch_stats}
        parts = {"weights": ocp.args.StandardSave(weights), "metrics": ocp.args.JsonSave(metrics)}
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


def load_best(workdir: str | os.PathLike[str], like: Any) -> tuple[int, dict[str, Any], dict[str, float]]:
    """Return step, weights and validation metrics of a run's best checkpoint; changes nothing in the folder.

    Args:
      workdir: folder of the run.
      like: `{"params": ..., "batch_stats": ...}` of `jax.ShapeDtypeStruct`.

    Raises:
      InputError: there is none.
    """
    folder = Path(workdir).absolute() / "best"
    if folder.is_dir():
        options = ocp.CheckpointManagerOptions(read_only=True, create=False)
        with ocp.CheckpointManager(folder, options=options) as best:
            step = best.latest_step()
            if step is not None:
                parts = ocp.args.Composite(weights=ocp.args.StandardRestore(like), metrics=ocp.args.JsonRestore())
                found = best.restore(step, args=parts)
                return step, found["weights"], found["metrics"]
    raise InputError(f"{workdir}: found no best checkpoint; expected a run that finished an epoch")


def like(abstract: Any, where: Any) -> Any:
    """Return abstract leaves that carry their sharding, as `restore` takes them."""
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, where)
