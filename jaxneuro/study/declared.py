"""A study as a file declares it: read, and checked before anything of it runs."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxneuro import configuration
from jaxneuro.errors import InputError
from jaxneuro.study import maps, plan, progress, published
from jaxneuro.study.gather import TEST
from jaxneuro.study.plan import Run, Training, known
from jaxneuro.study.spec import PROBE, UNSEEN, WITHOUT, Dataset, Sheet, Study

#: Kinds of sheets, and what each is of.
KINDS = {
    "metrics": "one task and one fraction",
    "tasks": "one fraction",
    "fractions": "one task",
    "sites": "one task and one fraction",
    "probe": "one task and one fraction",
    "maps": "one task and one fraction",
}
#: What can be said of the preparation of a synthetic cohort.
_PREPARE = ("recipe", "skip", "already", "subject_prefix", "validation", "test", "ood_sites", "seed", "compression")
#: Files of the report that are of no sheet.
_TAKEN = (
    "values", "comparisons", "asked", "data", "paper", "failures", "how", "time", "checklist", "versions", "declared",
)  # fmt: skip
_TYPES: dict[str, Any] = {
    "str": str, "int": int, "float": int | float, "tuple": tuple | list, "Mapping": Mapping,
}  # fmt: skip
_MEANT = {
    "str": "a text", "int": "a whole number", "float": "a number", "tuple": "a tuple such as ('ad',)",
    "Mapping": "a dict",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def read(path: str, data: Mapping[str, str] | None = None) -> Study:
    """Return the study that a file declares, checked.

    Args:
      path: the file, with a `get_config()` that returns a `spec.Study`.
      data: name of a dataset to where its shards are, in place of what the file says.

    Raises:
      InputError: no such file, it declares no study, or a study that does not hang together.
    """
    study = configuration.load(path)
    if not isinstance(study, Study):
        raise InputError(
            f"{path}: found a {type(study).__name__}; expected a file whose get_config() returns a Study, such as "
            "configs/study_tiny.py; an experiment is for jaxneuro train"
        )
    _check_types("study", study)
    datasets = dict(study.datasets)
    for name, where in (data or {}).items():
        known("--data", name, datasets)
        datasets[name] = Dataset(title=datasets[name].title, path=where)
    study = dataclasses.replace(study, datasets=datasets)
    check(study)
    return study


def _check_types(where: str, part: Any) -> None:
    """Refuse fields of other types than `spec` says: a text in a tuple's place would be taken letter by letter."""
    for field in dataclasses.fields(part):
        value, kind = getattr(part, field.name), str(field.type).split("[")[0]
        named = f"{where}.{field.name}"
        if value is None and "None" in str(field.type):
            continue
        if not isinstance(value, _TYPES[kind]) or isinstance(value, bool):
            raise InputError(f"{named}: found {value!r}; expected {_MEANT[kind]} (jaxneuro/study/spec.py)")
        inside = {str(k): v for k, v in value.items()} if kind == "Mapping" else dict(enumerate(_several(value)))
        for key, one in inside.items():
            if dataclasses.is_dataclass(one):
                _check_types(f"{named}.{getattr(one, 'name', key)}", one)
            elif "tuple[str" in str(field.type) and not isinstance(one, str | tuple):
                raise InputError(f"{named}: found {one!r}; expected texts (jaxneuro/study/spec.py)")
            elif kind == "Mapping" and "tuple[" in str(field.type) and not isinstance(one, tuple | list):
                raise InputError(f"{named}.{key}: found {one!r}; expected {_MEANT['tuple']}")


def _several(value: Any) -> tuple[Any, ...] | list[Any]:
    return value if isinstance(value, tuple | list) else ()


