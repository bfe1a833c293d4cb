"""The template's regions, the deformations and the scanner, against values worked out another way."""

import numpy as np
import pytest
from nilearn import datasets
from scipy import ndimage

from jaxneuro.errors import InputError
from jaxneuro.prepare import anatomy
from jaxneuro.prepare.anatomy import CSF, GREY, WHITE, Morphology, Scanner

VOXEL = 6.0
CLEAN = Scanner(0.25, 0.7, 1.0, gain=1000.0, bias=0, noise=0, fwhm_mm=0, voxel_scale=1, orientation="RAS")


@pytest.fixture(scope="module")
def template():
    return anatomy.load_anatomy(1.0)


def determinant(points: np.ndarray, voxel_size: float) -> np.ndarray:
    """Return the Jacobian determinant of the final map, by NumPy alone."""
    rows = [np.stack(np.gradient(part.astype(np.float64), voxel_size), axis=-1) for part in points]
    return np.linalg.det(np.stack(rows, axis=-2))


def warp(template, form: Morphology, velocity=0.0, voxel_size=VOXEL):
    displacement = anatomy.person_displacement(template, form, velocity)
    points = anatomy.template_coordinates(template, displacement, voxel_size, form.head_scale)
    return *anatomy.warp_template(template, form.loss, points), points


@pytest.mark.parametrize("seed", range(12))
def test_final_map_keeps_orientation_everywhere(template, seed):
    rng = np.random.default_rng(seed)
    shifts = dict(zip(anatomy.FIELD_SMOOTH_MM, rng.uniform(-4, 4, 4), strict=True))
    velocity = anatomy.random_velocity(template, 1.5, 15.0, rng)
    velocity += anatomy.rotation_velocity(template, rng.normal(0, 0.02, 3))
    displacement = anatomy.person_displacement(template, Morphology(shift_mm=shifts), velocity)
    points = anatomy.template_coordinates(template, displacement, 2.0, 1.05, rng.normal(0, 2, 3))
    assert determinant(points, 2.0).min() > 0


def test_a_fold_is_refused(template):
    velocity = anatomy.random_velocity(template, 12.0, 5.0, np.random.default_rng(0))
    with pytest.raises(InputError, match=r"deformation folds: lowest Jacobian determinant .* expected above"):
        anatomy.person_displacement(template, Morphology(), velocity)


def test_opposite_velocities_give_inverse_maps(template):
    velocity = anatomy.random_velocity(template, 1.5, 15.0, np.random.default_rng(1)) / anatomy.COARSE_MM
    there, back = anatomy._exponential(velocity), anatomy._exponential(-velocity)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in there.shape[1:]), indexing="ij"))
    at = grid + there
    left = there + np.stack([ndimage.map_coordinates(part, at, order=1, mode="nearest") for part in back])
    inner = (slice(None), slice(4, -4), slice(4, -4), slice(4, -4))
    assert np.abs(there[inner]).max() > 0.8
    assert np.abs(left[inner]).max() < 0.05


def test_rotation_velocity_integrates_to_the_rotation(template):
    angle = 0.1
    displacement = anatomy.person_displacement(
        template, Morphology(), anatomy.rotation_velocity(template, [0, 0, angle])
    )
    index = np.array([24, 22, 18])
    at = template.coarse_origin + anatomy.COARSE_MM * index - anatomy.CENTRE_MM
    c, s = np.cos(-angle), np.sin(-angle)  # an image is pulled back
    expected = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ at - at
    np.testing.assert_allclose(displacement[(slice(None), *index)], expected, atol=0.02)


def test_random_velocity_has_the_size_asked_for(template):
    fields = [anatomy.random_velocity(template, 2.0, 12.0, np.random.default_rng(seed)) for seed in range(20)]
    assert np.std(fields) == pytest.approx(2.0, rel=0.05)


