"""What holds for every model by name: paths, axes, sizes, training."""

import re
from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from flax.traverse_util import flatten_dict

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.models import cost, layers
from tests.models.every import abstract_init, boxed_init, example, random_variables

GOLDEN = Path(__file__).parents[1] / "golden"
TESTING = [name for name in models.MODELS if name.endswith("_testing")]
#: DenseNets have tests of their own for these; the decoders' backbones stand for them.
TRANSFORMERS = [name for name in TESTING if "densenet" not in name and not models.MODELS[name].encoder]
FAMILIES = ["densenet121", "minit", "nit", "swin_t", "tiny_densenet", "vit_b16"]
FAMILIES += ["minit_simmim", "nit_simmim", "swin_t_simmim", "vit_b16_mae"]
SIZE = {"densenet": (32, 32, 32), "nit": (24, 32, 24), "minit": (32, 16, 32), "vit": (16, 24, 16), "swin": (10, 19, 26)}


def size_of(name):
    return SIZE[name.removeprefix("tiny_").split("_")[0].rstrip("0123456789")]


def tiny(name, **keywords):
    return models.build(name, input_size=size_of(name), **keywords)


def without_draws(name):
    """Return what switches off what a name draws in training."""
    known = models.build(name, input_size=size_of(name))
    known = getattr(known, "encoder", known)
    return {k: 0.0 for k in ("drop_rate", "drop_path", "embed_drop_rate") if hasattr(known, k)}


@cache
def evaluation(model):
    return jax.jit(partial(model.apply, train=False))


def outputs_of(model, variables, inputs):
    return evaluation(model)(variables, **inputs)


