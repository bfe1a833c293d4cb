"""Video Swin transformer (Liu et al. 2022): windows of attention that shift; two of three axes merge on the way."""

import math
from functools import lru_cache
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.models import layers, transformer
from jaxneuro.models.convolution import Triple

BIAS_INDEX = ("published", "geometric")


def clipped(grid: Triple, window: Triple, shift: Triple) -> tuple[Triple, Triple]:
    """Return window and shift for a grid of tokens: an axis not longer than the window has one window, unshifted."""
    small = [n <= w for n, w in zip(grid, window, strict=True)]
    size = tuple(n if s else w for n, w, s in zip(grid, window, small, strict=True))
    moved = tuple(0 if s else m for m, s in zip(shift, small, strict=True))
    return size, moved  # type: ignore[return-value]


@lru_cache
def relative_index(window: Triple, used: Triple, rule: str) -> np.ndarray:
    """Return for each pair of tokens of a window of size `used` [n, n] its row in the table made for `window`.

    Row is the query, column the key; an offset (dz, dy, dx) = query - key has the row
    ((dz + wz - 1) (2 wy - 1) + dy + wy - 1) (2 wx - 1) + dx + wx - 1. With the rule "published", a clipped window takes
    the first n rows and columns of the whole window's index, which are not its offsets: what all published
    implementations do, and what their weights need. "geometric" takes the true offsets.
    """

    def index(size: Triple) -> np.ndarray:
        tokens = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 3)
        offsets = tokens[:, None] - tokens[None] + np.array(window) - 1
        _, wy, wx = (2 * w - 1 for w in window)
        return (offsets[..., 0] * wy + offsets[..., 1]) * wx + offsets[..., 2]

    n = math.prod(used)
    return index(window)[:n, :n] if rule == "published" else index(used)


@lru_cache
def regions(padded: Triple, window: Triple, shift: Triple) -> np.ndarray | None:
    """Return the region of each token of each window [windows, n] after a cyclic shift; None unshifted.

    Tokens of one window in different regions were brought together by the shift alone.
    """
    if not any(shift):
        return None
    region = np.zeros(padded, np.int32)
    for axis, (n, w, s) in enumerate(zip(padded, window, shift, strict=True)):
        if s:
            place = np.arange(n)
            part = (place >= n - w).astype(np.int32) + (place >= n - s)
            region = region * 3 + part.reshape([-1 if a == axis else 1 for a in range(3)])
    return np.asarray(transformer.to_windows(region[None, ..., None], window, np))[0, ..., 0]


class RelativeBias(nn.Module):
    """Look up a bias for each pair of tokens of a window of size `used`: [heads, n, n], or one a share of the batch.

    Parameter: table [(2 wd - 1)(2 wh - 1)(2 ww - 1), heads], made for the whole window whatever part is used.
    """

    num_heads: int
    window: Triple
    rule: str

    @nn.compact
    def __call__(self, used: Triple) -> jax.Array:
        rows = math.prod(2 * w - 1 for w in self.window)
        init = layers.annotate(layers.SMALL_NORMAL.kernel, layers.RELATIVE_TABLE)
        table = self.param("table", init, (rows, self.num_heads), jnp.float32)
        # Summed as tables, not as the biases of all pairs: a quarter of the exchange of a Swin-T.
        table = layers.of_each_share(table, (None, layers.RELATIVE_TABLE[1]))
        return jnp.moveaxis(table[..., relative_index(self.window, used, self.rule), :], -1, -3)


