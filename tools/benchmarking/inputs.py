"""What both sides are given: seeded volumes and targets, and the cubes that occlusion hides."""

from __future__ import annotations

import math

import numpy as np


def volumes(batch: int, side: int) -> np.ndarray:
    """Return volumes [b, d, h, w, 1] float32 of noise."""
    return np.random.default_rng(0).standard_normal((batch, side, side, side, 1), np.float32)


def corners(batch: int, side: int) -> tuple[np.ndarray, int]:
    """Return the corners [b, 3] of the cubes that the copies of a volume lack, and the cubes' side in voxels."""
    cube = max(side // 5, 1)
    return np.random.default_rng(1).integers(0, side - cube + 1, (batch, 3)), cube


def brains(number: int, side: int) -> np.ndarray:
    """Return one volume [d, h, w, 1] float16 as stored: 57 % zeros around a ball whose values do not compress."""
    radius = side * (0.43 * 3 / (4 * math.pi)) ** (1 / 3)
    axes = np.square(np.arange(side) - (side - 1) / 2)
    inside = axes[:, None, None] + axes[:, None] + axes < radius**2
    values = np.random.default_rng([2, number]).normal(400, 100, inside.shape)
    return np.where(inside, np.maximum(values, 1), 0).astype(np.float16)[..., None]
