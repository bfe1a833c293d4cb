"""3D DenseNet (Huang et al. 2017) in the sizes of Dufumier et al. 2021: DenseNet121 and Tiny-DenseNet."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError
from jaxneuro.models import layers
from jaxneuro.models.convolution import Triple


class DenseLayer(nn.Module):
    """Make `growth_rate` new channels [b, d, h, w, growth_rate] from all earlier ones [b, d, h, w, c].

    BN-ReLU-Conv1-BN-ReLU-Conv3; `batch_moments` are those of x in training. Source: Huang et al. 2017, sec.
    3.
    """

    growth_rate: int
    bottleneck: int
    drop_rate: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, batch_moments: layers.Moments | None, train: bool) -> jax.Array:
        x = nn.relu(layers.BatchNorm(dtype=self.dtype, name="norm1")(x, train, batch_moments))
        conv = partial(layers.Conv, use_bias=False, dtype=self.dtype)
        x = conv(self.bottleneck * self.growth_rate, (1, 1, 1), name="conv1")(x)
        x = nn.relu(layers.BatchNorm(dtype=self.dtype, name="norm2")(x, train))
        x = conv(self.growth_rate, (3, 3, 3), padding=(1, 1, 1), name="conv2")(x)
        if self.drop_rate > 0:
            x = nn.Dropout(self.drop_rate, deterministic=not train, name="dropout")(x)
        return x


class DenseBlock(nn.Module):
    """Append `num_layers` dense layers to x [b, d, h, w, c]; gives the maps and, in training, their moments.

    A channel's batch moments are the same for every later layer, so they are computed once, where it is made.
    """

    num_layers: int
    growth_rate: int
    bottleneck: int
    drop_rate: float
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, layers.Moments | None]:
        layer_class = nn.remat(DenseLayer, static_argnums=(3,)) if self.remat else DenseLayer  # 3 is train
        layer = partial(layer_class, self.growth_rate, self.bottleneck, self.drop_rate, self.dtype)
        known = layers.moments(x) if train else None
        for i in range(1, self.num_layers + 1):
            new = layer(name=f"denselayer{i}")(x, known, train)
            x = jnp.concatenate([x, new], axis=-1)
            if train:
                known = jax.tree.map(lambda *m: jnp.concatenate(m), known, layers.moments(new))
        return x, known


class Transition(nn.Module):
    """Halve the channels and the size of x [b, d, h, w, c]: BN-ReLU-Conv1-mean over 2^3 voxels."""

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, batch_moments: layers.Moments | None, train: bool) -> jax.Array:
        channels = x.shape[-1] // 2
        x = nn.relu(layers.BatchNorm(dtype=self.dtype, name="norm")(x, train, batch_moments))
        # A 1x1x1 convolution and a mean commute: pooling first does the product on an eighth of the voxels.
        x = layers.avg_pool(x, 2)
        return layers.Conv(channels, (1, 1, 1), use_bias=False, dtype=self.dtype, name="conv")(x)


class DenseNet(nn.Module):
    """Map volumes [b, d, h, w, in_channels] to (float32 outputs [b, num_outputs], named feature maps).

    Features: conv0, pool0, denseblock1.., transition1.., map (after the last norm and ReLU), pooled [b, c].
    `final_norm` False leaves out the last norm and `head_hidden` gives the head hidden layers, as in the
    encoder of contrastive pre-training (num_outputs 128, head_hidden (512,)); num_outputs 0 leaves out the
    head and gives `pooled`. `remat` recomputes each dense layer in the backward pass; `drop_rate` drops
    single values of each layer's output. Raises InputError for a size that the pools would reduce to nothing,
    or for other channels than `in_channels`. Source: Huang et al. 2017; Dufumier et al. 2021.
    """

    num_outputs: int = 1
    input_size: Triple = (80, 80, 80)
    in_channels: int = 1
    block_sizes: tuple[int, ...] = (6, 12, 24, 16)
    growth_rate: int = 32
    stem_features: int = 64
    bottleneck: int = 4
    final_norm: bool = True
    head_hidden: tuple[int, ...] = ()
    drop_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        self._check_size(self.input_size)
        super().__post_init__()

    def _check_size(self, size: tuple[int, ...]) -> None:
        # The stem divides by 4 rounding up, each transition by 2 rounding down.
        smallest = 4 * 2 ** (len(self.block_sizes) - 1) - 3
        if len(size) != 3 or min(size) < smallest:
            raise InputError(
                f"DenseNet with {len(self.block_sizes)} blocks: input_size {tuple(size)} is too small; "
                f"the smallest that works is {(smallest,) * 3}"
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, dict[str, jax.Array]]:
        if x.ndim != 5 or x.shape[-1] != self.in_channels:
            raise InputError(f"DenseNet: expected volumes [b, d, h, w, {self.in_channels}], found {x.shape}")
        self._check_size(x.shape[1:4])
        features: dict[str, jax.Array] = {}
        stem = partial(layers.Conv, use_bias=False, dtype=self.dtype, name="conv0")
        x = features["conv0"] = stem(self.stem_features, (7, 7, 7), (2, 2, 2), (3, 3, 3))(x)
        x = nn.relu(layers.BatchNorm(dtype=self.dtype, name="norm0")(x, train))
        x = features["pool0"] = layers.max_pool(x, window=3, stride=2, padding=1)
        settings = (self.growth_rate, self.bottleneck, self.drop_rate, self.remat, self.dtype)
        for i, num_layers in enumerate(self.block_sizes, start=1):
            x, known = DenseBlock(num_layers, *settings, name=f"denseblock{i}")(x, train)
            features[f"denseblock{i}"] = x
            if i < len(self.block_sizes):
                x = Transition(self.dtype, name=f"transition{i}")(x, known, train)
                features[f"transition{i}"] = x
        if self.final_norm:
            x = layers.BatchNorm(dtype=self.dtype, name="norm5")(x, train, known)
        x = features["map"] = nn.relu(x)
        x = features["pooled"] = layers.global_mean_pool(x)
        outputs = layers.Head(self.num_outputs, self.head_hidden, name="head")(x) if self.num_outputs else x
        return outputs, features
