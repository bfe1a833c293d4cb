"""Configs: found where they are said to be, keys and ranges checked by name."""

import pytest

from jaxneuro import configuration
from jaxneuro.errors import InputError
from tests.conftest import CONFIGS

SMOKE = str(CONFIGS / "smoke.py")


def test_a_mistyped_folder_runs_no_other_config(tmp_path):
    with pytest.raises(InputError, match="found no file"):
        configuration.read(str(tmp_path / "smoke.py"))
    for name in ("smoke.py", "configs/smoke.py"):
        assert configuration.locate(name) == CONFIGS / "smoke.py"


@pytest.mark.parametrize(
    "override",
    ["seed=-1", "seed=4294967296",
     "data.batch_size=0", "data.threads=-1", "data.prefetch=0", "data.fraction=1.5", "training.epochs=-1",
     "training.evaluate_every=0", "training.log_every=0", "training.keep=0", "optimizer.weight_decay=nan",
     "optimizer.warmup_epochs=-1.0", "optimizer.momentum=1.0", "optimizer.learning_rate=inf"],
)  # fmt: skip
def test_numbers_out_of_range_are_named(override):
    key = override.partition("=")[0]
    with pytest.raises(InputError, match=f"^{key}: found .*; expected .*; set it with --config.{key}=VALUE"):
        configuration.read(SMOKE, [f"--config.{override}"])


def test_keys_of_models_and_views_can_be_added():
    overrides = ["model.drop_rate=0.1", "model.dtype=bfloat16", "augment.noise.high=0.2", "model.block_sizes=(1, 2)"]
    config = configuration.read(SMOKE, [f"--config.{o}" for o in overrides])
    assert config.model.drop_rate == 0.1
    assert config.model.dtype == "bfloat16"
    assert config.model.block_sizes == (1, 2)
    assert config.augment.noise.to_dict() == {"high": 0.2}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["--config.optimizer.learning_rat=1.0"],
            "--config.optimizer.learning_rat: found no such key; expected one of this config; did you mean "
            "--config.optimizer.learning_rate?",
        ),
        (
            ["--epochs", "3"],
            "--epochs: found no such flag; expected --config.KEY=VALUE, such as --config.training.epochs=VALUE",
        ),
        (["--config.training.epochs", "1.5"], "--config.training.epochs: found '1.5'; expected a whole number"),
        (["--config.init.resample", "--config.zz=1"], "--config.zz: found no such key; expected one of this config"),
        (["--config.seed"], "--config.seed: found ''; expected a whole number"),
        (["--config.optimizer.clip=much"], "--config.optimizer.clip: found 'much'; expected a number"),
        (
            ["--config.mesh.zzz=1"],
            "--config.mesh.zzz: found no such key; expected one of this config; 'mesh' holds data, fsdp, model",
        ),
    ],
)
def test_a_key_or_number_mistyped_is_told_in_the_words_typed(overrides, told):
    with pytest.raises(InputError) as error:
        configuration.read(SMOKE, overrides)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\ndef get_config(:", ":2: SyntaxError: invalid syntax"),
        ("import no_such_module\n", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = y\n", ":1: NameError: name 'y' is not defined"),
        ("get_config = 3\n", ": TypeError: 'int' object is not callable"),
        (
            "def get_config():\n    return half(0)\ndef half(n):\n    return 1 / n\n",
            ":4: ZeroDivisionError: division by zero",
        ),
        ("def get_config():\n    raise RuntimeError\n", ":2: RuntimeError: no message"),
        ("import sys\nsys.exit(0)\n", ":2: SystemExit: 0"),
        ("raise OSError(28, 'no space')\n", ":1: OSError: [Errno 28] no space"),
        ("\nimport neighbour_of_c\n", ": neighbour_of_c.py:2: SyntaxError: '(' was never closed"),
    ],
)
def test_a_file_that_is_no_config_is_told_with_its_line(tmp_path, text, told):
    file = tmp_path / "c.py"
    file.write_text(text)
    (tmp_path / "neighbour_of_c.py").write_text("x = 1\ny = (\n")
    with pytest.raises(InputError) as error:
        configuration.read(str(file))
    assert str(error.value) == f"{file}{told}; expected a Python file whose get_config() returns a config"


def test_an_error_of_ours_in_a_config_keeps_its_words(tmp_path):
    file = tmp_path / "c.py"
    file.write_text("from jaxneuro import configuration\ndef get_config():\n    return configuration.read('none.py')\n")
    with pytest.raises(InputError) as error:
        configuration.read(str(file))
    assert str(error.value) == f"{file}:3: config: found no file none.py; expected one such as configs/finetune_ad.py"


def test_a_copy_of_a_config_elsewhere_still_finds_its_defaults(tmp_path):
    (tmp_path / "mine.py").write_text((CONFIGS / "finetune_age.py").read_text())
    assert configuration.read(str(tmp_path / "mine.py")).task.name == "age"


@pytest.mark.parametrize("override", ["training={'epochs': 1}", "optimizer={}", "model.name.x=1"])
def test_a_section_that_lacks_keys_is_told(override):
    with pytest.raises(InputError, match="expected"):
        configuration.read(SMOKE, [f"--config.{override}"])
