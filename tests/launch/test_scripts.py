"""What all scripts in launch/ have in common; `make lint` has shellcheck read them."""

import subprocess

import pytest

from tests.launch.stand_ins import LAUNCH

SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def test_all_are_here():
    assert [s.name for s in SCRIPTS] == ["jobset.sh", "slurm.sh", "tpu.sh"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
def test_bash_can_read_it_and_stops_at_the_first_failure(script):
    subprocess.run(["bash", "-n", script], check=True, timeout=30)
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert next(line for line in lines if line and not line.startswith("#")) == "set -euo pipefail"
    assert script.stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.name)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_what_stands_at_its_head(script, flag):
    told = subprocess.run(["bash", script, flag], check=True, timeout=30, capture_output=True, text=True, env={}).stdout
    assert told.startswith("One run over ")
    assert f"launch/{script.name} --config configs/pretrain_masked.py" in told
    assert "set -" not in told
    assert "SBATCH" not in told
