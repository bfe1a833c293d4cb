"""The metrics of steps between two lines of the log, and how fast they went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan


class Pace:
    """Collect the metrics of steps and how fast they went, between two lines of the log.

    Args:
      batch_size: volumes of a step.
      begun: what `pending` returned when the run was stopped between two lines.
    """

    def __init__(self, batch_size: int, begun: Sequence[dict[str, float]] = ()) -> None:
        self._batch_size = batch_size
        self._begun = list(begun)
        self._steps: list[tuple[int, dict[str, jax.Array], np.ndarray]] = []
        self.restart()

    def restart(self) -> None:
        self._clock, self._waited = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def step(self, step: int, metrics: dict[str, jax.Array], numbers: np.ndarray) -> None:
        # Kept on the device: reading a value here would make the host wait for the step.
        self._steps.append((step, metrics, numbers))

    def check(self, workdir: str | Path, scans: list[Scan]) -> None:
        """Refuse to go on from a step whose loss or gradient is not a number.

        Raises:
          InputError: names the first such step and the scans of its batch.
        """
        for step, metrics, numbers in self._steps:
            if not metrics["finite"]:
                names = ", ".join(scans[i].name for i in numbers[:16]) + (", ..." if len(numbers) > 16 else "")
                raise InputError(
                    f"{workdir}: the loss is {float(metrics['loss']):g} at step {step}, the gradient's norm "
                    f"{float(metrics['gradient_norm']):g}; expected numbers; its scans: {names}; what was saved is "
                    "whole and from before; look at these scans, or try a lower --config.optimizer.learning_rate in "
                    "a new --workdir"
                )

    def pending(self) -> list[dict[str, float]]:
        """Return the metrics of every step since the last line of the log, as plain values for JSON."""
        return self._begun + [{k: float(v) for k, v in metrics.items()} for _, metrics, _ in self._steps]

    def take(self) -> dict[str, float]:
        """Return means of the metrics, volumes a second, and the share of time spent waiting for data."""
        found = self.pending()
        values = {f"train/{k}": float(np.mean([m[k] for m in found])) for k in found[0] if k != "finite"}
        seconds = time.perf_counter() - self._clock
        # Those that an earlier process took are not of this one's time.
        values["train/volumes_per_second"] = len(self._steps) * self._batch_size / seconds
        values["train/waiting_for_data"] = self._waited / seconds
        self._begun, self._steps = [], []
        self.restart()
        return values
