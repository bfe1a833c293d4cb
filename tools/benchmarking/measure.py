"""Rounds that alternate between sides, and what is made of their times."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def order(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield the side to run next: every side once a round, there and back, so that nobody always goes first."""
    for i in range(rounds):
        yield from names[:: -1 if i % 2 else 1]


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each side gave in each round."""
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for name in order(list(sides), rounds):
        samples[name].append(sides[name]())
    return samples


def repeats(seconds: float, at_least: float) -> int:
    """Return how many calls of so many seconds fill a round of `at_least` seconds, one or more."""
    return max(1, math.ceil(at_least / max(seconds, 1e-9)))


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the range."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def compare(samples: Mapping[str, Sequence[float]], ours: str, others: Sequence[str]) -> dict[str, Any] | None:
    """Compare our seconds with those of the best of others, by median; None where nobody is left to compare with.

    Returns:
      `to`, the best of the others; `median`, our median over its median, below 1 where we are faster; `low` and `high`,
      the range of the ratios of the rounds, in which both ran one after the other.
    """
    if ours not in samples or not (there := [name for name in others if name in samples]):
        return None
    best = min(there, key=lambda name: statistics.median(samples[name]))
    ratios = [a / b for a, b in zip(samples[ours], samples[best], strict=True)]
    median = statistics.median(samples[ours]) / statistics.median(samples[best])
    return {"of": ours, "to": best, "median": median, "low": min(ratios), "high": max(ratios)}
