"""Several processes as one run: how they join, what the first alone does, a stop that all agree on, a death told.

Every process runs the same command. On several hosts no process may wait in a collective that another never enters, so
whatever one of them decides by itself (a lock, a signal) is told to all before any acts on it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxneuro import terminal
from jaxneuro.errors import InputError
from jaxneuro.training import sharding
from jaxneuro.training.stopping import Stop

#: A process that was not heard of for so long is taken for dead, and the others end.
HEARTBEAT_S = 30
_JOIN_S = 300
_LEAVE_S = 120
#: The first process holds the service that the others end without: so long they have to say what went wrong with them.
_LAST_S = 3
_ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
#: In what jax, gloo, NCCL and the coordination service say when another process is gone.
_GONE = (
    "gloo",
    "nccl",
    "connection",
    "heartbeat",
    "unavailable",
    "deadline_exceeded",
    "coordination",
    "aborted",
    "barrier",
)
#: Steps between asking whether to stop and reading the answer, so that no host waits for its device.
_LAG = 2


def on_this_machine() -> int:
    """Return how many processes of this run share this machine; to be asked by all of them alike."""
    if jax.process_count() == 1:
        return 1
    name = np.int32(zlib.crc32(socket.gethostname().encode()) >> 1)
    return int((multihost_utils.process_allgather(name) == name).sum())


def join() -> None:
    """Join this process to the others of its job; before any computation.

    Where JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID are set, by them; else
    as jax finds out by itself: in a Slurm step, on Cloud TPU, under Open MPI.

    Raises:
      InputError: nothing tells which processes there are, or they did not all come in five minutes.
    """
    given = {name: os.environ[name] for name in _ENVIRONMENT if os.environ.get(name)}
    if given and len(given) < len(_ENVIRONMENT):
        missing = [name for name in _ENVIRONMENT if name not in given]
        raise InputError(
            f"--distributed: found {', '.join(given)} without {', '.join(missing)}; expected all three, or none "
            "where Slurm or Cloud TPU tells"
        )
    for name in _ENVIRONMENT[1:]:
        if name in given and not given[name].isdecimal():
            raise InputError(f"{name}: found '{given[name]}'; expected a whole number")
    # It would take SIGTERM for itself; `Agreed` answers it.
    jax.config.update("jax_enable_preemption_service", False)
    address, count, number = (given.get(name) for name in _ENVIRONMENT)
    try:
        jax.distributed.initialize(
            address,
            int(count) if count else None,
            int(number) if number else None,
            cluster_detection_method="deactivate" if given else None,
            initialization_timeout=_JOIN_S,
            heartbeat_timeout_seconds=HEARTBEAT_S,
            shutdown_timeout_seconds=_LEAVE_S,
        )
    except (ValueError, RuntimeError) as e:
        line = (str(e).splitlines() or [type(e).__name__])[0][:200]
        raise InputError(
            f"--distributed: the processes did not come together ({line}); expected {', '.join(_ENVIRONMENT)} in the "
            "environment of each, or a job of Slurm or Cloud TPU, all running the same command; leave the flag out "
            "for one process"
        ) from e
    if jax.process_index():
        terminal.hush(f"process {jax.process_index()}: ")


def is_first() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return jax.process_index() == 0


def first(function: Callable[[], Any]) -> Any:
    """Call in the first process while the others wait; they return None, and its error is everyone's.

    Raises:
      InputError, OSError: what the call raised; in the others, that it did.
    """
    if jax.process_count() == 1:
        return function()
    result, error = None, None
    if is_first():
        try:
            result = function()
        except (InputError, OSError) as e:
            error = e
    failed = multihost_utils.broadcast_one_to_all(np.int32(error is not None))
    if error:
        raise error
    if failed:
        raise InputError("the first process could not go on; expected it to; its line says why")
    return result


@contextmanager
def deaths_told(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what jax raises when another process is gone into one line.

    Raises:
      InputError: says that the same command goes on.
    """
    try:
        yield
    except (RuntimeError, TimeoutError) as e:
        line = (str(e).splitlines() or [""])[0][:200]
        if jax.process_count() == 1 or not any(mark in str(e).lower() for mark in _GONE):
            raise
        raise InputError(
            f"{workdir}: lost another of {jax.process_count()} processes ({line}); expected all to run on; what was "
            "saved is whole, and the same command, started again in all, goes on from it"
        ) from e


def leave(code: int) -> None:
    """End a process of several that failed, at once: to take leave of the others it would have to wait for them.

    One that was sent away takes leave, and does not hear the next notice, which would hide its exit status.
    """
    if code == os.EX_TEMPFAIL:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if jax.process_count() > 1 and code == 1:
        if is_first():
            time.sleep(_LAST_S)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class Agreed:
    """A `Stop` that every process finds set at the same step, whichever of them got the signal.

    Args:
      stop: this process's own.
      mesh: the devices.
    """

    def __init__(self, stop: Stop, mesh: Mesh) -> None:
        self._stop, self._mesh = stop, mesh
        self._alone = jax.process_count() == 1
        self._asked: deque[jax.Array] = deque()

    def is_set(self) -> bool:
        """Tell whether to stop; to be called once a step, by all."""
        if self._alone:
            return self._stop.is_set()
        self._asked.append(sharding.largest(self._mesh, self._stop.signal))
        if len(self._asked) <= _LAG:
            return False
        self._stop.signal = max(self._stop.signal, signal := int(self._asked.popleft()))
        return bool(signal)

    def error(self, text: str) -> BaseException:
        """Return what to raise, as of `Stop.error`."""
        return self._stop.error(text)
