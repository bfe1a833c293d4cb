"""Deform the MNI152 template into one person's brain and image it on one synthetic scanner.

The chain is `load_anatomy`, `person_displacement` (a diffeomorphism), `template_coordinates`,
`warp_template`, `acquire`.
Nothing here knows of ages or diagnoses: `cohort` turns those into a `Morphology`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from jaxneuro.errors import InputError

CSF, GREY, WHITE = 0.27, 0.64, 0.875  # medians of the template's T1 in pure tissue
COARSE_MM = 4  # deformations are smooth over 8 mm or more, so a 4 mm grid holds them
AIR_MM = 12  # around the brain in the template's box
CENTRE_MM = (0.0, -17.0, 5.0)  # centre of the brain's bounding box in MNI space, about which heads grow
EXTENT_MM = (176.0, 208.0, 184.0)  # field of view: the brain and 14 mm or more of air
HEAD_CENTRE_MM, HEAD_EXTENT_MM = (0.0, -12.0, -12.0), (212.0, 256.0, 252.0)  # of a whole head, with some of the neck

# Ellipsoids in MNI space: centre and radii in mm, on the right; each is mirrored to the left.
# Centres are the usual MNI coordinates of these structures; tissue maps trim the ellipsoids to their shape.
ELLIPSOIDS: dict[str, tuple[tuple[tuple[float, float, float], tuple[float, float, float]], ...]] = {
    "medial_temporal": (
        ((27, -22, -15), (8, 17, 8)),  # hippocampus
        ((23, -6, -22), (9, 11, 9)),  # amygdala, entorhinal and parahippocampal cortex
    ),
    "basal_ganglia": (
        ((12, 12, 9), (6, 13, 9)),  # caudate
        ((26, 4, 1), (7, 14, 9)),  # putamen
        ((20, -5, 0), (6, 8, 7)),  # pallidum
    ),
    "midbrain": (((9, -19, -11), (8, 8, 8)),),  # substantia nigra, red nucleus and peduncle
}
CEREBELLUM = (
    ((24, -62, -44), (44, 40, 32)),
    ((0, -30, -45), (14, 16, 30)),
)  # and brainstem: grey, but not cortex
FIELD_SMOOTH_MM = {"ventricles": 6.0, "medial_temporal": 6.0, "basal_ganglia": 6.0, "midbrain": 5.0}


@dataclass(frozen=True)
class Anatomy:
    """The template and what the effects act on; arrays are [x, y, z] at 1 mm unless said otherwise."""

    t1: np.ndarray  # float32, 0..1, CSF outside the brain so that blurring does not darken the edge
    brain: np.ndarray  # bool
    origin: np.ndarray  # [3] mm of the first voxel
    regions: Mapping[str, np.ndarray]  # bool; ventricles, cortex and the keys of ELLIPSOIDS
    cortex_change: np.ndarray  # float32: what T1 would change by, if all cortex beside CSF became CSF
    region_change: Mapping[str, tuple[np.ndarray, np.ndarray]]  # the same for each region: flat indices and values
    fields: Mapping[str, np.ndarray]  # [3, cx, cy, cz] outward velocity of each region, peak 1, on the coarse grid
    coarse_origin: np.ndarray  # [3] mm of the coarse grid's first point


@dataclass(frozen=True)
class Morphology:
    """What sets one brain apart from the template before its random deformation."""

    head_scale: float = 1.0  # linear
    shift_mm: Mapping[str, float] = field(default_factory=dict)  # outward movement of a region's boundary, by region
    loss: Mapping[str, float] = field(default_factory=dict)  # fraction of a region's tissue turned to CSF, by region


@dataclass(frozen=True)
class Scanner:
    """One site's acquisition; intensities are fractions of white matter, before `gain`."""

    csf: float
    grey: float
    white: float
    gain: float  # stored units per unit of intensity
    bias: float  # standard deviation of each polynomial term of the log bias field
    noise: float  # Rician noise at 2 mm voxels; falls with the square root of the voxel volume
    fwhm_mm: float  # in-plane and through-plane blur
    voxel_scale: float  # the site's voxel size over the cohort's
    orientation: str  # "RAS" or "LAS": which way the first axis is stored


