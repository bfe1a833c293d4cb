"""One function over many things, in processes here or on a Dask cluster, results in order."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor

from jaxneuro import terminal
from jaxneuro.errors import InputError

#: Longest wait for a scheduler to answer, seconds.
_ANSWER_S = 30
#: After so many seconds without a result, see whether there are workers at all.
_PATIENCE_S = 60
#: Jobs handed to a cluster ahead of the one whose result is next, for each of its threads.
_AHEAD = 4
#: Libraries that compute on several threads share the cores among the processes, unless the environment says otherwise.
_THREADS = ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMBA", "NUMEXPR")


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
      lost: called with the arguments of a job that ended several workers of a cluster, or two processes here, gives its
        result; here it gets `how`, too: what the process ended with. By default such a job is an error.

    Raises:
      InputError: no scheduler answers, or a package that is needed is missing.
      OSError: a process was ended, and there is no `lost`.
    """
    if cluster:
        return _on_cluster(function, jobs, workers, cluster, lost)
    if workers == 1:
        return (function(*job) for job in jobs)
    return _in_processes(function, jobs, workers, lost)


def alone(function: Callable[..., Any], job: tuple[Any, ...], lost: Callable[..., Any]) -> Any:
    """Return `function(*job)` of a new process that does nothing else; `lost(*job, how=...)` when that is ended."""
    process = _process(1)
    try:
        return _begin(process, function, job).result()
    except BrokenProcessPool as e:
        return lost(*job, how=_ending(e))
    finally:
        process.shutdown(kill_workers=True)


def _process(share: int) -> ProcessPoolExecutor:
    """Return one process, started when it gets its first job, with its share of the cores for its libraries."""
    threads = str(max(1, (os.cpu_count() or 1) // share))
    names = [f"{name}_NUM_THREADS" for name in _THREADS]
    return ProcessPoolExecutor(max_workers=1, env={n: threads for n in names if n not in os.environ})


def _begin(process: ProcessPoolExecutor, function: Callable[..., Any], job: tuple[Any, ...]) -> Future[Any]:
    """Hand a job to an idle process; returns when it is there.

    An executor of loky (3.6) that is ended within these milliseconds dies of a KeyError, and leaves a semaphore.
    """
    future = process.submit(function, *job)
    while not (future.running() or future.done()):
        time.sleep(0.001)
    return future


def _ending(error: BrokenProcessPool) -> str:
    """Return what a process ended with, `signal 9` or `status 3`: loky tells it in words, `{SIGKILL(-9)}`, alone."""
    found = re.search(r"\((-?\d+)\)\}", str(error))
    if found is None:
        return "no status"
    code = int(found[1])
    return f"signal {-code}" if code < 0 else f"status {code}"


class _Processes:
    """Some processes, each with one job at a time, so that it is known which job ended one, and the others go on."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._free: queue.SimpleQueue[ProcessPoolExecutor] = queue.SimpleQueue()
        self._gate = threading.Lock()  # held while a job begins, and while one runs alone
        self._closed = False
        self._all: set[ProcessPoolExecutor] = set()
        for _ in range(workers):
            self._add()

    def _add(self) -> None:
        process = _process(self._workers)
        self._all.add(process)
        self._free.put(process)

    def _end(self, process: ProcessPoolExecutor) -> None:
        process.shutdown(kill_workers=True)
        self._all.discard(process)

    def _hand_out(self, function: Callable[..., Any], job: tuple[Any, ...]) -> tuple[ProcessPoolExecutor, Future[Any]]:
        while True:
            process = self._free.get()
            try:
                return process, _begin(process, function, job)
            except BrokenProcessPool:  # ended while it had no job: none is to blame
                self._end(process)
                self._add()

    def run(self, function: Callable[..., Any], job: tuple[Any, ...]) -> tuple[Any, BrokenProcessPool | None]:
        """Return (result, None) of a job, or (None, the error) when its process was ended; there is a new one then.

        Called from as many threads as there are processes.
        """
        with self._gate:
            if self._closed:
                raise CancelledError
            process, future = self._hand_out(function, job)
        try:
            result = future.result()
        except BrokenProcessPool as e:
            self._end(process)
            self._add()
            return None, e
        except BaseException:
            self._free.put(process)
            raise
        self._free.put(process)
        return result, None

    def alone(self, function: Callable[..., Any], job: tuple[Any, ...], lost: Callable[..., Any]) -> Any:
        """Wait until the other jobs have ended, then run one with all the memory to itself."""
        with self._gate:
            try:
                for _ in range(self._workers):
                    self._end(self._free.get())
                return alone(function, job, lost)
            finally:
                for _ in range(self._workers):
                    self._add()

    def close(self) -> None:
        with self._gate:
            self._closed = True
            for process in list(self._all):
                self._end(process)


def _in_processes(
    function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int, lost: Callable[..., Any] | None
) -> Generator[Any, None, None]:
    # loky replaces a process that has grown by 300 MB, as the template makes it grow, and may warn. Where warnings are
    # errors, this one would end the thread that looks after the process, and the wait for it would never end.
    warnings.filterwarnings("ignore", "A worker stopped while some jobs were given", UserWarning)
    processes, threads = _Processes(workers), ThreadPoolExecutor(workers)
    try:
        waiting = deque((job, threads.submit(processes.run, function, job)) for job in jobs)
        while waiting:
            job, future = waiting.popleft()
            result, ended = future.result()
            if ended is None:
                yield result
            elif lost is not None:
                # It may have been the largest of several, ended for want of memory: alone it shows what it is.
                yield processes.alone(function, job, lost)
            else:
                raise OSError(
                    f"a process was ended, for want of memory most often ({_ending(ended)}); expected {workers} to run "
                    "on; try fewer --workers; what is done is kept"
                ) from ended
    finally:
        # Stops the processes before the caller removes what they write.
        threads.shutdown(wait=False, cancel_futures=True)
        processes.close()
        threads.shutdown()


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
