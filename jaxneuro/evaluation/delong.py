"""ROC-AUC with DeLong's variance: its interval, and the paired test of two scores on the same scans.

Where several networks that differ in their seed score the scans, all is of the mean of their AUCs: a mean of AUCs is a
mean over pairs of scans as one AUC is, so the variance is DeLong's, of counts summed over networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from jaxneuro.errors import InputError

DELONG, NEWCOMBE = "DeLong", "Newcombe's method 5, for DeLong's variance is 0 or undefined"


class Auc(NamedTuple):
    """Hold a ROC-AUC, its variance, its interval, and the method of the interval; NaN where it is undefined."""

    value: float
    variance: float
    low: float
    high: float
    method: str


class Difference(NamedTuple):
    """Hold the AUCs of two scores, the first less the second, its interval, z and the two-sided p-value."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    z: float
    p: float


def auc(target: np.ndarray, score: np.ndarray, subjects: Sequence[str], *, level: float = 0.95) -> Auc:
    """Return the ROC-AUC of a score with its interval.

    The interval is AUC +/- z standard errors, clipped to [0, 1], as pROC's `ci.auc` has it. Where DeLong's variance
    says nothing (all pairs are in order, all scores are equal, or a class has one scan), Newcombe's method 5 stands in:
    it is defined there, not of width 0, and conservative. Just below 1, DeLong's interval of few scans is too narrow.

    Args:
      target: [n], 0 or 1.
      score: [n], larger for class 1; or [k, n] of k networks.
      subjects: [n], the subject of each scan; all different.
      level: coverage.

    Raises:
      InputError: a subject has several scans, which are not independent.

    Source: DeLong, DeLong and Clarke-Pearson 1988; by midranks, Sun and Xu 2014; Newcombe 2006, part 2, method 5.
    """
    _check(subjects)
    positive = np.asarray(target) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Auc(math.nan, math.nan, math.nan, math.nan, DELONG)
    networks = len(np.atleast_2d(score))
    of_positives, of_negatives = _placements(positive, score)
    value = float(of_positives.sum()) / (m * n * networks)
    variance = _variance(of_positives, of_negatives) / networks**2
    if not variance > 0:
        return Auc(value, variance, *_newcombe(value, m, n, level), NEWCOMBE)
    half = float(norm.isf((1 - level) / 2)) * math.sqrt(variance)
    return Auc(value, variance, max(0.0, value - half), min(1.0, value + half), DELONG)


def compare(
    target: np.ndarray, first: np.ndarray, second: np.ndarray, subjects: Sequence[str], *, level: float = 0.95
) -> Difference:
    """Return DeLong's paired test of two scores on the same scans.

    Scores that rank all scans alike have p = 1 and an interval of width 0. Other pairs whose difference has no variance
    (each puts all pairs in order, or a class has one scan) have no interval, and p = 1 if the AUCs are equal, else NaN.

    Args:
      target: [n], 0 or 1.
      first, second: [n], larger for class 1; or [k, n] of k networks, not necessarily as many.
      subjects: [n], the subject of each scan; all different.
      level: coverage of the interval.

    Raises:
      InputError: a subject has several scans, which are not independent.

    Source: DeLong, DeLong and Clarke-Pearson 1988; by midranks, Sun and Xu 2014.
    """
    _check(subjects)
    positive = np.asarray(target) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Difference(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
    a, b = _placements(positive, first), _placements(positive, second)
    of_a, of_b = len(np.atleast_2d(first)), len(np.atleast_2d(second))
    auc_a, auc_b = float(a[0].sum()) / (m * n * of_a), float(b[0].sum()) / (m * n * of_b)
    difference = auc_a - auc_b
    # The variance of the differences is that of both less twice their covariance, without its rounding.
    variance = _variance(a[0] * of_b - b[0] * of_a, a[1] * of_b - b[1] * of_a) / (of_a * of_b) ** 2
    if variance > 0:
        error = math.sqrt(variance)
        half, z = float(norm.isf((1 - level) / 2)) * error, difference / error
        p = float(2 * norm.sf(abs(z)))
        return Difference(auc_a, auc_b, difference, max(-1.0, difference - half), min(1.0, difference + half), z, p)
    alike = np.array_equal(_ranks(first), _ranks(second))
    end = 0.0 if alike else math.nan
    z, p = (0.0, 1.0) if difference == 0 else (math.nan, math.nan)
    return Difference(auc_a, auc_b, difference, end, end, z, p)


def _check(subjects: Sequence[str]) -> None:
    if len(set(subjects)) < len(subjects):
        raise InputError(
            f"found {len(subjects)} scans of {len(set(subjects))} subjects; expected one scan a subject, as DeLong's "
            "variance takes scans for independent; keep one session a subject, or use the bootstrap over subjects"
        )


def _ranks(score: np.ndarray) -> np.ndarray:
    return rankdata(np.atleast_2d(np.asarray(score, np.float64)), axis=-1)


def _placements(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for each positive the count of negatives below it, for each negative of positives above; ties half.

    Of several networks, scores [k, n], the sums over them. Counts, not shares: they are exact, so a variance of 0 is 0.
    """
    score = np.atleast_2d(np.asarray(score, np.float64))
    ranks = _ranks(score)
    of_positives = ranks[:, positive] - _ranks(score[:, positive])
    of_negatives = positive.sum() - (ranks[:, ~positive] - _ranks(score[:, ~positive]))
    return of_positives.sum(0), of_negatives.sum(0)


def _variance(of_positives: np.ndarray, of_negatives: np.ndarray) -> float:
    """Return DeLong's variance from counts [m] (of n negatives) and [n] (of m positives); NaN if a class has one."""
    m, n = len(of_positives), len(of_negatives)
    if min(m, n) < 2:
        return math.nan
    return float(of_positives.var(ddof=1) / n**2 / m + of_negatives.var(ddof=1) / m**2 / n)


def _newcombe(value: float, m: int, n: int, level: float) -> tuple[float, float]:
    """Return the AUCs that lie just z of their own standard errors (of exponential scores) from the one found."""
    z, others = float(norm.isf((1 - level) / 2)), (m + n) / 2 - 1

    def low(value: float) -> float:
        def excess(auc: float) -> float:
            pairs = 1 + others * (1 - auc) / (2 - auc) + others * auc / (1 + auc)
            return value - auc - z * math.sqrt(auc * (1 - auc) * pairs / (m * n))

        # 1 itself is a root of an AUC of 1, and not the one that is meant.
        return float(brentq(excess, 0, min(value, 1 - 1e-12))) if value > 0 else 0.0

    return low(value), 1 - low(1 - value)
