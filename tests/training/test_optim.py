"""Optimisers against their update rules worked out in NumPy; schedules at known steps."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxneuro.errors import InputError
from jaxneuro.training import optim

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
    _, cosine = optim.build(**(BASE | {"name": "sgd", "schedule": "cosine", "warmup_steps": 10, "total_steps": 110}))
    np.testing.assert_allclose([cosine(i) for i in (0, 5, 10, 60, 110)], [0, 0.05, 0.1, 0.05, 0], atol=1e-7)
    _, constant = optim.build(**(BASE | {"name": "sgd", "warmup_steps": 4}))
    np.testing.assert_allclose([constant(i) for i in (0, 2, 4, 1000)], [0, 0.05, 0.1, 0.1], atol=1e-7)
    _, flat = optim.build(**(BASE | {"name": "sgd"}))
    np.testing.assert_allclose([flat(0), flat(7)], [0.1, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [({"name": "lion"}, "expected one of"), ({"name": "sgd", "schedule": "step"}, "expected one of"),
     ({"name": "sgd", "weight_decay": -1.0}, "0 or more"), ({"name": "sgd", "learning_rate": 0.0}, "above 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(keywords, message):
    with pytest.raises(InputError, match=message):
        optim.build(**(BASE | keywords))
