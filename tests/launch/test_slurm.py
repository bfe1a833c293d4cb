"""launch/slurm.sh under a stand-in `srun` that starts real processes."""

import os
import re
import shlex
import signal
import socket
import time

import pytest

from tests.launch.stand_ins import JAXNEURO, LAUNCH, RECORDER, SRUN, asked, install, records, run, started

RUN = ("--config", "configs/finetune_ad.py", "--workdir", "/shared/runs/ad")


@pytest.fixture
def job(tmp_path):
    """Return the environment of a batch script: two nodes, two tasks on each."""
    env = install(tmp_path / "bin", jaxneuro=JAXNEURO, srun=SRUN, scontrol=RECORDER)
    return env | {
        "SLURM_JOB_ID": "4242",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_NTASKS": "4",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_CPUS_PER_TASK": "3",
    }


def wait_for(env, count):
    """Wait until so many processes train."""
    end = time.monotonic() + 60
    while len(records(env)) < count:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_every_task_runs_the_one_command(job):
    strange = ("--config.task.classes=('CN', 'AD')", 'say "é" $HOME `id` \\', "")
    job |= {"https_proxy": "http://proxy:3128", "NCCL_DEBUG": "INFO"}
    status, _, err = run("slurm.sh", *RUN, *strange, env=job)
    assert (status, err) == (0, "")
    tasks = records(job)
    assert [t["arguments"] for t in tasks] == [["train", "--distributed", *RUN, *strange]] * 4
    got = [t["environment"] for t in tasks]
    assert [e["SLURM_PROCID"] for e in got] == ["0", "1", "2", "3"]
    assert [e["SLURM_LOCALID"] for e in got] == ["0", "1", "0", "1"]
    assert {e["SLURM_CPUS_PER_TASK"] for e in got} == {"3"}
    assert {e["NCCL_DEBUG"] for e in got} == {"INFO"}
    assert not any("https_proxy" in e for e in got)
    assert asked(job, "scontrol") == []


def test_other_verbs(job):
    assert run("slurm.sh", "evaluate", "/shared/runs/ad", env=job)[0] == 0
    assert records(job)[0]["arguments"] == ["evaluate", "--distributed", "/shared/runs/ad"]


def test_a_job_whose_tasks_were_sent_away_is_queued_again(job):
    job["MODE"] = "0:trains 1:trains 2:trains 3:trains"
    with started("slurm.sh", *RUN, env=job) as process:
        wait_for(job, 4)
        for task in records(job):  # the notice goes to the tasks
            os.kill(task["pid"], signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 75
    assert [a["arguments"] for a in asked(job, "scontrol")] == [["requeue", "4242"]]


def test_a_job_that_is_cancelled_is_not(job):
    job["MODE"] = "0:trains 1:trains 2:trains 3:trains"
    with started("slurm.sh", *RUN, env=job) as process:
        wait_for(job, 4)
        for _ in range(3):  # Slurm sends it several times
            process.send_signal(signal.SIGTERM)
            time.sleep(0.02)
        process.communicate(timeout=60)
    assert process.returncode == 75  # it waited for the tasks, which were told and saved
    assert asked(job, "scontrol") == []


@pytest.mark.parametrize(("mode", "expected"), [("3:fails", 1), ("1:dies 0:trains 2:trains 3:trains", 128 + 9)])
def test_a_job_that_fails_is_not(job, mode, expected):
    status, _, _ = run("slurm.sh", *RUN, env=job | {"MODE": mode})
    assert status == expected
    assert asked(job, "scontrol") == []


def test_the_dry_run_prints_the_command_and_runs_nothing(job):
    arguments = (*RUN, "--config.task.name=two words")
    status, out, err = run("slurm.sh", *arguments, env=job | {"DRY_RUN": "1", "JAXNEURO": "/opt/my env/jaxneuro"})
    assert (status, err) == (0, "")
    command, then = out.splitlines()
    words = shlex.split(command)
    assert words[words.index("/opt/my env/jaxneuro") :][1:] == ["train", "--distributed", *arguments]
    for word in ("srun", "NCCL_DEBUG=WARN", "--wait=60", "--gpu-bind=none", "--cpus-per-task=3"):
        assert word in words
    assert then == "when that exits with 75: scontrol requeue 4242"
    assert records(job) == []
    assert asked(job, "scontrol") == []


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ((), {}, "found no arguments"),
        (RUN[:2], {}, "found no --workdir"),
        (RUN, {"SLURM_GPUS_ON_NODE": "8"}, "found 2 tasks for 8 GPUs on a node"),
    ],
)
def test_mistakes_are_one_line(job, arguments, env, expected):
    status, out, err = run("slurm.sh", *arguments, env=job | env)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {expected}; expected ")
    assert err.count("\n") == 1
    assert "; try " in err
    assert records(job) == []


def test_what_is_asked_of_sbatch():
    asked_for = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", (LAUNCH / "slurm.sh").read_text(), re.M)
    options = dict(asked_for)
    assert "requeue" in options  # preempted without a notice, Slurm queues it again itself
    assert options["signal"] == "TERM@120"  # to the tasks: with B: it would be to the shell
    assert options["open-mode"] == "append"  # what was said before the requeue is kept
    assert options["ntasks-per-node"] == options["gpus-per-node"]  # jax takes a GPU a task


#: What `jaxneuro --distributed` does, and one sum over all processes.
JOINS = r"""
import json, os, sys
import jax, jax.numpy as jnp
jax.distributed.initialize(initialization_timeout=240)
from jax.experimental import multihost_utils
parts = multihost_utils.process_allgather(jnp.asarray(10 ** jax.process_index()))
with open(os.environ["RECORD"] + f"/{jax.process_index()}.json", "w") as f:
    json.dump({"count": jax.process_count(), "devices": jax.device_count(), "total": int(parts.sum())}, f)
jax.distributed.shutdown()
"""


def free(port):
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.slow
def test_jax_finds_all_that_it_needs(tmp_path):
    env = install(tmp_path / "bin", jaxneuro=JOINS, srun=SRUN, scontrol=RECORDER)
    job = next(n for n in range(4096) if free(61440 + n))  # jax takes its port from the job's number
    env |= {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "2"}
    env |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "PYTHONWARNINGS": "error"}
    status, _, err = run("slurm.sh", *RUN, env=env, timeout=300)
    assert status == 0, err
    # 11: each of the two gave its part once.
    assert records(env) == [{"count": 2, "devices": 2, "total": 11}] * 2
