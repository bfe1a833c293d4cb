"""A trained run out of the house: the same predictions elsewhere, and a card that says all about them."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxneuro import cli, interop, records
from jaxneuro import export as exporting
from jaxneuro.evaluation import evaluate
from jaxneuro.training import loop
from tests.conftest import smoke_config


@pytest.fixture(scope="module", params=["ad", "age"])
def run(request, tmp_path_factory, boxes):
    """A trained and evaluated run: a classifier, and a regression whose target is scaled."""
    workdir = tmp_path_factory.mktemp("run") / request.param
    settings = ["training.epochs=2", "model.name=tiny_densenet_testing"]
    if request.param == "age":
        settings += ["task.name=age", "task.kind=regression", "task.target=age", "task.classes=()", "task.only=()"]
    loop.train(smoke_config(boxes, *settings), workdir)
    evaluate.evaluate(workdir, resamples=10)
    return workdir


def export(*arguments):
    return cli.main(["export", *map(str, arguments)])


def predictions(workdir, boxes):
    """Return volumes [n, d, h, w, c] as stored, float32, and what evaluation predicted for them."""
    with open(workdir / "evaluation" / "predictions.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["fold"] == "test"]
    dataset = records.open_dataset(boxes)
    numbers = {(s.subject, s.session): i for i, s in enumerate(dataset.scans)}
    with records.Reader(dataset) as reader:
        volumes = np.stack([reader[numbers[r["subject"], r["session"]]] for r in rows])
    return volumes.astype(np.float32), np.array([float(r["prediction"]) for r in rows])


def test_stablehlo_predicts_what_evaluation_does(run, boxes, tmp_path):
    assert export(run, "--format=stablehlo", "--out", tmp_path / "out") == 0
    volumes, expected = predictions(run, boxes)
    np.save(tmp_path / "x.npy", volumes)
    code = f"""
