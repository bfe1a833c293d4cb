"""Video Swin: counts, grids, indices and masks by brute force, and what a user may get wrong."""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import models
from jaxneuro.models import swin
from tests.models.every import abstract_init, count, random_variables

WINDOW = (8, 7, 7)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({}, 27_845_095),
        ({"num_outputs": 0}, 27_844_326),
        ({"num_outputs": 2}, 27_845_864),
        ({"num_outputs": 0, "in_channels": 3}, 27_850_470),
        ({"num_outputs": 400, "in_channels": 3}, 28_158_070),
    ],
)
def test_measured_counts(keywords, expected):
    assert count(models.build("swin_t", input_size=(8, 28, 28), **keywords)) == expected


@pytest.mark.parametrize(
    ("size", "grids"),
    [
        ((80, 80, 80), [(40, 20, 20), (40, 10, 10), (40, 5, 5), (40, 3, 3)]),
        ((96, 96, 96), [(48, 24, 24), (48, 12, 12), (48, 6, 6), (48, 3, 3)]),
        ((79, 81, 83), [(40, 21, 21), (40, 11, 11), (40, 6, 6), (40, 3, 3)]),
    ],
)
def test_grids_of_tokens(size, grids):
    model = models.build("swin_t", input_size=size)
    x = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    outputs, features = jax.eval_shape(lambda v, x: model.apply(v, x, train=False), abstract_init(model), x)
    assert outputs.shape == (2, 1)
    for s, grid in enumerate(grids):
        assert features[f"stage{s}"].shape == (2, *grid, 96 * 2**s)
    assert features["map"].shape == (2, *grids[-1], 768)
    assert features["pooled"].shape == (2, 768)


def test_index_of_the_whole_window():
    index = swin.relative_index(WINDOW, WINDOW, "published")
    assert index.shape == (392, 392)
    assert index[0, :3].tolist() == [1267, 1266, 1265]
    assert index.max() == 2534
    np.testing.assert_array_equal(index, swin.relative_index(WINDOW, WINDOW, "geometric"))


def offsets(used):
    """Return the row of the true offset of each pair of tokens, by loops."""
    tokens = list(itertools.product(*map(range, used)))
    rows = np.empty((len(tokens), len(tokens)), int)
    for i, (a, b, c) in enumerate(tokens):
        for j, (d, e, f) in enumerate(tokens):
            rows[i, j] = (a - d + 7) * 13 * 13 + (b - e + 6) * 13 + (c - f + 6)
    return rows


@pytest.mark.parametrize(("used", "right"), [((8, 5, 5), 0.019), ((8, 3, 3), 0.036), ((8, 6, 6), 0.015)])
def test_index_of_a_clipped_window(used, right):
    true = offsets(used)
    np.testing.assert_array_equal(swin.relative_index(WINDOW, used, "geometric"), true)
    published = swin.relative_index(WINDOW, used, "published")
    np.testing.assert_array_equal(published, offsets(WINDOW)[: math.prod(used), : math.prod(used)])
    assert round((published == true).mean(), 3) == right


def test_tokens_are_told_apart_by_regions():
    grid, window, shift = (16, 14, 7), (8, 7, 7), (4, 3, 0)

    def region(n, w, s, i):
        return 0 if not s or i < n - w else 1 if i < n - s else 2

    found = swin.regions(grid, window, shift)
    assert found.shape == (4, 392)
    places = list(itertools.product(range(2), range(2), range(1)))
    tokens = list(itertools.product(*map(range, window)))
    for number, place in enumerate(places):
        labels = []
        for token in tokens:
            at = [p * w + t for p, w, t in zip(place, window, token, strict=True)]
            labels.append(tuple(region(*axis) for axis in zip(grid, window, shift, at, strict=True)))
        here = found[number]
        np.testing.assert_array_equal(here[:, None] == here[None], [[a == b for b in labels] for a in labels])
    assert swin.regions(grid, window, (0, 0, 0)) is None


def test_windows_are_clipped_on_the_unpadded_grid():
    assert swin.clipped((40, 20, 20), WINDOW, (4, 3, 3)) == ((8, 7, 7), (4, 3, 3))
    assert swin.clipped((40, 5, 7), WINDOW, (4, 3, 3)) == ((8, 5, 7), (4, 0, 0))
    assert swin.clipped((8, 3, 3), WINDOW, (4, 3, 3)) == ((8, 3, 3), (0, 0, 0))


def test_bias_index_matters_only_where_a_window_is_clipped():
    for size, same in (((16, 48, 48), True), ((16, 16, 16), False)):
        model = models.build("swin_t_testing", input_size=size)
        variables = random_variables(abstract_init(model))
        x = jax.random.normal(jax.random.key(1), (1, *size, 1))
        published, geometric = (
            jax.jit(partial(model.copy(bias_index=rule).apply, train=False))(variables, x)[0]
            for rule in swin.BIAS_INDEX
        )
        assert bool((published == geometric).all()) == same


def test_hidden_patches_have_no_influence():
    size = (8, 16, 16)
    model = models.build("swin_t_testing", input_size=size, time_axis=1)
    assert model.grid() == (2, 8, 4)  # patches of 4 x 2 x 4: time is the second axis
    variables = random_variables(abstract_init(model))
    x = np.random.default_rng(0).normal(size=(1, *size, 1)).astype(np.float32)
    mask = np.zeros((1, *model.grid()), np.float32)
    token = np.ones(12, np.float32)

    @jax.jit
    def run(x, mask):
        return model.apply(variables, x, train=False, masked=(mask, token))[0]

    plain = model.apply(variables, x, train=False)[0]
    np.testing.assert_allclose(run(x, mask), plain, rtol=1e-5)
    mask[0, 1, 3, 2] = 1
    hidden = run(x, mask)
    assert (hidden != plain).all()
    other = x.copy()
    other[0, 4:8, 6:8, 8:12] += 5.0
    np.testing.assert_array_equal(run(other, mask), hidden)
    other[0, 3, 6, 8] += 5.0
    assert (run(other, mask) != hidden).all()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"input_size": (80, 80)}, "expected three whole numbers"),
        ({"input_size": (80, 0, 80)}, "expected three whole numbers"),
        ({"bias_index": "true"}, "expected one of published, geometric"),
        ({"time_axis": 3}, "expected 0 .depth., 1 .height. or 2 .width."),
        ({"heads": (5, 6, 12, 24)}, "each dividing its stage's width"),
        ({"depths": (2, 2)}, "as many heads as depths"),
    ],
)
def test_what_cannot_be_is_told(keywords, message):
    with pytest.raises(ValueError, match=message):
        models.build("swin_t", **keywords)
