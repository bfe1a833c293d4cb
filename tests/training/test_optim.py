"""Optimisers against their update rules worked out in NumPy; schedules at known steps; what is frozen, and where."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.models import layers, order
from jaxneuro.training import checkpoint, optim, sharding, state

PARAMS = {"kernel": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.array([0.5, -0.5])}
GRADIENTS = {"kernel": jnp.array([[0.1, 0.2], [-0.3, 0.0]]), "bias": jnp.array([0.4, -0.1])}
BASE = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0, "total_steps": 10}


def step(params=PARAMS, gradients=GRADIENTS, steps=1, **keywords):
    optimizer, _ = optim.build(**(BASE | keywords))
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_is_nesterov():
    # Two equal gradients g: velocities g, 1.9 g; steps g + 0.9 g, g + 0.9 * 1.9 g.
    found = step(name="sgd", steps=2)
    np.testing.assert_allclose(found["bias"], np.array([0.5, -0.5]) - 0.1 * np.array([0.4, -0.1]) * 4.61, rtol=1e-6)


def test_adam_first_step_is_the_sign_of_the_gradient():
    found = step(name="adam")
    np.testing.assert_allclose(found["bias"], [0.4, -0.4], rtol=1e-5)


def test_adamw_decays_kernels_only_and_apart_from_the_gradient():
    plain, found = step(name="adam"), step(name="adamw", weight_decay=0.2)
    np.testing.assert_allclose(found["bias"], plain["bias"], rtol=1e-6)
    np.testing.assert_allclose(found["kernel"], plain["kernel"] - 0.1 * 0.2 * PARAMS["kernel"], rtol=1e-6)


def test_sgd_decay_is_added_to_the_gradient_of_kernels_only():
    plain, found = step(name="sgd"), step(name="sgd", weight_decay=0.2)
    np.testing.assert_allclose(found["bias"], plain["bias"])
    np.testing.assert_allclose(found["kernel"], plain["kernel"] - 0.1 * 1.9 * 0.2 * PARAMS["kernel"], rtol=1e-6)


def test_clipping_scales_the_whole_gradient():
    norm = float(np.sqrt(sum((np.asarray(g) ** 2).sum() for g in GRADIENTS.values())))
    found = step(name="sgd", clip=norm / 4)
    want = PARAMS["bias"] - 0.1 * 1.9 * GRADIENTS["bias"] / 4
    np.testing.assert_allclose(found["bias"], want, rtol=1e-5)


def test_schedules_at_known_steps():
    course = {"name": "sgd", "schedule": "cosine", "warmup_steps": 10, "total_steps": 110}
    _, cosine = optim.build(**(BASE | course))
    np.testing.assert_allclose([cosine(i) for i in (0, 5, 10, 60, 110)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7)
    # To a fifth of the peak: half way lies between 0.1 and 0.02, and there it stays.
    _, part = optim.build(**(BASE | course | {"final_rate": 0.2}))
    np.testing.assert_allclose([part(i) for i in (0, 5, 10, 60, 110, 200)], [0, 0.05, 0.1, 0.06, 0.02, 0.02], atol=1e-7)
    _, constant = optim.build(**(BASE | {"name": "sgd", "warmup_steps": 4}))
    np.testing.assert_allclose([constant(i) for i in (0, 2, 4, 1000)], [0, 0.05, 0.1, 0.1], atol=1e-7)
    _, flat = optim.build(**(BASE | {"name": "sgd"}))
    np.testing.assert_allclose([flat(0), flat(7)], [0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"name": "lion"}, "expected one of"), ({"schedule": "step"}, "expected one of"),
     ({"weight_decay": -1.0}, "0 or more"), ({"learning_rate": 0.0}, "above 0"),
     ({"beta1": 1.0}, "beta1=1.0.*betas from 0 to below 1"), ({"beta2": -0.1}, "beta2=-0.1"),
     ({"final_rate": 1.5}, "final_rate=1.5; .*a share from 0 to 1"),
     ({"layer_decay": 0.0, "layer_of": len, "layers": 3}, "layer_decay: found 0.0 for 3 layers; expected above 0"),
     ({"layer_decay": 1.1, "layer_of": len, "layers": 3}, "layer_decay: found 1.1"),
     ({"layer_decay": 0.5}, "found 0.5 for 0 layers; .*a network with layers"),
     ({"freeze": "head"}, r"freeze: found 'head'; expected a list of patterns; try \('head',\)"),
     ({"freeze": ("^head", "block(1")}, r"found 'block\(1', which is no regular expression")],
)  # fmt: skip
def test_impossible_settings_are_refused(keywords, message):
    with pytest.raises(InputError, match=message) as e:
        optim.build(**(BASE | {"name": "sgd"} | keywords))
    assert "\n" not in str(e.value)


# --- by name and by layer ------------------------------------------------------------------------------------------

#: Three layers, a kernel and a bias in each.
NET = dict.fromkeys(("stem", "block", "head"), PARAMS)
NET_GRADIENTS = {name: jax.tree.map(lambda g, k=k: k * g, GRADIENTS) for k, name in enumerate(NET, start=1)}
LAYERED = {
    "layer_decay": 0.5,
    "layer_of": lambda path: ["stem", "block", "head"].index(path.split("/")[0]),
    "layers": 3,
}
SHARES = {"stem": 0.25, "block": 0.5, "head": 1.0}


def test_betas_are_those_of_adam():
    # Second step of a gradient g, then -3 g, with betas 0.5 and 0.75, by hand.
    optimizer, _ = optim.build(**(BASE | {"name": "adam", "beta1": 0.5, "beta2": 0.75}))
    g = np.array([0.4, -0.1])
    memory = optimizer.init({"bias": jnp.zeros(2)})
    for gradient in (g, -3 * g):
        updates, memory = optimizer.update({"bias": jnp.asarray(gradient)}, memory)
    m = (0.5 * 0.5 * g + 0.5 * -3 * g) / (1 - 0.5**2)
    v = (0.75 * 0.25 * g**2 + 0.25 * 9 * g**2) / (1 - 0.75**2)
    np.testing.assert_allclose(updates["bias"], -0.1 * m / (np.sqrt(v) + 1e-8), rtol=1e-5)


def test_sgd_steps_fall_from_layer_to_layer():
    found = step(NET, NET_GRADIENTS, name="sgd", **LAYERED)
    for k, (name, share) in enumerate(SHARES.items(), start=1):
        want = np.array([0.5, -0.5]) - share * 0.1 * 1.9 * k * np.array([0.4, -0.1])
        np.testing.assert_allclose(found[name]["bias"], want, rtol=1e-6)


def test_adamw_steps_and_their_decay_fall_from_layer_to_layer():
    found = step(NET, NET_GRADIENTS, name="adamw", weight_decay=0.2, **LAYERED)
    kernel, sign = np.array([[1.0, -2.0], [3.0, 0.5]]), np.array([[1.0, 1.0], [-1.0, 0.0]])
    for name, share in SHARES.items():
        np.testing.assert_allclose(found[name]["kernel"], kernel - share * 0.1 * (sign + 0.2 * kernel), rtol=1e-5)
        np.testing.assert_allclose(found[name]["bias"], [0.5 - share * 0.1, -0.5 + share * 0.1], rtol=1e-5)


def test_layers_are_alike_without_decay():
    plain = step(NET, NET_GRADIENTS, name="adam")
    found = step(NET, NET_GRADIENTS, name="adam", **LAYERED | {"layer_decay": 1})
    jax.tree.map(np.testing.assert_array_equal, found, plain)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_what_is_frozen_stays_bit_for_bit_and_the_rest_steps_as_without_it(name):
    settings = {"name": name, "weight_decay": 0.2, "steps": 3, **LAYERED}
    found = step(NET, NET_GRADIENTS, freeze=("^stem/", "block/k"), **settings)
    free = step(NET, NET_GRADIENTS, **settings)
    for path, value in flatten_dict(found, sep="/").items():
        frozen = path in ("stem/kernel", "stem/bias", "block/kernel")
        want = flatten_dict(NET if frozen else free, sep="/")[path]
        np.testing.assert_array_equal(value, want, path)
        assert frozen or (value != flatten_dict(NET, sep="/")[path]).any()


def test_what_is_frozen_does_not_count_in_the_clipped_norm():
    norm = 3 * np.sqrt(sum((np.asarray(g) ** 2).sum() for g in GRADIENTS.values()))  # the head's gradient is tripled
    found = step(NET, NET_GRADIENTS, name="sgd", clip=norm / 4, freeze=("stem", "block"))
    want = np.array([0.5, -0.5]) - 0.1 * 1.9 * 3 * np.array([0.4, -0.1]) / 4
    np.testing.assert_allclose(found["head"]["bias"], want, rtol=1e-5)


def test_what_is_frozen_has_no_moments():
    optimizer, _ = optim.build(**(BASE | {"name": "adam", "freeze": ("^stem", "^block")}))
    sizes = [leaf.size for leaf in jax.tree.leaves(optimizer.init(NET))]
    assert sum(size for size in sizes if size > 1) == 2 * (4 + 2)  # of the head's kernel and bias, two moments each


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (("^stem", "encoder"), "found 'encoder', .* no parameter's path; .* such as block/bias, head/bias, stem/bias$"),
        (("^bias",), "found '^bias'"),  # a path begins with its first name
        (("stem", "block", "head"), "which freeze all; expected something left to train"),
        (("",), "which freeze all"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused_at_init(freeze, message):
    optimizer, _ = optim.build(**(BASE | {"name": "sgd", "freeze": freeze}))
    with pytest.raises(InputError, match=message.replace("^", r"\^")) as e:
        optimizer.init(NET)
    assert "\n" not in str(e.value)


def boxed_params(name, **keywords):
    model = models.build(name, **keywords)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return model, jax.eval_shape(lambda x: model.init(keys, **x, train=False), models.inputs(model))["params"]


KINDS = {
    "swin_t_testing": {"input_size": (10, 19, 26)},
    "vit_b16_simmim_testing": {"input_size": (16, 24, 16)},
    "nit_testing": {"input_size": (24, 32, 24)},
    "minit_testing": {"input_size": (32, 16, 32)},
    "densenet121_testing": {"input_size": (32, 32, 32)},
}


@pytest.mark.parametrize("name", KINDS)
def test_decay_acts_on_kernels_of_networks_and_on_nothing_else(name):
    """With their axes or without: no position, no token, no bias, not that of queries, keys and values."""
    _, boxed = boxed_params(name, **KINDS[name])
    plain = sharding.unbox(boxed)
    for params in (boxed, plain):
        marks = flatten_dict(optim.decayed(params), sep="/")
        assert marks == {path: path.endswith("/kernel") for path in flatten_dict(plain, sep="/")}


def fine_tuning(name):
    """Return a small network, an optimiser that freezes its first layers, and the parameters it trains, boxed."""
    model, boxed = boxed_params("vit_b16_testing", input_size=(8, 16, 8), depth=1)
    optimizer, _ = optim.build(
        **(BASE | {"name": name, "weight_decay": 0.1, "clip": 1.0, "layer_decay": 0.5}),
        freeze=("^patch_embed/", "^block0/(norm|mlp)"),
        layer_of=partial(order.layer_of, model),
        layers=order.layers_in(model),
    )
    frozen = ("patch_embed/", "block0/norm", "block0/mlp")
    return model, optimizer, {p: x for p, x in flatten_dict(boxed, sep="/").items() if not p.startswith(frozen)}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_moments_carry_the_axes_of_their_parameters_and_a_step_keeps_their_structure(name):
    model, optimizer, trained = fine_tuning(name)
    abstract = state.abstract(model, optimizer)
    boxes = [
        x for x in jax.tree.leaves(abstract.opt_state, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
        if isinstance(x, nn.LogicallyPartitioned)
    ]  # fmt: skip
    expected = [x for x in trained.values() if isinstance(x, nn.LogicallyPartitioned)] * (1 if name == "sgd" else 2)
    assert sorted((x.names, x.value.shape) for x in boxes) == sorted((x.names, x.value.shape) for x in expected)
    plain = sharding.unbox(abstract)
    updates, after = jax.eval_shape(optimizer.update, plain.params, plain.opt_state, plain.params)
    assert jax.tree.structure(after) == jax.tree.structure(plain.opt_state)
    assert jax.tree.structure(updates) == jax.tree.structure(plain.params)
    mesh = sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    assert jax.tree.structure(sharding.shardings(mesh, abstract).opt_state) == jax.tree.structure(after)


class Small(nn.Module):
    """Two matrices, that a state is quickly made of."""

    input_size: tuple[int, int, int] = (2, 2, 2)
    in_channels: int = 1

    @nn.compact
    def __call__(self, x, train):
        x = layers.Dense(4, name="stem")(x.reshape(x.shape[0], -1))
        return layers.Dense(2, name="head")(x), {}


def test_a_state_is_made_stepped_saved_and_restored(tmp_path):
    by_layer = {"layer_decay": 0.5, "layer_of": lambda path: int(path.startswith("head")), "layers": 2}
    optimizer, _ = optim.build(**(BASE | by_layer | {"name": "adamw", "freeze": ("^stem/k", "out")}))
    model, mesh = Small(), sharding.make_mesh({"data": 1}, devices=jax.devices()[:1])
    with pytest.raises(InputError, match="found 'out'"):
        state.abstract(model, optimizer)
    optimizer, _ = optim.build(**(BASE | by_layer | {"name": "adamw", "freeze": ("^stem/k",)}))
    where = sharding.shardings(mesh, state.abstract(model, optimizer))
    now = state.create(model, optimizer, jax.random.key(0), where)
    gradients = jax.tree.map(jnp.ones_like, now.params)
    updates, opt_state = jax.jit(optimizer.update)(gradients, now.opt_state, now.params)
    means = {path: float(update.mean()) for path, update in flatten_dict(updates, sep="/").items()}
    expected = {"stem/kernel": 0, "stem/bias": -0.05, "head/kernel": -0.1, "head/bias": -0.1}
    assert means == pytest.approx(expected, rel=1e-5)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(now.replace(opt_state=opt_state), {})
    abstract = state.abstract(model, optimizer)
    like = checkpoint.like(sharding.unbox(abstract), sharding.shardings(mesh, abstract))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(like)
    assert jax.tree.structure(found.opt_state) == jax.tree.structure(opt_state)
    jax.tree.map(np.testing.assert_array_equal, found.opt_state, opt_state)
