"""The 3D convolution in the form that is fast on each platform.

Accelerators get one native 3D convolution. XLA's CPU backend is slow at 3D convolutions, gradients above
all, but quick at 2D ones, so there the depth axis is folded into the batch and the depth taps into
channels. Every form is plain differentiable JAX: it works under jit, grad, jvp, vmap and a sharded batch.
"""

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce

import jax
import jax.numpy as jnp
from jax import lax

Triple = tuple[int, int, int]

_accelerator_only: ContextVar[bool] = ContextVar("accelerator_only", default=False)


@contextmanager
def accelerator_forms() -> Iterator[None]:
    """Trace only the forms for accelerators: what a network costs is counted on them, whatever machine counts."""
    token = _accelerator_only.set(True)
    try:
        yield
    finally:
        _accelerator_only.reset(token)


def by_platform(*arguments: jax.Array, cpu: Callable[..., jax.Array], default: Callable[..., jax.Array]) -> jax.Array:
    """Apply `cpu` where the program runs on a CPU and `default` elsewhere; the choice is made when it is compiled."""
    if _accelerator_only.get():
        return default(*arguments)
    return lax.platform_dependent(*arguments, cpu=cpu, default=default)


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Return the length [1] of one axis after a convolution or a pool, rounded down as torch does."""
    return (size + 2 * padding - kernel) // stride + 1


def conv3d(x: jax.Array, kernel: jax.Array, strides: Triple = (1, 1, 1), padding: Triple = (0, 0, 0)) -> jax.Array:
    """Convolve x [b, d, h, w, c] with kernel [kd, kh, kw, c, o] into [b, d', h', w', o].

    `padding` zeros are added on both sides of each axis, as in torch's Conv3d. Raises ValueError when an
    input axis is shorter than the kernel or when the channels differ.
    """
    taps = kernel.shape[:3]
    if x.ndim != 5 or x.shape[-1] != kernel.shape[3]:
        expected = f"[b, d, h, w, {kernel.shape[3]}]"
        raise ValueError(f"conv3d: input {x.shape} does not fit kernel {kernel.shape}: expected {expected}")
    if any(output_size(*axis) < 1 for axis in zip(x.shape[1:4], taps, strides, padding, strict=True)):
        raise ValueError(f"conv3d: input {x.shape[1:4]} is smaller than kernel {taps} with padding {padding}")
    if taps == (1, 1, 1) and strides == (1, 1, 1) and padding == (0, 0, 0):
        return jnp.dot(x, kernel[0, 0, 0])  # one matrix product is right on every platform
    if taps == strides and padding == (0, 0, 0):
        cpu = patch_product
    elif strides[0] == 1 and x.shape[-1] >= kernel.shape[-1]:
        cpu = depth_taps_out  # bottleneck (128 -> 32): the tripled axis is the narrow output
    else:
        cpu = depth_taps_in  # stem (1 -> 64): the multiplied axis is the narrow input

    def on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return cpu(x, kernel, strides, padding)

    def elsewhere(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return native(x, kernel, strides, padding)

    return by_platform(x, kernel, cpu=on_cpu, default=elsewhere)


def native(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Triple) -> jax.Array:
    """Convolve [b, d, h, w, c] with one 3D convolution: the form for accelerators."""
    return lax.conv_general_dilated(
        x, kernel, strides, [(p, p) for p in padding], dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


def patch_product(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Triple) -> jax.Array:
    """Convolve [b, d, h, w, c] by disjoint patches (kernel = stride, no padding): one matrix product."""
    del padding
    b, c = x.shape[0], x.shape[-1]
    d, h, w = (n // s for n, s in zip(x.shape[1:4], strides, strict=True))
    x = x[:, : d * strides[0], : h * strides[1], : w * strides[2]]
    x = x.reshape(b, d, strides[0], h, strides[1], w, strides[2], c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return jnp.dot(x.reshape(b, d, h, w, -1), kernel.reshape(-1, kernel.shape[-1]))


def depth_taps_out(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Triple) -> jax.Array:
    """Convolve [b, d, h, w, c], depth stride 1: one 2D convolution for every depth tap, shifted and added."""
    b, d, h, w, c = x.shape
    taps = kernel.shape[0]
    flat = jnp.moveaxis(kernel, 0, 3).reshape(*kernel.shape[1:4], -1)  # [kh, kw, c, kd * o]
    y = _conv2d(x.reshape(b * d, h, w, c), flat, strides, padding)
    y = y.reshape(b, d, *y.shape[1:])
    depth = output_size(d, taps, 1, padding[0])

    def shifted(tap: int, part: jax.Array) -> jax.Array:
        low = padding[0] - tap
        edges = [(0, 0, 0), (low, depth - d - low, 0), (0, 0, 0), (0, 0, 0), (0, 0, 0)]  # negative ones crop
        return lax.pad(part, jnp.zeros((), y.dtype), edges)

    parts = jnp.split(y, taps, axis=-1)
    return reduce(operator.add, (shifted(tap, part) for tap, part in enumerate(parts)))


def depth_taps_in(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Triple) -> jax.Array:
    """Convolve [b, d, h, w, c], any stride: the depth taps become input channels of one 2D convolution."""
    b, d, h, w, _ = x.shape
    taps, step = kernel.shape[0], strides[0]
    depth = output_size(d, taps, step, padding[0])
    x = jnp.pad(x, ((0, 0), (padding[0],) * 2, (0, 0), (0, 0), (0, 0)))
    x = jnp.concatenate([x[:, tap : tap + (depth - 1) * step + 1 : step] for tap in range(taps)], axis=-1)
    flat = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])  # [kh, kw, kd * c, o]
    y = _conv2d(x.reshape(b * depth, h, w, -1), flat, strides, padding)
    return y.reshape(b, depth, *y.shape[1:])


def _conv2d(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Triple) -> jax.Array:
    sides = [(p, p) for p in padding[1:]]
    return lax.conv_general_dilated(x, kernel, strides[1:], sides, dimension_numbers=("NHWC", "HWIO", "NHWC"))
