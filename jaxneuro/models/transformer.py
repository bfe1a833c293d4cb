"""The parts that every transformer here is built from: windows, patches, attention, feed-forward layer, block."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.models import layers
from jaxneuro.models.attention import attend, weights
from jaxneuro.models.convolution import Triple


def to_windows(x: Any, window: Triple, xp: Any = jnp) -> Any:
    """Cut x [b, d, h, w, c] into windows [b, windows, tokens, c]."""
    b, c = x.shape[0], x.shape[-1]
    split = [n for size, w in zip(x.shape[1:4], window, strict=True) for n in (size // w, w)]
    x = xp.transpose(xp.reshape(x, (b, *split, c)), (0, 1, 3, 5, 2, 4, 6, 7))
    return xp.reshape(x, (b, split[0] * split[2] * split[4], math.prod(window), c))


def from_windows(x: jax.Array, window: Triple, grid: Triple) -> jax.Array:
    """Join windows [b, windows, tokens, c] into [b, d, h, w, c]."""
    b, c = x.shape[0], x.shape[-1]
    d, h, w = (n // k for n, k in zip(grid, window, strict=True))
    x = x.reshape(b, d, h, w, *window, c).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, *grid, c)


def hide(x: jax.Array, masked: tuple[jax.Array, jax.Array] | None) -> jax.Array:
    """Put a token [c] in the place of the patches of x [b, d, h, w, c] that a mask [b, d, h, w] hides."""
    if masked is None:
        return x
    mask = masked[0][..., None].astype(x.dtype)
    return x * (1 - mask) + masked[1].astype(x.dtype) * mask


class PatchEmbed(nn.Module):
    """Cut x [b, d, h, w, c] into patches and map each to a token [b, d/pd, h/ph, w/pw, features].

    The end of an axis that the patch does not divide is padded with zeros. With `norm` each token is normalised.
    Parameters: proj, a convolution whose kernel is its stride (torch's Conv3d, or a Linear over each flattened patch).
    """

    features: int
    patch_size: Triple
    norm: bool = False
    initial: layers.Init = layers.TORCH_DEFAULT
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        ends = [(0, -n % p) for n, p in zip(x.shape[1:4], self.patch_size, strict=True)]
        x = jnp.pad(x, [(0, 0), *ends, (0, 0)])
        conv = layers.Conv(
            self.features, self.patch_size, self.patch_size, initial=self.initial, dtype=self.dtype, name="proj"
        )
        x = conv(x)
        return layers.LayerNorm(dtype=self.dtype, name="norm")(x) if self.norm else x


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of x [..., n, c]; gives [..., n, c].

    `bias` [heads, n, n] is added to the scaled products before the softmax, which is float32; with `region`
    [windows, n], of x [..., windows, n, c], so is -100 between tokens of two regions.
    Parameters: qkv kernel [c, 3, heads, head_width] and bias, proj kernel [heads, head_width, c] and bias; heads are
    an axis of their own so that a mesh can split them. With mutable=["intermediates"], `apply` gives the softmax as
    `weights` besides. Source: Vaswani et al. 2017.
    """

    num_heads: int
    head_width: int
    qkv_bias: bool = True
    drop_rate: float = 0.0
    initial: layers.Init = layers.SMALL_NORMAL
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, bias: jax.Array | None = None, region: Any = None) -> jax.Array:
        width = x.shape[-1]
        features = (3, self.num_heads, self.head_width)
        qkv = layers.Dense(
            features, layers.EMBED_TO_QKV, use_bias=self.qkv_bias, initial=self.initial, dtype=self.dtype, name="qkv"
        )(x)
        if self.is_mutable_collection("intermediates"):  # never, unless `apply` is asked for that collection
            self.sow("intermediates", "weights", weights(qkv, bias, region))
        x = attend(qkv, bias, region, whole=layers.spread())
        x = layers.Dense(width, layers.HEADS_TO_EMBED, contract=2, initial=self.initial, dtype=self.dtype, name="proj")(
            x
        )
        return dropout(self, x, self.drop_rate, train)


class Mlp(nn.Module):
    """Feed-forward layer on x [..., c]: c -> hidden -> c with an exact GELU; dropout after both."""

    hidden: int
    drop_rate: float = 0.0
    initial: layers.Init = layers.SMALL_NORMAL
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        x = layers.Dense(self.hidden, layers.EMBED_TO_MLP, initial=self.initial, dtype=self.dtype, name="fc1")(x)
        x = dropout(self, jax.nn.gelu(x, approximate=False), self.drop_rate, train)
        x = layers.Dense(width, layers.MLP_TO_EMBED, initial=self.initial, dtype=self.dtype, name="fc2")(x)
        return dropout(self, x, self.drop_rate, train)


class Block(nn.Module):
    """Pre-norm transformer block on tokens x [b, n, c]: x + attention(norm(x)), then x + mlp(norm(x)).

    `drop_path` is the chance that a sample skips each of the two in training.
    """

    num_heads: int
    head_width: int
    mlp_hidden: int
    qkv_bias: bool = True
    drop_rate: float = 0.0
    drop_path: float = 0.0
    epsilon: float = 1e-5
    initial: layers.Init = layers.SMALL_NORMAL
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        attention = Attention(
            self.num_heads, self.head_width, self.qkv_bias, self.drop_rate, self.initial, self.dtype, name="attn"
        )
        mlp = Mlp(self.mlp_hidden, self.drop_rate, self.initial, self.dtype, name="mlp")
        y = attention(layers.LayerNorm(self.epsilon, self.dtype, name="norm1")(x), train)
        x = x + drop_path(self, y, self.drop_path, train)
        y = mlp(layers.LayerNorm(self.epsilon, self.dtype, name="norm2")(x), train)
        return x + drop_path(self, y, self.drop_path, train)


def dropout(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Set single values of x to zero with chance `rate` in training, and scale up the others; key: stream `dropout`."""
    if rate == 0.0 or not train:
        return x
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)


def drop_path(module: nn.Module, x: jax.Array, rate: float, train: bool) -> jax.Array:
    """Set whole samples of x [b, ...] to zero with chance `rate` in training, and scale up the others.

    The key is the module's `dropout` stream. Source: Huang et al. 2016 (stochastic depth).
    """
    if rate == 0.0 or not train:
        return x
    kept = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, (x.shape[0], *(1,) * (x.ndim - 1)))
    return jnp.where(kept, x / (1.0 - rate), 0).astype(x.dtype)


def sincos_positions(grid: Triple, width: int, class_token: bool) -> jax.Array:
    """Return fixed positions [1, tokens, width] of a grid of patches, zeros for a class token before them.

    A third of the features for each axis (height, depth, width), half of them sines, half cosines, of frequencies
    10000^(-i / (width/6)). Source: He et al. 2022, in 3D as Chen et al. 2023 (SelfMedMAE) and MONAI lay it out.

    Raises:
      ValueError: width is no multiple of 6.
    """
    if width % 6:
        raise ValueError(f"sincos positions: width {width} is not a multiple of 6")
    depth, height, last = jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in grid), indexing="ij")
    omega = 10000.0 ** -(jnp.arange(width // 6, dtype=jnp.float32) / (width // 6))
    waves = [steps.reshape(-1, 1) * omega for steps in (height, depth, last)]
    table = jnp.concatenate([f(w) for w in waves for f in (jnp.sin, jnp.cos)], axis=1)
    if class_token:
        table = jnp.concatenate([jnp.zeros((1, width)), table])
    return table[None]
