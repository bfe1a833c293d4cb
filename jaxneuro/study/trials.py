"""The trials of a search in Optuna's journal: drawn, claimed, told how they do, ended. Nothing here trains.

Only documented functions of Optuna are used, and none that it calls experimental. One sampler a trial, seeded by the
search's seed and the trial's number: a search that was stopped draws what an unbroken one would have.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from jaxneuro import lock
from jaxneuro.errors import BusyError, InputError
from jaxneuro.study.plan import Training
from jaxneuro.study.progress import FAILED, FINISHED, RUNNING, Board
from jaxneuro.study.search_spec import Choice, Distribution, LogUniform, Search

JOURNAL = "journal.jsonl"
#: States beside those of a study's jobs: stopped by the method, and by whoever stopped the search.
PRUNED, STOPPED = "pruned", "stopped"
#: Trials drawn by chance before what they found is used, and trials at their end before any is stopped.
DRAWN_BY_CHANCE, ENDED_FIRST = 10, 5
#: Trials at their end before anything is said of which key mattered.
ENOUGH = 20
_NAME = "search"
_STATES = {TrialState.COMPLETE: FINISHED, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
_POLL_S = 0.05


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Let one process at a time draw, claim and write tables in a search's folder; waits for its turn."""
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock.hold(out))
                break
            except BusyError:
                time.sleep(_POLL_S)
        yield


