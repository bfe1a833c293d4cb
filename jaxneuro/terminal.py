"""What a person sees while work goes on: one live line with the time left, lines that stay, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)
_answers = Console(highlight=False)
Report = Callable[..., None]
_prefix: str | None = None


def say(line: Any) -> None:
    """Print a line or table that stays. Lines are not broken at the terminal's width: a path stays whole."""
    if isinstance(line, str):
        console.print(line, markup=False, soft_wrap=True)
    else:
        console.print(line)


def answer(line: Any) -> None:
    """Print a line or table that was asked for, on standard output, which others may read."""
    if isinstance(line, str):
        _answers.print(line, markup=False, soft_wrap=True)
    else:
        _answers.print(line)


def hush(prefix: str) -> None:
    """Say nothing from now on but what went wrong, with this before it: of several processes one speaks."""
    global _prefix
    _prefix = prefix
    console.quiet = True


def say_wrong(line: str) -> None:
    """Print a line that says what went wrong, though all else is hushed."""
    quiet, console.quiet = console.quiet, False
    say(f"{_prefix or ''}{line}")
    console.quiet = quiet


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Report]:
    """Show a live line; yields `report(done, total=None, what=None, note="")`.

    The line appears on a terminal only; in a log file, the lines that stay tell how far the work is.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, note="")

        def report(done: int, total: int | None = None, what: str | None = None, note: str | None = None) -> None:
            fields: dict[str, Any] = {} if note is None else {"note": note}
            bar.update(task, completed=done, total=total, description=what, **fields)

        yield report
