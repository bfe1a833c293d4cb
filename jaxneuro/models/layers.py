"""The layers that every backbone is built from, with torch's numerical conventions.

This is the one file that names logical axes: a parameter with two or more axes is always annotated here, and
the training rule table maps each name in `LOGICAL_AXES` to a mesh axis or to none.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxneuro.errors import InputError
from jaxneuro.models.convolution import Triple, by_platform, conv3d, output_size

# Every logical axis name, with what it counts.
LOGICAL_AXES: dict[str, str] = {
    "batch": "samples: the first axis of everything between layers",
    "conv_d": "depth taps of a convolution kernel",
    "conv_h": "height taps of a convolution kernel",
    "conv_w": "width taps of a convolution kernel",
    "in_channels": "input channels of a convolution",
    "out_channels": "output channels of a convolution",
    "embed": "model width: the features a token carries between blocks",
    "mlp": "hidden width of a feed-forward layer",
    "qkv": "queries, keys and values: always 3",
    "heads": "attention heads",
    "head_width": "features of one attention head",
    "position": "positions of an absolute position table",
    "relative": "rows of a relative position table",
    "outputs": "logits, regression targets or reconstructed values",
    "unit": "an axis of length one",
}

# The axes of each kind of parameter; backbones import these and never write an axis name.
CONV_KERNEL = ("conv_d", "conv_h", "conv_w", "in_channels", "out_channels")
EMBED_TO_MLP = ("embed", "mlp")
MLP_TO_EMBED = ("mlp", "embed")
EMBED_TO_QKV = ("embed", "qkv", "heads", "head_width")
HEADS_TO_EMBED = ("heads", "head_width", "embed")
EMBED_TO_OUTPUTS = ("embed", "outputs")
POSITION_TABLE = ("unit", "position", "embed")
RELATIVE_TABLE = ("relative", "heads")

Names = tuple[str | None, ...]
_place: ContextVar[tuple[Callable[[jax.Array, Names], jax.Array], int] | None] = ContextVar("place", default=None)


@contextmanager
def placing(place: Callable[[jax.Array, Names], jax.Array], shares: int = 1) -> Iterator[None]:
    """Let `place(x, names)` say where kernels lie as they are used, and what layers return, while a model is traced.

    The first name of what layers return is "batch", which is split into `shares`.

    Without, and by default, nothing is said, and a compiler that splits parameters may split what is between layers
    alike, to gather it again.
    """
    token = _place.set((place, shares))
    try:
        yield
    finally:
        _place.reset(token)


def _placed(x: jax.Array, names: Names) -> jax.Array:
    told = _place.get()
    return told[0](x, names) if told else x


def spread() -> bool:
    """Return whether what is traced is told where it lies (`placing`): several devices share it."""
    return _place.get() is not None


def of_each_share(x: jax.Array, names: Names) -> jax.Array:
    """Return a copy of a parameter for each share of the batch [shares, ...], or itself where the batch is not split.

    Gradients of what is made of a copy stay with its share, and only those of the parameter are exchanged.
    """
    told = _place.get()
    if told is None or told[1] == 1:
        return x
    return _placed(jnp.broadcast_to(x, (told[1], *x.shape)), ("batch", *names))


Initializer = Any  # (key, shape, dtype) -> array
Moments = tuple[jax.Array, jax.Array]

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Uniform in +-1/sqrt(fan_in): torch's default for Linear and Conv3d.
torch_uniform = nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


class Init(NamedTuple):
    """How kernels and biases begin: `kernel(key, shape, dtype)`, and `bias(fan_in)(key, shape, dtype)`."""

    kernel: Initializer
    bias: Callable[[int], Initializer]


def _torch_bias(fan_in: int) -> Initializer:
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


#: Kernels and biases uniform in +-1/sqrt(fan_in), as torch's Linear and Conv3d begin.
TORCH_DEFAULT = Init(torch_uniform, _torch_bias)
#: Kernels normal with deviation 0.02, biases zero: Swin and ViT. (Their truncation, at +-2 absolute, cuts nothing.)
SMALL_NORMAL = Init(nn.initializers.normal(0.02), lambda _: nn.initializers.zeros)
#: Kernels by fan-in, biases zero: the DenseNets' head.
ZERO_BIAS = Init(torch_uniform, lambda _: nn.initializers.zeros)


def annotate(init: Initializer, axes: Sequence[str]) -> Initializer:
    """Return `init` with logical axis names [one a dimension] attached to the parameter it makes.

    Raises ValueError for a name that is not in `LOGICAL_AXES`.
    """
    unknown = sorted(set(axes) - set(LOGICAL_AXES))
    if unknown:
        raise ValueError(f"unknown logical axes {unknown}: known are {sorted(LOGICAL_AXES)}")
    return nn.with_logical_partitioning(init, tuple(axes))


class Conv(nn.Module):
    """Convolve x [b, d, h, w, c] into [b, d', h', w', features], padded symmetrically as torch's Conv3d.

    Parameters: kernel [kd, kh, kw, c, features], bias [features]. Raises ValueError for too small an input.
    """

    features: int
    kernel_size: Triple
    strides: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    use_bias: bool = True
    initial: Init = Init(kaiming_normal, lambda _: nn.initializers.zeros)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", annotate(self.initial.kernel, CONV_KERNEL), shape, jnp.float32)
        kernel = _placed(kernel, CONV_KERNEL)
        (sd, sh, sw), (pd, ph, pw) = self.strides, self.padding
        y = conv3d(x.astype(self.dtype), kernel.astype(self.dtype), (sd, sh, sw), (pd, ph, pw))
        if self.use_bias:
            init = self.initial.bias(math.prod(shape[:-1]))
            y = y + self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        return _placed(y, ("batch", None, None, None, None))


class Dense(nn.Module):
    """Apply an affine map to the last `contract` axes: x [..., *c] into [..., *features].

    Parameters: kernel [*c, *features] (torch's Linear transposed), bias [*features]; `axes` names the kernel's axes.
    """

    features: int | tuple[int, ...]
    axes: tuple[str, ...] = EMBED_TO_MLP
    contract: int = 1
    use_bias: bool = True
    initial: Init = ZERO_BIAS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        shape = (*x.shape[-self.contract :], *features)
        fan_in = math.prod(shape[: self.contract])

        def kernel_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return self.initial.kernel(key, (fan_in, math.prod(features)), dtype).reshape(shape)

        kernel = self.param("kernel", annotate(kernel_init, self.axes), shape, jnp.float32)
        kernel = _placed(kernel, self.axes)
        y = jnp.tensordot(x.astype(self.dtype), kernel.astype(self.dtype), self.contract)
        if self.use_bias:
            init = self.initial.bias(fan_in)
            if len(features) > 1:
                init = annotate(init, self.axes[self.contract :])
            y = y + self.param("bias", init, features, jnp.float32).astype(self.dtype)
        return _placed(y, ("batch", *(None,) * (y.ndim - 1 - len(features)), *self.axes[self.contract :]))


class Head(nn.Module):
    """Map pooled features [b, c] to float32 outputs [b, num_outputs], through hidden layers with ReLU if any.

    `hidden` (512,) with 128 outputs is the projection of contrastive pre-training (Dufumier et al. 2021).
    """

    num_outputs: int
    hidden: tuple[int, ...] = ()
    initial: Init = ZERO_BIAS

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i, width in enumerate(self.hidden):
            x = nn.relu(Dense(width, EMBED_TO_MLP, initial=self.initial, name=f"hidden{i}")(x))
        return Dense(self.num_outputs, EMBED_TO_OUTPUTS, initial=self.initial, name="out")(x)


class LayerNorm(nn.Module):
    """Normalise the last axis of x [..., c] as torch's LayerNorm; statistics are float32, output is `dtype`."""

    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, -1, keepdims=True)
        factor = lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + self.epsilon)
        return (x * factor * scale + bias).astype(self.dtype)