@cache
def training(model):
    def loss(params, rest, inputs, key):
        (y, _), updates = model.apply(
            {**rest, "params": params}, **inputs, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        return jnp.mean(jnp.square(y)), updates

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def step(model, variables, inputs, seed=0):
    """Return loss, statistics and gradients of one training step."""
    return training(model)(variables["params"], variables, inputs, jax.random.key(seed))


def test_every_family_has_a_testing_size():
    families = {models.MODELS[name].builder for name in models.MODELS}
    assert {models.MODELS[name].builder for name in TESTING} == families
    assert {size_of(name) for name in models.MODELS} == set(SIZE.values())


def test_the_docs_name_every_model():
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
    table = [line.split("|")[1] for line in text.split("## ")[0].splitlines() if line.startswith("| `")]
    named = re.findall(r"`(\w+)`", " ".join(table))
    tiny = re.findall(r"`(\w+_testing)`", text)
    assert sorted([*named, *tiny]) == sorted(models.MODELS)


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_paths(name):
    """Paths are what converters, checkpoints and users hold on to."""
    flat = flatten_dict(abstract_init(models.build(name)), sep="/")
    lines = sorted(f"{path} {'x'.join(map(str, leaf.shape))}" for path, leaf in flat.items())
    count = sum(leaf.size for path, leaf in flat.items() if path.startswith("params/"))
    assert [*lines, f"parameters {count}"] == (GOLDEN / f"{name}.txt").read_text().splitlines()


@pytest.mark.parametrize("name", models.MODELS)
def test_every_matrix_is_annotated_with_known_axes(name):
    params = boxed_init(models.build(name))["params"]
    for path, leaf in jax.tree.leaves_with_path(params, is_leaf=lambda x: isinstance(x, meta.AxisMetadata)):
        if isinstance(leaf, nn.LogicallyPartitioned):
            assert len(leaf.names) == leaf.value.ndim
            assert set(leaf.names) <= set(layers.LOGICAL_AXES), path
        else:
            assert leaf.ndim < 2, path


@pytest.mark.parametrize("name", TESTING)
def test_outputs_and_features_are_what_is_promised(name):
    model = tiny(name, in_channels=3)
    inputs, variables = example(model), random_variables(abstract_init(model))
    assert set(variables) <= {"params", "batch_stats"}
    y, features = outputs_of(model, variables, inputs)
    assert y.dtype == jnp.float32
    assert np.isfinite(y).all()
    assert features["pooled"].ndim == 2
    if "keep" not in inputs:
        assert features["map"].ndim == 5
    # Without training each volume stands alone.
    alone = outputs_of(model, variables, {k: v[:1] for k, v in inputs.items()})[0]
    np.testing.assert_allclose(alone, y[:1], rtol=2e-4, atol=2e-5 * float(jnp.abs(y).max()))
    if not hasattr(model, "encoder"):
        bare = tiny(name, num_outputs=0)
        assert not any(k in abstract_init(bare)["params"] for k in ("head", "distill"))
        y, features = outputs_of(bare, random_variables(abstract_init(bare)), example(bare))
        np.testing.assert_array_equal(y, features["pooled"])


@pytest.mark.parametrize("name", TESTING)
def test_gradients_reach_every_parameter(name):
    model = tiny(name)
    (loss, _), gradients = step(model, random_variables(abstract_init(model)), example(model, batch=4))
    assert np.isfinite(loss)
    unreached = {
        "/".join(k.key for k in path) for path, g in jax.tree.leaves_with_path(gradients) if not np.abs(g).max() > 0
    }
    fixed = {"decoder/positions"} if "_mae" in name else set()
    fixed |= {f"distill/{leaf}" for leaf in ("norm/scale", "norm/bias", "out/kernel", "out/bias")} | {"distill_token"}
    assert unreached <= fixed
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_training_draws_by_key_and_evaluation_does_not(name):
    known = without_draws(name)
    model = tiny(name, **dict.fromkeys(known, 0.3))
    variables, inputs = random_variables(abstract_init(model)), example(model)
    losses = [float(step(model, variables, inputs, seed)[0][0]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    still = tiny(name, **known)
    np.testing.assert_array_equal(outputs_of(model, variables, inputs)[0], outputs_of(still, variables, inputs)[0])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_remat_changes_the_memory_and_nothing_else(name):
    model = tiny(name, **without_draws(name))
    again = tiny(name, **without_draws(name), remat=True)
    variables, inputs = random_variables(abstract_init(model)), example(model)
    (loss, _), plain = step(model, variables, inputs)
    (other, _), rematted = step(again, variables, inputs)
    np.testing.assert_allclose(loss, other, rtol=1e-5)
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(rematted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * scale)
    kept = [cost.total(cost.by_module(m, models.inputs(m, 2))).kept for m in (model, again)]
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.parametrize("name", TESTING)
def test_half_precision_compute_gives_float32_outputs_near_by(name):
    model, half = tiny(name), tiny(name, dtype=jnp.bfloat16)
    variables, inputs = random_variables(abstract_init(model)), example(model)
    y, z = (outputs_of(m, variables, inputs)[0] for m in (model, half))
    assert z.dtype == jnp.float32
    assert (y != z).any()
    np.testing.assert_allclose(z, y, atol=0.1 * float(jnp.abs(y).max()))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract_init(half)))


WRONG = {
    "num_outputs": (-1, 1.0, True, None),
    "input_size": ((16, 16), (16, 0, 16), (16, 16, 16.0), 16, "16", None),
    "in_channels": (0, -1, "1", False),
    "window": ((0, 3, 3), (3, 3)),
    "block_sizes": ((), (6, "a"), (2, 0), 6),
    "growth_rate": (3.5, 0),
    "depths": ((2, -2), [2.0, 2], ()),
    "depth": (-1, 2.0),
    "heads": ((2, 0), 0),
    "mlp_hidden": (0, 1.0, "4"),
    "mlp_ratio": (0.0, float("nan"), float("inf"), "4"),
    "epsilon": (0, -1e-6),
    "drop_rate": (1.0, -0.1, float("nan"), "0.1", True),
    "drop_path": (1, -1),
    "embed_drop_rate": (2.0,),
    "layer_drop": (1.0, 1e-320, -0.5),
    "head_hidden": ((0,), 5, ("a",)),
    "remat": (1, "yes"),
    "pool": (None, 3),
    "dtype": ("float64", "int32", "double", 3, None, jnp.int8),
}


@pytest.mark.parametrize(
    "name", ["densenet121_testing", "swin_t_testing", "vit_b16_testing", "nit_testing", "minit_testing"]
)
def test_values_that_no_keyword_can_have_are_refused_by_name(name):
    known = models.MODELS[name].builder.__dataclass_fields__
    tried = 0
    for keyword, values in WRONG.items():
        for value in values if keyword in known else ():
            with pytest.raises(InputError, match=rf"^{name}: found {keyword}=.*; expected ") as caught:
                models.build(name, **{keyword: value})
            assert "\n" not in str(caught.value)
            tried += 1
    assert tried > 30


def test_every_keyword_says_what_is_expected():
    """No keyword slips through: for each there is a value that is refused."""
    for name, preset in models.MODELS.items():
        for keyword in preset.builder.__dataclass_fields__:
            if keyword not in ("parent", "name", "encoder"):
                with pytest.raises(InputError, match=f"found {keyword}="):
                    models.build(name, **{keyword: {}})


def test_dtypes_by_word_and_by_type():
    for dtype in ("float32", "bfloat16", "float16", jnp.bfloat16, np.float32):
        models.build("nit_testing", dtype=dtype)


def test_a_keyword_called_name_is_no_name():
    with pytest.raises(InputError, match="unknown keyword name for 'nit_testing'"):
        models.build("nit_testing", name="x")


@pytest.mark.parametrize("name", TESTING)
def test_other_volumes_than_promised_are_refused(name):
    model = tiny(name)
    inputs = example(model)
    inputs["x"] = inputs["x"][..., :0]
    with pytest.raises(ValueError, match=r"expected volumes \[b, .*found"):
        jax.eval_shape(partial(model.apply, train=False), abstract_init(model), **inputs)
