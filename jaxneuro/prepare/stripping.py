"""Skull stripping: which voxels of a head are brain. The default needs nothing else; other tools where installed."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from jaxneuro.errors import InputError, ScanError
from jaxneuro.prepare import images, template
from jaxneuro.prepare.registration import Pose

#: Deeper inside of the template's surface than this a voxel is brain, further outside it is not, mm.
_REACH_MM = 5.0
#: Standard deviation of the Gaussian that smooths what is tissue, mm: sulci are brain, bridges to the skull are not.
_SMOOTH_MM = 1.5
#: Tissue is brighter than this share of the threshold between fluid and grey matter, and darker than this much times
#: the white matter around: fat is brighter.
_DARKEST, _BRIGHTEST = 0.8, 1.3
#: Standard deviation of the Gaussian that says what is around, mm.
_NEARBY_MM = 15.0
#: Longest time that a tool may take for one scan, seconds.
_LIMIT_S = 1800
#: What tools fail at (memory, a full disk, a licence) is not always the scan.
_AGAIN = "the next run tries it again"


def propagate(scan: sitk.Image, pose: Pose) -> np.ndarray:
    """Return the template's brain mask in a scan, [x, y, z] bool."""
    to_template = np.linalg.inv(pose.matrix)
    move = sitk.AffineTransform(3)
    move.SetMatrix((images.FLIP @ to_template[:3, :3] @ images.FLIP).ravel().tolist())
    move.SetTranslation((images.FLIP @ to_template[:3, 3]).tolist())
    mask = sitk.Resample(template.load().mask, scan, move, sitk.sitkLinear, 0.0)
    return images.to_voxels(mask) > 0.5


def by_template(scan: sitk.Image, pose: Pose) -> np.ndarray:
    """Return the brain as the template has it, its surface moved to where this scan has one.

    A voxel is brain when the share of tissue around it and its depth within the template's brain say so together: at
    the template's surface half must be tissue, at `_REACH_MM` inside nothing, at as much outside all. Tissue is as
    bright as grey or white matter, by the white matter around, for what N4 leaves of a bias can be half of the
    difference between tissue and fluid.

    Args:
      scan: the head, its bias corrected.
      pose: of the template in it.

    Returns:
      [x, y, z] bool.
    """
    work = images.coarser(scan, 1.0)
    mask = propagate(work, pose)
    box = _box(mask, work, 3 * _REACH_MM)
    spacing = np.array(work.GetSpacing())
    depth = _distance(mask[box], spacing)  # positive inside
    values = images.to_voxels(work)[box]
    values = values / _white(values, depth > _REACH_MM, spacing)
    tissue = (values > _DARKEST * _fluid(values[mask[box]])) & (values < _BRIGHTEST)
    share = ndimage.gaussian_filter(tissue.astype(np.float32), _SMOOTH_MM / spacing)
    likely = (share + depth / (2 * _REACH_MM) > 0.5) & (depth > -_REACH_MM)
    brain = np.zeros(work.GetSize(), bool)
    brain[box] = ndimage.binary_fill_holes(_largest(likely))
    if work is scan:
        return brain
    affine = images.affine_of(work)
    fine = sitk.Resample(images.to_sitk(brain, affine), scan, sitk.Transform(), sitk.sitkLinear, 0.0)
    return images.to_voxels(fine) > 0.5


def by_deepbet(scan: sitk.Image) -> np.ndarray:
    """Return the brain as deepbet finds it (Fisch et al. 2024; package `deepbet`, which brings its weights along)."""
    try:
        from deepbet import BrainExtraction
    except ImportError as e:
        raise InputError(f"--strip deepbet: found {e}; expected the package: pip install deepbet") from e
    head = nibabel.Nifti1Image(images.to_voxels(scan), images.affine_of(scan))
    with contextlib.redirect_stdout(io.StringIO()):
        _, mask, _ = BrainExtraction(no_gpu=True).run(head)
    return np.asarray(mask.dataobj) > 0


def by_synthstrip(scan: sitk.Image) -> np.ndarray:
    """Return the brain as SynthStrip finds it (Hoopes et al. 2022; FreeSurfer's command `mri_synthstrip`)."""
    return _command(scan, "synthstrip", "mri_synthstrip", "-i", "{head}", "-o", "{brain}")


