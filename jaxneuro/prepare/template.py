"""The template: nilearn's copy of the MNI152 average brain, with a head around it that no copy brings along."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from jaxneuro.prepare import images
from jaxneuro.prepare.recipes import Recipe

#: Distance from the brain's surface, mm: nothing but dark fluid and bone up to here, then bright fat and skin.
_BONE_MM, _SKIN_MM, _AIR_MM = 9.0, 17.0, 24.0
#: Height in MNI space, mm, above which the brain has bone and skin around it and no face or neck.
_FACE_MM = -10.0
#: Brightness of skin, in units of white matter's.
_SKIN = 1.3


@dataclass(frozen=True)
class Template:
    """The MNI152 brain (ICBM 2009a, symmetric), 1 mm.

    Attributes:
      brain: intensities, white matter about 1, 0 outside of the brain.
      mask: 1 in the brain.
      head: `brain` with a dark shell and a bright one around it, roughly as in any T1-weighted head. A template of the
        brain alone fits a head best when it is blown up to the skin.
      region: 1 where `head` can be compared with a scan: the brain, and what is around it above the face.
      centre: of the brain, RAS+ mm.
      top_mm: from the centre up to the brain's top.
      volume_ml: of the brain.
    """

    brain: sitk.Image
    mask: sitk.Image
    head: sitk.Image
    region: sitk.Image
    centre: np.ndarray
    top_mm: float
    volume_ml: float


@functools.cache
def load(spacing_mm: float = 1.0) -> Template:
    """Return the template, read from nilearn's own files, or a coarser copy; each is made once a process."""
    if spacing_mm > 1.0:
        fine = load()
        brain, mask, head, region = (
            images.coarser(image, spacing_mm) for image in (fine.brain, fine.mask, fine.head, fine.region)
        )
        return replace(fine, brain=brain, mask=mask, head=head, region=region)
    from nilearn import datasets  # takes a second or two

    image = datasets.load_mni152_template(resolution=1)
    inside = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0.5
    values = np.asarray(image.dataobj, np.float32)
    values = np.where(inside, values / np.percentile(values[inside], 98), 0.0)
    margin = int(_AIR_MM)
    inside, values = np.pad(inside, margin), np.pad(values, margin)
    affine = image.affine.copy()
    affine[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    away = ndimage.distance_transform_edt(~inside)
    height = affine[2, 3] + affine[2, 2] * np.arange(inside.shape[2])
    around = np.where((away > _BONE_MM) & (away <= _SKIN_MM), _SKIN, values)
    compared = inside | ((away <= _AIR_MM) & (height > _FACE_MM))
    points = np.argwhere(inside) @ affine[:3, :3].T + affine[:3, 3]
    centre = points.mean(0)
    return Template(
        brain=images.to_sitk(values, affine),
        mask=images.to_sitk(inside, affine),
        head=images.to_sitk(around, affine),
        region=images.to_sitk(compared, affine),
        centre=centre,
        top_mm=float(points[:, 2].max() - centre[2]),
        volume_ml=float(inside.sum() / 1000),
    )


@functools.lru_cache(maxsize=4)
def on_grid(recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """Return the template's intensities and brain mask on a recipe's grid: [depth, height, width] float32, bool."""
    spacing = np.diag(recipe.spacing_mm)
    first = np.asarray(recipe.centre_mm) - spacing @ ((np.asarray(recipe.shape) - 1) / 2)
    t = load(float(np.clip(min(recipe.spacing_mm), 1.0, 4.0)))
    to_voxel = np.linalg.inv(images.affine_of(t.brain))
    brain, mask = (
        ndimage.affine_transform(
            images.to_voxels(image),
            to_voxel[:3, :3] @ spacing,
            to_voxel[:3, :3] @ first + to_voxel[:3, 3],
            output_shape=recipe.shape,
            order=1,
        )
        for image in (t.brain, t.mask)
    )
    return brain, mask > 0.5
