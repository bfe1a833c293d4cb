"""Backbones by name: volumes [b, d, h, w, c] in, (outputs [b, k], named features) out."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError
from jaxneuro.models.densenet import DenseNet
from jaxneuro.models.masked import MaskedAutoencoder, SimMIM
from jaxneuro.models.nit import MiNiT, NiT
from jaxneuro.models.swin import Swin
from jaxneuro.models.vit import ViT


class Preset(NamedTuple):
    """What a name stands for: a class and what is set; for a decoder, the backbone that it is put on, too."""

    builder: type[nn.Module]
    settings: Mapping[str, Any] = MappingProxyType({})
    encoder: str = ""


_VIT_768, _VIT_LARGE, _VIT_HUGE = ({"width": w, "heads": h} for w, h in ((768, 12), (1024, 16), (1280, 16)))
_VIT_TESTING = {"width": 24, "heads": 4, "depth": 2, "patch_size": (8, 8, 8)}
_DECODER_TESTING = {"decoder_width": 12, "decoder_depth": 1, "decoder_heads": 2}
_NIT_TESTING = {"width": 16, "depth": 2, "heads": 2, "head_width": 8, "mlp_hidden": 20}
_SWIN_TESTING = {"embed": 12, "depths": (2, 2), "heads": (2, 4), "window": (4, 3, 3)}

#: Every backbone by name.
MODELS: dict[str, Preset] = {
    "densenet121": Preset(DenseNet, {"block_sizes": (6, 12, 24, 16), "growth_rate": 32, "stem_features": 64}),
    "densenet121_testing": Preset(DenseNet, {"block_sizes": (2, 1, 1, 1), "growth_rate": 4, "stem_features": 8}),
    "tiny_densenet": Preset(DenseNet, {"block_sizes": (6, 12, 16), "growth_rate": 16, "stem_features": 64}),
    "tiny_densenet_testing": Preset(DenseNet, {"block_sizes": (2, 1, 1), "growth_rate": 4, "stem_features": 8}),
    "swin_t": Preset(Swin),
    "swin_s": Preset(Swin, {"depths": (2, 2, 18, 2)}),
    "swin_b": Preset(Swin, {"depths": (2, 2, 18, 2), "embed": 128, "heads": (4, 8, 16, 32)}),
    "swin_t_testing": Preset(Swin, _SWIN_TESTING),
    "swin_t_simmim": Preset(SimMIM, encoder="swin_t"),
    "swin_s_simmim": Preset(SimMIM, encoder="swin_s"),
    "swin_b_simmim": Preset(SimMIM, encoder="swin_b"),
    "swin_t_simmim_testing": Preset(SimMIM, encoder="swin_t_testing"),
    "vit_b16": Preset(ViT, {"width": 300, "heads": 12, "depth": 6}),
    "vit_b16_w768": Preset(ViT, {**_VIT_768, "depth": 6}),
    "vit_b16_l12": Preset(ViT, {**_VIT_768, "depth": 12}),
    "vit_l16": Preset(ViT, {**_VIT_LARGE, "depth": 24}),
    "vit_h16": Preset(ViT, {**_VIT_HUGE, "depth": 32}),
    "vit_b16_testing": Preset(ViT, _VIT_TESTING),
    "vit_b16_mae": Preset(MaskedAutoencoder, encoder="vit_b16"),
    "vit_b16_w768_mae": Preset(MaskedAutoencoder, {"decoder_width": 384}, encoder="vit_b16_w768"),
    "vit_b16_l12_mae": Preset(MaskedAutoencoder, {"decoder_width": 384}, encoder="vit_b16_l12"),
    "vit_l16_mae": Preset(MaskedAutoencoder, {"decoder_width": 384}, encoder="vit_l16"),
    "vit_h16_mae": Preset(MaskedAutoencoder, {"decoder_width": 384}, encoder="vit_h16"),
    "vit_b16_mae_testing": Preset(MaskedAutoencoder, _DECODER_TESTING, encoder="vit_b16_testing"),
    "vit_b16_simmim": Preset(SimMIM, encoder="vit_b16"),
    "vit_b16_w768_simmim": Preset(SimMIM, encoder="vit_b16_w768"),
    "vit_b16_l12_simmim": Preset(SimMIM, encoder="vit_b16_l12"),
    "vit_l16_simmim": Preset(SimMIM, encoder="vit_l16"),
    "vit_h16_simmim": Preset(SimMIM, encoder="vit_h16"),
    "vit_b16_simmim_testing": Preset(SimMIM, encoder="vit_b16_testing"),
    "nit": Preset(NiT),
    "nit_testing": Preset(NiT, _NIT_TESTING),
    "nit_simmim": Preset(SimMIM, encoder="nit"),
    "nit_simmim_testing": Preset(SimMIM, encoder="nit_testing"),
    "minit": Preset(MiNiT),
    "minit_b20": Preset(MiNiT, {"block_size": (20, 20, 20), "patch_size": (5, 5, 5)}),
    "minit_testing": Preset(MiNiT, {**_NIT_TESTING, "depth": 3}),
    "minit_simmim": Preset(SimMIM, encoder="minit"),
    "minit_simmim_testing": Preset(SimMIM, encoder="minit_testing"),
}


#: What the computation may be in.
DTYPES = ("float32", "bfloat16", "float16")


def _whole(value: Any, least: int = 1) -> bool:
    return type(value) is int and value >= least


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(value: Any, least: int = 1) -> bool:
    return isinstance(value, list | tuple) and all(_whole(v, least) for v in value)


def _dtype(value: Any) -> bool:
    try:
        return jnp.dtype(value).name in DTYPES
    except TypeError:
        return False


#: Keywords -> (whether a value fits, what is expected). All others are as their defaults: see `_expected`.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(
        ("input_size", "patch_size", "block_size", "window"),
        (lambda v: _list(v) and len(v) == 3, "three whole numbers of 1 or more"),
    ),
    **dict.fromkeys(
        ("drop_rate", "drop_path", "embed_drop_rate"),
        (lambda v: _number(v) and 0 <= v < 1, "at least 0 and less than 1"),
    ),
    # Evaluation counts in steps of 1 / p.
    "layer_drop": (lambda v: _number(v) and (v == 0 or 1e-6 < v < 1), "at least 0 and less than 1"),
    **dict.fromkeys(
        ("num_outputs", "time_axis", "depth", "decoder_depth"), (lambda v: _whole(v, 0), "a whole number of 0 or more")
    ),
    "depths": (lambda v: _list(v, 0) and len(v) > 0, "whole numbers of 0 or more"),
    "mlp_hidden": (lambda v: v is None or _whole(v), "a whole number of 1 or more"),
    "head_hidden": (_list, "whole numbers of 1 or more, or ()"),
    "dtype": (_dtype, f"one of {', '.join(DTYPES)}"),
}


def _expected(keyword: str, default: Any) -> tuple[Callable[[Any], bool], str]:
    """Return whether a value of a keyword fits, and what is expected, from its default where no table says it."""
    if keyword in _VALUES:
        return _VALUES[keyword]
    if isinstance(default, tuple):
        return lambda v: _list(v) and len(v) > 0, "whole numbers of 1 or more"
    if isinstance(default, float):
        return lambda v: _number(v) and v > 0, "a number above 0"
    if type(default) is int:
        return _whole, "a whole number of 1 or more"
    return lambda v: type(v) is type(default), "True or False" if isinstance(default, bool) else "a word"


def build(name: str, /, **keywords: Any) -> nn.Module:
    """Build the model `name`; keywords win over its preset.

    Every model takes input_size (depth, height, width in voxels), in_channels and dtype (of the computation;
    parameters and outputs stay float32); every one but those with a decoder, which take their backbone's keywords
    too, num_outputs. Raises InputError for an unknown name or keyword, listing the known ones, for a value that no
    model can take, and for an input_size that this one cannot serve, saying which it can.
    """
    if name not in MODELS:
        raise InputError(f"unknown model {name!r}: known are {', '.join(sorted(MODELS))}")
    builder, preset, encoder = MODELS[name]
    own = _defaults(builder)
    inner = {k: v for k, v in _defaults(MODELS[encoder].builder).items() if k != "num_outputs"} if encoder else {}
    known = {**inner, **own}
    known.pop("encoder", None)
    if unknown := [keyword for keyword in keywords if keyword not in known]:
        raise InputError(f"unknown keyword {', '.join(unknown)} for {name!r}: known are {', '.join(known)}")
    for keyword, value in keywords.items():
        example = preset.get(keyword, known[keyword])
        fits, expected = _expected(keyword, example)
        if not fits(value):
            like = "" if keyword == "dtype" else f", such as {example!r}"
            raise InputError(f"{name}: found {keyword}={value!r}; expected {expected}{like}")
    keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in keywords.items()}
    if encoder:
        within = {k: keywords.pop(k) for k in list(keywords) if k in inner}
        keywords["encoder"] = build(encoder, **within).copy(num_outputs=0)
    return builder(**{**preset, **keywords})


def _defaults(builder: type[nn.Module]) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(builder) if field.name not in ("parent", "name")}


def inputs(model: Any, batch_size: int = 1) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and dtypes of what a model takes beside `train`: volumes x [b, d, h, w, c], and masks if any."""
    backbone = getattr(model, "encoder", model)
    x = jax.ShapeDtypeStruct((batch_size, *backbone.input_size, backbone.in_channels), jnp.float32)
    return {"x": x, **(model.more_inputs(batch_size) if hasattr(model, "more_inputs") else {})}


__all__ = ["MODELS", "Preset", "build", "inputs"]
