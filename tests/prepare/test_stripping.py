"""Stripping and bias: masks and fields that are known, and other tools by stand-ins that keep their contract."""

import os
import sys

import numpy as np
import pytest

from jaxneuro.errors import InputError, ScanError
from jaxneuro.prepare import bias, images, registration, stripping
from tests.prepare.heads import dice, head, pose


def known(matrix):
    return registration.Pose((0, 0, 0), (0, 0, 0), (1, 1, 1), matrix, 0.0)


def test_the_template_is_propagated_by_the_pose():
    matrix = pose((8, -4, 6), (5, 5, -5), (0.95, 0.85, 0.9))
    voxels, affine, mask = head(matrix)
    assert dice(stripping.propagate(images.to_sitk(voxels, affine), known(matrix)), mask) > 0.995


def test_the_surface_moves_to_where_the_scan_has_it():
    """Of a brain 4 % larger than the pose says, a third of what the template's own mask misses is found."""
    matrix, wrong = pose(size=(0.936, 0.936, 0.936)), pose()
    voxels, affine, mask = head(matrix, voxel_mm=2.0)
    scan = images.to_sitk(voxels, affine)
    before = dice(stripping.propagate(scan, known(wrong)), mask)
    after = dice(stripping.by_template(scan, known(wrong)), mask)
    assert 1 - after < 0.7 * (1 - before)


def test_a_template_outside_of_the_scan_is_told():
    voxels, affine, _ = head(pose())
    with pytest.raises(ScanError, match="a template that lies outside of the scan"):
        stripping.by_template(images.to_sitk(voxels, affine), known(pose(shift_mm=(900, 0, 0))))


def test_n4_takes_a_known_field_out():
    voxels, affine, mask = head(pose(), bias=0.4, noise=0.0)
    plain, _, _ = head(pose(), bias=0.0, noise=0.0)
    inside = mask & (plain > 0.3 * plain.max())
    fixed = images.to_voxels(bias.correct(images.to_sitk(voxels, affine)))
    before, after = (np.std(np.log(v[inside] / plain[inside])) for v in (voxels, fixed))
    assert before > 0.11
    assert after < before / 3
    again = images.to_voxels(bias.correct(images.to_sitk(voxels, affine)))
    np.testing.assert_array_equal(again, fixed)


@pytest.mark.parametrize("over_brain", [False, True])
def test_room_around_a_head_does_not_change_its_field(over_brain):
    """48 mm more on each side, whole voxels of either coarse grid, so that the copies have the same values."""
    voxels, affine, mask = head(pose((12, 0, 0)), bias=0.4)

    def fixed(voxels, affine, mask):
        scan = images.to_sitk(voxels, affine)
        even = bias.of_brain(scan, images.to_sitk(mask, affine)) if over_brain else bias.correct(scan)
        return images.to_voxels(even)[mask]

    wide = affine.copy()
    wide[:3, 3] -= 3.0 * 16
    ratio = fixed(np.pad(voxels, 16), wide, np.pad(mask, 16)) / fixed(voxels, affine, mask)
    assert np.abs(ratio / ratio.mean() - 1).max() < 0.01


def test_a_scan_without_signal_has_no_bias():
    with pytest.raises(ScanError, match="nothing that stands out"):
        bias.correct(images.to_sitk(np.zeros((20, 20, 20), np.float32), np.diag([4.0, 4, 4, 1])))


def tool(folder, name, code):
    file = folder / name
    file.write_text(f"#!{sys.executable}\n{code}")
    file.chmod(0o755)


STAND_IN = """
import sys, nibabel, numpy as np
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
image = nibabel.load(given["-i"])
voxels = np.asarray(image.dataobj).copy()
voxels[:5] = 0
nibabel.save(nibabel.Nifti1Image(voxels, image.affine), given["-o"])
"""


@pytest.mark.parametrize(("name", "program"), [("synthstrip", "mri_synthstrip"), ("hd-bet", "hd-bet")])
def test_other_tools_are_run_on_a_file(tmp_path, monkeypatch, name, program):
    rng = np.random.default_rng(0)
    voxels = rng.uniform(1, 2, (12, 10, 9)).astype(np.float32)
    voxels[8, 5, 5] = 0  # a hole
    scan = images.to_sitk(voxels, np.diag([2.0, 2, 2, 1]))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"--strip {name}: found no command {program}"):
        stripping.TOOLS[name](scan)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin")
    tool(tmp_path, program, STAND_IN)
    mask = stripping.TOOLS[name](scan)
    assert not mask[:5].any()
    assert mask[5:].all()
    tool(tmp_path, program, "import sys; print('no weights', file=sys.stderr); sys.exit(3)")
    with pytest.raises(ScanError, match=f"{program} that ended with status 3 and said: no weights"):
        stripping.TOOLS[name](scan)
    tool(tmp_path, program, "import sys, shutil; shutil.copy('/etc/hostname', sys.argv[4])")
    with pytest.raises(ScanError, match="an image that cannot be read"):
        stripping.TOOLS[name](scan)


def test_deepbet_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepbet", None)
    scan = images.to_sitk(np.ones((4, 4, 4), np.float32), np.eye(4))
    with pytest.raises(InputError, match="pip install deepbet"):
        stripping.by_deepbet(scan)
