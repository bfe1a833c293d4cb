"""Starting from other weights: strictly, on record, and never on scans that are to test them."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import manifest, models, records
from jaxneuro.errors import CorruptDataError, InputError, LeakageError
from jaxneuro.evaluation.evaluate import evaluate
from jaxneuro.interop import files, folder, weights
from jaxneuro.training import checkpoint, loop, start
from jaxneuro.training.state import TrainState
from tests.conftest import box_scans, smoke_config, write_dataset
from tests.models.every import abstract_init, random_variables

INIT = {"head": "fresh", "fresh": (), "ignore": (), "channels": "", "resample": True}
SIZE = {"input_size": (16, 16, 16), "depth": 1}
#: What leaves that begin afresh hold here.
DRAWN = 0.25


@pytest.fixture(autouse=True)
def quick_draws(monkeypatch):
    """Let fresh leaves hold one number: compiling a network's own draws takes longer than all else here."""

    def init(model, seed):
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, DRAWN, leaf.dtype), abstract_init(model))

    monkeypatch.setattr(weights, "_init", init)


# --- Weights from a folder ----------------------------------------------------------------------------------------


def leaves_in(variables):
    return {k: np.asarray(v) for k, v in weights.flat(variables).items()}


def some_run(out, name="vit_b16_testing", *, scans=(), before=None, seen=None, **settings):
    """Write a run's folder as the loop does, of random weights, without training; returns these by path."""
    settings = {**SIZE, **settings}
    variables = random_variables(abstract_init(models.build(name, **settings)))
    variables.setdefault("batch_stats", {})
    with checkpoint.Checkpoints(out) as checkpoints:
        state = TrainState(jnp.asarray(7), variables["params"], variables["batch_stats"], {}, {})
        checkpoints.save_best(state, {"roc_auc": 0.5})
    (out / "config.json").write_text("{}")
    (out / "run.json").write_text(json.dumps({"model": {"name": name, "settings": settings}, "init": before}))
    manifest.write(out / "scans.csv", scans)
    if seen is not None:
        manifest.write(out / start.SEEN, seen)
    return leaves_in(variables)


def converted(out, name="vit_b16_testing", **settings):
    """Write a folder as `convert` does, of random weights, with a tensor kept beside; returns the weights by path."""
    settings = {**SIZE, **settings}
    variables = random_variables(abstract_init(models.build(name, **settings)))
    out.mkdir()
    files.write_safetensors(out / folder.WEIGHTS, folder.flat(variables | {"unused": {"norm.beside": np.ones(3)}}))
    folder.write(out, folder.WEIGHTS, {"model": {"name": name, "settings": settings}, "layout": "jaxneuro"})
    return leaves_in(variables)


def load(path, name="vit_b16_testing", *, init=None, **settings):
    return start.load(path, models.build(name, **{**SIZE, **settings}), {**INIT, **(init or {})}, seed=0)


def test_a_runs_best_checkpoint(tmp_path):
    scans = box_scans(4)
    leaves = some_run(tmp_path / "r", "vit_b16_mae_testing", scans=scans)
    begin = load(tmp_path / "r", num_outputs=2)
    found = leaves_in(begin.variables)
    assert {k for k, v in found.items() if (v == DRAWN).all()} == {"params/head/out/kernel", "params/head/out/bias"}
    for path, value in found.items():
        if "/head/" not in path:
            np.testing.assert_array_equal(value, leaves[path.replace("params/", "params/encoder/")], err_msg=path)
    assert begin.origin == {"path": str(tmp_path / "r"), "model": "vit_b16_mae_testing", "step": 7, "known": True}
    assert begin.seen == scans


def test_batch_statistics_come_along(tmp_path):
    name, size = "tiny_densenet_testing", {"input_size": (32, 32, 32)}
    variables = random_variables(abstract_init(models.build(name, **size)))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save_best(TrainState(jnp.asarray(1), variables["params"], variables["batch_stats"], {}, {}), {})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "run.json").write_text(json.dumps({"model": {"name": name, "settings": size}}))
    manifest.write(tmp_path / "scans.csv", [])
    found = start.load(tmp_path, models.build(name, **size), {**INIT, "head": "keep"}, seed=0).variables
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, variables))