def moments(x: jax.Array) -> Moments:
    """Return float32 mean and biased variance [c], [c] of x [..., c] over every other axis.

    Under jit with a sharded batch these are the statistics of the global batch.
    """
    # One pass over x. Measuring from a voxel's own value keeps E[x^2] - E[x]^2 exact when the mean is large.
    # That voxel of all samples first: devices with other samples would be sent a whole one.
    middle = x[(slice(None), *(n // 2 for n in x.shape[1:-1]))] if x.ndim > 2 else x
    origin = lax.stop_gradient(middle[x.shape[0] // 2]).astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32) - origin
    mean = jnp.mean(x, axes)
    var = jnp.mean(jnp.square(x), axes) - jnp.square(mean)
    return origin + mean, jnp.maximum(var, 0.0)


class BatchNorm(nn.Module):
    """Normalise each channel of x [..., c] as torch's BatchNorm3d; statistics are float32, output is `dtype`.

    With train=True it uses the batch's mean and biased variance over all axes but the last, and moves the
    running mean and the unbiased running variance by `momentum` (torch's meaning: the weight of the new
    batch). With train=False it uses the running ones. `batch_moments` hands in the moments of x where a
    caller has them already. Raises InputError for train=True with one value a channel. Source: Ioffe and
    Szegedy 2015.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, batch_moments: Moments | None = None) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train:
            count = x.size // channels
            if count < 2:
                raise InputError(
                    f"BatchNorm: found {x.shape}, one value a channel, in training; expected two or more; take a "
                    "larger batch or larger volumes"
                )
            mean, var = moments(x) if batch_moments is None else batch_moments
            if not self.is_initializing():
                keep = 1.0 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * var * (count / (count - 1))
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        return ((x.astype(jnp.float32) - mean) * factor + bias).astype(self.dtype)


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Take the maximum of x [b, d, h, w, c] over cubes [window]^3, sizes rounded down as torch does.

    Ties send their gradient to the first voxel on every platform; NaN is passed on.
    """

    def native(x: jax.Array) -> jax.Array:
        sides = [(0, 0)] + [(padding, padding)] * 3 + [(0, 0)]
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, *(window,) * 3, 1), (1, *(stride,) * 3, 1), sides)

    def larger(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.where((a >= b) | (a != a), a, b)

    def by_axis(x: jax.Array) -> jax.Array:
        # XLA's CPU gradient of a pool is slow (select-and-scatter); a maximum is separable, slices are quick.
        for axis in (3, 2, 1):
            length = output_size(x.shape[axis], window, stride, padding)
            sides = [(0, 0)] * x.ndim
            sides[axis] = (padding, padding)
            padded = jnp.pad(x, sides, constant_values=-jnp.inf)
            reach = (length - 1) * stride + 1
            x = reduce(larger, (lax.slice_in_dim(padded, tap, tap + reach, stride, axis) for tap in range(window)))
        return x

    return by_platform(x, cpu=by_axis, default=native)


def avg_pool(x: jax.Array, window: int) -> jax.Array:
    """Average x [b, d, h, w, c] over disjoint cubes [window]^3, without the planes left over, as in torch."""
    b, d, h, w, c = x.shape
    d, h, w = d // window, h // window, w // window
    x = x[:, : d * window, : h * window, : w * window]
    return x.reshape(b, d, window, h, window, w, window, c).mean((2, 4, 6))


def global_mean_pool(x: jax.Array) -> jax.Array:
    """Average x [b, ..., c] over all positions into float32 [b, c]."""
    return jnp.mean(x.astype(jnp.float32), tuple(range(1, x.ndim - 1)))
