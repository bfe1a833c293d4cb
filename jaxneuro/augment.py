"""Views of a batch, made on the device inside the step: normalisation, then random changes, each sample its own key.

Every random view has the signature `view(key, x[d, h, w, c], **parameters) -> x[d, h, w, c]` and is vmapped over the
batch. Sizes are static, positions and strengths are drawn, so one compiled step serves every draw. Axes are depth,
height, width, channels; in a clip, time takes the place of depth. Channels of one sample share every draw but that of
the noise.

"The published code" is that of y-aware contrastive learning (Dufumier et al., MICCAI 2021); its views are `flip` with
axis=-1, `blur`, `noise` with probability=0.5, low=0.1 and high=1, `cutout` and `crop`, after normalisation over the
volume.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxneuro.errors import InputError

View = Callable[..., jax.Array]

#: Mean and standard deviation of red, green and blue, from 0 to 1, that the published weights of Kinetics-400 go with.
VIDEO_MEAN, VIDEO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(x: jax.Array, how: str) -> jax.Array:
    """Return x [b, d, h, w, c], half floats or bytes, as float32 with about zero mean and unit variance.

    Args:
      x: volumes, whose background is exactly 0, or clips [b, t, h, w, c] with values from 0 to 255.
      how: "brain" takes mean and variance of each volume over the voxels that are not 0 and leaves the background 0;
        "volume" takes them over all voxels, as the published code does; "video" takes those of `VIDEO_MEAN` and
        `VIDEO_STD` for each channel of a clip, for a grey one their averages; "none" only casts.

    Raises:
      InputError: "video" and neither one nor three channels.
    """
    x = x.astype(jnp.float32)
    if how == "none":
        return x
    if how == "video":
        if (channels := x.shape[-1]) not in (1, 3):
            raise InputError(
                f"data.normalise: found 'video' for data with {channels} channels; expected 1 (grey) or 3 (red, green, "
                "blue); try 'volume'"
            )
        centre, spread = (np.mean(v) if channels == 1 else np.array(v) for v in (VIDEO_MEAN, VIDEO_STD))
        return (x / 255 - centre.astype(np.float32)) / spread.astype(np.float32)
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
    if how not in ("brain", "volume", "video", "none"):
        raise InputError(f"data.normalise: found '{how}'; expected 'brain', 'volume', 'video' or 'none'")
    return lambda x: normalise(x, how)


def flip(
    key: jax.Array, x: jax.Array, *, axis: int = 0, probability: float = 0.5, published: bool = False
) -> jax.Array:
    """Mirror x [d, h, w, c] along one axis with the given probability.

    Args:
      key, x: as of every view.
      axis: 0 (left and right), 1 or 2; -1 draws one of the three.
      probability: of a flip.
      published: draw among four axes, one of which changes nothing, as the published code does, which counts the
        axis of its one channel. Only for axis=-1.
    """
    if axis >= 0:
        return jnp.where(jax.random.bernoulli(key, probability), jnp.flip(x, axis), x)
    do, which = jax.random.split(key)
    drawn = jax.random.randint(which, (), 0, 4 if published else 3)
    case = jnp.where(jax.random.bernoulli(do, probability), drawn, 3)
    return lax.select_n(case, *(jnp.flip(x, a) for a in range(3)), x)


def shift(key: jax.Array, x: jax.Array, *, voxels: int = 2) -> jax.Array:
    """Move x [d, h, w, c] by up to `voxels` whole voxels along each axis, filling with zeros."""
    padded = jnp.pad(x, [(voxels, voxels)] * 3 + [(0, 0)])
    start = jax.random.randint(key, (3,), 0, 2 * voxels + 1)
    return jax.lax.dynamic_slice(padded, (*start, 0), x.shape)


def blur(key: jax.Array, x: jax.Array, *, low: float = 0.1, high: float = 1.0, probability: float = 0.5) -> jax.Array:
    """Smooth x [d, h, w, c] by a Gaussian along depth, height and width, with the given probability.

    Its standard deviation, in voxels, is drawn between `low` and `high`. As in `scipy.ndimage.gaussian_filter`, taps
    end int(4 sigma + 0.5) voxels from the centre, and the volume is mirrored at its faces. (The published code blurs
    along the channel axis as well, which changes nothing where there is one channel.)
    """
    do, strength = jax.random.split(key)
    sigma = jax.random.uniform(strength, (), minval=low, maxval=high)
    reach = int(4 * high + 0.5)
    away = np.arange(reach + 1)
    # `away <= int(4 sigma + 0.5)` without a rounded sum: the left side is exact in float32. A sigma of 0 has one tap.
    taps = jnp.where((away - 0.5) / 4 <= sigma, jnp.exp(-0.5 * (away / jnp.maximum(sigma, 1e-3)) ** 2), 0.0)
    taps = taps / (taps[0] + 2 * taps[1:].sum())

    def blurred(x: jax.Array) -> jax.Array:
        dtype = x.dtype
        for axis in range(3):
            edges = [(reach, reach) if a == axis else (0, 0) for a in range(4)]
            # The barrier keeps XLA from computing the axis before anew for every tap of this one.
            padded = lax.optimization_barrier(jnp.pad(x, edges, mode="symmetric"))
            parts = [lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(2 * reach + 1)]
            x = taps[0] * parts[reach]
            for i in range(1, reach + 1):
                x = x + taps[i] * (parts[reach - i] + parts[reach + i])
        return x.astype(dtype)

    return _perhaps(do, probability, blurred, x)


def noise(key: jax.Array, x: jax.Array, *, low: float = 0.0, high: float = 0.1, probability: float = 1.0) -> jax.Array:
    """Add Gaussian noise to x [d, h, w, c], its standard deviation drawn between `low` and `high`, with the given
    probability."""
    strength, values, do = jax.random.split(key, 3)

    def noisy(x: jax.Array) -> jax.Array:
        drawn = jax.random.uniform(strength, (), minval=low, maxval=high)
        return (x + drawn * jax.random.normal(values, x.shape)).astype(x.dtype)

    return _perhaps(do, probability, noisy, x)


def contrast(key: jax.Array, x: jax.Array, *, strength: float = 0.1) -> jax.Array:
    """Multiply x [d, h, w, c] by a factor drawn between 1 - strength and 1 + strength."""
    return x * jax.random.uniform(key, (), minval=1 - strength, maxval=1 + strength)


def cutout(key: jax.Array, x: jax.Array, *, share: float = 0.25, probability: float = 0.5) -> jax.Array:
    """Set one box of x [d, h, w, c] to 0 in all channels, each side ceil(share x size), with the given probability.

    (The published box spans ceil(share x c) channels, too: the one of a scan, so there the two are the same; of a clip
    in colour, one of three.)
    """
    do, *keys = jax.random.split(key, 4)
    inside = jnp.ones((), bool)
    for axis, k in enumerate(keys):
        size = x.shape[axis]
        side = _side(share, size)
        start = jax.random.randint(k, (), 0, size - side + 1)
        place = jnp.arange(size)
        hit = (place >= start) & (place < start + side)
        inside = inside & hit.reshape([-1 if a == axis else 1 for a in range(4)])
    return jnp.where(inside & jax.random.bernoulli(do, probability), 0.0, x)


def crop(key: jax.Array, x: jax.Array, *, share: float = 0.75, probability: float = 0.5) -> jax.Array:
    """Enlarge one box of x [d, h, w, c], each side ceil(share x size), to the whole, with the given probability.

    Values are linear between the centres of voxels and constant beyond the outermost, as in `jax.image.resize` and in
    `scipy.ndimage.zoom` with grid_mode=True and mode="nearest". (The published code calls skimage's `resize`, which by
    default mirrors there: the two differ in the outermost voxels.)
    """
    do, corner = jax.random.split(key)
    sides = [_side(share, size) for size in x.shape[:3]]
    start = jax.random.randint(corner, (3,), 0, np.subtract(x.shape[:3], sides) + 1)

    def cropped(x: jax.Array) -> jax.Array:
        box = lax.dynamic_slice(x, (*start, 0), (*sides, x.shape[3]))
        for axis in (2, 1, 0):  # width first, while the box is small: its neighbours are the slowest to gather
            side, size = sides[axis], x.shape[axis]
            at = np.clip((np.arange(size) + 0.5) * side / size - 0.5, 0, side - 1)
            below = at.astype(int)
            above = np.minimum(below + 1, side - 1)
            part = (at - below).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(4)])
            low, high = (jnp.take(box, places, axis=axis, mode="clip") for places in (below, above))
            box = low * (1 - part) + high * part
        return box.astype(x.dtype)

    return _perhaps(do, probability, cropped, x)


def _perhaps(key: jax.Array, probability: float, change: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Return change(x) with the given probability, else x. Under vmap, `change` is computed for every sample."""
    return lax.cond(jax.random.bernoulli(key, probability), change, lambda x: x, x)


