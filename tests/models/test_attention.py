"""Attention by parts, the form for CPUs, against torch in float64, and against the form for accelerators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro.models import attention
from tests.torch_reference import torch


def drawn(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_torch(qkv, bias, region, weight):
    """Return attention in float64, and the gradients of its product with `weight`."""
    qkv = torch.tensor(qkv, dtype=torch.float64, requires_grad=True)
    bias = None if bias is None else torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    q, k, v = (qkv[..., i, :, :].transpose(-2, -3) for i in range(3))
    scores = q @ k.transpose(-1, -2) / np.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias
    if region is not None:
        apart = torch.tensor(region[:, :, None] != region[:, None, :])
        scores = scores - 100.0 * apart[:, None]
    out = (scores.softmax(-1) @ v).transpose(-2, -3)
    (out * torch.tensor(weight)).sum().backward()
    return out.detach().numpy(), qkv.grad.numpy(), None if bias is None else bias.grad.numpy()


def both(form, qkv, bias, region, weight):
    """Return what a form gives, and the gradients, as `by_torch` does."""

    def loss(qkv, bias):
        out = form(qkv, bias, region)
        return (out.astype(jnp.float32) * weight).sum(), out

    (_, out), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(qkv, bias)
    return out, *gradients


def close(found, expected, scale=2e-6):
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(np.float64(a), b, rtol=0, atol=scale * max(np.abs(b).max(), 1))


@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 3),
    windows=st.integers(1, 5),
    n=st.integers(1, 9),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    with_bias=st.booleans(),
    with_region=st.booleans(),
    at_once=st.integers(1, 3000),
)
def test_parts_give_values_and_gradients_of_torch(batch, windows, n, heads, width, with_bias, with_region, at_once):
    qkv, weight = drawn(0, batch, windows, n, 3, heads, width), drawn(1, batch, windows, n, heads, width)
    bias = drawn(2, heads, n, n) if with_bias else None
    region = np.random.default_rng(3).integers(0, 2, (windows, n)) if with_region else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_AT_ONCE", at_once)
        found = both(attention.attend, qkv, bias, region, weight)
    close(found, by_torch(qkv, bias, region, weight), 2e-5)


@pytest.mark.parametrize("shape", [(2, 13, 3, 4, 8), (2, 3, 13, 3, 4, 8)], ids=["tokens", "windows"])
def test_scores_far_apart_neither_overflow_nor_lose_the_largest(shape, monkeypatch):
    monkeypatch.setattr(attention, "_AT_ONCE", 2000)
    qkv = 40 * drawn(0, *shape)  # scores of thousands
    weight = drawn(1, *shape[:-3], *shape[-2:])
    found = both(attention.attend, qkv, None, None, weight)
    close(found[:1], by_torch(qkv, None, None, weight)[:1], 1e-5)
    assert np.isfinite(found[1]).all()


def test_half_precision_is_as_exact_as_all_scores_at_once(monkeypatch):
    qkv, weight = drawn(0, 6, 17, 3, 2, 8), drawn(1, 6, 17, 2, 8)
    half = jnp.asarray(qkv, jnp.bfloat16)
    exact = by_torch(np.float32(half), None, None, weight)
    errors = []
    for at_once in (1 << 30, 4 * 17 * 17 * 2):
        monkeypatch.setattr(attention, "_AT_ONCE", at_once)
        out, gradient, _ = both(attention.attend, half, None, None, weight)
        assert out.dtype == gradient.dtype == jnp.bfloat16
        pairs = zip((out, gradient), exact[:2], strict=True)
        errors.append([np.abs(np.float64(a) - b).max() / np.abs(b).max() for a, b in pairs])
    for whole, parts in zip(*errors, strict=True):
        assert parts < 1.5 * whole < 0.03


def test_scores_are_never_whole_on_a_cpu():
    qkv = jax.ShapeDtypeStruct((4, 512, 3, 8, 16), jnp.float32)
    scores = 4 * 8 * 512 * 512 * 4

    def memory(**how):
        gradient = jax.jit(jax.grad(lambda x: attention.attend(x, **how).sum()))
        return gradient.lower(qkv).compile().memory_analysis().temp_size_in_bytes

    assert memory() < scores / 2 < scores <= memory(whole=True)


def test_a_program_for_any_batch_is_exported(monkeypatch):
    (batch,) = jax.export.symbolic_shape("batch")
    for shape in ((5, 3, 2, 4), (7, 3, 1, 2)):
        monkeypatch.setattr(attention, "_AT_ONCE", 200)
        symbolic = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
        program = jax.export.export(jax.jit(attention.attend), platforms=("cpu", "cuda"))(symbolic)
        qkv = drawn(0, 6, *shape)
        np.testing.assert_allclose(program.call(qkv), attention.attend(qkv), rtol=0, atol=1e-6)


def test_a_second_gradient_exists(monkeypatch):
    monkeypatch.setattr(attention, "_AT_ONCE", 100)
    qkv = drawn(0, 2, 5, 3, 2, 3)

    def penalty(form):
        slope = jax.grad(lambda x: (form(x) ** 2).sum())
        return jax.grad(lambda x: (slope(x) ** 2).sum())(qkv)

    parts = penalty(attention.attend)
    whole = penalty(lambda x: attention.attend(x, whole=True))
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * np.abs(whole).max())
