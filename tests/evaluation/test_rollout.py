"""Attention rollout: by matrices by hand, of attention worked out from parameters, on the networks that have it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from jaxneuro.evaluation.maps import rollout
from jaxneuro.models import transformer
from jaxneuro.training import sharding


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("read", [[1, 0, 0, 0, 0], [0, 0.25, 0.25, 0.25, 0.25]])
def test_rollout_is_the_product_of_the_layers(read):
    rng = np.random.default_rng(0)
    layers = [softmax(rng.normal(size=(2, 3, 5, 5))) for _ in range(4)]
    expected = np.broadcast_to(np.eye(5), (2, 5, 5))
    for a in layers:
        expected = (0.5 * a.mean(1) + 0.5 * np.eye(5)) @ expected
    found = rollout.roll([jnp.asarray(a) for a in layers], jnp.asarray(read))
    np.testing.assert_allclose(found, np.asarray(read) @ expected, rtol=1e-5)


def test_attention_is_given_to_who_asks_and_costs_others_nothing():
    attention = transformer.Attention(2, 4)
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype(np.float32)
    variables = sharding.unbox(attention.init(jax.random.key(0), x, False))
    assert set(variables) == {"params"}
    outputs, kept = attention.apply(variables, x, False, mutable=["intermediates"])
    np.testing.assert_array_equal(outputs, attention.apply(variables, x, False))
    kernel, bias = (np.asarray(variables["params"]["qkv"][k]) for k in ("kernel", "bias"))
    q, k = (np.einsum("bnc,chd->bnhd", x, kernel[:, i]) + bias[i] for i in (0, 1))
    expected = softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / 2)
    np.testing.assert_allclose(kept["intermediates"]["weights"][0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("vit_b16_testing", {}), ("vit_b16_testing", {"pool": "mean", "remat": True}), ("nit_testing", {})],
)
def test_maps_of_networks(name, settings):
    size = 24 if name == "nit_testing" else 16
    model = models.build(name, num_outputs=2, input_size=(size,) * 3, in_channels=1, **settings)
    weights, _ = interop.transfer(model, {}, fresh=[""], seed=0)
    rollout.check(model, name)
    mesh = sharding.make_mesh({"data": -1})

    def output(weights, x, which):
        return jnp.take(model.apply(weights, x, train=False)[0], which, axis=1)

    x = np.random.default_rng(0).normal(size=(2, size, size, size, 1)).astype(np.float32)
    outputs, maps = rollout.program(model, output, mesh)(weights, x, np.int32(1))
    np.testing.assert_allclose(outputs, model.apply(weights, x, train=False)[0][:, 1], rtol=1e-4, atol=1e-5)
    _, kept = model.apply(weights, x, train=False, mutable=["intermediates"])
    kept = kept["intermediates"].get("encoder", kept["intermediates"])
    assert len(kept) == model.depth
    total = None
    for i in range(model.depth):
        mixed = 0.5 * np.asarray(kept[f"block{i}"]["attn"]["weights"][0]).mean(1)
        mixed = mixed + 0.5 * np.eye(mixed.shape[-1])
        total = mixed if total is None else mixed @ total
    total = total[:, 1:].mean(1) if settings else total[:, 0]
    expected = total[:, 1:].reshape(2, *model.grid())
    np.testing.assert_allclose(
        maps[:, :: model.patch()[0], :: model.patch()[1], :: model.patch()[2]], expected, rtol=1e-4
    )
    corner = tuple(slice(0, p) for p in model.patch())
    assert len(np.unique(np.asarray(maps)[0][corner])) == 1
