"""The loop: it learns, it resumes to the last bit, it refuses what it cannot do."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from jaxneuro import cli, splits
from jaxneuro.errors import InputError, LeakageError
from jaxneuro.manifest import Scan
from jaxneuro.training import loop
from tests.conftest import CONFIGS, box_scans, write_dataset


def final(workdir):
    """Return every array of the last checkpoint."""
    with ocp.CheckpointManager(workdir.absolute() / "checkpoints") as manager:
        step = manager.latest_step()
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
    return step, jax.tree.map(np.asarray, state)


def test_a_batch_of_one_has_nothing_to_compare(smoke, tmp_path):
    config = smoke("objective.name=contrastive", "data.batch_size=1", "model.name=vit_b16_testing")
    with pytest.raises(InputError, match=r"data\.batch_size: found 1 with objective 'contrastive'.*expected 2 or more"):
        loop.train(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_binary_run_learns_and_writes_what_it_says(smoke, tmp_path, log_lines):
    settings = ("model.name=tiny_densenet_testing", "optimizer.learning_rate=0.01", "data.batch_size=8")
    best = loop.train(smoke("training.epochs=9", *settings), tmp_path / "r")
    assert best["roc_auc"] > 0.9
    names = {p.name for p in (tmp_path / "r").iterdir()}
    assert names == {
        "config.json",
        "run.json",
        "scans.csv",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "best",
        ".lock",
    }
    lines = log_lines(tmp_path / "r")
    train = [x for x in lines if "train/loss" in x]
    assert [x["step"] for x in train] == list(range(1, train[-1]["step"] + 1))
    # Knowing nothing costs log 2 = 0.69.
    assert np.mean([x["train/loss"] for x in train[-3:]]) < 0.5
    assert sum("validation/roc_auc" in x for x in lines) == 9
    assert any((tmp_path / "r" / "tensorboard").iterdir())
    run = json.loads((tmp_path / "r" / "run.json").read_text())
    assert run["dataset"]["synthetic"] is True
    assert run["folds"]["ood"] == 12


def test_regression_beats_the_mean(smoke, tmp_path):
    overrides = ("task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()", "augment={}")
    data = write_dataset(tmp_path / "d", box_scans(120, diagnoses=("CN",)))
    settings = ("training.epochs=10", "optimizer.learning_rate=0.01", "data.batch_size=8")
    best = loop.train(smoke(*overrides, *settings, data=data), tmp_path / "r")
    # Ages are spread evenly over 30 years: predicting their mean errs by 7.5 years.
    assert best["mae"] < 5


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_run_goes_on_to_the_same_bits(smoke, tmp_path, log_lines, monkeypatch, stop_after):
    config = smoke("training.epochs=4")
    loop.train(config, tmp_path / "whole")

    scored = []
    real = loop.evaluate_fold

    def stopping(*args, **kwargs):
        if len(scored) == stop_after:
            raise KeyboardInterrupt
        scored.append(1)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate_fold", stopping)
        with pytest.raises(KeyboardInterrupt):
            loop.train(config, tmp_path / "parts")
    loop.train(config, tmp_path / "parts")

    whole, parts = (sorted(p.name for p in (tmp_path / run / "best").iterdir()) for run in ("whole", "parts"))
    assert whole == parts
    (step_a, a), (step_b, b) = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert step_a == step_b
    jax.tree.map(np.testing.assert_array_equal, a, b)
    timed = ("train/volumes_per_second", "train/waiting_for_data")
    strip = lambda lines: [{k: v for k, v in x.items() if k not in timed} for x in lines]  # noqa: E731
    assert strip(log_lines(tmp_path / "whole")) == strip(log_lines(tmp_path / "parts"))


def test_a_finished_run_is_not_done_again(smoke, tmp_path):
    config = smoke()
    loop.train(config, tmp_path / "r")
    before = (tmp_path / "r" / "metrics.jsonl").read_text()
    loop.train(config, tmp_path / "r")
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(("first", "second"), [("shards", "synthetic"), ("synthetic", "memory")])
def test_a_run_on_noise_and_one_on_data_are_not_one(smoke, tmp_path, first, second):
    loop.train(smoke("training.epochs=1", f"data.source={first}"), tmp_path / "r")
    with pytest.raises(InputError, match=f"data.source: '{first}' there, '{second}' here"):
        loop.train(smoke("training.epochs=1", f"data.source={second}"), tmp_path / "r")


def test_another_config_is_refused_and_names_the_key(smoke, tmp_path):
    loop.train(smoke(), tmp_path / "r")
    with pytest.raises(InputError, match=r"optimizer\.learning_rate: 0\.0003 there, 0\.1 here"):
        loop.train(smoke("optimizer.learning_rate=0.1"), tmp_path / "r")
    loop.train(smoke("training.log_every=3", "data.threads=1"), tmp_path / "r")


def test_a_folder_with_other_files_is_refused(smoke, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "thesis.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds files but no config\.json"):
        loop.train(smoke(), tmp_path / "r")
    assert [p.name for p in (tmp_path / "r").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("data.batch_size=64",), "found 64 with"),
        (("model.name=resnet",), "resnet"),
        (("optimizer.name=lion",), "optimizer.name: found 'lion'"),
        (("optimizer.schedule=step",), "optimizer.schedule: found 'step'"),
        (("optimizer.learning_rate=-1.0",), "expected a rate above 0"),
        (("data.normalise=minmax",), "found 'minmax'"),
        (("task.classes=('CN','MCI')",), r"no scan of class \['MCI'\]"),
        (("task.target=handedness",), "task.target"),
        (("mesh.model=3",), "mesh: found"),
        (("data.fraction=0.0",), "fraction: found 0.0"),
    ],
)
def test_bad_settings_get_one_line_and_leave_no_folder(smoke, tmp_path, overrides, message):
    with pytest.raises(InputError, match=message) as caught:
        loop.train(smoke(*overrides), tmp_path / "r")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_an_empty_fold_and_a_one_class_fold_are_told(smoke, tmp_path):
    empty = write_dataset(tmp_path / "empty", box_scans(diagnoses=("PD",)))
    with pytest.raises(InputError, match=r"fold 'train' is empty for task 'ad'.*'PD' is in task.ignore"):
        loop.train(smoke(data=empty), tmp_path / "r")
    one = write_dataset(tmp_path / "one", box_scans(diagnoses=("AD",)))
    with pytest.raises(
        InputError, match=r"fold 'train' holds no scan of class \['CN'\]; .*; the dataset has AD; check"
    ):
        loop.train(smoke(data=one), tmp_path / "r")


def test_one_image_in_two_folds_is_refused_by_name(smoke, tmp_path):
    scans = [Scan(f"s{i}", "", "A", 60.0, "F", ("CN", "AD")[i % 2], "", "same") for i in range(30)]
    data = write_dataset(tmp_path / "d", scans, ood_sites=())
    with pytest.raises(LeakageError, match="images are in train and in validation"):
        loop.train(smoke(data=data), tmp_path / "r")


def test_validation_of_one_class_still_trains_and_keeps_the_latest(smoke, tmp_path, log_lines):
    scans = box_scans()
    cn = [s.subject for s in scans if s.diagnosis == "CN"]
    rest = sorted({s.subject for s in scans} - set(cn[:4]))
    folds = splits.Splits({"train": rest, "validation": sorted(set(cn[:4])), "test": [], "ood": []}, 0, [])
    data = write_dataset(tmp_path / "d", scans, folds=folds)
    best = loop.train(smoke("training.epochs=2", data=data), tmp_path / "r")
    last = log_lines(tmp_path / "r")[-1]
    assert last["validation/roc_auc"] is None
    assert best == {"roc_auc": None, "step": last["step"]}


def test_a_full_disk_ends_the_run_with_one_line_and_the_run_goes_on_afterwards(boxes, tmp_path):
    # A limit on file size stands for a full disk: the save fails in the same place.
    arguments = ["train", f"--config={CONFIGS / 'smoke.py'}", "--workdir", str(tmp_path / "r")]
    arguments += [f"--config.data.path={boxes}", "--config.training.epochs=2"]
    body = f"""
        import resource, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        from jaxneuro import cli
        from jaxneuro.training import runtime
        runtime.start()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        sys.exit(cli.main({arguments!r}))
    """
    # The limit would cut an entry of the compilation cache short, too.
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)], capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.returncode == 1, done.stderr
    # Orbax's own threads still talk, without a lock: ours is one line, but may begin in the middle of one of theirs.
    assert done.stderr.count("error: ") == 1, done.stderr
    assert f"error: {tmp_path / 'r'}: File too large" in done.stderr
    assert cli.main(arguments) == 0
    assert final(tmp_path / "r")[0] == 14


def test_other_folds_under_the_same_name_are_refused(smoke, tmp_path):
    data = write_dataset(tmp_path / "d", box_scans())
    loop.train(smoke(data=data), tmp_path / "r")
    data.rename(tmp_path / "moved")
    # Moved data are the same data; other folds of the same scans are not, for they mix test subjects into training.
    loop.train(smoke(data=tmp_path / "moved"), tmp_path / "r")
    write_dataset(data, box_scans(), seed=1)
    with pytest.raises(InputError, match=r"was made with another dataset \(splits_sha256 differ"):
        loop.train(smoke(data=data), tmp_path / "r")


def test_divergence_is_told_in_one_line(smoke, tmp_path):
    config = smoke("optimizer.learning_rate=1e30", "optimizer.name=sgd", "optimizer.clip=0.0", "training.epochs=3")
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step"):
        loop.train(config, tmp_path / "r")


def test_the_best_checkpoint_is_whole_before_the_position_that_names_it(smoke, tmp_path, monkeypatch):
    called = []

    def watch(name):
        real = getattr(ocp.CheckpointManager, name)

        def watched(self, *args, **kwargs):
            called.append((self.directory.name, name))
            return real(self, *args, **kwargs)

        monkeypatch.setattr(ocp.CheckpointManager, name, watched)

    watch("save")
    watch("wait_until_finished")
    loop.train(smoke(), tmp_path / "r")
    saves = [i for i, x in enumerate(called) if x[1] == "save"]
    assert [called[i][0] for i in saves] == ["best", "checkpoints"]
    assert ("best", "wait_until_finished") in called[saves[0] : saves[1]]


@pytest.fixture
def interruptible():
    """Take interrupts as a program in the foreground does; CI may run this one in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_saves_and_the_run_goes_on_to_the_same_bits(smoke, tmp_path, monkeypatch):
    config = smoke("training.epochs=3")
    loop.train(config, tmp_path / "whole")
    real, steps = loop.sharding.put, []

    def interrupting(mesh, batch):
        steps.append(1)
        if len(steps) == 9:  # in the second epoch
            signal.raise_signal(signal.SIGINT)
        return real(mesh, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop.sharding, "put", interrupting)
        with pytest.raises(KeyboardInterrupt, match=r"at step \d+ of 21, saved"):
            loop.train(config, tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert final(tmp_path / "parts")[0] in (7, 8, 9)
    loop.train(config, tmp_path / "parts")
    (step_a, a), (step_b, b) = final(tmp_path / "whole"), final(tmp_path / "parts")
    assert step_a == step_b == 21
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_judge_ends_a_run_that_is_then_whole_and_on_record(smoke, tmp_path, log_lines):
    config = smoke("training.epochs=3", "data.batch_size=14")
    told = []

    def judge(epoch, value):
        told.append((epoch, value))
        return epoch == 2

    result = loop.train(config, tmp_path / "r", judge=judge)
    lines = [x for x in log_lines(tmp_path / "r") if "validation/roc_auc" in x]
    assert told == [(round(x["epoch"]), x["validation/roc_auc"]) for x in lines]
    assert [epoch for epoch, _ in told] == [1, 2]
    assert result["roc_auc"] == max(value for _, value in told)
    # Its state was saved: gone on with unjudged it is the run that nobody ended.
    loop.train(config, tmp_path / "r")
    loop.train(config, tmp_path / "whole")
    ended, whole = (
        [(x["step"], x["validation/roc_auc"]) for x in log_lines(tmp_path / name) if "validation/roc_auc" in x]
        for name in ("r", "whole")
    )
    assert ended == whole
    assert len(whole) == 3


def test_early_stopping_waits_for_a_validation_and_saves_before_it_stops(smoke, tmp_path, log_lines, monkeypatch):
    scores = iter([0.7, 0.9, 0.8, 0.6, 0.9, 1.0])
    built = loop.experiment.build

    def with_scores(*args):
        parts = built(*args)
        objective = parts.objective._replace(score=lambda values, labels: {"roc_auc": next(scores)})
        return dataclasses.replace(parts, objective=objective)

    monkeypatch.setattr(loop.experiment, "build", with_scores)
    settings = ("training.epochs=12", "training.patience=3", "training.evaluate_every=2", "data.batch_size=14")
    config = smoke("model.name=vit_b16_testing", *settings)
    best = loop.train(config, tmp_path / "r")
    # Validated after epochs 2, 4, 6 and 8; best after 4; at 6 it is two epochs old, at 8 four.
    steps = 2  # 28 scans by 14
    assert best == {"roc_auc": 0.9, "step": 4 * steps}
    validated = [x["step"] for x in log_lines(tmp_path / "r") if "validation/roc_auc" in x]
    assert validated == [2 * steps, 4 * steps, 6 * steps, 8 * steps]
    assert final(tmp_path / "r")[0] == 8 * steps
    # The state is saved after every epoch, validated or not.
    saved = {int(p.name) for p in (tmp_path / "r" / "checkpoints").iterdir() if p.name.isdigit()}
    assert saved == {7 * steps, 8 * steps}
    # The same command finds nothing left to do.
    loop.train(config, tmp_path / "r")
    assert next(scores) == 0.9
