"""A run that is killed again and again (SIGKILL) learns what one that nobody killed learns, to the last bit.

`make test-resume` prints where the kills landed.
"""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.conftest import CONFIGS
from tests.training import runs

pytestmark = pytest.mark.slow

#: Seven steps each, a state saved after every second: more than all lives get through together before they are killed.
EPOCHS = 50
#: When lives end: at any time up to the first step, some steps later, or as something is being saved.
PLAN = ["start"] * 5 + ["training"] * 8 + ["save"] * 8
#: What Orbax calls a checkpoint that it has not finished.
UNFINISHED = "orbax-checkpoint-tmp"


class Life:
    """One process that trains in a folder until it is killed, or done."""

    def __init__(self, boxes, workdir, number):
        self.workdir, self.told = workdir, workdir.with_name(f"{workdir.name}-{number}.txt")
        # Everything that a run carries: moments, running statistics, an average of the parameters, and keys, for views
        # and drop-out. Ages, for their error goes on falling: there are new best weights to save all the time.
        overrides = (
            f"data.path={boxes}", "task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()",
            "model.block_sizes=(1,1)", "model.drop_rate=0.1", "optimizer.learning_rate=0.0006", "optimizer.average=0.9",
            f"training.epochs={EPOCHS}", "training.evaluate_every=2",
        )  # fmt: skip
        command = [sys.executable, "-m", "jaxneuro.cli", "train", f"--config={CONFIGS / 'smoke.py'}"]
        command += [f"--workdir={workdir}", *(f"--config.{o}" for o in overrides)]
        self.began = time.monotonic()
        with open(self.told, "w") as told:
            self._process = subprocess.Popen(command, stdout=told, stderr=told)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.wait()

    def runs(self):
        return self._process.poll() is None

    def kill(self):
        self._process.send_signal(signal.SIGKILL)
        assert self._process.wait() == -signal.SIGKILL, f"was done before it was killed: {self.told.read_text()}"

    def wait(self):
        assert self._process.wait(timeout=300) == 0, self.told.read_text()

    def begins_at(self):
        """Return the step that it began with, None as long as it has not said so."""
        found = re.search(r"resuming at step (\d+) of|(\d+ steps from scratch)", self.told.read_text())
        return found and int(found[1] or 0)

    def steps(self):
        """Return how many steps it has logged."""
        if (begins_at := self.begins_at()) is None:
            return 0
        # Only whole lines; lines that it dropped at its start were of steps that it has not got to yet.
        lines = (self.workdir / "metrics.jsonl").read_text().split("\n")[:-1]
        return int(re.match(r'\{"step": (\d+)', lines[-1])[1]) - begins_at if lines else 0

    def unfinished(self):
        """Return what is being saved."""
        folders = [self.workdir / name for name in ("checkpoints", "best")]
        return {f"{f.name}/{e}" for f in folders if f.is_dir() for e in os.listdir(f) if UNFINISHED in e}

    def until(self, condition):
        while self.runs() and not condition():
            time.sleep(0.001)

    def until_save(self, count):
        """Wait for the first, second, ... save to begin from now on."""
        before = self.unfinished()
        while self.runs() and count > 0:
            now = self.unfinished()
            count -= len(now - before)
            before = now
            time.sleep(0.001)


def end(life, how, rng, start):
    """Kill a process as planned; returns where the kill landed."""
    if how == "start":
        time.sleep(rng.uniform(0.0, 1.0) * start)
    else:
        life.until(lambda: life.steps() > 0)
        if how == "training":
            steps = rng.integers(1, 30)
            life.until(lambda: life.steps() >= steps and not life.unfinished())
        else:
            life.until_save(rng.integers(1, 5))
            # At once, or a little into it.
            time.sleep(rng.choice([0.0, rng.uniform(0.0, 0.05)]))
    life.kill()
    if not life.steps():
        return "before the first step"
    found = sorted({name.split("/")[0] for name in life.unfinished()})
    return f"during a save of {' and '.join(found)}" if found else "in training"


def test_a_run_killed_at_any_moment_learns_the_same(boxes, tmp_path):
    # Whole first: it fills the cache of compiled programs for the others.
    with Life(boxes, tmp_path / "whole", 0) as life:
        life.wait()
    rng = np.random.default_rng(0)
    start, landed, resumed = 10.0, [], []
    for number, how in enumerate(rng.permutation(PLAN), start=1):
        with Life(boxes, tmp_path / "killed", number) as life:
            landed.append(end(life, how, rng, start))
            resumed.append(life.begins_at())
            if how != "start":
                start = 0.5 * (start + time.monotonic() - life.began)
            print(f"kill {number}: {landed[-1]}, began at step {resumed[-1]}, made {life.steps()} steps", flush=True)
    with Life(boxes, tmp_path / "killed", len(PLAN) + 1) as life:
        life.wait()
        resumed.append(life.begins_at())
    counts = {where: landed.count(where) for where in sorted(set(landed))}
    print(f"{len(landed)} kills: {counts}; the last life began at step {resumed[-1]} of {7 * EPOCHS}")

    assert len(landed) >= 20
    assert sum(where.startswith("during a save") for where in landed) >= 3
    assert counts["in training"] >= 3
    # They got on from life to life, and none lost a state that was there before.
    begun = [step for step in resumed if step is not None]
    assert begun == sorted(begun)
    assert 14 < begun[-1] < 7 * EPOCHS
    for file in tmp_path.glob("killed-*.txt"):
        assert "damaged" not in file.read_text(), file.read_text()
    runs.assert_same_run(tmp_path / "whole", tmp_path / "killed")
    for name in ("config.json", "run.json", "scans.csv"):
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "killed" / name).read_text()
