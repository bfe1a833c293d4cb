"""The errors a user can cause. Each message is one line: where, what was found, what was expected, what to try."""

from __future__ import annotations

from typing import Any


class InputError(ValueError):
    """Say that something the user gave (a file, a row, a key, a path) cannot be used."""


class LeakageError(InputError):
    """Say that a subject or an image stands on both sides of a split."""


class BusyError(InputError):
    """Say that another process works in a folder."""


class CorruptDataError(InputError):
    """Say that stored data no longer is what was written."""


class ScanError(InputError):
    """Say why one scan cannot be used; its parts become a row of the dataset's failures.

    `passing` tells that the fault may be the machine's at this time, not the scan's: the next run tries it again.
    """

    def __init__(self, found: str, expected: str, hint: str = "", *, where: str = "", passing: bool = False) -> None:
        self.where, self.found, self.expected, self.hint, self.passing = where, found, expected, hint, passing
        super().__init__(
            (f"{where}: " if where else "") + f"found {found}; expected {expected}" + (f"; {hint}" if hint else "")
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again in another process: exceptions are pickled by their one argument otherwise."""
        return type(self)._of, (self.where, self.found, self.expected, self.hint, self.passing)

    @classmethod
    def _of(cls, where: str, found: str, expected: str, hint: str, passing: bool) -> ScanError:
        return cls(found, expected, hint, where=where, passing=passing)


class Terminated(KeyboardInterrupt):
    """Say that SIGTERM came: raised wherever the program is, as Ctrl-C is, so that it leaves in the same order."""


class Preempted(Exception):
    """Say that a run was told to end (SIGTERM) and has saved its state: the same command goes on."""
