"""What an objective is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Objective(NamedTuple):
    """An objective and how its progress is judged.

    Attributes:
      loss: `loss(apply, params, batch_stats, batch, key) -> (scalar, (metrics, batch_stats))`, pure.
      predict: outputs [b, k] to predictions [b, k] in the target's unit (probabilities, years), pure.
      score: predictions [n, k] and targets [n] on the host to validation metrics; NaN where undefined.
      metric: name of the score that chooses the best checkpoint.
      mode: "max" or "min", the better direction of `metric`.
    """

    loss: Callable[..., tuple[jax.Array, tuple[dict[str, jax.Array], Any]]]
    predict: Callable[[jax.Array], jax.Array]
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    metric: str
    mode: str
