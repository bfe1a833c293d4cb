"""The published rules, against plain forms of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxneuro.errors import InputError
from jaxneuro.video import sampling
from jaxneuro.video.sampling import Recipe

RECIPES = st.builds(
    Recipe,
    name=st.just("r"),
    frames=st.integers(1, 40),
    stride=st.integers(1, 5),
    short_side=st.integers(40, 64),
    crop=st.integers(8, 40),
)
SIZES = st.tuples(st.integers(2, 400), st.integers(2, 400)).filter(lambda s: max(s) <= 16 * min(s))


@given(RECIPES, st.integers(1, 300), st.integers(1, 12))
def test_test_clips_are_those_of_the_published_rule(recipe, count, clips):
    """mmaction2, SampleFrames in test mode: offsets over the frames that a clip leaves free, modulo the length."""
    free = max(count - ((recipe.frames - 1) * recipe.stride + 1), 0)
    offsets = np.around(np.arange(clips) * (free / (clips - 1))) if clips > 1 else np.array([free // 2])
    expected = (offsets[:, None].astype(int) + np.arange(recipe.frames) * recipe.stride) % count
    starts = sampling.test_starts(recipe, count, clips)
    np.testing.assert_array_equal([sampling.slots(recipe, s, count) for s in starts], expected)


def test_four_clips_of_a_kinetics_video():
    """By hand: 300 frames, a clip spans 63, 237 are free: 0, 79, 158, 237."""
    recipe = sampling.RECIPES["clip32x2"]
    assert sampling.test_starts(recipe, 300, 4) == [0, 79, 158, 237]
    assert sampling.slots(recipe, 237, 300)[-1] == 299
    assert sampling.test_starts(recipe, 300, 1) == [118]
    assert list(sampling.slots(recipe, 0, 10)[:7]) == [0, 2, 4, 6, 8, 0, 2]


def test_three_crops_lie_along_the_longer_side():
    recipe = Recipe("r", frames=1, stride=1, short_side=16, crop=10)
    views = sampling.test_views(recipe, 5, (20, 41), 1, 3)
    assert [v.side for v in views] == [10] * 3
    # 41 x 20 becomes 21 x 10 (20.5 rounded up); 11 pixels are free, the middle is at 5.
    assert [v.box for v in views] == [(0, 0, 10, 10), (0, 5, 10, 10), (0, 10, 10, 10)]
    upright = sampling.test_views(recipe, 5, (41, 20), 1, 3)
    assert [v.box[:2] for v in upright] == [(0, 0), (5, 0), (10, 0)]
    (centre,) = sampling.test_views(recipe, 5, (20, 40), 1, 1)
    assert (centre.side, centre.box) == (16, (3, 11, 10, 10))


@given(RECIPES, st.integers(1, 300), SIZES, st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_a_drawn_clip_lies_inside_the_video_and_the_picture(recipe, count, size, seed, epoch):
    view = sampling.draw(recipe, count, size, (seed, epoch, 3))
    assert view == sampling.draw(recipe, count, size, (seed, epoch, 3))
    assert 0 <= view.start <= max(count - recipe.frames * recipe.stride, 0)
    top, left, height, width = view.box
    tall, wide = sampling.resized(*size, recipe.short_side)
    assert min(tall, wide) == recipe.short_side
    assert 0 <= top <= top + height <= tall
    assert 0 <= left <= left + width <= wide
    assert height > 0
    assert width > 0


def test_draws_cover_times_and_areas_as_published():
    recipe = sampling.RECIPES["clip32x2"]
    views = [sampling.draw(recipe, 100, (256, 256), (0, i)) for i in range(2000)]
    # 100 frames leave 37 starts for 32 x 2.
    assert {v.start for v in views} == set(range(37))
    share = np.array([v.box[2] * v.box[3] for v in views]) / 256**2
    ratio = np.array([v.box[3] / v.box[2] for v in views])
    assert 0.07 < share.min() < 0.1
    assert 0.9 < share.max() <= 1.0
    assert 0.74 < ratio.min() < 0.77
    assert 1.3 < ratio.max() < 1.35
    assert abs(np.log(ratio).mean()) < 0.02


@pytest.mark.parametrize("text", ["4", "4x2", "0x1", "x3", "4x3x1", "100x1", ""])
def test_other_views_are_refused(text):
    with pytest.raises(InputError, match=r"--views: found '.*'; expected clips x crops, such as 4x3"):
        sampling.parse_views(text)


def test_a_recipe_comes_back_from_its_card():
    for recipe in sampling.RECIPES.values():
        assert sampling.of_card({"recipe": recipe.describe()}) == recipe
    assert sampling.RECIPES["video80"].shape == (80, 80, 80, 1)
    assert sampling.RECIPES["clip32x2"].shape == (32, 224, 224, 3)
