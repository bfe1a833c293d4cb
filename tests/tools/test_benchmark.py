"""The benchmark: its order and arithmetic, its references, and the smallest run from the command line; no times."""

import importlib.util
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from jaxneuro import records
from tests.models.every import count
from tools import benchmark
from tools.benchmarking import (
    cases,
    feeding,
    inputs,
    machine,
    measure,
    ours,
    process,
    references,
    report,
    settings,
    worker,
)

ROOT = Path(__file__).parents[2]
HAS_TORCH = importlib.util.find_spec("torch") is not None
#: MONAI's own call of torch.meshgrid, and what its data package says when it is imported.
quiet = pytest.mark.filterwarnings("ignore")


def test_sides_alternate_there_and_back():
    called = []

    def side(name):
        called.append(name)
        return float(len(called))

    samples = measure.alternate({name: lambda name=name: side(name) for name in "abc"}, rounds=3)
    assert "".join(called) == "abc" + "cba" + "abc"
    assert samples == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_round_is_filled():
    assert measure.repeats(0.2, 0.5) == 3
    assert measure.repeats(0.25, 0.5) == 2
    assert measure.repeats(30, 0.5) == 1
    assert measure.repeats(0.0, 0.5) > 1


def test_medians_spreads_and_ratios_by_hand():
    assert measure.spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0}
    samples = {"ours": [1.0, 2.0, 6.0], "eager": [4.0, 4.0, 4.0], "compiled": [9.0, 2.0, 3.0]}
    # Of the others the best by median is taken, not the one of the best round.
    assert measure.compare(samples, "ours", ["eager", "compiled", "absent"]) == {
        "of": "ours", "to": "compiled", "median": 2 / 3, "low": 1 / 9, "high": 2.0,
    }  # fmt: skip
    assert measure.compare(samples, "ours", ["absent"]) is None
    assert measure.compare(samples, "absent", ["eager"]) is None


def test_a_call_is_the_mean_of_a_round_and_settling_takes_no_part(monkeypatch):
    """With a clock that only a subject's work moves."""
    now, done = [0.0], []

    class Subject:
        def tasks(self):
            return {"work": lambda: self.run}

        def settle(self):
            now[0] += 100

        def run(self, n):
            done.append(n)
            now[0] += 0.2 * n

    monkeypatch.setattr(worker, "make", lambda subject, spec: Subject())
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    asked = worker.Asked("subject", {}, 0.0)
    assert asked.first("work")["first"] == pytest.approx(0.2)
    assert asked.warm(0.5)["repeats"] == 3
    assert asked.measure() == pytest.approx(0.2)
    assert done == [1, 1, 1, 1, 3]


def test_a_side_that_fails_says_why_and_others_go_on(tmp_path):
    spec = {"folder": str(tmp_path), "batch": 2, "threads": 1}
    with process.Side("bytes", spec, {}, patience=60) as side:
        with pytest.raises(process.Failed, match=r"FileNotFoundError.*made\.json"):
            side.ask("first", task="input")
        feeding.make(tmp_path, 4, 8)
        side.ask("first", task="input")
        assert side.ask("memory")["process"] > 0
    with process.Side("bytes", spec, {}, patience=0.01) as side, pytest.raises(process.Failed, match=r"no answer in"):
        side.ask("first", task="input")


@pytest.mark.parametrize(
    ("feed", "how"),
    [(feeding.Shards, how) for how in cases.FEEDS.values()] + [(feeding.Records, {}), (feeding.Bytes, {})],
)
def test_every_feed_gives_every_volume(tmp_path, feed, how):
    feeding.make(tmp_path, 8, 8)
    expected = sorted(inputs.brains(i, 8).tobytes() for i in range(8))
    batches = feed(str(tmp_path), batch=4, threads=2, **how).batches()
    for _ in range(3):
        epoch = [b["volume"].copy() if isinstance(b, dict) else b.copy() for b in islice(batches, 2)]
        assert sorted(volume.tobytes() for batch in epoch for volume in batch) == expected
    batches.close()


