"""What a study is made of, as a file in configs/ declares it: data, pre-trainings, rows, tasks, sheets of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Of a task's zero-shot sets, the sites that its own dataset holds out whole.
UNSEEN = "ood"
#: Of results, the people of a site that was left out of training: `without-SITE`.
WITHOUT = "without"
#: Of results, how well a linear model names the site of scans.
PROBE = "probe-site"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Shards that are there, or a synthetic cohort that the study makes and prepares.

    Attributes:
      title: its name in tables.
      path: folder that `jaxneuro prepare` made; "" for a cohort.
      cohort: keywords of `cohort.CohortSpec`; None for shards that are there.
      prepare: keywords of `prepare.run.prepare` for the cohort.
    """

    title: str
    path: str = ""
    cohort: Mapping[str, Any] | None = None
    prepare: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """Weights that rows begin with: a training that the study does once, or a folder of converted ones.

    Attributes:
      config, dataset, overrides: a file in configs/, a name among the datasets, and `KEY=VALUE` of that config.
      weights: folder that `jaxneuro convert` or `export` made, in place of the three.
    """

    config: str = ""
    dataset: str = ""
    overrides: tuple[str, ...] = ()
    weights: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A network and what it begins with: a row of the tables.

    Attributes:
      name: of its folders.
      backbone, initial: as the tables have them; a row without a pre-training is what others of its backbone are
        compared with.
      pretraining: a name among the pre-trainings; "" from scratch.
      overrides: `KEY=VALUE` of the tasks' configs.
      instead: name of a dataset to that of another that takes its place, for a network of another volume size.
      published: the row of the paper that stands beside it (`published.NUMBERS`); "" for none.
    """

    name: str
    backbone: str
    initial: str
    pretraining: str = ""
    overrides: tuple[str, ...] = ()
    instead: Mapping[str, str] = field(default_factory=dict)
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What networks are fine-tuned for.

    Attributes:
      title: its name in tables.
      config, dataset, overrides: as those of a pre-training.
      zero_shot: datasets to test on without further training; "ood" is the sites that its own holds out.
      published: the task of the paper that stands beside it: "ad", "age", "pd" or "".
    """

    title: str
    config: str
    dataset: str
    zero_shot: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    published: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table of results, and so the runs that it needs.

    Attributes:
      title: above it.
      kind: "metrics" (every metric of one task), "tasks" (the main metric of each), "fractions" (of one task, by the
        share of the training subjects), "sites" (of one task, each site tested by networks that were trained without
        it), "probe" (how well a linear model names the site of a scan from the features of one task's networks) or
        "maps" (where the outputs of one task's networks come from, of the first seed).
      tasks, rows: names; no rows stand for all.
      fractions: shares of the training subjects, keys of the study's `fractions`.
      sites: of a sheet of sites, those that are left out, one at a time.
    """

    title: str
    kind: str
    tasks: tuple[str, ...]
    rows: tuple[str, ...] = ()
    fractions: tuple[float, ...] = (1.0,)
    sites: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Study:
    """A benchmark: every row on every task that a sheet names, by fraction and seed.

    Attributes:
      title: of its page.
      datasets, pretrainings, tasks: by name.
      rows: in the order of the tables.
      fractions: share of the training subjects in (0, 1] to further overrides of its runs.
      seeds: of the fine-tuning; pre-trainings are done once.
      sheets: name of a file to its table.
      resamples: of each evaluation's bootstrap.
      maps: how those of a sheet of maps are made: fields of `maps.making.Settings`, and `scans`, `untrained`,
        `tolerance_mm`, `seed` of `evaluation.occlusion.occlusion`.
    """

    title: str
    datasets: Mapping[str, Dataset]
    tasks: Mapping[str, Task]
    rows: tuple[Row, ...]
    sheets: Mapping[str, Sheet]
    pretrainings: Mapping[str, Pretraining] = field(default_factory=dict)
    fractions: Mapping[float, tuple[str, ...]] = field(default_factory=lambda: {1.0: ()})
    seeds: tuple[int, ...] = (0, 1)
    resamples: int = 2000
    maps: Mapping[str, Any] = field(default_factory=dict)

    def row(self, name: str) -> Row:
        """Return a row by name."""
        return next(row for row in self.rows if row.name == name)

    def rows_of(self, sheet: Sheet) -> list[Row]:
        """Return the rows of a sheet, in the study's order."""
        return [row for row in self.rows if not sheet.rows or row.name in sheet.rows]

    def scratch(self, row: Row, sheet: Sheet) -> Row | None:
        """Return the row of a sheet that a pre-trained one is compared with; None where there is none."""
        same = [r for r in self.rows_of(sheet) if r.backbone == row.backbone and not r.pretraining]
        return same[0] if same and row.pretraining else None
