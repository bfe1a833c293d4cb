"""NiT and MiNiT (Singla et al. 2022): transformers on patches of a brain, of the whole or of each block alone."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError
from jaxneuro.models import layers, transformer
from jaxneuro.models.convolution import Triple
from jaxneuro.models.vit import grid_of

# Tokens and positions begin as N(0, 1), as published.
_unit_normal = layers.annotate(nn.initializers.normal(1.0), layers.POSITION_TABLE)


class NormHead(nn.Module):
    """Map class tokens [b, c] to float32 outputs [b, k]: LayerNorm, hidden layers if any, Linear."""

    num_outputs: int
    hidden: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = layers.LayerNorm(name="norm")(x)
        for i, width in enumerate(self.hidden):
            x = nn.relu(layers.Dense(width, initial=layers.TORCH_DEFAULT, name=f"hidden{i}")(x))
        return layers.Dense(self.num_outputs, layers.EMBED_TO_OUTPUTS, initial=layers.TORCH_DEFAULT, name="out")(x)


class BlockHead(nn.Module):
    """Map class tokens of all blocks [b, blocks, c] to float32 outputs [b, k]: of each block, then a Linear of all."""

    num_outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        each = layers.Dense(self.num_outputs, layers.EMBED_TO_OUTPUTS, initial=layers.TORCH_DEFAULT, name="block")
        x = each(layers.LayerNorm(name="norm")(x)).reshape(x.shape[0], -1)
        return layers.Dense(self.num_outputs, layers.EMBED_TO_OUTPUTS, initial=layers.TORCH_DEFAULT, name="out")(x)


class Encoder(nn.Module):
    """Run transformer blocks over tokens [..., n, c], without biases on queries, keys and values.

    With `layer_drop` p, training skips each block with chance p, for the whole batch; evaluation always skips blocks 1,
    1 + 1/p, 1 + 2/p, ..., as the published network does and its weights expect.
    """

    depth: int
    heads: int
    head_width: int
    mlp_hidden: int
    drop_rate: float
    layer_drop: float
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        block = nn.remat(transformer.Block, static_argnums=(2,)) if self.remat else transformer.Block  # 2 is train
        never = range(1, self.depth, round(1 / self.layer_drop)) if self.layer_drop and not train else ()
        for i in range(self.depth):
            y = block(
                self.heads,
                self.head_width,
                self.mlp_hidden,
                qkv_bias=False,
                drop_rate=self.drop_rate,
                initial=layers.TORCH_DEFAULT,
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train)
            if self.layer_drop and train:
                # Chosen, not branched on: a branch would hide the cost and the memory that a step must have.
                x = jnp.where(jax.random.bernoulli(self.make_rng("dropout"), self.layer_drop), x, y)
            elif i not in never:
                x = y
        return x


class NiT(nn.Module):
    """Map volumes [b, d, h, w, in_channels] to (float32 outputs [b, num_outputs], named features).

    Features: tokens [b, 1 + n, width] (class token first), map [b, d', h', w', width], pooled [b, width] (the class
    token). Its distillation token and head take no part in any computation, but are in the published weights and their
    count. `masked` = (mask [b, d', h', w'] of patches, 1 where hidden, token [width]) puts the token in the place of
    hidden patches (SimMIM). num_outputs 0 leaves out both heads and the distillation token, and gives `pooled`. Raises
    InputError for a size that the patch does not divide, or of 16 patches or fewer. Source: Singla et al. 2022.
    """

    num_outputs: int = 1
    input_size: Triple = (80, 80, 80)
    in_channels: int = 1
    patch_size: Triple = (8, 8, 8)
    width: int = 256
    depth: int = 4
    heads: int = 8
    head_width: int = 32
    mlp_hidden: int = 234
    drop_rate: float = 0.315
    embed_drop_rate: float = 0.0862
    head_hidden: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if math.prod(self.grid()) <= 16:
            raise InputError(
                f"NiT: found input_size {tuple(self.input_size)}, {math.prod(self.grid())} patches of "
                f"{tuple(self.patch_size)}; expected more than 16; take smaller patches"
            )
        super().__post_init__()

    def grid(self) -> Triple:
        """Return how many patches lie along each axis of the volume."""
        return grid_of("NiT", self.input_size, self.patch_size)

    patches = grid  # by the name that it has in models with blocks, too

    def patch(self) -> Triple:
        """Return how many voxels a patch has along each axis of the volume."""
        return self.patch_size

    stride = patch  # how many voxels lie under a token

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, masked: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        _check("NiT", x, self.input_size, self.in_channels)
        b, grid = x.shape[0], self.grid()
        x = transformer.PatchEmbed(self.width, self.patch_size, dtype=self.dtype, name="patch_embed")(x)
        x = transformer.hide(x, masked)
        token = self.param("cls_token", _unit_normal, (1, 1, self.width), jnp.float32).astype(self.dtype)
        place = self.param("positions", _unit_normal, (1, math.prod(grid) + 1, self.width), jnp.float32)
        x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, self.width)), x.reshape(b, -1, self.width)], axis=1)
        x = transformer.dropout(self, x + place.astype(self.dtype), self.embed_drop_rate, train)
        x = Encoder(
            self.depth,
            self.heads,
            self.head_width,
            self.mlp_hidden,
            self.drop_rate,
            0.0,
            self.remat,
            self.dtype,
            name="encoder",
        )(x, train)
        pooled = x[:, 0].astype(jnp.float32)
        features = {"tokens": x, "map": x[:, 1:].reshape(b, *grid, self.width), "pooled": pooled}
        if not self.num_outputs:
            return pooled, features
        unused = self.param("distill_token", _unit_normal, (1, 1, self.width), jnp.float32)
        NormHead(self.num_outputs, name="distill")(unused[:, 0])
        return NormHead(self.num_outputs, self.head_hidden, name="head")(pooled), features


class MiNiT(nn.Module):
    """Map volumes [b, d, h, w, in_channels] to (float32 outputs [b, num_outputs], named features).

    A small transformer sees each block of the volume alone, told apart by block embeddings; the outputs of all blocks
    go through one Linear; `head_hidden` instead gives `pooled` a head with hidden layers, as for contrastive
    pre-training. Features: tokens [b, blocks, 1 + n, width] (class tokens first), map [b, d', h', w', width] of all
    patches of the volume, pooled [b, width], the mean of the class tokens. `masked` = (mask [b, d', h', w'] of all
    patches of the volume, 1 where hidden, token [width]) puts the token in the place of hidden patches (SimMIM).
    num_outputs 0 leaves out the head and gives `pooled`. `layer_drop` 0.25 is what the published weights need
    (`Encoder`). Raises InputError for a size that the block does not divide, or a block that the patch does not.
    Source: Singla et al. 2022.
    """

    num_outputs: int = 1
    input_size: Triple = (80, 80, 80)
    in_channels: int = 1
    block_size: Triple = (16, 16, 16)
    patch_size: Triple = (4, 4, 4)
    width: int = 256
    depth: int = 6
    heads: int = 8
    head_width: int = 32
    mlp_hidden: int = 309
    drop_rate: float = 0.07
    embed_drop_rate: float = 0.016
    layer_drop: float = 0.0
    head_hidden: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        self.grid()
        self.blocks()
        if not 0 <= self.layer_drop < 1:
            raise InputError(f"MiNiT: found layer_drop {self.layer_drop}; expected at least 0 and less than 1")
        super().__post_init__()

    def blocks(self) -> Triple:
        """Return how many blocks lie along each axis of the volume."""
        return grid_of("MiNiT", self.input_size, self.block_size)

    def grid(self) -> Triple:
        """Return how many patches lie along each axis of a block."""
        block, patch = tuple(self.block_size), tuple(self.patch_size)
        if len(block) != 3 or len(patch) != 3 or min(block + patch) < 1 or any(map(int.__mod__, block, patch)):
            sides = [k for k in range(1, min(block, default=0) + 1) if math.gcd(*block) % k == 0]
            raise InputError(
                f"MiNiT: found patch_size {patch} in block_size {block}; expected a patch that divides the block along "
                f"each of three axes; take {f'a cube of side {sides}' if sides else 'block_size (16, 16, 16)'}"
            )
        return block[0] // patch[0], block[1] // patch[1], block[2] // patch[2]

    def patches(self) -> Triple:
        """Return how many patches lie along each axis of the volume."""
        return grid_of("MiNiT", self.input_size, self.patch_size)

    def patch(self) -> Triple:
        """Return how many voxels a patch has along each axis of the volume."""
        return self.patch_size

    stride = patch  # how many voxels lie under a token

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, masked: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        _check("MiNiT", x, self.input_size, self.in_channels)
        b, blocks, n = x.shape[0], math.prod(self.blocks()), math.prod(self.grid())
        x = transformer.PatchEmbed(self.width, self.patch_size, dtype=self.dtype, name="patch_embed")(x)
        x = transformer.hide(x, masked)
        whole = self.patches()
        token = self.param("cls_token", _unit_normal, (1, 1, self.width), jnp.float32).astype(self.dtype)
        place = self.param("positions", _unit_normal, (1, n + 1, self.width), jnp.float32)
        place = place + self.param("block_embeddings", _unit_normal, (blocks, n + 1, self.width), jnp.float32)
        x = jnp.concatenate(
            [jnp.broadcast_to(token, (b, blocks, 1, self.width)), transformer.to_windows(x, self.grid())], axis=2
        )
        x = transformer.dropout(self, x + place.astype(self.dtype), self.embed_drop_rate, train)
        x = Encoder(
            self.depth,
            self.heads,
            self.head_width,
            self.mlp_hidden,
            self.drop_rate,
            self.layer_drop,
            self.remat,
            self.dtype,
            name="encoder",
        )(x, train)
        tokens = x[:, :, 0].astype(jnp.float32)
        pooled = tokens.mean(1)
        features = {"tokens": x, "map": transformer.from_windows(x[:, :, 1:], self.grid(), whole), "pooled": pooled}
        if not self.num_outputs:
            return pooled, features
        if self.head_hidden:
            return NormHead(self.num_outputs, self.head_hidden, name="head")(pooled), features
        return BlockHead(self.num_outputs, name="head")(tokens), features


def _check(kind: str, x: jax.Array, size: Triple, channels: int) -> None:
    expected = (*size, channels)
    if x.ndim != 5 or x.shape[1:] != expected:
        raise InputError(f"{kind}: expected volumes [b, {', '.join(map(str, expected))}], found {x.shape}")
