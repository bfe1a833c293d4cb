"""Views of a batch, made on the device inside the step: normalisation, then random changes, each sample its own key.

Every random view has the signature `view(key, x[d, h, w, c], **parameters) -> x[d, h, w, c]` and is vmapped over the
batch. Sizes are static, positions and strengths are drawn, so one compiled step serves every draw.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxneuro.errors import InputError

View = Callable[..., jax.Array]


def normalise(x: jax.Array, how: str) -> jax.Array:
    """Return x [b, d, h, w, c] as float32 with zero mean and unit variance over each volume.

    Args:
      x: volumes; the background is exactly 0.
      how: "brain" takes mean and variance over the voxels that are not 0 and leaves the background 0; "volume" takes
        them over all voxels, as the published y-aware code does (Dufumier et al. 2021); "none" only casts.
    """
    x = x.astype(jnp.float32)
    if how == "none":
        return x
    axes = tuple(range(1, x.ndim))
    mask = x != 0 if how == "brain" else jnp.ones_like(x, bool)
    # A padded sample is all zero: the count is kept above 0 so that it stays zero instead of turning into NaN.
    count = jnp.maximum(mask.sum(axes, keepdims=True), 1)
    mean = jnp.sum(x, axes, keepdims=True, where=mask) / count
    variance = jnp.sum((x - mean) ** 2, axes, keepdims=True, where=mask) / count
    return jnp.where(mask, (x - mean) / (jnp.sqrt(variance) + 1e-8), 0.0)


def normaliser(how: str) -> Callable[[jax.Array], jax.Array]:
    """Return `normalise` of one kind.

    Raises:
      InputError: `how` is no kind.
    """
    if how not in ("brain", "volume", "none"):
        raise InputError(f"data.normalise: found '{how}'; expected 'brain', 'volume' or 'none'")
    return lambda x: normalise(x, how)


def flip(key: jax.Array, x: jax.Array, *, axis: int = 0, probability: float = 0.5) -> jax.Array:
    """Mirror x [d, h, w, c] along one axis (0: left and right) with the given probability."""
    return jnp.where(jax.random.bernoulli(key, probability), jnp.flip(x, axis), x)


def shift(key: jax.Array, x: jax.Array, *, voxels: int = 2) -> jax.Array:
    """Move x [d, h, w, c] by up to `voxels` whole voxels along each axis, filling with zeros."""
    padded = jnp.pad(x, [(voxels, voxels)] * 3 + [(0, 0)])
    start = jax.random.randint(key, (3,), 0, 2 * voxels + 1)
    return jax.lax.dynamic_slice(padded, (*start, 0), x.shape)


def noise(key: jax.Array, x: jax.Array, *, low: float = 0.0, high: float = 0.1) -> jax.Array:
    """Add Gaussian noise to x [d, h, w, c] with a standard deviation drawn between `low` and `high`."""
    strength, values = jax.random.split(key)
    return x + jax.random.uniform(strength, (), minval=low, maxval=high) * jax.random.normal(values, x.shape)


def contrast(key: jax.Array, x: jax.Array, *, strength: float = 0.1) -> jax.Array:
    """Multiply x [d, h, w, c] by a factor drawn between 1 - strength and 1 + strength."""
    return x * jax.random.uniform(key, (), minval=1 - strength, maxval=1 + strength)


def cutout(key: jax.Array, x: jax.Array, *, share: float = 0.25, probability: float = 0.5) -> jax.Array:
    """Set one box of x [d, h, w, c] to 0, each side ceil(share x size), with the given probability."""
    do, *keys = jax.random.split(key, 4)
    inside = jnp.ones((), bool)
    for axis, k in enumerate(keys):
        size = x.shape[axis]
        side = -int(-share * size // 1)
        start = jax.random.randint(k, (), 0, size - side + 1)
        place = jnp.arange(size)
        hit = (place >= start) & (place < start + side)
        inside = inside & hit.reshape([-1 if a == axis else 1 for a in range(4)])
    return jnp.where(inside & jax.random.bernoulli(do, probability), 0.0, x)


#: Name in a config to view.
VIEWS: dict[str, View] = {"flip": flip, "shift": shift, "noise": noise, "contrast": contrast, "cutout": cutout}


#: Parameter of a view to its smallest and largest value.
RANGES = {
    "axis": (0, 2),
    "probability": (0.0, 1.0),
    "voxels": (0, 64),
    "low": (0.0, 100.0),
    "high": (0.0, 100.0),
    "strength": (0.0, 1.0),
    "share": (0.001, 1.0),
}


def build(views: Mapping[str, Mapping[str, float | int]]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return `augment(key, x[b, d, h, w, c])`, which applies the named views to every sample, in the order of `VIEWS`.

    Args:
      views: name to parameters; empty for none.

    Raises:
      InputError: an unknown view, or parameters that it does not take.
    """
    for name, parameters in views.items():
        if name not in VIEWS:
            raise InputError(f"augment: found '{name}'; expected among {sorted(VIEWS)}")
        if not isinstance(parameters, Mapping):
            raise InputError(f"augment.{name}: found {parameters!r}; expected parameters such as {name}.KEY=VALUE")
        defaults = {k: p.default for k, p in list(inspect.signature(VIEWS[name]).parameters.items())[2:]}
        if wrong := sorted(set(parameters) - set(defaults)):
            raise InputError(f"augment.{name}: found {wrong}; expected among {sorted(defaults)}")
        chosen = defaults | dict(parameters)
        for key, value in chosen.items():
            low, high = RANGES[key]
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"augment.{name}.{key}: found {value!r}; expected a number from {low:g} to {high:g}")
            if not low <= value <= high or (isinstance(defaults[key], int) and int(value) != value):
                raise InputError(f"augment.{name}.{key}: found {value}; expected {low:g} to {high:g}")
        if "low" in chosen and chosen["low"] > chosen["high"]:
            raise InputError(f"augment.{name}: found low={chosen['low']}, high={chosen['high']}; expected low first")

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        for i, name in enumerate(VIEWS):
            if name in views:
                x = VIEWS[name](jax.random.fold_in(key, i), x, **views[name])
        return x

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.vmap(one)(jax.random.split(key, x.shape[0]), x) if views else x

    return augment
