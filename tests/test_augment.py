"""Views: normalisation against NumPy in float64, each random change against what it may do, keys per sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import augment
from jaxneuro.errors import InputError

X = np.random.default_rng(0).normal(3, 2, (4, 7, 8, 9, 1)).astype(np.float16)


def test_brain_normalisation_is_a_z_score_over_what_is_not_zero():
    x = X.copy()
    x[:, :3] = 0
    out = np.asarray(augment.normalise(jnp.asarray(x), "brain"))
    for a, b in zip(x.astype(np.float64), out, strict=True):
        inside = a != 0
        np.testing.assert_allclose(b[inside], (a[inside] - a[inside].mean()) / a[inside].std(), atol=2e-5)
        assert not b[~inside].any()
    assert out.dtype == np.float32


def test_volume_normalisation_counts_every_voxel():
    out = np.asarray(augment.normalise(jnp.asarray(X), "volume"))
    a = X[1].astype(np.float64)
    np.testing.assert_allclose(out[1], (a - a.mean()) / a.std(), atol=2e-5)


def test_padding_and_constant_volumes_stay_finite():
    for how in ("brain", "volume", "none"):
        for value in (0.0, 2.0):
            assert np.isfinite(augment.normalise(jnp.full((1, 3, 3, 3, 1), value), how)).all()
    assert not np.asarray(augment.normalise(jnp.zeros((1, 3, 3, 3, 1)), "brain")).any()
    with pytest.raises(InputError, match="expected 'brain'"):
        augment.normaliser("brian")


def test_flip_mirrors_or_leaves():
    x = jnp.asarray(X[0], jnp.float32)
    seen = {bool((augment.flip(jax.random.key(i), x) == x).all()) for i in range(20)}
    assert seen == {True, False}
    np.testing.assert_array_equal(augment.flip(jax.random.key(0), x, axis=1, probability=1.0), X[0, :, ::-1])


def test_shift_moves_by_whole_voxels_and_fills_with_zeros():
    x = np.zeros((9, 9, 9, 1), np.float32)
    x[4, 4, 4] = 1
    places = {tuple(np.argwhere(np.asarray(augment.shift(jax.random.key(i), x, voxels=2)))[0][:3]) for i in range(200)}
    assert {p[0] for p in places} == {p[2] for p in places} == {2, 3, 4, 5, 6}
    ones = np.asarray(augment.shift(jax.random.key(1), jnp.ones((9, 9, 9, 1)), voxels=2))
    assert set(np.unique(ones)) <= {0.0, 1.0}
    assert ones.sum() >= 7**3


def test_noise_and_contrast_have_the_strength_asked_for():
    x = jnp.ones((20, 20, 20, 1))
    added = np.asarray(augment.noise(jax.random.key(0), x, low=0.5, high=0.5)) - 1
    assert added.std() == pytest.approx(0.5, rel=0.03)
    assert added.mean() == pytest.approx(0, abs=0.03)
    factors = [float(augment.contrast(jax.random.key(i), x, strength=0.2)[0, 0, 0, 0]) for i in range(100)]
    assert 0.8 <= min(factors) < 0.84
    assert 1.16 < max(factors) <= 1.2


def test_cutout_zeroes_one_box_of_the_right_size_anywhere():
    x = jnp.ones((8, 10, 13, 1))
    corners = set()
    cutout = jax.jit(lambda key: augment.cutout(key, x, share=0.25, probability=1.0))
    for i in range(150):
        gone = np.argwhere(np.asarray(cutout(jax.random.key(i)))[..., 0] == 0)
        low, high = gone.min(0), gone.max(0)
        np.testing.assert_array_equal(high - low + 1, [2, 3, 4])  # ceil of a quarter
        assert len(gone) == 24
        corners.add(tuple(low))
    assert {c[0] for c in corners} == set(range(7))
    np.testing.assert_array_equal(augment.cutout(jax.random.key(0), x, probability=0.0), x)


def test_every_sample_has_its_own_draw_and_the_same_key_the_same_draw():
    views = jax.jit(augment.build({"noise": {"low": 1.0, "high": 1.0}, "shift": {}}))
    same = jnp.ones((3, 6, 6, 6, 1))
    out = views(jax.random.key(0), same)
    assert not np.allclose(out[0], out[1])
    np.testing.assert_array_equal(out, views(jax.random.key(0), same))
    assert not np.allclose(out, views(jax.random.key(1), same))


def test_no_views_change_nothing():
    np.testing.assert_array_equal(augment.build({})(jax.random.key(0), X), X)


def test_order_of_application_does_not_hang_on_the_order_in_the_config():
    a = jax.jit(augment.build({"noise": {}, "flip": {}}))(jax.random.key(3), jnp.asarray(X, jnp.float32))
    b = jax.jit(augment.build({"flip": {}, "noise": {}}))(jax.random.key(3), jnp.asarray(X, jnp.float32))
    np.testing.assert_array_equal(a, b)


def test_unknown_views_and_parameters_are_named():
    with pytest.raises(InputError, match=r"found 'flop'; expected among \['contrast'"):
        augment.build({"flop": {}})
    with pytest.raises(InputError, match=r"augment\.flip: found \['probabilty'\]"):
        augment.build({"flip": {"probabilty": 0.1}})


@pytest.mark.parametrize(
    "views",
    [
        {"flip": {"probability": 2.0}},
        {"flip": {"probability": "a"}},
        {"shift": {"voxels": -1}},
        {"shift": {"voxels": 1.5}},
        {"flip": 1},
        {"noise": {"low": 0.5}},
    ],
)
def test_parameters_out_of_range_are_refused(views):
    with pytest.raises(InputError, match=r"augment\.\w+(\.\w+)?: found .*; expected"):
        augment.build(views)
