"""The torch networks to compare with: those that the parity tests compare with, in the fastest form that they have.

`describe` says in plain values what a backbone of ours is in torch; `build` makes it, in the process that has torch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

Description = dict[str, Any]


def describe(model: Any) -> Description:
    """Return what a backbone of ours, of cubes, one channel and one output, is in torch: `kind` and its keywords.

    Raises:
      ValueError: torch has nothing to compare it with.
    """
    from jaxneuro.models import densenet, nit, swin, vit  # a process of torch's loads no jax

    if isinstance(model, swin.Swin):
        return {
            "kind": "swin", "patch_size": model.patch_size, "embed_dim": model.embed, "depths": model.depths,
            "num_heads": model.heads, "window_size": model.window,
        }  # fmt: skip
    if isinstance(model, densenet.DenseNet):
        return {
            "kind": "densenet", "init_features": model.stem_features, "growth_rate": model.growth_rate,
            "block_config": model.block_sizes,
        }  # fmt: skip
    if isinstance(model, vit.ViT):
        return {
            "kind": "vit", "img_size": model.input_size, "patch_size": model.patch_size, "hidden_size": model.width,
            "mlp_dim": vit.hidden_width(model), "num_layers": model.depth, "num_heads": model.heads,
        }  # fmt: skip
    if isinstance(model, nit.NiT | nit.MiNiT):
        return {
            "kind": type(model).__name__.lower(), "image_size": model.input_size, "patch_size": model.patch_size,
            "dim": model.width, "depth": model.depth, "heads": model.heads, "dim_head": model.head_width,
            "mlp_dim": model.mlp_hidden, **({"block_size": model.block_size} if isinstance(model, nit.MiNiT) else {}),
        }  # fmt: skip
    raise ValueError(f"found {type(model).__name__}; expected one of the six backbones")


def build(kind: str, **settings: Any) -> Any:
    """Return a torch module that maps volumes [b, 1, d, h, w] to logits [b, 1]."""
    return {"swin": _swin, "densenet": _densenet, "vit": _vit, "nit": _nit, "minit": _minit}[kind](**settings)


def logits(outputs: Any) -> Any:
    """Return the logits [b] of what a reference gives: MONAI's ViT gives its hidden states besides."""
    return (outputs[0] if isinstance(outputs, tuple) else outputs)[:, 0]


def _swin(**settings: Any) -> Any:
    from tests.torch_reference import torchvision_swin

    return torchvision_swin.SwinTransformer3d(
        patch_embed=partial(torchvision_swin.PatchEmbed3d, in_channels=1),
        num_classes=1,
        stochastic_depth_prob=0.0,
        **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
    )


def _densenet(**settings: Any) -> Any:
    from tests.torch_reference import monai_nets

    return monai_nets.DenseNet(spatial_dims=3, in_channels=1, out_channels=1, **settings)


def _vit(**settings: Any) -> Any:
    from tests.torch_reference import monai_nets

    model = monai_nets.ViT(
        in_channels=1, classification=True, num_classes=1, post_activation=None, qkv_bias=True, **settings
    )
    blocks: Any = model.blocks
    for block in blocks:
        block.attn.use_flash_attention = True  # MONAI's own switch, which its ViT has no keyword for
    return model


def _nit(**settings: Any) -> Any:
    from tools.benchmarking.singla import NiT

    return NiT(num_classes=1, **settings)


def _minit(**settings: Any) -> Any:
    from tools.benchmarking.singla import MINiT

    return MINiT(num_classes=1, **settings)
