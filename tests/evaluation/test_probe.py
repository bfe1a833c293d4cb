"""Linear probes: what a linear model can read, it reads; what is not there, it does not; test subjects stay unseen."""

import csv
import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxneuro import cli, interop, manifest, models, records
from jaxneuro.errors import InputError, LeakageError
from jaxneuro.evaluation import probe
from jaxneuro.interop import files, folder
from jaxneuro.training import checkpoint, experiment, loop
from tests.conftest import CONFIGS, box_scans, smoke_config, write_dataset

AGE = ("task.name=age", "task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()")


@pytest.fixture(scope="module")
def run(tmp_path_factory, boxes):
    """A network pre-trained without a target: a masked autoencoder, whose encoder is probed."""
    workdir = tmp_path_factory.mktemp("run") / "mae"
    objective = ("objective.name=masked", "objective.kind=mae", "objective.ratio=0.5", "data.normalise=volume")
    loop.train(smoke_config(boxes, *objective, "model.name=vit_b16_testing", "model.depth=1"), workdir)
    return workdir


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A dataset of many scans, for probes of features that no network made."""
    scans = box_scans(400, diagnoses=("CN", "AD", "PD"))
    return write_dataset(tmp_path_factory.mktemp("many") / "d", scans, shape=(4, 4, 4))


@pytest.fixture(scope="module")
def probed(run, boxes, tmp_path_factory):
    """One probe, with half the training subjects: its result, its folder, its features."""
    out = tmp_path_factory.mktemp("probed")
    file = out / "deep" / "f.npz"
    result = probe.probe(run, smoke_config(boxes, "data.fraction=0.5"), out, features=file, resamples=5)
    return result, out, dict(np.load(file))


def parts_of(data, *overrides):
    return experiment.build(smoke_config(data, "model.name=swin_t_testing", *overrides))


def mixed(parts, task, width=5, noise=0.0, seed=0):
    """Return features [n, width]: a random direction times the label, plus a constant, plus noise."""
    rng = np.random.default_rng(seed)
    direction, constant = rng.normal(size=width), rng.normal(size=width) * 10
    found = {}
    for fold in parts.folds:
        label = parts.labels_of(fold)[task]
        found[fold] = label[:, None] * direction + constant + noise * rng.normal(size=(len(label), width))
    return found


def mae_of_mean(result):
    return result["trained"]["folds"]["ood"]["metrics"]["mae_of_mean"]["value"]


def converted(out, name, **settings):
    """Write weights as `jaxneuro convert` does."""
    rng = np.random.default_rng(0)
    wanted = interop.abstract(models.build(name, **settings))
    with folder.new(out) as partial:
        leaves = {k: rng.normal(0, 0.1, leaf.shape).astype(np.float32) for k, leaf in wanted.items()}
        files.write_safetensors(partial / folder.WEIGHTS, leaves)
        described = {"name": name, "settings": settings}
        folder.write(partial, folder.WEIGHTS, {"model": described, "layout": "jaxneuro"})
    return out


# ---- the linear model --------------------------------------------------------------------------------------------


def test_labels_that_are_a_linear_function_of_the_features_are_read(many):
    binary = parts_of(many)
    told = probe.linear(binary, mixed(binary, "ad"), resamples=20)
    for fold in ("test", "ood"):
        found = told["folds"][fold]["metrics"]
        assert {name: m["value"] for name, m in found.items()} == dict.fromkeys(found, 1.0)
        # A perfect score of some 50 scans is not known to be perfect: the interval has a width.
        assert 0.85 < found["roc_auc"]["low"] < found["roc_auc"]["high"] == 1.0
    # Every penalty separates the classes: the largest wins.
    assert (told["penalty"], told["validation"]) == (1e4, 1.0)
    assert told["threshold"]["chosen_on"] == "validation"

    age = parts_of(many, *AGE)
    told = probe.linear(age, mixed(age, "age"), resamples=20)
    # Ridge with the least penalty, 1e-4, of n = some 200 scans: the slope falls short by a share of 1e-4 / (5 n).
    assert told["penalty"] == 1e-4
    for fold in ("test", "ood"):
        assert told["folds"][fold]["metrics"]["mae"]["value"] < 1e-4
        assert told["folds"][fold]["metrics"]["mae_of_mean"]["value"] == pytest.approx(7.5, abs=1)
    assert told["threshold"] is None

    three = parts_of(many, "task.kind=multiclass", "task.classes=('CN','AD','PD')", "task.ignore=()")
    corners = {fold: np.eye(3)[three.labels_of(fold)["ad"].astype(int)] for fold in three.folds}
    told = probe.linear(three, corners, resamples=20)
    assert told["folds"]["test"]["metrics"]["roc_auc"]["value"] == 1.0
    assert told["folds"]["test"]["metrics"]["balanced_accuracy"]["value"] == 1.0


def test_noise_tells_nothing(many):
    parts = parts_of(many)
    rng = np.random.default_rng(1)
    told = probe.linear(parts, {f: rng.normal(size=(len(n), 4)) for f, n in parts.folds.items()}, resamples=100)
    for fold, entry in told["folds"].items():
        auc = entry["metrics"]["roc_auc"]
        # Its standard error is sqrt((n + 1) / 12 / (n0 n1)), 0.08 for some 50 scans.
        n0, n1 = entry["class_counts"].values()
        assert abs(auc["value"] - 0.5) < 3 * np.sqrt((n0 + n1 + 1) / 12 / (n0 * n1)), fold
        assert auc["low"] < 0.5 < auc["high"]


def test_ridge_is_that_of_the_formula_and_its_penalty_that_of_the_least_error_in_validation(many):
    parts = parts_of(many, *AGE, "data.fraction=0.1")
    features = mixed(parts, "age", width=12, noise=40.0)
    told = probe.linear(parts, features, resamples=5)
    y = {fold: parts.labels_of(fold)["age"].astype(np.float64) for fold in features}
    centre, spread = features["train"].mean(0), features["train"].std(0)
    z = {fold: (x - centre) / spread for fold, x in features.items()}

    def error(penalty, fold):
        gram = z["train"].T @ z["train"] + penalty * np.eye(12)
        slope = np.linalg.solve(gram, z["train"].T @ (y["train"] - y["train"].mean()))
        return np.abs(z[fold] @ slope + y["train"].mean() - y[fold]).mean()

    errors = {10.0**k: error(10.0**k, "validation") for k in range(-4, 5)}
    assert told["penalty"] == min(errors, key=errors.get)
    assert 1e-4 < told["penalty"] < 1e4  # a choice that matters
    assert told["validation"] == pytest.approx(errors[told["penalty"]], rel=1e-6)
    for fold in ("test", "ood"):
        found = told["folds"][fold]["metrics"]["mae"]["value"]
        assert found == pytest.approx(error(told["penalty"], fold), rel=1e-6)


def test_a_validation_fold_of_one_class_chooses_nothing(many):
    parts = parts_of(many)
    controls = [i for i in parts.folds["validation"] if parts.labels["ad"][i] == 0]
    parts = dataclasses.replace(parts, folds={**parts.folds, "validation": controls, "ood": []})
    told = probe.linear(parts, mixed(parts, "ad"), resamples=5)
    assert (told["penalty"], told["validation"]) == (1.0, None)
    assert told["threshold"] == {"value": 0.5, "rule": "0.5, for validation holds one class", "chosen_on": None}
    assert told["folds"]["test"]["metrics"]["accuracy"]["value"] == 1.0
    assert told["folds"]["ood"]["reason"] == "the fold is empty"


def test_features_that_are_no_numbers_are_told(many):
    parts = parts_of(many)
    features = mixed(parts, "ad")
    features["test"][3, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN or infinite features of 1 of \d+ scans of 'test'"):
        probe.linear(parts, features)


# ---- the features ------------------------------------------------------------------------------------------------


def test_features_are_those_of_the_encoder_with_every_patch_visible(run, boxes, probed):
    result, _, found = probed
    dataset = records.open_dataset(boxes)
    folds = dataset.splits.subjects
    half = folds["train"][: -(-len(folds["train"]) // 2)]
    assert set(found["train_subject"]) == set(half)
    assert result["probe"]["folds"]["train"] == len(found["train_subject"]) < len(folds["train"])
    for fold in ("validation", "test", "ood"):
        assert sorted(found[f"{fold}_subject"]) == sorted(folds[fold])
        assert set(found[f"{fold}_session"]) == {"ses-1"}

    _, weights, _ = checkpoint.load_best(run)
    encoder = models.build("vit_b16_testing", num_outputs=0, input_size=(16, 16, 16), depth=1)
    place = {(s.subject, s.session): i for i, s in enumerate(dataset.scans)}
    rows = [place[name] for name in zip(found["test_subject"], found["test_session"], strict=True)]
    with records.Reader(dataset) as reader:
        x = np.stack([reader[i] for i in rows]).astype(np.float64)
    # z-score over all voxels, as the run's own config says; that of the probe says "brain".
    axes = (1, 2, 3, 4)
    x = ((x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)).astype(np.float32)
    expected = encoder.apply({"params": weights["params"]["encoder"]}, x, train=False)[0]
    np.testing.assert_allclose(found["test_features"], expected, atol=2e-4)
    assert found["test_target"].tolist() == [float(dataset.scans[i].diagnosis == "AD") for i in rows]


def test_what_is_written_says_where_it_comes_from(run, probed):
    result, out, _ = probed
    assert json.loads((out / "probe.json").read_text()) == result
    with open(run / "scans.csv", newline="") as f:
        trained_on = len(list(csv.DictReader(f)))
    step, weights, _ = checkpoint.load_best(run)
    assert result["source"] == {
        "path": str(run), "model": "vit_b16_mae_testing", "step": step, "known": True, "trained_on": trained_on,
    }  # fmt: skip
    assert result["normalise"] == "volume"
    assert result["model"] == {
        "name": "vit_b16_testing",
        "parameters": sum(np.size(x) for x in jax.tree.leaves(weights["params"]["encoder"])),
        "features": 24,
        "adapted": {},
    }
    assert result["probe"]["chosen_by"] == "validation/roc_auc"
    assert result["data"]["synthetic"] is True
    for network in ("trained", "untrained"):
        assert set(result[network]["folds"]) == {"test", "ood"}
        assert result[network]["penalty"] in result["probe"]["penalties"]
    assert result["trained"] != result["untrained"]
    assert result["probe"]["fraction"] == 0.5


def test_weights_of_another_grid_or_of_several_channels_are_adapted_and_told(boxes, tmp_path, capsys):
    grid = converted(tmp_path / "grid", "vit_b16_testing", input_size=(24, 24, 24), num_outputs=3, depth=1)
    result = probe.probe(grid, smoke_config(boxes), tmp_path / "a", resamples=5)
    assert result["model"]["adapted"] == {"params/positions": "resampled from the grid (3, 3, 3) to (2, 2, 2)"}
    assert result["source"]["trained_on"] is None
    assert result["normalise"] == "brain"  # nobody says what the weights need: that of the config
    told = capsys.readouterr().err
    assert "not known here: keep them out of the test yourself" in told
    assert "resampled from the grid" in told
    colour = converted(tmp_path / "colour", "vit_b16_testing", input_size=(16, 16, 16), in_channels=3, depth=1)
    with pytest.raises(InputError, match=r"colour: .*to make one channel of 3"):
        probe.probe(colour, smoke_config(boxes), tmp_path / "b")
    result = probe.probe(colour, smoke_config(boxes, "init.channels=sum"), tmp_path / "b", resamples=5)
    assert result["model"]["adapted"] == {"params/patch_embed/proj/kernel": "sum over 3 channels"}


def test_sites_are_told_apart_but_for_those_that_no_training_scan_has(run, boxes, tmp_path):
    config = smoke_config(boxes, name="probe_site")
    result = probe.probe(run, config, features=tmp_path / "f.npz", resamples=5)
    assert json.loads((run / "probe-site" / "probe.json").read_text()) == result
    assert result["task"]["classes"] == ["A", "B", "C"]
    # 12 of 48 people are at D, which is held out; 4 of them have two scans.
    (left_out,) = result["excluded"]
    assert (left_out["scans"], left_out["reason"].split(" is ")[0]) == (16, "site 'D'")
    assert result["probe"]["folds"]["ood"] == 0
    for network in ("trained", "untrained"):
        assert result[network]["folds"]["ood"]["reason"] == "the fold is empty"
        test = result[network]["folds"]["test"]
        assert sum(test["class_counts"].values()) == test["scans"] == 9
    # By scikit-learn, whole, from the features that were written.
    kept = np.load(tmp_path / "f.npz")
    linear = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=1 / result["trained"]["penalty"], class_weight="balanced", max_iter=10_000),
    ).fit(kept["train_features"], kept["train_target"].astype(int))
    expected = balanced_accuracy_score(kept["test_target"], linear.predict(kept["test_features"]))
    assert result["trained"]["folds"]["test"]["metrics"]["balanced_accuracy"]["value"] == pytest.approx(expected)


# ---- what is refused ---------------------------------------------------------------------------------------------


def test_scans_that_the_network_was_trained_on_are_no_test(run, boxes, tmp_path):
    other = write_dataset(tmp_path / "other", box_scans(), seed=1)
    with pytest.raises(LeakageError, match=r"subjects are in the training of .*mae and in (validation|test) of"):
        probe.probe(run, smoke_config(other), tmp_path / "out")
    # What its first weights were trained on counts, too.
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    dataset = records.open_dataset(boxes)
    unseen = dataset.splits.subjects["ood"][:2]
    manifest.write(copy / "pretrained_on.csv", [s for s in dataset.scans if s.subject in unseen])
    with pytest.raises(LeakageError, match=f"2 subjects are in the training of .* and in ood of .*{unseen[0]}"):
        probe.probe(copy, smoke_config(boxes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_probed_is_told(run, boxes, tmp_path):
    with pytest.raises(InputError, match=r"found no network; expected the folder of a run"):
        probe.probe(tmp_path, smoke_config(boxes))
    with pytest.raises(InputError, match=r"objective.name: found 'contrastive' in the config of a probe"):
        probe.probe(run, smoke_config(boxes, "objective.name=contrastive"))
    small = write_dataset(tmp_path / "small", box_scans(prefix="x"), shape=(12, 12, 12))
    with pytest.raises(InputError, match=r"found input_size \(12, 12, 12\); expected three multiples of \(8, 8, 8\)"):
        probe.probe(run, smoke_config(small))
    weights = converted(tmp_path / "w", "vit_b16_testing", input_size=(16, 16, 16))
    with pytest.raises(InputError, match=r"--out: found none; expected a folder for probe.json, for .*w is no run"):
        probe.probe(weights, smoke_config(boxes))
    card = json.loads((weights / "card.json").read_text())
    card["model"]["name"] = "resnet"
    (weights / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"w: found a network 'resnet'"):
        probe.probe(weights, smoke_config(boxes), tmp_path / "out")


def test_another_recipe_is_told(run, tmp_path, capsys):
    other = write_dataset(tmp_path / "other", box_scans(prefix="x"), recipe={"name": "boxes2", "shape": [16, 16, 16]})
    probe.probe(run, smoke_config(other), tmp_path / "out", resamples=5)
    assert "name 'boxes2', was 'boxes'" in capsys.readouterr().err


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_command_prints_a_table_and_writes_beside_the_run(run, boxes, tmp_path, capsys):
    copy = tmp_path / "r"
    shutil.copytree(run, copy)
    arguments = ["probe", str(copy), "--config", str(CONFIGS / "smoke.py"), f"--config.data.path={boxes}"]
    age = [f"--config.{o}" for o in AGE]
    assert cli.main([*arguments, "--resamples", "5", *age]) == 0
    result = json.loads((copy / "probe-age" / "probe.json").read_text())
    told = capsys.readouterr().err
    assert "of 24 features, fitted to 28 scans." in told
    for network in ("trained", "untrained"):
        mae = result[network]["folds"]["ood"]["metrics"]["mae"]
        assert f"{mae['value']:.2f} (" in told
    assert f"{mae_of_mean(result):.2f} │" in told
    assert cli.main([*arguments, "--config.data.fractio=0.5"]) == 1
    assert "did you mean --config.data.fraction?" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        cli.main(["probe", "--help"])
    assert done.value.code == 0
