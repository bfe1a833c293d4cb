"""Executables that stand in for a scheduler's and for `jaxneuro`, and how tests run a script with them."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / "launch"

#: As `jaxneuro`: writes down its arguments and environment; MODE says what becomes of each process.
JAXNEURO = r"""
import glob, json, os, signal, sys, time
who = os.environ.get("SLURM_PROCID", "0")
kept, modes = os.environ["RECORD"], dict(m.split(":") for m in os.environ.get("MODE", "").split())
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
with open(f"{kept}/{who}.tmp", "w") as f:
    json.dump({"pid": os.getpid(), "arguments": sys.argv[1:], "environment": dict(os.environ)}, f)
os.rename(f"{kept}/{who}.tmp", f"{kept}/{who}.json")
mode = modes.get(who, "ends")
while mode in ("dies", "fails") and len(glob.glob(f"{kept}/*.json")) < int(os.environ["SLURM_NTASKS"]):
    time.sleep(0.05)  # until the others are there, too
if mode == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
while mode == "trains" and not told:
    time.sleep(0.05)
if told:
    time.sleep(0.2 * int(who))  # saves, and leaves, when nothing catches a signal any more
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.3)
sys.exit(75 if told else 1 if mode == "fails" else 0)
"""

#: As `srun`, as far as launch/slurm.sh needs it; it refuses options that it does not know. Signals, bad exits and the
#: status are as srun 22.05 was seen to have them; a second lasts 1/30. All nodes are this one.
SRUN = r"""
import os, signal, subprocess, sys, time
flags, command = {}, sys.argv[1:]
while command[0].startswith("--"):
    name, _, value = command.pop(0).partition("=")
    flags[name] = value
expected = {"--label", "--gpu-bind", "--kill-on-bad-exit", "--wait", "--cpus-per-task"}
if unknown := set(flags) - expected:
    sys.exit(f"srun: unrecognized option {unknown}")
nodes, each = int(os.environ["SLURM_JOB_NUM_NODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
tasks = []
def end(*_):
    for t in tasks:
        t.poll() is None and t.terminate()
signal.signal(signal.SIGTERM, end)
for rank in range(nodes * each):
    step = {
        "SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each, "SLURM_NTASKS": nodes * each,
        "SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": nodes,
        "SLURM_CPUS_PER_TASK": flags["--cpus-per-task"],
    }
    tasks.append(subprocess.Popen(command, env=os.environ | {k: str(v) for k, v in step.items()}))
first = ended = None
while None in (statuses := [t.poll() for t in tasks]):
    now = time.monotonic()
    if first is None and any(s is not None for s in statuses):
        first = now
    late = first and now > first + int(flags["--wait"]) / 30
    if ended is None and (late or flags["--kill-on-bad-exit"] == "1" and any(statuses)):
        ended = now
        end()
    if ended and now > ended + 30 / 30:
        [t.kill() for t in tasks if t.poll() is None]
    time.sleep(0.02)
sys.exit(max(t.returncode if t.returncode >= 0 else 128 - t.returncode for t in tasks))
"""

#: As `scontrol` and `kubectl`: writes down what it is asked for, and its standard input.
RECORDER = r"""
import json, os, sys
with open(os.environ["RECORD"] + "/" + os.path.basename(sys.argv[0]) + ".jsonl", "a") as f:
    f.write(json.dumps({"arguments": sys.argv[1:], "input": sys.stdin.read()}) + "\n")
"""

#: As `gcloud ... ssh`: every worker's login shell takes the command as one string, as ssh hands it over.
GCLOUD = r"""
import os, subprocess, sys
arguments = dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--"))
assert sys.argv[1:6] == ["compute", "tpus", "tpu-vm", "ssh", os.environ["TPU"]], sys.argv
assert arguments["worker"] == "all" and arguments["zone"] == "us-central2-b", arguments
shell = [os.environ["LOGIN_SHELL"], "-c", arguments["command"]]
sys.exit(max(subprocess.run(shell, env=os.environ | {"SLURM_PROCID": worker}).returncode for worker in "01"))
"""


def install(folder, **texts):
    """Write Python texts as executables; returns an environment that finds them first, and nothing else of a job."""
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(f"#!{sys.executable}\n{text}")
        (folder / name).chmod(0o755)
    ours = ("SLURM_", "NCCL_", "JAXNEURO", "DRY_RUN", "TPU", "ZONE", "KUBERNETES_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return env | {"PATH": f"{folder}:{env['PATH']}", "RECORD": str(folder)}


@contextmanager
def started(script, *arguments, env):
    """Start a script in a session of its own; whatever is left of it is killed at the end."""
    process = subprocess.Popen(
        ["bash", LAUNCH / script, *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def run(script, *arguments, env, timeout=60):
    """Run a script to its end; returns its status and what it said, and wrote to standard error."""
    with started(script, *arguments, env=env) as process:
        out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def records(env):
    """Return what each `jaxneuro` wrote down."""
    return [json.loads(p.read_text()) for p in sorted(Path(env["RECORD"]).glob("*.json"))]


def asked(env, name):
    """Return what a recorder was asked for."""
    path = Path(env["RECORD"]) / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
