"""What an objective is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

Batch = dict[str, jax.Array]


class Objective(NamedTuple):
    """An objective and how its progress is judged.

    A batch has `volume` [b, d, h, w, c] as the network is to see it, with `views` 2 also `second`, another view of the
    same volumes; the columns `labels` [b] float32, NaN where unknown; and `valid` [b], False for padding, which only
    evaluation has.

    Attributes:
      loss: `loss(apply, params, batch_stats, batch, key) -> (scalar, (metrics, batch_stats))`, pure, in training mode.
      evaluate: `evaluate(apply, variables, batch, key) -> values [b, k]` of each sample, pure, in evaluation mode:
        predictions in the target's unit, or losses.
      score: values [n, k] and labels (name to [n]) on the host to validation metrics; NaN where undefined.
      metric: name of the score that chooses the best checkpoint.
      mode: "max" or "min", the better direction of `metric`.
      views: how many independently drawn views of each volume it looks at.
      labels: the label columns that it reads.
      predict: outputs [b, k] to predictions in the target's unit (probabilities, years); None where there is no target.
      pictures: `pictures(apply, variables, batch, key)` -> volumes [b, d, h, w, c] by name, to look at; or None.
      whole_batch: whether the loss compares samples with each other, so that a batch cannot be taken in parts.
    """

    loss: Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]
    evaluate: Callable[..., jax.Array]
    score: Callable[[np.ndarray, dict[str, np.ndarray]], dict[str, float]]
    metric: str
    mode: str
    views: int = 1
    labels: tuple[str, ...] = ()
    predict: Callable[[jax.Array], jax.Array] | None = None
    pictures: Callable[..., dict[str, jax.Array]] | None = None
    whole_batch: bool = False