# A, B and C differ as hospitals do. D is meant to be held out: flatter contrast, more noise and shading,
# larger voxels.
SCANNERS: dict[str, Scanner] = {
    "A": Scanner(0.25, 0.68, 1.00, 1000.0, 0.04, 0.020, 1.5, 1.00, "RAS"),
    "B": Scanner(0.20, 0.62, 1.00, 700.0, 0.06, 0.030, 2.0, 1.00, "RAS"),
    "C": Scanner(0.30, 0.72, 1.00, 1400.0, 0.05, 0.025, 2.5, 1.10, "LAS"),
    "D": Scanner(0.42, 0.83, 1.00, 450.0, 0.12, 0.050, 4.0, 1.25, "LAS"),
}


@functools.cache
def load_anatomy(voxel_size: float) -> Anatomy:
    """Load nilearn's MNI152 template and prepare its regions for scans of `voxel_size` mm; cached.

    Raises InputError when nilearn is not installed.
    """
    try:
        from nilearn import datasets  # slow to import, and only an extra
    except ImportError as e:
        raise InputError("nilearn: not installed; expected it for the template; pip install 'jaxneuro[prepare]'") from e
    image = datasets.load_mni152_template(resolution=1)
    t1 = image.get_fdata(dtype=np.float32)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    brain = datasets.load_mni152_brain_mask(resolution=1).get_fdata(dtype=np.float32) > 0.5
    box, air = _box_around(brain)
    origin = image.affine[:3, 3] + [part.start - AIR_MM for part in box]
    t1, grey, white, brain = (np.pad(volume[box], air) for volume in (t1, grey, white, brain))
    t1 = np.where(brain, t1, np.float32(CSF))

    regions = _regions(t1, grey, brain, origin)
    # Thinning is partial volume: grey matter gives way where it touches CSF.
    fluid = np.where(brain, np.clip(1 - grey - white, 0, 1), 1).astype(np.float32)
    beside_fluid = np.clip(3 * _blur(fluid, 1.5), 0, 1)
    to_fluid = np.minimum(CSF - t1, 0)
    # A voxel coarser than the template's averages over it.
    sigma = 0.35 * np.sqrt(max(voxel_size**2 - 1, 0))
    cortex_change = _blur(grey * beside_fluid * regions["cortex"] * to_fluid, sigma)
    region_change = {}
    for name in ELLIPSOIDS:
        part = _around(regions[name], margin=4 + int(3 * sigma))
        soft = _blur(regions[name][part].astype(np.float32), 1)
        change = _blur(soft * to_fluid[part], sigma)
        local = np.nonzero(change < -1e-3)
        index = np.ravel_multi_index([i + p.start for i, p in zip(local, part, strict=True)], t1.shape)
        region_change[name] = (index, change[local])
    fields = {name: _outward_field(regions[name], sigma_mm) for name, sigma_mm in FIELD_SMOOTH_MM.items()}
    return Anatomy(
        t1=_blur(t1, sigma),
        brain=brain,
        origin=origin,
        regions=regions,
        cortex_change=cortex_change,
        region_change=region_change,
        fields=fields,
        coarse_origin=origin + (COARSE_MM - 1) / 2,
    )


def _box_around(brain: np.ndarray) -> tuple[tuple[slice, ...], list[tuple[int, int]]]:
    """Return the brain's bounding box, as slices, and the air to pad it with on each side.

    The template ends where the brainstem is cut, so a margin has to be added there, not kept.
    """
    box = _around(brain)
    # A whole number of coarse voxels.
    air = [(AIR_MM, AIR_MM + -(part.stop - part.start + 2 * AIR_MM) % COARSE_MM) for part in box]
    return box, air


def _around(mask: np.ndarray, margin: int = 0) -> tuple[slice, ...]:
    """Return the bounding box of a mask and a margin, within the array."""
    (box,) = ndimage.find_objects(mask.astype(np.int8))
    return tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(box, mask.shape, strict=True)
    )