@quiet
@pytest.mark.skipif(not HAS_TORCH, reason="the parity extra is not installed (Python 3.12 and later)")
def test_monais_feed_gives_every_volume_from_its_cache(tmp_path):
    feeding.make(tmp_path, 8, 8)
    expected = sorted(inputs.brains(i, 8).tobytes() for i in range(8))
    batches = feeding.Monai(str(tmp_path), batch=4, threads=1, workers=0).batches()
    for _ in range(2):
        epoch = [np.moveaxis(batch.numpy(), 1, -1) for batch in islice(batches, 2)]
        assert sorted(volume.tobytes() for batch in epoch for volume in batch) == expected
    assert len(list((tmp_path / "monai").glob("*.pt"))) == 8


def test_volumes_on_disk_are_like_brains(tmp_path):
    volume = inputs.brains(0, 80)
    assert volume.dtype == np.float16
    assert np.mean(volume == 0) == pytest.approx(0.57, abs=0.01)
    feeding.make(tmp_path, 2, 16)
    with records.Reader(records.open_dataset(tmp_path / "shards")) as reader:
        np.testing.assert_array_equal(reader[1], inputs.brains(1, 16))


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@quiet
@pytest.mark.skipif(not HAS_TORCH, reason="the parity extra is not installed (Python 3.12 and later)")
@pytest.mark.parametrize("suffix", ["", "_testing"])
@pytest.mark.parametrize("name", settings.MODELS)
def test_references_have_as_many_parameters_as_ours(name, suffix):
    from tests.torch_reference import torch

    ours = settings.backbone(name + suffix, 32 if suffix else 80)
    with torch.device("meta"):  # shapes alone
        theirs = references.build(**json.loads(json.dumps(references.describe(ours))))
    expected = count(ours)
    if name == "vit_b16":
        # MONAI's has a norm of cross attention in each block, which takes no part, and no position of the class token.
        expected += (2 * ours.depth - 1) * ours.width
    assert parameters(theirs) == expected


@quiet
@pytest.mark.skipif(not HAS_TORCH, reason="the parity extra is not installed (Python 3.12 and later)")
@pytest.mark.parametrize("name", ["nit_testing", "minit_testing"])
def test_fast_transformers_equal_the_plain_statement(name):
    from tests.models import minit_torch
    from tests.models.test_nit_parity import PUBLISHED
    from tests.torch_reference import largest_difference, randomised, torch, volumes

    plain = minit_torch.MINiT if name.startswith("minit") else minit_torch.NiT
    plain = randomised(plain(image_size=32, num_classes=1, **PUBLISHED[name]))
    fast = references.build(**references.describe(settings.backbone(name, 32))).eval()
    fast.load_state_dict(plain.state_dict())
    _, x = volumes(2, 32, 32, 32, 1)
    with torch.no_grad():
        assert largest_difference(fast(x), plain(x)) <= 1e-5


@quiet
@pytest.mark.skipif(not HAS_TORCH, reason="the parity extra is not installed (Python 3.12 and later)")
def test_fused_attention_of_monais_vit_changes_nothing():
    from tests.torch_reference import largest_difference, randomised, torch, volumes

    model = randomised(references.build(**references.describe(settings.backbone("vit_b16_testing", 32))))
    _, x = volumes(2, 32, 32, 32, 1)
    with torch.no_grad():
        fused = references.logits(model(x))
        for block in model.blocks:
            block.attn.use_flash_attention = False
        assert largest_difference(fused, references.logits(model(x))) <= 1e-5


