"""One scan through all stages: what comes out, what is on record, what is refused."""

import contextlib
import dataclasses
import json
import pickle

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from jaxneuro.errors import InputError, ScanError
from jaxneuro.prepare import checks, recipes, registration, scan, stripping, template, volumes
from tests.prepare.heads import dice, head, pose, target_error

#: As `paper80`, coarser.
SMALL = dataclasses.replace(recipes.recipe("paper80"), name="small", shape=(40, 40, 40), finest_mm=4.0)
ALREADY = dataclasses.replace(SMALL, stages=(), already=("bias", "strip", "register"))


def saved(path, voxels, affine):
    nib.save(nib.Nifti1Image(voxels, affine), path)
    return str(path)


@pytest.fixture(scope="module")
def two_heads(tmp_path_factory):
    """The same brain in two heads: upright, and tilted, moved, of another size, brighter at the front."""
    folder = tmp_path_factory.mktemp("heads")
    plain = head(pose())
    moved = head(pose((13, -6, 9), (11, -9, 12), (0.95, 0.84, 0.88)), bias=0.3, seed=1)
    return [scan.prepare(saved(folder / f"{i}.nii.gz", v, a), SMALL) for i, (v, a, _) in enumerate((plain, moved))]


def test_one_brain_in_two_heads_becomes_one_volume(two_heads):
    first, second = (p.volume[..., 0].astype(np.float32) for p in two_heads)
    both = (first > 0) & (second > 0)
    assert np.corrcoef(first[both], second[both])[0, 1] > 0.93
    assert np.abs(first - second)[both].mean() < 0.08
    brain, mask = template.on_grid(SMALL)
    for volume in (first, second):
        assert 2 * ((volume > 0) & mask).sum() / ((volume > 0).sum() + mask.sum()) > 0.95
        assert np.corrcoef(volume[mask], brain[mask])[0, 1] > 0.8
        assert (volume[0] == 0).all()  # background, exactly


def test_what_is_on_record(two_heads):
    record = two_heads[1].record
    json.dumps(record)
    assert record["stages"]["bias"] == {"method": "N4"}
    assert record["stages"]["strip"] == {"method": "template"}
    assert record["stages"]["register"]["size"] == pytest.approx([0.95, 0.84, 0.88], abs=0.03)
    assert record["voxel_mm"] == [3.0, 3.0, 3.0]
    assert record["affine_from"] == "sform"
    assert record["flags"] == []
    assert record["measures"]["overlap"] > 0.95
    # The template's brain times the three sizes.
    assert record["measures"]["brain_ml"] == pytest.approx(template.load().volume_ml * 0.95 * 0.84 * 0.88, rel=0.05)


def test_the_brain_is_drawn_again_once_bias_and_pose_are_known(monkeypatch):
    voxels, affine, mask = head(pose((13, 0, 0)), bias=0.7)  # four times as bright at the front as at the back
    order, drawn = [], []

    @contextlib.contextmanager
    def clock(stage):
        order.append(stage)
        yield

    strip = stripping.by_template
    monkeypatch.setattr(stripping, "by_template", lambda *a: drawn.append(strip(*a)) or drawn[-1])
    found = scan.through(voxels, affine, SMALL, clock=clock)
    assert order == ["bias", "find", "strip", "bias again", "register", "strip again"]
    first, again = drawn
    np.testing.assert_array_equal(found.mask, again)
    assert dice(again, mask) > max(0.98, dice(first, mask))
    assert target_error(found.pose.matrix, pose((13, 0, 0)))[0] < 1.0


def test_a_stripped_scan_is_seen_and_not_stripped_again(tmp_path):
    voxels, affine, mask = head(pose((5, 0, 0)), stripped=True)
    found = scan.prepare(saved(tmp_path / "a.nii.gz", voxels, affine), SMALL)
    assert found.record["stages"]["strip"].startswith("found done")
    assert found.record["measures"]["overlap"] > 0.95
    ml = mask.sum() * 27 / 1000
    assert found.record["measures"]["brain_ml"] == pytest.approx(ml, rel=0.01)


@pytest.mark.parametrize("size", [0.8, 0.85, 0.9])
def test_a_small_head_on_zeros_is_not_taken_for_a_brain(size):
    voxels, affine, _ = head(pose(size=(size, size, size)), noise=0.0)
    assert (voxels == 0).mean() > 0.3
    assert not checks.looks_stripped(voxels, affine)
    skin = ndimage.binary_fill_holes(voxels > 0)
    assert not checks.looks_stripped(np.where(skin, voxels + 30, 0), affine)
    brain, affine, _ = head(pose(size=(size, size, size)), stripped=True, bias=0.3)
    assert checks.looks_stripped(brain, affine)


