"""Ctrl-C and SIGTERM: asked for at any time, answered between two steps."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxneuro.errors import Preempted


class Stop:
    """Whether a signal asked the run to stop, and which."""

    def __init__(self) -> None:
        self.signal = 0

    def is_set(self) -> bool:
        return bool(self.signal)

    def error(self, text: str) -> BaseException:
        """Return what to raise: a run that was sent away is to be queued again, one that a person stopped is not."""
        return Preempted(text) if self.signal == signal.SIGTERM else KeyboardInterrupt(text)


@contextmanager
def on_signal() -> Iterator[Stop]:
    """Yield what the first Ctrl-C, or a SIGTERM, sets; a second Ctrl-C interrupts at once.

    An interrupt raised wherever the program happens to be is lost in a library's callback or mistaken for its error.
    """
    asked = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(signum: int, frame: Any) -> None:
        if signum == signal.SIGINT and asked.signal == signal.SIGINT:
            raise KeyboardInterrupt
        asked.signal = signum
        # Written as it is: what a handler interrupts may hold the terminal's lock.
        more = b"; again to stop at once" if signum == signal.SIGINT else b""
        # Ctrl-C ends the reader of a pipe, too: that nobody hears of it must not end the run here.
        with suppress(OSError):
            os.write(2, b"\nstopping after this step, to save it" + more + b"\n")

    # A shell that starts a job in the background makes it ignore interrupts; so it stays.
    wanted = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
    before = {s: signal.signal(s, ask) for s in wanted}
    try:
        yield asked
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
