"""How far a study is: what each job's folder holds, who works in it, what failed. Nothing here runs a job.

A job is finished when what it is to make is there; that lies in the job's folder alone, so a folder that is deleted is
made again. Beside them, `jobs/NAME/` holds the lock of who does the job and `failure.json` of who could not.
"""

from __future__ import annotations

import json
import socket
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxneuro import lock, records, whole
from jaxneuro.errors import InputError
from jaxneuro.manifest import read as read_manifest
from jaxneuro.prepare import cohort, recipes
from jaxneuro.study import plan
from jaxneuro.study.plan import Data, Job, Run, Training
from jaxneuro.study.spec import PROBE, Dataset, Study
from jaxneuro.study.tables import Table
from jaxneuro.training import journal

#: In the folder of a dataset, what was asked for; in that of a pre-training, that it is finished.
ASKED, DONE = "asked.json", "done"
FINISHED, RUNNING, FAILED, READY, WAITS = "finished", "running", "failed", "ready", "waits"
_INSTEAD = "another --out"


class Board:
    """Who does which job of a study, and which failed; `out` is the study's folder."""

    def __init__(self, out: Path) -> None:
        self._jobs = out / "jobs"

    def folder(self, job: Job) -> Path:
        """Return where the lock and the failure of a job are."""
        return self._jobs / job.name

    def failure(self, job: Job) -> dict[str, Any] | None:
        """Return what a failed job left: "error", "created", "host", and the "traceback" of what nobody foresaw."""
        path = self.folder(job) / "failure.json"
        return records.read_json(path, ["error"], expected="what a failed job left") if path.is_file() else None

    def fail(self, job: Job, error: Exception) -> str:
        """Write down that a job failed; returns the one line."""
        lines = str(error).strip().splitlines()
        line = lines[0] if lines else "no message"
        known = isinstance(error, InputError | OSError)
        told: dict[str, Any] = {
            "error": line if known else f"{type(error).__name__}: {line}",
            "created": datetime.now(UTC).isoformat(),
            "host": socket.gethostname(),
            **({} if known else {"traceback": traceback.format_exception(error)}),
        }
        self.folder(job).mkdir(parents=True, exist_ok=True)
        whole.write_json(self.folder(job) / "failure.json", told)
        return told["error"]

    def forget(self, job: Job) -> None:
        """Take back that a job failed."""
        (self.folder(job) / "failure.json").unlink(missing_ok=True)

    def state(self, job: Job, known: dict[str, Job]) -> tuple[str, str]:
        """Return the state of a job and a word on it; `known` are all jobs by name."""
        if finished(job):
            return FINISHED, ""
        if by := lock.holder(self.folder(job)):
            return RUNNING, by
        if failure := self.failure(job):
            return FAILED, failure["error"]
        if first := [name for name in job.needs if not finished(known[name])]:
            return WAITS, f"for {', '.join(first)}"
        if absent := [str(path) for path, _ in job.outside if not path.is_dir()]:
            return WAITS, f"for the folder {', '.join(absent)}"
        return READY, "begun" if (job.folder / "config.json").is_file() else ""


def evaluations(job: Run) -> dict[str, tuple[Path, Path | None]]:
    """Return for each dataset that a run is tested on ("" for its own) the results' folder, and the other's shards."""
    own: dict[str, tuple[Path, Path | None]] = {"": (job.folder / "evaluation", None)}
    return own | {name: (job.folder / f"evaluation-{name}", shards) for name, shards in job.others}


def probe(job: Run) -> Path:
    """Return where a run that is probed for the site has what came of it."""
    return job.folder / PROBE / "probe.json"


def maps(job: Run) -> Path:
    """Return where a run has what is said of its maps."""
    method = (job.maps or {}).get("method", "occlusion")
    return job.folder / f"{method}-{job.task}" / f"{method}.json"


def mapped(job: Run) -> bool:
    """Tell whether the maps of a run are there, made as is asked now."""
    made, wanted = maps(job), maps(job).with_name(ASKED)
    if not made.is_file() or not wanted.is_file():
        return False
    return records.read_json(wanted, expected="what a study asked for") == json.loads(json.dumps(dict(job.maps or {})))


def tested(job: Run) -> bool:
    """Tell whether a run has its tests, whatever else it is to make."""
    return all((folder / "metrics.json").is_file() for folder, _ in evaluations(job).values())


def finished(job: Job) -> bool:
    """Tell whether what a job is to make is there."""
    if isinstance(job, Data):
        return (job.folder / "shards" / "card.json").is_file()
    if isinstance(job, Run):
        explained = job.maps is None or mapped(job)
        return tested(job) and explained and (not job.probed or probe(job).is_file())
    return (job.folder / DONE).is_file()


