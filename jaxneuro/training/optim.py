"""Optimisers and learning-rate schedules by name (paper section 3.2: SGD, Adam, Adam with weight decay; cosine)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxneuro.errors import InputError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES: dict[str, Callable[[float, int, int], optax.Schedule]] = {
    "constant": lambda peak, warmup, total: optax.warmup_constant_schedule(0.0 if warmup else peak, peak, warmup),
    "cosine": lambda peak, warmup, total: optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, max(total, warmup + 1)
    ),
}


def build(
    *,
    name: str,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    clip: float = 0.0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return an optimiser and its learning rate by step.

    Args:
      name: "sgd" (with Nesterov momentum), "adam" (decay added to the gradient, as torch's Adam) or "adamw"
        (decoupled decay).
      learning_rate: its peak.
      schedule: "constant" or "cosine", after a linear warm-up from 0.
      warmup_steps, total_steps: lengths in steps.
      weight_decay: decay of parameters with two or more axes; norms and biases are not decayed.
      momentum: of SGD.
      clip: largest global norm of the gradient; 0 leaves it as it is.

    Raises:
      InputError: an unknown name or schedule, or a rate or decay out of range.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"optimizer.name: found '{name}'; expected one of {list(OPTIMIZERS)}")
    if schedule not in SCHEDULES:
        raise InputError(f"optimizer.schedule: found '{schedule}'; expected one of {sorted(SCHEDULES)}")
    if not learning_rate > 0 or weight_decay < 0 or clip < 0:
        raise InputError(
            f"optimizer: found learning_rate={learning_rate}, weight_decay={weight_decay}, clip={clip}; "
            "expected a rate above 0, the others 0 or more"
        )
    rate = SCHEDULES[schedule](learning_rate, warmup_steps, total_steps)
    parts = [optax.clip_by_global_norm(clip)] if clip else []
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    if name == "adamw":
        parts.append(optax.adamw(rate, weight_decay=weight_decay, mask=decayed))
    elif name == "adam":
        parts.append(optax.adam(rate))
    else:
        parts.append(optax.sgd(rate, momentum=momentum, nesterov=True))
    return optax.chain(*parts), rate


def decayed(params: Any) -> Any:
    """Return True for every parameter with two or more axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)
