"""The smallest study whole, as a user types it: stopped once, it goes on, and is not done twice."""

import csv
import json

import pytest

from jaxneuro import cli
from jaxneuro.evaluation import evaluate
from tests.conftest import CONFIGS


def files(folder):
    """Return when every file changed, but for locks and what each call writes anew."""
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


@pytest.mark.slow
def test_the_tiny_study_stopped_and_gone_on_with(tmp_path, monkeypatch, capsys):
    out = tmp_path / "study"
    command = ["study", "--config", str(CONFIGS / "study_tiny.py"), "--out", str(out), "--workers", "2"]
    test, tested = evaluate.evaluate, []

    def stopped(workdir, **keywords):
        tested.append(workdir)
        if len(tested) == 4:  # one run's own test and the outside set, then the second's own
            raise KeyboardInterrupt
        return test(workdir, **keywords)

    with monkeypatch.context() as m:
        m.setattr(evaluate, "evaluate", stopped)
        assert cli.main(command) == 130
    first = out / "runs/ad/densenet-scratch/1/seed-0"
    assert (first / "evaluation-outside" / "metrics.json").is_file()
    before = files(first) | files(out / "data") | files(out / "pretraining")
    assert cli.main(command) == 0, capsys.readouterr().err
    after = files(out)
    assert {p: after[p] for p in before} == before
    assert not list(out.rglob("failure.json"))

    runs = sorted(p.parent.parent for p in out.glob("runs/*/*/*/seed-*/evaluation/metrics.json"))
    assert len(runs) == 2 * (3 + 3 + 2)
    assert all((run / "evaluation-outside" / "metrics.json").is_file() for run in runs)
    config = json.loads((out / "runs/ad/densenet-healthy/0.5/seed-1/config.json").read_text())
    assert (config["init"]["path"], config["seed"]) == (str(out / "pretraining/contrastive"), 1)
    # AD by row: 3 rows, four metrics, two zero-shot sets; 2 rows of two tasks, each with three sets; 3 rows, 2 shares.
    with open(out / "values.csv", newline="") as file:
        values = list(csv.DictReader(file))
    assert len(values) == 3 * 6 + 2 * 6 + 3 * 2
    assert {value["seeds"] for value in values} == {"2"}
    with open(out / "comparisons.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 + 6 + 2
    assert "The scans are synthetic" in (out / "tables.md").read_text()

    assert cli.main([*command, "--list"]) == 0
    assert "20 jobs: 20 finished." in capsys.readouterr().err
    assert cli.main(command) == 0
    changed = {p.name for p, when in files(out).items() if after[p] != when}
    assert changed == {"tables.md", "table2.csv", "table3.csv", "table4.csv", "values.csv", "comparisons.csv"}
