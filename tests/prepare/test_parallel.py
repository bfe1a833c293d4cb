"""Work on a real Dask cluster of processes: in order, with a worker killed midway, with a job that kills them all."""

import os
import signal
import time

import pytest

from jaxneuro.errors import InputError
from jaxneuro.prepare import parallel

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": 1,
        "temporary-directory": str(tmp_path_factory.mktemp("dask")),
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, host="127.0.0.1") as made,
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


def test_a_job_that_ends_every_worker_is_told_and_the_rest_goes_on(cluster):
    results = parallel.each(
        end_oneself, [(i,) for i in range(8)], 1, cluster=cluster.scheduler_address, lost=lambda i: -i
    )
    assert list(results) == [0, 1, 2, -3, 4, 5, 6, 7]


def test_no_scheduler_is_one_line(monkeypatch):
    monkeypatch.setattr(parallel, "_ANSWER_S", 1)
    with pytest.raises(InputError, match=r"--cluster: found no Dask scheduler at tcp://127\.0\.0\.1:9 "):
        list(parallel.each(end_oneself, [(1,)], 1, cluster="tcp://127.0.0.1:9"))