def test_what_convert_wrote(tmp_path):
    leaves = converted(tmp_path / "w")
    begin = load(tmp_path / "w", init={"head": "keep"})
    found = leaves_in(begin.variables)
    assert found.keys() == leaves.keys()
    for path, value in leaves.items():
        np.testing.assert_array_equal(found[path], value)
    sha256 = records.file_sha256(tmp_path / "w" / folder.WEIGHTS)
    origin = {"path": str(tmp_path / "w"), "model": "vit_b16_testing", "sha256": sha256, "known": False}
    assert (begin.origin, begin.seen) == (origin, None)
    path = tmp_path / "w" / folder.WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptDataError, match="SHA-256"):
        load(tmp_path / "w")


def test_nothing_there_is_told(tmp_path):
    with pytest.raises(InputError, match=r"init\.path: found nothing to start from in .*none; expected a run"):
        load(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="found no best checkpoint; expected a run that finished an epoch"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("init", "settings", "message"),
    [
        ({"head": "fersh"}, {}, r"init\.head: found 'fersh'; expected fresh or keep"),
        ({"channels": "median"}, {}, r"channels: found 'median'; expected sum or mean"),
        ({"fresh": ("nrom",)}, {}, r"fresh: found 'nrom', which is in no path"),
        ({}, {"in_channels": 3}, "to one channel only"),
        ({"resample": False}, {"input_size": (24, 16, 16)}, r"the grid \(3, 2, 2\): --config\.init\.resample=True$"),
        ({"head": "keep"}, {"num_outputs": 2}, r"for a new head: --config\.init\.head=fresh"),
        ({}, {"depth": 2}, r"block1/.*to begin them afresh: --config\.init\.fresh$"),
        ({}, {"qkv_bias": False}, r"qkv/bias \[3, 4, 6\]; to leave them out: --config\.init\.ignore$"),
        (
            {"head": "keep"},
            {"pool": "mean"},
            r"model\.pool: found 'mean'; expected 'class'.*--config\.model\.pool=class",
        ),
    ],
)
def test_what_does_not_fit_names_the_folder_and_the_key_to_set(tmp_path, init, settings, message):
    converted(tmp_path / "w")
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / "w", init=init, **settings)
    if init.get("head") != "fersh":
        assert str(caught.value).startswith(f"init.path: {tmp_path / 'w'}: ")
    assert "\n" not in str(caught.value)


def test_weights_of_another_family_are_named(tmp_path):
    converted(tmp_path / "w", name="nit_testing", input_size=(32, 32, 32))
    with pytest.raises(InputError, match=r"weights of 'nit_testing' \(NiT\); .* \(ViT\); .*--config\.model\.name"):
        load(tmp_path / "w")


