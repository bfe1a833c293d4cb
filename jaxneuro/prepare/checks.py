"""Whether a scan is what it was said to be, and what about it a person should look at."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from jaxneuro.errors import ScanError
from jaxneuro.prepare import template
from jaxneuro.prepare.recipes import Recipe

#: Volume of a person's brain, ml: seldom outside of the first pair, never of the second.
SELDOM_ML, NEVER_ML = (850.0, 1950.0), (300.0, 2600.0)
#: Dice of a registered brain and the template's below which it is looked at, and below which it was never registered.
SELDOM_OVERLAP, NEVER_OVERLAP = 0.90, 0.75
#: Correlation with the template's intensities below which a registered brain is looked at, and below which it is none,
#: or not T1-weighted: three real heads had 0.53 to 0.71; the template's own brain, turned the wrong way, 0.2 to 0.42.
SELDOM_LIKE, NEVER_LIKE = 0.45, 0.3
#: Share of a brain's surface on the border of the grid above which it is looked at.
SELDOM_CUT = 0.05

#: Values are taken for negative rather than for noise below minus this share of the 99th percentile of those above 0;
#: and the share of the voxels other than 0 that may be. On the tests' heads: ringing of splines and sinc 1 % at most,
#: noise around 0 whose deviation is a fifteenth of white matter 1 %; brains and heads that were z-scored or scaled to
#: -1 to 1, 9 % or more.
_NEGATIVE, _MOST_NEGATIVE = 0.1, 0.05
#: The share of the sum of all magnitudes that may be negative. Half is where the mean is 0, as in whole fields that
#: were z-scored, whose background can lie closely below 0; the same ringing gives 4 %, the same noise 11 %.
_MOST_WEIGHT = 0.4


def above_zero(voxels: np.ndarray) -> None:
    """Refuse a scan with a real share of its values below 0, for what lies there would be taken for background.

    Raises:
      ScanError: says from where to where the values go.
    """
    if voxels.min() >= 0:
        return
    values = voxels[voxels != 0]
    bright = np.percentile(values[values > 0], 99) if (values > 0).any() else 0.0
    share = (values < -_NEGATIVE * bright).mean()
    weight = -values[values < 0].sum(dtype=float) / np.abs(values).sum(dtype=float)
    if share > _MOST_NEGATIVE or weight > _MOST_WEIGHT:
        raise ScanError(
            f"values from {values.min():.3g} to {values.max():.3g}, {(values < 0).mean():.0%} of those that are not 0 "
            "negative", "a background of 0 and a brain above it", "give the scan as it was before it was normalised",
        )  # fmt: skip


def looks_stripped(voxels: np.ndarray, affine: np.ndarray) -> bool:
    """Whether a scan [x, y, z] is of a brain on a background of exactly 0.

    By its volume, which a small head on such a background can have, too, and by its brightness, which rises from a
    brain's surface, fluid and cortex, to its white matter: fat and bone break that.
    """
    inside = voxels > 0
    if (voxels == 0).mean() <= 0.3 or not NEVER_ML[0] < _ml(inside, affine) < NEVER_ML[1]:
        return False
    size = np.linalg.norm(affine[:3, :3], axis=0)
    step = tuple(slice(None, None, max(1, round(2.5 / s))) for s in size)
    coarse = voxels[step]
    depth = ndimage.distance_transform_edt(coarse > 0, sampling=size * [s.step for s in step])
    core = np.median(coarse[depth > 25]) if (depth > 25).any() else 0.0
    bands = [coarse[(depth > d) & (depth <= d + 3)] for d in (0, 3, 6, 9, 12)]
    if core <= 0 or not all(b.size for b in bands):
        return False
    levels = np.array([np.median(b) for b in bands]) / core
    return bool((np.diff(levels) > -0.05).all() and levels[0] < 1)


def declared_stripped(voxels: np.ndarray, affine: np.ndarray) -> None:
    """Refuse a scan that is declared stripped and has no background of 0, or more than a brain on it.

    Raises:
      ScanError: says what was found.
    """
    inside = voxels > 0
    if (voxels == 0).mean() < 0.05:
        raise ScanError(
            f"{(voxels == 0).mean():.0%} of the voxels exactly 0 in a scan declared stripped",
            "a brain on a background of 0",
            "leave out --already strip",
        )
    if (ml := _ml(inside, affine)) > NEVER_ML[1]:
        raise ScanError(
            f"{ml:.0f} ml above 0 in a scan declared stripped", f"a brain of at most {NEVER_ML[1]:.0f} ml",
            "leave out --already strip, or check the voxel size",
        )  # fmt: skip


def registered(measures: dict[str, Any], recipe: Recipe) -> None:
    """Refuse a scan that does not lie as the template does, though it is declared so or was registered here.

    Raises:
      ScanError: says how little they overlap, or how unlike they are.
    """
    declared = "register" in recipe.already
    what = "declared registered" if declared else "that could not be registered"
    hint = "leave out --already register" if declared else "look at its orientation, or try another --strip"
    if (overlap := measures.get("overlap", 1.0)) < NEVER_OVERLAP:
        raise ScanError(f"an overlap of {overlap:.2f} (Dice) with the template in a scan {what}", "0.75 or more", hint)
    if (likeness := measures.get("likeness", 1.0)) < NEVER_LIKE:
        raise ScanError(
            f"a correlation of {likeness:.2f} with the template in a scan {what}", f"{NEVER_LIKE} or more, as of T1",
            hint,
        )  # fmt: skip


def measure(volume: np.ndarray, recipe: Recipe, mask: np.ndarray | None, affine: np.ndarray) -> dict[str, Any]:
    """Return what there is to say of a volume [d, h, w, 1], as numbers with few digits.

    `brain_ml` in the scan's own space, `overlap` (Dice) and `likeness` (correlation within both brains) with the
    template, `cut` the share of the brain's surface that lies on the grid's border.
    """
    grid = volume[..., 0].astype(np.float32)
    inside = grid > 0
    measures: dict[str, Any] = {}
    if mask is not None:
        measures["brain_ml"] = round(_ml(mask, affine), 1)
    faces = [inside.take(i, axis).sum() for axis in range(3) for i in (0, -1)]
    surface = inside & ~ndimage.binary_erosion(inside, border_value=1)
    measures["cut"] = round(float(sum(faces) / max(1, sum(faces) + surface.sum())), 4)
    if recipe.registered:
        brain, theirs = template.on_grid(recipe)
        both = inside & theirs
        if recipe.stripped:
            measures["overlap"] = round(float(2 * both.sum() / (inside.sum() + theirs.sum())), 4)
        if both.sum() > 100 and grid[both].std() > 0:
            measures["likeness"] = round(float(np.corrcoef(grid[both], brain[both])[0, 1]), 4)
    return measures


def flags(measures: dict[str, Any], recipe: Recipe) -> list[str]:
    """Return what about a volume a person should look at, worst first, in words."""
    found = []
    if (ml := measures.get("brain_ml")) is not None:
        if not NEVER_ML[0] <= ml <= NEVER_ML[1]:
            found.append(f"a brain of {ml:.0f} ml")
        elif not SELDOM_ML[0] <= ml <= SELDOM_ML[1]:
            found.append(f"a brain of {ml:.0f} ml, which is rare")
    if (overlap := measures.get("overlap")) is not None and overlap < SELDOM_OVERLAP:
        found.append(f"overlap with the template {overlap:.2f}")
    if (likeness := measures.get("likeness")) is not None and likeness < SELDOM_LIKE:
        found.append(f"correlation with the template {likeness:.2f}")
    if recipe.stripped and measures["cut"] > SELDOM_CUT:
        found.append(f"{measures['cut']:.0%} of the brain's surface on the border of the grid")
    return found


def severity(measures: dict[str, Any], recipe: Recipe) -> tuple[float, float]:
    """Return how bad a volume is, larger where it is worse, by the limits of `flags`.

    Returns:
      the sum over all measures of the distance beyond the limit, as a share of the limit; and the largest of these
      distances, which is below 0 where everything is within its limits. A cut brain's limit is that of the share of its
      surface that is not on the border: a brain of 0 ml and one all on the border are equally bad.
    """
    beyond = []
    if (ml := measures.get("brain_ml")) is not None:
        beyond.append(max(1 - ml / SELDOM_ML[0], ml / SELDOM_ML[1] - 1))
    if (overlap := measures.get("overlap")) is not None:
        beyond.append(1 - overlap / SELDOM_OVERLAP)
    if (likeness := measures.get("likeness")) is not None:
        beyond.append(1 - likeness / SELDOM_LIKE)
    if recipe.stripped and (cut := measures.get("cut")) is not None:
        beyond.append(1 - (1 - cut) / (1 - SELDOM_CUT))
    return sum(max(0.0, b) for b in beyond), max(beyond, default=-1.0)


def _ml(mask: np.ndarray, affine: np.ndarray) -> float:
    return float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
