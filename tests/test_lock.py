"""One run a folder at a time: the second is told who is first, and nothing that dies keeps a folder."""

import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from jaxneuro import cli, lock
from jaxneuro.errors import InputError
from tests.conftest import CONFIGS


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `r`, until it is killed."""
    body = f"""
        import sys
        from jaxneuro import lock
        with lock.hold({str(tmp_path / "r")!r}):
            print("held", flush=True)
            sys.stdin.read()
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(body)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_by_name_until_the_first_is_killed(holder, boxes, tmp_path, capfd):
    workdir = tmp_path / "r"
    arguments = ["train", f"--config={CONFIGS / 'smoke.py'}", "--workdir", str(workdir)]
    assert cli.main([*arguments, f"--config.data.path={boxes}"]) == 1
    assert capfd.readouterr().err == (
        f"error: {workdir}: is being trained by process {holder.pid} on {socket.gethostname()}; expected no other run "
        "in the folder; wait for it, stop it, or choose another --workdir\n"
    )
    # It came too late to write anything.
    assert [p.name for p in workdir.iterdir()] == [".lock"]
    os.kill(holder.pid, signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    with lock.hold(workdir):
        assert (workdir / ".lock").read_text() == f"process {os.getpid()} on {socket.gethostname()}\n"


def test_a_folder_is_free_after_a_run_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), lock.hold(tmp_path / "r"):
            raise ZeroDivisionError
    # A second run in the same process is a second run, too.
    refused = pytest.raises(InputError, match=f"is being trained by process {os.getpid()} on")
    with lock.hold(tmp_path / "r"), lock.hold(tmp_path / "other"), refused, lock.hold(tmp_path / "r"):
        pass
    with lock.hold(tmp_path / "r"):
        pass


def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, capfd):
    def none(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with lock.hold(tmp_path):
        pass
    assert f"warning: {tmp_path}: this file system has no locks" in capfd.readouterr().err


def test_who_holds_a_folder_is_told_without_writing(holder, tmp_path):
    before = (tmp_path / "r" / ".lock").stat().st_mtime_ns
    assert lock.holder(tmp_path / "r") == f"process {holder.pid} on {socket.gethostname()}"
    assert (tmp_path / "r" / ".lock").stat().st_mtime_ns == before
    holder.kill()
    holder.communicate()
    assert lock.holder(tmp_path / "r") is None
    assert lock.holder(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
