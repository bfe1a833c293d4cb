"""Do the trials of a search, each an ordinary run: stopped ones go on, failed ones are told, others may take part."""

from __future__ import annotations

import errno
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from optuna.trial import FrozenTrial, TrialState

from jaxneuro import configuration, records, terminal, whole
from jaxneuro.errors import BusyError, InputError, Preempted
from jaxneuro.study import search_results
from jaxneuro.study.search_spec import Choice, Search
from jaxneuro.study.trials import JOURNAL, Trials, alone, values
from jaxneuro.training import experiment, journal, loop, stopping

ASKED = "search.json"
#: So many failures in a row end a process's work: a machine that is out of order would use up every trial.
IN_A_ROW = 5
_MEASURED = ("metric", "mode", "dataset")


def begin(search: Search, out: Path) -> Trials:
    """Return the trials of a search, begun in its folder if need be.

    Args:
      search: what is asked (`search_spec.read`).
      out: folder of the search, whole: the same wherever the next command is given. Gets search.json (what was asked),
        journal.jsonl (Optuna's) and, as trials end, what `search_results.write` writes; trials/NNNN, an ordinary run
        each; jobs/NNNN, locks and failures.

    Raises:
      InputError: the first trial's data or network cannot be used, or the folder holds another search; names the keys
        that differ. Nothing was written.
    """
    settings = search.settings(next(search.corners()))
    parts = experiment.build(configuration.read(search.config, [f"--config.{setting}" for setting in settings]))
    asked = _asked(search) | {
        "metric": parts.objective.metric,
        "mode": parts.objective.mode,
        "dataset": {key: parts.dataset.card[key] for key in journal.SEALS},
    }
    file = out / ASKED
    # In this order: of a search that another process begins just now, search.json is there first.
    if out.is_dir() and any(not p.name.startswith(".") for p in out.iterdir()) and not file.is_file():
        raise InputError(f"{out}: holds files but no {ASKED}; expected an empty or new folder, or a search's")
    with alone(out):
        if file.is_file():
            _check(out, asked)
        else:
            whole.write_json(file, asked)
        return _trials(search, out, asked)


def there(search: Search, out: Path) -> Trials | None:
    """Return the trials of a search that was begun, None before; opens no data.

    Raises:
      InputError: the folder holds another search.
    """
    if not (out / ASKED).is_file() or not (out / JOURNAL).is_file():
        return None
    return _trials(search, out, _check(out, _asked(search)))


def run(trials: Trials, stop: stopping.Stop) -> list[str]:
    """Do trials until the search has as many as it asks for; several processes may do so at once.

    A trial that was stopped goes on before another is drawn. One that fails is on record, and counts.

    Args:
      trials: of the search (`begin`).
      stop: what a signal sets (`stopping.on_signal`).

    Returns:
      The trials that other processes are at.

    Raises:
      InputError: `IN_A_ROW` trials failed one after the other.
      Preempted, KeyboardInterrupt: a signal came; the same call goes on.
    """
    out, wanted = trials.out, trials.search.trials
    failed = 0
    elsewhere: set[int] = set()
    while True:
        with ExitStack() as held:
            with alone(out):
                trial, busy = _next(trials, held, elsewhere)
                known = trials.all()
            if trial is None:
                return busy
            if stop.is_set():
                ended = sum(t.state.is_finished() for t in known)
                raise stop.error(f"with {ended} of {wanted} trials ended; the same command goes on")
            drawn = "  ".join(f"{key}={value}" for key, value in values(trial).items())
            terminal.say(f"\n== trial {trials.job(trial).name} of {wanted}  {drawn}")
            try:
                line = _do(trials, trial, stop)
            except BusyError as e:
                terminal.say_wrong(str(e))
                elsewhere.add(trial.number)
                continue
            with alone(out):
                search_results.write(trials, out)
        failed = failed + 1 if line else 0
        if failed == IN_A_ROW:
            raise InputError(
                f"{out}: {failed} trials failed one after the other, the last with: {line}; expected most to run; "
                f"{search_results.TRIALS} has all; the same command goes on with further ones"
            )


def _next(trials: Trials, held: ExitStack, elsewhere: set[int]) -> tuple[FrozenTrial | None, list[str]]:
    """Claim a trial that nobody does any more, else a new one; None with the names of those that others do."""
    known, busy = trials.all(), []
    for trial in known:
        if trial.state != TrialState.RUNNING:
            continue
        if trial.number not in elsewhere and trials.claim(trial, held):
            return trial, []
        busy.append(trials.job(trial).name)
    if len(known) >= trials.search.trials:
        return None, busy
    trial = trials.draw()
    if not trials.claim(trial, held):
        raise BusyError(f"{trials.board.folder(trials.job(trial))}: is held by another process; choose another --out")
    return trial, []


def _do(trials: Trials, trial: FrozenTrial, stop: stopping.Stop) -> str:
    """Train a trial to its end; returns the line that says why it failed, "" of one that did not."""
    number, job = trial.number, trials.job(trial)
    began, before = time.perf_counter(), trial.user_attrs.get("seconds", 0.0)
    pruned = False

    def seconds() -> float:
        return before + time.perf_counter() - began

    try:
        config = job.wanted()
        epochs = config.training.epochs

        def judge(epoch: int, value: float) -> bool:
            nonlocal pruned
            trials.report(number, epoch, value, seconds())
            pruned = epoch < epochs and trials.hopeless(number)
            return pruned

        last = max(trial.intermediate_values, default=epochs)
        # It may have been killed between the verdict and its end.
        pruned = last < epochs and trials.hopeless(number)
        if not pruned:
            loop.train(config, job.folder, stop, judge)
        trials.end(number, pruned=pruned)
    except (Preempted, BusyError):
        raise
    except Exception as e:
        # A full disk fails every trial after this one, too.
        full = isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or os.environ.get("JAXNEURO_DEBUG") == "1":
            raise
        line = trials.board.fail(job, e)
        trials.fail(number, line, seconds())
        terminal.say_wrong(f"trial {job.name} failed: {line}")
        return line
    finally:
        # Every trial compiles functions of its own.
        jax.clear_caches()
    return trials.one(number).user_attrs.get("line", "")


def _asked(search: Search) -> dict[str, Any]:
    """Return what a search asks for, as JSON keeps it; the config is that of the experiment, with what it overrides."""
    space = {
        key: {"kind": type(of).__name__} | ({"values": list(of.texts())} if isinstance(of, Choice) else vars(of))
        for key, of in search.space.items()
    }
    return {
        "title": search.title,
        "file": search.config,
        "config": configuration.read(search.config, [f"--config.{s}" for s in search.overrides]).to_dict(),
        "space": space,
        "method": search.method,
        "seed": search.seed,
    }


def _check(out: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Return what a folder's search asked for; raises InputError where that was something else."""
    keys = ["config", "space", "method", "seed", *_MEASURED]
    before = records.read_json(out / ASKED, keys, expected="what a search asked for; choose another --out")
    compared = [key for key in keys[1:] if key in asked]
    differ = [
        *journal.differences(before["config"], asked["config"]),
        *journal.differences({k: before[k] for k in compared}, {k: asked[k] for k in compared}),
    ]
    if differ:
        more = f"; and {len(differ) - 5} more" if len(differ) > 5 else ""
        raise InputError(
            f"{out}: holds another search ({'; '.join(differ[:5])}{more}); expected the same; choose another --out"
        )
    return before


def _trials(search: Search, out: Path, asked: dict[str, Any]) -> Trials:
    return Trials(out, search, metric=asked["metric"], mode=asked["mode"], epochs=asked["config"]["training"]["epochs"])
