"""DenseNets computed anew around a patch, against the network on volumes whose patch NumPy hid."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from jaxneuro.evaluation.maps import making, nearby
from jaxneuro.training import sharding


def build(size, **settings):
    """Return a small DenseNet with weights of which none is 0 or 1, and its output."""
    model = models.build("tiny_densenet_testing", num_outputs=2, input_size=size, in_channels=1, **settings)
    variables, _ = interop.transfer(model, {}, fresh=[""], seed=0)
    rng = np.random.default_rng(1)

    def moved(x):
        # Biases and running means are 0 when fresh; variances stay above 0.
        added = rng.uniform(-0.2, 0.2, x.shape) if x.ndim == 1 else 0.0
        return np.asarray(x * rng.uniform(0.5, 1.5, x.shape) + added, np.float32)

    weights = jax.tree.map(moved, variables)

    def output(weights, x, which):
        return jnp.take(model.apply(weights, x, train=False)[0], which, axis=1)

    return model, weights, output


@pytest.mark.parametrize(
    ("size", "patch", "settings"),
    [
        ((37, 25, 30), (6, 5, 8), {"block_sizes": (2, 1)}),
        ((16, 13, 18), (16, 1, 9), {"block_sizes": (1, 1), "remat": True}),
    ],
    ids=str,
)
def test_around_the_patch_equals_everything(size, patch, settings):
    model, weights, output = build(size, **settings)
    assert nearby.fits(model)
    volume = np.random.default_rng(0).normal(size=(*size, 1)).astype(np.float32)
    last = np.subtract(size, patch)
    ends = np.array(list(itertools.product((0, 1), repeat=3))) * last
    between = np.random.default_rng(2).integers(0, last + 1, (7, 3))
    corners = np.concatenate([ends, between, [size]]).astype(np.int32)  # the last hides nothing
    hidden = np.repeat(volume[None], len(corners), axis=0)
    for one, corner in zip(hidden, corners[:-1], strict=False):
        one[tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))] = 20.0
    expected = np.asarray(jax.jit(output)(weights, hidden, 1))
    mesh = sharding.make_mesh({"data": -1})
    network = making.Network(output, weights, "none", model)
    value = np.full(1, 20.0, np.float32)
    found = making.program(network, mesh, patch)(weights, jnp.asarray(volume), value, corners, np.int32(1))
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_another_volume_or_other_weights_are_computed_anew():
    model, weights, output = build((16, 16, 16), block_sizes=(1, 1))
    mesh = sharding.make_mesh({"data": -1})
    program = nearby.program(model, output, mesh, (4, 4, 4))
    other = jax.tree.map(lambda x: x * 1.1, weights)
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=(16, 16, 16, 1)), jnp.float32) for _ in range(2))
    nothing = np.full((1, 3), 16, np.int32)
    for its, volume in ((weights, a), (weights, b), (other, b), (weights, a)):
        found = program(its, volume, np.zeros(1, np.float32), nothing, np.int32(0))
        np.testing.assert_allclose(found, jax.jit(output)(its, volume[None], 0), rtol=1e-4, atol=1e-5)


def test_only_densenets_fit():
    vit = models.build("vit_b16_testing", num_outputs=1, input_size=(16, 16, 16), in_channels=1)
    assert not nearby.fits(vit)
    assert not nearby.fits(None)