def by_hd_bet(scan: sitk.Image) -> np.ndarray:
    """Return the brain as HD-BET finds it (Isensee et al. 2019; command `hd-bet`, version 2)."""
    return _command(scan, "hd-bet", "hd-bet", "-i", "{head}", "-o", "{brain}", "-device", "cpu", "--disable_tta")


#: Tools that find a brain by themselves: name -> scan -> mask [x, y, z].
TOOLS: dict[str, Callable[[sitk.Image], np.ndarray]] = {
    "deepbet": by_deepbet,
    "synthstrip": by_synthstrip,
    "hd-bet": by_hd_bet,
}


def _command(scan: sitk.Image, name: str, program: str, *arguments: str) -> np.ndarray:
    """Run a tool on a file; brain is what it leaves above 0, and holes in that."""
    found = shutil.which(program)
    if found is None:
        raise InputError(f"--strip {name}: found no command {program}; expected it on the PATH")
    with tempfile.TemporaryDirectory(prefix="jaxneuro-strip-") as folder:
        head, brain = Path(folder, "head.nii.gz"), Path(folder, "brain.nii.gz")
        nibabel.save(nibabel.Nifti1Image(images.to_voxels(scan), images.affine_of(scan)), head)
        command = [found, *(a.format(head=head, brain=brain) for a in arguments)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_LIMIT_S, cwd=folder
            )
        except subprocess.TimeoutExpired as e:
            raise ScanError(f"{program} that took over {_LIMIT_S} s", "a brain", _AGAIN, passing=True) from e
        if done.returncode or not brain.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1][:160]
            raise ScanError(
                f"{program} that ended with status {done.returncode} and said: {said}", "a brain", _AGAIN, passing=True
            )
        try:
            voxels = np.asarray(nibabel.as_closest_canonical(nibabel.load(brain)).dataobj)
        except Exception as e:  # nibabel raises a dozen kinds for damaged files
            raise ScanError(f"an image that cannot be read, by {program}", "a brain", _AGAIN, passing=True) from e
    if voxels.shape != scan.GetSize():
        raise ScanError(f"{program}'s image of shape {voxels.shape}", f"the scan's, {scan.GetSize()}")
    return ndimage.binary_fill_holes(voxels > 0)


def _white(values: np.ndarray, core: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return how bright white matter is around each voxel: the mean of the core's brighter half nearby."""
    bright = core & (values > np.median(values[core]))
    sigma = _NEARBY_MM / spacing
    weight = ndimage.gaussian_filter(bright.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(bright, values, 0).astype(np.float32), sigma)
    return np.maximum(total, 1e-6) / np.maximum(weight, 1e-6)


def _fluid(values: np.ndarray) -> float:
    """Return the threshold between fluid and grey matter: the lower of the two that part a brain into three (Otsu)."""
    otsu = sitk.OtsuMultipleThresholdsImageFilter()
    otsu.SetNumberOfThresholds(2)
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(np.clip(values, 0, 1.5)[None, None].astype(np.float32)))
    return otsu.GetThresholds()[0]


def _distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the distance to the mask's surface in mm, positive inside."""
    image = sitk.GetImageFromArray(mask.T.astype(np.uint8))
    image.SetSpacing(spacing.tolist())
    away = sitk.SignedMaurerDistanceMap(image, insideIsPositive=True, squaredDistance=False, useImageSpacing=True)
    return sitk.GetArrayFromImage(away).T


def _largest(mask: np.ndarray) -> np.ndarray:
    label, n = ndimage.label(mask)
    return mask if n < 2 else label == np.argmax(np.bincount(label.ravel())[1:]) + 1


def _box(mask: np.ndarray, image: sitk.Image, margin_mm: float) -> tuple[slice, ...]:
    if not mask.any():
        raise ScanError("a template that lies outside of the scan", "a head within the scan", "check its affine")
    box = []
    for axis, spacing in enumerate(image.GetSpacing()):
        there = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        margin = int(np.ceil(margin_mm / spacing))
        box.append(slice(max(0, there[0] - margin), there[-1] + margin + 1))
    return tuple(box)
