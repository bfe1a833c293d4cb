"""What a study knows of itself: its datasets, runs, failures and hours, read from its folder for the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from jaxneuro import manifest, records
from jaxneuro.study import costs, plan, progress
from jaxneuro.study.gather import Found, Key
from jaxneuro.study.plan import Job, Run, Training
from jaxneuro.study.results import Result
from jaxneuro.study.spec import Study


@dataclass(frozen=True)
class Facts:
    """What the report of a study is made of.

    Attributes:
      study, out: the study and its folder.
      jobs: all of them, in order.
      states: name of a job to its state and a word on it.
      found, results: what the finished runs found, and the sheets.
      kinds: of the tasks, by name.
      configs: name of a training to its config.
      datasets: those that are there, by name.
      described: name of a training to its run.json, where it began.
      spent: name of a job to what was spent on it.
    """

    study: Study
    out: Path
    jobs: tuple[Job, ...]
    states: Mapping[str, tuple[str, str]]
    found: Mapping[Key, Found]
    results: Mapping[str, Result]
    kinds: Mapping[str, str]
    configs: Mapping[str, ml_collections.ConfigDict]
    datasets: Mapping[str, records.Dataset]
    described: Mapping[str, dict[str, Any]]
    spent: Mapping[str, list[costs.Spent]]

    @property
    def runs(self) -> list[Run]:
        """Return the runs, finished or not."""
        return [job for job in self.jobs if isinstance(job, Run)]

    @property
    def synthetic(self) -> list[str]:
        """Return the titles of the datasets that are synthetic, by their cards or by what was tested."""
        tested = {
            self.study.tasks[key.task].dataset if key.set not in self.study.datasets else key.set
            for key, of in self.found.items()
            if of.synthetic
        }
        return [
            dataset.title
            for name, dataset in self.study.datasets.items()
            if name in tested or (name in self.datasets and self.datasets[name].card.get("synthetic"))
        ]

    def finished(self, job: Job) -> bool:
        """Tell whether a job is finished."""
        return self.states[job.name][0] == progress.FINISHED


def read(
    study: Study, out: Path, found: Mapping[Key, Found], results: Mapping[str, Result], kinds: Mapping[str, str]
) -> Facts:
    """Read what a study's folder holds.

    Raises:
      InputError: a file there is not what a study writes.
    """
    jobs = plan.jobs(study, out)
    known, board = {job.name: job for job in jobs}, progress.Board(out)
    trainings = [job for job in jobs if isinstance(job, Training)]
    used = {job.data for job in trainings} | {
        path for job in trainings if isinstance(job, Run) for _, path in job.others
    }
    return Facts(
        study=study,
        out=out,
        jobs=tuple(jobs),
        states={job.name: board.state(job, known) for job in jobs},
        found=found,
        results=results,
        kinds=kinds,
        configs={job.name: job.wanted() for job in trainings},
        datasets={
            name: records.open_dataset(path)
            for name in study.datasets
            if (path := plan.shards(study, out, name)) in used and (path / "card.json").is_file()
        },
        described={
            job.name: records.read_json(job.folder / "run.json", ["versions"], expected="what a run wrote down")
            for job in trainings
            if (job.folder / "run.json").is_file()
        },
        spent={job.name: told for job in jobs if (told := costs.read(board.folder(job)))},
    )


def problems(dataset: records.Dataset) -> list[manifest.Problem]:
    """Return what was wrong with scans in preparation; nothing where the dataset's failures.csv is gone."""
    path = dataset.path / "failures.csv"
    return manifest.read_problems(path) if path.is_file() else []


def evaluations(job: Run) -> dict[str, dict[str, Any]]:
    """Return the metrics.json of each dataset that a run was tested on, "" for its own."""
    again = "what jaxneuro study writes; delete the folder of this run and give the same command again"
    return {
        name: records.read_json(folder / "metrics.json", ("task", "folds", "data"), expected=again)
        for name, (folder, _) in progress.evaluations(job).items()
        if (folder / "metrics.json").is_file()
    }