def check(job: Job) -> None:
    """Refuse a folder that holds, finished or begun, something else than is asked for; writes nothing.

    Raises:
      InputError: names the keys that differ.
    """
    if isinstance(job, Data):
        if (job.folder / ASKED).is_file():
            there, here = records.read_json(job.folder / ASKED, expected="what a study asked for"), asked(job.dataset)
            differ = [
                f"{key}: {there.get(key)!r} there, {here.get(key)!r} here"
                for key in sorted({*there, *here})
                if there.get(key) != here.get(key)
            ]
            if differ:
                told = "; ".join(differ[:5])
                raise InputError(f"{job.folder}: holds another cohort ({told}); expected the same; choose {_INSTEAD}")
        return
    assert isinstance(job, Training)
    if not (job.folder / "config.json").is_file():
        return
    journal.check_config(job.folder, job.wanted().to_dict(), instead=_INSTEAD)
    card = job.data / "card.json"
    if card.is_file():
        journal.check_dataset(job.folder, records.read_json(card, journal.SEALS, expected="the card of a dataset"))
    if isinstance(job, Run):
        _check_tests(job)


def _check_tests(job: Run) -> None:
    """Refuse tests on other data than are asked for, or with another number of resamples."""
    for folder, shards in evaluations(job).values():
        file, card = folder / "metrics.json", (shards or job.data) / "card.json"
        if not file.is_file():
            continue
        told = records.read_json(file, ["data", "interval"], expected="what an evaluation writes")
        there, here = told["data"].get("card_sha256"), records.file_sha256(card) if card.is_file() else None
        if there and here and there != here:
            raise InputError(
                f"{file}: tested another dataset than {card.parent} (its card differs); expected the same; delete "
                f"{folder} to test anew, or choose {_INSTEAD}"
            )
        there = told["interval"].get("resamples", job.resamples)
        if there != job.resamples:
            raise InputError(
                f"{file}: has intervals of {there} resamples; expected {job.resamples}, as the study says; delete "
                f"{folder} to test anew, or choose {_INSTEAD}"
            )


def cohort_spec(dataset: Dataset) -> cohort.CohortSpec:
    """Return the cohort of a dataset.

    Raises:
      InputError: its keywords make no cohort.
    """
    given = dict(dataset.cohort or {})
    try:
        if "effects" in given:
            given["effects"] = cohort.Effects(**given["effects"])
        return cohort.CohortSpec(**given)
    except TypeError as e:
        raise InputError(f"cohort: {e}; expected keywords of CohortSpec (jaxneuro/prepare/cohort.py)") from e


def recipe(dataset: Dataset) -> recipes.Recipe:
    """Return how a synthetic cohort is prepared; raises InputError for a recipe or a stage that there is none of."""
    skip, already = (dataset.prepare.get(key, ()) for key in ("skip", "already"))
    for key, value in (("skip", skip), ("already", already)):
        if isinstance(value, str):
            raise InputError(f"{key}: found {value!r}; expected a tuple such as ({value!r},)")
    return recipes.recipe(dataset.prepare.get("recipe", "paper80"), skip=skip, already=already)


def sites(dataset: Dataset) -> list[str]:
    """Return the sites of a dataset; none where its shards are not there yet."""
    if dataset.cohort is not None:
        return list(cohort_spec(dataset).sites)
    manifest = Path(dataset.path) / "manifest.csv"
    return sorted({scan.site for scan in read_manifest(manifest)}) if manifest.is_file() else []


def shape(study: Study, row: str, task: str) -> tuple[int, ...]:
    """Return the voxels of the volumes that a row is trained on, along each axis; () where they are not there yet."""
    dataset = study.datasets[plan.dataset_of(study.tasks[task].dataset, study.row(row))]
    if dataset.cohort is not None:
        return tuple(recipe(dataset).shape)
    card = Path(dataset.path) / "card.json"
    return tuple(records.read_json(card, ["shape"], expected="a dataset's card")["shape"][:3]) if card.is_file() else ()


def asked(dataset: Dataset) -> dict[str, Any]:
    """Return what a study asks of a synthetic cohort and of its preparation, as JSON keeps it."""
    flat = {f"cohort.{key}": value for key, value in asdict(cohort_spec(dataset)).items()}
    return json.loads(json.dumps(flat | {f"prepare.{key}": value for key, value in dataset.prepare.items()}))


def listing(jobs: Sequence[Job], out: Path) -> Table:
    """Return the work list: a row a job, in order, with its state."""
    board, known = Board(out), {job.name: job for job in jobs}
    states = [board.state(job, known) for job in jobs]
    rows = tuple((job.name, state, note) for job, (state, note) in zip(jobs, states, strict=True))
    count = Counter(state for state, _ in states)
    told = ", ".join(f"{count[state]} {state}" for state in (FINISHED, RUNNING, FAILED, READY, WAITS) if count[state])
    return Table("Jobs", ("Job", "State", ""), rows, (f"{len(jobs)} jobs: {told}.",))
