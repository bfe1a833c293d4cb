"""Runs that end early: told to by a signal, by a loss that is no number, or by a folder that cannot be written."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from jaxneuro import cli, data, records
from jaxneuro.errors import InputError, Preempted
from jaxneuro.training import experiment, journal, loop, pace, stopping
from tests.conftest import CONFIGS, smoke_config
from tests.training import runs


@pytest.fixture(autouse=True)
def default_handlers():
    """Take signals as a program in the foreground does; CI may run these in the background."""
    before = [(s, signal.signal(s, h)) for s, h in DEFAULT.items()]
    yield
    for s, handler in before:
        signal.signal(s, handler)


DEFAULT = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


# ---- the signals ------------------------------------------------------------------------------------------------
def test_a_signal_is_kept_for_later_and_handlers_come_back():
    for number, error in ((signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)):
        with stopping.on_signal() as stop:
            assert not stop.is_set()
            signal.raise_signal(number)
            assert stop.is_set()
            assert type(stop.error("now")) is error
            assert str(stop.error("now")) == "now"
    assert {s: signal.getsignal(s) for s in DEFAULT} == DEFAULT


def test_sigterm_may_come_again_and_a_second_ctrl_c_interrupts_at_once():
    with stopping.on_signal() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.is_set()


def test_a_pipe_that_ctrl_c_closed_does_not_end_the_run(monkeypatch):
    # As in `jaxneuro train ... 2>&1 | tee log`.
    reads, writes = os.pipe()
    os.close(reads)
    write = os.write
    monkeypatch.setattr(stopping.os, "write", lambda _, text: write(writes, text))
    with stopping.on_signal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
    with pytest.raises(BrokenPipeError):
        write(writes, b"dear")
    os.close(writes)


@pytest.mark.parametrize("number", list(DEFAULT))
def test_an_ignored_signal_stays_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with stopping.on_signal() as stop:
        signal.raise_signal(number)
        assert not stop.is_set()
        (other,) = set(DEFAULT) - {number}
        signal.raise_signal(other)
        assert stop.is_set()
    assert signal.getsignal(number) is signal.SIG_IGN


def test_a_thread_takes_no_signals():
    seen = []

    def run():
        with stopping.on_signal() as stop:
            seen.append((stop.is_set(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, signal.SIG_DFL)]


# ---- what a stop leaves open ------------------------------------------------------------------------------------
def test_steps_before_and_after_a_stop_make_one_line(monkeypatch):
    clock = iter([0.0, 10.0, 12.0, 12.0])
    monkeypatch.setattr(pace.time, "perf_counter", lambda: next(clock))
    first = pace.Pace(4)
    for step, loss in ((8, 1.0), (9, 2.0)):
        first.step(step, {"loss": np.float32(loss), "finite": np.float32(1)}, np.arange(4))
    pending = json.loads(json.dumps(first.pending()))
    assert pending == [{"loss": 1.0, "finite": 1.0}, {"loss": 2.0, "finite": 1.0}]
    second = pace.Pace(4, pending)
    second.step(10, {"loss": np.float32(6.0), "finite": np.float32(1)}, np.arange(4))
    # The mean of three steps; the four volumes of its own took two seconds.
    assert second.take() == {"train/loss": 3.0, "train/volumes_per_second": 2.0, "train/waiting_for_data": 0.0}
    assert second.pending() == []


def test_a_run_killed_as_it_began_begins_again(tmp_path):
    for name in (".lock", ".config.json.partial"):
        (tmp_path / name).write_text("{")
    journal.claim(tmp_path, {"seed": 0})
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0}
    # It had scored the weights it began with, and was killed before it saved them: they are scored again.
    line = '{"step": 0, "epoch": 0, "validation/mae": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_text(line)
    for resume_at, kept in ((0, line), (None, "")):
        with journal.Journal(tmp_path, resume_at=resume_at):
            assert (tmp_path / "metrics.jsonl").read_text() == kept


# ---- a run ------------------------------------------------------------------------------------------------------
OVERRIDES = (
    "model.name=vit_b16_testing",
    "model.depth=1",
    "training.epochs=4",
    "training.keep=4",
    "training.log_every=3",
)


def arguments(boxes, workdir):
    overrides = [f"--config.{o}" for o in (f"data.path={boxes}", *OVERRIDES)]
    return ["train", f"--config={CONFIGS / 'smoke.py'}", "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="module")
def config(boxes):
    return smoke_config(boxes, *OVERRIDES)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """A run of four epochs, seven steps each, that nothing stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "r"
    loop.train(config, workdir)
    assert runs.saved(workdir)["checkpoints"][0] == 28
    return workdir


@pytest.fixture
def begun(whole, tmp_path):
    """The same run after its first epoch, of which nothing later was saved."""
    workdir = tmp_path / "r"
    shutil.copytree(whole, workdir)
    for step in (14, 21, 28):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    return workdir


