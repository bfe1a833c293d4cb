"""The process of one side: makes its subject, then answers one line of JSON with another.

A subject has tasks, `subject.tasks()[name]() -> run`, and `run(n)` does the work n times and waits until it is done.
Its method `settle`, if it has one, comes before every timing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.benchmarking import measure

#: Subject -> (module, class), imported in the process that needs it alone.
SUBJECTS = {
    "jaxneuro": ("ours", "Network"),
    "torch": ("theirs", "Network"),
    "shards": ("feeding", "Shards"),
    "records": ("feeding", "Records"),
    "bytes": ("feeding", "Bytes"),
    "monai": ("feeding", "Monai"),
    "machine": ("machine", "Devices"),
}


def make(subject: str, spec: dict[str, Any]) -> Any:
    """Import and make a subject."""
    module, name = SUBJECTS[subject]
    return getattr(importlib.import_module(f"tools.benchmarking.{module}"), name)(**spec)


class Asked:
    """What a side can be asked; each method's name is a question."""

    def __init__(self, subject: str, spec: dict[str, Any], began: float) -> None:
        self._subject, self._spec, self._began = subject, spec, began
        self._made: Any = None
        self._run: Callable[[int], None] = lambda n: None
        self._repeats = 1

    def _make(self) -> Any:
        if self._made is None:
            self._made = make(self._subject, self._spec)
        return self._made

    def first(self, task: str) -> dict[str, float]:
        """Do a task for the first time: seconds of that with all that it compiles, and since the process began."""
        build = self._make().tasks()[task]
        start = time.perf_counter()
        self._run = build()
        self._run(1)
        return {"first": time.perf_counter() - start, "since_start": time.time() - self._began}

    def warm(self, at_least: float) -> dict[str, float]:
        """Do it again, and settle how often it is done in a round of `at_least` seconds."""
        reset_peak()
        calls: list[float] = []
        while len(calls) < 3 and sum(calls) < at_least:  # the second call may still be slow
            calls.append(self._timed(1))
        self._repeats = measure.repeats(min(calls), at_least)
        return {"seconds": min(calls), "repeats": self._repeats}

    def measure(self) -> float:
        """Return the seconds of one call, as the mean of the calls of a round."""
        return self._timed(self._repeats) / self._repeats

    def memory(self) -> dict[str, int]:
        """Return peaks in bytes: of the process, of it since the first call, and of the device where there is one."""
        found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT}
        if (running := _peak()) is not None:
            found["running"] = running
        if (device := getattr(self._made, "device_memory", lambda: None)()) is not None:
            found["device"] = device
        return found

    def call(self, name: str) -> Any:
        """Return what a method of the subject returns."""
        return getattr(self._make(), name)()

    def _timed(self, n: int) -> float:
        getattr(self._made, "settle", lambda: None)()
        start = time.perf_counter()
        self._run(n)
        return time.perf_counter() - start


#: Linux counts in KiB, macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def reset_peak() -> None:
    """Let the peak of resident memory begin anew, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)


def main() -> None:
    """Answer until nobody asks any more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    asked = Asked(*json.loads(sys.argv[1]))
    for line in sys.stdin:
        what, arguments = json.loads(line)
        try:
            answer = {"value": getattr(asked, what)(**arguments)}
        except Exception as e:
            text = next((line.strip() for line in str(e).splitlines() if line.strip()), "")
            answer = {"error": f"{type(e).__name__}: {text[:200]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
