"""Every file in configs/ starts, trains and saves, as a user types it: tiny networks and data, else nothing changed."""

import json

import numpy as np
import pytest

from jaxneuro import cli, configuration, records, splits
from jaxneuro.manifest import Scan
from tests.conftest import CONFIGS, EXPERIMENTS, box_scans, write_dataset

#: What makes a config small; the names of networks become those of their tiny sisters.
SMALL = ("data.batch_size=4", "training.epochs=1", "optimizer.warmup_epochs=0.5", "training.log_every=1")


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Scans with every diagnosis that a config asks for."""
    return write_dataset(
        tmp_path_factory.mktemp("b") / "d", box_scans(64, diagnoses=("CN", "AD", "PD")), shape=(32, 32, 32)
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Clips of bytes [time, height, width, RGB] with an action each."""
    out = tmp_path_factory.mktemp("c") / "d"
    scans = [
        Scan(f"video{i:02d}", content_hash=str(i), label=("jogging", "saxophone", "hockey")[i % 3]) for i in range(40)
    ]
    with records.Writer(out, shape=(8, 32, 32, 3), dtype="uint8", records=len(scans)) as w:
        for i, scan in enumerate(scans):
            w.add(np.random.default_rng(i).integers(0, 256, (8, 32, 32, 3), np.uint8), scan)
        w.finish(
            splits=splits.make(scans, seed=0), name="clips", description="noise", synthetic=True,
            spacing_mm=[1, 1, 1], axes="thw", recipe={"name": "noise"},
        )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def trained(brains, tmp_path_factory):
    """A run for those that start from one."""
    workdir = tmp_path_factory.mktemp("t") / "run"
    assert cli.main(arguments("finetune_ad", brains, workdir)) == 0
    return workdir


def arguments(name, data, workdir, *more):
    model = configuration.read(str(CONFIGS / f"{name}.py")).model.name
    tiny = [f"--config.model.name={model}_testing"] if not model.endswith("_testing") else []
    if name.startswith("demo"):
        tiny = []  # small already, with keywords of their own
    settings = [f"--config.{s}" for s in (f"data.path={data}", *SMALL, *more)]
    return ["train", f"--config=configs/{name}.py", "--workdir", str(workdir), *tiny, *settings]


def test_there_are_the_experiments_of_the_paper():
    assert {
        "pretrain_supervised", "pretrain_contrastive", "pretrain_masked", "pretrain_video",
        "finetune_ad", "finetune_pd", "finetune_age", "zero_shot", "smoke",
    } <= set(EXPERIMENTS)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_starts(name, brains, clips, request, tmp_path, capsys):
    data = clips if name == "pretrain_video" else brains
    more = ()
    if name == "zero_shot":
        more = (f"init.path={request.getfixturevalue('trained')}", "training.epochs=0")
    assert cli.main(arguments(name, data, tmp_path / "run", *more)) == 0, capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["train/loss"]) for line in lines if "train/loss" in line)
    assert any("train/loss" in line for line in lines) == (name != "zero_shot")
    assert any(k.startswith("validation/") for k in lines[-1])
    assert any((tmp_path / "run" / "best").iterdir())
    assert any((tmp_path / "run" / "pictures").glob("*.png")) if name == "pretrain_masked" else True


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [
    ("model.dtype=bfloat16", "model.remat=True"),
    ("training.accumulate=2", "optimizer.average=0.9"),
    ("optimizer.layer_decay=0.7", "optimizer.freeze=('patch_embed',)"),
    ("also.age.kind=regression", "also.age.target=age"),
], ids=str)  # fmt: skip
def test_what_a_config_can_be_told_trains(overrides, brains, tmp_path, capsys):
    command = arguments("finetune_ad", brains, tmp_path / "run", *overrides)
    assert cli.main([*command, "--config.model.name=vit_b16_testing"]) == 0, capsys.readouterr().err