class SwinBlock(nn.Module):
    """Attend within windows of x [b, d, h, w, c], shifted by half a window or not, then the feed-forward layer.

    Tokens that pad the grid to whole windows take part in attention, as published. Source: Liu et al. 2022, sec. 3.
    """

    num_heads: int
    window: Triple
    shifted: bool
    mlp_ratio: float
    bias_index: str
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        *grid, width = x.shape[1:]
        wish = tuple(w // 2 if self.shifted else 0 for w in self.window)
        window, shift = clipped(tuple(grid), self.window, wish)  # type: ignore[arg-type]
        y = layers.LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = jnp.pad(y, [(0, 0), *((0, -n % w) for n, w in zip(grid, window, strict=True)), (0, 0)])
        padded: Triple = y.shape[1:4]  # type: ignore[assignment]
        bias = RelativeBias(self.num_heads, self.window, self.bias_index, name="relative_bias")(window)
        region = regions(padded, window, shift)
        if region is not None:
            y = jnp.roll(y, [-s for s in shift], (1, 2, 3))
        attention = transformer.Attention(self.num_heads, width // self.num_heads, dtype=self.dtype, name="attn")
        y = transformer.from_windows(attention(transformer.to_windows(y, window), train, bias, region), window, padded)
        if any(shift):
            y = jnp.roll(y, shift, (1, 2, 3))
        y = y[:, : grid[0], : grid[1], : grid[2]]
        x = x + transformer.drop_path(self, y, self.drop_path, train)
        mlp = transformer.Mlp(int(self.mlp_ratio * width), dtype=self.dtype, name="mlp")
        y = mlp(layers.LayerNorm(dtype=self.dtype, name="norm2")(x), train)
        return x + transformer.drop_path(self, y, self.drop_path, train)


class PatchMerging(nn.Module):
    """Merge 2 x 2 neighbours of x [b, d, h, w, c] into [b, d, h/2, w/2, 2 c]; odd ends get zeros."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), (0, 0), (0, x.shape[2] % 2), (0, x.shape[3] % 2), (0, 0)])
        # The order in which the weights were published: (h0, w0), (h1, w0), (h0, w1), (h1, w1).
        x = jnp.concatenate([x[:, :, h::2, w::2] for w in (0, 1) for h in (0, 1)], axis=-1)
        x = layers.LayerNorm(dtype=self.dtype, name="norm")(x)
        width = x.shape[-1] // 2
        return layers.Dense(
            width,
            layers.EMBED_TO_MLP,
            use_bias=False,
            initial=layers.SMALL_NORMAL,
            dtype=self.dtype,
            name="reduction",
        )(x)


class SwinStage(nn.Module):
    """A stage of blocks at one resolution, every second one shifted: x [b, d, h, w, c] to the same shape."""

    depth: int
    num_heads: int
    window: Triple
    mlp_ratio: float
    bias_index: str
    drop_paths: tuple[float, ...]
    merge: bool
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """Return the stage's own map, and what the next stage takes: merged, except after the last."""
        block = nn.remat(SwinBlock, static_argnums=(2,)) if self.remat else SwinBlock  # 2 is train
        for i in range(self.depth):
            settings = (self.num_heads, self.window, i % 2 == 1, self.mlp_ratio, self.bias_index, self.drop_paths[i])
            x = block(*settings, self.dtype, name=f"block{i}")(x, train)
        return x, PatchMerging(self.dtype, name="merge")(x) if self.merge else x


class Swin(nn.Module):
    """Map volumes [b, d, h, w, in_channels] to (float32 outputs [b, num_outputs], named feature maps).

    Any size works: patches, windows and merging pad. Features: patches, stage0.. (before merging), map (after the
    last norm), pooled [b, c]; maps are [b, d', h', w', c] in the volume's axes. `time_axis` says which axis of the
    volume takes the place of time, the one that is never merged. `bias_index` "published" or "geometric" matters where
    the window is clipped. `masked` = (mask [b, d', h', w'] of patches, 1 where hidden, token [embed])
    puts the token in the place of hidden patches. num_outputs 0 leaves out the head and gives `pooled`. Raises
    InputError for a size or keyword that cannot be. Source: Liu et al. 2022; Kinetics configuration of Video Swin-T.
    """

    num_outputs: int = 1
    input_size: Triple = (80, 80, 80)
    in_channels: int = 1
    patch_size: Triple = (2, 4, 4)
    embed: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: Triple = (8, 7, 7)
    mlp_ratio: float = 4.0
    bias_index: str = "published"
    time_axis: int = 0
    drop_path: float = 0.1
    head_hidden: tuple[int, ...] = ()
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if len(self.input_size) != 3 or min(self.input_size) < 1:
            raise InputError(f"Swin: found input_size {tuple(self.input_size)}; expected three sizes of 1 or more")
        if self.bias_index not in BIAS_INDEX:
            raise InputError(f"Swin: found bias_index '{self.bias_index}'; expected one of {', '.join(BIAS_INDEX)}")
        if self.time_axis not in (0, 1, 2):
            raise InputError(f"Swin: found time_axis {self.time_axis}; expected 0 (depth), 1 (height) or 2 (width)")
        if len(self.depths) != len(self.heads) or any(self.embed * 2**i % h for i, h in enumerate(self.heads)):
            raise InputError(
                f"Swin: found embed {self.embed}, depths {self.depths}, heads {self.heads}; expected as many heads as "
                "depths, each dividing its stage's width (embed, 2 embed, 4 embed, ...)"
            )
        super().__post_init__()

    def grid(self) -> Triple:
        """Return how many patches lie along each axis of the volume."""
        patch = self._moved_back(self.patch_size)
        return tuple(-(-n // p) for n, p in zip(self.input_size, patch, strict=True))  # type: ignore[return-value]

    patches = grid  # by the name that it has in models with blocks, too

    def patch(self) -> Triple:
        """Return the size of a patch along each axis of the volume."""
        return self._moved_back(self.patch_size)

    def clips(self) -> bool:
        """Return whether a window is larger than the grid of tokens of its stage along an axis."""
        time, height, width = self._moved_front(self.grid())
        stages = range(len(self.depths))
        grids = [(time, -(-height // 2**s), -(-width // 2**s)) for s in stages]
        return any(n < w for grid in grids for n, w in zip(grid, self.window, strict=True))

    def stride(self) -> Triple:
        """Return how many voxels along each axis of the volume lie under a token of the last map."""
        time, height, width = self.patch_size
        merged = 2 ** (len(self.depths) - 1)
        return self._moved_back((time, height * merged, width * merged))

    def _moved_front(self, sizes: Triple) -> Triple:
        rest = list(sizes)
        return (rest.pop(self.time_axis), *rest)  # type: ignore[return-value]

    def _moved_back(self, sizes: Triple) -> Triple:
        rest = list(sizes[1:])
        rest.insert(self.time_axis, sizes[0])
        return tuple(rest)  # type: ignore[return-value]

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, masked: tuple[jax.Array, jax.Array] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        if x.ndim != 5 or x.shape[-1] != self.in_channels:
            raise InputError(f"Swin: expected volumes [b, d, h, w, {self.in_channels}], found {x.shape}")
        features: dict[str, jax.Array] = {}

        def keep(name: str, x: jax.Array) -> None:
            features[name] = jnp.moveaxis(x, 1, 1 + self.time_axis)

        x = jnp.moveaxis(x, 1 + self.time_axis, 1)
        x = transformer.PatchEmbed(self.embed, self.patch_size, norm=True, dtype=self.dtype, name="patch_embed")(x)
        if masked is not None:
            x = transformer.hide(x, (jnp.moveaxis(masked[0], 1 + self.time_axis, 1), masked[1]))
        keep("patches", x)
        rates = np.linspace(0.0, self.drop_path, sum(self.depths)).tolist()
        for s, depth in enumerate(self.depths):
            first = sum(self.depths[:s])
            stage = SwinStage(
                depth,
                self.heads[s],
                self.window,
                self.mlp_ratio,
                self.bias_index,
                tuple(rates[first : first + depth]),
                s < len(self.depths) - 1,
                self.remat,
                self.dtype,
                name=f"stage{s}",
            )
            out, x = stage(x, train)
            keep(f"stage{s}", out)
        x = layers.LayerNorm(dtype=self.dtype, name="norm")(x)
        keep("map", x)
        x = features["pooled"] = layers.global_mean_pool(x)
        if self.num_outputs:
            x = layers.Head(self.num_outputs, self.head_hidden, layers.SMALL_NORMAL, name="head")(x)
        return x, features
