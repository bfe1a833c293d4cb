"""Real processes on one machine: two of four devices each train, save and test as one of eight does."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxneuro import configuration, data
from jaxneuro.errors import InputError
from jaxneuro.training import experiment, hosts, sharding
from tests.conftest import CONFIGS, box_scans, write_dataset
from tests.training import runs

#: No clipping and plain SGD: a difference of rounding stays one.
SETTINGS = (
    "data.batch_size=8", "model.block_sizes=(1,1)", "optimizer.name=sgd", "optimizer.learning_rate=0.01",
    "optimizer.warmup_epochs=0.0", "optimizer.schedule=constant", "augment={}", "mesh.data=2", "mesh.fsdp=4",
)  # fmt: skip


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    # At 16^3 the last maps are single voxels, whose batch statistics amplify any rounding.
    return write_dataset(tmp_path_factory.mktemp("hosts") / "d", box_scans(), shape=(32, 32, 32))


class Job:
    """Processes that run one command together; ended by their own ids at the end."""

    def __init__(self, processes, *arguments, devices=4):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        shared = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        self.processes = []
        for i in range(processes):
            own = {
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(i),
            }
            flag = ["--distributed"] if processes > 1 else []
            environment = shared | own if processes > 1 else shared
            line = [sys.executable, "-m", "jaxneuro.cli", *map(str, arguments), *flag]
            self.processes.append(
                subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for p in self.processes:
            if p.poll() is None:
                p.kill()
            p.communicate()

    def ends(self, timeout=300):
        """Wait for all; return their exit statuses and what they said."""
        said = [p.communicate(timeout=timeout)[0] for p in self.processes]
        return [p.returncode for p in self.processes], said


def command(boxes, workdir, *more):
    config = [f"--config.{s}" for s in (f"data.path={boxes}", *SETTINGS, *more)]
    return ["train", "--config", CONFIGS / "smoke.py", "--workdir", workdir, *config]


def done(processes, *arguments, devices=4):
    with Job(processes, *arguments, devices=devices) as job:
        statuses, said = job.ends()
    assert statuses == [0] * processes, said
    return said


@pytest.fixture(scope="module")
def one(boxes, tmp_path_factory):
    """A finished run of one process on eight devices."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    done(1, *command(boxes, workdir, "training.epochs=2"), devices=8)
    return workdir


