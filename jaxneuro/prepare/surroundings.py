"""What surrounds the brain of a synthetic head: fluid, bone with marrow, fat and skin, a neck and a face."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from jaxneuro.prepare.anatomy import CSF

#: T1 of each, in the template's units (white matter 0.875); fat takes the scanner's brightest level.
_BONE, _MARROW, _MUSCLE, _FAT = 0.03, 0.3, 0.45, 1.0
#: Centre and radii in MNI space, mm: of the face and of the neck, whose long axis goes down.
_FACE = (0.0, 58.0, -62.0), (58.0, 46.0, 52.0)
_NECK = (0.0, -35.0, -120.0), (55.0, 62.0, 90.0)
#: Gaps of the brain's surface narrower than twice this have no bone in them, mm.
_GAP_MM = 9.0


@dataclass(frozen=True)
class Shell:
    """Thickness of one person's layers, mm: fluid on the brain, bone, and what is on the bone."""

    fluid_mm: float = 2.0
    bone_mm: float = 6.5
    skin_mm: float = 6.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Shell:
        """Draw a person's; each within 2 standard deviations of the mean."""
        a, b, c = np.clip(rng.standard_normal(3), -2, 2)
        return cls(2.0 + 0.4 * float(a), 6.5 + 1.0 * float(b), 6.0 + 1.5 * float(c))


def surround(
    image: np.ndarray, brain: np.ndarray, points: np.ndarray, voxel_mm: float, shell: Shell, rng: np.random.Generator
) -> np.ndarray:
    """Return the T1 map of a head.

    Args:
      image: T1 [x, y, z] with the brain in it.
      brain: where it is.
      points: [3, x, y, z], the template's point in mm that each voxel shows.
      voxel_mm: size of a voxel.
      shell: the person's layers.
      rng: of the texture of face and neck.
    """
    away = ndimage.distance_transform_edt(~brain, sampling=voxel_mm)
    # The bone bridges what the brain's surface leaves open, between the hemispheres or below the cerebellum.
    filled = ndimage.distance_transform_edt(away < _GAP_MM, sampling=voxel_mm) > _GAP_MM
    away = ndimage.distance_transform_edt(~(filled | brain), sampling=voxel_mm)
    bone = away - shell.fluid_mm
    skin = bone - shell.bone_mm
    air = skin - shell.skin_mm
    # Marrow in the middle of the bone.
    hard = _BONE + (_MARROW - _BONE) * np.exp(-(((bone - shell.bone_mm / 2) / 1.3) ** 2))
    head = np.where(brain, image, CSF)
    head = np.where(bone > 0, hard, head)
    soft = _soft(points, voxel_mm, rng)
    head = np.where(skin > 0, np.where(air <= 0, _FAT, soft), head)
    return head.astype(np.float32)


def _soft(points: np.ndarray, voxel_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return face and neck [x, y, z]: muscle with lumps of fat and of air, under a layer of fat; 0 elsewhere."""
    depth = np.full(points.shape[1:], -np.inf, np.float32)
    for centre, radii in (_FACE, _NECK):
        scaled = (points - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
        # About the depth below the ellipsoid's surface, mm.
        depth = np.maximum(depth, (1 - np.sqrt((scaled**2).sum(0))) * min(radii))
    lumps = ndimage.gaussian_filter(rng.standard_normal(depth.shape).astype(np.float32), 6.0 / voxel_mm)
    lumps /= max(float(lumps.std()), 1e-6)
    soft = np.where(lumps > 1.2, _FAT, np.where(lumps < -1.3, 0.0, _MUSCLE))
    return np.where(depth > 5, soft, np.where(depth > 0, _FAT, 0.0))