def test_normalised_scans_are_refused_and_not_halved(tmp_path):
    brain, affine, mask = head(pose(), stripped=True)
    scored = np.where(mask, (brain - brain[mask].mean()) / brain[mask].std(), 0).astype(np.float32)
    whole, _, _ = head(pose(), noise=0.0)
    wide = np.pad(whole, 30)  # a background that is closely below 0 when the field has a mean of 0
    between = np.where(mask, 2 * brain / brain.max() - 1, 0).astype(np.float32)
    for values in (scored, scored * 1000, whole - whole.mean(), wide - wide.mean(), whole - whole.max() / 2, between):
        with pytest.raises(
            ScanError, match=r"values from -\S+ to \S+, \d+% of .*; expected a background of 0 and a brain"
        ):
            checks.above_zero(values)
    for recipe in (SMALL, ALREADY, dataclasses.replace(SMALL, stages=())):
        with pytest.raises(ScanError, match="values from -"):
            scan.prepare(saved(tmp_path / "a.nii.gz", scored, affine), recipe)
    with pytest.raises(ScanError, match="values from -3 to -1, 100% of those"):
        checks.above_zero(np.array([0, -1, -3], np.float32))


def test_ringing_and_noise_around_zero_are_no_reason_to_refuse():
    brain, _, mask = head(pose(), stripped=True)
    whole, _, _ = head(pose(), noise=0.0)
    white = np.percentile(brain[mask], 90)
    noise = np.random.default_rng(0).normal(0, white / 15, whole.shape)
    checks.above_zero(whole)
    checks.above_zero(whole + noise)  # four tenths of its voxels are negative
    for values in (brain, whole):
        moved = ndimage.affine_transform(values, np.eye(3) * 0.93, offset=(2.3, 1.7, 3.1), order=3)
        assert (moved < 0).any()
        checks.above_zero(moved)


def test_the_share_of_negative_values_that_is_refused():
    # The 99th percentile of the 900 above 0 is 100: below -10 is negative, of 1000 voxels 50 may be.
    few = np.r_[np.full(900, 100.0), np.full(50, -11.0), np.full(50, -9.0), np.zeros(500)]
    checks.above_zero(few)
    few[950] = -11.0
    with pytest.raises(ScanError, match="values from -11 to 100, 10% of those that are not 0 negative"):
        checks.above_zero(few)
    # Each is noise beside a brightness of 100, and together they are 8 / 18 of all magnitudes.
    with pytest.raises(ScanError, match="values from -1 to 100, 99% of"):
        checks.above_zero(np.r_[np.full(10, 100.0), np.full(800, -1.0)])
    checks.above_zero(np.r_[np.full(10, 100.0), np.full(600, -1.0)])  # 6 / 16


def test_wrong_declarations_are_refused(tmp_path):
    voxels, affine, _ = head(pose())
    whole = saved(tmp_path / "whole.nii.gz", voxels, affine)
    with pytest.raises(ScanError, match="of the voxels exactly 0 in a scan declared stripped"):
        scan.prepare(whole, dataclasses.replace(SMALL, stages=(), already=("strip",)))
    voxels, affine, _ = head(pose(size=(1, 1, 1)), noise=0.0)
    whole = saved(tmp_path / "clean.nii.gz", voxels, affine)
    with pytest.raises(ScanError, match="ml above 0 in a scan declared stripped; expected a brain of at most 2600 ml"):
        scan.prepare(whole, dataclasses.replace(SMALL, stages=(), already=("strip",)))
    voxels, affine, _ = head(pose((30, 0, 0), (0, 30, -20)), stripped=True)
    tilted = saved(tmp_path / "tilted.nii.gz", voxels, affine)
    with pytest.raises(
        ScanError, match=r"an overlap of 0\.\d\d \(Dice\) with the template in a scan declared registered"
    ):
        scan.prepare(tilted, ALREADY)
    voxels, affine, _ = head(pose(size=(1, 1, 1)), stripped=True)
    right = scan.prepare(saved(tmp_path / "right.nii.gz", voxels, affine), ALREADY)
    assert right.record["measures"]["overlap"] > 0.97
    assert right.record["stages"] == dict.fromkeys(("bias", "strip", "register"), "declared done")


def test_a_scan_whose_affine_lies_is_refused_rather_than_trained_on(tmp_path):
    voxels, affine, _ = head(pose(), stripped=True)
    affine = affine[[1, 2, 0, 3]]  # its axes are not those that it says
    with pytest.raises(
        ScanError, match=r"a correlation of 0\.\d\d with the template in a scan that could not be registered"
    ):
        scan.prepare(saved(tmp_path / "a.nii.gz", voxels, affine), SMALL)


