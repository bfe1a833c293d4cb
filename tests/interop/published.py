"""Files in each of the published layouts, made from the references with random weights, small."""

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass

from tests.models import minit_torch, test_densenet_parity, test_swin_parity, test_vit_parity
from tests.models.test_nit_parity import PUBLISHED as SINGLA
from tests.torch_reference import monai_nets, randomised, torch


def _same(value):
    return value


@dataclass(frozen=True)
class Published:
    """A reference, the form of its file, and the model of ours that it is.

    Attributes:
      make: makes the torch network, every weight random.
      layout: of the file.
      model: our model's name.
      settings: its keywords.
      size: of the volumes.
      rename: the reference's names to those in the file.
      wrap: tensors to what the file holds.
    """

    make: Callable
    layout: str
    model: str
    settings: dict
    size: tuple
    rename: Callable = _same
    wrap: Callable = _same

    def tensors(self, module):
        """Return the tensors by the names that they have in the file."""
        return {self.rename(k): v for k, v in module.state_dict().items()}

    def save(self, module, path):
        """Write the file as it is published."""
        torch.save(self.wrap(self.tensors(module)), path)
        return path


def _video_swin(name, norm="norm"):
    name = re.sub(r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.", name)
    name = re.sub(r"^features\.(\d+)\.(norm|reduction)", lambda m: f"layers.{int(m[1]) // 2}.downsample.{m[2]}", name)
    name = name.replace("mlp.0", "mlp.fc1").replace("mlp.3", "mlp.fc2")
    name = re.sub(r"^norm\.", f"{norm}.", name)
    return re.sub(r"^head\.", "cls_head.fc_cls.", name)


def _mmaction2(name):
    return _video_swin(name, "norm3")


def _recogniser(tensors):
    named = {k if k.startswith("cls_head") else f"backbone.{k}": v for k, v in tensors.items()}
    return {"meta": {"epoch": 30}, "state_dict": named, "optimizer": {}}


def _yaware(name):
    return name.replace(".layers.", ".").replace("class_layers.out", "classifier")


def _mae(name):
    for ours, theirs in {
        "mask_tokens": "mask_token",
        "decoder_pos_embedding": "decoder_pos_embed",
        "patch_embedding.position_embeddings": "pos_embed",
        "patch_embedding.patch_embeddings": "patch_embed.proj",
        "attn.out_proj": "attn.proj",
        "mlp.linear": "mlp.fc",
        "decoder_blocks.1.weight": "decoder_norm.weight",
        "decoder_blocks.1.bias": "decoder_norm.bias",
    }.items():
        name = name.replace(ours, theirs)
    return re.sub(r"^blocks\.2\.(weight|bias)", r"norm.\1", name)


def _swin():
    return randomised(test_swin_parity.reference("swin_t_testing", channels=3, outputs=4))


def _densenet():
    settings = test_densenet_parity.REFERENCES["densenet121_testing"]
    return randomised(monai_nets.DenseNet(spatial_dims=3, in_channels=1, out_channels=2, **settings))


def _vit():
    return test_vit_parity.vit("vit_b16_testing", (16, 24, 16))[0]


def _autoencoder():
    return test_vit_parity.mae("vit_b16_testing", (16, 24, 16))[0]


class TimmAutoencoder(torch.nn.Module):
    """MONAI's autoencoder with timm's names and epsilon: no unused norms, a position for the class token, of zeros."""

    def __init__(self):
        super().__init__()
        self.inner = _autoencoder()
        for module in self.inner.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-6

    def state_dict(self):
        found = {_mae(k): v for k, v in self.inner.state_dict().items() if "norm_cross_attn" not in k}
        for name in ("pos_embed", "decoder_pos_embed"):
            found[name] = torch.cat([torch.zeros_like(found[name][:, :1]), found[name]], dim=1)
        return found

    def forward(self, x):
        return self.inner(x)


def _minit():
    return randomised(minit_torch.MINiT(image_size=32, num_classes=2, **SINGLA["minit_testing"]))


def _nit():
    return randomised(minit_torch.NiT(image_size=32, num_classes=2, **SINGLA["nit_testing"]))


def _trained(tensors):
    return {"epoch": 100, "model_state_dict": tensors, "optimizer_state_dict": {}}


_SWIN = {"in_channels": 3, "num_outputs": 4}
_MAE = {"qkv_bias": False, "positions": "sincos"}
_CUBE, _BRICK = (32, 32, 32), (16, 24, 16)

#: Name -> file, with the settings that a user types.
FILES = {
    "torchvision": Published(_swin, "torchvision", "swin_t_testing", _SWIN, _BRICK),
    "video_swin": Published(_swin, "video_swin", "swin_t_testing", _SWIN, _BRICK, _video_swin, _recogniser),
    "mmaction2": Published(_swin, "mmaction2", "swin_t_testing", _SWIN, _BRICK, _mmaction2, _recogniser),
    "monai-densenet": Published(_densenet, "monai", "densenet121_testing", {"num_outputs": 2}, _CUBE),
    "yaware": Published(
        _densenet,
        "yaware",
        "densenet121_testing",
        {"num_outputs": 2},
        _CUBE,
        _yaware,
        lambda t: {"epoch": 9, "model": t},
    ),
    "monai-vit": Published(_vit, "monai", "vit_b16_testing", {}, _BRICK),
    "monai-mae": Published(_autoencoder, "monai", "vit_b16_mae_testing", _MAE, _BRICK),
    "mae": Published(
        TimmAutoencoder,
        "mae",
        "vit_b16_mae_testing",
        {**_MAE, "epsilon": 1e-6},
        _BRICK,
        wrap=lambda t: {"model": t, "args": argparse.Namespace(epochs=800), "epoch": 799},
    ),
    "minit": Published(_minit, "minit", "minit_testing", {"num_outputs": 2}, _CUBE, wrap=_trained),
    "nit": Published(_nit, "minit", "nit_testing", {"num_outputs": 2}, _CUBE, wrap=_trained),
}