import sys, jax, numpy as np
program = jax.export.deserialize(bytearray(open({str(tmp_path / "out" / "model.stablehlo")!r}, "rb").read()))
np.save({str(tmp_path / "y.npy")!r}, program.call(np.load({str(tmp_path / "x.npy")!r})))
assert not {{"flax", "jaxneuro"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy")[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_card_says_what_a_reader_needs(run, boxes, tmp_path, caplog):
    assert export(run, "--format=safetensors", "--out", tmp_path / "out") == 0
    # Orbax warns that the run was opened for reading only, which nobody asked to be told.
    assert not [r.getMessage() for r in caplog.records if r.name == "absl"]
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    data = json.loads((boxes / "card.json").read_text())
    assert card["sha256"] == records.file_sha256(tmp_path / "out" / "model.safetensors")
    assert card["input_size"] == [16, 16, 16]
    assert card["spacing_mm"] == [1, 1, 1]
    assert card["axes"] == "RAS+"
    for key in ("recipe", "recipe_fingerprint"):
        assert card[key] == data[key]
    assert card["training"]["manifest_sha256"] == data["manifest_sha256"]
    assert card["training"]["synthetic"] is True
    assert card["normalise"] == card["config"]["data"]["normalise"]
    with open(run / "scans.csv", newline="") as file:
        trained = list(csv.DictReader(file))
    assert card["training"]["scans"] == len(trained)
    (target,) = card["targets"]
    if run.name == "ad":
        assert target["classes"] == ["CN", "AD"]
        assert target["output"] == "a logit; its sigmoid is the probability of the second class"
    else:
        ages = [float(r["age"]) for r in trained]
        assert target["mean"] == pytest.approx(np.mean(ages))
        assert target["scale"] == pytest.approx(np.std(ages))
        assert target["output"] == "standardised; times `scale` plus `mean` it is the age in years"
    # The weights are the run's best, and load by their card alone.
    _, variables, loaded = interop.load(tmp_path / "out")
    assert loaded == card
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert card["training"]["step"] == metrics["checkpoint"]["step"]
    count = sum(x.size for x in interop.weights.flat(variables["params"]).values())
    assert count == metrics["model"]["parameters"]


def test_a_run_goes_to_torch_and_predicts_the_same(run, boxes, tmp_path):
    reference = pytest.importorskip("tests.torch_reference")
    from tests.models.test_densenet_parity import REFERENCES

    assert export(run, "--format=torch", "--layout=monai", "--out", tmp_path / "out") == 0
    settings = REFERENCES["tiny_densenet_testing"]
    theirs = reference.monai_nets.DenseNet(spatial_dims=3, in_channels=1, out_channels=1, **settings).eval()
    theirs.load_state_dict(reference.torch.load(tmp_path / "out" / "model.pth", weights_only=True), strict=True)
    volumes, expected = predictions(run, boxes)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    from jaxneuro import augment

    normalised = np.asarray(augment.normaliser(card["normalise"])(volumes))
    with reference.torch.no_grad():
        outputs = theirs(reference.torch.from_numpy(np.moveaxis(normalised, -1, 1).copy())).numpy()[:, 0]
    (target,) = card["targets"]
    if target["kind"] == "regression":
        outputs = outputs * target["scale"] + target["mean"]
    else:
        outputs = 1 / (1 + np.exp(-outputs))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "layout", "input_", "output"),
    [
        ("stablehlo", None, "volumes [batch, depth, height, width, channel] as prepared, before normalisation", True),
        ("safetensors", None, "volumes [batch, depth, height, width, channel] as prepared, and normalised (", False),
        ("torch", "monai", "volumes [batch, channel, depth, height, width] as prepared, and normalised (", False),
    ],
)
def test_the_card_tells_what_goes_in_and_comes_out_by_form(run, form, layout, input_, output, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_program", lambda *_: b"a program")
    arguments = [f"--layout={layout}"] if layout else []
    assert export(run, f"--format={form}", *arguments, "--out", tmp_path / "out") == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["input"].startswith(input_)
    how = card["normalise"]
    assert how == "brain"
    assert (f"('{how}': each a z-score over the voxels that are not 0" in card["input"]) is not output
    assert card["output"].startswith(
        "[batch, columns]: the predictions" if output else "[batch, columns]: the network's"
    )
    predicted = {"ad": "probability of the second class", "age": "age in years"}[run.name]
    (target,) = card["targets"]
    assert (target["output"] == predicted) is output
    assert target["output"].endswith(predicted)
    # Weights that go on from here have the same card.
    if form == "safetensors":
        assert export(tmp_path / "out", "--format=torch", "--layout=monai", "--out", tmp_path / "on") == 0
        again = json.loads((tmp_path / "on" / "card.json").read_text())
        assert again["input"] == card["input"].replace("depth, height, width, channel", "channel, depth, height, width")
        assert (again["output"], again["targets"]) == (card["output"], card["targets"])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("l2", "standardised; times `scale` plus `mean` it is the age in years"),
        (
            "soft",
            "a logit for each bin of width `bin` from `low` to `high`; the bins' centres, weighted by the softmax",
        ),
    ],
)
def test_outputs_of_other_targets_are_told(form, expected):
    target = {"kind": "regression", "target": "age", "unit": "years", "form": form}
    assert exporting._meaning(target, False).startswith(expected)
    assert exporting._meaning(target, True) == "age in years"
    several = {"kind": "multiclass", "target": "diagnosis", "unit": ""}
    assert (
        exporting._meaning(several, False) == "a logit for each class; their softmax is the probability of each class"
    )


def test_data_that_is_gone_is_told_with_the_file_that_names_it(run, tmp_path, capsys, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["data"]["path"] = "data/boxes"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert export("run", "--format=torch", "--out", tmp_path / "out") == 1
    told = capsys.readouterr().err
    assert (
        f"run/config.json: data.path: found no folder 'data/boxes', seen from {tmp_path}; expected the dataset" in told
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=torch", "--layout=torchvision"], "found a model of kind DenseNet; expected Swin"),
        (["--format=torch", "--layout=keras"], "expected jaxneuro or one of"),
        (["--format=stablehlo", "--layout=monai"], "leave it out"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_written(run, arguments, message, tmp_path, capsys):
    assert export(run, *arguments, "--out", tmp_path / "new" / "out") == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_run_is_told(tmp_path, capsys):
    assert export(tmp_path, "--format=torch", "--layout=monai", "--out", tmp_path / "out") == 1
    assert "config.json" in capsys.readouterr().err
