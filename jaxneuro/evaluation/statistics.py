"""Intervals for metrics, and the paired bootstrap of two errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import binomtest


class Paired(NamedTuple):
    """Hold the means of two errors, the first less the second, its interval and the two-sided p-value."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p: float


def exact_interval(part: int, whole: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval (low, high) of a share, such as sensitivity; NaN of none.

    It covers at least `level`, more on few scans. The trials must be independent: one scan a subject.

    Source: Clopper and Pearson 1934.
    """
    if not whole:
        return math.nan, math.nan
    found = binomtest(part, whole).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def subject_bootstrap(
    statistic: Callable[[np.ndarray], dict[str, float]],
    subjects: Sequence[str],
    strata: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Return percentile bootstrap intervals, drawing whole subjects with replacement.

    Scans of one subject are not independent, so a subject comes with all its scans or not at all. With `strata`,
    subjects are drawn within each (a subject's first scan tells which), so that every resample keeps its classes.

    Args:
      statistic: row numbers [m] to named values.
      subjects: [n], the subject of each row.
      strata: [n], such as the class of each row; None for no strata.
      resamples: number of resamples.
      level: coverage.
      seed: of the draws.

    Returns:
      Name to (low, high); NaN where fewer than half the resamples define the value.

    Source: Efron and Tibshirani 1993, chapter 13; clustered resampling, Field and Welsh 2007.
    """
    names, first, member = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
    rows = [np.flatnonzero(member == i) for i in range(len(names))]
    group = np.zeros(len(names)) if strata is None else np.asarray(strata)[first]
    pools = [np.flatnonzero(group == g) for g in np.unique(group)]
    single = len(names) == len(member)  # then what is drawn are rows: a third of the time less
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {}
    for _ in range(resamples):
        sample = np.concatenate([rng.choice(pool, len(pool)) for pool in pools])
        chosen = first[sample] if single else np.concatenate([rows[i] for i in sample])
        for name, value in statistic(chosen).items():
            drawn.setdefault(name, []).append(value)
    tail = (1 - level) / 2
    result = {}
    for name, values in drawn.items():
        defined = np.asarray(values)[np.isfinite(values)]
        enough = len(defined) * 2 >= resamples
        low, high = np.quantile(defined, [tail, 1 - tail]) if enough else (np.nan, np.nan)
        result[name] = (float(low), float(high))
    return result


def paired_bootstrap(
    first: np.ndarray,
    second: np.ndarray,
    subjects: Sequence[str],
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Paired:
    """Return the difference of two mean errors on the same scans, by a bootstrap that draws whole subjects.

    The interval is the percentiles'; p is twice the smaller share of resamples on one side of 0, each counted with one
    more that is 0, so that it is never below 2 / (resamples + 1). Errors that are all alike have p = 1.

    Args:
      first, second: [n], such as absolute errors, or their means over networks that differ in their seed.
      subjects: [n], the subject of each scan.
      resamples: number of resamples.
      level: coverage of the interval.
      seed: of the draws.

    Source: Efron and Tibshirani 1993, chapters 13 and 15; Davison and Hinkley 1997, 4.4, for the one more.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    _, member = np.unique(np.asarray(subjects), return_inverse=True)
    gaps, scans = np.bincount(member, first - second), np.bincount(member)
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for i in range(resamples):
        sample = rng.integers(len(scans), size=len(scans))
        drawn[i] = gaps[sample].sum() / scans[sample].sum()
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Paired(float(first.mean()), float(second.mean()), float((first - second).mean()), float(low), float(high), p)