def _side(share: float, size: int) -> int:
    """Return ceil(share x size)."""
    return math.ceil(share * size)


#: Name in a config to view, in the order in which they are applied; that of the published views is kept.
VIEWS: dict[str, View] = {
    "flip": flip,
    "shift": shift,
    "blur": blur,
    "noise": noise,
    "contrast": contrast,
    "cutout": cutout,
    "crop": crop,
}


#: Parameter of a view, or VIEW.PARAMETER where views differ, to its smallest and largest value.
RANGES = {
    "axis": (-1, 2),
    "probability": (0.0, 1.0),
    "voxels": (0, 64),
    "low": (0.0, 100.0),
    "high": (0.0, 100.0),
    "blur.high": (0.0, 10.0),  # the program holds 8 x high taps an axis
    "strength": (0.0, 1.0),
    "share": (0.001, 1.0),
}


Batched = Callable[[jax.Array, jax.Array], jax.Array]


def build(
    views: Mapping[str, Mapping[str, float | int | bool]], across: Callable[[Batched], Batched] = lambda f: f
) -> Batched:
    """Return `augment(key, x[b, d, h, w, c])`, which applies the named views to every sample, in the order of `VIEWS`.

    Every sample has draws of its own.

    Args:
      views: name to parameters; empty for none.
      across: makes of a function of (keys [b], samples [b, ...]) one that every device runs on its own samples
        (`sharding.across`).

    Raises:
      InputError: an unknown view, or parameters that it does not take.
    """
    settings = {name: _settings(name, parameters) for name, parameters in views.items()}

    def one(key: jax.Array, x: jax.Array) -> jax.Array:
        for i, name in enumerate(VIEWS):
            if name in settings:
                # A barrier, so that on accelerators no view is computed anew for every voxel that the next one reads.
                x = lax.optimization_barrier(VIEWS[name](jax.random.fold_in(key, i), x, **settings[name]))
        return x

    # XLA for CPU fuses batched views into one another, barriers or not, and computes the noise anew for each of the
    # eight voxels that `crop` reads. A loop spares that, and the views that a sample does not draw: the published five
    # took 4 ms a volume of 80^3 instead of 140 (jax 0.10.2, 2 cores).
    def one_by_one(keys: jax.Array, x: jax.Array) -> jax.Array:
        return lax.map(lambda sample: one(*sample), (keys, x))

    def every(keys: jax.Array, x: jax.Array) -> jax.Array:
        return lax.platform_dependent(keys, x, cpu=one_by_one, default=jax.vmap(one))

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        return across(every)(jax.random.split(key, x.shape[0]), x) if settings else x

    return augment


