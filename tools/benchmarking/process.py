"""A side of a comparison as a process of its own, which works when it is told to and waits otherwise.

Two frameworks in one process share threads, allocators and the memory of the accelerator, and whose peak was seen
cannot be told. So each side has a process, and one runs while the others wait for a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[2]


class Failed(Exception):
    """A side cannot be measured; the message is one line and says why."""


class Side:
    """Start a process for a subject (`worker.SUBJECTS`) and ask it things.

    Args:
      subject: what is measured there.
      spec: what it is made with, plain values.
      environment: variables besides our own.
      patience: seconds after which an answer is no longer waited for and the process is ended.
    """

    def __init__(self, subject: str, spec: Mapping[str, Any], environment: Mapping[str, str], patience: float) -> None:
        self._patience = patience
        path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH")) if p)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        began = time.time()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmarking.worker", json.dumps([subject, dict(spec), began])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=ROOT,
            env={**os.environ, **environment, "PYTHONPATH": path},
        )  # fmt: skip

    def ask(self, what: str, **arguments: Any) -> Any:
        """Return the answer to a question (`worker.Asked`).

        Raises:
          Failed: the process could not do it, was too slow, or is gone.
        """
        assert self._process.stdin
        assert self._process.stdout
        late = threading.Timer(self._patience, self._process.kill)
        late.start()
        try:
            self._process.stdin.write(json.dumps([what, arguments]) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            waited = not late.is_alive()
            late.cancel()
        if not line:
            code = self._process.wait()
            why = f"no answer in {self._patience:.0f} s" if waited else f"its process ended with {code}"
            raise Failed(f"{why}{self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer["value"]

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f": {lines[-1][:200]}" if lines else ""

    def __enter__(self) -> Side:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()  # it ends by itself
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()
        self._log.close()
