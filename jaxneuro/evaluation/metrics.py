"""Metrics of predictions as plain numbers; an undefined one is NaN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn import metrics as sk

CLASSIFICATION = ("roc_auc", "accuracy", "balanced_accuracy", "sensitivity", "specificity")
REGRESSION = ("mae", "rmse", "r", "r2", "mae_of_mean")


def youden_threshold(target: np.ndarray, probability: np.ndarray) -> float:
    """Return the probability threshold with the largest sensitivity + specificity - 1 (Youden 1950).

    Args:
      target: [n], 0 or 1.
      probability: [n], of class 1; at or above the threshold is class 1.

    Returns:
      The threshold: half way between the two neighbouring probabilities that it separates, so that it does not hang on
      one scan's exact value. NaN when `target` holds one class. Of several best ones, the highest.
    """
    if len(np.unique(target)) < 2:
        return math.nan
    # In float32 the next number after a probability would compare as equal to it.
    probability = np.asarray(probability, np.float64)
    false, true, thresholds = sk.roc_curve(target, probability, drop_intermediate=False)
    best = int(np.argmax(true - false))
    if best == 0:
        # No threshold beats calling nothing positive.
        return math.nextafter(float(probability.max()), math.inf)
    below = probability[probability < thresholds[best]]
    return float((thresholds[best] + (below.max() if len(below) else thresholds[best])) / 2)


def binary(target: np.ndarray, probability: np.ndarray, threshold: float) -> dict[str, float]:
    """Return ROC-AUC, and accuracy, balanced accuracy, sensitivity and specificity at a threshold.

    Args:
      target: [n], 0 or 1.
      probability: [n], of class 1.
      threshold: at or above it is class 1.
    """
    probability = np.asarray(probability, np.float64)
    # As scikit-learn has them, whose checks of its arguments took nine tenths of a bootstrap.
    true, called = np.asarray(target) == 1, probability >= threshold
    tp, fn, fp, tn = (
        int((a & b).sum()) for a, b in ((true, called), (true, ~called), (~true, called), (~true, ~called))
    )
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    return {
        "roc_auc": _auc(true, probability),
        "accuracy": _share(tp + tn, len(target)),
        "balanced_accuracy": (sensitivity + specificity) / 2,
        "sensitivity": sensitivity,
        "specificity": specificity,
    }


def multiclass(target: np.ndarray, probability: np.ndarray) -> dict[str, float]:
    """Return ROC-AUC (one class against the rest, mean over classes), accuracy and balanced accuracy.

    Args:
      target: [n], class indices.
      probability: [n, k], rows sum to 1.
    """
    classes = np.arange(probability.shape[1])
    guess = probability.argmax(-1)
    complete = len(np.unique(target)) == len(classes)
    if complete:
        one_hot = target[:, None] == classes
        auc = float(np.mean([_auc(one_hot[:, c], probability[:, c]) for c in classes]))
    return {
        "roc_auc": auc if complete else math.nan,
        "accuracy": float(sk.accuracy_score(target, guess)),
        "balanced_accuracy": float(sk.recall_score(target, guess, labels=np.unique(target), average="macro")),
    }


def regression(target: np.ndarray, prediction: np.ndarray, training_mean: float) -> dict[str, float]:
    """Return MAE, RMSE, Pearson's r, R2, and the MAE of predicting the training mean, in the target's unit.

    Args:
      target, prediction: [n].
      training_mean: mean target of the training fold.
    """
    varied = len(target) > 1 and np.ptp(target) > 0
    return {
        "mae": float(np.abs(target - prediction).mean()),
        "rmse": float(np.sqrt(np.square(target - prediction).mean())),
        "r": float(np.corrcoef(target, prediction)[0, 1]) if varied and np.ptp(prediction) > 0 else math.nan,
        "r2": float(1 - np.square(target - prediction).sum() / np.square(target - target.mean()).sum())
        if varied
        else math.nan,
        "mae_of_mean": float(np.abs(target - training_mean).mean()),
    }


def undefined_reason(name: str, kind: str, target: np.ndarray, classes: Sequence[str], *, where: str = "fold") -> str:
    """Say why a metric is undefined on these targets [n], which are those of a fold or group."""
    if kind == "regression":
        return f"{name} is undefined: the {len(target)} targets or the predictions do not differ"
    present = [classes[int(c)] for c in np.unique(target)]
    return f"{name} is undefined: the {where} holds {' and '.join(present)} only, of {', '.join(classes)}"


def _auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the share of pairs of a positive and a negative that are in order, ties counting half; NaN without any."""
    n = int(positive.sum())
    pairs = n * (len(positive) - n)
    return float(rankdata(score)[positive].sum() - n * (n + 1) / 2) / pairs if pairs else math.nan


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan
