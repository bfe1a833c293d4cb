"""The layouts that weights are published in: for each, one table from our parameter paths to torch's names.

Written from the names in the published files: Video-Swin-Transformer, mmaction2, torchvision, MONAI,
yAwareContrastiveLearning, MINIT, MAE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.interop import transforms
from jaxneuro.interop.transforms import Transform
from jaxneuro.models.swin import relative_index

#: Pattern of our paths -> (template of torch's name, transform).
Names = dict[str, tuple[str, Transform]]
#: End of a name -> (end of the name beside it, a fresh value from the array beside).
Unused = Mapping[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]


class Setting(NamedTuple):
    """What a layout's networks compute with and no weight shows.

    Attributes:
      value: of the model's keyword.
      when: "always"; "head", where the model has a head that does not begin afresh; or "out", on the way out alone.
      hint: what to do about another value; by default to set this one.
    """

    value: Any
    when: str = "always"
    hint: str = ""


def _unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors


@dataclass(frozen=True)
class Layout:
    """One published layout, for one model.

    Attributes:
      names: our paths, as regular expressions -> (torch's name, as a template of the groups; how values change).
        `{s}` is a group, `{s_even}` and `{s_odd}` are twice its number and one more.
      head: torch's names of a head, as a regular expression.
      unused: tensors that no computation uses, and that go back bit for bit: the end of their names -> (the end of the
        name that each stands beside, its values in a fresh network: from the array beside).
      computed: torch's buffers that follow from the model's settings.
      windows: the windows that such a buffer of a file may be the index of; none where it is no index.
      settings: keywords of the model -> what its networks compute with and no weight shows.
      hints: torch's names, as regular expressions -> what to say where such a tensor has no place.
      wrap: how a published file wraps the tensors.
      fold: our leaves before they go out, where the layout cannot hold them as they are.
    """

    names: Names
    head: str
    unused: Unused = field(default_factory=dict)
    computed: dict[str, np.ndarray] = field(default_factory=dict)
    windows: Callable[[np.ndarray], list[tuple[int, int, int]]] = lambda index: []
    settings: dict[str, Setting] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    wrap: Callable[[dict[str, Any]], dict[str, Any]] = _unwrapped
    fold: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda leaves: leaves

    def name(self, path: str) -> tuple[str, Transform] | None:
        """Return torch's name of one of our leaves and how its values change, None where there is no place for it."""
        for pattern, (template, transform) in self.names.items():
            if found := re.fullmatch(pattern, path):
                groups = found.groupdict()
                twice = {f"{k}_{p}": 2 * int(v) + o for k, v in groups.items() for p, o in (("even", 0), ("odd", 1))}
                return template.format(**groups, **twice), transform
        return None


def layout(model: Any, source: str) -> Layout:
    """Return the layout `source` for a model.

    Raises:
      InputError: no such layout, or none for this model; names those that there are.
    """
    if source not in LAYOUTS:
        raise InputError(f"found the layout '{source}'; expected one of {', '.join(sorted(LAYOUTS))}")
    kind = type(model).__name__
    if kind not in LAYOUTS[source]:
        fit = sorted(name for name, of in LAYOUTS.items() if kind in of)
        raise InputError(
            f"layout '{source}': found a model of kind {kind}; expected {' or '.join(LAYOUTS[source])}; "
            f"layouts of {kind}: {', '.join(fit) or 'none'}"
        )
    return LAYOUTS[source][kind](model)


def _dense(ours: str, theirs: str, inputs: int = 1) -> Names:
    weight = (f"{theirs}.weight", transforms.dense(inputs))
    return {f"params/{ours}/kernel": weight, f"params/{ours}/bias": (f"{theirs}.bias", transforms.FLAT)}


def _conv(ours: str, theirs: str) -> Names:
    return {
        f"params/{ours}/kernel": (f"{theirs}.weight", transforms.CONV),
        f"params/{ours}/bias": (f"{theirs}.bias", transforms.SAME),
    }


def _norm(ours: str, theirs: str) -> Names:
    same = transforms.SAME
    return {
        f"params/{ours}/scale": (f"{theirs}.weight", same),
        f"params/{ours}/bias": (f"{theirs}.bias", same),
        f"batch_stats/{ours}/mean": (f"{theirs}.running_mean", same),
        f"batch_stats/{ours}/var": (f"{theirs}.running_var", same),
    }


def _block(
    ours: str, theirs: str, *, norms: tuple[str, str], attention: tuple[str, str], mlp: tuple[str, str]
) -> Names:
    """Return the names of one transformer block: its two norms, qkv and projection, two layers of the MLP."""
    return {
        **_norm(f"{ours}/norm1", f"{theirs}.{norms[0]}"),
        **_norm(f"{ours}/norm2", f"{theirs}.{norms[1]}"),
        **_dense(f"{ours}/attn/qkv", f"{theirs}.{attention[0]}"),
        **_dense(f"{ours}/attn/proj", f"{theirs}.{attention[1]}", inputs=2),
        **_dense(f"{ours}/mlp/fc1", f"{theirs}.{mlp[0]}"),
        **_dense(f"{ours}/mlp/fc2", f"{theirs}.{mlp[1]}"),
    }


# --- Swin ---------------------------------------------------------------------------------------------------------

_TIME_FIRST = (
    "permute the axes of the volumes so that time comes first, and train with time_axis=0; or export as stablehlo"
)


def windows_of(index: np.ndarray) -> list[tuple[int, int, int]]:
    """Return the windows that have this index of relative positions [n, n]: one, or some that differ by axes of 1."""
    if index.ndim != 2 or not index.size or index.shape[0] != index.shape[1]:
        return []
    n = len(index)
    sides = [k for k in range(1, n + 1) if n % k == 0]
    every = [(d, h, n // d // h) for d in sides for h in sides if n // d % h == 0]
    # From the last token to the first is the largest offset, the last row of the table.
    likely = [w for w in every if math.prod(2 * k - 1 for k in w) == index[-1, 0] + 1]
    return [w for w in likely if np.array_equal(relative_index(w, w, "geometric"), index)]


def _swin(model: Any, *, block: str, merge: str, norm: str, head: str, mlp: tuple[str, str], wrap: Any) -> Layout:
    ours = r"stage(?P<s>\d+)/block(?P<i>\d+)"
    table = r"params/stage(?P<s>\d+)/block(?P<i>\d+)/relative_bias/table"
    names: Names = {
        **_conv("patch_embed/proj", "patch_embed.proj"),
        **_norm("patch_embed/norm", "patch_embed.norm"),
        **_block(ours, block, norms=("norm1", "norm2"), attention=("attn.qkv", "attn.proj"), mlp=mlp),
        table: (f"{block}.attn.relative_position_bias_table", transforms.SAME),
        **_norm(r"stage(?P<s>\d+)/merge/norm", f"{merge}.norm"),
        **_dense(r"stage(?P<s>\d+)/merge/reduction", f"{merge}.reduction"),
        **_norm("norm", norm),
        **_dense("head/out", head),
    }

    def fold(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if model.bias_index != "published" and model.clips():
            raise InputError(
                f"found bias_index '{model.bias_index}' where {model.input_size} clips windows; expected 'published', "
                "for torch's networks compute so; these weights would give other results there"
            )
        return leaves

    # Every block has the index of the whole window, whatever it uses of it.
    whole = relative_index(model.window, model.window, "geometric").astype(np.int64)
    blocks = [(s, i) for s, depth in enumerate(model.depths) for i in range(depth)]
    computed = {f"{block.format(s=s, i=i, s_even=2 * s)}.attn.relative_position_index": whole for s, i in blocks}
    settings = {"time_axis": Setting(0, "out", _TIME_FIRST)}
    head_names = re.escape(head) + r"\..*"
    return Layout(names, head_names, computed=computed, windows=windows_of, settings=settings, wrap=wrap, fold=fold)


def _torchvision_swin(model: Any) -> Layout:
    block, merge = "features.{s_even}.{i}", "features.{s_odd}"
    return _swin(model, block=block, merge=merge, norm="norm", head="head", mlp=("mlp.0", "mlp.3"), wrap=_unwrapped)


def _in_a_recogniser(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"state_dict": {k if k.startswith("cls_head.") else f"backbone.{k}": v for k, v in tensors.items()}}


def _openmmlab_swin(model: Any, norm: str) -> Layout:
    return _swin(
        model,
        block="layers.{s}.blocks.{i}",
        merge="layers.{s}.downsample",
        norm=norm,
        head="cls_head.fc_cls",
        mlp=("mlp.fc1", "mlp.fc2"),
        wrap=_in_a_recogniser,
    )


# --- DenseNets ----------------------------------------------------------------------------------------------------


# How many batches a running statistic saw: torch reads it only where momentum is None, which it is in none of these.
_COUNTS: Unused = {".num_batches_tracked": (".running_mean", lambda mean: np.zeros((), np.int64))}


def _densenet(layer: str, head: Names, head_names: str, wrap: Any) -> Layout:
    dense_layer = r"denseblock(?P<b>\d+)/denselayer(?P<l>\d+)"
    theirs = "features.denseblock{b}.denselayer{l}." + layer
    names: Names = {
        **_conv("conv0", "features.conv0"),
        **_norm("norm0", "features.norm0"),
        **_norm(f"{dense_layer}/norm1", f"{theirs}norm1"),
        **_conv(f"{dense_layer}/conv1", f"{theirs}conv1"),
        **_norm(f"{dense_layer}/norm2", f"{theirs}norm2"),
        **_conv(f"{dense_layer}/conv2", f"{theirs}conv2"),
        **_norm(r"transition(?P<b>\d+)/norm", "features.transition{b}.norm"),
        **_conv(r"transition(?P<b>\d+)/conv", "features.transition{b}.conv"),
        **_norm("norm5", "features.norm5"),
        **head,
    }
    return Layout(names, head_names, unused=_COUNTS, wrap=wrap)


def _monai_densenet(model: Any) -> Layout:
    return _densenet("layers.", _dense("head/out", "class_layers.out"), r"class_layers\..*", _unwrapped)


def _yaware_densenet(model: Any) -> Layout:
    if model.head_hidden:
        head = {**_dense("head/hidden0", "hidden_representation"), **_dense("head/out", "head_projection")}
    else:
        head = _dense("head/out", "classifier")
    heads = r"(classifier|hidden_representation|head_projection)\..*"
    return _densenet("", head, heads, lambda tensors: {"model": tensors})


# --- MiNiT and NiT ------------------------------------------------------------------------------------------------


def _minit_names(model: Any, prefix: str, patch: str) -> Names:
    block = _block(
        r"encoder/block(?P<i>\d+)",
        prefix + "transformer.layers.{i}",
        norms=("0.fn.norm", "1.fn.norm"),
        attention=("0.fn.fn.to_qkv", "0.fn.fn.to_out.0"),
        mlp=("1.fn.fn.net.0", "1.fn.fn.net.3"),
    )
    return {
        **_dense("patch_embed/proj", prefix + patch, inputs=4),
        "params/cls_token": (prefix + "cls_token", transforms.SAME),
        "params/positions": (prefix + "pos_embedding", transforms.SAME),
        **block,
        **_norm("head/norm", prefix + "mlp_head.0"),
    }


def _trained(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"model_state_dict": tensors}


def _minit(model: Any) -> Layout:
    names: Names = {
        **_minit_names(model, "vit.", "to_patch_embedding.1"),
        "params/block_embeddings": ("block_embeddings", transforms.SAME),
        **_dense("head/block", "vit.mlp_head.1"),
        **_dense("head/out", "linear"),
    }
    return Layout(names, r"(vit\.mlp_head|linear)\..*", wrap=_trained)


def _nit(model: Any) -> Layout:
    names: Names = {
        **_minit_names(model, "", "patch_to_embedding"),
        **_dense("head/out", "mlp_head.1"),
        "params/distill_token": ("distill_token", transforms.SAME),
        **_norm("distill/norm", "distill.0"),
        **_dense("distill/out", "distill.1"),
    }
    return Layout(names, r"(mlp_head|distill)\..*|distill_token", wrap=_trained)


# --- ViT and MAE --------------------------------------------------------------------------------------------------

_MONAI_UNUSED: Unused = {
    ".norm_cross_attn.weight": (".norm1.weight", np.ones_like),
    ".norm_cross_attn.bias": (".norm1.bias", np.zeros_like),
}
_TANH = (
    "the file's head ends in a Tanh, which is another function than this model's: make the network with "
    "post_activation=None, or begin a new head: --head fresh"
)
_IS_MAE = (
    "the file holds MONAI's masked autoencoder: convert it into the ViT's autoencoder (vit_..._mae), from which a ViT "
    "can start (init.path)"
)


def _vit_settings(epsilon: float) -> dict[str, Setting]:
    """Both layouts' heads read the class token."""
    return {"epsilon": Setting(epsilon), "pool": Setting("class", "head")}


def _monai_vit(model: Any) -> Layout:
    names = _monai_encoder("", model.class_token)
    names |= {**_norm("norm", "norm"), **_dense("head/out", "classification_head")}
    return Layout(
        names,
        r"classification_head\..*",
        unused=_MONAI_UNUSED,
        settings=_vit_settings(1e-5),
        hints={r"classification_head\.0\..*": _TANH, r"mask_tokens|decoder_.*": _IS_MAE},
        fold=_fold_class_position("params/"),
    )


def _monai_encoder(ours: str, class_token: bool) -> Names:
    positions = transforms.PATCH_POSITIONS if class_token else transforms.SAME
    return {
        **_conv(f"{ours}patch_embed/proj", "patch_embedding.patch_embeddings"),
        f"params/{ours}cls_token": ("cls_token", transforms.SAME),
        f"params/{ours}positions": ("patch_embedding.position_embeddings", positions),
        **_monai_block(rf"{ours}block(?P<i>\d+)", "blocks.{i}"),
    }


def _monai_block(ours: str, theirs: str) -> Names:
    attention, mlp = ("attn.qkv", "attn.out_proj"), ("mlp.linear1", "mlp.linear2")
    return _block(ours, theirs, norms=("norm1", "norm2"), attention=attention, mlp=mlp)


def _monai_mae(model: Any) -> Layout:
    names: Names = {
        **_monai_encoder("encoder/", True),
        **_norm("encoder/norm", f"blocks.{model.encoder.depth}"),
        **_dense("decoder/embed", "decoder_embed"),
        "params/decoder/mask_token": ("mask_tokens", transforms.SAME),
        "params/decoder/positions": ("decoder_pos_embedding", transforms.PATCH_POSITIONS),
        **_monai_block(r"decoder/block(?P<i>\d+)", "decoder_blocks.{i}"),
        **_norm("decoder/norm", f"decoder_blocks.{model.decoder_depth}"),
        **_dense("decoder/pred", "decoder_pred"),
    }

    def fold(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if leaves["params/decoder/positions"][:, 0].any():
            raise InputError(
                "layout 'monai': found a decoder position for the class token that is not zero; MONAI's decoder has "
                "no place for it; choose the layout 'mae'"
            )
        return _fold_class_position("params/encoder/")(leaves)

    return Layout(names, r"decoder_.*", unused=_MONAI_UNUSED, settings={"epsilon": Setting(1e-5)}, fold=fold)


def _fold_class_position(prefix: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """MONAI's class token has no position: ours is added to the token, which is the same function."""

    def fold(leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        token, positions = f"{prefix}cls_token", f"{prefix}positions"
        if token in leaves and leaves[positions][:, 0].any():
            leaves = {**leaves, token: leaves[token] + leaves[positions][:, :1]}
        return leaves

    return fold


def _mae_encoder(ours: str) -> Names:
    return {
        **_conv(f"{ours}patch_embed/proj", "patch_embed.proj"),
        f"params/{ours}cls_token": ("cls_token", transforms.SAME),
        f"params/{ours}positions": ("pos_embed", transforms.SAME),
        **_mae_block(rf"{ours}block(?P<i>\d+)", "blocks.{i}"),
        **_norm(f"{ours}norm", "norm"),
    }


def _mae_block(ours: str, theirs: str) -> Names:
    attention, mlp = ("attn.qkv", "attn.proj"), ("mlp.fc1", "mlp.fc2")
    return _block(ours, theirs, norms=("norm1", "norm2"), attention=attention, mlp=mlp)


def _in_model(tensors: dict[str, Any]) -> dict[str, Any]:
    return {"model": tensors}


def _mae_vit(model: Any) -> Layout:
    # A pre-trained file brings its decoder, which a fresh head replaces.
    head = r"(head|decoder_\w+|mask_token)(\..*)?"
    names = {**_mae_encoder(""), **_dense("head/out", "head")}
    return Layout(names, head, settings=_vit_settings(1e-6), wrap=_in_model)


def _mae(model: Any) -> Layout:
    names: Names = {
        **_mae_encoder("encoder/"),
        **_dense("decoder/embed", "decoder_embed"),
        "params/decoder/mask_token": ("mask_token", transforms.SAME),
        "params/decoder/positions": ("decoder_pos_embed", transforms.SAME),
        **_mae_block(r"decoder/block(?P<i>\d+)", "decoder_blocks.{i}"),
        **_norm("decoder/norm", "decoder_norm"),
        **_dense("decoder/pred", "decoder_pred"),
    }
    return Layout(names, r"decoder_.*", settings={"epsilon": Setting(1e-6)}, wrap=_in_model)


#: Layout -> kind of model (its class) -> the layout of such a model.
LAYOUTS: dict[str, dict[str, Callable[[Any], Layout]]] = {
    "torchvision": {"Swin": _torchvision_swin},
    "video_swin": {"Swin": lambda model: _openmmlab_swin(model, "norm")},
    "mmaction2": {"Swin": lambda model: _openmmlab_swin(model, "norm3")},
    "monai": {"DenseNet": _monai_densenet, "ViT": _monai_vit, "MaskedAutoencoder": _monai_mae},
    "yaware": {"DenseNet": _yaware_densenet},
    "minit": {"MiNiT": _minit, "NiT": _nit},
    "mae": {"ViT": _mae_vit, "MaskedAutoencoder": _mae},
}
