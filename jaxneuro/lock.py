"""One process a folder at a time: a run that trains, a preparation."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxneuro import terminal
from jaxneuro.errors import BusyError

FILE = ".lock"


@contextmanager
def hold(
    workdir: str | os.PathLike[str], *, busy: str = "is being trained", instead: str = "another --workdir"
) -> Iterator[None]:
    """Keep every other process from working in a folder, made if need be; the lock goes with the process, however it
    ends.

    Args:
      workdir: the folder.
      busy, instead: what the other process does with it, and what to choose instead, for the error.

    Raises:
      BusyError: another process holds it; names it.
    """
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with open(Path(workdir) / FILE, "a+", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            handle.seek(0)
            raise BusyError(
                f"{workdir}: {busy} by {handle.read().strip() or 'another process'}; expected no other run "
                f"in the folder; wait for it, stop it, or choose {instead}"
            ) from e
        except OSError as e:
            if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            terminal.say(f"warning: {workdir}: this file system has no locks; see to it that no second run uses it")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield


def holder(workdir: str | os.PathLike[str]) -> str | None:
    """Return which process holds a folder, None when none does; writes nothing."""
    try:
        with open(Path(workdir) / FILE, encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return handle.read().strip() or "another process"
            except OSError as e:
                if e.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
    except FileNotFoundError:
        pass
    return None
