"""Backbones by name: volumes [b, d, h, w, c] in, (outputs [b, k], named features) out."""

import dataclasses
from typing import Any

import flax.linen as nn

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
    return builder(**{**preset, **keywords})


__all__ = ["MODELS", "build"]
