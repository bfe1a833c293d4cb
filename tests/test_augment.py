"""Views: normalisation against NumPy in float64, blur and crop against SciPy, each random change against what it may do
and how often it should, keys per sample."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jaxneuro import augment
from jaxneuro.errors import InputError

X = np.random.default_rng(0).normal(3, 2, (4, 7, 8, 9, 1)).astype(np.float16)


def drawn(view, x, draws, **parameters):
    """Apply a view to the same x with as many keys; returns [draws, d, h, w, c]."""
    apply = jax.jit(jax.vmap(partial(view, **parameters), in_axes=(0, None)))
    return np.asarray(apply(jax.random.split(jax.random.key(7), draws), jnp.asarray(x, jnp.float32)))


def check_share(hits, expected):
    """Check that a share of draws is what it should be, to four standard errors."""
    assert abs(np.mean(hits) - expected) <= 4 * np.sqrt(expected * (1 - expected) / len(hits))


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
    for how in ("brain", "volume", "video", "none"):
        for value in (0.0, 2.0):
            assert np.isfinite(augment.normalise(jnp.full((1, 3, 3, 3, 1), value), how)).all()
    assert not np.asarray(augment.normalise(jnp.zeros((1, 3, 3, 3, 1)), "brain")).any()
    with pytest.raises(InputError, match="expected 'brain'"):
        augment.normaliser("brian")


def test_bytes_are_normalised_as_floats_are():
    x = np.random.default_rng(1).integers(0, 4, (2, 4, 5, 6, 1), np.uint8) * 60  # some zeros, sums beyond a byte
    for how in ("brain", "volume", "none"):
        out = np.asarray(augment.normalise(jnp.asarray(x), how))
        a = x[1].astype(np.float64)
        inside = a != 0 if how == "brain" else np.ones_like(a, bool)
        expected = a if how == "none" else np.where(inside, (a - a[inside].mean()) / a[inside].std(), 0)
        np.testing.assert_allclose(out[1], expected, atol=2e-5)
        assert out.dtype == np.float32


def test_clips_are_normalised_by_the_constants_of_their_channels():
    x = np.zeros((1, 2, 3, 3, 3), np.uint8)
    x[0, 1, 2, 0] = (255, 51, 102)
    out = np.asarray(jax.jit(augment.normaliser("video"))(x))
    assert out[0, 1, 2, 0] == pytest.approx([0.515 / 0.229, -0.256 / 0.224, -0.006 / 0.225], abs=1e-6)
    assert out[0, 0, 0, 0] == pytest.approx([-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], abs=1e-6)
    grey = np.asarray(augment.normalise(jnp.full((1, 2, 3, 3, 1), 102.0, jnp.float16), "video"))
    np.testing.assert_allclose(grey, (0.4 - 0.449) / 0.226, atol=1e-6)
    with pytest.raises(InputError, match=r"data\.normalise: found 'video' for data with 2 channels; expected 1"):
        jax.eval_shape(augment.normaliser("video"), jax.ShapeDtypeStruct((1, 2, 3, 3, 2), jnp.uint8))


def test_flip_mirrors_or_leaves():
    x = jnp.asarray(X[0], jnp.float32)
    seen = {bool((augment.flip(jax.random.key(i), x) == x).all()) for i in range(20)}
    assert seen == {True, False}
    np.testing.assert_array_equal(augment.flip(jax.random.key(0), x, axis=1, probability=1.0), X[0, :, ::-1])


def test_shift_moves_by_whole_voxels_and_fills_with_zeros():
    x = np.zeros((9, 9, 9, 1), np.float32)
    x[4, 4, 4] = 1
    places = {tuple(np.argwhere(out)[0][:3]) for out in drawn(augment.shift, x, 200, voxels=2)}
    assert {p[0] for p in places} == {p[2] for p in places} == {2, 3, 4, 5, 6}
    ones = drawn(augment.shift, np.ones((9, 9, 9, 1)), 20, voxels=2)
    assert set(np.unique(ones)) == {0.0, 1.0}
    assert ones.sum((1, 2, 3, 4)).min() >= 7**3


def test_noise_and_contrast_have_the_strength_asked_for():
    x = jnp.ones((20, 20, 20, 1))
    added = drawn(augment.noise, x, 1, low=0.5, high=0.5) - 1
    assert added.std() == pytest.approx(0.5, rel=0.03)
    assert added.mean() == pytest.approx(0, abs=0.03)
    factors = drawn(augment.contrast, x[:1, :1, :1], 100, strength=0.2).ravel()
    assert 0.8 <= min(factors) < 0.84
    assert 1.16 < max(factors) <= 1.2


def test_cutout_zeroes_one_box_of_the_right_size_anywhere():
    x = jnp.ones((8, 10, 13, 1))
    corners = set()
    for out in drawn(augment.cutout, x, 150, share=0.25, probability=1.0):
        gone = np.argwhere(out[..., 0] == 0)
        low, high = gone.min(0), gone.max(0)
        np.testing.assert_array_equal(high - low + 1, [2, 3, 4])  # ceil of a quarter
        assert len(gone) == 24
        corners.add(tuple(low))
    assert {c[0] for c in corners} == set(range(7))
    assert (drawn(augment.cutout, x, 9, probability=0.0) == 1).all()


@pytest.mark.parametrize(("published", "axes"), [(False, 3), (True, 4)])
def test_a_drawn_axis_is_one_of_three_or_as_published_of_four(published, axes):
    x = np.random.default_rng(2).normal(size=(2, 3, 4, 1)).astype(np.float32)
    out = drawn(augment.flip, x, 4000, axis=-1, probability=0.6, published=published)
    along = [(out == np.flip(x, a)).all((1, 2, 3, 4)) for a in range(3)]
    for hits in along:
        check_share(hits, 0.6 / axes)
    same = (out == x).all((1, 2, 3, 4))
    check_share(same, 1 - 0.6 * 3 / axes)
    assert (same + np.sum(along, 0) == 1).all()


def test_blur_is_scipys_for_whatever_was_drawn():
    # A point in the second channel shows what was drawn: the ratio of its first two taps is exp(-1 / (2 sigma^2)).
    x = np.zeros((3, 9, 14, 2), np.float32)  # the depth is shorter than the reach, so that it is mirrored twice
    x[..., 0] = np.random.default_rng(3).normal(3, 2, x.shape[:3])
    x[1, 4, 7, 1] = 1
    reaches = set()
    for out in drawn(augment.blur, x, 80, low=0.0, high=1.2, probability=1.0):
        line = out[1, 4, :, 1].astype(np.float64)
        sigma = np.sqrt(-0.5 / np.log(line[8] / line[7])) if line[8] else 0.0
        reach = int(4 * sigma + 0.5)
        assert np.count_nonzero(line) == 2 * reach + 1
        expected = ndimage.gaussian_filter(x[..., 0].astype(np.float64), sigma)
        np.testing.assert_allclose(out[..., 0], expected, atol=5e-6)
        np.testing.assert_allclose(out[..., 1], ndimage.gaussian_filter(x[..., 1], sigma), atol=1e-6)
        reaches.add(reach)
    assert reaches == {0, 1, 2, 3, 4, 5}


def test_blur_draws_sigma_evenly_and_as_often_as_asked():
    x = np.zeros((1, 1, 15, 1), np.float32)
    x[0, 0, 7] = 1
    line = drawn(augment.blur, x, 4000, probability=0.4)[:, 0, 0, :, 0].astype(np.float64)
    blurred = line[:, 8] > 0
    check_share(blurred, 0.4 * (1 - 0.125) / (1 - 0.1))  # below 0.125 the centre is the only tap
    sigma = np.sqrt(-0.5 / np.log(line[blurred, 8] / line[blurred, 7]))
    assert stats.kstest(sigma, stats.uniform(0.125, 0.875).cdf).pvalue > 0.01


def test_noise_comes_as_often_and_as_strong_as_asked():
    added = drawn(augment.noise, np.zeros((10, 10, 10, 1)), 800, low=0.1, high=1.0, probability=0.5)
    strength = added.std((1, 2, 3, 4))
    check_share(strength > 0, 0.5)
    assert stats.kstest(strength[strength > 0], stats.uniform(0.1, 0.9).cdf).pvalue > 0.01
    assert (
        stats.kstest(
            (added / np.maximum(strength, 1e-9)[:, None, None, None, None])[strength > 0][:9].ravel(), stats.norm.cdf
        ).pvalue
        > 0.01
    )


@pytest.mark.parametrize(("share", "sides"), [(0.75, (6, 9, 10)), (0.3, (3, 4, 4))])
def test_crop_is_scipys_zoom_of_whichever_box_was_drawn(share, sides):
    shape = (8, 12, 13)
    # Further channels hold the coordinates: the first voxel of what comes out tells the corner of the box.
    x = np.stack([np.random.default_rng(4).normal(size=shape), *np.indices(shape)], axis=-1)
    corners = set()
    for out in drawn(augment.crop, x, 150, share=share, probability=1.0):
        corner = tuple(out[0, 0, 0, 1:].round().astype(int))
        box = x[tuple(slice(c, c + side) for c, side in zip(corner, sides, strict=True))][..., 0]
        factors = np.divide(shape, sides)
        expected = ndimage.zoom(box, factors, order=1, mode="nearest", grid_mode=True, prefilter=False)
        np.testing.assert_allclose(out[..., 0], expected, atol=2e-6)
        corners.add(corner)
    for axis in range(3):
        assert {c[axis] for c in corners} == set(range(shape[axis] - sides[axis] + 1))


def test_crop_and_cutout_come_as_often_as_asked():
    x = np.random.default_rng(5).normal(size=(4, 4, 4, 1)).astype(np.float32)
    for view in (augment.crop, augment.cutout):
        check_share((drawn(view, x, 2000, probability=0.3) != x).any((1, 2, 3, 4)), 0.3)
    np.testing.assert_allclose(augment.crop(jax.random.key(0), x, share=1.0, probability=1.0), x, atol=1e-7)


def test_views_keep_the_order_of_the_published_ones():
    assert list(augment.VIEWS) == ["flip", "shift", "blur", "noise", "contrast", "cutout", "crop"]
    # The noise comes before the box is cut, so that nothing is left in it, whatever the config says first.
    views = {"cutout": {"probability": 1.0}, "noise": {"low": 1.0, "high": 1.0}}
    out = np.asarray(augment.build(views)(jax.random.key(0), jnp.ones((1, 8, 8, 8, 1))))
    assert np.count_nonzero(out == 0) == 8


def test_views_of_a_sample_are_drawn_independently_of_each_other_and_of_other_samples():
    x = jnp.asarray(np.arange(1, 65, dtype=np.float32).reshape(1, 4, 4, 4, 1)).repeat(1200, 0)
    out = np.asarray(jax.jit(augment.build({"flip": {}, "cutout": {}}))(jax.random.key(1), x))[..., 0]
    flipped = out[:, 0].max((1, 2)) > out[:, 3].max((1, 2))
    cut = (out == 0).any((1, 2, 3))
    for a, b in ((flipped, cut), (flipped[1:], flipped[:-1]), (cut[1:], cut[:-1])):
        for both in (a & b, a & ~b, ~a & b, ~a & ~b):
            check_share(both, 0.25)


@pytest.mark.parametrize("name", list(augment.VIEWS))
def test_a_batch_is_each_sample_on_its_own(name):
    view, keys = augment.VIEWS[name], jax.random.split(jax.random.key(2), 6)
    x = jnp.asarray(np.random.default_rng(6).normal(size=(6, 4, 5, 6, 2)), jnp.float32)
    alone = jax.jit(view)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(view))(keys, x), [alone(k, v) for k, v in zip(keys, x, strict=True)], atol=1e-6
    )


@pytest.mark.parametrize("size", [6, pytest.param(16, marks=pytest.mark.slow)])
def test_samples_one_by_one_and_all_at_once_come_out_the_same(size):
    views = {"flip": {"axis": -1}, "blur": {}, "noise": {"probability": 0.5}, "cutout": {}, "crop": {}}
    x = jnp.asarray(np.random.default_rng(7).normal(size=(6, 4, 5, size, 1)), jnp.float32)
    program = jax.jit(augment.build(views))

    def chain(key, x):
        for i, name in enumerate(augment.VIEWS):
            x = augment.VIEWS[name](jax.random.fold_in(key, i), x, **views[name]) if name in views else x
        return x

    at_once = jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(3), 6), x)
    np.testing.assert_allclose(program(jax.random.key(3), x), at_once, atol=2e-6)
    # One program over the batch for accelerators, a loop on a CPU.
    traced = program.trace(jax.random.key(3), x)
    assert "stablehlo.while" not in traced.lower(lowering_platforms=("cuda",)).as_text()


def test_views_of_clips_change_their_channels_alike():
    x = np.random.default_rng(8).normal(size=(5, 4, 6, 7, 1)).repeat(3, -1).astype(np.float32)
    views = {n: {} for n in augment.VIEWS if n != "noise"} | {"flip": {"axis": -1}}
    out = np.asarray(jax.jit(augment.build(views))(jax.random.key(4), x))
    assert out.shape == x.shape
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[..., 1:], out[..., :1].repeat(2, -1), atol=1e-6)
    assert (np.abs(out - x).max((1, 2, 3, 4)) > 0.01).all()


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
    with pytest.raises(InputError, match=r"found 'flop'; expected among \['blur', 'contrast'"):
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
        {"flip": {"axis": -2}},
        {"flip": {"axis": True}},
        {"flip": {"axis": -1, "published": 1}},
        {"flip": {"published": "true"}},
        {"flip": {"published": True}},
        {"blur": {"high": 11.0}},
        {"blur": {"low": 0.5, "high": 0.2}},
        {"blur": {"probability": float("nan")}},
        {"crop": {"share": 0.0}},
    ],
)
def test_parameters_out_of_range_are_refused(views):
    with pytest.raises(InputError, match=r"augment\.\w+(\.\w+)?: found .*; expected"):
        augment.build(views)


def test_whole_numbers_may_be_written_as_floats_and_the_other_way_round():
    views = {"flip": {"axis": 1.0, "probability": 1}, "shift": {"voxels": 0.0}}
    np.testing.assert_array_equal(augment.build(views)(jax.random.key(0), X), X[:, :, ::-1])
