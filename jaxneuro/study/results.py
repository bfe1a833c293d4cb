"""The tables of a study from what its runs found: as text, as CSV, and for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxneuro import configuration, whole
from jaxneuro.study import compare, plan, published, tables
from jaxneuro.study.compare import Compared, Estimate, Pair
from jaxneuro.study.gather import TEST, UNTRAINED, Found, Key
from jaxneuro.study.spec import PROBE, UNSEEN, WITHOUT, Row, Sheet, Study
from jaxneuro.study.tables import Table

#: Metrics of a sheet of one task, the main one first.
METRICS = {
    "binary": ("roc_auc", "accuracy", "sensitivity", "specificity"),
    "multiclass": ("roc_auc", "accuracy", "balanced_accuracy"),
    "regression": ("mae", "rmse", "r", "r2"),
}
DIGITS = 3
HOW = (
    "Means over the seeds of the fine-tuning; SD: their standard deviation (n - 1). A pre-training is done once: what "
    "another would give is not in it.",
    "Intervals (ROC-AUC, MAE) are of that mean, over the people in the test: DeLong's of ROC-AUC, its counts summed "
    "over seeds; of MAE a bootstrap over subjects. They do not hold the spread of training again.",
    "Differences are those of a pre-trained row from its backbone's row from scratch, on the same scans: DeLong's "
    "paired test, for MAE the paired bootstrap over subjects. Holm's correction is over all comparisons of a table, "
    "so one that stands in several tables has a corrected p in each.",
    "Different: Holm's p is below 0.05 and the ranges over seeds do not overlap. Within noise: these scans do not show "
    "a difference, not that there is none.",
)
OF_SITES = (
    "Each site is tested by networks that were fine-tuned without anyone who was seen there. The mean over sites has "
    "no interval: that over people would say how well these sites are known, not what another one would give. The "
    "worst site was chosen for being it, so its value is pessimistic, the more so the more and the smaller sites are. "
    "A pre-training may have seen other people of a site, which is then no new scanner for its row: 'Data and folds' "
    "says which."
)
OF_PROBES = (
    "How well logistic regression on a network's frozen features names the site of a scan, as the mean recall of the "
    "sites. High, the features carry the scanner, or what else sites differ in (age, sex, disease); beside it the same "
    "network untrained, and the most that a guess can expect. Intervals are in each probe.json."
)


class Column(NamedTuple):
    """Say what one column of a sheet is of; `main` ones are compared with scratch."""

    task: str
    fraction: float
    set: str
    metric: str
    head: str
    main: bool

    def of(self, row: Row) -> Key:
        """Return where a row's values are."""
        return Key(self.task, row.name, self.fraction, self.set)


class Result(NamedTuple):
    """Hold one sheet: its columns, an estimate for each (row, column) that has runs, and the comparisons."""

    sheet: Sheet
    columns: tuple[Column, ...]
    values: dict[tuple[str, Column], Estimate]
    compared: dict[Pair, Compared]


def columns(study: Study, sheet: Sheet, kinds: Mapping[str, str]) -> tuple[Column, ...]:
    """Return the columns of a sheet, none of maps; `kinds` are those of the tasks, by name."""
    if sheet.kind == "maps":
        return ()
    if sheet.kind == "sites":
        return _columns_of_sites(sheet, tables.MAIN_METRIC[kinds[sheet.tasks[0]]])
    if sheet.kind == "probe":
        return tuple(
            Column(sheet.tasks[0], 1.0, name, metric, head, False)
            for name, metric, head in (
                (PROBE, "balanced_accuracy", "Site, balanced accuracy: trained"),
                (UNTRAINED, "balanced_accuracy", "untrained"),
                (PROBE, "chance", "chance"),
            )
        )
    found = []
    for task in sheet.tasks:
        main = tables.MAIN_METRIC[kinds[task]]
        several = sheet.kind == "tasks"
        for fraction in sheet.fractions:
            share = f", {fraction:.0%} of training" if sheet.kind == "fractions" or fraction < 1 else ""
            metrics = METRICS[kinds[task]] if sheet.kind == "metrics" else (main,)
            sets = [TEST, *(study.tasks[task].zero_shot if sheet.kind != "fractions" else ())]
            for name in sets:
                for metric in metrics if name == TEST else (main,):
                    title = f"{study.tasks[task].title}, " if several else ""
                    head = f"{title}{_set_title(study, task, name)}{share}: {_metric_title(metric)}"
                    found.append(Column(task, fraction, name, metric, head, metric == main))
    return tuple(found)


def _columns_of_sites(sheet: Sheet, metric: str) -> tuple[Column, ...]:
    """Return a column a site, and that of the mean over them."""
    (task,), title = sheet.tasks, _metric_title(metric)
    of_each = (Column(task, 1.0, f"{WITHOUT}-{site}", metric, f"Site {site}: {title}", True) for site in sheet.sites)
    return (*of_each, Column(task, 1.0, WITHOUT, metric, f"Mean over sites: {title}", False))


