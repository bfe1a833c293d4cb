"""Work on a real Dask cluster of processes: in order, with a worker killed midway, with a job that kills them all."""

import os
import signal
import threading
import time

import nibabel as nib
import numpy as np
import pytest

from jaxneuro.errors import InputError
from jaxneuro.prepare import parallel, recipes, run
from tests.prepare import jobs

distributed = pytest.importorskip("distributed")

#: Boxes are no heads: they are put on the grid and no more.
QUICK = {"recipe": "quick40", "skip": recipes.STAGES}


@pytest.fixture
def cluster(request, tmp_path_factory):
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "temporary-directory": str(tmp_path_factory.mktemp("dask")),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=getattr(request, "param", 2), threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as made,
    ):
        yield made


def slow_square(i, folder):
    (folder / f"{i}-{os.getpid()}").touch()
    time.sleep(0.05)
    return i * i


def test_results_are_in_order_and_a_killed_worker_costs_nothing(cluster, tmp_path):
    jobs = [(i, tmp_path) for i in range(60)]
    results = parallel.each(slow_square, jobs, 1, cluster=cluster.scheduler_address)
    found = [next(results) for _ in range(5)]
    workers = {p.name.split("-")[1] for p in tmp_path.iterdir()}
    assert len(workers) == 2
    os.kill(int(min(workers)), signal.SIGKILL)
    found += list(results)
    assert found == [i * i for i in range(60)]


def end_oneself(i):
    if i == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


# It ends two workers, is tried again and ends two more. Distributed's nanny starts each again as a rule; on a busy
# machine now and then it does not, so there are two that nobody needs to start.
@pytest.mark.parametrize("cluster", [6], indirect=True)
def test_a_job_that_ends_every_worker_it_comes_to_is_told_and_the_rest_goes_on(cluster):
    results = parallel.each(
        end_oneself, [(i,) for i in range(8)], 1, cluster=cluster.scheduler_address, lost=lambda i: -i
    )
    assert list(results) == [0, 1, 2, -3, 4, 5, 6, 7]


def grow(i, folder):
    (folder / str(os.getpid())).touch()
    vars(parallel).setdefault("_grown", []).append(bytearray(os.urandom(1)) * (160 << 20))
    time.sleep(0.6)
    return i


def test_a_process_that_has_grown_is_replaced_and_nothing_waits(tmp_path):
    # joblib looks at a process's size once a second, where psutil is installed, as distributed wants it.
    assert list(parallel.each(grow, [(i, tmp_path) for i in range(12)], 2)) == list(range(12))
    assert len(list(tmp_path.iterdir())) > 2


def test_a_process_that_the_system_ends_is_told():
    with pytest.raises(OSError, match=r"a process was ended, .*; try fewer --workers; what is done is kept"):
        list(parallel.each(end_oneself, [(i,) for i in range(8)], 2))
    assert list(parallel.each(abs, [(-1,), (2,)], 2)) == [1, 2]


def test_the_job_that_ends_its_process_is_told_with_how_and_the_rest_goes_on(tmp_path):
    found = list(parallel.each(end_oneself, [(i,) for i in range(8)], 2, lost=lambda i, how: (i, how)))
    assert found == [0, 1, 2, (3, "signal 9"), 4, 5, 6, 7]


def test_a_job_whose_process_is_ended_once_is_done_again_in_a_new_one(tmp_path):
    work = [(i, tmp_path) for i in range(8)]
    assert list(parallel.each(jobs.end_oneself_once, work, 2, lost=lambda *_, how: how)) == list(range(8))
    counts = [len(list(tmp_path.glob(f"{i}-*"))) for i in range(8)]
    assert counts == [1, 1, 1, 2, 1, 1, 1, 1]  # no other job is done twice
    pids = {p.name.split("-")[1] for p in tmp_path.iterdir()}
    assert len(list(tmp_path.glob("3-*"))) == 2 < len(pids)


def test_one_job_alone_is_told_by_what_ended_it():
    assert parallel.alone(abs, (-2,), lost=lambda *_, how: how) == 2
    assert parallel.alone(jobs.leave, (3,), lost=lambda *_, how: how) == "status 3"
    assert parallel.alone(end_oneself, (3,), lost=lambda *_, how: how) == "signal 9"


def test_processes_are_stopped_when_nobody_wants_more(tmp_path):
    results = parallel.each(jobs.wait_for_ever, [(i, tmp_path) for i in range(8)], 2)
    next(results)
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 60
    for pid in (int(p.name) for p in tmp_path.iterdir()):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_no_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr(parallel, "_ANSWER_S", 1)
    with pytest.raises(InputError, match=r"--cluster: found no Dask scheduler at tcp://127\.0\.0\.1:9 "):
        list(parallel.each(end_oneself, [(1,)], 1, cluster="tcp://127.0.0.1:9"))


def test_a_dataset_made_on_a_cluster_is_the_same_though_a_worker_is_killed(cluster, tmp_path):
    rows = ["subject,path,age"]
    for i in range(24):
        voxels = np.zeros((24, 26, 22), np.int16)
        voxels[4:20, 4:22, 4:18] = np.random.default_rng(i).integers(100, 900, (16, 18, 14))
        nib.save(nib.Nifti1Image(voxels, np.diag([6.0, 6.0, 6.0, 1.0])), tmp_path / f"{i}.nii.gz")
        rows.append(f"s{i:02d},{i}.nii.gz,{50 + i}")
    (tmp_path / "scans.csv").write_text("\n".join(rows) + "\n")
    run.prepare(tmp_path / "scans.csv", tmp_path / "here", **QUICK, name="n")
    killed = []

    def kill_one(what, done, total):
        if done == 3 and not killed:
            pids = cluster.workers.values()
            killed.append(next(iter(pids)).pid)
            os.kill(killed[0], signal.SIGKILL)

    run.prepare(
        tmp_path / "scans.csv", tmp_path / "there", **QUICK, name="n", cluster=cluster.scheduler_address,
        progress=kill_one,
    )  # fmt: skip
    assert killed
    for file in (tmp_path / "here").rglob("*"):
        if file.is_file():
            assert (tmp_path / "there" / file.relative_to(tmp_path / "here")).read_bytes() == file.read_bytes(), file


def test_a_cluster_without_workers_is_waited_for_and_told(cluster, monkeypatch, capsys):
    monkeypatch.setattr(parallel, "_PATIENCE_S", 1)
    cluster.scale(0)
    while cluster.scheduler.workers:
        time.sleep(0.1)
    threading.Timer(3.0, lambda: cluster.scale(1)).start()
    results = parallel.each(pow, [(2, 3)], 1, cluster=cluster.scheduler_address)
    assert list(results) == [8]
    assert capsys.readouterr().err.count("waiting: the cluster has no workers") == 1
