"""The command line: every verb explains itself, and a user's error is one line and exit code 1."""

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from jaxneuro import cli, configuration, records
from jaxneuro.errors import InputError
from jaxneuro.prepare import recipes
from tests.conftest import CONFIGS, EXPERIMENTS


def fails(capsys, *arguments):
    """Run a verb that must fail; returns its one line."""
    assert cli.main([str(a) for a in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    "verb",
    [
        "cohort",
        "prepare",
        "train",
        "evaluate",
        "probe",
        "occlusion",
        "info",
        "convert",
        "export",
        "report",
        "study",
        "search",
        "demo",
    ],
)
def test_help(verb, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([verb, "--help"])
    assert done.value.code == 0
    assert f"jaxneuro {verb}" in capsys.readouterr().out


def test_train_evaluate_report(boxes, tmp_path, capsys):
    work = tmp_path / "r"
    config = f"--config={CONFIGS / 'smoke.py'}"
    assert cli.main(["train", config, "--workdir", str(work), f"--config.data.path={boxes}", "--config.seed=3"]) == 0
    assert cli.main(["evaluate", str(work), "--resamples", "20"]) == 0
    assert "ROC AUC" in capsys.readouterr().err
    assert cli.main(["report", str(work), "--out", str(tmp_path / "r.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "r.html")
    assert "SYNTHETIC" in (tmp_path / "r.html").read_text()


def test_info(boxes, tmp_path, capsys):
    assert cli.main(["info", str(boxes)]) == 0
    text = capsys.readouterr().out
    assert "ood" in text
    assert "as written (SHA-256)" in text
    assert cli.main(["info", "densenet121", "--input-size", "64,64,64"]) == 0
    assert "11,243,649" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["info", "densenet121", "--input-size", "64"])
    assert "found '64'; expected three numbers" in capsys.readouterr().err
    assert "resnet" in fails(capsys, "info", "resnet")
    assert "found growth_rate='wide'; expected a whole number of 1 or more, such as 32" in fails(
        capsys, "info", "densenet121", "--set", "growth_rate=wide"
    )
    assert "found block_sizes=(6, 'a')" in fails(capsys, "info", "densenet121", "--set", "block_sizes=(6,'a')")
    settings = ["--set", "growth_rate=16", "--set", "block_sizes=(6,12,16)", "--num-outputs=2"]
    assert cli.main(["info", "densenet121", "--input-size=64,64,64", "--batch-size=2", "--depth=2", *settings]) == 0
    told = capsys.readouterr().out
    assert "1,463,266" in told  # the count of tiny_densenet, which these settings make it
    assert "denseblock1/denselayer6" in told
    assert "kept for the backward pass" in told
    for outputs, there in ((0, False), (2, True)):
        assert cli.main(["info", "vit_b16_testing", "--input-size=16,16,16", f"--num-outputs={outputs}"]) == 0
        assert ("head " in capsys.readouterr().out) is there
    assert "--set: found input_size; expected --input-size" in fails(capsys, "info", "nit", "--set", "input_size=3")
    assert "unknown keyword name" in fails(capsys, "info", "nit", "--set", "name=x")


def test_info_of_weights_and_of_a_run(tmp_path, capsys):
    from jaxneuro.interop import folder

    card = {"model": {"name": "nit", "settings": {"depth": 3}}, "layout": "jaxneuro", "notes": ["took [a] off"]}
    with folder.new(tmp_path / "w") as partial:
        (partial / "model.safetensors").write_bytes(b"weights")
        folder.write(partial, "model.safetensors", card)
    assert cli.main(["info", str(tmp_path / "w")]) == 0
    told = capsys.readouterr().out
    for part in ("nit: model.safetensors, as written (SHA-256)", "depth", "3", "layout", "jaxneuro", "took [a] off"):
        assert part in told
    (tmp_path / "w" / "model.safetensors").write_bytes(b"others")
    assert "its card says" in fails(capsys, "info", tmp_path / "w")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "run.json").write_text("{}")
    line = fails(capsys, "info", tmp_path / "r")
    assert f"{tmp_path / 'r'}: found a run; expected a dataset, weights or a model; see jaxneuro report" in line


def test_info_finds_damage(boxes, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(boxes, copy)
    shard = copy / "shards" / records.open_dataset(copy).card["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    assert cli.main(["info", str(copy)]) == 1
    assert "found SHA-256" in capsys.readouterr().err


def test_prepare_reports_what_was_left_out(tmp_path, capsys):
    voxels = np.zeros((20, 20, 20), np.int16)
    voxels[5:15, 5:15, 5:15] = np.random.default_rng(0).integers(100, 900, (10, 10, 10))
    nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_text("hello")
    (tmp_path / "t.csv").write_text("id,path,age\np1,a.nii.gz,70\np2,b.nii.gz,80\n")
    arguments = [
        "prepare",
        str(tmp_path / "t.csv"),
        "--out",
        str(tmp_path / "d"),
        "--recipe",
        "quick40",
        *(word for stage in recipes.STAGES for word in ("--skip", stage)),
        "--workers",
        "1",
    ]
    assert cli.main([*arguments, "--columns", "subject=id"]) == 0
    text = capsys.readouterr().err
    assert "1 scans of 1 subjects" in text
    assert f"left out: {tmp_path / 'b.nii.gz'}: found no NIfTI image" in text


def test_prepare_takes_a_study_its_table_and_options(tmp_path, capsys):
    out = ("--out", tmp_path / "o", "--recipe", "quick40")
    line = fails(capsys, "prepare", tmp_path, *out, "--study", "oasis", "--table", tmp_path / "t.csv")
    assert "--study: found 'oasis'; expected one of ['bids'," in line
    assert "adni (folders such as 002_S_0295" in fails(capsys, "prepare", tmp_path, *out)
    (tmp_path / "t.csv").write_text("PTID,VISCODE,EXAMDATE,DX\n")
    study = ("prepare", tmp_path, *out, "--study", "adni", "--table", tmp_path / "t.csv")
    assert "found no usable scan" in fails(capsys, *study, "--option", "days=90", "--option", "converters=keep")
    assert "--option days: found '-3'" in fails(capsys, *study, "--option", "days=-3")
    assert "found ['dayz']; expected of layout 'adni': ['days'," in fails(capsys, *study, "--option", "dayz=3")
    (tmp_path / "t.csv").write_text("PTID,VISCODE,EXAMDATE,DX_x\n")
    assert "expected DX for diagnosis" in fails(capsys, *study)
    assert "found no usable scan" in fails(capsys, *study, "--columns", "diagnosis=DX_x")


def test_a_flag_mistyped_is_one_line(capsys):
    for arguments, told in (
        (["--wokers", "2"], "found --wokers 2; expected no such argument"),
        (["--test", "many"], "argument --test: invalid float value: 'many'"),
    ):
        with pytest.raises(SystemExit) as done:
            cli.main(["prepare", "x", "--out", "y", *arguments])
        assert done.value.code == 2
        assert capsys.readouterr().err == f"error: {told}; see jaxneuro prepare --help\n"


def test_errors_are_one_line(tmp_path, boxes, capsys):
    smoke = CONFIGS / "smoke.py"
    assert "no such file or folder" in fails(capsys, "prepare", tmp_path / "x", "--out", tmp_path / "o")
    assert "expected one of ['paper80'" in fails(capsys, "prepare", boxes, "--out", tmp_path / "o", "--recipe", "paper")
    assert "found no file nothing.py" in fails(capsys, "train", "--config", "nothing.py", "--workdir", tmp_path / "r")
    line = fails(capsys, "train", "--config", smoke, "--workdir", tmp_path / "r", "--config.optimizer.learning_rat=1")
    assert "did you mean --config.optimizer.learning_rate?" in line
    assert "nonsense" in fails(capsys, "train", "--config", smoke, "--workdir", tmp_path / "r", "nonsense")
    line = fails(capsys, "train", "--config", smoke, "--workdir", tmp_path / "r", "--config.training.epochs=many")
    assert "epochs" in line
    assert "found no card.json" in fails(
        capsys, "train", "--config", smoke, "--workdir", tmp_path / "r", f"--config.data.path={tmp_path}"
    )
    assert "expected the folder of a training run" in fails(capsys, "evaluate", tmp_path)
    assert "jaxneuro evaluate" in fails(capsys, "report", tmp_path, "--out", tmp_path / "r.html")
    assert "expected pairs such as" in fails(capsys, "prepare", tmp_path, "--out", tmp_path / "o", "--columns", "a:b")
    line = fails(capsys, "prepare", tmp_path, "--out", tmp_path / "o", "--study", "bids", "--columns", "group=b")
    assert "found ['group']; expected names among ['age'" in line
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "f").touch()
    line = fails(capsys, "train", "--config", smoke, "--workdir", tmp_path / "f" / "r", f"--config.data.path={boxes}")
    assert line.endswith(
        "Not a directory; expected a folder that can be read and written; change its permissions, or choose another"
    )


def test_unknown_argument_is_told_by_the_parser(capsys):
    with pytest.raises(SystemExit) as done:
        cli.main(["evaluate", "x", "--resample", "2", "--nonsense"])
    assert done.value.code == 2


@pytest.mark.parametrize("name", [f"{stem}.py" for stem in EXPERIMENTS])
def test_every_config_is_read_and_says_how_to_run_it(name):
    config = configuration.read(str(CONFIGS / name), ["--config.seed=7"])
    assert config.seed == 7
    assert config.is_locked
    assert ("jaxneuro train" in (CONFIGS / name).read_text()) or ("make demo" in (CONFIGS / name).read_text())


def test_a_misspelt_key_in_a_config_file_is_named(tmp_path):
    (tmp_path / "common.py").write_text((CONFIGS / "common.py").read_text())
    (tmp_path / "mine.py").write_text(
        "import common\ndef get_config():\n    c = common.get_config()\n"
        "    c.optimizer.update(learning_rat=1.0)\n    return c\n"
    )
    with pytest.raises(InputError, match="learning_rat"):
        configuration.read(str(tmp_path / "mine.py"))
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(InputError, match="get_config"):
        configuration.read(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--columns", "age=age, age=sex"], "--columns: found ['age'] more than once; expected each once"),
        (["--option", "days=3", "--option", "days=4"], "--option: found ['days'] more than once; expected each once"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path, capsys, flags, told):
    (tmp_path / "t.csv").write_text("subject,path\n")
    assert cli.main(["prepare", str(tmp_path / "t.csv"), "--out", str(tmp_path / "d"), *flags]) == 1
    assert told in capsys.readouterr().err


def test_the_package_can_be_run():
    told = subprocess.run([sys.executable, "-m", "jaxneuro", "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("jaxneuro ")