def _settings(name: str, parameters: Mapping[str, float | int | bool]) -> dict[str, float | int | bool]:
    """Return every parameter of a view, checked; those not given have their defaults."""
    if name not in VIEWS:
        raise InputError(f"augment: found '{name}'; expected among {sorted(VIEWS)}")
    if not isinstance(parameters, Mapping):
        raise InputError(f"augment.{name}: found {parameters!r}; expected parameters such as {name}.KEY=VALUE")
    defaults = {k: p.default for k, p in list(inspect.signature(VIEWS[name]).parameters.items())[2:]}
    if wrong := sorted(set(parameters) - set(defaults)):
        raise InputError(f"augment.{name}: found {wrong}; expected among {sorted(defaults)}")
    chosen = defaults | dict(parameters)
    for key, value in chosen.items():
        if isinstance(defaults[key], bool):
            if not isinstance(value, bool):
                raise InputError(f"augment.{name}.{key}: found {value!r}; expected True or False")
            continue
        low, high = RANGES.get(f"{name}.{key}") or RANGES[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"augment.{name}.{key}: found {value!r}; expected a number from {low:g} to {high:g}")
        if not low <= value <= high or (isinstance(defaults[key], int) and int(value) != value):
            raise InputError(f"augment.{name}.{key}: found {value}; expected {low:g} to {high:g}")
        chosen[key] = type(defaults[key])(value)  # an axis given as 1.0 is an axis
    if "low" in chosen and chosen["low"] > chosen["high"]:
        raise InputError(f"augment.{name}: found low={chosen['low']}, high={chosen['high']}; expected low first")
    if chosen.get("published") and chosen["axis"] != -1:
        raise InputError(
            f"augment.{name}: found published=True with axis={chosen['axis']}; expected axis=-1, for it says how "
            "an axis is drawn"
        )
    return chosen
