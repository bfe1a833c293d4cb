"""Scans as SimpleITK images and back, and coarser copies of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

#: RAS+ millimetres to SimpleITK's, which are LPS+, and back.
FLIP = np.diag([-1.0, -1.0, 1.0])


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK use one thread: its sums over several come out in another order each time."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def to_sitk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """Return a float32 image.

    Args:
      voxels: [x, y, z].
      affine: [4, 4], voxel to RAS+ mm. A shear in it is lost: SimpleITK knows none (`volumes.read` refuses scans with
        one that matters).
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T, dtype=np.float32))
    matrix = FLIP @ affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    # SimpleITK wants axes at right angles to 1e-5 or so; affines are stored in single precision.
    u, _, v = np.linalg.svd(matrix / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((u @ v).ravel().tolist())
    image.SetOrigin((FLIP @ affine[:3, 3]).tolist())
    return image


def to_voxels(image: sitk.Image) -> np.ndarray:
    """Return the voxels [x, y, z]."""
    return sitk.GetArrayFromImage(image).T


def affine_of(image: sitk.Image) -> np.ndarray:
    """Return the affine [4, 4], voxel to RAS+ mm."""
    affine = np.eye(4)
    affine[:3, :3] = FLIP @ (np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing())
    affine[:3, 3] = FLIP @ np.array(image.GetOrigin())
    return affine


def coarser(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Return the image smoothed and resampled to voxels of at least `spacing_mm` along each axis, centred alike.

    The smoothing makes up the difference in full width at half maximum between the old voxel and the new.
    """
    old = np.array(image.GetSpacing())
    new = np.maximum(spacing_mm, old)
    if np.allclose(new, old):
        return image
    sigma = np.sqrt(np.maximum(new**2 - old**2, 0.0)) / 2.3548 / old
    # SciPy's filter took 0.5 s where SimpleITK's DiscreteGaussian took 2 s or more.
    values = ndimage.gaussian_filter(to_voxels(image), sigma, mode="nearest", truncate=3.0)
    smooth = sitk.GetImageFromArray(values.T)
    smooth.CopyInformation(image)
    size = np.maximum(np.ceil(np.array(image.GetSize()) * old / new), 1).astype(int)
    centre = np.array(image.TransformContinuousIndexToPhysicalPoint(((np.array(image.GetSize()) - 1) / 2).tolist()))
    direction = np.reshape(image.GetDirection(), (3, 3))
    origin = centre - direction @ (new * (size - 1) / 2)
    return sitk.Resample(
        smooth,
        size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        new.tolist(),
        image.GetDirection(),
        0.0,
    )