def test_outward_field_points_away_from_a_ball():
    x, y, z = np.ogrid[-39.5:40, -39.5:40, -39.5:40]
    field = anatomy._outward_field(x**2 + y**2 + z**2 < 12**2, 6.0)
    centre = np.arange(20) * 4 - 40 + 2.0
    radial = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"))
    radius = np.sqrt((radial**2).sum(0))
    speed = (field * radial).sum(0) / radius
    assert np.sqrt((field**2).sum(0)).max() == pytest.approx(1)
    assert radius[np.unravel_index(speed.argmax(), speed.shape)] == pytest.approx(12, abs=3)
    assert (speed[(radius > 4) & (radius < 20)] > 0).all()
    assert np.abs(speed[radius > 36]).max() < 0.02


def test_regions_lie_where_anatomy_has_them(template):
    x, y, z = (
        start + np.arange(n).reshape(side)
        for start, n, side in zip(template.origin, template.t1.shape, ((-1, 1, 1), (1, -1, 1), (1, 1, -1)), strict=True)
    )

    def centre(mask):
        index = np.argwhere(mask) + template.origin
        return np.array([np.abs(index[:, 0]).mean(), *index[:, 1:].mean(axis=0)])

    expected = {
        "medial_temporal": (25, -14, -18),
        "basal_ganglia": (20, 5, 4),
        "midbrain": (9, -19, -11),
        "ventricles": (12, -10, 13),
    }
    litres = {"medial_temporal": 14, "basal_ganglia": 14, "midbrain": 4, "ventricles": 20}
    for name, where in expected.items():
        mask = template.regions[name]
        np.testing.assert_allclose(centre(mask), where, atol=5, err_msg=name)
        assert mask.sum() / 1000 == pytest.approx(litres[name], rel=0.3), name
        right, left = (mask & (x > 0)).sum(), (mask & (x < 0)).sum()
        assert right == pytest.approx(left, rel=0.2), name
    assert np.max(sum(template.regions.values(), start=np.zeros(template.t1.shape, int))) == 1  # none overlap
    assert template.t1[template.regions["ventricles"]].mean() < (CSF + GREY) / 2
    cerebellum = template.brain & (z < -35) & (y < -50)
    thalamus = (np.abs(x) < 12) & (np.abs(y + 17) < 8) & (np.abs(z - 6) < 6)
    assert template.regions["cortex"][cerebellum].mean() < 0.02
    assert not template.regions["cortex"][thalamus].any()


def test_identity_shows_the_template_itself(template):
    image, brain, points = warp(template, Morphology())
    shape, affine = anatomy.output_grid(VOXEL)
    index = np.argwhere(brain)[::50]
    world = index @ affine[:3, :3].T + affine[:3, 3]
    np.testing.assert_allclose(points[(slice(None), *index.T)].T, world, atol=1e-4)
    reference = datasets.load_mni152_template(resolution=1)
    near = np.rint(world - reference.affine[:3, 3]).astype(int)
    assert np.allclose(world - reference.affine[:3, 3], near)  # whole voxels, so nothing is interpolated
    np.testing.assert_allclose(image[tuple(index.T)], reference.get_fdata()[tuple(near.T)], atol=1e-5)
    inside = datasets.load_mni152_brain_mask(resolution=1).get_fdata()
    assert brain.sum() * VOXEL**3 == pytest.approx(inside.sum(), rel=0.03)
    assert brain.shape == shape


def test_head_scale_acts_as_a_cube_on_volume(template):
    volumes = [warp(template, Morphology(head_scale=s), voxel_size=3.0)[1].sum() for s in (1.0, 1.06)]
    assert volumes[1] / volumes[0] == pytest.approx(1.06**3, rel=0.01)


def test_the_head_fits_the_field_of_view(template):
    for voxel_size in (2.0, 2.5, 4.0, 7.0):
        still = np.zeros_like(template.fields["midbrain"])
        points = anatomy.template_coordinates(template, still, voxel_size, 1.07, (3.0, -3.0, 3.0))
        _, brain = anatomy.warp_template(template, {}, points)
        assert not any(np.take(brain, [0, -1], axis).any() for axis in range(3))