class Trials:
    """The trials of a search.

    Args:
      out: folder of the search.
      search: what was asked.
      metric, mode: what is compared on validation, and which values are better, "max" or "min".
      epochs: of a whole run; a third of them passes before one may be stopped, for a rate that warms up and then falls
        on a cosine makes the first epochs a poor guide to the last.

    Raises:
      InputError: the journal is damaged.
    """

    def __init__(self, out: Path, search: Search, *, metric: str, mode: str, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.out, self.search, self.metric, self.mode = out, search, metric, mode
        self.board = Board(out)
        self._direction = "maximize" if mode == "max" else "minimize"
        self._space = {key: _distribution(of) for key, of in search.space.items()}
        file = out / JOURNAL
        # A lock made by O_EXCL: the other kind is a link to the journal, which leads nowhere on a machine that has the
        # folder by another path, and is then waited for without end.
        held = JournalFileOpenLock(str(file))
        try:
            _mend(file, held)
            self._storage = optuna.storages.JournalStorage(JournalFileBackend(str(file), lock_obj=held))
            # The median of all trials, for Hyperband's brackets would each wait for ten of their own before TPE learns
            # from any; searches here have tens of trials.
            pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
            if search.method == "pruned":
                pruner = optuna.pruners.MedianPruner(ENDED_FIRST, n_warmup_steps=max(1, epochs // 3))
            sampler = optuna.samplers.RandomSampler()  # draws nothing: see `draw`
            if any(study.study_name == _NAME for study in self._storage.get_all_studies()):
                self._study = optuna.load_study(study_name=_NAME, storage=self._storage, sampler=sampler, pruner=pruner)
            else:
                self._study = optuna.create_study(
                    study_name=_NAME, storage=self._storage, sampler=sampler, pruner=pruner, direction=self._direction
                )
        except ValueError as e:  # of a line that is no JSON
            raise InputError(
                f"{file}: is damaged ({' '.join(str(e).split())}); expected a line of JSON each; take the damaged line "
                "out, or choose another --out"
            ) from e
        self._id = self._storage.get_study_id_from_name(_NAME)

    def all(self) -> list[FrozenTrial]:
        """Return every trial, by number."""
        return self._study.get_trials()

    def one(self, number: int) -> FrozenTrial:
        """Return a trial as it stands."""
        return self._storage.get_trial(self._of(number))

    def draw(self) -> FrozenTrial:
        """Draw a further trial; to be called `alone`."""
        past = self.all()
        # On a copy in memory, to be added whole: a process killed meanwhile leaves no trial half drawn.
        copy = optuna.create_study(direction=self._direction, sampler=self._sampler(len(past)))
        copy.add_trials(past)
        params = copy.ask(self._space).params
        self._study.add_trial(
            optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=self._space)
        )
        return self.one(len(past))

    def claim(self, trial: FrozenTrial, held: ExitStack) -> bool:
        """Take a trial for as long as `held` lasts; tells whether no other process has it."""
        try:
            held.enter_context(lock.hold(self.board.folder(self.job(trial)), busy="is being done"))
        except BusyError:
            return False
        return True

    def job(self, trial: FrozenTrial) -> Training:
        """Return the training of a trial."""
        name = f"{trial.number:04d}"
        settings = self.search.settings(values(trial))
        return Training(name=name, folder=self.out / "trials" / name, config=self.search.config, overrides=settings)

    def report(self, number: int, epoch: int, value: float, seconds: float) -> None:
        """Write down a validation of a trial, and the seconds that it has taken."""
        self._storage.set_trial_intermediate_value(self._of(number), epoch, value)
        self._storage.set_trial_user_attr(self._of(number), "seconds", seconds)

    def hopeless(self, number: int) -> bool:
        """Tell whether the method stops a trial after its last validation."""
        return self._study.pruner.prune(self._study, self.one(number))

    def end(self, number: int, *, pruned: bool = False) -> None:
        """End a trial: whole, or stopped by the method; one without any value has failed."""
        found = best(self.one(number), self.mode)
        if found is None:
            self.fail(number, "found no validation value that is a number; expected one", 0.0)
        elif pruned:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, found[1])

    def fail(self, number: int, line: str, seconds: float) -> None:
        """End a trial that could not be done, with the line that says why."""
        self._storage.set_trial_user_attr(self._of(number), "line", line)
        if seconds:
            self._storage.set_trial_user_attr(self._of(number), "seconds", seconds)
        self._study.tell(number, state=TrialState.FAIL)

    def state(self, trial: FrozenTrial) -> tuple[str, str]:
        """Return the state of a trial, and a word on it."""
        if trial.state in _STATES:
            return _STATES[trial.state], trial.user_attrs.get("line", "")
        by = lock.holder(self.board.folder(self.job(trial)))
        return (RUNNING, by) if by else (STOPPED, "")

    def shares(self) -> dict[str, float]:
        """Return how much of the whole trials' variance a random forest explains by each key, of 1 for all keys; empty
        where these trials are fewer than 20, or all alike, or one key was searched."""
        whole = [t for t in self.all() if t.state == TrialState.COMPLETE]
        if len(whole) < ENOUGH or len(self._space) < 2 or len({t.value for t in whole}) < 2:
            return {}
        # Not Optuna's default, functional ANOVA: it weighs a rate by plain numbers, where a range of decades is hardly
        # more than its last one, and gave the only key that mattered 0.4 of 20 trials' variance.
        found = optuna.importance.get_param_importances(
            self._study, evaluator=optuna.importance.MeanDecreaseImpurityImportanceEvaluator(seed=self.search.seed)
        )
        return {key: float(share) for key, share in found.items()}

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.search.seed, number]).generate_state(1)[0])
        if self.search.method == "random":
            return optuna.samplers.RandomSampler(seed)
        return optuna.samplers.TPESampler(n_startup_trials=DRAWN_BY_CHANCE, seed=seed)

    def _of(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._id, number)


def values(trial: FrozenTrial) -> dict[str, str]:
    """Return what was drawn, by key, as the command line has it."""
    return {key: value if isinstance(value, str) else repr(float(value)) for key, value in trial.params.items()}


def best(trial: FrozenTrial, mode: str) -> tuple[int, float] | None:
    """Return epoch and value of a trial's best validation, the first of equals; None without one that is a number."""
    sign = 1 if mode == "max" else -1
    found = [(sign * v, -epoch) for epoch, v in trial.intermediate_values.items() if not math.isnan(v)]
    return (-max(found)[1], sign * max(found)[0]) if found else None


def _distribution(of: Distribution) -> BaseDistribution:
    if isinstance(of, Choice):
        # Texts, for the journal turns tuples into lists.
        return CategoricalDistribution(of.texts())
    return FloatDistribution(of.low, of.high, log=isinstance(of, LogUniform))


def _mend(file: Path, held: JournalFileOpenLock) -> None:
    """Cut off a last line that a full disk left without its end: the next would be written behind it."""
    if not file.is_file():
        return
    held.acquire()
    try:
        with open(file, "rb+") as handle:
            text = handle.read()
            if whole := len(text) - (text.rfind(b"\n") + 1):
                handle.truncate(len(text) - whole)
                os.fsync(handle.fileno())
    finally:
        held.release()
