"""Registration: poses that are known are found again, by formulas and by distances in the brain."""

import numpy as np
import pytest

from jaxneuro.errors import ScanError
from jaxneuro.prepare import bias, images, registration, template
from tests.prepare.heads import head, pose, target_error


def test_a_pose_scales_along_the_templates_axes_then_turns_about_the_brains_centre():
    centre = template.load().centre
    matrix = pose((0, 0, 90), (1, 2, 3), (0.5, 2.0, 1.0))

    def moved(*away):
        return (matrix @ np.append(centre + np.array(away), 1))[:3] - centre

    np.testing.assert_allclose(moved(0, 0, 0), [1, 2, 3], atol=1e-9)
    # 10 mm to the right become 5 by the size, then point forward; 10 mm forward become 20 and point to the left.
    np.testing.assert_allclose(moved(10, 0, 0), [1, 2 + 5, 3], atol=1e-9)
    np.testing.assert_allclose(moved(0, 10, 0), [1 - 20, 2, 3], atol=1e-9)


def test_mutual_information_of_equal_columns_is_their_entropy_and_of_independent_ones_nil():
    a = np.repeat([0, 3, 7, 7], 25)
    entropy = -(2 * 0.25 * np.log(0.25) + 0.5 * np.log(0.5))
    assert registration._mutual_information(a, a) == pytest.approx(entropy)
    assert registration._mutual_information(a, np.tile(np.arange(25), 4)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("degrees", "shift", "size"),
    [((14, -8, 9), (12, -14, 10), (0.84, 0.95, 0.9)), ((-15, 5, -15), (-9, 15, -15), (1.0, 0.88, 0.97))],
)
def test_the_brain_in_a_tilted_head_is_found_to_a_millimetre(degrees, shift, size):
    matrix = pose(degrees, shift, size)
    voxels, affine, _ = head(matrix, bias=0.2)
    found = registration.of_head(bias.correct(images.to_sitk(voxels, affine)), finest_mm=4.0)
    mean, largest = target_error(found.matrix, matrix)
    assert mean < 0.8
    assert largest < 1.6
    np.testing.assert_allclose(found.degrees, degrees, atol=1.5)
    np.testing.assert_allclose(found.shift_mm, shift, atol=1.2)
    np.testing.assert_allclose(found.size, size, atol=0.03)


def test_a_stripped_brain_is_found_and_the_same_each_time():
    matrix = pose((-12, 6, 14), (10, 3, -12), (0.9, 0.83, 0.87))
    voxels, affine, _ = head(matrix, stripped=True)
    scan = images.to_sitk(voxels, affine)
    found = registration.of_brain(scan, finest_mm=4.0)
    assert target_error(found.matrix, matrix)[0] < 0.5
    again = registration.of_brain(scan, finest_mm=4.0)
    np.testing.assert_array_equal(again.matrix, found.matrix)
    assert again.similarity == found.similarity


def test_a_start_is_enough_to_go_on_from():
    matrix = pose((3, 0, 0), (2, 0, 0))
    voxels, affine, _ = head(matrix, stripped=True)
    scan = images.to_sitk(voxels, affine)
    near = registration.Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0.92, 0.92, 0.92), pose(), 0.0)
    assert target_error(registration.of_brain(scan, finest_mm=4.0, start=near).matrix, matrix)[0] < 0.5


def test_noise_is_no_head():
    empty = np.zeros((40, 40, 40), np.float32)
    empty[20, 20, 20:30] = 5
    with pytest.raises(ScanError, match="10 voxels with a signal"):
        registration.of_head(images.to_sitk(empty, np.diag([4.0, 4, 4, 1])))