def test_ventricles_grow_with_their_shift(template):
    def volume(shift):
        image, brain, points = warp(template, Morphology(shift_mm={"ventricles": shift}), voxel_size=2.0)
        x, y, z = points
        middle = (np.abs(x) < 40) & (y > -60) & (y < 45) & (z > -5) & (z < 35)
        return (middle & brain & (image < 0.4)).sum() * 8 / 1000  # ml

    sizes = [volume(shift) for shift in (-2.0, 0.0, 2.0, 4.0)]
    assert np.all(np.diff(sizes) > 2)


@pytest.mark.parametrize("name", ["cortex", *anatomy.ELLIPSOIDS])
def test_tissue_loss_darkens_its_region_only(template, name):
    before, brain, points = warp(template, Morphology(), voxel_size=3.0)
    after, _, _ = warp(template, Morphology(loss={name: 0.3}), voxel_size=3.0)
    at = np.rint(points - template.origin.reshape(3, 1, 1, 1)).astype(int)
    at = np.clip(at, 0, np.array(template.t1.shape).reshape(3, 1, 1, 1) - 1)
    region = template.regions[name][tuple(at)] & brain
    change = after - before
    assert change.max() <= 1e-6
    assert change[region].mean() < -0.005
    assert np.abs(change[~ndimage.binary_dilation(region, iterations=2)]).max() < 0.03


def test_contrast_follows_the_scanner():
    brain = np.ones((8, 8, 9), bool)
    brain[0] = False
    image = np.broadcast_to(np.repeat(np.float32([CSF, GREY, WHITE]), 3), brain.shape)
    stored = anatomy.acquire(image, brain, CLEAN, 2.0, np.random.default_rng(0)).astype(float)
    assert stored.shape == brain.shape
    assert (stored[0] == 0).all()
    levels = stored[1, 0, ::3] / stored[1, 0, -1]
    np.testing.assert_allclose(levels, [0.25, 0.7, 1.0], atol=0.002)


@pytest.mark.parametrize(("voxel_size", "factor"), [(2.0, 1.0), (4.0, 8**-0.5)])
def test_noise_has_the_size_asked_for(voxel_size, factor):
    brain = np.ones((40, 40, 40), bool)
    image = np.full(brain.shape, WHITE, np.float32)
    noisy = Scanner(**{**vars(CLEAN), "noise": 0.05})
    stored = anatomy.acquire(image, brain, noisy, voxel_size, np.random.default_rng(0))
    assert stored.dtype == np.int16
    assert stored.std() / stored.mean() == pytest.approx(0.05 * factor, rel=0.03)


def test_bias_is_smooth_and_blur_keeps_the_mean():
    brain = np.ones((30, 30, 30), bool)
    log_bias = anatomy._log_bias(brain, 0.1, np.random.default_rng(3)).reshape(brain.shape)
    assert log_bias.std() > 0.05
    assert max(np.abs(np.diff(log_bias, n=4, axis=axis)).max() for axis in range(3)) < 1e-4  # cubic
    image = np.full(brain.shape, GREY, np.float32)
    image[15:] = WHITE
    blurred = Scanner(**{**vars(CLEAN), "fwhm_mm": 8.0})
    profile = anatomy.acquire(image, brain, blurred, 2.0, np.random.default_rng(0))[:, 15, 15].astype(float)
    steps = np.diff(profile)
    assert profile.mean() / profile[-1] == pytest.approx(0.85, abs=0.01)
    # The derivative of a blurred edge is the point spread function: its standard deviation is FWHM / 2.355.
    at = np.arange(29) - 14
    assert 2 * np.sqrt((steps * at**2).sum() / steps.sum()) == pytest.approx(8 / 2.355, rel=0.06)


def test_every_scanner_differs_and_d_the_most():
    def distance(a, b):
        return abs(a.grey - b.grey) + abs(a.csf - b.csf) + abs(a.noise - b.noise) + abs(a.bias - b.bias)

    *seen, unseen = anatomy.SCANNERS.values()
    between = [distance(a, b) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(between) > 0.02
    assert min(distance(a, unseen) for a in seen) > max(between)
