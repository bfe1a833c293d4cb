"""Heads made from the template, with a brain whose place is known."""

import numpy as np
from scipy import ndimage

from jaxneuro.prepare import images, registration, template


def pose(degrees=(0.0, 0.0, 0.0), shift_mm=(0.0, 0.0, 0.0), size=(0.9, 0.9, 0.9)):
    """Return the matrix [4, 4] of a pose, template's RAS+ mm to the scan's."""
    return registration._matrix(np.array([*np.radians(degrees), *shift_mm, *size]), template.load())


def head(matrix, *, voxel_mm=3.0, bias=0.0, noise=0.02, stripped=False, seed=0):
    """Return a head: voxels [x, y, z], affine [4, 4], where the brain is [x, y, z] bool.

    `bias` is how much brighter one side of the field of view is than its middle.
    """
    t = template.load()
    shape = np.array([220, 250, 240]) // voxel_mm
    shape = shape.astype(int)
    affine = np.diag([voxel_mm] * 3 + [1.0])
    affine[:3, 3] = matrix[:3, :3] @ t.centre + matrix[:3, 3] - voxel_mm * (shape - 1) / 2 + [4.0, -6.0, -10.0]
    to_voxel = np.linalg.inv(images.affine_of(t.head)) @ np.linalg.inv(matrix) @ affine

    def sampled(image):
        return ndimage.affine_transform(
            images.to_voxels(image), to_voxel[:3, :3], to_voxel[:3, 3], output_shape=tuple(shape), order=1
        )

    rng = np.random.default_rng(seed)
    mask = sampled(t.mask) > 0.5
    field = np.exp(bias * np.linspace(-1, 1, shape[1]))[:, None]
    values = sampled(t.brain if stripped else t.head) * field
    values = np.abs(values + rng.normal(0, noise, values.shape))
    if stripped:
        values[~mask] = 0
    return (600 * values).astype(np.float32), affine, mask


def dice(a, b):
    """Return twice the overlap over the sum of two masks."""
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def target_error(found, true):
    """Return the mean and the largest distance in mm between where two matrices put the template's brain."""
    t = template.load()
    points = np.argwhere(images.to_voxels(t.mask) > 0.5)[::977]
    points = np.c_[points, np.ones(len(points))] @ images.affine_of(t.mask).T
    away = np.linalg.norm((points @ (found - true).T)[:, :3], axis=1)
    return away.mean(), away.max()