def test_peaks_are_known_by_the_devices_name():
    assert machine.published_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert machine.published_peak("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert machine.published_peak("NVIDIA A100-SXM4-40GB", "float32") == 156e12
    assert machine.published_peak("cpu", "float32") is None


def run_of(**results):
    """What a JSON file holds, around some results."""
    return {
        "command": "python tools/benchmark.py",
        "machine": machine.describe(),
        "devices": {"platform": "cpu", "kind": "cpu", "count": 1},
        "ceiling": {},
        "settings": {"side": 32, "precision": "float32", "rounds": 1},
        "load_after": 0.0,
        **results,
    }


def test_the_table_shows_what_was_measured_and_says_what_was_not():
    side = {"seconds": [0.5], "volumes_per_second": 4.0, "memory": {"process": 2**20}}
    sides = {name: {**side, **measure.spread(side["seconds"])} for name in ("jaxneuro", "torch eager")}
    ratio = {"of": "jaxneuro", "to": "torch eager", "median": 0.8, "low": 0.5, "high": 1.25}
    result = {"case": "step", "of": "nit", "volumes": 2, "sides": sides, "ratios": [ratio]}
    feed = {**result, "case": "input"}
    gap = {"case": "step", "of": "nit", "side": "torch compiled", "why": "no compiler"}
    text = "\n".join(report.lines(run_of(results=[result, feed], left_out=[gap])))
    assert "| nit | jaxneuro | 2 | 500.0 (500.0 to 500.0) | 4.0 | 0.80 (0.50 to 1.25) of torch eager |" in text
    assert "| 1.25 (0.80 to 2.00) of the speed of torch eager |" in text
    assert "- step of nit, torch compiled: no compiler" in text
    assert "peak memory" not in text  # nobody knows it of the steps alone
    assert "published" not in text
    assert "Inference" not in text
    shown = {**sides["jaxneuro"], "of_measured_ceiling": 0.5, "of_published_peak": 0.4, "memory": {"device": 2**30}}
    text = "\n".join(report.lines(run_of(results=[{**result, "sides": {"jaxneuro": shown}}], left_out=[])))
    assert "| 1,024 | 0.80 (0.50 to 1.25) of torch eager | 50.0% | 40.0% |" in text
    assert "Not measured" not in text


@pytest.mark.parametrize(("objective", "fitting"), cases.OBJECTIVES.values(), ids=cases.OBJECTIVES)
def test_objectives_fit_the_networks_that_they_are_timed_with(objective, fitting):
    for name in fitting:
        config = settings.config(f"{name}_testing", "bfloat16", **objective)
        side = ours.Network(config, batch=2, side=32)
        assert set(side.labels) == set(side.objective.labels)
        assert side.flops() > 0


def test_no_rate_of_dropout_is_left():
    for name in settings.MODELS:
        model = ours.Network(settings.config(name, "float32"), batch=2, side=80).model
        assert not [v for k, v in vars(model).items() if ("drop" in k) and v]


def test_the_smallest_run_writes_every_sample(tmp_path):
    out = tmp_path / "out.json"
    command = ["tools/benchmark.py", "--size=testing", "--rounds=1", "--only=step", "--models=tiny_densenet"]
    command += ["--torch=eager", "--at-least=0.01", "--json", str(out)]
    shown = subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, timeout=300, capture_output=True, text=True
    ).stdout
    found = json.loads(out.read_text())
    assert set(found) == {"command", "machine", "devices", "ceiling", "settings", "results", "left_out", "load_after"}
    assert found["machine"]["versions"]["jax"]
    assert found["settings"]["side"] == 32
    (result,) = found["results"]
    assert (result["case"], result["of"], result["volumes"]) == ("step", "tiny_densenet", 2)
    expected = ["jaxneuro", "torch eager"] if HAS_TORCH else ["jaxneuro"]
    assert list(result["sides"]) == expected
    for side in result["sides"].values():
        (seconds,) = side["seconds"]
        assert side["median"] == side["low"] == side["high"] == seconds > 0
        assert side["volumes_per_second"] == pytest.approx(2 / seconds)
        assert side["memory"]["process"] > 0
        assert side["calls"] >= 1
        assert side["since_start"] > side["first"] > 0
    for name in expected:
        assert f"| tiny_densenet | {name} | 2 |" in shown
    if HAS_TORCH:
        ours, theirs = (result["sides"][name]["median"] for name in expected)
        assert result["ratios"][0]["median"] == pytest.approx(ours / theirs)
        assert found["left_out"] == []
    else:
        assert [gap["side"] for gap in found["left_out"]] == ["torch"]
        assert "Not measured" in shown


def test_a_place_for_the_samples_that_is_not_there_is_told_first(tmp_path, capsys):
    assert benchmark.main(["--json", str(tmp_path / "none" / "x.json")]) == 1
    assert "error: --json: found no folder" in capsys.readouterr().err


def test_unknown_cases_and_models_are_refused(capsys):
    for argument, expected in (("--only=steps", "expected some of compile,step"), ("--models=vit", "swin_t,vit_b16")):
        with pytest.raises(SystemExit):
            benchmark.options([argument])
        assert expected in capsys.readouterr().err
    assert benchmark.options(["--only=input,step"]).only == ["step", "input"]