def result(study: Study, sheet: Sheet, found: Mapping[Key, Found], kinds: Mapping[str, str]) -> Result:
    """Return one sheet of a study from what was found."""
    chosen = columns(study, sheet, kinds)
    rows = study.rows_of(sheet)
    values = {
        (row.name, column): compare.estimate(found[column.of(row)], column.metric)
        for row in rows
        for column in chosen
        if column.of(row) in found
    }
    if sheet.kind == "sites":
        *of_each, mean = chosen
        for row in rows:
            there = [found[column.of(row)] for column in of_each if column.of(row) in found]
            if len(there) == len(of_each) and (over := compare.over_sites(there, mean.metric)):
                values[row.name, mean] = over
    pairs = [
        Pair(column.of(row), column.of(scratch), column.metric)
        for row in rows
        for column in chosen
        if column.main and (scratch := study.scratch(row, sheet)) and {column.of(row), column.of(scratch)} <= set(found)
    ]
    return Result(sheet, chosen, values, compare.compare(found, pairs))


def table(study: Study, of: Result, found: Mapping[Key, Found]) -> Table:
    """Return a sheet as a table: a row for each network and start, and beneath it the paper's."""
    rows = []
    worst = of.sheet.kind == "sites"
    for row in study.rows_of(of.sheet):
        cells = [_cell(of.values.get((row.name, column)), column, len(study.seeds)) for column in of.columns]
        rows.append((row.backbone, row.initial, *cells, *([_worst(of, row)] if worst else [])))
        paper = [_published(study, row, column) for column in of.columns]
        if any(paper):
            rows.append(("", f"in the paper: {published.STARTS[row.published]}", *(cell or "n/a" for cell in paper)))
    notes = [note for column in of.columns if column.main for note in _sizes(study, of, column, found)]
    if of.sheet.kind == "probe":
        notes += _sizes_of_probes(study, of, found)
    notes += {"sites": [OF_SITES], "probe": [OF_PROBES]}.get(of.sheet.kind, [])
    head = ("Backbone", "Initial", *(c.head for c in of.columns), *(["Worst site"] if worst else []))
    return Table(of.sheet.title, head, tuple(rows), tuple(notes))


def differences(study: Study, of: Result) -> Table:
    """Return what pre-training did in a sheet: a row for each comparison with scratch."""
    heads = {(c.task, c.fraction, c.set, c.metric): c.head for c in of.columns}
    rows = []
    for pair, told in of.compared.items():
        row = study.row(pair.first.row)
        metric = heads[pair.first.task, pair.first.fraction, pair.first.set, pair.metric]
        cells = (_difference(told), _p(told.p), _p(told.adjusted), told.verdict)
        rows.append((row.backbone, row.initial, metric, *cells))
    head = ("Backbone", "Initial", "Metric", "Less scratch (95 % interval)", "p", "Holm's p", "Verdict")
    return Table(f"{of.sheet.title}: differences from scratch", head, tuple(rows))


def compute(study: Study, found: Mapping[Key, Found], kinds: Mapping[str, str]) -> dict[str, Result]:
    """Return every sheet of a study, by name, from what was found."""
    return {name: result(study, sheet, found, kinds) for name, sheet in study.sheets.items()}


def tables_of(study: Study, of: Result, found: Mapping[Key, Found]) -> list[Table]:
    """Return a sheet as a table, and what differs from scratch as another, where anything is compared."""
    return [table(study, of, found), *([differences(study, of)] if of.compared else [])]


def write_numbers(folder: Path, sheets: Mapping[str, Result]) -> None:
    """Write the numbers of sheets, whole: values.csv and comparisons.csv."""
    values = [
        (name, row, c.task, c.fraction, c.set, c.metric, *_raw(told[:2]), told.n, *_raw(told[3:]))
        for name, of in sheets.items()
        for (row, c), told in of.values.items()
    ]
    compared = [
        (name, a.row, b.row, a.task, a.fraction, a.set, metric, *_raw(told[:5]), told.verdict)
        for name, of in sheets.items()
        for (a, b, metric), told in of.compared.items()
    ]
    of_what = ("sheet", "row", "task", "fraction", "set", "metric")
    whole.write_csv(folder / "values.csv", (*of_what, "mean", "sd", "seeds", "low", "high"), values)
    against = ("sheet", "row", "scratch", *of_what[2:], "difference", "low", "high", "p", "holm", "verdict")
    whole.write_csv(folder / "comparisons.csv", against, compared)


def published_number(study: Study, row: Row, column: Column) -> published.Number | None:
    """Return the paper's number that stands beside one of a sheet, None where there is none."""
    if column.set not in (TEST, *study.tasks[column.task].zero_shot):
        return None
    where = "test" if column.set == TEST else "zero-shot"
    return published.NUMBERS.get(
        (row.published, study.tasks[column.task].published, column.fraction, where, column.metric)
    )


