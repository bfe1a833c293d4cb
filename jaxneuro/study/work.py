"""Do the jobs of a study, in order: what is finished stays, what failed is told, and others may work on it, too."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from jaxneuro import lock, terminal, whole
from jaxneuro.errors import BusyError, InputError, Preempted
from jaxneuro.evaluation import evaluate, occlusion, probe
from jaxneuro.prepare import cohort
from jaxneuro.prepare import run as preparing
from jaxneuro.study import costs, maps, plan, progress
from jaxneuro.study.plan import Data, Job, Run, Training
from jaxneuro.training import loop

#: Seconds until a job that waits for another process's is looked at again.
POLL_S = 10.0


@dataclass(frozen=True)
class Means:
    """With what jobs are done: processes for data, resamples of each evaluation's bootstrap."""

    workers: int = 1
    resamples: int = 2000


@dataclass
class Outcome:
    """What became of the jobs that a process was given.

    Attributes:
      done: those that it did itself.
      failed: name to the line of those that could not be done, here or elsewhere in the meantime.
      others: those that other processes were doing when it had nothing left.
    """

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)


def work(chosen: Sequence[Job], out: Path, means: Means, *, poll: float = POLL_S) -> Outcome:
    """Do jobs that are not finished; several processes may do so at once, each job is done by one.

    A job that failed in an earlier call is tried again, one that fails during this call is not, here or elsewhere.

    Args:
      chosen: jobs with all that they need, in order (`plan.part`).
      out: folder of the study.
      means: with what.
      poll: seconds until a job that waits for another process's is looked at again.

    Raises:
      InputError: data or weights are missing, or a job's folder holds something else than is asked for; nothing ran.
      Preempted, KeyboardInterrupt: as `loop.train`; the same call goes on.
    """
    if absent := plan.missing(chosen):
        more = f" (and {len(absent) - 1} more like it)" if len(absent) > 1 else ""
        raise InputError(f"{absent[0]}{more}; expected one that jaxneuro prepare or convert made; say where it is")
    for job in chosen:
        progress.check(job)
    board, known = progress.Board(out), {job.name: job for job in chosen}
    before = {job.name: board.failure(job) for job in chosen}
    outcome, left = Outcome(), list(chosen)
    terminal.say(f"{out}: {sum(map(progress.finished, chosen))} of {len(chosen)} jobs are finished")
    while left:
        again: list[Job] = []
        busy: list[str] = []
        moved = False
        for job in left:
            if progress.finished(job):
                continue
            if stuck := [name for name in job.needs if name in outcome.failed]:
                outcome.failed[job.name] = f"needs {stuck[0]}, which failed"
            elif (failure := board.failure(job)) and failure != before[job.name]:
                outcome.failed[job.name] = failure["error"]
            elif not all(progress.finished(known[name]) for name in job.needs):
                again.append(job)
            elif _do(job, board, means, before[job.name], outcome, f"{chosen.index(job) + 1}/{len(chosen)}"):
                moved = True
            else:
                busy.append(job.name)
                again.append(job)
        left = again
        if left and len(busy) == len(left):
            # One may have ended since we looked.
            outcome.others = [name for name in busy if not progress.finished(known[name])]
            break
        if left and not moved:
            time.sleep(poll)
    return outcome


def _do(
    job: Job, board: progress.Board, means: Means, before: dict[str, Any] | None, outcome: Outcome, count: str
) -> bool:
    """Do a job unless another process does; returns whether it did, or found it done or failed since."""
    began: float | None = None
    with ExitStack() as held:
        try:
            held.enter_context(lock.hold(board.folder(job), busy="is being done", instead="another --out"))
            # Another process may have ended it since we looked.
            if progress.finished(job) or board.failure(job) != before:
                return True
            terminal.say(f"\n== {count} {job.name}")
            began = time.perf_counter()
            DO[type(job)](job, means)
        except BusyError:
            return False
        except Preempted:
            raise
        except Exception as e:
            # A full disk fails every job after this one, too.
            full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
            if full or os.environ.get("JAXNEURO_DEBUG") == "1":
                raise
            outcome.failed[job.name] = board.fail(job, e)
            terminal.say_wrong(f"{job.name} failed: {outcome.failed[job.name]}")
        else:
            board.forget(job)
            outcome.done.append(job.name)
            terminal.say(f"   {time.perf_counter() - began:.0f} s")
        finally:
            if began is not None:
                costs.add(board.folder(job), time.perf_counter() - began, jax.local_devices())
            # Every run compiles functions of its own; of hundreds in a process all would be kept.
            jax.clear_caches()
    return True


def _data(job: Any, means: Means) -> None:
    scans = job.folder / "cohort"
    job.folder.mkdir(parents=True, exist_ok=True)
    whole.write_json(job.folder / progress.ASKED, progress.asked(job.dataset))
    if not scans.exists():
        with terminal.progress("making subjects") as live:
            cohort.write_cohort(scans, progress.cohort_spec(job.dataset), workers=means.workers, progress=live)
    with terminal.progress("preparing scans") as live:
        preparing.prepare(
            scans, job.folder / "shards", workers=means.workers, name=job.dataset.title,
            progress=lambda what, done, total: live(done, total, what), **job.dataset.prepare,
        )  # fmt: skip


def _pretrain(job: Any, means: Means) -> None:
    loop.train(job.wanted(), job.folder)
    (job.folder / progress.DONE).touch()


def _run(job: Any, means: Means) -> None:
    loop.train(job.wanted(), job.folder)
    for out, shards in progress.evaluations(job).values():
        if not (out / "metrics.json").is_file():
            evaluate.evaluate(job.folder, data=shards, out=out, resamples=means.resamples)
    if job.probed and not (there := progress.probe(job)).is_file():
        with _named("probe for the site"):
            probe.probe(job.folder, job.probe(), there.parent, resamples=means.resamples)
    if job.maps is not None and not progress.mapped(job):
        there = progress.maps(job)
        if there.is_file() and not there.with_name(progress.ASKED).is_file():
            raise InputError(
                f"{there}: found maps that somebody made by hand; expected none, or the study's own; move "
                f"{there.parent} elsewhere and give the same command again"
            )
        if there.is_file():  # made otherwise; a map that was begun is taken or left by its settings
            shutil.rmtree(there.parent)
        # Before they are made: killed in between, they are still known as the study's own.
        there.parent.mkdir(exist_ok=True)
        whole.write_json(there.with_name(progress.ASKED), dict(job.maps))
        settings, others = maps.keywords(job.maps)
        with _named("maps"):
            occlusion.occlusion(job.folder, settings, out=there.parent, **others)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what an error is of: the run itself is tested by then."""
    try:
        yield
    except InputError as e:
        raise type(e)(f"{what}: {e}") from e


#: How each kind of job is done.
DO: dict[type[Job], Callable[[Any, Means], None]] = {Data: _data, Training: _pretrain, Run: _run}
