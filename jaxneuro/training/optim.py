"""Optimisers and learning-rate schedules by name (paper section 3.2: SGD, Adam, Adam with weight decay; cosine).

Fine-tuning freezes parameters by name, and lets rates fall from layer to layer towards the input. A parameter is known
by its path, such as `stage1/block0/attn/qkv/kernel`, whether it still carries its logical axes (when a state is made)
or not (in a step).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxneuro.errors import InputError

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES: dict[str, Callable[[float, float, int, int], optax.Schedule]] = {
    "constant": lambda peak, final, warmup, total: optax.warmup_constant_schedule(
        0.0 if warmup else peak, peak, warmup
    ),
    "cosine": lambda peak, final, warmup, total: optax.warmup_cosine_decay_schedule(
        0.0 if warmup else peak, peak, warmup, max(total, warmup + 1), final * peak
    ),
}

#: Last names of parameters that are never decayed, whatever their axes: biases (that of queries, keys and values has
#: three), tables of positions, tokens, and Swin's table of relative positions.
NOT_DECAYED = ("bias", "positions", "block_embeddings", "cls_token", "mask_token", "distill_token", "table")


def build(
    *,
    name: str,
    learning_rate: float,
    schedule: str,
    warmup_steps: int,
    total_steps: int,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    clip: float = 0.0,
    final_rate: float = 0.0,
    layer_decay: float = 1.0,
    freeze: tuple[str, ...] = (),
    layer_of: Callable[[str], int] | None = None,
    layers: int = 0,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Return an optimiser and its learning rate by step.

    The optimiser's `init` raises InputError for a pattern of `freeze` that names no parameter, and where nothing is
    left to train.

    Args:
      name: "sgd" (with Nesterov momentum), "adam" (decay added to the gradient, as torch's Adam) or "adamw"
        (decoupled decay).
      learning_rate: its peak.
      schedule: "constant" or "cosine", after a linear warm-up from 0.
      warmup_steps, total_steps: lengths in steps.
      weight_decay: decay of kernels (`decayed`).
      momentum: of SGD.
      beta1, beta2: of Adam and AdamW, how slowly the means of the gradient and of its square change.
      clip: largest global norm of the gradient of what is not frozen; 0 leaves it as it is.
      final_rate: share of the peak at which the cosine ends.
      layer_decay: updates of a layer, their decay with them, are multiplied by this for each layer that comes after it
        (Clark et al. 2020); 1 treats all alike.
      freeze: regular expressions; a parameter with one of them in its path never changes and has no moments.
      layer_of, layers: the layer of a path, from 0, and how many there are (`models.order`); for `layer_decay`.

    Raises:
      InputError: an unknown name or schedule, a number out of range, or a pattern that is no regular expression.
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
    if not (0 <= beta1 < 1 and 0 <= beta2 < 1 and 0 <= final_rate <= 1):
        raise InputError(
            f"optimizer: found beta1={beta1}, beta2={beta2}, final_rate={final_rate}; "
            "expected betas from 0 to below 1, a share from 0 to 1"
        )
    if not 0 < layer_decay <= 1 or (layer_decay < 1 and (layer_of is None or layers < 1)):
        raise InputError(
            f"optimizer.layer_decay: found {layer_decay} for {layers} layers; expected above 0 and at most 1, and a "
            "network with layers for less than 1; try 0.75, or 1 for one rate"
        )
    rate = SCHEDULES[schedule](learning_rate, final_rate, warmup_steps, total_steps)
    parts = [optax.clip_by_global_norm(clip)] if clip else []
    if weight_decay and name != "adamw":
        parts.append(optax.add_decayed_weights(weight_decay, mask=decayed))
    if name == "adamw":
        parts.append(optax.adamw(rate, beta1, beta2, weight_decay=weight_decay, mask=decayed))
    elif name == "adam":
        parts.append(optax.adam(rate, beta1, beta2))
    else:
        parts.append(optax.sgd(rate, momentum=momentum, nesterov=True))
    if layer_decay < 1 and layer_of is not None:
        parts.append(_by_layer(layer_decay, layer_of, layers))
    optimizer = optax.chain(*parts)
    return (_frozen(optimizer, freeze) if freeze else optimizer), rate


def decayed(params: Any) -> Any:
    """Return for every parameter whether weight decay acts on it: two or more axes, and none of `NOT_DECAYED`."""
    return _map(lambda path, p: _value(p).ndim > 1 and path.split("/")[-1] not in NOT_DECAYED, params)


def _by_layer(decay: float, layer_of: Callable[[str], int], layers: int) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        return _map(lambda path, u: u * decay ** (layers - 1 - layer_of(path)), updates)

    return optax.stateless(scale)


def _frozen(optimizer: optax.GradientTransformation, freeze: tuple[str, ...]) -> optax.GradientTransformation:
    """Let an optimiser see only what no pattern of `freeze` names, and leave the rest as it is."""
    if isinstance(freeze, str):
        raise InputError(f"optimizer.freeze: found '{freeze}'; expected a list of patterns; try ('{freeze}',)")
    for pattern in freeze:
        try:
            re.compile(pattern)
        except re.error as e:
            raise InputError(
                f"optimizer.freeze: found '{pattern}', which is no regular expression ({e}); expected one such as "
                "'^patch_embed/'"
            ) from e

    def named(params: Any) -> Any:
        paths = jax.tree.leaves(_map(lambda path, _: path, params))
        tree = _map(lambda path, _: any(re.search(pattern, path) for pattern in freeze), params)
        some = f"there are {len(paths)} parameters, such as {', '.join(paths[:: -(-len(paths) // 5)])}"
        for pattern in freeze:
            if not any(re.search(pattern, path) for path in paths):
                raise InputError(
                    f"optimizer.freeze: found '{pattern}', which is in no parameter's path; expected a regular "
                    f"expression that is; {some}"
                )
        if all(jax.tree.leaves(tree)):
            raise InputError(
                f"optimizer.freeze: found {list(freeze)}, which freeze all; expected something left to train; {some}"
            )
        return tree

    def others(params: Any) -> Any:
        return jax.tree.map(lambda frozen: not frozen, named(params))

    return optax.chain(optax.masked(optimizer, others), optax.masked(optax.set_to_zero(), named))


def _map(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Return function(path, leaf) for each parameter of nested dicts, one that carries its axes as one leaf."""
    # With the axes inside, a mask would put its placeholder in them, which has no shape to place on a mesh.
    return jax.tree.map_with_path(
        lambda keys, leaf: function("/".join(str(k.key) for k in keys), leaf), tree, is_leaf=_boxed
    )


def _boxed(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _value(leaf: Any) -> Any:
    return leaf.value if _boxed(leaf) else leaf