def test_a_mask_of_the_studys_own(tmp_path):
    recipe = dataclasses.replace(SMALL, stages=("strip",), stripper="mask")
    voxels, affine, mask = head(pose())
    path, mask_path = (tmp_path / n for n in ("a.nii.gz", "m.nii.gz"))
    saved(path, voxels, affine)
    saved(mask_path, mask.astype(np.uint8), affine)
    found = scan.prepare(str(path), recipe, str(mask_path))
    assert found.record["measures"]["brain_ml"] == pytest.approx(mask.sum() * 27 / 1000, abs=0.1)
    of_mask = {"method": "mask", "mask": str(mask_path), "mask_hash": volumes.content_hash(mask)}
    assert found.record["stages"]["strip"] == of_mask
    with pytest.raises(ScanError, match="no mask of the brain"):
        scan.prepare(str(path), recipe)
    saved(mask_path, mask[1:].astype(np.uint8), affine)
    with pytest.raises(ScanError, match=r"the mask .*m.nii.gz on another grid, \(72"):
        scan.prepare(str(path), recipe, str(mask_path))


def test_flags_say_what_to_look_at():
    good = {"brain_ml": 1300.0, "overlap": 0.96, "likeness": 0.7, "cut": 0.0}
    assert checks.flags(good, SMALL) == []
    assert checks.flags({**good, "brain_ml": 800.0}, SMALL) == ["a brain of 800 ml, which is rare"]
    assert checks.flags({**good, "brain_ml": 200.0}, SMALL) == ["a brain of 200 ml"]
    assert checks.flags({**good, "overlap": 0.8, "likeness": -0.2, "cut": 0.2}, SMALL) == [
        "overlap with the template 0.80",
        "correlation with the template -0.20",
        "20% of the brain's surface on the border of the grid",
    ]


@pytest.mark.parametrize(
    ("changed", "beyond", "nearest"),
    [
        ({}, 0.0, -0.0105263),  # the surface off the border, 0.96 of 0.95
        ({"overlap": 0.891}, 0.01, 0.01),
        ({"brain_ml": 85.0}, 0.9, 0.9),
        ({"brain_ml": 2145.0}, 0.1, 0.1),
        ({"likeness": -0.09}, 1.2, 1.2),
        ({"cut": 0.24}, 0.2, 0.2),  # 0.76 is four fifths of 0.95
        ({"overlap": 0.81, "likeness": 0.315, "cut": 0.24}, 0.6, 0.3),  # 0.1, 0.3 and 0.2
        ({"overlap": 0.9009, "cut": 0.0}, 0.0, -0.001),
    ],
)
def test_severity_is_the_distance_beyond_each_limit(changed, beyond, nearest):
    measures = {"brain_ml": 1275.0, "overlap": 0.99, "likeness": 0.9, "cut": 0.04} | changed
    assert checks.severity(measures, SMALL) == pytest.approx((beyond, nearest), abs=1e-6)
    assert (beyond > 0) == bool(checks.flags(measures, SMALL))


def test_a_cut_head_is_no_fault():
    head_kept = dataclasses.replace(SMALL, stages=())
    assert checks.severity({"cut": 0.5}, head_kept) == (0.0, -1.0)
    assert checks.flags({"cut": 0.5}, head_kept) == []


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"skip": ["n4"]}, "--skip: found n4; expected one of bias, strip, register"),
        ({"already": ["stripped"]}, "--already: found stripped"),
        ({"stripper": "bet"}, "--strip: found bet; expected one of template"),
        ({"stripper": "deepbet", "skip": ["strip"]}, "--strip: found deepbet without the stage strip"),
    ],
)
def test_recipes_refuse_what_they_do_not_know(keywords, message):
    with pytest.raises(InputError, match=message):
        recipes.recipe("paper80", **keywords)


def test_recipes_leave_out_what_is_done_or_skipped():
    changed = recipes.recipe("paper80", skip=["bias"], already=["register"], stripper="mask")
    assert (changed.stages, changed.already, changed.stripper) == (("strip",), ("register",), "mask")
    assert recipes.recipe("paper80", stripper="none").already == ("strip",)
    assert changed.registered
    assert changed.stripped
    assert not recipes.recipe("paper80", skip=["strip", "register"]).registered


def test_a_tool_strips_without_a_search_in_the_head_and_its_brain_is_registered(tmp_path, monkeypatch):
    matrix = pose((8, -4, 6), (6, -5, 8), (0.92, 0.86, 0.9))
    voxels, affine, mask = head(matrix)
    monkeypatch.setitem(stripping.TOOLS, "deepbet", lambda scan: mask)
    monkeypatch.setattr(registration, "of_head", None)
    recipe = dataclasses.replace(SMALL, stripper="deepbet")
    record = scan.prepare(saved(tmp_path / "a.nii.gz", voxels, affine), recipe).record
    assert record["stages"]["strip"] == {"method": "deepbet"}
    assert target_error(np.array(record["stages"]["register"]["matrix"]), matrix)[0] < 0.6


def test_what_is_wrong_with_a_scan_comes_back_whole_from_another_process():
    error = ScanError("two", "one", "try", where="a.nii")
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), back.where, back.hint) == (ScanError, str(error), "a.nii", "try")
