"""Maps of a run: whose they are, where they lie in the world, how they score, and what is refused."""

import csv
import dataclasses
import json
import shutil

import jax.numpy as jnp
import nibabel as nib
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxneuro import cli
from jaxneuro.errors import InputError
from jaxneuro.evaluation import evaluate, occlusion
from jaxneuro.evaluation.maps import chosen, hiding, making, scores, space
from jaxneuro.evaluation.occlusion import Settings
from jaxneuro.prepare import recipes, volumes
from jaxneuro.training import loop, sharding
from tests.conftest import box_scans, smoke_config, write_dataset
from tests.evaluation.conftest import BOX_MM, CENTRE, RECIPE, SPACING, write_mask

QUICK = Settings(patch=(4,), stride=(2,))


@pytest.fixture(scope="module")
def run(explained_run):
    return explained_run


def fails(capsys, *arguments):
    """Run the verb, which must fail; returns its one line."""
    assert cli.main(["occlusion", *(str(a) for a in arguments)]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_maps_of_a_run_lie_where_the_effect_is(run, tmp_path):
    result = occlusion.occlusion(run, QUICK, scans=3, untrained=True, each=True, draw=False, out=tmp_path)
    assert json.loads((tmp_path / "occlusion.json").read_text()) == json.loads(json.dumps(result))
    assert [(g, t["scans"]) for g, t in result["groups"].items()] == [("all", 6), ("class-CN", 3), ("class-AD", 3)]
    assert [s["label"] for s in result["scans"]] == ["CN"] * 3 + ["AD"] * 3
    assert {s["class"] for s in result["scans"]} == {"AD"}
    assert result["positions"] == [7, 7, 7]
    assert result["passes"] == 2 * 6 * (7**3 + 1)  # noise everywhere: no patch changes nothing
    # In the world, by nibabel alone: the map's heaviest part has its middle within a voxel of the box's.
    image = nib.load(tmp_path / "class-AD.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert image.header.get_zooms() == SPACING
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 4  # MNI152
    values = np.asarray(image.dataobj)
    heavy = np.where(values > values.max() / 2, values, 0)
    middle = [np.average(np.arange(16), weights=heavy.sum(tuple({0, 1, 2} - {a}))) for a in range(3)]
    away = nib.affines.apply_affine(image.affine, middle) - BOX_MM
    assert (np.abs(away) <= SPACING).all(), away
    # The mean of the maps of single scans is the group's.
    singles = [nib.load(f).get_fdata() for f in sorted(tmp_path.glob("scan-*.nii.gz"))]
    np.testing.assert_allclose(np.mean(singles, 0), nib.load(tmp_path / "all.nii.gz").get_fdata(), atol=1e-6)
    truth = result["groups"]["class-AD"]["truth"]
    assert truth["files"] == [str(run.parent / "cohort/derivatives/truth/effect-AD_mask.nii.gz")]
    assert truth["chance"]["share"] == pytest.approx(6**3 / 16**3)
    assert truth["trained"]["group_map"]["share"] > 4 * truth["chance"]["share"]
    assert truth["trained"]["group_map"]["hit"] == 1.0
    assert truth["random"]["percentile_95"]["share"] < truth["trained"]["group_map"]["share"]
    assert set(truth["untrained"]) == {"group_map", "mean_of_scans"}


def test_an_asymmetric_blob_in_a_scan_ends_at_its_place_in_the_world():
    recipe = dataclasses.replace(recipes.recipe("quick40"), shape=(20, 25, 22))
    blob = np.array([34.0, -52.0, 47.0])  # right, behind, above
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = (-100, -130, -80)
    at = np.stack(np.meshgrid(*map(np.arange, (50, 60, 50)), indexing="ij"), axis=-1) @ affine[:3, :3] + affine[:3, 3]
    head = np.where(np.linalg.norm(at - (0, -18, 18), axis=-1) < 80, 0.6 + at[..., 0] / 800, 0.0)
    scan = head + (np.linalg.norm(at - blob, axis=-1) < 14)
    volume = volumes.apply(recipe, scan.astype(np.float32), affine, pose=np.eye(4))
    card = {
        "spacing_mm": list(recipe.spacing_mm), "axes": "RAS+: ...", "recipe": recipe.describe(),
        "shape": list(volume.shape),
    }  # fmt: skip
    there = space.of(json.loads(json.dumps(card)), "d")

    def output(weights, x, which):
        return (jnp.maximum(x - 1.2, 0) ** 2).sum((1, 2, 3, 4))

    found = making.make(
        making.Network(output, None, "none"), volume[None], [0],
        Settings(patch=(3, 3, 3), stride=(1, 1, 1), batch_size=512), mesh=sharding.make_mesh({"data": -1}), label="",
    )  # fmt: skip
    image = space.image(there, found.maps[0])
    peak = np.argwhere(found.maps[0] == found.maps[0].max()).mean(0)
    away = nib.affines.apply_affine(image.affine, peak) - blob
    assert np.abs(away).max() <= 6, away  # voxels are about 8 mm


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_pictures_and_regions_from_the_command_line(run, tmp_path, capsys, method):
    atlas = write_mask(tmp_path / "atlas.nii.gz", np.array((-99, -99, -99)), np.array((0, 99, 99)), np.int16)
    (tmp_path / "names.tsv").write_text("index\tname\n1\tleft half\n")
    arguments = ["--patch", "8", "--stride", "8,8,4", "--scans", "1", "--atlas", str(atlas)]
    arguments += ["--labels", str(tmp_path / "names.tsv"), "--method", method, "--out", str(tmp_path / "o")]
    assert cli.main(["occlusion", str(run), *arguments]) == 0
    told = capsys.readouterr().err
    assert f"{method.capitalize()} of the logit of AD" in told
    assert "maps of all, class-CN, class-AD, pictures, regions.csv" in told
    for name in ("all", "class-CN", "class-AD"):
        picture = (tmp_path / "o" / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000
    with open(tmp_path / "o/regions.csv", newline="") as f:
        (row,) = [r for r in csv.DictReader(f) if r["group"] == "all"]
    values = nib.load(tmp_path / "o/all.nii.gz").get_fdata()
    # Voxel centres lie at -14, -12, ... mm: of 16, 7 lie left of 0.
    left = values[:7]
    assert (row["name"], row["voxels"], row["ml"]) == ("left half", str(7 * 256), str(7 * 256 * 24 / 1000))
    assert float(row["mean"]) == pytest.approx(left.mean(), rel=1e-4)
    assert float(row["max"]) == pytest.approx(left.max(), rel=1e-4)
    expected = np.maximum(left, 0).sum() / np.maximum(values, 0).sum()
    assert float(row["share_of_positive"]) == pytest.approx(expected, rel=1e-4)


def test_attention_rollout_of_a_vit(run, tmp_path):
    data = run.parent / "d"
    loop.train(smoke_config(data, "model.name=vit_b16_testing", "model.patch_size=(4,4,4)"), tmp_path / "r")
    result = occlusion.occlusion(tmp_path / "r", Settings("rollout"), scans=2, draw=False)
    assert result["passes"] == 4
    image = nib.load(tmp_path / "r/rollout-ad/all.nii.gz")
    values = image.get_fdata()
    # A value a patch, on the same grid as all other maps; what the class token keeps for itself is missing from 1.
    np.testing.assert_allclose(values, np.kron(values[::4, ::4, ::4], np.ones((4, 4, 4))), rtol=1e-6)
    assert 0 < values.sum() / 64 < 1
    assert nib.affines.apply_affine(image.affine, [7.5] * 3).tolist() == list(CENTRE)
    assert 0 <= result["groups"]["all"]["truth"]["trained"]["group_map"]["auc"] <= 1


def test_scores_by_hand():
    brain = np.zeros((6, 6, 6), bool)
    brain[1:5, 1:5, 1:5] = True
    region = np.zeros_like(brain)
    region[1:3, 1, 1] = True
    region[0, 0, 0] = True  # outside of the brain: no part of it
    against = scores.truth(brain, region, np.array([2.0, 2.0, 2.0]), 2.0)
    assert against.share == 2 / 64
    # Within 2 mm of the two voxels in a row: themselves, one beyond, and beside each one in y and one in z: brain ends.
    assert against.near == 7 / 64
    values = np.random.default_rng(0).normal(size=brain.shape)
    values[2, 1, 1], values[0, 5, 5], values[3, 3, 1] = 3.0, 99.0, 5.0
    found = scores.score(values, against)
    positive = np.maximum(values, 0)
    assert found["share"] == pytest.approx((positive[1, 1, 1] + 3.0) / positive[brain].sum())
    assert found["auc"] == pytest.approx(roc_auc_score(region[brain], values[brain]))
    size = np.abs(values)
    assert found["size_share"] == pytest.approx((size[1, 1, 1] + 3.0) / size[brain].sum())
    assert found["size_auc"] == pytest.approx(roc_auc_score(region[brain], size[brain]))
    assert found["distance_mm"] == pytest.approx(2 * np.sqrt(1 + 4))  # 3,3,1 is 1 and 2 voxels from 2,1,1
    assert found["hit"] == 0.0
    values[3, 1, 1] = 5.0  # as large, and one voxel from the region
    found = scores.score(values, against)
    assert (found["hit"], found["distance_mm"]) == (0.5, pytest.approx((2 * np.sqrt(5) + 2) / 2))
    assert scores.score(np.full(brain.shape, -1.0), against)["share"] is None
    assert scores.truth(brain, ~brain, np.ones(3), 0.0) is None


def test_random_maps_score_by_chance():
    brain = np.ones((12, 12, 12), bool)
    region = np.zeros_like(brain)
    region[4:8, 4:8, 4:8] = True
    against = scores.truth(brain, region, np.ones(3), 0.0)
    where = hiding.grid((12, 12, 12), (2, 2, 2), (2, 2, 2))
    for grid in (None, where):
        found = scores.by_chance(grid, against, 200, 0)
        assert found["mean"]["share"] == pytest.approx(against.share, rel=0.1)
        assert found["mean"]["auc"] == pytest.approx(0.5, abs=0.02)
        assert found["mean"]["hit"] == pytest.approx(against.share, abs=0.04)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--patch", "17"], "--patch: found 17 voxels along depth; expected 1 to 16, the volume's depth"),
        (["--patch", "4", "--stride", "0"], "--stride: found 0,0,0; expected one number of voxels, or three"),
        (["--patch", "4", "--stride", "4,4,5"], "--stride: found 5 voxels along width for a patch of 4"),
        (["--patch", "4", "--coarse", "3"], "--coarse: found 3, which leaves out voxels along depth"),
        (["--coarse", "0"], "--coarse: found 0; expected 1"),
        (["--quantile", "1.5"], "--quantile: found 1.5; expected 0 to 1"),
        (["--value", "nan"], "--value: found nan; expected a number"),
        (["--tolerance=-1"], "--tolerance: found -1 mm; expected 0 or more"),
        (["--method", "lime"], "--method: found 'lime'; expected one of occlusion, gradient, rollout"),
        (["--method", "rollout"], "--method: found 'rollout' with tiny_densenet_testing; expected a vit or nit"),
        (["--fold", "tests"], "--fold: found 'tests'; expected one of train, validation, test, ood"),
        (["--task", "age"], "--task: found 'age'; expected one of ad"),
        (["--class", "PD"], "--class: found 'PD'; expected one of CN, AD"),
        (["--labels", "x.tsv"], "--labels: found it without --atlas; expected both"),
        (["--atlas", "none.nii"], "--atlas: none.nii: no such file; expected a NIfTI image"),
        (["--truth", __file__], "test_occlusion.py: found no NIfTI image"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(run, capsys, arguments, said):
    assert said in fails(capsys, run, "--no-pictures", *arguments)


def test_images_of_another_space_are_told(run, tmp_path, capsys):
    far = write_mask(tmp_path / "far.nii.gz", np.array((500, 500, 500)), np.array((510,) * 3), origin=(480.0,) * 3)
    assert "found none of its regions on the dataset's grid; expected an atlas in MNI152 space" in fails(
        capsys, run, "--no-pictures", "--atlas", far
    )
    assert "found nothing above 0.5 on the dataset's grid" in fails(capsys, run, "--no-pictures", "--truth", far)
    nib.save(nib.Nifti1Image(np.full((9, 9, 9), 0.5, np.float32), np.diag([9, 9, 9, 1])), tmp_path / "half.nii.gz")
    assert "expected a number for each region" in fails(
        capsys, run, "--no-pictures", "--atlas", tmp_path / "half.nii.gz"
    )
    nib.save(nib.Nifti1Image(np.ones((9, 9, 9, 2), np.float32), np.diag([9, 9, 9, 1])), tmp_path / "four.nii.gz")
    assert "found 4 axes, [9, 9, 9, 2]; expected three" in fails(
        capsys, run, "--no-pictures", "--atlas", tmp_path / "four.nii.gz"
    )


def test_a_run_without_a_task_is_told(run, tmp_path, capsys):
    for name in ("config.json", "run.json"):
        shutil.copy(run / name, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["objective"]["name"] = "contrastive"
    (tmp_path / "config.json").write_text(json.dumps(config))
    said = fails(capsys, tmp_path, "--no-pictures")
    assert "objective 'contrastive' predicts nothing to explain; expected a supervised run" in said
    assert "expected the folder of a training run" in fails(capsys, tmp_path / "none", "--no-pictures")


def test_scans_of_another_dataset_are_explained_as_they_are_tested(run, tmp_path, capsys):
    data = write_dataset(
        tmp_path / "site", box_scans(12, "t"), spacing_mm=list(SPACING), axes="RAS+: ...", recipe=RECIPE
    )
    shutil.copytree(run, tmp_path / "r")
    evaluate.evaluate(tmp_path / "r", data=data, out=tmp_path / "e", resamples=10)
    with open(tmp_path / "e/predictions.csv", newline="") as f:
        tested = {(r["subject"], r["session"]): float(r["prediction"]) for r in csv.DictReader(f) if r["fold"] == "ood"}
    assert cli.main(
        ["occlusion", str(tmp_path / "r"), "--data", str(data), "--patch", "8", "--stride", "8", "--no-pictures"]
    ) == 0  # fmt: skip
    (out,) = (tmp_path / "r").glob("occlusion-ad-site-*")
    result = json.loads((out / "occlusion.json").read_text())
    assert (result["fold"], result["data"]["path"]) == ("ood", str(data))
    # Subjects 8 to 11 are AD, and of the 12 each one's first session is taken.
    assert [s["label"] for s in result["scans"]] == ["CN"] * 8 + ["AD"] * 4
    assert {(s["subject"], s["session"]) for s in result["scans"]} == {(f"t{i:03d}", "ses-1") for i in range(12)}
    for scan in result["scans"]:
        probability = 1 / (1 + np.exp(-scan["output"]))
        assert tested[scan["subject"], scan["session"]] == pytest.approx(probability, abs=1e-5)
    capsys.readouterr()
    small = write_dataset(tmp_path / "small", box_scans(8, "u"), shape=(12, 16, 16))
    for more, said in {
        ("--data", data, "--fold", "test"): "--fold: found 'test' with --data; expected one or the other",
        ("--data", run.parent / "d"): "is the dataset that the run was trained on; expected another",
        ("--data", small): "found volumes of [12, 16, 16, 1]; expected [16, 16, 16, 1] as in training",
    }.items():
        assert said in fails(capsys, run, "--no-pictures", *more)


def test_scans_that_are_not_registered_have_maps_and_no_atlas(tmp_path):
    card = {"spacing_mm": [2, 2, 2], "axes": "RAS+: ...", "shape": [10, 10, 10, 1], "recipe": {"stages": ["strip"]}}
    there = space.of(card, "d")
    assert not there.registered
    np.testing.assert_array_equal(there.affine[:3, 3], [-9, -9, -9])
    mask = write_mask(tmp_path / "m.nii.gz", np.zeros(3), np.ones(3))
    with pytest.raises(InputError, match="not registered"):
        space.onto(there, mask, "--atlas")
    with pytest.raises(InputError, match="maps are of scans, not of videos"):
        space.of({**card, "spacing_mm": None}, "d")


def test_outputs_of_several_tasks_are_told_apart(tmp_path):
    scans = box_scans(36, diagnoses=("CN", "AD", "PD"))
    data = write_dataset(tmp_path / "d", scans)
    config = smoke_config(
        data, "task.kind=multiclass", "task.classes=('CN','AD','PD')", "task.ignore=()", "also.age.kind=regression",
        "also.age.target=age", "also.sex.kind=binary", "also.sex.target=sex", "also.sex.classes=('F','M')",
    )  # fmt: skip
    from jaxneuro.training import experiment

    parts = experiment.build(config)
    fixed = np.array([[1.0, 2.0, 4.0, 0.5, -3.0]], np.float32)

    class Fixed:
        def apply(self, weights, x, train):
            return jnp.asarray(fixed), {}

    parts = dataclasses.replace(parts, model=Fixed())

    def value(task, given=None, label=0.0, probability=False):
        explained = chosen.explain(parts, task, given, probability)
        return float(explained.output(None, None, explained.which(label, given))[0])

    assert value(None, label=2.0) == 4.0
    assert value("ad", given="AD", label=2.0) == 2.0
    softmax = np.exp(fixed[0, :3]) / np.exp(fixed[0, :3]).sum()
    assert value(None, label=1.0, probability=True) == pytest.approx(softmax[1], rel=1e-5)
    described = {t["name"]: t for t in parts.targets}
    assert value("age") == pytest.approx(0.5 * described["age"]["scale"] + described["age"]["mean"], rel=1e-5)
    assert value("sex") == -3.0
    assert value("sex", given="F") == 3.0
    assert value("sex", probability=True) == pytest.approx(1 / (1 + np.exp(3.0)), rel=1e-5)
    with pytest.raises(InputError, match="--probability: found it with 'age', a regression"):
        value("age", probability=True)
    records, groups = chosen.scans(parts, parts.tasks[0], "train", 2, 0)
    assert list(groups) == ["all", "class-CN", "class-AD", "class-PD"]
    assert [parts.dataset.scans[records[i]].diagnosis for i in groups["class-PD"]] == ["PD", "PD"]
    train = {s.subject for s in parts.scans("train")}
    assert {parts.dataset.scans[i].subject for i in records} <= train
    records, groups = chosen.scans(parts, parts.tasks[1], "test", 3, 0)
    assert groups == {"all": [0, 1, 2]}
