"""Masked modelling: which patches are hidden, losses in NumPy float64, what is refused, that a few steps learn."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.objectives import masked
from tests.models.every import abstract_init, random_variables

KEY = jax.random.key(0)


def volumes(b=3, size=(8, 8, 8), channels=1, seed=0):
    return np.random.default_rng(seed).normal(1, 1, size=(b, *size, channels)).astype(np.float32)


def spread(mask, patch):
    """Repeat a mask of patches [b, d, h, w] over voxels [b, d, h, w, 1]."""
    return np.kron(np.asarray(mask, np.float64), np.ones((1, *patch)))[..., None]


def cut(x, patch):
    """Cut volumes [b, d, h, w, c] into a list of patches [b, n, pd, ph, pw, c], box by box."""
    grid = [n // p for n, p in zip(x.shape[1:4], patch, strict=True)]
    boxes = [tuple(slice(i * p, i * p + p) for i, p in zip(at, patch, strict=True)) for at in np.ndindex(*grid)]
    return np.stack([x[(slice(None), *box)] for box in boxes], axis=1)


class Network:
    """Gives the same output whatever it sees, and notes what it is called with."""

    def __init__(self, outputs):
        self.outputs = jnp.asarray(outputs)

    def __call__(self, variables, x, *, train, mutable=(), rngs=None, **inputs):
        assert variables["params"] == "weights"
        self.x, self.inputs = x, inputs
        if not mutable:
            assert (train, rngs) == (False, None)
            return self.outputs, {}
        assert (train, list(rngs), variables["batch_stats"]) == (True, ["dropout"], "before")
        return (self.outputs, {}), {"batch_stats": "after"}


def run(objective, outputs, x, key=KEY):
    """Return the training loss of fixed outputs, its metrics, and what the network was called with."""

    @jax.jit
    def compiled(outputs, x, key):
        network = Network(outputs)
        value, (metrics, stats) = objective.loss(network, "weights", "before", {"volume": x}, key)
        assert network.x is x
        assert stats == "after"
        return value, metrics, network.inputs

    value, metrics, inputs = compiled(outputs, x, key)
    assert metrics["loss"] == value
    return float(value), metrics, inputs


def watch(function, outputs, x, key=KEY):
    """Return what `evaluate` or `pictures` of an objective gives for fixed outputs, and the inputs of the network."""

    @jax.jit
    def compiled(outputs, x, key):
        network = Network(outputs)
        return function(network, {"params": "weights"}, {"volume": x}, key), network.inputs

    return compiled(outputs, x, key)


def hidden_of(inputs, grid):
    """Return the mask [b, *grid] that a network was given, either way."""
    if "mask" in inputs:
        return np.asarray(inputs["mask"])
    mask = np.ones((len(inputs["keep"]), math.prod(grid)))
    np.put_along_axis(mask, np.asarray(inputs["keep"]), 0, axis=1)
    return mask.reshape(-1, *grid)


# --- Masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask_size", "ratio", "hidden"),
    [(16, 0.6, 130), (16, 0.75, 162), (16, 0.9, 195), (0, 0.9, 195), (32, 0.6, 17), (32, 0.75, 21), (32, 0.9, 25)],
)
def test_counts_of_hidden_blocks_at_96_voxels(mask_size, ratio, hidden):
    blocks = math.prod(masked.block_grid((6, 6, 6), (16, 16, 16), mask_size))
    assert blocks == (27 if mask_size == 32 else 216)
    assert masked.hidden_blocks("simmim", blocks, ratio) == hidden


def test_mae_rounds_what_is_kept():
    # 216 * (1 - 0.9) is 21.6; 10 * (1 - 0.9) is 0.99999... in floating point, and published code keeps none.
    assert [masked.hidden_blocks("mae", 216, ratio) for ratio in (0.6, 0.75, 0.9)] == [216 - 86, 216 - 54, 195]
    assert masked.hidden_blocks("mae", 10, 0.9) == 10


@given(st.sampled_from(masked.KINDS), st.integers(2, 3000), st.floats(0.01, 0.99))
def test_counts_are_the_nearest_that_hide_no_less(kind, blocks, ratio):
    hidden = masked.hidden_blocks(kind, blocks, ratio)
    assert blocks * ratio - 1e-9 < hidden < blocks * ratio + 1 + 1e-9


@given(*[st.tuples(*[st.integers(1, 5)] * 3) for _ in range(3)])
def test_blocks_that_fit_are_taken_and_others_refused(blocks, per_block, patch):
    grid = tuple(n * m for n, m in zip(blocks, per_block, strict=True))
    size = [m * p for m, p in zip(per_block, patch, strict=True)]
    assert masked.block_grid(grid, patch, size) == blocks
    assert masked.block_grid(grid, patch, 0) == grid
    with pytest.raises(InputError, match="mask_size: found"):
        masked.block_grid(grid, patch, [size[0], size[1], size[2] * (blocks[2] + 1)])


draw_masks = jax.jit(masked.draw_masks, static_argnums=(1, 2, 3))
LAYOUTS = [((2, 2, 2), (1, 1, 1)), ((3, 1, 2), (1, 3, 2)), ((1, 2, 1), (2, 2, 2))]


@settings(deadline=None)
@given(st.sampled_from(LAYOUTS), st.data())
def test_whole_blocks_are_hidden_and_as_many_as_asked_for(layout, data):
    blocks, per_block = layout
    hidden = data.draw(st.integers(1, math.prod(blocks) - 1))
    grid = tuple(n * m for n, m in zip(blocks, per_block, strict=True))
    mask = np.asarray(draw_masks(jax.random.key(data.draw(st.integers(0, 2**31 - 1))), 4, grid, blocks, hidden))
    assert mask.shape == (4, *grid)
    assert set(np.unique(mask)) == {0, 1}
    of_blocks = cut(mask[..., None], per_block).reshape(4, math.prod(blocks), -1)
    assert (of_blocks == of_blocks[..., :1]).all()
    np.testing.assert_array_equal(of_blocks[..., 0].sum(1), [hidden] * 4)


def test_every_block_is_hidden_equally_often_and_each_sample_draws_its_own():
    mask = np.asarray(draw_masks(KEY, 4000, (2, 2, 2), (2, 2, 2), 3)).reshape(4000, 8)
    # Five standard deviations of a share of 3/8 among 4000.
    np.testing.assert_allclose(mask.mean(0), 3 / 8, atol=5 * np.sqrt(3 / 8 * 5 / 8 / 4000))
    assert len(np.unique(mask, axis=0)) == math.comb(8, 3)
    again = draw_masks(jax.random.key(1), 4000, (2, 2, 2), (2, 2, 2), 3).reshape(4000, 8)
    assert (mask != again).any(1).mean() > 0.9


@pytest.mark.parametrize("kind", masked.KINDS)
def test_the_network_gets_masks_of_its_kind(kind):
    objective = masked.build(kind=kind, grid=(4, 2, 3), patch=(2, 2, 2), ratio=0.7, mask_size=(4, 2, 2))
    x = volumes(size=(8, 4, 6))
    outputs = np.zeros_like(x) if kind == "simmim" else np.zeros((3, 24, 8), np.float32)
    _, _, inputs = run(objective, outputs, x)
    # Of 12 blocks of two patches: SimMIM hides ceil(8.4), MAE keeps int(3.6).
    assert hidden_of(inputs, (4, 2, 3)).sum((1, 2, 3)).tolist() == [18] * 3
    if kind == "simmim":
        assert inputs["mask"].shape == (3, 4, 2, 3)
        assert inputs["mask"].dtype == jnp.float32
        return
    assert inputs["keep"].shape == (3, 6)
    assert inputs["keep"].dtype == jnp.int32
    assert (np.diff(inputs["keep"]) > 0).all()
    # Blocks are two patches long in depth, 6 numbers apart.
    assert all({k + 6 if k // 6 % 2 == 0 else k - 6 for k in row} == set(row) for row in inputs["keep"].tolist())


def test_masks_follow_the_key():
    objective = masked.build(kind="simmim", grid=(2, 2, 2), patch=(4, 4, 4), ratio=0.5)
    x = volumes(6)

    @jax.jit
    def mask_of(key):
        network = Network(x)
        objective.evaluate(network, {"params": "weights"}, {"volume": x}, key)
        return network.inputs["mask"]

    masks = [mask_of(key) for key in (KEY, KEY, jax.random.key(1))]
    np.testing.assert_array_equal(masks[0], masks[1])
    assert (masks[0] != masks[2]).any()
    assert len(np.unique(masks[0], axis=0)) > 1


# --- Losses -------------------------------------------------------------------------------------------------------


def test_the_published_value_of_simmim():
    rng = np.random.default_rng(0)
    x, rebuilt = (rng.standard_normal((2, 1, 8, 8, 8)).transpose(0, 2, 3, 4, 1) for _ in range(2))
    mask = np.zeros((2, 2, 2, 2))
    for place in ((0, 0, 0, 0), (0, 1, 1, 0), (1, 0, 1, 1)):
        mask[place] = 1
    voxels = masked.over_voxels(jnp.asarray(mask, jnp.float32), (4, 4, 4), x)
    assert voxels.sum() == 192
    value = masked.pooled(jnp.abs(jnp.asarray(x - rebuilt, jnp.float32)), voxels, (0, 1, 2, 3, 4))
    assert value == pytest.approx(1.2029685750679038, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("loss", "power"), [(None, 1), ("l2", 2)])
def test_simmim_by_hand(channels, loss, power):
    objective = masked.build(kind="simmim", grid=(4, 4, 4), patch=(2, 2, 2), ratio=0.6, mask_size=4, loss=loss)
    x, outputs = volumes(channels=channels), volumes(channels=channels, seed=1)
    value, metrics, inputs = run(objective, outputs, x)
    hidden = spread(hidden_of(inputs, (4, 4, 4)), (2, 2, 2))
    assert hidden.sum() == 3 * 5 * 64
    errors = np.abs(x.astype(np.float64) - outputs) ** power
    assert value == pytest.approx((errors * hidden).sum() / (hidden.sum() + 1e-5) / channels, rel=1e-5)
    means = [v[np.broadcast_to(h == 0, v.shape)].mean(dtype=np.float64) for v, h in zip(x, hidden, strict=True)]
    errors = np.abs(x - np.reshape(means, (3, 1, 1, 1, 1))) ** power
    assert metrics["baseline"] == pytest.approx((errors * hidden).sum() / hidden.sum() / channels, rel=1e-5)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("loss", "power"), [(None, 2), ("l1", 1)])
@pytest.mark.parametrize("normalise", [False, True])
def test_mae_by_hand(channels, loss, power, normalise):
    objective = masked.build(
        kind="mae", grid=(2, 2, 4), patch=(4, 4, 2), ratio=0.75, loss=loss, normalise_patches=normalise
    )
    x, outputs = volumes(channels=channels), np.random.default_rng(1).normal(size=(3, 16, 32 * channels))
    value, metrics, inputs = run(objective, outputs.astype(np.float32), x)
    hidden = hidden_of(inputs, (2, 2, 4)).reshape(3, 16)
    assert hidden.sum(1).tolist() == [12] * 3
    target = cut(x.astype(np.float64), (4, 4, 2)).reshape(3, 16, -1)
    visible = [v[h == 0].mean() for v, h in zip(target, hidden, strict=True)]
    if normalise:
        # Unbiased: over one less than the number of voxels.
        squares = ((target - target.mean(-1, keepdims=True)) ** 2).sum(-1, keepdims=True)
        target = (target - target.mean(-1, keepdims=True)) / np.sqrt(squares / (32 * channels - 1) + 1e-6)
    constant = np.zeros((3, 1, 1)) if normalise else np.reshape(visible, (3, 1, 1))
    for found, prediction in ((value, outputs), (metrics["baseline"], constant)):
        per_patch = (np.abs(target - prediction) ** power).mean(-1)
        assert found == pytest.approx((per_patch * hidden).sum() / hidden.sum(), rel=1e-5)


@pytest.mark.parametrize("kind", masked.KINDS)
def test_evaluation_is_by_sample(kind):
    objective = masked.build(kind=kind, grid=(2, 2, 2), patch=(4, 4, 4), ratio=0.5, loss="l1")
    x = volumes()
    outputs = np.zeros_like(x) if kind == "simmim" else np.zeros((3, 8, 64), np.float32)
    values, inputs = watch(objective.evaluate, outputs, x)
    assert values.shape == (3, 2)
    assert values.dtype == np.float32
    hidden = spread(hidden_of(inputs, (2, 2, 2)), (4, 4, 4))[..., 0] == 1
    for v, h, (value, baseline) in zip(x[..., 0].astype(np.float64), hidden, values, strict=True):
        assert value == pytest.approx(np.abs(v[h]).mean(), rel=1e-5)
        assert baseline == pytest.approx(np.abs(v[h] - v[~h].mean()).mean(), rel=1e-5)


def test_scores():
    objective = masked.build(kind="mae", grid=(2, 2, 2), patch=(4, 4, 4), ratio=0.5)
    nan = np.nan
    values = np.array([[1.0, 2], [2, 4], [nan, nan]], np.float32)
    assert objective.score(values, {}) == {"loss": 1.5, "baseline": 3.0, "explained": 0.5}
    # A network that fails is not left out of the mean.
    assert np.isnan(objective.score(np.array([[1.0, 2], [nan, 4]], np.float32), {})["loss"])
    assert all(np.isnan(v) for v in objective.score(values[2:], {}).values())
    assert np.isnan(objective.score(np.zeros((1, 2), np.float32), {})["explained"])
    assert (objective.metric, objective.mode, objective.views, objective.labels) == ("loss", "min", 1, ())


def test_patches_that_reach_beyond_the_volume_count_by_their_voxels():
    objective = masked.build(kind="simmim", grid=(2, 2, 2), patch=(4, 4, 4), ratio=0.5, normalise_patches=True)
    x, outputs = volumes(size=(8, 5, 7)), volumes(size=(8, 5, 7), seed=1)
    value, metrics, inputs = run(objective, outputs, x)
    hidden = spread(hidden_of(inputs, (2, 2, 2)), (4, 4, 4))[:, :, :5, :7]
    whole = np.pad(x.astype(np.float64), [(0, 0), (0, 0), (0, 3), (0, 1), (0, 0)])
    target = np.empty_like(whole)
    for at in np.ndindex(2, 2, 2):
        box = (slice(None), *(slice(4 * i, 4 * i + 4) for i in at))
        flat = whole[box].reshape(3, -1)
        mean, deviation = flat.mean(1), np.sqrt(flat.var(1, ddof=1) + 1e-6)
        target[box] = (whole[box] - mean.reshape(3, 1, 1, 1, 1)) / deviation.reshape(3, 1, 1, 1, 1)
    target = target[:, :, :5, :7]
    assert value == pytest.approx((np.abs(target - outputs) * hidden).sum() / hidden.sum(), rel=1e-5)
    assert metrics["baseline"] == pytest.approx((np.abs(target) * hidden).sum() / hidden.sum(), rel=1e-5)
    shown = watch(objective.pictures, outputs, x)[0]
    assert {v.shape for v in shown.values()} == {x.shape}
    with pytest.raises(InputError, match=r"found volumes of \(8, 9, 7\) voxels; .* \(2, 2, 2\) patches of \(4, 4, 4\)"):
        run(objective, volumes(size=(8, 9, 7)), volumes(size=(8, 9, 7)))


# --- Background ---------------------------------------------------------------------------------------------------


def heads(inside, seed=0):
    """Return volumes of 4^3 patches of 2^3 voxels that are 0 but in the patches `inside` [b, 64]."""
    x = volumes(len(inside), seed=seed)
    return (x * spread(np.asarray(inside).reshape(-1, 4, 4, 4), (2, 2, 2))).astype(np.float32)


@pytest.mark.parametrize("kind", masked.KINDS)
def test_brain_is_seen_first_and_background_does_not_count(kind):
    inside = np.zeros((3, 64))
    inside[0, :40] = inside[1, 10:30] = 1  # and a volume without any
    x = heads(inside)
    objective = masked.build(kind=kind, grid=(4, 4, 4), patch=(2, 2, 2), ratio=0.8, background="skip", loss="l1")
    outputs = volumes(seed=1) if kind == "simmim" else np.asarray(cut(volumes(seed=1), (2, 2, 2)).reshape(3, 64, 8))
    values, inputs = watch(objective.evaluate, outputs, x)
    hidden = hidden_of(inputs, (4, 4, 4)).reshape(3, 64)
    # Of 64 patches 12.8 are to be seen: 12 whichever is rounded.
    assert (1 - hidden).sum(1).tolist() == [12, 12, 12]
    assert ((1 - hidden) * inside).sum(1).tolist() == [12, 12, 0]
    counted = spread((hidden * inside).reshape(3, 4, 4, 4), (2, 2, 2))
    for b in (0, 1):
        v, seen = x[b].astype(np.float64), spread(1 - hidden.reshape(3, 4, 4, 4), (2, 2, 2))[b]
        for found, prediction in zip(values[b], (volumes(seed=1)[b], v[seen == 1].mean()), strict=True):
            assert found == pytest.approx((np.abs(v - prediction) * counted[b]).sum() / counted[b].sum(), rel=1e-5)
    assert np.isnan(values[2]).all()
    value, metrics, _ = run(objective, outputs, x)
    assert np.isfinite([value, metrics["baseline"]]).all()
    shown, _ = watch(objective.pictures, outputs, x)
    np.testing.assert_array_equal(shown["rebuilt"], np.where(counted == 1, volumes(seed=1), x))


def test_one_block_of_brain_stays_hidden():
    """Half of all blocks are visible, more than hold brain; by blocks of 2 x 1 x 1 patches."""
    share = np.zeros((50, 4, 4, 4), np.float32)
    share[:, :2, :2, :] = 0.06
    share[:, 0, 0, 0] = 0.0  # a block of shares 0 and 0.06 holds 0.03 on average: no brain
    share[:, 2, 3, 3] = 0.1  # and this one, 0.1 and 0, holds brain
    mask = np.asarray(draw_masks(KEY, 50, (4, 4, 4), (2, 4, 4), 16, share))[:, ::2]
    brain = np.zeros((2, 4, 4), bool)
    brain[0, :2] = brain[1, 3, 3] = True
    brain[0, 0, 0] = False
    assert mask.sum((1, 2, 3)).tolist() == [16] * 50
    assert mask[:, brain].sum(1).tolist() == [1] * 50
    # Which one is drawn.
    assert (mask[:, brain].sum(0) > 0).all()


def test_a_twentieth_of_a_patch_is_brain():
    """At 4^3 voxels: 3 of 64 are less than 5 %, 4 are more."""
    x = np.zeros((1, 4, 4, 8, 2), np.float32)
    x[0, 0, 0, :3, 0] = x[0, 1, :, 4, 1] = 1
    objective = masked.build(kind="simmim", grid=(1, 1, 2), patch=(4, 4, 4), ratio=0.5, background="skip")
    values, inputs = watch(objective.evaluate, np.zeros_like(x), x)
    # The second patch alone is brain, so it is the one that stays hidden: 4 of 128 values are 1.
    assert inputs["mask"].tolist() == [[[[0, 1]]]]
    assert values[0, 0] == pytest.approx(4 / 128, rel=1e-5)
    # Of the 128 visible values 3 are 1.
    assert values[0, 1] == pytest.approx((4 * (1 - 3 / 128) + 124 * 3 / 128) / 128, rel=1e-5)


# --- Pictures, networks, learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", masked.KINDS)
def test_pictures(kind, normalise):
    objective = masked.build(kind=kind, grid=(2, 2, 2), patch=(4, 4, 4), ratio=0.6, normalise_patches=normalise)
    x, made = volumes(channels=2), volumes(channels=2, seed=1)
    shown, inputs = watch(objective.pictures, made if kind == "simmim" else cut(made, (4, 4, 4)).reshape(3, 8, -1), x)
    hidden = spread(hidden_of(inputs, (2, 2, 2)), (4, 4, 4))
    np.testing.assert_array_equal(shown["volume"], x)
    np.testing.assert_array_equal(shown["masked"], np.where(hidden == 1, 0, x))
    want = made.astype(np.float64)
    if normalise:
        patches = cut(x.astype(np.float64), (4, 4, 4)).reshape(3, 2, 2, 2, -1)
        mean, deviation = patches.mean(-1), np.sqrt(patches.var(-1, ddof=1) + 1e-6)
        want = want * spread(deviation, (4, 4, 4)) + spread(mean, (4, 4, 4))
    np.testing.assert_allclose(shown["rebuilt"], np.where(hidden == 1, want, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", masked.KINDS)
def test_networks_take_the_masks_and_their_loss_is_that_of_their_outputs(kind):
    model = models.build(f"vit_b16_{kind}_testing", input_size=(16, 24, 16), depth=1)
    variables = random_variables(abstract_init(model))
    objective = masked.build(kind=kind, grid=model.encoder.grid(), patch=model.encoder.stride(), ratio=0.75)
    x = volumes(2, (16, 24, 16))

    @jax.jit
    def evaluate(variables, x):
        calls = []

        def apply(variables, x, **inputs):
            result = model.apply(variables, x, **inputs)
            calls.append((inputs, result[0]))
            return result

        values = objective.evaluate(apply, variables, {"volume": x}, KEY)
        ((inputs, outputs),) = calls
        return values, inputs, outputs

    values, inputs, outputs = evaluate(variables, x)
    hidden = hidden_of(inputs, (2, 3, 2)).reshape(2, 12)
    assert hidden.sum(1).tolist() == [9, 9]
    target = cut(x.astype(np.float64), (8, 8, 8)).reshape(2, 12, -1)
    made = np.asarray(outputs, np.float64)
    made = made if kind == "mae" else cut(made, (8, 8, 8)).reshape(2, 12, -1)
    errors = (np.abs(target - made) ** {"simmim": 1, "mae": 2}[kind]).mean(-1)
    np.testing.assert_allclose(values[:, 0], (errors * hidden).sum(1) / 9, rtol=1e-5)


@pytest.mark.parametrize(
    "keywords",
    [
        {"kind": "simmim"},
        {"kind": "mae"},
        {"kind": "mae", "normalise_patches": True},
        {"kind": "simmim", "background": "skip"},
    ],
    ids=str,
)
def test_a_few_steps_learn(keywords):
    """Volumes share a pattern, each with its own contrast; the network is a template times the mean it sees."""
    rng = np.random.default_rng(0)
    pattern = rng.uniform(0, 2, size=(8, 8, 8, 1)) * (np.arange(8) < 6)[:, None, None, None]
    x = jnp.asarray(pattern * rng.uniform(0.8, 1.2, size=(6, 1, 1, 1, 1)), jnp.float32)
    objective = masked.build(grid=(4, 4, 4), patch=(2, 2, 2), ratio=0.6, **keywords)

    def apply(variables, x, *, train, mutable=(), rngs=None, mask=None, keep=None):
        patches = masked.cut(x, (4, 4, 4), (2, 2, 2))
        if keep is None:
            seen = (patches.mean(-1) * (1 - mask.reshape(6, 64))).mean(1)
        else:
            seen = jnp.take_along_axis(patches.mean(-1), keep, axis=1).mean(1)
        outputs = variables["params"] * (1 + seen[:, None, None])
        outputs = outputs if mask is None else masked.unpatchify(outputs, (2, 2, 2), (4, 4, 4))
        return ((outputs, {}), {}) if mutable else (outputs, {})

    @jax.jit
    def step(params, key):
        def loss(params):
            return objective.loss(apply, params, {}, {"volume": x}, key)

        (_, (metrics, _)), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return params - 0.05 * jnp.sign(gradient), metrics

    params, history = jnp.zeros((64, 8)), []
    for i in range(60):
        params, metrics = step(params, jax.random.key(i))
        history.append([float(metrics["loss"]), float(metrics["baseline"])])
    assert history[0][0] > 0.9 * history[0][1]
    assert np.mean(history[-5:], axis=0)[0] < 0.5 * np.mean(history[-5:], axis=0)[1]
    values = np.asarray(jax.jit(lambda p: objective.evaluate(apply, {"params": p}, {"volume": x}, KEY))(params))
    assert objective.score(values, {})["explained"] > 0.5


CUBE = {"kind": "simmim", "grid": (6, 6, 6), "patch": (16, 16, 16)}


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"kind": "beit"}, "objective.kind: found 'beit'; expected one of simmim, mae"),
        ({"background": "drop"}, "objective.background: found 'drop'; expected one of keep, skip"),
        ({"loss": "huber"}, "objective.loss: found 'huber'; expected one of l1, l2"),
        ({"ratio": 0.0}, "objective.ratio: found 0.0; expected a share above 0 and below 1"),
        ({"ratio": 1.0}, "objective.ratio: found 1.0; expected a share"),
        ({"ratio": float("nan")}, "objective.ratio: found nan"),
        ({"mask_size": 24}, r"mask_size: found 24; .* patch \(16, 16, 16\) .* \(96, 96, 96\): 16, 32, 48, 96$"),
        ({"mask_size": 8}, "found 8; expected multiples"),
        ({"mask_size": 64}, "found 64; expected multiples"),
        ({"mask_size": -16}, "found -16; expected multiples"),
        ({"mask_size": (32, 32)}, r"found \(32, 32\); expected multiples"),
        (
            {"grid": (3, 2, 2), "patch": (2, 5, 7), "mask_size": 4},
            "2, 6 along axis 0; 5, 10 along axis 1; 7, 14 along axis 2",
        ),
        (
            {"mask_size": 48},
            r"ratio: found 0.9, which hides 8 of 8 blocks of \(48, 48, 48\) voxels; expected at least one hidden and "
            "one visible; try a ratio from 0.01 to 0.87, or mask_size 16 or 32$",
        ),
        # One part in 216 is kept at 0.99, one in 27 is not.
        ({"kind": "mae", "mask_size": 32, "ratio": 0.99}, "a ratio from 0.01 to 0.96, or mask_size 16$"),
        ({"kind": "mae", "ratio": 1e-17}, "which hides 0 of 216"),
        ({"mask_size": 96, "ratio": 0.5}, "hides 1 of 1 blocks .*; try mask_size 16 or 32 or 48$"),
        ({"grid": (1, 1, 1)}, "hides 1 of 1 blocks .*; try smaller blocks or patches$"),
        ({"patch": (1, 1, 1), "normalise_patches": True}, "objective.normalise_patches: found it for patches of one"),
    ],
)
def test_what_cannot_be_is_told(keywords, message):
    with pytest.raises(InputError, match=message) as caught:
        masked.build(**{**CUBE, **keywords})
    assert "\n" not in str(caught.value)
