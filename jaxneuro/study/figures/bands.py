"""ROC curves off weighted scans, and their bands by a bootstrap over subjects."""

from __future__ import annotations

import numpy as np

BAND_RESAMPLES = 2000


def roc_band(
    target: np.ndarray, prediction: np.ndarray, subject: np.ndarray, *, confidence: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bootstrap the ROC curve over subjects: false positive rates [101] and both ends of the band [101].

    `target` and `subject` are [scans], `prediction` too, or [networks, scans], whose mean curve it is then.
    Subjects are drawn within classes (a subject's first scan tells which), as for the intervals. Raises ValueError
    when the scans hold one class.
    """
    if np.ptp(target) == 0:
        raise ValueError("an ROC curve needs both classes: every scan is of one")
    rng, grid = np.random.default_rng(seed), np.linspace(0, 1, 101)
    names, first, owner = np.unique(subject, return_index=True, return_inverse=True)
    pools = [np.flatnonzero(target[first] == label) for label in np.unique(target[first])]
    curves: list[np.ndarray] = []
    while len(curves) < BAND_RESAMPLES:
        drawn = np.concatenate([pool[rng.integers(len(pool), size=len(pool))] for pool in pools])
        weight = np.bincount(drawn, minlength=len(names))[owner]
        if np.ptp(target[weight > 0]) > 0:
            curves.append(mean_roc(target, prediction, weight, grid))
    bottom, top = np.quantile(curves, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return grid, bottom, top


def mean_roc(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Average the ROC curves of several networks vertically: true positive rates [n] at the rates `grid` [n].

    `target` (0 or 1) and `weight` are [scans], `prediction` [networks, scans], or [scans] of one.
    """
    return np.mean([weighted_roc(target, of_one, weight, grid) for of_one in np.atleast_2d(prediction)], axis=0)


def weighted_roc(target: np.ndarray, prediction: np.ndarray, weight: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Read true positive rates [n] at the false positive rates `grid` [n] off a weighted ROC curve.

    `target` (0 or 1), `prediction` and `weight` are [scans]. It is sklearn's curve, without the checks that
    make thousands of resamples slow.
    """
    order = np.argsort(-prediction, kind="stable")
    # Scans of one prediction cross a threshold together: only the last of each counts.
    last = np.append(np.flatnonzero(np.diff(prediction[order])), len(order) - 1)
    hits = np.append(0, np.cumsum((weight * (target == 1))[order])[last])
    alarms = np.append(0, np.cumsum((weight * (target == 0))[order])[last])
    return np.interp(grid, alarms / alarms[-1], hits / hits[-1])
