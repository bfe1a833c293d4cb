"""The order of a network's parameters from input to output, for learning rates that fall towards the input."""

import flax.linen as nn

from jaxneuro.errors import InputError
from jaxneuro.models.densenet import DenseNet
from jaxneuro.models.masked import MaskedAutoencoder, SimMIM
from jaxneuro.models.nit import MiNiT, NiT
from jaxneuro.models.swin import Swin
from jaxneuro.models.vit import ViT

_FIRST = ("patch_embed", "positions", "block_embeddings", "cls_token", "distill_token", "conv0", "norm0")
_LAST = ("head", "distill")


def layers_in(model: nn.Module) -> int:
    """Return how many layers a model has: its input, its blocks, and its head or decoder.

    Raises:
      InputError: a model of another kind than those in `models.MODELS`.
    """
    return len(_layers(model))


def layer_of(model: nn.Module, path: str) -> int:
    """Return the layer of one of a model's parameters, from 0 at the input to `layers_in(model) - 1` at the output.

    Patches, positions, class tokens and stems are 0. Each transformer block, and each dense block with its transition,
    is one more; a stage's merging belongs to the stage's last block, and so does the last norm. Heads, decoders and
    mask tokens are the last. Source: Clark et al. 2020; Bao et al. 2022 (where the last norm counts with the head).

    Args:
      model: a network of `models.build`.
      path: of the parameter, without its collection, such as `stage1/block0/attn/qkv/kernel`.

    Raises:
      InputError: a path that is not in any layer, or a model of another kind than those in `models.MODELS`.
    """
    layers = _layers(model)
    for i, names in enumerate(layers):
        if any(path == name or path.startswith(f"{name}/") for name in names):
            return i
    raise InputError(
        f"layer order: found the parameter '{path}'; expected one of {type(model).__name__} below "
        f"{', '.join(layers[0][:1] + layers[1][:1])}, ..., {layers[-1][-1]}; add its name to models/order.py"
    )


def _layers(model: nn.Module) -> list[list[str]]:
    """Return what the paths of each layer begin with, in order."""
    if isinstance(model, SimMIM | MaskedAutoencoder):
        layers = [[f"encoder/{name}" for name in names] for names in _layers(model.encoder)]
        layers[-1] += ["mask_token", "decoder"]
        return layers
    layers = [list(_FIRST)]
    if isinstance(model, ViT):
        layers += [[f"block{i}"] for i in range(model.depth)]
        layers[-1].append("norm")
    elif isinstance(model, NiT | MiNiT):
        layers += [[f"encoder/block{i}"] for i in range(model.depth)]
    elif isinstance(model, Swin):
        for s, depth in enumerate(model.depths):
            layers += [[f"stage{s}/block{i}"] for i in range(depth)]
            layers[-1].append(f"stage{s}/merge")
        layers[-1].append("norm")
    elif isinstance(model, DenseNet):
        layers += [[f"denseblock{i}", f"transition{i}"] for i in range(1, len(model.block_sizes) + 1)]
        layers[-1].append("norm5")
    else:
        raise InputError(
            f"layer order: found a model of kind {type(model).__name__}; expected DenseNet, Swin, ViT, NiT, MiNiT, or "
            "one of them with a decoder; add its layers to models/order.py"
        )
    return [*layers, list(_LAST)]
