"""One scan through the stages of a recipe: read, correct, strip, register, resample; and what there is to say of it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from jaxneuro import __version__, records
from jaxneuro.errors import ScanError
from jaxneuro.prepare import bias, checks, images, registration, stripping, volumes
from jaxneuro.prepare.recipes import Recipe


@dataclass(frozen=True)
class Prepared:
    """A scan that has become a volume.

    Attributes:
      volume: [depth, height, width, 1] float16.
      content_hash: of the scan's own voxels (`volumes.content_hash`).
      record: plain values: versions, what each stage did, hashes of what came in and out, measures, flags.
    """

    volume: np.ndarray
    content_hash: str
    record: dict[str, Any]


def prepare(path: str, recipe: Recipe, mask_path: str = "") -> Prepared:
    """Take one scan through a recipe.

    Args:
      path: the image.
      recipe: what is done with it.
      mask_path: image of the brain's mask, for recipes that strip by "mask".

    Raises:
      ScanError: the scan cannot be used, or is not what it was declared to be; says why.
      InputError: the recipe needs a tool that is not there.
    """
    voxels, affine = volumes.read(path)
    content_hash = volumes.content_hash(voxels)
    scan, mask, pose = images.to_sitk(voxels, affine), None, None
    stages: dict[str, Any] = {}
    strips = "strip" in recipe.stages
    if strips and checks.looks_stripped(voxels, affine):
        strips, stages["strip"] = False, "found done: little but a brain stands on a background of 0"
    if "strip" in recipe.already:
        checks.declared_stripped(voxels, affine)
    if recipe.stripped and not strips:
        mask = ndimage.binary_fill_holes(voxels > 0)

    corrects = "bias" in recipe.stages
    if corrects:
        if mask is None:
            scan = bias.correct(scan)
        else:
            scan = bias.of_brain(scan, images.to_sitk(mask, affine), recipe.bias_mm)
        stages["bias"] = {"method": "N4"}
    if strips:
        mask, pose = _strip(scan, recipe, mask_path, affine)
        stages["strip"] = {"method": recipe.stripper}
        if corrects:  # again, now that there is only one kind of tissue to make even
            scan = bias.of_brain(images.to_sitk(voxels, affine), images.to_sitk(mask, affine), recipe.bias_mm)
    if "register" in recipe.stages:
        if mask is None:
            pose = registration.of_head(scan, recipe.finest_mm)
        else:
            brain = images.to_sitk(images.to_voxels(scan) * mask, affine)
            pose = registration.of_brain(brain, recipe.finest_mm, start=pose)
        stages["register"] = {"template": "MNI152 (nilearn)", **pose.describe()}
    matrix = (pose.matrix if pose is not None else np.eye(4)) if recipe.registered else None
    volume = volumes.apply(recipe, images.to_voxels(scan), affine, mask=mask, pose=matrix)
    measures = checks.measure(volume, recipe, mask, affine)
    checks.registered(measures, recipe)
    record = {
        "content_hash": content_hash,
        "bytes": os.stat(path).st_size,
        "volume_sha256": hashlib.sha256(volume.tobytes()).hexdigest(),
        "recipe_fingerprint": records.fingerprint(recipe.describe()),
        "versions": _versions(),
        "voxel_mm": [round(float(v), 4) for v in np.linalg.norm(affine[:3, :3], axis=0)],
        "stages": {**dict.fromkeys(recipe.already, "declared done"), **stages},
        "measures": measures,
        "flags": checks.flags(measures, recipe),
    }
    return Prepared(volume, content_hash, record)


def _strip(
    scan: sitk.Image, recipe: Recipe, mask_path: str, affine: np.ndarray
) -> tuple[np.ndarray, registration.Pose | None]:
    """Return the brain, and where the template lies in it, if that was needed."""
    if recipe.stripper == "mask":
        return _own_mask(mask_path, scan, affine), None
    # Networks need no pose; the brain that they leave is found by itself.
    pose = registration.of_head(scan, recipe.finest_mm) if recipe.stripper == "template" else None
    mask = stripping.by_template(scan, pose) if pose else stripping.TOOLS[recipe.stripper](scan)
    if not mask.any():
        raise ScanError(f"no brain by '{recipe.stripper}'", "a T1-weighted head", "try another --strip")
    return mask, pose


def _own_mask(path: str, scan: sitk.Image, affine: np.ndarray) -> np.ndarray:
    if not path:
        raise ScanError(
            "no mask of the brain", "*_desc-brain_mask.nii.gz of this scan in derivatives/", "see docs/data.md"
        )
    try:
        voxels, theirs = volumes.read(path)
    except ScanError as e:
        raise ScanError(f"the mask {path}: {e.found}", e.expected, e.hint) from e
    if voxels.shape != scan.GetSize() or np.abs(theirs - affine).max() > 0.01:
        raise ScanError(f"the mask {path} on another grid, {voxels.shape}", f"the scan's, {scan.GetSize()}")
    return voxels > 0


@functools.cache
def _versions() -> dict[str, str]:
    names = ("SimpleITK", "nilearn", "nibabel", "numpy", "scipy")
    return {"jaxneuro": __version__, **{name: importlib.metadata.version(name) for name in names}}
