"""The smallest study whole, as a user types it: stopped once, it goes on, and is not done twice."""

import csv
import json

import pytest

from jaxneuro import cli, manifest
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
    assert len(runs) == 2 * (3 + 3 + 2 + 2)
    assert all((run / "evaluation-outside" / "metrics.json").is_file() for run in runs if "without" not in str(run))
    config = json.loads((out / "runs/ad/densenet-healthy/0.5/seed-1/config.json").read_text())
    assert (config["init"]["path"], config["seed"]) == (str(out / "pretraining/contrastive"), 1)
    # AD by row: 3 rows, four metrics, two zero-shot sets; 2 rows of two tasks, each with three sets; 3 rows, 2 shares;
    # 1 row of two sites and their mean; 2 rows of probes, of untrained networks, and chance.
    with open(out / "csv" / "values.csv", newline="") as file:
        values = list(csv.DictReader(file))
    assert len(values) == 3 * 6 + 2 * 6 + 3 * 2 + 3 + 2 * 3
    assert {value["seeds"] for value in values} == {"2"}
    with open(out / "csv" / "comparisons.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3 + 6 + 2
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "SYNTHETIC DATA: Healthy, Patients, Outside." in page
    assert "No row of this study stands for one of the paper's." in text
    assert "Not finished" not in text
    # Three datasets were prepared, a network pre-trained, and each run was timed, the stopped one twice.
    with open(out / "csv" / "time.csv", newline="") as file:
        assert [row[1] for row in csv.reader(file)][-1] == "24 of 24"
    times = [len(p.read_text().splitlines()) for p in (out / "jobs").rglob("time.jsonl")]
    assert sorted(times) == [1] * 23 + [2]
    # Maps of the first seed, of a network and an untrained one, and their pictures in the page.
    mapped = sorted(p.relative_to(out / "runs") for p in out.glob("runs/*/*/*/seed-*/occlusion-ad/occlusion.json"))
    assert [str(p.parent.parent) for p in mapped] == ["ad/densenet-healthy/1/seed-0", "ad/vit-scratch/1/seed-0"]
    with open(out / "csv" / "maps.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["Backbone"], row["Network"]) for row in rows} == {
        (backbone, network) for backbone in ("DenseNet", "ViT") for network in ("trained", "untrained", "chance")
    }  # fmt: skip
    assert page.count('<img src="data:image/png;base64,') == text.count("](runs/") > 0
    assert {p.suffix for p in (out / "figures").iterdir()} == {".svg", ".pdf"}
    assert page.count("<svg ") == len(list((out / "figures").glob("*.svg")))
    # Nobody of the site was learnt from, and all who were tested are of it; site D stays held out.
    left = out / "runs/ad/densenet-scratch/without-A/seed-1"
    assert {scan.site for scan in manifest.read(left / "scans.csv")} == {"B", "C"}
    assert json.loads((left / "evaluation" / "metrics.json").read_text())["folds"]["ood"]["sites"] == ["A"]
    probed = json.loads((out / "runs/ad/densenet-healthy/1/seed-1/probe-site/probe.json").read_text())
    assert probed["task"]["classes"] == ["A", "B", "C"]
    assert probed["trained"]["folds"]["ood"]["scans"] == 0
    assert [(of["reason"].split(" is ")[0], of["scans"]) for of in probed["excluded"]] == [("site 'D'", 24)]
    chance = [v for v in values if v["metric"] == "chance"]
    assert [float(v["mean"]) for v in chance] == [pytest.approx(1 / 3)] * 2

    assert cli.main([*command, "--list"]) == 0
    assert "24 jobs: 24 finished." in capsys.readouterr().out
    assert cli.main(command) == 0
    changed = {p.name for p, when in files(out).items() if after[p] != when}
    written = {p.name for kind in ("csv", "figures") for p in (out / kind).iterdir()}
    assert changed == {"report.html", "report.md", *written}
