"""Backbones by name: volumes [b, d, h, w, c] in, (outputs [b, k], named features) out."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError
from jaxneuro.models.densenet import DenseNet

# Name -> (module class, what the preset sets). Every class takes num_outputs, input_size and in_channels.
MODELS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "densenet121": (DenseNet, {"block_sizes": (6, 12, 24, 16), "growth_rate": 32, "stem_features": 64}),
    "densenet121_testing": (DenseNet, {"block_sizes": (2, 1, 1, 1), "growth_rate": 4, "stem_features": 8}),
    "tiny_densenet": (DenseNet, {"block_sizes": (6, 12, 16), "growth_rate": 16, "stem_features": 64}),
    "tiny_densenet_testing": (DenseNet, {"block_sizes": (2, 1, 1), "growth_rate": 4, "stem_features": 8}),
}


def build(name: str, **keywords: Any) -> nn.Module:
    """Build the backbone `name`; keywords win over its preset.

    Every model takes num_outputs, input_size (depth, height, width in voxels), in_channels and dtype (of
    the computation; parameters and outputs stay float32). Raises InputError for an unknown name or keyword,
    listing the known ones, and for an input_size that is too small, saying which size works.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: known are {', '.join(sorted(MODELS))}")
    builder, preset = MODELS[name]
    known = [field.name for field in dataclasses.fields(builder) if field.name not in ("parent", "name")]
    unknown = [keyword for keyword in keywords if keyword not in known]
    if unknown:
        raise InputError(f"unknown keyword {', '.join(unknown)} for {name!r}: known are {', '.join(known)}")
    defaults = {field.name: field.default for field in dataclasses.fields(builder)}
    for keyword, value in keywords.items():
        if not _fits(value, preset.get(keyword, defaults[keyword])):
            expected = preset.get(keyword, defaults[keyword])
            raise InputError(f"{name}: found {keyword}={value!r}; expected something like {expected!r}")
    return builder(**{**preset, **keywords})


def _fits(value: Any, default: Any) -> bool:
    """Say whether a value is of the kind of the default: a whole number, a number, a word, a list of such."""
    if default is None or default is dataclasses.MISSING or callable(default):
        return True  # a dtype, a module, or something optional: the class itself knows
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and all(_fits(v, default[0]) for v in value if default)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


def inputs(model: nn.Module, batch_size: int = 1) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Return shapes and dtypes of what a model takes before `train`: the volumes [b, d, h, w, c]."""
    return (jax.ShapeDtypeStruct((batch_size, *model.input_size, model.in_channels), jnp.float32),)


__all__ = ["MODELS", "build", "inputs"]