def _blur(volume: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(volume, sigma, truncate=3) if sigma > 0 else volume


def _ellipsoids(parts, axes: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return the union of the ellipsoids and their mirror images, bool [x, y, z]."""
    x, y, z = axes
    inside = np.zeros((x.size, y.size, z.size), bool)
    for (cx, cy, cz), (rx, ry, rz) in parts:
        inside |= ((np.abs(x) - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1
    return inside


def _regions(t1: np.ndarray, grey: np.ndarray, brain: np.ndarray, origin: np.ndarray) -> dict[str, np.ndarray]:
    """Return bool masks [x, y, z] of the ventricles, the cortex and the deep regions in template space."""
    axes = np.ogrid[tuple(slice(start, start + size) for start, size in zip(origin, t1.shape, strict=True))]
    regions = {name: _ellipsoids(parts, axes) & brain for name, parts in ELLIPSOIDS.items()}
    regions["medial_temporal"] &= (grey > 0.4) & (t1 > 0.45)
    regions["basal_ganglia"] &= (t1 > 0.5) & (t1 < 0.84)  # neither ventricle nor internal capsule
    regions["midbrain"] &= t1 > 0.55
    # Ventricles: fluid near the centre, connected to the horns. The box cuts off the fissures.
    x, y, z = axes
    box = (np.abs(x) < 36) & (y > -58) & (y < 36) & (z > -6 + 0.15 * np.abs(y)) & (z < 28)
    cistern = (np.abs(x) < 9) & (y < -29)
    labels, _ = ndimage.label((t1 < 0.5) & brain & box & ~cistern)
    seeds = [
        labels[tuple(np.rint(np.array(p) - origin).astype(int))]
        for p in ((-6, 5, 12), (6, 5, 12), (-19, -40, 14), (19, -40, 14))
    ]
    regions["ventricles"] = np.isin(labels, [seed for seed in seeds if seed])
    deep = ndimage.binary_dilation(regions["basal_ganglia"] | regions["midbrain"] | regions["ventricles"], iterations=4)
    centre = ((x / 20) ** 2 + ((y + 20) / 24) ** 2 + ((z + 10) / 32) ** 2) < 1  # thalamus and around it
    cortex = brain & (grey > 0.3) & ~deep & ~centre & ~_ellipsoids(CEREBELLUM, axes) & ~regions["medial_temporal"]
    return regions | {"cortex": cortex}


def _outward_field(mask: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Return a smooth velocity [3, cx, cy, cz] that points out of the mask, fastest (1) near its boundary."""
    shape = [n for size in mask.shape for n in (size // COARSE_MM, COARSE_MM)]
    inside = mask.reshape(shape).mean(axis=(1, 3, 5), dtype=np.float32)
    inside = ndimage.gaussian_filter(inside, sigma_mm / COARSE_MM)
    velocity = -np.stack(np.gradient(inside))
    return velocity / np.sqrt((velocity**2).sum(axis=0)).max()


def random_velocity(anatomy: Anatomy, sd_mm: float, smooth_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random velocity [3, cx, cy, cz] of standard deviation `sd_mm` a component."""
    shape = next(iter(anatomy.fields.values())).shape
    sigma = smooth_mm / COARSE_MM
    noise = rng.standard_normal(shape, dtype=np.float32)
    smooth = np.stack([ndimage.gaussian_filter(part, sigma, mode="wrap", truncate=3) for part in noise])
    return smooth * np.float32(sd_mm * (2 * np.sqrt(np.pi) * sigma) ** 1.5)


def rotation_velocity(anatomy: Anatomy, radians: np.ndarray) -> np.ndarray:
    """Return the velocity [3, cx, cy, cz] of a rotation vector [3] about the brain's centre."""
    shape = next(iter(anatomy.fields.values())).shape[1:]
    x, y, z = (
        (start + COARSE_MM * np.arange(size) - centre).astype(np.float32).reshape(side)
        for start, size, centre, side in zip(
            anatomy.coarse_origin, shape, CENTRE_MM, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True
        )
    )
    a, b, c = np.asarray(radians, np.float32)
    return np.stack([np.broadcast_to(part, shape) for part in (b * z - c * y, c * x - a * z, a * y - b * x)])


def person_displacement(anatomy: Anatomy, morphology: Morphology, velocity: np.ndarray | float = 0) -> np.ndarray:
    """Return the displacement [3, cx, cy, cz], in mm, from points of the person's brain to the template's.

    The regions' velocities and `velocity` [3, cx, cy, cz] are summed and integrated for unit time, so the map
    is a diffeomorphism: scaling and squaring of a stationary field (Arsigny et al. 2006, MICCAI).

    Raises InputError when the fields are too strong for the grid and the map folds.
    """
    total = np.zeros_like(next(iter(anatomy.fields.values()))) + velocity
    for name, shift in morphology.shift_mm.items():
        total += np.float32(shift) * anatomy.fields[name]
    # An image is pulled back: the map runs against the movement of the tissue.
    displacement = _exponential(-total / COARSE_MM) * COARSE_MM
    if (lowest := jacobian_determinant(displacement, COARSE_MM).min()) <= 0.05:
        raise InputError(
            f"deformation folds: lowest Jacobian determinant {lowest:.2f}, expected above 0.05; "
            f"lower the shifts {dict(morphology.shift_mm)} or the random deformation"
        )
    return displacement


def _exponential(velocity: np.ndarray) -> np.ndarray:
    """Integrate a stationary velocity [3, x, y, z], in voxels, for unit time; return the displacement."""
    steps = max(int(np.ceil(np.log2(max(np.abs(velocity).max(), 1e-6) / 0.25))), 2)
    displacement = (velocity / 2**steps).astype(np.float32)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in velocity.shape[1:]), indexing="ij"))
    for _ in range(steps):
        at = grid + displacement
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in displacement]
        )
    return displacement


