"""What the tests of all models share."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from jaxneuro import models


@cache
def boxed_init(model):
    """Return shapes of a model's variables, parameters still carrying their axes."""
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    return jax.eval_shape(lambda x: model.init(keys, **x, train=False), models.inputs(model))


def abstract_init(model):
    """Return shapes of a model's variables."""
    return meta.unbox(boxed_init(model))


def count(model):
    """Return how many parameters a model has."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_init(model)["params"]))


def random_variables(abstract, seed=0):
    """Fill variables with values that leave nothing at its identity; variances stay positive."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32)
        fan = np.prod(leaf.shape[:-1]) if name == "kernel" else 10
        return jnp.asarray(rng.normal(size=leaf.shape) / np.sqrt(fan), jnp.float32)

    return jax.tree.map_with_path(fill, abstract)


def example(model, batch=2, seed=0):
    """Return random inputs of a model: volumes, and masks of about half the patches."""
    rng = np.random.default_rng(seed)
    inputs = {k: np.zeros(x.shape, x.dtype) for k, x in models.inputs(model, batch).items()}
    inputs["x"] = rng.normal(size=inputs["x"].shape).astype(np.float32)
    if "mask" in inputs:
        inputs["mask"] = (rng.uniform(size=inputs["mask"].shape) < 0.5).astype(np.float32)
    if "keep" in inputs:
        patches = int(np.prod(model.encoder.grid()))
        inputs["keep"] = np.stack([rng.permutation(patches)[: inputs["keep"].shape[1]] for _ in range(batch)])
    return inputs
