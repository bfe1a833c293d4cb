"""Where the voxels of a dataset lie: affines from its card, maps as NIfTI, other images brought onto its grid."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from nibabel import processing

from jaxneuro import manifest
from jaxneuro.errors import InputError


class Space(NamedTuple):
    """The grid of a dataset.

    Attributes:
      shape: voxels along (depth, height, width), which are left to right, posterior to anterior, inferior to superior.
      affine: [4, 4], from voxel to RAS+ mm.
      registered: whether that is the template's space (MNI152). Else each scan lies about its own brain's centre, which
        is put at 0.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    registered: bool

    @property
    def voxel_mm(self) -> np.ndarray:
        """Size of a voxel along each axis [3], mm."""
        return np.diag(self.affine)[:3]


def of(card: Mapping[str, Any], where: str | Path) -> Space:
    """Return the space of a dataset from its card: its recipe's grid has its centre at `centre_mm`.

    Args:
      card: of the dataset.
      where: the dataset, for the error.

    Raises:
      InputError: its volumes are no scans on a grid in mm, such as clips of video.
    """
    if not card.get("spacing_mm") or not str(card.get("axes", "")).startswith("RAS+"):
        raise InputError(
            f"{where}: found axes {card.get('axes')!r} and voxels of {card.get('spacing_mm')} mm; expected scans on a "
            "RAS+ grid in mm: maps are of scans, not of videos"
        )
    recipe, shape = card["recipe"], tuple(card["shape"][:3])
    stages = (*recipe.get("stages", ()), *recipe.get("already", ()))
    registered = "register" in stages and "centre_mm" in recipe
    centre = np.asarray(recipe["centre_mm"] if registered else (0, 0, 0), float)
    spacing = np.asarray(card["spacing_mm"], float)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = centre - spacing * (np.asarray(shape) - 1) / 2
    return Space((shape[0], shape[1], shape[2]), affine, registered)


def image(space: Space, values: np.ndarray) -> nib.Nifti1Image:
    """Return values [d, h, w] as an image, float32, both of its affines set; "mni" when it is registered."""
    made = nib.Nifti1Image(values.astype(np.float32), space.affine)
    code = "mni" if space.registered else "aligned"
    made.set_sform(space.affine, code=code)
    made.set_qform(space.affine, code=code)
    made.header.set_xyzt_units("mm")
    return made


def onto(space: Space, path: Path, flag: str) -> np.ndarray:
    """Return the image in a file at the voxels of a space [d, h, w], from the nearest of its own; 0 outside of it.

    Args:
      space: of the dataset.
      path: a NIfTI file in the template's space, on any grid.
      flag: of the command line, for the error.

    Raises:
      InputError: the file is no such image, or the dataset does not lie in the template's space.
    """
    if not space.registered:
        raise InputError(
            f"{flag}: found it with a dataset that is not registered; expected one in the template's space; prepare "
            "without --skip register, or with --already register"
        )
    try:
        there: Any = nib.load(path)
        values = np.asarray(there.dataobj)
    except FileNotFoundError as e:
        raise InputError(f"{flag}: {path}: no such file; expected a NIfTI image") from e
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as e:
        raise InputError(f"{flag}: {path}: found no NIfTI image ({str(e).splitlines()[0]}); expected one") from e
    values = values.reshape(values.shape[:3]) if values.ndim > 3 and values[0, 0, 0].size == 1 else values
    if values.ndim != 3:
        raise InputError(f"{flag}: {path}: found {values.ndim} axes, {list(values.shape)}; expected three")
    plain = nib.Nifti1Image(values.astype(np.float64), there.affine)
    return np.asarray(processing.resample_from_to(plain, (space.shape, space.affine), order=0, cval=0).dataobj)


def read_labels(path: Path) -> dict[int, str]:
    """Return the names of an atlas's regions by number, from a CSV or TSV with the columns `index` and `name`.

    Raises:
      InputError: the file is no such table.
    """
    columns, rows = manifest.read_table(path)
    if not {"index", "name"} <= set(columns):
        raise InputError(f"--labels: {path}: found columns {columns}; expected index and name")
    found = {}
    for line, row in rows:
        if not row["index"].strip().isdecimal():
            raise InputError(f"--labels: {path} line {line}: found index '{row['index']}'; expected a whole number")
        found[int(row["index"])] = row["name"].strip()
    return found