@pytest.fixture
def at_step(monkeypatch):
    """Do something at steps of a run that goes on at step 7: {step: function of the batch}."""

    def plan(what):
        step, real = [7], loop.sharding.put

        def put(mesh, batch):
            step[0] += 1  # batches of validation come only after step 14
            what.get(step[0], lambda batch: None)(batch)
            return real(mesh, batch)

        monkeypatch.setattr(loop.sharding, "put", put)

    return plan


def spoil(batch):
    batch["volume"][0, 3, 3, 3] = np.nan


def scans_at(config, step):
    """Return the names of the scans of a step's batch."""
    parts = experiment.build(config)
    with records.Reader(parts.dataset) as reader:
        batches = data.training_batches(
            reader, parts.folds["train"], parts.labels, seed=config.seed, batch_size=config.data.batch_size
        )
        for _ in range(step):
            numbers = next(batches)["index"]
    return [parts.dataset.scans[i].name for i in numbers]


def test_sigterm_saves_ends_with_75_and_the_run_goes_on_to_the_same_bits(
    boxes, config, whole, begun, at_step, monkeypatch, capfd
):
    at_step({11: lambda batch: signal.raise_signal(signal.SIGTERM)})
    assert cli.main(arguments(boxes, begun)) == os.EX_TEMPFAIL == 75
    told = capfd.readouterr().err.splitlines()[-1]
    assert told == "error: told to end at step 11 of 28, saved; the same command goes on from there"
    assert {s: signal.getsignal(s) for s in DEFAULT} == DEFAULT
    step, _, position = runs.saved(begun)["checkpoints"]
    assert step == 11
    # Steps 10 and 11 have no line of the log yet: the one of step 12 is the mean of three.
    assert len(position["pending"]) == 2
    monkeypatch.undo()
    loop.train(config, begun)
    runs.assert_same_run(whole, begun)


def test_a_loss_that_is_no_number_is_told_with_its_step_and_scans(config, begun, at_step):
    at_step({10: spoil})
    with pytest.raises(InputError) as e:
        loop.train(config, begun)
    told = re.fullmatch(
        r"(.*): the loss is nan at step 10, the gradient's norm nan; .* its scans: (.*?); what.*", str(e.value)
    )
    assert told, str(e.value)
    assert told[1] == str(begun)
    assert told[2] == ", ".join(scans_at(config, 10))
    step, state, _ = runs.saved(begun)["checkpoints"]
    assert step == 7
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize("number", list(DEFAULT))
def test_a_signal_after_such_a_step_saves_nothing(config, begun, at_step, number):
    at_step({10: spoil, 11: lambda batch: signal.raise_signal(number)})
    with pytest.raises(InputError, match="the loss is nan at step 10"):
        loop.train(config, begun)
    step, state, _ = runs.saved(begun)["checkpoints"]
    assert step == 7
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.slow
def test_a_process_that_is_told_to_end_saves_and_frees_the_folder(boxes, tmp_path, capfd):
    workdir = tmp_path / "r"
    endless = [*arguments(boxes, workdir), "--config.training.epochs=4000"]
    command = [sys.executable, "-m", "jaxneuro.cli", *endless]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        log = workdir / "metrics.jsonl"
        while process.poll() is None and not (log.is_file() and log.read_text()):
            time.sleep(0.05)
        assert cli.main(endless) == 1
        assert f"is being trained by process {process.pid} on" in capfd.readouterr().err
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 75, told
    assert told[-1].startswith("error: told to end at step ")
    step = int(told[-1].split("at step ")[1].split()[0])
    assert runs.saved(workdir)["checkpoints"][0] == step > 0


# ---- folders that cannot be written -----------------------------------------------------------------------------
def refused(boxes, workdir, capfd):
    assert cli.main(arguments(boxes, workdir)) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_a_file_where_a_folder_should_be_is_one_line(boxes, config, tmp_path, capfd):
    file = tmp_path / "file"
    file.write_text("dear")
    assert refused(boxes, file, capfd).startswith(f"error: {file}: Not a directory; expected a folder")
    assert refused(boxes, file / "a" / "b", capfd).startswith(f"error: {file / 'a' / 'b'}: Not a directory; expected")
    assert file.read_text() == "dear"
    for name in ("checkpoints", "best"):
        workdir = tmp_path / name
        journal.claim(workdir, config.to_dict())
        (workdir / name).write_text("dear")
        assert refused(boxes, workdir, capfd) == f"error: {workdir / name}: File exists"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder_is_one_line(boxes, tmp_path, capfd):
    (tmp_path / "locked").mkdir(mode=0o555)
    workdir = tmp_path / "locked" / "r"
    assert refused(boxes, workdir, capfd).startswith(f"error: {workdir}: Permission denied; expected a folder")
