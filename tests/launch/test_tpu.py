"""launch/tpu.sh with a stand-in `gcloud` that hands its command to shells, as ssh does."""

import shlex
import shutil

import pytest

from tests.launch.stand_ins import GCLOUD, JAXNEURO, install, records, run

RUN = ("--config", "configs/finetune_ad.py", "--workdir", "/mnt/shared/runs/ad")
STRANGE = (
    "--config.task.classes=('CN', 'AD')", "two  words", 'say "é" 脳', "$HOME ${HOME} $(id) `id`", "it's; '' !",
    "back\\slash\\n \\& &", "new\nline", "tab\there", "*", "~", "", "--config.a={b,c}", "&& exit 3", "#",
)  # fmt: skip


@pytest.fixture
def slice_(tmp_path):
    """Return the environment of somebody with a slice, whose hosts have jaxneuro in `my folder`."""
    folder = tmp_path / "my folder"
    env = install(tmp_path / "bin", gcloud=GCLOUD, jaxneuro=JAXNEURO)
    folder.mkdir()
    return env | {
        "TPU": "mae", "ZONE": "us-central2-b", "FOLDER": str(folder), "JAXNEURO": str(tmp_path / "bin" / "jaxneuro"),
        "LOGIN_SHELL": "bash",
    }  # fmt: skip


@pytest.mark.parametrize("shell", ["bash", "sh", "dash", "zsh"])
def test_arguments_arrive_as_they_are_on_every_host(slice_, shell):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    status, _, err = run("tpu.sh", *RUN, *STRANGE, env=slice_ | {"LOGIN_SHELL": shell})
    assert (status, err) == (0, "")
    hosts = records(slice_)
    assert [h["arguments"] for h in hosts] == [["train", "--distributed", *RUN, *STRANGE]] * 2
    assert {h["environment"]["PWD"] for h in hosts} == {slice_["FOLDER"]}


def test_other_verbs(slice_):
    assert run("tpu.sh", "evaluate", "/mnt/shared/runs/ad", env=slice_)[0] == 0
    assert records(slice_)[1]["arguments"] == ["evaluate", "--distributed", "/mnt/shared/runs/ad"]


def test_a_failure_on_a_host_is_one_here(slice_):
    assert run("tpu.sh", *RUN, env=slice_ | {"MODE": "1:fails", "SLURM_NTASKS": "2"})[0] == 1
    # A folder that is not there: the run must not begin in another one.
    assert run("tpu.sh", *RUN, env=slice_ | {"FOLDER": "/nowhere"})[0] != 0


def test_the_dry_run_prints_the_command_and_runs_nothing(slice_):
    status, out, err = run("tpu.sh", *RUN, "two words", env=slice_ | {"DRY_RUN": "1"})
    assert (status, err) == (0, "")
    command, remote = out.splitlines()
    words = shlex.split(command)
    assert words[:7] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "mae", "--zone=us-central2-b"]
    assert words[7] == "--worker=all"
    assert words[8] == "--command=" + remote.removeprefix("on every host: ")
    assert shlex.split(words[8].removeprefix("--command=")) == [
        "cd", slice_["FOLDER"], "&&", "exec", slice_["JAXNEURO"], "train", "--distributed", *RUN, "two words",
    ]  # fmt: skip
    assert records(slice_) == []


@pytest.mark.parametrize("folder", ["~/code", "/home/me/code"])
def test_the_home_folder_is_that_of_the_hosts(slice_, folder):
    told = run("tpu.sh", *RUN, env=slice_ | {"DRY_RUN": "1", "FOLDER": folder, "HOME": "/home/me"})[1]
    assert "on every host: cd 'code' && exec" in told


@pytest.mark.parametrize(
    ("arguments", "missing", "expected"),
    [
        (RUN, "TPU", "found no TPU"),
        (RUN, "ZONE", "found no ZONE"),
        ((), "", "found no arguments"),
        (RUN[:2], "", "found no --workdir"),
    ],
)
def test_mistakes_are_one_line(slice_, arguments, missing, expected):
    slice_.pop(missing, None)
    status, out, err = run("tpu.sh", *arguments, env=slice_)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {expected}; expected ")
    assert err.count("\n") == 1
    assert "; try " in err
    assert records(slice_) == []