@pytest.fixture(scope="module")
def two(boxes, tmp_path_factory):
    """A finished run of two processes of four devices, and what they said."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    said = done(2, *command(boxes, workdir, "training.epochs=2"))
    return workdir, said


def test_two_processes_learn_and_save_what_one_does(one, two):
    workdir, said = two
    here, there = runs.logged(workdir), runs.logged(one)
    assert [sorted(line) for line in here] == [sorted(line) for line in there]
    for a, b in zip(here, there, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    a, b = runs.saved(workdir), runs.saved(one)
    assert a["checkpoints"][0] == b["checkpoints"][0] == 6
    runs.assert_close(a["checkpoints"][1], b["checkpoints"][1])
    assert a["checkpoints"][2]["data"] == b["checkpoints"][2]["data"]
    assert "epoch 2/2" in said[0]
    assert "epoch" not in said[1]  # one of them speaks


def test_every_scan_is_tested_once(one, two):
    workdir, _ = two
    done(2, "evaluate", workdir, "--out", workdir / "by-two")
    done(1, "evaluate", one, "--out", one / "by-one")
    tables = []
    for path in (workdir / "by-two", one / "by-one"):
        with open(path / "predictions.csv", newline="") as f:
            tables.append(list(csv.DictReader(f)))
    for column in ("fold", "subject", "session", "target"):
        assert [r[column] for r in tables[0]] == [r[column] for r in tables[1]]
    names = [(r["subject"], r["session"]) for r in tables[0]]
    assert len(names) == len(set(names))
    np.testing.assert_allclose(*([float(r["prediction"]) for r in t] for t in tables), atol=1e-4)


@pytest.mark.parametrize("source", ["device", "memory"])
def test_volumes_that_two_processes_keep_are_the_same_ones(boxes, two, tmp_path, source):
    workdir = tmp_path / "run"
    done(2, *command(boxes, workdir, "training.epochs=2", f"data.source={source}"))
    assert runs.logged(workdir) == runs.logged(two[0])


def reached(job, workdir, validations):
    """Wait until a job has written so many lines of validation."""
    log, limit = workdir / "metrics.jsonl", time.monotonic() + 240
    while not log.is_file() or log.read_text().count("validation") < validations:
        assert time.monotonic() < limit
        assert all(p.poll() is None for p in job.processes), [p.communicate()[0] for p in job.processes]
        time.sleep(0.05)


def test_a_killed_process_ends_the_others_who_say_so_and_the_job_goes_on(boxes, tmp_path):
    workdir = tmp_path / "run"
    with Job(2, *command(boxes, workdir, "training.epochs=8")) as job:
        reached(job, workdir, 2)
        job.processes[1].kill()
        began = time.monotonic()
        statuses, said = job.ends(120)
        seconds = time.monotonic() - began
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] not in (0, None)
    assert "another" in said[0]  # ours, "lost another of 2 processes", or jax's, "indicates that another task died"
    assert seconds < 2 * hosts.HEARTBEAT_S
    # On another mesh, in one process.
    more = ("training.epochs=8", "mesh.data=8", "mesh.fsdp=1")
    assert "resuming at step" in done(1, *command(boxes, workdir, *more), devices=8)[0]
    straight = tmp_path / "straight"
    done(1, *command(boxes, straight, *more), devices=8)
    assert runs.logged(straight)[-1]["step"] == 24
    for a, b in zip(runs.logged(workdir), runs.logged(straight), strict=True):
        # The batches are the same ones in the same order: other scans would be other losses by whole percents.
        assert a == pytest.approx(b, rel=1e-3)


def test_sigterm_to_one_process_saves_and_ends_all_at_one_step(boxes, tmp_path):
    workdir = tmp_path / "run"
    with Job(2, *command(boxes, workdir, "training.epochs=500")) as job:
        reached(job, workdir, 1)
        job.processes[1].send_signal(signal.SIGTERM)
        statuses, said = job.ends()
    assert statuses == [os.EX_TEMPFAIL] * 2, said
    step = runs.saved(workdir)["checkpoints"][0]
    assert all(f"at step {step} of" in text for text in said), said


def test_what_is_missing_of_the_environment_is_told(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1")
    monkeypatch.delenv("JAX_NUM_PROCESSES", raising=False)
    monkeypatch.delenv("JAX_PROCESS_ID", raising=False)
    with pytest.raises(InputError, match="found JAX_COORDINATOR_ADDRESS without JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        hosts.join()


def test_a_number_that_is_none_is_told(monkeypatch):
    for name, value in {
        "JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES: found 'two'; expected a whole number"):
        hosts.join()


def test_alone_the_first_is_oneself():
    assert hosts.is_first()
    assert hosts.first(lambda: 3) == 3
    assert int(sharding.largest(sharding.make_mesh({}), 7)) == 7


def test_each_process_reads_its_own_part_and_together_they_read_all(boxes):
    config = configuration.read(
        str(CONFIGS / "smoke.py"), [f"--config.data.path={boxes}", "--config.data.batch_size=8"]
    )
    parts = experiment.build(config)
    how = {"batch_size": 8, "threads": 1, "prefetch": 1}
    with data.open_reader(parts.dataset) as reader:

        def numbers(index, count, start=0, steps=3):
            batches = data.training_batches(
                reader, parts.folds["train"], {}, seed=0, process_index=index, process_count=count, **how
            )
            read = [next(batches)["index"].tolist() for _ in range(start + steps)]
            return read[start:]

        whole = numbers(0, 1)
        halves = [numbers(i, 2) for i in range(2)]
        assert [a + b for a, b in zip(*halves, strict=True)] == whole
        seen = [n for batch in whole for n in batch]
        assert len(seen) == len(set(seen)) == 24
