"""A run whose maps are known: an effect in a box, on a grid of which no two axes can be taken for each other."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from jaxneuro.training import loop
from tests.conftest import box_scans, smoke_config, write_dataset

#: Of the dataset's grid, mm: all six differ, so that no two axes can be taken for each other.
SPACING, CENTRE = (2.0, 3.0, 4.0), (1.0, -2.0, 3.0)
#: The box that is brighter in AD takes voxels 4 to 9 of 16, so its middle is one voxel below the grid's.
BOX_MM = (-1.0, -5.0, -1.0)
RECIPE = {"name": "boxes", "shape": [16, 16, 16], "stages": ["strip", "register"], "already": [], "centre_mm": CENTRE}


def write_mask(path, low, high, dtype=np.uint8, shape=(60, 80, 90), origin=(-30.0, -40.0, -40.0)):
    """Write a mask of voxels of 1 mm, of a box in world mm, left-right reversed in the file (LAS)."""
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = origin
    at = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) + affine[:3, 3]
    values = ((at >= low) & (at < high)).all(-1).astype(dtype)
    affine[0, 0], affine[0, 3] = -1.0, origin[0] + shape[0] - 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values[::-1], affine), path)
    return path


@pytest.fixture(scope="session")
def explained_run(tmp_path_factory):
    """A run on scans of a cohort that has the truth beside them, as `jaxneuro cohort` writes it."""
    root = tmp_path_factory.mktemp("explained")
    half = 3 * np.array(SPACING)
    write_mask(
        root / "cohort/derivatives/truth/effect-AD_mask.nii.gz", np.array(BOX_MM) - half, np.array(BOX_MM) + half
    )
    scans = [
        dataclasses.replace(s, path=str(root / f"cohort/sub-{s.subject}/{s.session}/anat/{s.name}_T1w.nii.gz"))
        for s in box_scans()
    ]
    axes = "RAS+: depth left to right, height posterior to anterior, width inferior to superior"
    data = write_dataset(root / "d", scans, spacing_mm=list(SPACING), axes=axes, recipe=RECIPE)
    loop.train(smoke_config(data, "training.epochs=4", "optimizer.learning_rate=0.01", "data.batch_size=8"), root / "r")
    return root / "r"
