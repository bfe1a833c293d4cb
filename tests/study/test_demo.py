"""The whole road, small: what `make demo` does, in a minute or two."""

import json

import pytest

from jaxneuro.study import demo


@pytest.mark.slow
def test_the_demo_goes_the_whole_road_and_is_not_done_twice(tmp_path):
    settings = ("--config.training.epochs=1", "--config.data.batch_size=8")
    page = demo.run(tmp_path / "demo", seed=5, workers=2, subjects=60, overrides=settings)
    text = page.read_text()
    assert "SYNTHETIC" in text
    assert text.count("<svg") >= 4
    for run in ("ad", "age"):
        metrics = json.loads((tmp_path / "demo" / run / "evaluation" / "metrics.json").read_text())
        assert metrics["data"]["synthetic"] is True
        assert metrics["folds"]["ood"]["sites"] == ["D"]
        assert metrics["folds"]["test"]["scans"] > 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("*.arrayrecord")}
    demo.run(tmp_path / "demo", seed=5, workers=2, subjects=60, overrides=settings)
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("*.arrayrecord")}