def test_three_channels_become_one_when_asked(tmp_path):
    leaves = converted(tmp_path / "w", in_channels=3)
    with pytest.raises(InputError, match=r"to make one channel of 3: --config\.init\.channels=sum$"):
        load(tmp_path / "w")
    found = load(tmp_path / "w", init={"channels": "mean"}).variables["params"]["patch_embed"]["proj"]["kernel"]
    expected = leaves["params/patch_embed/proj/kernel"].astype(np.float64).mean(3, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_size_of_the_source_comes_from_its_folder(tmp_path):
    some_run(tmp_path / "r", input_size=(8, 16, 40))
    converted(tmp_path / "w", input_size=[8, 16, 40])
    for path in (tmp_path / "r", tmp_path / "w"):
        (how,) = (r.how for r in load(path).rows if r.what == "adapted")
        assert how == "resampled from the grid (1, 2, 5) to (2, 2, 2)"


def test_a_network_that_computes_otherwise_is_told_and_refused_with_its_head(tmp_path, capsys):
    converted(tmp_path / "w", epsilon=1e-6)
    with pytest.raises(
        InputError, match=r"model\.epsilon: found 1e-05; expected 1e-06 .*--config\.model\.epsilon=1e-06"
    ):
        load(tmp_path / "w", init={"head": "keep"})
    load(tmp_path / "w")
    assert "warning: model.epsilon: found 1e-05; expected 1e-06" in capsys.readouterr().err
    load(tmp_path / "w", epsilon=1e-6)
    load(tmp_path / "w", init={"head": "keep"}, epsilon=1e-6)
    assert "warning" not in capsys.readouterr().err


# --- Which scans the weights have seen ----------------------------------------------------------------------------


def test_what_was_seen_goes_down_the_line(tmp_path):
    scans = box_scans(6, prefix="a")
    some_run(tmp_path / "r", scans=scans[4:6], before={"known": True}, seen=scans[:3])
    begin = load(tmp_path / "r")
    assert begin.seen == scans[4:6] + scans[:3]
    assert begin.origin["known"]
    begin.seen.append(scans[0])
    start.write(tmp_path, begin)
    assert manifest.read(tmp_path / start.SEEN) == scans[4:6] + scans[:3]  # each once


def test_what_began_with_weights_of_unknown_training_never_counts_as_known(tmp_path):
    some_run(tmp_path / "r", scans=box_scans(3), before={"path": "weights/swin", "known": False})
    begin = load(tmp_path / "r")
    assert begin.seen == box_scans(3)
    assert begin.origin["known"] is False


def test_only_folds_that_test_must_be_unseen():
    scans = box_scans(9)
    begin = start.Start({}, [], {}, scans[:4])
    start.check_unseen(begin, {"train": scans[:6], "validation": scans[6:], "test": [], "ood": []})
    for fold in ("validation", "test", "ood"):
        with pytest.raises(LeakageError, match=f"1 subject is in the training of init.path and in {fold}: s002"):
            start.check_unseen(begin, {"train": scans, fold: scans[3:4]})
    start.check_unseen(start.Start({}, [], {}, None), {"test": scans})


# --- Runs ---------------------------------------------------------------------------------------------------------


def config(data, *overrides):
    """Return the smoke config of a tiny transformer."""
    return smoke_config(data, "model.name=vit_b16_testing", "model.depth=1", "optimizer.name=sgd", *overrides)


def as_it_is(data, source, *overrides):
    """Return the config of a run that keeps other weights as they are."""
    return config(data, f"init.path={source}", "init.head=keep", "training.epochs=0", *overrides)


def best(workdir):
    return leaves_in(checkpoint.load_best(workdir)[1])


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.fixture(scope="module")
def source(boxes, tmp_path_factory):
    """A run on the boxes, and what it returned."""
    workdir = tmp_path_factory.mktemp("source") / "r"
    return workdir, loop.train(config(boxes, "optimizer.learning_rate=0.01"), workdir)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory):
    """A dataset of other subjects and images than the boxes."""
    return write_dataset(tmp_path_factory.mktemp("strangers") / "d", box_scans(prefix="t"))