def kinds_of(study: Study) -> dict[str, str]:
    """Return the kind of each task by name: "binary", "multiclass" or "regression"."""
    return {
        name: configuration.read(task.config, [f"--config.{s}" for s in plan.merged(task.overrides)]).task.kind
        for name, task in study.tasks.items()
    }


def markdown(of: Table) -> str:
    """Return a table in Markdown, with its title above and its notes below."""
    lines = [of.columns, tuple("---:" if numeric else "---" for numeric in of.numeric()), *of.rows]
    cells = "".join("| " + " | ".join(plain(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)
    return f"### {plain(of.title)}\n\n{cells}" + "".join(f"\n{plain(note)}\n" for note in of.notes)


def plain(text: str) -> str:
    """Return a text as Markdown shows it: on one line, without tags."""
    return " ".join(text.split()).replace("<", "&lt;")


def _set_title(study: Study, task: str, name: str) -> str:
    own = study.datasets[study.tasks[task].dataset].title
    if name == TEST:
        return own
    return f"{own}, unseen site (0-shot)" if name == UNSEEN else f"{study.datasets[name].title} (0-shot)"


def _metric_title(metric: str) -> str:
    return tables.METRIC_NAMES[metric] + (" (years)" if metric in ("mae", "rmse") else "")  # of age, the one regression


def _cell(of: Estimate | None, column: Column, seeds: int) -> str:
    """Format an estimate as `0.912 (SD 0.005; 0.880 to 0.940)`."""
    if of is None:
        return "n/a"
    if not of.n:
        return "undefined"
    if column.metric == "chance":
        return tables.number(of.mean, DIGITS)
    said = [f"SD {tables.number(of.sd, DIGITS)}"] if of.n > 1 else []
    if of.n < seeds or of.n == 1:
        said.append(f"{of.n} of {seeds} seeds" if seeds > 1 else "1 seed")
    if not math.isnan(of.low):
        said.append(f"{tables.number(of.low, DIGITS)} to {tables.number(of.high, DIGITS)}")
    return f"{tables.number(of.mean, DIGITS)} ({'; '.join(said)})"


def _worst(of: Result, row: Row) -> str:
    """Name the site with the worst mean over seeds, once every site has one."""
    means = {
        site: of.values[row.name, column].mean
        for site, column in zip(of.sheet.sites, of.columns, strict=False)  # the last is of their mean
        if (row.name, column) in of.values and of.values[row.name, column].n
    }
    if len(means) < len(of.sheet.sites):
        return "n/a"
    site = (max if of.columns[0].metric == "mae" else min)(means, key=lambda site: means[site])
    return f"{site}: {tables.number(means[site], DIGITS)}"


def _published(study: Study, row: Row, column: Column) -> str:
    number = published_number(study, row, column)
    if number is None:
        return ""
    spread = f" ({tables.number(number.sd, DIGITS)})" if number.sd is not None else ""
    return f"{tables.number(number.mean, DIGITS)}{spread}"


def _difference(told: Compared) -> str:
    ends = "" if math.isnan(told.low) else f" ({tables.number(told.low, DIGITS)} to {tables.number(told.high, DIGITS)})"
    return f"{tables.number(told.difference, DIGITS)}{ends}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else tables.number(value, 4)


def _sizes(study: Study, of: Result, column: Column, found: Mapping[Key, Found]) -> list[str]:
    """Say how many scans a column is tested on, and what knowing nothing gives."""
    there = [found[column.of(row)] for row in study.rows_of(of.sheet) if column.of(row) in found]
    if not there:
        return []
    scans = " or ".join(dict.fromkeys(f"{len(f.scans):,}" for f in there))
    of_mean = there[0].metrics.get("mae_of_mean") if column.metric == "mae" else None
    mean = f"; predicting the training mean: {tables.number(of_mean[0], DIGITS)}" if of_mean is not None else ""
    return [f"{column.head}: {scans} scans{mean}."]


def _sizes_of_probes(study: Study, of: Result, found: Mapping[Key, Found]) -> list[str]:
    """Say how many scans and sites probes are tested on."""
    key = of.columns[0].of
    there = [found[key(row)].metrics for row in study.rows_of(of.sheet) if key(row) in found]
    sizes = dict.fromkeys((int(m["scans"][0]), int(m["sites"][0])) for m in there)
    return [f"Probes: {' or '.join(f'{scans:,} scans of {sites} sites' for scans, sites in sizes)}."] if sizes else []


def _raw(values: Sequence[float]) -> list[str]:
    """Return numbers as CSV keeps them, whole; a missing one is empty."""
    return ["" if math.isnan(value) else repr(float(value)) for value in values]
