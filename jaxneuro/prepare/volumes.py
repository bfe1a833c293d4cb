"""One raw scan to one volume: read and check, orient to RAS+, resample to the recipe's grid, scale, half precision."""

from __future__ import annotations

import errno
import hashlib
import math
import os
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from scipy import ndimage

from jaxneuro.errors import ScanError
from jaxneuro.prepare.recipes import Recipe

#: A larger image is a damaged header, or would not fit beside its copies: some 5 GB for a scan and what is made of it.
MOST_VOXELS = 2.7e8
#: What is taken for rounding; SimpleITK knows no shear.
MOST_SHEAR_DEGREES = 1.0
#: qform and sform may differ by the tilt of a head that one of them has aligned to a template, and by no more.
MOST_TURN_DEGREES = 45.0
#: More than this behind the voxels of a compressed file, MiB, and its header declares another image than is there.
_MOST_BEHIND_MIB = 64


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Read a NIfTI file as RAS+.

    Returns:
      voxels [x, y, z] float32, and the affine [4, 4] from voxel to mm.

    Raises:
      ScanError: the file cannot be read (cut short, not NIfTI), is not one 3D image, says nothing of its position
        (both qform and sform unset) or two things (they contradict each other), or its voxels are empty, constant or
        not finite.
    """
    where, image = str(path), _load(path)
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1:
        raise ScanError(f"shape {image.shape}", "one 3D image", "split a series into its images", where=where)
    if math.prod(shape) > MOST_VOXELS:
        raise ScanError(
            f"a declared size of {' x '.join(map(str, shape))}", f"at most {MOST_VOXELS:.3g} voxels, 0.35 mm of a head",
            "check its header", where=where,
        )  # fmt: skip
    if int(image.header["qform_code"]) == 0 and int(image.header["sform_code"]) == 0:
        raise ScanError(
            "no affine (qform and sform codes are 0), so left and right are unknown",
            "an affine",
            "convert the scan again, for instance with dcm2niix",
            where=where,
        )
    size = np.linalg.norm(image.affine[:3, :3], axis=0)
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) <= 1e-6 * size.prod():
        raise ScanError("an affine that is singular or not finite", "voxel sizes above zero", where=where)
    _agree(image, where)
    axes = image.affine[:3, :3] / size
    if (shear := np.degrees(np.arcsin(np.abs(axes.T @ axes - np.eye(3)).max().clip(0, 1)))) > MOST_SHEAR_DEGREES:
        raise ScanError(
            f"an affine with axes {shear:.1f} degrees off right angles", f"at most {MOST_SHEAR_DEGREES:g}",
            "resample it to a straight grid", where=where,
        )  # fmt: skip
    if image.get_data_dtype().kind not in "iuf":
        raise ScanError(f"values of type {image.get_data_dtype()}", "whole or real numbers", where=where)
    if size.min() < 0.1 or size.max() > 20:
        raise ScanError(
            f"voxels of {' x '.join(f'{s:.3g}' for s in size)} mm", "0.1 to 20 mm", "check its units", where=where
        )
    try:
        # Read before anything is derived: a truncated file fails here and nowhere else.
        voxels = _voxels(image).reshape(shape)
    except MemoryError:
        raise
    except Exception as e:
        if _of_the_system(e):
            raise _unread(e, where) from e
        raise ScanError(f"a damaged image ({_line(e)})", f"{shape} voxels", "copy it again", where=where) from e
    if bad := voxels.size - int(np.isfinite(voxels).sum()):
        raise ScanError(f"{bad} voxels that are NaN or infinite", "numbers", where=where)
    if voxels.min() == voxels.max():
        raise ScanError(f"the value {voxels.flat[0]:g} in every voxel", "an image", where=where)
    canonical = nibabel.as_closest_canonical(nibabel.Nifti1Image(voxels, image.affine))
    return np.ascontiguousarray(canonical.dataobj, dtype=np.float32), canonical.affine


def affine_from(path: str | os.PathLike[str]) -> str:
    """Return which of its two orientations `read` takes a file's affine from, "sform" or "qform".

    Raises:
      ScanError: it is no NIfTI file.
    """
    header = _load(path).header
    if int(header["sform_code"]) == 0:
        return "qform"
    if int(header["qform_code"]) != 0 and _qform(header) is None:
        return "sform; the qform is no rotation"
    return "sform"


def _of_the_system(error: Exception) -> bool:
    """Whether an error is the system's, such as EIO, EACCES or ESTALE.

    Those of damaged gzip streams have no number, and EINVAL comes of a damaged header that points before its file.
    """
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def _unread(error: Exception, where: str) -> ScanError:
    return ScanError(
        f"a file that cannot be read ({getattr(error, 'strerror', None) or _line(error)})", "an image",
        "check its permissions and its disk; the next run tries it again", where=where, passing=True,
    )  # fmt: skip


def content_hash(voxels: np.ndarray) -> str:
    """Return the SHA-256 of RAS+ voxel values [x, y, z] and their shape.

    Compression, header text and stored orientation do not change it; any voxel does.
    """
    digest = hashlib.sha256(np.asarray(voxels.shape, "<i8").tobytes())
    digest.update(np.ascontiguousarray(voxels, "<f4").data)
    return digest.hexdigest()


def apply(
    recipe: Recipe,
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    pose: np.ndarray | None = None,
) -> np.ndarray:
    """Bring RAS+ voxels onto the recipe's grid.

    Args:
      recipe: the recipe.
      voxels: [x, y, z] float32, background 0.
      affine: [4, 4], voxel to mm.
      mask: [x, y, z] bool: the brain. All else becomes 0.
      pose: [4, 4], template's RAS+ mm to the scan's; without it the grid's centre is the foreground's centre of mass.

    Returns:
      [depth, height, width, 1] float16; 1 is the recipe's percentile of the foreground.

    Raises:
      ScanError: nothing is above zero, the foreground is nearly constant, next to nothing of it lies on the grid, or
        the values do not fit float16 after scaling.
    """
    if mask is not None:
        voxels = np.where(mask, voxels, np.float32(0))
    foreground = voxels > 0
    if not foreground.any():
        raise ScanError("no voxel above zero", "a brain on a background of 0")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    spacing = np.asarray(recipe.spacing_mm)
    # Full width at half maximum of a voxel is its size; widths add in quadrature.
    fwhm = np.sqrt(np.maximum(spacing**2 - size**2, 0.0))
    smooth = ndimage.gaussian_filter(voxels, fwhm / size / 2.3548, mode="constant", truncate=3.0)
    to_voxel = np.linalg.inv(affine)
    if pose is None:
        centre = affine[:3, :3] @ _centre_of_mass(foreground) + affine[:3, 3]
    else:
        to_voxel, centre = to_voxel @ pose, np.asarray(recipe.centre_mm)
    to_mm = np.diag(spacing)
    first = to_voxel[:3, :3] @ (centre - to_mm @ ((np.asarray(recipe.shape) - 1) / 2)) + to_voxel[:3, 3]
    onto = {"matrix": to_voxel[:3, :3] @ to_mm, "offset": first, "output_shape": recipe.shape, "order": 1}
    grid = ndimage.affine_transform(smooth, mode="constant", **onto)
    if mask is not None:
        # The smoothing has spread the brain's edge over the background.
        grid[ndimage.affine_transform(mask.astype(np.float32), mode="constant", **onto) < 0.5] = 0
    scale = np.percentile(voxels[foreground], recipe.scale_percentile)
    low, high = np.percentile(voxels[foreground], (5, 95))
    if high - low < 0.01 * scale:
        raise ScanError(f"a foreground of {low:.4g} to {high:.4g} almost everywhere", "an image, not a mask")
    scaled = grid / np.float32(scale)
    inside = scaled[scaled > 0.01]
    if inside.size < 0.01 * scaled.size or np.ptp(inside) < 0.01:
        raise ScanError(
            f"{inside.size} of {scaled.size} voxels with a signal on the recipe's grid, {_spread(inside)}",
            "a head of some hundred mm",
            "check voxel size and affine",
        )
    if np.abs(scaled).max() > np.finfo(np.float16).max:
        raise ScanError(
            f"values up to {np.abs(scaled).max():.3g} times the {recipe.scale_percentile:g}th percentile",
            "an image without such spikes",
        )
    return scaled.astype(np.float16)[..., None]


def _load(path: str | os.PathLike[str]) -> Any:
    where = str(path)
    try:
        with open(where, "rb") as f:  # nibabel takes a file that the system does not hand out for one that is no image
            f.read(1024)
        image = nibabel.load(where)
    except MemoryError:
        raise
    except Exception as e:
        if _of_the_system(e):
            raise _unread(e, where) from e
        # nibabel raises a dozen kinds of error for damaged headers, with no common base; each says the file is bad.
        raise ScanError(f"no NIfTI image ({_line(e)})", "a .nii or .nii.gz file", where=where) from e
    if not isinstance(image, nibabel.Nifti1Pair):  # of which NIfTI-2 and single files are kinds
        raise ScanError(f"no NIfTI image ({type(image).__name__})", "a .nii or .nii.gz file", where=where)
    return image


def _agree(image: Any, where: str) -> None:
    """Refuse a file whose qform and sform, both set, differ in handedness or in where an axis points.

    Programs choose the one or the other, and nothing in the voxels tells which is right: left and right least of all.
    """
    header = image.header
    if int(header["sform_code"]) == 0 or int(header["qform_code"]) == 0 or (qform := _qform(header)) is None:
        return
    s, q = (a[:3, :3] / np.maximum(np.linalg.norm(a[:3, :3], axis=0), 1e-9) for a in (header.get_sform(), qform))
    turn = np.degrees(np.arccos(np.clip((s * q).sum(0), -1, 1)).max())
    if np.linalg.det(s) * np.linalg.det(q) < 0 or turn > MOST_TURN_DEGREES:
        ours, theirs = ("".join(c or "?" for c in nibabel.aff2axcodes(a)) for a in (header.get_sform(), qform))
        raise ScanError(
            f"an sform of axes {ours} and a qform of axes {theirs}, up to {turn:.0f} degrees apart", "one orientation",
            "keep the right one: fslorient -copysform2qform or -copyqform2sform", where=where,
        )  # fmt: skip


def _qform(header: Any) -> np.ndarray | None:
    """Return the affine of the qform; None where its numbers are no rotation."""
    try:
        affine = header.get_qform()
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return None
    return affine if np.isfinite(affine).all() else None


def _voxels(image: Any) -> np.ndarray:
    """Return the voxels as stored, float32; a compressed file is read to its end, where its checksum and length are."""
    stored, name = image.dataobj, image.file_map["image"].filename
    if not name.lower().endswith((".gz", ".bz2", ".zst")):
        return np.asarray(stored, dtype=np.float32)
    with ImageOpener(name) as stream:
        spec = (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter)
        voxels = np.asarray(ArrayProxy(stream, spec, mmap=False), dtype=np.float32)
        for _ in range(_MOST_BEHIND_MIB):
            if not stream.read(1 << 20):
                return voxels
    raise ValueError(f"more than {_MOST_BEHIND_MIB} MiB behind its voxels")


def _spread(values: np.ndarray) -> str:
    return f"from {values.min():.3g} to {values.max():.3g}" if values.size else "all zero"


def _centre_of_mass(mask: np.ndarray) -> np.ndarray:
    counts = [mask.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([np.average(np.arange(len(c)), weights=c) for c in counts])


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:160]
