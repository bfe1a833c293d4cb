"""Vision transformer (Dosovitskiy et al. 2021) on patches of a volume."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxneuro.errors import InputError
from jaxneuro.models import layers, transformer
from jaxneuro.models.convolution import Triple

POSITIONS = ("learned", "sincos")
POOLS = ("class", "mean")


def grid_of(kind: str, size: Triple, patch: Triple) -> Triple:
    """Return how many patches lie along each axis of a volume of `size`.

    Raises:
      InputError: a patch does not divide an axis, naming the nearest size that works, or is no patch.
    """
    if len(patch) != 3 or min(patch) < 1:
        raise InputError(f"{kind}: found patches of {tuple(patch)} voxels; expected three sizes of 1 or more")
    if len(size) != 3 or any(n < 1 or n % p for n, p in zip(size, patch, strict=True)):
        near = tuple(max(round(n / p), 1) * p for n, p in zip((*size, *patch), patch, strict=False))
        raise InputError(
            f"{kind}: found input_size {tuple(size)}; expected three multiples of {tuple(patch)}, such as {near}"
        )
    return tuple(n // p for n, p in zip(size, patch, strict=True))  # type: ignore[return-value]


def hidden_width(model: "ViT") -> int:
    """Return the hidden width of a model's feed-forward layers."""
    return int(model.mlp_ratio * model.width) if model.mlp_hidden is None else model.mlp_hidden


def positions(module: nn.Module, kind: str, grid: Triple, width: int, class_token: bool) -> jax.Array:
    """Make the parameter `positions` [1, tokens, width]: learned, or fixed sines and cosines.

    The fixed ones are a parameter too, for published checkpoints carry them; no gradient reaches them.
    """
    shape = (1, math.prod(grid) + class_token, width)
    if kind == "learned":
        init = layers.annotate(layers.SMALL_NORMAL.kernel, layers.POSITION_TABLE)
        return module.param("positions", init, shape, jnp.float32)

    def fixed(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return transformer.sincos_positions(grid, width, class_token)

    return lax.stop_gradient(
        module.param("positions", layers.annotate(fixed, layers.POSITION_TABLE), shape, jnp.float32)
    )


class ViT(nn.Module):
    """Map volumes [b, d, h, w, in_channels] to (float32 outputs [b, num_outputs], named features).

    Features: block0.. and tokens [b, n, width] (after the last norm, class token first), map [b, d', h', w', width],
    pooled [b, width], which is the class token or, with `pool` "mean", the mean of the others. `positions` are
    "learned" or "sincos" (fixed); `mlp_hidden` sets the hidden width of the feed-forward layers outright. `masked` =
    (mask [b, d', h', w'] of patches, 1 where hidden, token [width]) puts the token in the place of hidden patches
    (SimMIM); `keep` [b, k], numbers of patches, encodes those alone (MAE; then there is no map). num_outputs 0 leaves
    out the head and gives `pooled`. Raises InputError for a size that the patch does not divide and for keywords that
    do not go together. Source: Dosovitskiy et al. 2021.
    """

    num_outputs: int = 1
    input_size: Triple = (80, 80, 80)
    in_channels: int = 1
    patch_size: Triple = (16, 16, 16)
    width: int = 300
    depth: int = 6
    heads: int = 12
    mlp_ratio: float = 4.0
    mlp_hidden: int | None = None
    qkv_bias: bool = True
    class_token: bool = True
    positions: str = "learned"
    pool: str = "class"
    drop_rate: float = 0.0
    drop_path: float = 0.0
    epsilon: float = 1e-5
    head_hidden: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        grid_of("ViT", self.input_size, self.patch_size)
        if self.heads < 1 or self.width < 1 or self.width % self.heads:
            raise InputError(f"ViT: found width {self.width} for {self.heads} heads; expected a multiple of the heads")
        if not isinstance(hidden_width(self), int) or hidden_width(self) < 1:
            raise InputError(
                f"ViT: found mlp_hidden {self.mlp_hidden} and mlp_ratio {self.mlp_ratio} for width {self.width}; "
                "expected a whole number, or a ratio, that gives a hidden layer of 1 or more"
            )
        if self.positions not in POSITIONS or (self.positions == "sincos" and self.width % 6):
            raise InputError(
                f"ViT: found positions '{self.positions}' for width {self.width}; expected learned, or sincos with a "
                "width that is a multiple of 6"
            )
        if self.pool not in POOLS or (self.pool == "class" and not self.class_token):
            raise InputError(
                f"ViT: found pool '{self.pool}' with class_token={self.class_token}; expected mean, or class with one"
            )
        super().__post_init__()

    def grid(self) -> Triple:
        """Return how many patches lie along each axis of the volume."""
        return grid_of("ViT", self.input_size, self.patch_size)

    patches = grid  # by the name that it has in models with blocks, too

    def patch(self) -> Triple:
        """Return the size of a patch along each axis of the volume."""
        return self.patch_size

    stride = patch  # how many voxels lie under a token

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool,
        masked: tuple[jax.Array, jax.Array] | None = None,
        keep: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        expected = (*self.input_size, self.in_channels)
        if x.ndim != 5 or x.shape[1:] != expected:
            raise InputError(f"ViT: expected volumes [b, {', '.join(map(str, expected))}], found {x.shape}")
        b, grid = x.shape[0], self.grid()
        x = transformer.PatchEmbed(self.width, self.patch_size, dtype=self.dtype, name="patch_embed")(x)
        x = transformer.hide(x, masked)
        x = x.reshape(b, -1, self.width)
        place = positions(self, self.positions, grid, self.width, self.class_token).astype(self.dtype)
        x = x + place[:, int(self.class_token) :]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        if self.class_token:
            init = layers.annotate(layers.SMALL_NORMAL.kernel, layers.POSITION_TABLE)
            token = self.param("cls_token", init, (1, 1, self.width), jnp.float32).astype(self.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token + place[:, :1], (b, 1, self.width)), x], axis=1)
        x = transformer.dropout(self, x, self.drop_rate, train)
        features: dict[str, jax.Array] = {}
        block = nn.remat(transformer.Block, static_argnums=(2,)) if self.remat else transformer.Block  # 2 is train
        for i in range(self.depth):
            x = features[f"block{i}"] = block(
                self.heads,
                self.width // self.heads,
                hidden_width(self),
                qkv_bias=self.qkv_bias,
                drop_rate=self.drop_rate,
                drop_path=self.drop_path * i / max(self.depth - 1, 1),
                epsilon=self.epsilon,
                dtype=self.dtype,
                name=f"block{i}",
            )(x, train)
        x = features["tokens"] = layers.LayerNorm(self.epsilon, self.dtype, name="norm")(x)
        patches = x[:, int(self.class_token) :]
        if keep is None:
            features["map"] = patches.reshape(b, *grid, self.width)
        pooled = x[:, 0].astype(jnp.float32) if self.pool == "class" else layers.global_mean_pool(patches)
        outputs = features["pooled"] = pooled
        if self.num_outputs:
            head = layers.Head(self.num_outputs, self.head_hidden, layers.SMALL_NORMAL, name="head")
            outputs = head(pooled)
        return outputs, features
