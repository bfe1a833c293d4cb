"""Backbones with the light decoders of masked modelling: MAE (He et al. 2022) and SimMIM (Xie et al. 2022)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError
from jaxneuro.models import layers, transformer
from jaxneuro.models.convolution import Triple
from jaxneuro.models.nit import MiNiT, NiT
from jaxneuro.models.swin import Swin
from jaxneuro.models.vit import ViT, positions
from jaxneuro.patches import unpatchify


class MAEDecoder(nn.Module):
    """Rebuild all patches [b, n, voxels] from encoded tokens [b, 1 + k, c]: the class token, then the patches kept."""

    grid: Triple
    width: int
    depth: int
    heads: int
    mlp_ratio: float
    voxels: int
    qkv_bias: bool
    epsilon: float
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, tokens: jax.Array, keep: jax.Array, train: bool) -> jax.Array:
        b, n = tokens.shape[0], math.prod(self.grid)
        dense = layers.Dense(
            self.width, layers.EMBED_TO_MLP, initial=layers.SMALL_NORMAL, dtype=self.dtype, name="embed"
        )
        x = dense(tokens)
        init = layers.annotate(layers.SMALL_NORMAL.kernel, layers.POSITION_TABLE)
        token = self.param("mask_token", init, (1, 1, self.width), jnp.float32).astype(self.dtype)
        patches = jnp.broadcast_to(token, (b, n, self.width)).at[jnp.arange(b)[:, None], keep].set(x[:, 1:])
        x = jnp.concatenate([x[:, :1], patches], axis=1)
        x = x + positions(self, "sincos", self.grid, self.width, True).astype(self.dtype)
        block = nn.remat(transformer.Block, static_argnums=(2,)) if self.remat else transformer.Block  # 2 is train
        for i in range(self.depth):
            x = block(
                self.heads,
                self.width // self.heads,
                int(self.mlp_ratio * self.width),
                qkv_bias=self.qkv_bias,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train)
        x = layers.LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        return layers.Dense(self.voxels, layers.EMBED_TO_OUTPUTS, initial=layers.SMALL_NORMAL, name="pred")(x[:, 1:])


class MaskedAutoencoder(nn.Module):
    """Rebuild volumes from a few of their patches: (predictions [b, n, voxels], the encoder's features).

    Only the patches `keep` [b, k] (their numbers, each once) are encoded. Predictions are of all patches, laid out as
    by `patchify`. Raises InputError for an encoder without a class token, or for widths that do not go together.
    Source: He et al. 2022; in 3D, Chen et al. 2023.
    """

    encoder: ViT
    decoder_width: int = 192
    decoder_depth: int = 2
    decoder_heads: int = 6
    decoder_mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if isinstance(self.encoder, ViT) and not self.encoder.class_token:
            raise InputError("MaskedAutoencoder: found class_token=False; expected an encoder with a class token")
        heads, width = self.decoder_heads, self.decoder_width
        if heads < 1 or width < 1 or width % heads or width % 6:
            raise InputError(
                f"MaskedAutoencoder: found decoder_width {width}; expected a multiple of 6 and of decoder_heads {heads}"
            )
        super().__post_init__()

    def more_inputs(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and dtypes of what it takes beside the volumes, with a quarter of the patches kept."""
        return {"keep": jax.ShapeDtypeStruct((batch_size, max(math.prod(self.encoder.grid()) // 4, 1)), jnp.int32)}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, *, keep: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        encoder = self.encoder
        _, features = encoder(x, train, keep=keep)
        decoder = MAEDecoder(
            encoder.grid(),
            self.decoder_width,
            self.decoder_depth,
            self.decoder_heads,
            self.decoder_mlp_ratio,
            math.prod(encoder.patch_size) * encoder.in_channels,
            encoder.qkv_bias,
            encoder.epsilon,
            encoder.remat,
            encoder.dtype,
            name="decoder",
        )
        return decoder(features["tokens"], keep, train), features


class SimMIM(nn.Module):
    """Rebuild volumes [b, d, h, w, c] whose hidden patches a learned token replaces: (volumes, the encoder's features).

    `mask` [b, d', h', w'] is 1 where a patch is hidden. The decoder is one linear layer from the encoder's last map to
    the voxels under each of its tokens (no transposed convolution). Source: Xie et al. 2022, in 3D.
    """

    encoder: ViT | Swin | NiT | MiNiT

    def more_inputs(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return shapes and dtypes of what it takes beside the volumes."""
        return {"mask": jax.ShapeDtypeStruct((batch_size, *self.encoder.patches()), jnp.float32)}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, *, mask: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        encoder = self.encoder
        width = encoder.embed if isinstance(encoder, Swin) else encoder.width
        token = self.param("mask_token", layers.SMALL_NORMAL.kernel, (width,), jnp.float32)
        _, features = encoder(x, train, masked=(mask, token))
        stride, channels = encoder.stride(), x.shape[-1]
        dense = layers.Dense(
            math.prod(stride) * channels, layers.EMBED_TO_OUTPUTS, initial=layers.SMALL_NORMAL, name="decoder"
        )
        y = dense(features["map"])
        b, grid = y.shape[0], y.shape[1:4]
        # A channel's voxels lie together: PixelShuffle's order, c r^3 + r_d r^2 + r_h r + r_w.
        y = jnp.moveaxis(y.reshape(b, math.prod(grid), channels, math.prod(stride)), 2, 3)
        y = unpatchify(y.reshape(b, math.prod(grid), -1), stride, grid)  # type: ignore[arg-type]
        # Where the encoder padded the volume, the end is cut off.
        return y[:, : x.shape[1], : x.shape[2], : x.shape[3]], features