def check(study: Study) -> None:
    """Refuse a study that does not hang together, before anything of it runs.

    Raises:
      InputError: an unknown name, a row twice, a config or an override that no run can be made of, ...
    """
    for where, names in (
        ("datasets", study.datasets),
        ("pretrainings", study.pretrainings),
        ("tasks", study.tasks),
        ("rows", [row.name for row in study.rows]),
        ("sheets", study.sheets),
    ):
        for name in names:
            if not _NAME.fullmatch(name):
                raise InputError(f"{where}: found the name {name!r}; expected letters, digits, '.', '_' and '-'")
        if not names and where != "pretrainings":
            raise InputError(f"{where}: found none; expected at least one")
    for name in study.datasets:
        if name in (TEST, UNSEEN) or name.startswith((WITHOUT, PROBE)):
            raise InputError(f"datasets: found the name '{name}'; expected another: results of the task's own have it")
    _check_numbers(study)
    titles: dict[str, str] = {}
    for name, dataset in study.datasets.items():
        if (before := titles.setdefault(dataset.title, name)) != name:
            raise InputError(
                f"datasets.{name}.title: found '{dataset.title}', that of {before}; expected one that tables tell apart"
            )
    for name, dataset in study.datasets.items():
        if bool(dataset.path) == (dataset.cohort is not None):
            raise InputError(f"datasets.{name}: found {_both(dataset.path)}; expected a path or a cohort")
        if unknown := sorted(set(dataset.prepare) - set(_PREPARE)):
            raise InputError(
                f"datasets.{name}.prepare: found {', '.join(unknown)}; expected among {', '.join(_PREPARE)}"
            )
        if dataset.cohort is not None:
            try:
                progress.cohort_spec(dataset)
            except InputError as e:
                raise InputError(f"datasets.{name}.{e}") from e
            try:
                progress.recipe(dataset)
            except InputError as e:
                raise InputError(f"datasets.{name}.prepare: {e}") from e
    for name, of in study.pretrainings.items():
        if bool(of.weights) == bool(of.config):
            raise InputError(f"pretrainings.{name}: found {_both(of.weights)}; expected a config or weights")
        if of.config:
            known(f"pretrainings.{name}.dataset", of.dataset, study.datasets)
    for name, task in study.tasks.items():
        known(f"tasks.{name}.dataset", task.dataset, study.datasets)
        for other in task.zero_shot:
            known(f"tasks.{name}.zero_shot", other, [*(d for d in study.datasets if d != task.dataset), UNSEEN])
    _check_rows(study)
    for name, sheet in study.sheets.items():
        _check_sheet(study, name, sheet)
    _check_configs(study)
    maps.keywords(study.maps)
    for job in plan.jobs(study, Path("study")):
        if isinstance(job, Run) and job.maps is not None and (shape := progress.shape(study, job.row, job.task)):
            maps.check(study.maps, shape)


def _check_numbers(study: Study) -> None:
    if not study.seeds or len(set(study.seeds)) < len(study.seeds):
        raise InputError(f"seeds: found {list(study.seeds)}; expected one or more, each once")
    if len({f"{fraction:g}" for fraction in study.fractions}) < len(study.fractions):
        raise InputError(f"fractions: found {list(study.fractions)}; expected shares that differ in six digits")
    for fraction in study.fractions:
        if not 0 < fraction <= 1:
            raise InputError(f"fractions: found {fraction}; expected shares in (0, 1]")
    if study.resamples < 1:
        raise InputError(f"resamples: found {study.resamples}; expected 1 or more")


def _check_rows(study: Study) -> None:
    seen: dict[Any, str] = {}
    for row in study.rows:
        for key, what in ((row.name, "the name"), ((row.backbone, row.initial), "backbone and initial")):
            if key in seen:
                raise InputError(f"rows.{row.name}: found {what} of a row before it; expected each row once")
            seen[key] = row.name
        if row.pretraining:
            known(f"rows.{row.name}.pretraining", row.pretraining, study.pretrainings)
        elif (scratch := ("scratch", row.backbone)) in seen:
            raise InputError(
                f"rows.{row.name}: found a second row of {row.backbone} from scratch, beside {seen[scratch]}; expected "
                "one, which others are compared with; give it another backbone's name"
            )
        else:
            seen[scratch] = row.name
        if row.published:
            known(f"rows.{row.name}.published", row.published, published.ROWS)
        for name in (*row.instead, *row.instead.values()):
            known(f"rows.{row.name}.instead", name, study.datasets)


