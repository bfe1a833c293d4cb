"""One scan through the stages of a recipe: read, correct, strip, register, resample; and what there is to say of it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from jaxneuro import __version__, records
from jaxneuro.errors import ScanError
from jaxneuro.prepare import bias, checks, images, registration, stripping, volumes
from jaxneuro.prepare.recipes import STAGES, Recipe


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
    found = through(voxels, affine, recipe, mask_path)
    matrix = (found.pose.matrix if found.pose is not None else np.eye(4)) if recipe.registered else None
    volume = volumes.apply(recipe, images.to_voxels(found.scan), affine, mask=found.mask, pose=matrix)
    measures = checks.measure(volume, recipe, found.mask, affine)
    checks.registered(measures, recipe)
    content_hash = volumes.content_hash(voxels)
    record = {
        "content_hash": content_hash,
        "bytes": os.stat(path).st_size,
        "volume_sha256": hashlib.sha256(volume.tobytes()).hexdigest(),
        "recipe_fingerprint": records.fingerprint(recipe.describe()),
        "versions": _versions(),
        "affine_from": volumes.affine_from(path),
        "voxel_mm": [round(float(v), 4) for v in np.linalg.norm(affine[:3, :3], axis=0)],
        "stages": {**dict.fromkeys(recipe.already, "declared done"), **found.stages},
        "measures": measures,
        "flags": checks.flags(measures, recipe),
    }
    return Prepared(volume, content_hash, record)


@dataclass(frozen=True)
class Found:
    """What the stages of a recipe make of a scan, on its own grid.

    Attributes:
      scan: the scan, its bias corrected.
      mask: [x, y, z] bool, the brain; None for scans that keep their skull.
      pose: of the template in it; None where nothing was registered.
      stages: what each stage did, plain values.
    """

    scan: sitk.Image
    mask: np.ndarray | None
    pose: registration.Pose | None
    stages: dict[str, Any]


def through(
    voxels: np.ndarray,
    affine: np.ndarray,
    recipe: Recipe,
    mask_path: str = "",
    clock: Callable[[str], AbstractContextManager[Any]] = nullcontext,
) -> Found:
    """Take a scan through the stages of a recipe.

    Args:
      voxels: [x, y, z].
      affine: [4, 4], voxel to RAS+ mm.
      recipe: says which stages.
      mask_path: image of the brain's mask, for recipes that strip by "mask".
      clock: called with each stage's name, entered while it runs.

    Raises:
      ScanError: the scan cannot be used, or is not what it was declared to be; says why.
      InputError: the recipe needs a tool that is not there.
    """
    checks.above_zero(voxels)
    scan, mask, pose = images.to_sitk(voxels, affine), None, None
    stages: dict[str, Any] = {}
    corrects, strips, registers = (stage in recipe.stages for stage in STAGES)
    if strips and checks.looks_stripped(voxels, affine):
        strips, stages["strip"] = False, "found done: little but a brain stands on a background of 0"
    if "strip" in recipe.already:
        checks.declared_stripped(voxels, affine)
    if recipe.stripped and not strips:
        mask = ndimage.binary_fill_holes(voxels > 0)

    def over_brain(mask: np.ndarray) -> sitk.Image:
        return bias.of_brain(scan, images.to_sitk(mask, affine), recipe.bias_mm)

    even = scan
    if corrects:
        with clock("bias"):
            even = bias.correct(scan, grid_mm=max(8.0, recipe.bias_mm)) if mask is None else over_brain(mask)
        stages["bias"] = {"method": "N4"}
    if strips:
        if recipe.stripper == "template":
            with clock("find"):
                pose = registration.of_head(even, recipe.finest_mm)
        with clock("strip"):
            mask, stages["strip"] = _strip(even, recipe, mask_path, affine, pose)
        if corrects:  # again, now that there is only one kind of tissue to make even
            with clock("bias again"):
                even = over_brain(mask)
    if registers:
        with clock("register"):
            if mask is None:
                pose = registration.of_head(even, recipe.finest_mm)
            else:
                brain = images.to_sitk(images.to_voxels(even) * mask, affine)
                pose = registration.of_brain(brain, recipe.finest_mm, start=pose)
        stages["register"] = {"template": "MNI152 (nilearn)", **pose.describe()}
    if strips and recipe.stripper == "template" and (corrects or registers):
        with clock("strip again"):  # what the head's bias hid, and its pose had a little beside
            mask, _ = _strip(even, recipe, mask_path, affine, pose)
    return Found(even, mask, pose, stages)


def _strip(
    scan: sitk.Image, recipe: Recipe, mask_path: str, affine: np.ndarray, pose: registration.Pose | None
) -> tuple[np.ndarray, dict[str, str]]:
    """Return the brain, and how it was found; `pose` of the template in the scan, for the way that needs it."""
    how = {"method": recipe.stripper}
    if recipe.stripper == "mask":
        mask = _own_mask(mask_path, scan, affine)
        return mask, {**how, "mask": mask_path, "mask_hash": volumes.content_hash(mask)}
    mask = stripping.by_template(scan, pose) if pose is not None else stripping.TOOLS[recipe.stripper](scan)
    if not mask.any():
        raise ScanError(f"no brain by '{recipe.stripper}'", "a T1-weighted head", "try another --strip")
    return mask, how


def _own_mask(path: str, scan: sitk.Image, affine: np.ndarray) -> np.ndarray:
    if not path:
        raise ScanError(
            "no mask of the brain", "*_desc-brain_mask.nii.gz of this scan in a folder anat of derivatives/",
            "see docs/data.md",
        )  # fmt: skip
    try:
        voxels, theirs = volumes.read(path)
    except ScanError as e:
        raise ScanError(f"the mask {path}: {e.found}", e.expected, e.hint, passing=e.passing) from e
    if voxels.shape != scan.GetSize() or np.abs(theirs - affine).max() > 0.01:
        raise ScanError(f"the mask {path} on another grid, {voxels.shape}", f"the scan's, {scan.GetSize()}")
    return voxels > 0


@functools.cache
def _versions() -> dict[str, str]:
    names = ("SimpleITK", "nilearn", "nibabel", "numpy", "scipy")
    return {"jaxneuro": __version__, **{name: importlib.metadata.version(name) for name in names}}
