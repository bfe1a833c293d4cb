"""Hours of jobs: sums by hand, over stops, hosts and devices."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from jaxneuro.errors import InputError
from jaxneuro.study import costs, plan
from tests.study.studies import small

OUT = Path("study")


def spent(seconds, devices=1, host="a", kind="cpu", ended="2026-01-01T00:00:00Z"):
    return costs.Spent(seconds, host, devices, kind, ended)


def test_hours_by_what_jobs_are():
    jobs = plan.jobs(small(), OUT)
    run = plan.run_name("ad", "scratch", 1.0, 0)
    told = {
        "data/people": [spent(360)],
        "pretraining/sex": [spent(1800, devices=4), spent(1800, devices=4, host="b", ended="2026-02-01T00:00:00Z")],
        run: [spent(90)],
    }
    found = costs.table(jobs, told)
    assert found.rows == (
        ("Data", "1 of 2", "0.10", "0.10"),
        ("Pre-training", "1 of 1", "1.00", "4.00"),
        ("Runs of scratch", "1 of 4", "0.03", "0.03"),
        ("Runs of sex", "0 of 4", "0.00", "0.00"),
        ("All", "3 of 11", "1.12", "4.12"),
    )
    assert "1 x cpu, 4 x cpu, hosts: 2" in found.notes[0]
    assert "2026-02-01" in found.notes[-1]


def test_nothing_was_timed():
    found = costs.table(plan.jobs(small(), OUT), {})
    assert found.rows[-1] == ("All", "0 of 11", "0.00", "0.00")
    assert "on nothing, hosts: 0" in found.notes[0]


def test_what_is_written_is_read(tmp_path):
    device = SimpleNamespace(device_kind="H100")
    assert costs.read(tmp_path) == []
    costs.add(tmp_path / "job", 12.34, [device] * 8)
    costs.add(tmp_path / "job", 1.0, [device])
    first, second = costs.read(tmp_path / "job")
    assert (first.seconds, first.devices, first.kind, second.devices) == (12.3, 8, "H100", 1)
    with open(tmp_path / "job" / costs.FILE, "a") as file:
        file.write('{"seconds": 1}\n')
    with pytest.raises(InputError, match=r"line 3: found '\{\"seconds\": 1\}'; expected what a study wrote"):
        costs.read(tmp_path / "job")
