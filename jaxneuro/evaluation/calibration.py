"""Whether probabilities mean what they say: calibration slope and intercept, Brier score, reliability curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from jaxneuro.evaluation.statistics import exact_interval

#: Probabilities nearer to 0 or 1 than float32 tells apart are taken for this, so that their logits are finite.
_EDGE = 2.0**-24


def slope(target: np.ndarray, probability: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return the calibration slope and Wald's interval: value, low, high.

    It is that of an unpenalised logistic regression of the outcome on the logit of the prediction: 1 when calibrated,
    below 1 when predictions are too extreme. NaN where `undefined_reason` has one. The interval takes scans for
    independent.

    Args:
      target: [n], 0 or 1.
      probability: [n], of class 1.
      level: coverage.

    Source: Cox 1958; Van Calster et al. 2016.
    """
    if undefined_reason("slope", target, probability):
        return math.nan, math.nan, math.nan
    x, y = _logits(probability), np.asarray(target) == 1
    centre, scale = x.mean(), x.std()  # a fit in these units converges whatever the spread
    z = (x - centre) / scale
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(z[:, None], y)
    value = float(model.coef_[0, 0])
    chance = expit(value * z + float(model.intercept_[0]))
    weight = chance * (1 - chance)
    # The inverse of the information about slope and intercept, at the slope.
    information = (weight * z**2).sum() - (weight * z).sum() ** 2 / weight.sum()
    half = float(norm.isf((1 - level) / 2)) / math.sqrt(information)
    return value / scale, (value - half) / scale, (value + half) / scale


def intercept(target: np.ndarray, probability: np.ndarray, *, level: float = 0.95) -> tuple[float, float, float]:
    """Return calibration-in-the-large and Wald's interval: value, low, high.

    It is the intercept of a logistic regression with the logit of the prediction as its offset (slope 1): 0 when
    predictions are right on average, below 0 when they are too high. NaN where `undefined_reason` has one. The interval
    takes scans for independent.

    Args:
      target: [n], 0 or 1.
      probability: [n], of class 1.
      level: coverage.

    Source: Cox 1958; Steyerberg 2019, chapter 15.
    """
    if undefined_reason("intercept", target, probability):
        return math.nan, math.nan, math.nan
    x, share = _logits(probability), float((np.asarray(target) == 1).mean())
    # Shifted so that the largest logit is at the share, all chances are at or below it; of the smallest, above.
    ends = float(logit(share)) - x.max() - 1e-6, float(logit(share)) - x.min() + 1e-6
    value = float(brentq(lambda shift: expit(x + shift).mean() - share, *ends, xtol=1e-12))
    chance = expit(x + value)
    half = float(norm.isf((1 - level) / 2)) / math.sqrt((chance * (1 - chance)).sum())
    return value, value - half, value + half


def brier(target: np.ndarray, probability: np.ndarray) -> float:
    """Return the mean squared error of probabilities [n] of class 1; `target` [n] is 0 or 1.

    Source: Brier 1950, halved, as is usual for two classes.
    """
    return float(np.square(np.asarray(probability, np.float64) - (np.asarray(target) == 1)).mean())


def undefined_reason(name: str, target: np.ndarray, probability: np.ndarray) -> str | None:
    """Say why the "slope" or "intercept" of targets [n] and probabilities [n] is undefined; None where it is not."""
    positive, x = np.asarray(target) == 1, _logits(probability)
    if positive.all() or not positive.any():
        return f"{name} is undefined: the scans hold one class"
    if name == "intercept":
        return None
    if np.ptp(x) < 1e-6:
        return f"{name} is undefined: the predictions do not differ"
    ones, zeros = x[positive], x[~positive]
    if zeros.max() <= ones.min() or ones.max() <= zeros.min():
        return f"{name} is undefined: a threshold separates the classes, so it has no finite value"
    return None


def reliability(
    target: np.ndarray, probability: np.ndarray, *, bins: int = 10, level: float = 0.95
) -> list[dict[str, Any]]:
    """Return the points of a reliability curve: bins of about as many scans each, by predicted probability.

    Equal predictions stay together, so there may be fewer bins. Intervals are exact and take scans for independent.

    Args:
      target: [n], 0 or 1.
      probability: [n], of class 1.
      bins: at most so many.
      level: coverage.

    Returns:
      For each bin, in order: "predicted" (mean), "observed" (share of class 1), "low", "high", "scans".
    """
    positive, probability = np.asarray(target) == 1, np.asarray(probability, np.float64)
    if not len(probability):
        return []
    edges = np.unique(np.quantile(probability, np.arange(1, bins) / bins))
    member = np.searchsorted(edges, probability, side="left")
    points = []
    for number in np.unique(member):
        here = member == number
        scans, ones = int(here.sum()), int(positive[here].sum())
        low, high = exact_interval(ones, scans, level=level)
        predicted, observed = float(probability[here].mean()), ones / scans
        points.append({"predicted": predicted, "observed": observed, "low": low, "high": high, "scans": scans})
    return points


def _logits(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(np.asarray(probability, np.float64), _EDGE, 1 - _EDGE))
