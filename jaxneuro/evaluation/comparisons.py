"""Whether results differ by more than noise: many tests at once, and runs with several seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxneuro.errors import InputError

DIFFERENT, NOISE, UNDEFINED = "different", "within noise", "undefined"


class Judged(NamedTuple):
    """Hold one test of several: its p-value, that of Holm's correction, and what follows from it."""

    p: float
    adjusted: float
    verdict: str


class Seeds(NamedTuple):
    """Hold mean, standard deviation (of n - 1), smallest and largest of the n seeds that define a value."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def holm(p: np.ndarray) -> np.ndarray:
    """Return Holm's step-down adjusted p-values [m] of p-values [m], which keep the family-wise error at any level.

    NaN, a test that is undefined, stays NaN and does not count as a test.

    Source: Holm 1979; as adjusted p-values, Wright 1992.
    """
    p = np.asarray(p, np.float64)
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p, kind="stable")  # NaN last
    order = order[: int(np.isfinite(p).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


def judge(p: Mapping[str, float], *, alpha: float = 0.05) -> dict[str, Judged]:
    """Return what each of several tests says after Holm's correction over all of them.

    "within noise" says that the scans do not show a difference, not that there is none.

    Args:
      p: name of a comparison to its p-value, such as that of `delong.compare`; NaN where it is undefined.
      alpha: an adjusted p-value below it is a difference.
    """
    adjusted = holm(np.array(list(p.values()), np.float64))
    verdicts = [UNDEFINED if math.isnan(a) else DIFFERENT if a < alpha else NOISE for a in adjusted]
    return {
        name: Judged(float(p[name]), float(a), verdict) for name, a, verdict in zip(p, adjusted, verdicts, strict=True)
    }


def over_seeds(values: Sequence[float]) -> Seeds:
    """Return the mean and spread of one metric over runs that differ in their seed alone.

    The spread is that of training; an interval over scans is that of the test set, and neither holds the other.

    Args:
      values: one a seed; NaN, a run that does not define it, is left out and not counted in `n`.

    Raises:
      InputError: there are no values.
    """
    if not len(values):
        raise InputError("found no values; expected one a seed")
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    if not len(found):
        return Seeds(math.nan, math.nan, math.nan, math.nan, 0)
    sd = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return Seeds(float(found.mean()), sd, float(found.min()), float(found.max()), len(found))
