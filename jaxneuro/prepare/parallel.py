"""One function over many things, in processes here or on a Dask cluster, results in order."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import joblib

from jaxneuro import terminal
from jaxneuro.errors import InputError

#: Longest wait for a scheduler to answer, seconds.
_ANSWER_S = 30
#: After so many seconds without a result, see whether there are workers at all.
_PATIENCE_S = 60
#: Jobs handed to a cluster ahead of the one whose result is next, for each of its threads.
_AHEAD = 4


def each(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    *,
    cluster: str = "",
    lost: Callable[..., Any] | None = None,
) -> Generator[Any, None, None]:
    """Yield `function(*job)` of every job, in order, as they are done.

    Args:
      function: what is done; on a cluster the same files must be there under the same names, and this library.
      jobs: its arguments.
      workers: processes here; with "slurm", at most so many jobs in the queue.
      cluster: "" for processes here, "slurm", or the address of a Dask scheduler, tcp://host:8786.
      lost: result in place of a job that ended several workers of a cluster; by default it is an error.

    Raises:
      InputError: no scheduler answers, or a package that is needed is missing.
      OSError: the system ended a process.
    """
    if cluster:
        return _on_cluster(function, jobs, workers, cluster, lost)
    if workers == 1:
        return (function(*job) for job in jobs)
    return _in_processes(function, jobs, workers)


def _in_processes(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int
) -> Generator[Any, None, None]:
    # joblib replaces a worker that has grown by 300 MB, as the template makes it grow, and warns. Where warnings are
    # errors, this one would end the thread that hands out the jobs, and the wait for them would never end.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    results = joblib.Parallel(n_jobs=workers, return_as="generator")(joblib.delayed(function)(*job) for job in jobs)
    try:
        for result in results:  # noqa: UP028 - `yield from` would close them outside of the filter below
            yield result
    except BrokenProcessPool as e:
        raise OSError(
            f"a process was ended, for want of memory most often; expected {workers} to run on; try fewer --workers; "
            "what is done is kept"
        ) from e
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib warns of the jobs that an interruption cancels
            results.close()  # stops the workers before the caller removes what they write


def _on_cluster(
    function: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    cluster: str,
    lost: Callable[..., Any] | None,
) -> Generator[Any, None, None]:
    """Hand out jobs a few at a time: a scheduler with 100,000 tasks, each with its arguments, is slow."""
    with _client(cluster, workers) as client:
        from distributed import KilledWorker

        waiting: deque[tuple[tuple[Any, ...], Any]] = deque()

        def first() -> Any:
            job, future = waiting.popleft()
            try:
                return _result(client, future)
            except KilledWorker:
                # Jobs that waited on a worker are blamed along with the one that ended it: tried again, in order, each
                # shows what it is.
                try:
                    return _result(client, client.submit(function, *job, pure=False))
                except KilledWorker:
                    if lost is None:
                        raise
                    return lost(*job)

        for job in jobs:
            waiting.append((job, client.submit(function, *job, pure=False)))
            if len(waiting) >= _AHEAD * max(8, sum(client.nthreads().values())):
                yield first()
        while waiting:
            yield first()


def _result(client: Any, future: Any) -> Any:
    """Wait for a result; a cluster without workers is waited for, too, and that is said."""
    told = False
    while True:
        try:
            return future.result(timeout=_PATIENCE_S)
        except TimeoutError:
            if not told and not client.nthreads():
                terminal.say("waiting: the cluster has no workers")
                told = True


@contextmanager
def _client(cluster: str, workers: int) -> Iterator[Any]:
    try:
        from distributed import Client
    except ModuleNotFoundError as e:
        raise InputError("--cluster: found no package distributed; expected it: pip install 'jaxneuro[cluster]'") from e
    if cluster != "slurm":
        try:
            client = Client(cluster, timeout=_ANSWER_S)
        except (OSError, ValueError) as e:
            raise InputError(
                f"--cluster: found no Dask scheduler at {cluster} ({str(e).splitlines()[0][:120]}); expected slurm or "
                "an address such as tcp://host:8786"
            ) from e
        with client:
            yield client
        return
    try:
        from dask_jobqueue import SLURMCluster
    except ModuleNotFoundError as e:
        raise InputError("--cluster: found no package dask-jobqueue; expected it: pip install dask-jobqueue") from e
    try:
        # What the site wants (queue, account, walltime, memory) is in ~/.config/dask/jobqueue.yaml.
        made = SLURMCluster()
    except ValueError as e:
        raise InputError(
            f"--cluster slurm: {str(e).splitlines()[0]}; expected it in ~/.config/dask/jobqueue.yaml"
        ) from e
    with made, Client(made) as client:
        made.adapt(minimum_jobs=1, maximum_jobs=workers)
        yield client
