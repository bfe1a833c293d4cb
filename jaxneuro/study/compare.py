"""Spreads over seeds, intervals over test scans, and paired tests of pre-trained rows against scratch.

Three kinds of noise are told apart: that of training again (the deviation over seeds), that of the people who happen to
be in the test (the interval, and the paired test), and that of testing many rows at once (Holm's correction).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxneuro.evaluation import comparisons, delong, estimates, statistics
from jaxneuro.study.gather import Found, Key

SPREAD, ONE_SEED = "within the seeds' spread", "different by one seed"
#: Resamples of the interval of a mean absolute error; the paired bootstrap has its own.
RESAMPLES = 2000


class Estimate(NamedTuple):
    """Hold the mean of a metric over seeds, its deviation, how many there are, and its interval over test scans."""

    mean: float
    sd: float
    n: int
    low: float
    high: float


class Pair(NamedTuple):
    """Name two rows that are compared on one set, the first being pre-trained, by one metric."""

    first: Key
    second: Key
    metric: str


class Compared(NamedTuple):
    """Hold a difference, the first less the second, its interval, p, that of Holm's correction, and what follows."""

    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    verdict: str


def estimate(found: Found, metric: str) -> Estimate:
    """Return what the seeds found of one metric, in all.

    The interval is of the mean over seeds, for these trained networks: DeLong's of ROC-AUC of a binary task, a
    bootstrap over subjects of a mean absolute error. Other metrics have none.
    """
    spread = comparisons.over_seeds(found.metrics.get(metric, np.full(len(found.seeds), math.nan)).tolist())
    low = high = math.nan
    if spread.n == len(found.seeds):
        if metric == "roc_auc" and _scored(found):
            low, high = delong.auc(found.target, found.predictions, found.subjects, level=found.level)[2:4]
        elif metric == "mae":
            errors = _errors(found)
            low, high = statistics.subject_bootstrap(
                lambda rows: {metric: float(errors[rows].mean())},
                found.subjects,
                resamples=RESAMPLES,
                level=found.level,
            )[metric]
    return Estimate(spread.mean, spread.sd, spread.n, low, high)


def over_sites(of: Sequence[Found], metric: str) -> Estimate | None:
    """Return the mean over sites of one metric, with its mean and deviation over the seeds that every site has.

    It has no interval: that over people would say how well these sites are known, not what another one would give.

    Args:
      of: what was found at each site.
      metric: its name.

    Returns:
      The estimate; None where no seed has every site.
    """
    seeds = [seed for seed in of[0].seeds if all(seed in one.seeds for one in of)]
    if not seeds:
        return None
    undefined = np.full(max(len(one.seeds) for one in of), math.nan)
    values = [[one.metrics.get(metric, undefined)[one.seeds.index(seed)] for one in of] for seed in seeds]
    spread = comparisons.over_seeds(np.mean(values, axis=1).tolist())
    return Estimate(spread.mean, spread.sd, spread.n, math.nan, math.nan)


def compare(found: Mapping[Key, Found], pairs: Sequence[Pair], *, alpha: float = 0.05) -> dict[Pair, Compared]:
    """Return what each of several paired tests says, after Holm's correction over all of them.

    ROC-AUC of a binary task has DeLong's test, mean absolute errors the paired bootstrap over subjects; both of the
    means over seeds, on the same scans. Where there is no such test, or the scans differ, all is NaN.

    Beyond Holm's, a difference has to leave the seeds apart: where the ranges over seeds overlap, it is "within the
    seeds' spread", and with one seed of either nobody knows.

    Args:
      found: what was found, by key; both keys of each pair are there.
      pairs: the comparisons of one table.
      alpha: an adjusted p-value below it is a difference.
    """
    tests = {pair: _test(found[pair.first], found[pair.second], pair.metric) for pair in pairs}
    judged = comparisons.judge({str(i): tests[pair][3] for i, pair in enumerate(pairs)}, alpha=alpha)
    result = {}
    for i, pair in enumerate(pairs):
        told = judged[str(i)]
        verdict = told.verdict
        if verdict == comparisons.DIFFERENT:
            verdict = _apart(found[pair.first].metrics[pair.metric], found[pair.second].metrics[pair.metric])
        result[pair] = Compared(*tests[pair], told.adjusted, verdict)
    return result


def _test(first: Found, second: Found, metric: str) -> tuple[float, float, float, float]:
    """Return difference, low, high and p."""
    same = first.scans == second.scans and np.array_equal(first.target, second.target)
    if same and metric == "roc_auc" and _scored(first):
        told = delong.compare(first.target, first.predictions, second.predictions, first.subjects, level=first.level)
        return told.difference, told.low, told.high, told.p
    if same and metric == "mae" and len(first.scans):
        paired = statistics.paired_bootstrap(_errors(first), _errors(second), first.subjects, level=first.level)
        return paired.difference, paired.low, paired.high, paired.p
    return math.nan, math.nan, math.nan, math.nan


def _apart(first: np.ndarray, second: np.ndarray) -> str:
    if min(len(first), len(second)) < 2:
        return ONE_SEED
    overlap = first.min() <= second.max() and second.min() <= first.max()
    return SPREAD if overlap else comparisons.DIFFERENT


def _scored(found: Found) -> bool:
    """Tell whether DeLong's variance fits: a score a scan, and one scan a subject."""
    return found.kind == "binary" and estimates.independent(found.subjects)


def _errors(found: Found) -> np.ndarray:
    """Return the absolute error of each scan [n], its mean over seeds."""
    return np.abs(found.predictions - found.target).mean(0)
