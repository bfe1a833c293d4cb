"""Write where each effect of a synthetic cohort acts, to score saliency maps against."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from jaxneuro.prepare import anatomy
from jaxneuro.prepare.anatomy import Anatomy, Morphology

VOXEL_MM = 2.0
SMOOTH_FWHM_MM = 6.0
MASK_SHARE = 0.5
RULE = (
    "change: absolute difference of the template's T1 with and without the effect at its average size, "
    "without noise or individual variation, divided by its maximum. "
    f"mask: the fewest voxels that hold {MASK_SHARE:.0%} of the change, smoothed by {SMOOTH_FWHM_MM:g} mm. "
    "region: the tissue that carries the effects, in the template."
)


def effect_change(template: Anatomy, before: Morphology, after: Morphology) -> np.ndarray:
    """Return the absolute change of intensity [x, y, z] from one morphology to another, largest 1, MNI space.

    The grid is `anatomy.output_grid(VOXEL_MM)`; all 0 when the two are the same.
    """
    images = []
    for form in (before, after):
        displacement = anatomy.person_displacement(template, form)
        points = anatomy.template_coordinates(template, displacement, VOXEL_MM, form.head_scale)
        image, brain = anatomy.warp_template(template, form.loss, points)
        images.append(image * brain)  # air is 0 in the scans too
    change = np.abs(images[1] - images[0])
    return change / max(change.max(), np.finfo(np.float32).tiny)


def effect_mask(change: np.ndarray) -> np.ndarray:
    """Return where an effect acts, bool [x, y, z]: the rule in RULE applied to `effect_change`."""
    smooth = ndimage.gaussian_filter(change, SMOOTH_FWHM_MM / 2.3548 / VOXEL_MM)
    ranked = np.sort(smooth, axis=None)[::-1]
    held = np.cumsum(ranked, dtype=np.float64)
    return (smooth > 0) & (smooth >= ranked[np.searchsorted(held, MASK_SHARE * held[-1])])


def region_masks(template: Anatomy) -> dict[str, np.ndarray]:
    """Return the template's regions, bool [x, y, z], on the grid of the effect maps."""
    still = np.zeros_like(next(iter(template.fields.values())))
    points = anatomy.template_coordinates(template, still, VOXEL_MM)
    at = np.rint(points - template.origin.reshape(3, 1, 1, 1)).astype(int)
    within = np.all([(part >= 0) & (part < n) for part, n in zip(at, template.brain.shape, strict=True)], axis=0)
    masks = {}
    for name, region in template.regions.items():
        masks[name] = np.zeros(within.shape, bool)
        masks[name][within] = region[tuple(at[:, within])]
    return masks


def write_truth(folder: Path, contrasts: Mapping[str, tuple[Morphology, Morphology]], details: Mapping) -> None:
    """Write `effect-<name>_change` and `_mask` for each contrast and `region-<name>_mask`, as .nii.gz files.

    `details` goes into `truth.json` beside the rule. MNI space, voxels of 2 mm, RAS+.
    """
    folder.mkdir(parents=True)
    template = anatomy.load_anatomy(VOXEL_MM)
    for name, (before, after) in contrasts.items():
        change = effect_change(template, before, after)
        _save(folder / f"effect-{name}_change.nii.gz", change.astype(np.float32))
        _save(folder / f"effect-{name}_mask.nii.gz", effect_mask(change).astype(np.uint8))
    for name, mask in region_masks(template).items():
        _save(folder / f"region-{name.replace('_', '')}_mask.nii.gz", mask.astype(np.uint8))
    description = {
        "Name": "True effect maps of a synthetic brain MRI cohort",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "jaxneuro cohort"}],
    }
    for file, content in (
        ("dataset_description.json", description),
        ("truth.json", {"rule": RULE} | dict(details)),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save(path: Path, volume: np.ndarray) -> None:
    affine = anatomy.output_grid(VOXEL_MM)[1]
    image = nib.Nifti1Image(volume, affine)
    image.set_sform(affine, code="mni")
    image.set_qform(affine, code="mni")
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
