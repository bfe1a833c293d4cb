"""What a search found: every trial as CSV, the best one's overrides as JSON, tables for the terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from jaxneuro import whole
from jaxneuro.study.progress import FAILED, FINISHED, RUNNING
from jaxneuro.study.tables import Table
from jaxneuro.study.trials import PRUNED, STOPPED, Trials, best, values

TRIALS, BEST = "trials.csv", "best.json"
SHOWN = 10
OPTIMISTIC = (
    "Validation chose among these trials, so the value of the best is optimistic: train with its settings anew, with "
    "several seeds, and evaluate those runs."
)


def ranking(trials: Trials) -> list[FrozenTrial]:
    """Return the trials that came to their end, the best first."""
    ended = [t for t in trials.all() if t.state == TrialState.COMPLETE]
    return sorted(ended, key=lambda t: t.value or 0.0, reverse=trials.mode == "max")


def write(trials: Trials, out: Path) -> None:
    """Write trials.csv and, once a trial came to its end, best.json; to be called `alone`.

    trials.csv has for each trial its state, its best validation value and the epoch of it, the last epoch that was
    validated, seconds of training, the value of each key, and the line that says why it failed. The seconds of a trial
    that was stopped or killed are those up to its last validation.
    """
    keys = list(trials.search.space)
    rows = []
    for trial in trials.all():
        found, settings = best(trial, trials.mode), values(trial)
        epoch, value = (str(found[0]), repr(found[1])) if found else ("", "")
        seconds = trial.user_attrs.get("seconds")
        rows.append(
            [
                trials.job(trial).name, trials.state(trial)[0], value, epoch,
                max(trial.intermediate_values, default=""), "" if seconds is None else f"{seconds:.1f}",
                *(settings[key] for key in keys), trial.user_attrs.get("line", ""),
            ]
        )  # fmt: skip
    whole.write_csv(out / TRIALS, ["trial", "state", trials.metric, "epoch", "epochs", "seconds", *keys, "line"], rows)
    if not (ranked := ranking(trials)):
        return
    first = ranked[0]
    found = best(first, trials.mode)
    whole.write_json(
        out / BEST,
        {
            "trial": trials.job(first).name,
            "folder": f"trials/{trials.job(first).name}",
            "metric": trials.metric,
            "validation": first.value,
            "epoch": found and found[0],
            "trials": dict(Counter(trials.state(t)[0] for t in trials.all())),
            "config": trials.search.config,
            "overrides": [f"--config.{setting}" for setting in trials.job(first).overrides],
            "note": OPTIMISTIC,
        },
    )


def top(trials: Trials) -> Table:
    """Return the best trials, best first."""
    rows = []
    for trial in ranking(trials)[:SHOWN]:
        found = best(trial, trials.mode)
        rows.append((trials.job(trial).name, f"{trial.value:.4f}", str(found[0]) if found else "", _settings(trial)))
    columns = ("Trial", f"Validation {trials.metric}", "Epoch", "Settings")
    return Table(trials.search.title, columns, tuple(rows), (_count(trials), OPTIMISTIC))


def importance(trials: Trials) -> Table | None:
    """Return which keys mattered; None where too few trials came to their end to tell."""
    if not (shares := trials.shares()):
        return None
    rows = tuple((key, f"{share:.2f}") for key, share in shares.items())
    whole = len(ranking(trials))
    note = (
        f"Of the variance over the {whole} trials that came to their end, as a random forest divides it: a rough "
        "guide, which favours keys of many values."
    )
    return Table("Which keys mattered", ("Key", "Share"), rows, (note,))


def listing(trials: Trials) -> Table:
    """Return every trial with its state, by number."""
    rows = []
    for trial in trials.all():
        (state, word), found = trials.state(trial), best(trial, trials.mode)
        rows.append((trials.job(trial).name, state, f"{found[1]:.4f}" if found else "", _settings(trial), word))
    return Table("Trials", ("Trial", "State", trials.metric, "Settings", ""), tuple(rows), (_count(trials),))


def _count(trials: Trials) -> str:
    count = Counter(trials.state(t)[0] for t in trials.all())
    told = ", ".join(f"{count[s]} {s}" for s in (FINISHED, PRUNED, FAILED, RUNNING, STOPPED) if count[s]) or "none yet"
    return f"Of {trials.search.trials} trials: {told}."


def _settings(trial: FrozenTrial) -> str:
    """Return what was drawn in one cell, which breaks between keys: six columns of them fit no terminal."""
    return "  ".join(f"{key}={_short(value)}" for key, value in values(trial).items())


def _short(value: str) -> str:
    """Shorten a drawn number; the whole one is in the files."""
    try:
        return value if value.lstrip("-").isdecimal() else f"{float(value):.3g}"
    except ValueError:
        return value
