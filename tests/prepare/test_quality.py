"""The quality page: the worst first, only so many pictures, every failure with its reason."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from jaxneuro.manifest import Problem, Scan
from jaxneuro.prepare import masks, quality, recipes

RECIPE = recipes.recipe("quick40", skip=recipes.STAGES)


def record(overlap=0.95, flags=()):
    return {"measures": {"overlap": overlap, "brain_ml": 1300.0}, "flags": list(flags)}


def written(path, page, problems=()):
    page.write(path, title="A <study>", problems=problems)
    return path.read_text()


def test_worst_first_and_no_more_pictures_than_asked_for(tmp_path):
    page = quality.Page(RECIPE, pictures=4)
    volume = np.zeros((40, 40, 40, 1), np.float16)
    for i in range(10):
        page.add(Scan(f"s{i}"), volume, record(0.9 + i / 100, ["odd"] if i == 7 else []))
    text = written(tmp_path / "q.html", page)
    # A flag counts more than any overlap; then the least overlap.
    assert re.findall(r"<strong>(s\d)</strong>", text) == ["s7", "s0", "s1", "s2"]
    assert page.flagged == 1
    assert "The worst 4 of 10 scans" in text
    assert "A &lt;study&gt;" in text


def test_the_worst_of_equally_flagged_scans_is_the_furthest_beyond_its_limit(tmp_path):
    page = quality.Page(recipes.recipe("quick40"), pictures=5)
    good = {"brain_ml": 1300.0, "overlap": 0.95, "likeness": 0.7, "cut": 0.0}
    for name, changed, flags in (
        ("s0", {"brain_ml": 849.0, "overlap": 0.91}, 1),  # 0.001 below 850
        ("s1", {"brain_ml": 50.0}, 1),  # 0.941
        ("s2", {"overlap": 0.891, "likeness": 0.4455}, 2),  # twice 0.01
        ("s3", {"cut": 0.24}, 1),  # 0.76 rather than 0.95: 0.2
        ("s4", {}, 0),
        ("s5", {"overlap": 0.901}, 0),
    ):
        page.add(
            Scan(name), np.zeros((40, 40, 40, 1), np.float16), {"measures": good | changed, "flags": ["odd"] * flags}
        )
    assert re.findall(r"<strong>(s\d)</strong>", written(tmp_path / "q.html", page)) == ["s1", "s3", "s2", "s0", "s5"]


def test_failures_are_listed_with_their_reason(tmp_path):
    page = quality.Page(RECIPE)
    page.add(Scan("s0"), np.zeros((40, 40, 40, 1), np.float16), record())
    problems = [Problem("a.nii", "<nothing>", "a head", "look"), Problem("b.nii", "age", "years", dropped=False)]
    text = written(tmp_path / "q.html", page, problems)
    assert "<td>a.nii</td><td>&lt;nothing&gt;</td><td>a head</td><td>look</td>" in text
    assert "b.nii" not in text
    assert "1 left out, 1 kept with a value missing" in text
    assert not re.search(r"(src|href)=.https?:", text)


def test_cuts_show_the_volume_upright(tmp_path):
    volume = np.zeros((40, 40, 40, 1), np.float16)
    volume[30:, :, :] = 0.4  # right
    volume[:, :, 30:] = 1.2  # above
    page = quality.Page(RECIPE)
    page.add(Scan("s0"), volume, record())
    url = re.search(r'src="data:image/png;base64,([^"]+)"', written(tmp_path / "q.html", page))[1]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(url))).convert("L")).astype(int)
    across = [round(160 * f / 212) + 4 for f in (168, 168, 212)]
    behind = picture[:, across[0] : across[0] + across[1] - 4]
    high = round(160 * 180 / 212)
    assert (behind[2:20] > 240).all()  # above is at the top
    assert (behind[60:high, -20:] > 60).all()  # right is on the right
    assert (behind[60:high, :20] == 0).all()


def test_masks_of_derivatives_are_found_by_subject_and_session(tmp_path):
    for name in (
        "sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz",
        "sub-1/ses-1/anat/sub-1_ses-1_space-MNI_desc-brain_mask.nii.gz",
        "sub-2/anat/sub-2_run-1_desc-brain_mask.nii.gz",
    ):
        file = tmp_path / "derivatives" / "fmriprep" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    scans = [Scan("sub-1", "ses-1", path="a"), Scan("sub-2", path="b"), Scan("sub-3", path="c")]
    found, problems = masks.find(tmp_path, scans)
    assert problems == []
    assert {k: v.rsplit("/", 1)[1] for k, v in found.items()} == {
        "a": "sub-1_ses-1_desc-brain_mask.nii.gz",
        "b": "sub-2_run-1_desc-brain_mask.nii.gz",
    }


def touched(root, *names):
    for name in names:
        file = root / "derivatives" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def scan_of(name):
    return Scan("sub-1", "ses-1", path=f"/study/sub-1/ses-1/anat/sub-1_ses-1_{name}T1w.nii.gz")


@pytest.mark.parametrize(
    ("scan", "mask", "fits"),
    [
        ("run-1_", "run-1_", True),
        ("run-1_", "run-01_", True),
        ("run-1_", "", True),  # of both runs together
        ("run-1_", "run-2_", False),
        ("", "run-2_", False),
        ("acq-a_run-1_", "run-1_", True),
        ("acq-a_run-1_", "acq-b_run-1_", False),
        ("rec-norm_", "acq-a_", False),
        ("run-1_", "task-rest_run-1_", False),
        ("", "res-1_", True),
    ],
)
def test_a_mask_of_another_image_is_no_candidate(tmp_path, scan, mask, fits):
    touched(
        tmp_path, f"x/sub-1/ses-1/anat/sub-1_ses-1_{mask}desc-brain_mask.nii.gz", "x/anat/sub-9_desc-brain_mask.nii"
    )
    found, problems = masks.find(tmp_path, [scan_of(scan)])
    assert bool(found) == fits
    assert problems == []


def test_of_several_masks_the_one_that_says_most_and_never_any_of_two(tmp_path):
    touched(
        tmp_path,
        "x/sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz",
        "x/sub-1/ses-1/anat/sub-1_ses-1_run-2_desc-brain_mask.nii.gz",
        "x/sub-1/ses-1/func/sub-1_ses-1_run-1_desc-brain_mask.nii.gz",  # not in anat
        "y/sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz",
    )
    scans = [scan_of("run-1_"), scan_of("run-2_")]
    found, problems = masks.find(tmp_path, scans)
    assert found == {
        scans[1].path: str(tmp_path / "derivatives/x/sub-1/ses-1/anat/sub-1_ses-1_run-2_desc-brain_mask.nii.gz")
    }
    (problem,) = problems
    assert problem.where == scans[0].path
    assert problem.found == "masks of the brain {0}/x/{1} and {0}/y/{1}".format(
        tmp_path / "derivatives", "sub-1/ses-1/anat/sub-1_ses-1_desc-brain_mask.nii.gz"
    )
