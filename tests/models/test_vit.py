"""The ViT: counts, positions, patches hidden or left out, and what a user may get wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict

from jaxneuro import models
from tests.models.every import abstract_init, count, random_variables

CUBE = (96, 96, 96)


@pytest.mark.parametrize(
    ("width", "expected"), [(300, 7_798_500), (768, 45_842_688), (312, 8_380_008), (288, 7_237_728)]
)
def test_counts_at_96(width, expected):
    assert expected == 72 * width**2 + 4395 * width
    assert count(models.build("vit_b16", input_size=CUBE, width=width, num_outputs=0)) == expected


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [("vit_b16_w768", 768, 6), ("vit_b16_l12", 768, 12), ("vit_l16", 1024, 24), ("vit_h16", 1280, 32)],
)
def test_counts_of_the_named_sizes(name, width, depth):
    # Each block 12 w^2 + 13 w; patches 4097 w, class token w, positions 217 w, last norm 2 w; head w + 1.
    expected = depth * (12 * width**2 + 13 * width) + (4097 + 1 + 217 + 2) * width + width + 1
    assert count(models.build(name, input_size=CUBE)) == expected


@pytest.mark.parametrize(("width", "monai"), [(180, 8_220_132), (192, 8_822_208)])
def test_count_with_the_hidden_width_set_outright(width, monai):
    keywords = {"width": width, "mlp_hidden": 3072, "class_token": False, "pool": "mean", "num_outputs": 0}
    # MONAI's blocks have an unused norm of 2 w besides.
    assert count(models.build("vit_b16", input_size=CUBE, **keywords)) == monai - 6 * 2 * width


def test_positions_begin_as_fixed_or_normal():
    def begin(kind):
        model = models.build("vit_b16_testing", input_size=(32, 24, 40), positions=kind, depth=0)
        init = jax.jit(partial(model.init, train=False))
        return meta.unbox(init(jax.random.key(0), jnp.zeros((1, 32, 24, 40, 1)))["params"]["positions"])

    fixed = begin("sincos")
    assert not fixed[:, 0].any()
    np.testing.assert_allclose(jnp.sum(jnp.square(fixed[0, 1:]), -1), 12, rtol=1e-5)  # sin^2 + cos^2, 12 times
    learned = begin("learned")
    assert learned.shape == fixed.shape == (1, 61, 24)
    # 1,464 draws: the standard error of the deviation is 2 %, that of the mean 0.0005.
    assert abs(float(learned.std()) / 0.02 - 1) < 0.1
    assert abs(float(learned.mean())) < 0.0026


def test_fixed_positions_get_no_gradient_and_all_else_does():
    model = models.build("vit_b16_testing", input_size=(16, 24, 16), positions="sincos", pool="mean")
    variables = random_variables(abstract_init(model))
    x = np.random.default_rng(0).normal(size=(2, 16, 24, 16, 1)).astype(np.float32)
    gradients = jax.jit(jax.grad(lambda p: jnp.sum(model.apply({"params": p}, x, train=True)[0])))(variables["params"])
    largest = {path: float(jnp.abs(g).max()) for path, g in flatten_dict(gradients, sep="/").items()}
    assert [path for path, value in largest.items() if value == 0] == ["positions"]


@pytest.fixture(scope="module")
def small():
    """Return a model, its variables, volumes and a jitted evaluation of it."""
    model = models.build("vit_b16_testing", input_size=(16, 24, 16), num_outputs=3)
    x = np.random.default_rng(0).normal(size=(2, 16, 24, 16, 1)).astype(np.float32)
    return model, random_variables(abstract_init(model)), x, jax.jit(partial(model.apply, train=False))


def test_all_patches_kept_in_any_order_is_no_mask(small):
    _, variables, x, run = small
    order = np.stack([np.random.default_rng(i).permutation(12) for i in range(2)])
    plain, features = run(variables, x)
    kept, shuffled = run(variables, x, keep=order)
    np.testing.assert_allclose(kept, plain, rtol=1e-4, atol=1e-5)
    tokens = np.take_along_axis(np.asarray(features["tokens"][:, 1:]), order[..., None], 1)
    np.testing.assert_allclose(shuffled["tokens"][:, 1:], tokens, rtol=1e-4, atol=1e-5)
    assert "map" not in shuffled
    np.testing.assert_array_equal(features["map"].reshape(2, 12, 24), features["tokens"][:, 1:])
    assert {name: f.shape for name, f in features.items()} == {
        "block0": (2, 13, 24),
        "block1": (2, 13, 24),
        "tokens": (2, 13, 24),
        "map": (2, 2, 3, 2, 24),
        "pooled": (2, 24),
    }


def test_pooled_is_the_class_token_or_the_mean_of_the_patches(small):
    model, variables, x, run = small
    _, features = run(variables, x)
    np.testing.assert_array_equal(features["pooled"], features["tokens"][:, 0])
    for keep in (None, np.array([[0, 3, 11], [4, 9, 2]])):
        _, mean = jax.jit(partial(model.copy(pool="mean").apply, train=False))(variables, x, keep=keep)
        expected = np.asarray(mean["tokens"], np.float64)[:, 1:].mean(1)
        np.testing.assert_allclose(mean["pooled"], expected, rtol=1e-5, atol=1e-6)


def test_patches_not_kept_and_hidden_patches_have_no_influence(small):
    _, variables, x, run = small
    other = x.copy()
    other[:, 8:16, 16:24, 0:8] += 3.0  # patch (1, 2, 0) of 2 x 3 x 2: number 10
    keep = np.array([[0, 3, 11], [4, 9, 2]])
    mask = np.zeros((2, 2, 3, 2), np.float32)
    mask[:, 1, 2, 0] = 1
    for keywords in ({"keep": keep}, {"masked": (mask, np.ones(24, np.float32))}):
        np.testing.assert_array_equal(run(variables, x, **keywords)[0], run(variables, other, **keywords)[0])
    assert (run(variables, x)[0] != run(variables, other)[0]).any()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"input_size": (80, 81, 80)}, r"multiples of \(16, 16, 16\), such as \(80, 80, 80\)"),
        ({"input_size": (7, 80, 80)}, r"such as \(16, 80, 80\)"),
        ({"input_size": (91, 109, 91)}, r"such as \(96, 112, 96\)"),
        ({"input_size": (80, 80)}, r"expected three whole numbers of 1 or more, such as \(80, 80, 80\)"),
        ({"patch_size": (0, 16, 16)}, r"expected three whole numbers of 1 or more, such as \(16, 16, 16\)"),
        ({"width": 301}, "width 301 for 12 heads"),
        ({"mlp_hidden": 1200.0}, "found mlp_hidden=1200.0; expected a whole number"),
        ({"mlp_ratio": 0.001}, "found mlp_hidden None and mlp_ratio 0.001"),
        ({"positions": "sincos", "width": 40, "heads": 4}, "multiple of 6"),
        ({"positions": "rotary"}, "expected learned, or sincos"),
        ({"pool": "max"}, "expected mean, or class"),
        ({"class_token": False}, "expected mean"),
    ],
)
def test_what_cannot_be_is_told(keywords, message):
    with pytest.raises(ValueError, match=message):
        models.build("vit_b16", **keywords)
