"""Softmax attention in the form that is fast on each platform.

Accelerators get whole arrays, which their compiler fuses. On CPUs scores go through memory many times, and memory is
what they wait for: there a few megabytes of them are made at a time, used while they are in the cache, and made again
for the gradient.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxneuro.models.convolution import by_platform

#: Bytes of scores made at a time on CPUs.
_AT_ONCE = 4 << 20
#: So many windows at a time where their gradients are summed, one after the other.
_SUMMED = 8
#: What is added to the scores of two tokens of different regions, as published for Swin.
_APART = -100.0


def attend(qkv: jax.Array, bias: jax.Array | None = None, region: Any = None, *, whole: bool = False) -> jax.Array:
    """Return softmax(q k' / sqrt(d) + bias) v for each head, [..., n, heads, d].

    Scores and softmax are float32, the rest has the dtype of `qkv`. Of many scores there is no forward-mode derivative.

    Args:
      qkv: queries, keys and values [..., n, 3, heads, d].
      bias: [heads, n, n] to add to the scores, the same everywhere; with `whole` also [shares, heads, n, n], one for
        each share of the rows, which they divide.
      region: [windows, n] whole numbers, where the axis before n is that of windows: -100 is added between tokens of
        different ones.
      whole: make all scores at once on CPUs, too: where several devices share them.
    """
    # A constant of the program, but not to be computed with while it is compiled: the masks take tens of megabytes.
    region = None if region is None else lax.optimization_barrier(jnp.asarray(region))
    *rows, n, _, heads, _ = qkv.shape
    # How many rows a program for export has is not known.
    known = all(isinstance(size, int) for size in rows)
    if whole or not known or math.prod(rows) * heads * n * n * 4 <= _AT_ONCE:
        return _whole(qkv, bias, region)
    given = {name: x for name, x in (("bias", bias), ("region", region)) if x is not None}

    def form(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda qkv, *rest: function(qkv, **{"bias": None, "region": None, **dict(zip(given, rest, strict=True))})

    return by_platform(qkv, *given.values(), cpu=form(_by_parts), default=form(_whole))


def weights(qkv: jax.Array, bias: jax.Array | None = None, region: Any = None) -> jax.Array:
    """Return the softmax of `attend` [..., heads, n, n]; arguments as there."""
    q, k, _ = (qkv[..., i, :, :] for i in range(3))
    scores = jnp.einsum("...qhd,...khd->...hqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    return jax.nn.softmax(_placed(scores, bias, None if region is None else region[:, None])).astype(qkv.dtype)


def _whole(qkv: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> jax.Array:
    return jnp.einsum("...hqk,...khd->...qhd", weights(qkv, bias, region), qkv[..., 2, :, :])


def _placed(scores: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> jax.Array:
    """Add to scores [..., n, n] what hangs on the places of tokens; regions are [..., n]."""
    if bias is not None and bias.ndim == 4:
        split = scores.reshape(len(bias), -1, *scores.shape[1:])
        scores = (split + jnp.expand_dims(bias, tuple(range(1, split.ndim - 3)))).reshape(scores.shape)
    elif bias is not None:
        scores = scores + bias
    if region is not None:
        scores = scores + jnp.where(region[..., :, None] == region[..., None, :], 0.0, _APART)
    return scores


def _by_parts(qkv: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> jax.Array:
    *lead, n, _, heads, d = qkv.shape
    rows = math.prod(lead)
    # One head after the other, for its bias; without one heads are rows like others.
    apart = bias is not None or region is not None
    most = max(_AT_ONCE // (4 * n * n), 1)
    count = rows if apart else rows * heads
    size = max(c for c in range(1, min(most, _SUMMED if apart else count) + 1) if count % c == 0)
    if region is not None:
        region = jnp.tile(region, (rows // len(region), 1)).reshape(-1, size, n)
    qkv = qkv.reshape(rows, n, 3, heads, d)
    if apart:
        qkv = qkv.reshape(-1, size, n, 3, heads, d).transpose(4, 0, 3, 1, 2, 5)
        out = _each_part(qkv, bias, region)
        return out.transpose(1, 2, 3, 0, 4).reshape(*lead, n, heads, d)
    qkv = qkv.transpose(0, 3, 2, 1, 4).reshape(1, -1, size, 3, n, d).swapaxes(2, 3)
    out = _each_part(qkv, None, None)
    return out.reshape(rows, heads, n, d).swapaxes(1, 2).reshape(*lead, n, heads, d)


@jax.custom_vjp
def _each_part(qkv: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> jax.Array:
    """Return attention [heads, parts, c, n, d] of qkv [heads, parts, 3, c, n, d].

    The bias is [heads, n, n], the region [parts, c, n].

    Scores are made for one part after the other, and again in the backward pass, by the sums of Dao et al. 2022
    (FlashAttention, appendix B.4): the gradient of scores needs no sum over them.
    """
    return _forward(qkv, bias, region)[0]


def _scores(qkv: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> jax.Array:
    q, k, _ = qkv
    scores = jnp.einsum("cqd,ckd->cqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    return _placed(scores, bias, region)


def _forward(qkv: jax.Array, bias: jax.Array | None, region: jax.Array | None) -> tuple[jax.Array, Any]:
    def part(bias: jax.Array | None, of: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
        qkv, region = of
        scores = _scores(qkv, bias, region)
        most = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - most).astype(qkv.dtype)
        # The sum of the weights is one more column of the product, which costs next to nothing.
        values = jnp.concatenate([qkv[2], jnp.ones((*qkv.shape[1:-1], 1), qkv.dtype)], -1)
        sums = jnp.einsum("cqk,ckd->cqd", weights, values, preferred_element_type=jnp.float32)
        total = sums[..., -1:]
        return (sums[..., :-1] / total).astype(qkv.dtype), most + jnp.log(total)

    def head(of: tuple[jax.Array, jax.Array | None]) -> tuple[jax.Array, jax.Array]:
        qkv, bias = of
        return lax.map(partial(part, bias), (qkv, region))

    out, logs = lax.map(head, (qkv, bias))
    return out, (qkv, bias, region, out, logs)


def _backward(kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array | None, None]:
    qkv, bias, region, out, logs = kept
    # What the softmax takes from each row's gradient: the sum of weights times their gradients. By a product, for XLA's
    # sums over short axes are slow.
    both = cotangent.astype(jnp.float32) * out.astype(jnp.float32)
    taken = jnp.dot(both, jnp.ones((out.shape[-1], 1), jnp.float32))

    def part(bias: jax.Array | None, total: jax.Array | None, of: Any) -> tuple[jax.Array | None, jax.Array]:
        qkv, g, logs, taken, region = of
        q, k, v = qkv
        weights = jnp.exp(_scores(qkv, bias, region) - logs)
        slopes = weights * (jnp.einsum("cqd,ckd->cqk", g, v, preferred_element_type=jnp.float32) - taken)
        if total is not None:
            # One after the other: XLA's sum over an axis before others took as long as all the rest.
            total = sum(slopes, total)
        slopes = slopes.astype(qkv.dtype)
        scale = q.shape[-1] ** -0.5
        found = (
            jnp.einsum("cqk,ckd->cqd", slopes, k) * scale,
            jnp.einsum("cqk,cqd->ckd", slopes, q * scale),
            jnp.einsum("cqk,cqd->ckd", weights.astype(qkv.dtype), g),
        )
        return total, jnp.stack(found)

    def head(of: Any) -> tuple[jax.Array | None, jax.Array]:
        *parts, bias = of
        begin = None if bias is None else jnp.zeros(bias.shape, jnp.float32)
        return lax.scan(partial(part, bias), begin, (*parts, region))

    total, found = lax.map(head, (qkv, cotangent, logs, taken, bias))
    return found, None if bias is None else total.astype(bias.dtype), None


_each_part.defvjp(_forward, _backward)