def test_weights_kept_as_they_are_score_as_they_did(source, boxes, tmp_path):
    workdir, scored = source
    found = loop.train(as_it_is(boxes, workdir), tmp_path / "r")
    assert found == {"roc_auc": scored["roc_auc"], "step": 0}
    assert_same(best(tmp_path / "r"), best(workdir))
    origin = {"path": str(workdir), "model": "vit_b16_testing", "step": scored["step"], "known": True}
    assert json.loads((tmp_path / "r" / "run.json").read_text())["init"] == origin
    with open(tmp_path / "r" / start.REPORT, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {r["leaf"] for r in rows} == best(workdir).keys()
    assert all(
        r["what"] == "copied" and r["tensor"] == r["leaf"] and r["its_shape"] == r["its_shape_here"] for r in rows
    )
    assert manifest.read(tmp_path / "r" / start.SEEN) == manifest.read(workdir / "scans.csv")
    # From scratch there is nothing to write.
    assert json.loads((workdir / "run.json").read_text())["init"] is None
    assert not (workdir / start.REPORT).exists()
    assert not (workdir / start.SEEN).exists()


def test_training_goes_on_from_the_weights(source, boxes, tmp_path):
    """With the encoder frozen its bits stay those of the source, in the running average too; the head is another."""
    workdir, _ = source
    frozen = ("optimizer.freeze=('^(?!head/)',)", "optimizer.average=0.5", "optimizer.learning_rate=0.01")
    loop.train(config(boxes, f"init.path={workdir}", *frozen), tmp_path / "r")
    before, after = best(workdir), best(tmp_path / "r")
    assert_same(
        {k: v for k, v in after.items() if "/head/" not in k}, {k: v for k, v in before.items() if "/head/" not in k}
    )
    kernel = after["params/head/out/kernel"]
    assert (kernel != before["params/head/out/kernel"]).all()
    # 7 steps of a rate that rises to 0.005, with gradients of norm 1 at most, do not lead far from where it began.
    assert 0 < abs(kernel - DRAWN).max() < 0.1


def test_a_run_killed_before_its_first_checkpoint_begins_with_the_weights_again_and_then_needs_them_no_more(
    source, strangers, tmp_path, monkeypatch
):
    copy, workdir = tmp_path / "source", tmp_path / "r"
    shutil.copytree(source[0], copy)
    settings = as_it_is(strangers, copy)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_fold", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.train(settings, workdir)
    assert (workdir / "run.json").is_file()
    assert not checkpoint.there(workdir)
    loop.train(settings, workdir)
    assert_same(best(workdir), best(source[0]))

    # Other weights in the same folder are another run.
    with pytest.raises(InputError, match=rf"init\.path: '{copy}' there, '{source[0]}' here"):
        loop.train(as_it_is(strangers, source[0]), workdir)
    shutil.rmtree(copy)
    found = loop.train(settings, workdir)
    assert found["step"] == 0
    assert_same(best(workdir), best(source[0]))
    # And without a state of its own it cannot begin.
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(InputError, match=r"init\.path: found nothing to start from"):
        loop.train(settings, workdir)


def test_scans_that_were_trained_on_test_no_run_that_starts_from_it(source, strangers, boxes, tmp_path):
    """Neither the source's own, nor those that the source of a source saw."""
    other = write_dataset(tmp_path / "d", box_scans(), seed=1)
    trained = {s.subject for s in manifest.read(source[0] / "scans.csv")}
    validation = records.open_dataset(other).splits.subjects["validation"]
    leaked = sorted(trained & set(validation))
    assert leaked
    message = f"{len(leaked)} subjects are in the training of init.path and in validation: {', '.join(leaked[:10])}"
    with pytest.raises(LeakageError, match=message):
        loop.train(as_it_is(other, source[0]), tmp_path / "r")
    assert not (tmp_path / "r").exists()

    loop.train(as_it_is(strangers, source[0]), tmp_path / "between")
    assert not trained & {s.subject for s in manifest.read(tmp_path / "between" / "scans.csv")}
    with pytest.raises(LeakageError, match=message):
        loop.train(as_it_is(other, tmp_path / "between"), tmp_path / "r")
    assert not (tmp_path / "r").exists()
    with pytest.raises(LeakageError, match=f"{len(trained)} subjects are in pre-training and in {boxes}"):
        evaluate(tmp_path / "between", data=boxes)


def test_no_training_needs_weights(boxes, tmp_path):
    with pytest.raises(InputError, match=r"training\.epochs: found 0 without init\.path"):
        loop.train(config(boxes, "training.epochs=0"), tmp_path / "r")
    assert not (tmp_path / "r").exists()
