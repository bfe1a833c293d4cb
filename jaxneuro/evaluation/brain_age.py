"""Brain age: how the error hangs on age, and three published corrections, fitted on validation alone.

Predictions lean towards the mean age, so the gap (predicted less true age) falls with age. Results are told uncorrected
first. A correction that takes the true age of those it is applied to (`uses_age`) feeds the answer back: its MAE is
flattering, and small for a network that has learnt nothing (de Lange et al. 2022). Its gaps may serve as a marker; its
MAE is no measure of a network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import linregress, spearmanr


class Line(NamedTuple):
    """Hold the least-squares line of predicted on true age."""

    slope: float
    intercept: float


class Correction(NamedTuple):
    """Hold how a correction goes, (prediction [n], age [n], line) -> corrected [n], and whether it takes the age."""

    apply: Callable[[np.ndarray, np.ndarray, Line], np.ndarray]
    uses_age: bool


def beheshti(prediction: np.ndarray, age: np.ndarray, line: Line) -> np.ndarray:
    """Subtract the gap that is expected at each age [n] from predictions [n].

    The line of the gap on age has slope - 1 and the same intercept, so the result is that of `de_lange`.

    Source: Beheshti et al. 2019.
    """
    return prediction - ((line.slope - 1) * age + line.intercept)


def cole(prediction: np.ndarray, age: np.ndarray, line: Line) -> np.ndarray:
    """Take predictions [n] back along the line; the true age is not looked at. Errors grow by 1 / slope.

    Source: Cole et al. 2018.
    """
    return (prediction - line.intercept) / line.slope


def de_lange(prediction: np.ndarray, age: np.ndarray, line: Line) -> np.ndarray:
    """Add to predictions [n] what each age [n] lies above the line.

    Source: de Lange and Cole 2020.
    """
    return prediction + (age - (line.slope * age + line.intercept))


CORRECTIONS = {
    "beheshti_2019": Correction(beheshti, uses_age=True),
    "cole_2018": Correction(cole, uses_age=False),
    "de_lange_2020": Correction(de_lange, uses_age=True),
}


def fit(age: np.ndarray, prediction: np.ndarray) -> Line | None:
    """Return the line of predictions [n] on ages [n], of validation; None where ages do not differ.

    Fewer than 3 scans have none either: a line through 2 fits whatever they are.
    """
    if len(age) < 3 or np.ptp(age) == 0:
        return None
    found = linregress(np.asarray(age, np.float64), np.asarray(prediction, np.float64))
    return Line(float(found.slope), float(found.intercept))


def describe(line: Line | None, age: np.ndarray, prediction: np.ndarray, training_mean: float) -> dict[str, Any]:
    """Return the error and how the gap hangs on age, before and after each correction.

    Args:
      line: as `fit` gives it, of validation.
      age, prediction: [n], of the fold to describe.
      training_mean: mean age of the training fold.

    Returns:
      "fitted_on", the "line", the error of predicting the mean ("mae_of_mean"), "raw", and "corrected" by name: "mae",
      "gap_age_r" (Pearson) and "gap_age_rho" (Spearman; its size below 0.1 was a limit of PAC 2019), None where
      undefined. A correction that cannot be applied has a "reason".
    """
    age, prediction = np.asarray(age, np.float64), np.asarray(prediction, np.float64)
    corrected = {}
    for name, correction in CORRECTIONS.items():
        reason = _refusal(line, correction)
        found = None if line is None or reason else correction.apply(prediction, age, line)
        corrected[name] = {
            **(dict.fromkeys(("mae", "gap_age_r", "gap_age_rho")) if found is None else _errors(age, found)),
            "uses_age": correction.uses_age,
            **({"reason": reason} if reason else {}),
        }
    return {
        "fitted_on": "validation",
        "line": line and line._asdict(),
        "mae_of_mean": float(np.abs(age - training_mean).mean()),
        "raw": _errors(age, prediction),
        "corrected": corrected,
    }


def _refusal(line: Line | None, correction: Correction) -> str | None:
    if line is None:
        return "undefined: validation has fewer than 3 scans, or their ages do not differ"
    if not correction.uses_age and line.slope <= 0:
        return f"undefined: on validation predictions do not rise with age (slope {line.slope:.3g})"
    return None


def _errors(age: np.ndarray, prediction: np.ndarray) -> dict[str, float | None]:
    gap = prediction - age
    varied = len(age) > 1 and np.ptp(age) > 0 and np.ptp(gap) > 1e-9
    return {
        "mae": float(np.abs(gap).mean()),
        "gap_age_r": float(np.corrcoef(gap, age)[0, 1]) if varied else None,
        "gap_age_rho": float(spearmanr(gap, age).statistic) if varied else None,
    }
