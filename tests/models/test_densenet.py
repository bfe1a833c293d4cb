"""DenseNets: parameter paths and counts, map sizes, training behaviour, and clear errors."""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxneuro import models
from jaxneuro.errors import InputError

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = ("densenet121", "tiny_densenet")
TESTING = ("densenet121_testing", "tiny_densenet_testing")


@cache
def abstract_init(model, size=(80, 80, 80)):
    x = jax.ShapeDtypeStruct((1, *size, model.in_channels), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)


def abstract_features(name, size):
    model = models.build(name)  # parameters do not depend on the size, so one init serves all
    x = jax.ShapeDtypeStruct((2, *size, 1), jnp.float32)
    return jax.eval_shape(lambda v, x: model.apply(v, x, train=False), abstract_init(model), x)


SMALL_SIZE = (30, 29, 33)


@cache
def small(name="tiny_densenet_testing", **keywords):
    """Return a testing-size model, its variables and volumes [3, 30, 29, 33, 1]."""
    model = models.build(name, **{"num_outputs": 2, "input_size": SMALL_SIZE, **keywords})
    x = jax.random.normal(jax.random.key(1), (3, *SMALL_SIZE, 1))
    variables = random_variables(abstract_init(model, SMALL_SIZE))
    return model, variables, x


def random_variables(abstract):
    """Fill the tree with values that leave no norm at its identity; variances stay positive."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        kind = path[-1].key
        if kind in ("kernel", "bias", "mean"):
            width = leaf.size / leaf.shape[-1] if kind == "kernel" else 10
            return jnp.asarray(rng.normal(size=leaf.shape) * np.sqrt(2 / width), jnp.float32)
        return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)

    return jax.tree.map_with_path(fill, meta.unbox(abstract))


@cache
def evaluation(model):
    return jax.jit(lambda v, x: model.apply(v, x, train=False))


@cache
def training_step(model):
    """Return a function of (variables, x): ((loss, (statistics, features)), gradients)."""

    def loss(params, batch_stats, x):
        (y, features), updates = model.apply(
            {"params": params, "batch_stats": batch_stats}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.square(y)), (updates["batch_stats"], features)

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return lambda variables, x: step(variables["params"], variables["batch_stats"], x)


def assert_trees_close(got, want, tolerance):
    # One scale for the tree: a gradient that cancels to nearly nothing carries the rounding of its terms.
    scale = max(float(jnp.abs(b).max()) for b in jax.tree.leaves(want))
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, tolerance, tolerance * scale, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize(
    ("name", "outputs", "count"),
    [
        ("densenet121", 1, 11_243_649),
        ("densenet121", 2, 11_244_674),
        ("tiny_densenet", 1, 1_462_873),
        ("tiny_densenet", 2, 1_463_266),
    ],
)
def test_published_counts(name, outputs, count):
    variables = abstract_init(models.build(name, num_outputs=outputs))
    assert set(variables) == {"params", "batch_stats"}
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


# (map, channels, voxels along each axis) at 80^3
STEM = ["conv0 64 40", "pool0 64 20"]
MAPS = {
    "densenet121": [
        *STEM,
        *["denseblock1 256 20", "transition1 128 10", "denseblock2 512 10", "transition2 256 5"],
        *["denseblock3 1024 5", "transition3 512 2", "denseblock4 1024 2", "map 1024 2"],
    ],
    "tiny_densenet": [
        *STEM,
        *["denseblock1 160 20", "transition1 80 10", "denseblock2 272 10", "transition2 136 5"],
        *["denseblock3 392 5", "map 392 5"],
    ],
}


@pytest.mark.parametrize("name", SIZES)
def test_published_map_sizes(name):
    outputs, features = abstract_features(name, (80, 80, 80))
    assert outputs.shape == (2, 1)
    assert features.pop("pooled").shape == (2, features["map"].shape[-1])
    assert sorted(f"{key} {f.shape[-1]} {f.shape[1]}" for key, f in features.items()) == sorted(MAPS[name])
    assert all(f.shape[1] == f.shape[2] == f.shape[3] for f in features.values())


@pytest.mark.parametrize(
    ("name", "size", "final"),
    [
        ("densenet121", (96, 96, 96), (3, 3, 3)),
        ("densenet121", (121, 145, 121), (3, 4, 3)),
        ("densenet121", (64, 64, 64), (2, 2, 2)),
        ("tiny_densenet", (96, 96, 96), (6, 6, 6)),
        ("tiny_densenet", (121, 145, 121), (7, 9, 7)),
    ],
)
def test_published_final_maps(name, size, final):
    assert abstract_features(name, size)[1]["map"].shape[1:4] == final


@pytest.mark.parametrize(("name", "smallest"), [("densenet121", 29), ("tiny_densenet", 13)])
def test_smallest_input(name, smallest):
    assert abstract_features(name, (smallest,) * 3)[1]["map"].shape[1:4] == (1, 1, 1)
    with pytest.raises(ValueError, match=rf"smallest that works is \({smallest}, {smallest}, {smallest}\)"):
        models.build(name, input_size=(80, smallest - 1, 80))
    with pytest.raises(ValueError, match="smallest that works"):
        abstract_init(models.build(name), (80, 80, smallest - 1))


def test_unknown_name_and_keyword_list_the_known_ones():
    with pytest.raises(ValueError, match=r"'densenet'.*densenet121.*tiny_densenet"):
        models.build("densenet")
    with pytest.raises(ValueError, match=r"grow_rate.*known are.*growth_rate"):
        models.build("densenet121", grow_rate=3)
    assert models.build("densenet121", growth_rate=3).growth_rate == 3


@pytest.mark.parametrize(("name", "smallest", "least"), [("densenet121", 61, 29), ("tiny_densenet", 29, 13)])
def test_the_smallest_volume_that_trains_alone(name, smallest, least):
    """Batch norm needs two values a channel: along one axis the last map must have two voxels."""

    def train(*size):
        model = models.build(f"{name}_testing", input_size=size)
        x = jnp.zeros((1, *size, 1))
        return jax.eval_shape(partial(model.apply, train=True, mutable=["batch_stats"]), abstract_init(model), x)

    train(least, smallest, least)
    with pytest.raises(InputError, match="one value a channel, in training"):
        train(*[smallest - 1] * 3)


def test_encoder_of_contrastive_pretraining():
    """No last norm and a projection 1024-512-128: 11,831,040 parameters (Dufumier et al. 2021, measured)."""
    model = models.build("densenet121", final_norm=False, head_hidden=(512,), num_outputs=128)
    params = abstract_init(model)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_831_040
    assert "norm5" not in params
    tiny = models.build("tiny_densenet", final_norm=False, head_hidden=(512,), num_outputs=128)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_init(tiny)["params"])) == 1_728_576


def test_without_outputs_the_pooled_features_come_out():
    model, variables, x = small(num_outputs=0)
    assert "head" not in variables["params"]
    outputs, features = evaluation(model)(variables, x)
    np.testing.assert_array_equal(outputs, features["pooled"])


def test_wrong_channels_are_named():
    with pytest.raises(ValueError, match=r"\[b, d, h, w, 3\]"):
        models.build("densenet121_testing", in_channels=3).init(
            jax.random.key(0), jnp.zeros((1, 80, 80, 80, 1)), train=False
        )


@pytest.mark.parametrize("name", TESTING)
def test_testing_size_runs_and_is_deterministic(name):
    model, variables, x = small(name)
    run = evaluation(model)
    first, second = run(variables, x), run(variables, x)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
    assert first[0].shape == (3, 2)
    assert np.isfinite(first[0]).all()
    # without training each volume stands alone
    changed = run(variables, x.at[0].set(0.0))[0]
    np.testing.assert_array_equal(changed[1:], first[0][1:])
    assert not np.array_equal(changed[0], first[0][0])


def test_half_precision_compute_gives_float32_outputs():
    model, variables, x = small()
    half = model.copy(dtype=jnp.bfloat16)
    outputs, features = evaluation(half)(variables, x)
    assert outputs.dtype == jnp.float32
    assert features["denseblock1"].dtype == jnp.bfloat16
    reference = evaluation(model)(variables, x)[0]
    np.testing.assert_allclose(outputs, reference, atol=0.05 * float(jnp.abs(reference).max()))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(abstract_init(half, SMALL_SIZE)))


def test_training_moves_every_statistic_and_reaches_every_parameter():
    model, variables, x = small()
    (loss, (statistics, _)), gradients = training_step(model)(variables, x)
    assert np.isfinite(loss)
    for (path, new), old in zip(
        jax.tree.leaves_with_path(statistics), jax.tree.leaves(variables["batch_stats"]), strict=True
    ):
        assert not np.array_equal(new, old), path
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


def test_remat_changes_nothing():
    model, variables, x = small(block_sizes=(1,))
    plain = training_step(model)(variables, x)
    assert_trees_close(training_step(model.copy(remat=True))(variables, x), plain, 1e-4)


def test_shared_moments_are_those_of_each_norms_own_input():
    """The moments shared between layers must be what each BatchNorm would compute itself."""
    model, variables, x = small()
    (_, (statistics, features)), _ = training_step(model)(variables, x)
    old = variables["batch_stats"]
    for i in range(1, len(model.block_sizes)):
        maps = np.asarray(features[f"denseblock{i}"], np.float64)
        values = maps.reshape(-1, maps.shape[-1])
        norms = [(f"transition{i}", "norm")]
        norms += [(f"denseblock{i}", f"denselayer{j + 1}", "norm1") for j in range(model.block_sizes[i - 1])]
        for norm in norms:  # an earlier norm saw the first channels of the same maps
            new, before = statistics, old
            for key in norm:
                new, before = new[key], before[key]
            seen = values[:, : new["mean"].size]
            mean, var = 0.1 * seen.mean(0), 0.1 * seen.var(0, ddof=1)
            np.testing.assert_allclose(new["mean"], 0.9 * before["mean"] + mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(new["var"], 0.9 * before["var"] + var, rtol=1e-4)


def test_dropout_is_off_in_evaluation_and_keyed_in_training():
    model, variables, x = small(block_sizes=(1,))
    dropped = model.copy(drop_rate=0.5)
    np.testing.assert_array_equal(evaluation(dropped)(variables, x)[0], evaluation(model)(variables, x)[0])

    @jax.jit
    def run(key):
        return dropped.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0][0]

    a, b, c = run(jax.random.key(0)), run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
