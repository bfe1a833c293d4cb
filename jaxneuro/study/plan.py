"""A study to the list of jobs that it takes: data, pre-trainings, then runs, each with its folder and what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections

from jaxneuro import configuration
from jaxneuro.errors import InputError
from jaxneuro.study.spec import UNSEEN, WITHOUT, Dataset, Row, Study, Task


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work.

    Attributes:
      name: stable, and its folder within the study's.
      folder: what it fills.
      needs: names of the jobs that come first.
      outside: folders that must be there, which no job makes, with what to try where one is not.
    """

    name: str
    folder: Path
    needs: tuple[str, ...] = ()
    outside: tuple[tuple[Path, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Data(Job):
    """Make a synthetic cohort and its shards."""

    dataset: Dataset


@dataclass(frozen=True, kw_only=True)
class Training(Job):
    """Train: a pre-training, or what `Run` adds tests to. `overrides` are `KEY=VALUE`, each key once."""

    config: str
    overrides: tuple[str, ...]

    def wanted(self) -> ml_collections.ConfigDict:
        """Return the config of the run; raises InputError for one that cannot be read."""
        return configuration.read(self.config, [f"--config.{setting}" for setting in self.overrides])

    @property
    def data(self) -> Path:
        """The shards that it trains on."""
        return Path(dict(setting.split("=", 1) for setting in self.overrides)["data.path"])


@dataclass(frozen=True, kw_only=True)
class Run(Training):
    """Fine-tune, test, and test on other datasets without further training.

    Attributes:
      task, row, fraction, seed: which run of the study it is.
      without: a site that is left out of training, and tested on; "" for none.
      others: name of each other dataset, and its shards.
      probed: whether its features are probed for the site.
      maps: how maps of where its outputs come from are made (`Study.maps`); None where none are.
      resamples: of the bootstrap of its tests.
    """

    task: str
    row: str
    fraction: float
    seed: int
    without: str = ""
    others: tuple[tuple[str, Path], ...] = ()
    probed: bool = False
    maps: Mapping[str, Any] | None = None
    resamples: int = 2000

    def probe(self) -> ml_collections.ConfigDict:
        """Return the config of the probe for the site, on the data of the run."""
        config = configuration.read("configs/probe_site.py", [f"--config.seed={self.seed}"])
        config.data.update(self.wanted().data)
        return config


def run_name(task: str, row: str, fraction: float, seed: int, without: str = "") -> str:
    """Return the name of a run's job, which is its folder within the study's."""
    of = f"{WITHOUT}-{without}" if without else f"{fraction:g}"
    return f"runs/{task}/{row}/{of}/seed-{seed}"


def jobs(study: Study, out: Path) -> list[Job]:
    """Return all jobs of a study, each after those that it needs.

    Runs of the first seed come before those of the second, so that a stopped study has whole tables of fewer seeds.

    Args:
      study: a checked one.
      out: its folder; absolute, or as seen from where all its commands are given.
    """
    wanted = [
        (seed, task, fraction, row.name, without)
        for seed in study.seeds
        for sheet in study.sheets.values()
        for task in sheet.tasks
        for fraction in sheet.fractions
        for row in study.rows_of(sheet)
        for without in (sheet.sites if sheet.kind == "sites" else ("",))
    ]
    # Sheets share runs.
    runs = [_run(study, out, *run) for run in dict.fromkeys(wanted)]
    begins = {study.row(run.row).pretraining for run in runs}
    trainings = [
        _pretraining(study, out, name) for name, of in study.pretrainings.items() if name in begins and not of.weights
    ]
    needed = {name for job in (*trainings, *runs) for name in job.needs}
    made = [
        Data(name=f"data/{name}", folder=out / "data" / name, dataset=dataset)
        for name, dataset in study.datasets.items()
        if f"data/{name}" in needed
    ]
    return [*made, *trainings, *runs]


def part(every: Sequence[Job], names: Sequence[str] = (), share: tuple[int, int] | None = None) -> list[Job]:
    """Return some of a study's jobs and those that they need, in the study's order.

    Args:
      every: all of them.
      names: of jobs; none stand for all.
      share: (i, n), from 1: every nth run, beginning with the ith; a study of one part is the whole.

    Raises:
      InputError: there is no job of a name.
    """
    by_name = {job.name: job for job in every}
    for name in names:
        known("--job", name, by_name)
    chosen = [by_name[name] for name in names] if names else list(every)
    if share:
        runs = [job for job in chosen if isinstance(job, Run)]
        asked_for = [job for job in chosen if names and not isinstance(job, Run)]
        chosen = [*asked_for, *runs[share[0] - 1 :: share[1]]]
    keep: set[str] = set()
    left = [job.name for job in chosen]
    while left:
        name = left.pop()
        keep.add(name)
        left += by_name[name].needs
    return [job for job in every if job.name in keep]


def missing(some: Iterable[Job]) -> list[str]:
    """Return a line for each folder that must be there and is not."""
    outside = dict(place for job in some for place in job.outside)
    lines = [f"{hint}: found no folder '{path}'" for path, hint in outside.items() if not path.is_dir()]
    shards = [path for path, hint in outside.items() if hint.startswith("--data") and path.is_dir()]
    return lines + [f"{outside[p]}: found no card.json in '{p}'" for p in shards if not (p / "card.json").is_file()]


def _run(study: Study, out: Path, seed: int, task_name: str, fraction: float, row_name: str, without: str) -> Run:
    task, row = study.tasks[task_name], study.row(row_name)
    dataset = dataset_of(task.dataset, row)
    others = [] if without else [dataset_of(name, row) for name in task.zero_shot if name != UNSEEN]
    wanted = {
        sheet.kind
        for sheet in study.sheets.values()
        if task_name in sheet.tasks and fraction in sheet.fractions and row in study.rows_of(sheet) and not without
    }
    given = [
        *task.overrides,
        *row.overrides,
        *study.fractions[fraction],
        f"data.path={shards(study, out, dataset)}",
        f"data.fraction={float(fraction)}",
        f"seed={seed}",
        *([f"data.leave_out={(without,)!r}"] if without else []),
    ]
    needs, outside = _data_of(study, (dataset, *others))
    if row.pretraining:
        of = study.pretrainings[row.pretraining]
        weights = Path(of.weights) if of.weights else out / "pretraining" / row.pretraining
        given.append(f"init.path={weights}")
        if of.weights:
            outside.append((weights, f"pretrainings.{row.pretraining}.weights"))
        else:
            needs.append(f"pretraining/{row.pretraining}")
    name = run_name(task_name, row.name, fraction, seed, without)
    return Run(
        name=name,
        folder=out / name,
        needs=tuple(needs),
        outside=tuple(outside),
        config=task.config,
        overrides=merged(given),
        task=task_name,
        row=row.name,
        fraction=fraction,
        seed=seed,
        without=without,
        others=tuple((name, shards(study, out, name)) for name in others),
        probed="probe" in wanted,
        # One of each row is enough to look at, and it costs hundreds of passes a scan.
        resamples=study.resamples,
        maps=study.maps if "maps" in wanted and seed == study.seeds[0] else None,
    )


def _pretraining(study: Study, out: Path, name: str) -> Training:
    of = study.pretrainings[name]
    needs, outside = _data_of(study, (of.dataset,))
    return Training(
        name=f"pretraining/{name}",
        folder=out / "pretraining" / name,
        needs=tuple(needs),
        outside=tuple(outside),
        config=of.config,
        overrides=merged([*of.overrides, f"data.path={shards(study, out, of.dataset)}"]),
    )


def merged(overrides: Iterable[str]) -> tuple[str, ...]:
    """Return `KEY=VALUE` settings with each key once, its last value in the place of its first.

    Raises:
      InputError: one has no `=`.
    """
    values: dict[str, str] = {}
    for setting in overrides:
        key, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"overrides: found '{setting}'; expected KEY=VALUE such as training.epochs=10")
        values[key] = value
    return tuple(f"{key}={value}" for key, value in values.items())


def zero_shot(task: Task, row: Row) -> list[tuple[str, str]]:
    """Return for each zero-shot set of a task its name, and that of the dataset that the row is tested on."""
    return [(name, dataset_of(name, row)) for name in task.zero_shot]


def dataset_of(name: str, row: Row) -> str:
    """Return the name of the dataset that a row takes in the place of one."""
    return row.instead.get(name, name)


def shards(study: Study, out: Path, name: str) -> Path:
    """Return where the shards of a dataset are, or will be."""
    return Path(study.datasets[name].path) if study.datasets[name].path else out / "data" / name / "shards"


def _data_of(study: Study, names: Iterable[str]) -> tuple[list[str], list[tuple[Path, str]]]:
    """Return the jobs that make datasets, and the folders of those that must be there."""
    needs, outside = [], []
    for name in dict.fromkeys(names):
        if path := study.datasets[name].path:
            outside.append((Path(path), f"--data {name}"))
        else:
            needs.append(f"data/{name}")
    return needs, outside


def known(where: str, name: Any, among: Iterable[Any]) -> None:
    """Refuse a name that is not among some; raises InputError, which says `where` it was found and lists them."""
    if name not in (names := list(among)):
        listed = ", ".join(map(str, names[:12])) + (", ..." if len(names) > 12 else "")
        raise InputError(f"{where}: found '{name}'; expected one of {listed or 'none: there are none'}")