def jacobian_determinant(displacement: np.ndarray, spacing: float) -> np.ndarray:
    """Return the Jacobian determinant [x, y, z] of x + displacement [3, x, y, z], in mm, by differences."""
    (a, b, c), (d, e, f), (g, h, i) = (np.gradient(part, spacing) for part in displacement)
    a, e, i = a + 1, e + 1, i + 1
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def output_grid(voxel_size: float, whole_head: bool = False) -> tuple[tuple[int, int, int], np.ndarray]:
    """Return the shape and the RAS+ affine [4, 4] of a scan at `voxel_size` mm that covers the brain, or the head."""
    extents, middle = (HEAD_EXTENT_MM, HEAD_CENTRE_MM) if whole_head else (EXTENT_MM, CENTRE_MM)
    x, y, z = (int(np.ceil(extent / voxel_size)) for extent in extents)
    shape = (x, y, z)
    affine = np.diag([voxel_size, voxel_size, voxel_size, 1.0])
    affine[:3, 3] = [centre - voxel_size * (n - 1) / 2 for centre, n in zip(middle, shape, strict=True)]
    return shape, affine


def template_coordinates(
    anatomy: Anatomy,
    displacement: np.ndarray,
    voxel_size: float,
    head_scale: float = 1.0,
    shift_mm: tuple[float, float, float] | np.ndarray = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Return the template's point [3, x, y, z], in mm, that each voxel of the scan shows.

    The head is scaled by `head_scale` about its centre, then moved by `shift_mm`.
    """
    shape, affine = output_grid(voxel_size)
    lines = [
        CENTRE_MM[k] + (affine[k, 3] + voxel_size * np.arange(shape[k]) - shift_mm[k] - CENTRE_MM[k]) / head_scale
        for k in range(3)
    ]
    points = np.empty((3, *shape), np.float32)
    for k in range(3):
        part = displacement[k]
        # Trilinear, one axis at a time. Not as matrix products: their bits can depend on the threads.
        for axis in range(3):
            part = _interpolate(part, (lines[axis] - anatomy.coarse_origin[axis]) / COARSE_MM, axis)
        points[k] = part + lines[k].astype(np.float32).reshape([-1 if axis == k else 1 for axis in range(3)])
    return points


def template_coordinates_of_head(
    anatomy: Anatomy,
    displacement: np.ndarray,
    voxel_size: float,
    head_scale: float,
    shift_mm: np.ndarray,
    rotation: np.ndarray,
) -> np.ndarray:
    """As `template_coordinates`, on the grid of a whole head that is turned by `rotation` [3, 3], too."""
    shape, affine = output_grid(voxel_size, whole_head=True)
    middle = np.asarray(CENTRE_MM)
    lines = [affine[k, 3] + voxel_size * np.arange(shape[k]) - shift_mm[k] - middle[k] for k in range(3)]
    away = np.stack(np.meshgrid(*lines, indexing="ij")).astype(np.float32)
    # Elementwise, not as a matrix product, whose bits can depend on the threads.
    back = rotation.T.astype(np.float32) / np.float32(head_scale)
    points = np.stack([sum(back[i, k] * away[k] for k in range(3)) + np.float32(middle[i]) for i in range(3)])
    at = (points - anatomy.coarse_origin.astype(np.float32).reshape(3, 1, 1, 1)) / np.float32(COARSE_MM)
    return points + np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in displacement])


def _interpolate(volume: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly along one axis at fractional indices `at`, constant beyond the ends."""
    last = volume.shape[axis] - 1
    at = np.clip(at, 0, last)
    low = np.minimum(at.astype(int), last - 1)
    weight = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
    below = np.take(volume, low, axis)
    return below + weight * (np.take(volume, low + 1, axis) - below)


def warp_template(anatomy: Anatomy, losses: Mapping[str, float], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the T1 [x, y, z], 0..1 with CSF outside the brain, and the brain mask at template `points`."""
    t1 = anatomy.t1 + np.float32(losses.get("cortex", 0.0)) * anatomy.cortex_change
    for name, (index, change) in anatomy.region_change.items():
        t1.ravel()[index] += np.float32(losses.get(name, 0.0)) * change
    at = points - anatomy.origin.astype(np.float32).reshape(3, 1, 1, 1)
    near = np.rint(at).astype(np.int32)
    for part, size in zip(near, t1.shape, strict=True):
        np.clip(part, 0, size - 1, out=part)  # the border of the box is outside the brain
    brain = anatomy.brain[tuple(near)]
    image = np.full(brain.shape, CSF, np.float32)
    image[brain] = ndimage.map_coordinates(t1, at[:, brain], order=1, mode="nearest")
    return image, brain


def acquire(
    image: np.ndarray, brain: np.ndarray, scanner: Scanner, voxel_size: float, rng: np.random.Generator
) -> np.ndarray:
    """Image a T1 map [x, y, z]: contrast, blur, shading, Rician noise; return int16, 0 outside the brain."""
    levels = scanner.white * np.array([0, scanner.csf, scanner.grey, 1.0, 1.0 + (1 - scanner.grey) / 2])
    image = np.interp(image, [0, CSF, GREY, WHITE, 1.0], levels).astype(np.float32)
    sigma = scanner.fwhm_mm / 2.3548 / voxel_size
    image = ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=3)
    signal = image[brain] * np.exp(_log_bias(brain, scanner.bias, rng))
    sd = np.float32(scanner.noise * (2 / voxel_size) ** 1.5)
    real, imaginary = sd * rng.standard_normal((2, signal.size), dtype=np.float32)
    signal = np.hypot(signal + real, imaginary)
    gain = scanner.gain * np.exp(rng.normal(0, 0.1))
    stored = np.zeros(brain.shape, np.int16)
    # At least 1: zero means air, whatever the noise.
    stored[brain] = np.clip(np.rint(signal * np.float32(gain)), 1, 32767)
    return stored


def _log_bias(brain: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Return a random cubic polynomial over the field of view at the brain's voxels, mean about 0."""
    x, y, z = (np.linspace(-1, 1, n, dtype=np.float32) for n in brain.shape)
    powers = [(i, j, k) for i in range(4) for j in range(4 - i) for k in range(4 - i - j) if i + j + k]
    weights = rng.normal(0, sd, len(powers)).astype(np.float32)
    # Group by the powers of x and y so that the full volume is touched once per power of z.
    field_ = np.zeros(brain.shape, np.float32)
    for k in range(4):
        plane = sum(
            (w * np.outer(x**i, y**j) for (i, j, kk), w in zip(powers, weights, strict=True) if kk == k),
            start=np.zeros((x.size, y.size), np.float32),
        )
        field_ += plane[:, :, None] * z**k
    return field_[brain]