def _check_sheet(study: Study, name: str, sheet: Sheet) -> None:
    if name in _TAKEN:
        raise InputError(f"sheets: found the name '{name}'; expected another: that is a part of the report")
    known(f"sheets.{name}.kind", sheet.kind, KINDS)
    few = {"one task": sheet.tasks, "one fraction": sheet.fractions}
    for what, values in few.items():
        if not values or (what in KINDS[sheet.kind] and len(values) > 1):
            raise InputError(
                f"sheets.{name}: found {len(values)} {what.split()[1]}s; expected {KINDS[sheet.kind]} in a sheet of "
                f"{sheet.kind}"
            )
    for key, values, among in (
        ("tasks", sheet.tasks, study.tasks),
        ("rows", sheet.rows, [row.name for row in study.rows]),
        ("fractions", sheet.fractions, study.fractions),
    ):
        for value in values:
            known(f"sheets.{name}.{key}", value, among)
    if sheet.kind in ("sites", "probe", "maps") and sheet.fractions != (1.0,):
        raise InputError(
            f"sheets.{name}.fractions: found {sheet.fractions[0]}; expected 1.0 in a sheet of {sheet.kind}"
        )
    _check_sites(study, name, sheet)


def _check_sites(study: Study, name: str, sheet: Sheet) -> None:
    """Refuse sites that cannot be left out, and rows whose first weights saw whom they would be tested on."""
    where = f"sheets.{name}.sites"
    if bool(sheet.sites) != (sheet.kind == "sites"):
        found, expected = ("some", "none") if sheet.sites else ("none", "those to leave out, one at a time,")
        raise InputError(f"{where}: found {found}; expected {expected} in a sheet of {sheet.kind}")
    task = study.tasks[sheet.tasks[0]]
    for i, site in enumerate(sheet.sites):
        if not _NAME.fullmatch(site) or site in sheet.sites[:i]:
            raise InputError(
                f"{where}: found {site!r}; expected letters, digits, '.', '_' and '-', for folders are called by it, "
                "and each site once"
            )
    for row in study.rows_of(sheet) if sheet.sites else ():
        dataset = plan.dataset_of(task.dataset, row)
        for site in sheet.sites if (there := progress.sites(study.datasets[dataset])) else ():
            known(where, site, there)
        if row.pretraining and study.pretrainings[row.pretraining].dataset == dataset:
            raise InputError(
                f"sheets.{name}.rows: found '{row.name}', whose first weights saw people of these sites (pretraining "
                f"{row.pretraining}, on {dataset}); expected rows from scratch or from other data"
            )


def _check_configs(study: Study) -> None:
    """Read the config of every run once, whatever its seed: a misspelt key is told now, not after days."""
    every = plan.jobs(study, Path("study"))
    models: dict[str, str] = {}
    for job in every:
        if not isinstance(job, Training) or (isinstance(job, Run) and job.seed != study.seeds[0]):
            continue
        try:
            config = job.wanted()
        except InputError as e:
            raise InputError(f"{job.name}: {e}") from e
        models[job.name] = config.model.name
        supervised = config.objective.name == "supervised"
        if isinstance(job, Run) and not supervised:
            raise InputError(f"{job.name}: found objective '{config.objective.name}'; expected 'supervised' in a task")
        for first in job.needs:
            if first in models and models[first] != models[job.name]:
                raise InputError(
                    f"{job.name}: found the network {models[job.name]} on weights of {models[first]} ({first}); "
                    "expected the same network"
                )


def _both(one: str) -> str:
    return "both" if one else "neither"
