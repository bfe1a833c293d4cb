"""The parts of a study's report: sentences, tables and pictures, the same for HTML and Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxneuro import splits
from jaxneuro.manifest import MISSING, Scan
from jaxneuro.study import answers, checklist, costs, maps, plan, progress, published, results, tables
from jaxneuro.study import facts as reading
from jaxneuro.study.drawings import Picture
from jaxneuro.study.facts import Facts
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import UNSEEN
from jaxneuro.study.tables import Table

#: Rows of long tables that the page shows; the CSV has all.
SHOWN = 50


class Section(NamedTuple):
    """Hold one part: a key for links and files, a title, sentences, tables, pictures."""

    key: str
    title: str
    lines: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def build(facts: Facts, pictures: Sequence[Picture]) -> list[Section]:
    """Return the parts of the report of a study, in order."""
    return [
        asked(facts),
        data(facts),
        *(_sheet(facts, name, [p for p in pictures if p.sheet == name]) for name in facts.results),
        against(facts),
        failures(facts),
        Section("how", "How the numbers were made", results.HOW),
        Section("time", "Time", tables=(costs.table(facts.jobs, facts.spent),)),
        Section("checklist", "Checklist", tables=(checklist.table(answers.known(facts)),)),
        versions(facts),
    ]


def asked(facts: Facts) -> Section:
    """Return what was asked for: rows, pre-trainings, tasks, seeds, how much of it is done."""
    study = facts.study
    rows = []
    for row in study.rows:
        runs = [run for run in facts.runs if run.row == row.name]
        if runs:
            done = sum(map(facts.finished, runs))
            network = facts.configs[runs[0].name].model.name
            rows.append((row.backbone, row.initial, network, _parameters(facts, runs), f"{done} of {len(runs)}"))
    begins = []
    for name, of in study.pretrainings.items():
        config = facts.configs.get(f"pretraining/{name}")
        used = [row.initial for row in study.rows if row.pretraining == name]
        if of.weights:
            begins.append((", ".join(used), f"weights of {of.weights}", "", ""))
        elif config is not None:
            scans = facts.described.get(f"pretraining/{name}", {}).get("folds", {}).get("train")
            on = f"{study.datasets[of.dataset].title}{f' ({scans:,} scans)' if scans else ''}"
            begins.append((", ".join(used), config.objective.name, on, str(config.training.epochs)))
    tasks = []
    for name, task in study.tasks.items():
        config = next((facts.configs[run.name] for run in facts.runs if run.task == name), None)
        if config is not None:
            outside = [study.datasets[n].title if n != UNSEEN else "its unseen sites" for n in task.zero_shot]
            tasks.append(
                (task.title, _question(config.task), study.datasets[task.dataset].title, ", ".join(outside) or "none")
            )
    fractions = sorted({run.fraction for run in facts.runs}, reverse=True)
    done = sum(map(facts.finished, facts.runs))
    lines = [
        f"{len(rows)} rows, {len(tasks)} tasks, shares of the training subjects: "
        f"{', '.join(f'{f:.0%}' for f in fractions)}; seeds: {', '.join(map(str, study.seeds))}.",
    ]
    if left := len(facts.runs) - done:
        lines.append(f"Not finished: {left} of {len(facts.runs)} runs; a cell without any is n/a.")
    if len(study.seeds) < 2:
        lines.append("One seed: nothing is known of the spread of training again.")
    made = (
        Table("Rows", ("Backbone", "Initial", "Network", "Parameters", "Runs finished"), tuple(rows)),
        Table("Pre-trainings", ("Of rows", "Objective", "On", "Epochs"), tuple(begins)),
        Table("Tasks", ("Task", "What is predicted", "Trained on", "Also tested on, without training"), tuple(tasks)),
    )
    return Section("asked", "What was asked", tuple(lines), tuple(table for table in made if table.rows))


def _parameters(facts: Facts, runs: Iterable[Run]) -> str:
    counts = {n for run in runs if (n := facts.described.get(run.name, {}).get("parameters")) is not None}
    return " or ".join(f"{n:,}" for n in sorted(counts)) or "n/a"


def _question(task: Any) -> str:
    if task.kind == "regression":
        return f"{task.target}, of {', '.join(task.only)}" if task.only else task.target
    classes = list(task.classes)
    among = "all that training has" if classes == ["*"] else " against ".join(reversed(classes))
    return f"{task.target}: {among}"


def data(facts: Facts) -> Section:
    """Return the datasets, who is in each fold, and how many scans each task has."""
    every: list[Table] = []
    rows = []
    for name, dataset in facts.datasets.items():
        card, left_out = dataset.card, [p for p in reading.problems(dataset) if p.dropped]
        spacing = card.get("spacing_mm")
        rows.append(
            (
                facts.study.datasets[name].title,
                "yes" if card.get("synthetic") else "no",
                f"{len(dataset.scans):,}",
                f"{len({s.subject for s in dataset.scans}):,}",
                " × ".join(map(str, card["shape"][:3])),
                " × ".join(f"{v:g}" for v in spacing) if spacing else "n/a",
                str((card.get("recipe") or {}).get("name", "n/a")),
                f"{len(left_out):,}",
            )
        )
        every.append(_folds(facts.study.datasets[name].title, dataset.scans, dataset.splits))
    columns = ("Dataset", "Synthetic", "Scans", "Subjects", "Voxels", "mm", "Recipe", "Left out in preparation")
    counts, excluded = _scans(facts)
    lines: tuple[str, ...] = (
        "Folds are of subjects: nobody is in two. Networks were chosen on validation; nobody in a test was trained on, "
        "in a pre-training either (each run checks it). Where weights come from elsewhere, whom they saw is not known. "
        "A dataset on which a task is tested without training is tested whole, all its folds.",
    )
    made = [Table("Datasets", columns, tuple(rows)), *every, counts, *([excluded] if excluded.rows else [])]
    lines = (*lines, *_shared_sites(facts))
    return Section("data", "Data and folds", lines, tuple(table for table in made if table.rows))


def _shared_sites(facts: Facts) -> list[str]:
    """Say which sites of the tests the first weights of rows saw others of; sites are known by their names alone."""
    said = []
    for name, of in facts.study.pretrainings.items():
        before = facts.datasets.get(of.dataset)
        used = {plan.dataset_of(n, row) for row in facts.study.rows if row.pretraining == name for n in _tested(facts)}
        for other in sorted(used - {of.dataset}) if before else ():
            if other in facts.datasets and before:
                shared = {s.site for s in before.scans} & {s.site for s in facts.datasets[other].scans} - {MISSING}
                if shared:
                    title = facts.study.datasets[other].title
                    said.append(
                        f"Pre-training '{name}' saw other people of sites that {title} has, too, by name: "
                        f"{', '.join(sorted(shared))}. Where both mean the same scanners, a test "
                        "there is of new people, not of a new scanner."
                    )
    return said


def _tested(facts: Facts) -> list[str]:
    """Return the names of the datasets that tasks are of, or are tested on."""
    tasks = facts.study.tasks.values()
    return list(dict.fromkeys(n for task in tasks for n in (task.dataset, *task.zero_shot) if n != UNSEEN))


def _folds(title: str, scans: Sequence[Scan], folds: splits.Splits) -> Table:
    """Return who is in each fold of a dataset: a row a fold, with all scans of its subjects."""
    diagnoses = sorted({s.diagnosis for s in scans} - {MISSING})
    rows = []
    for fold in splits.FOLDS:
        here = [scans[i] for i in splits.select(scans, folds, fold, sessions="all")]
        if here:
            first = list({s.subject: s for s in reversed(here)}.values())
            counts = Counter(s.diagnosis for s in here)
            rows.append(
                (
                    tables.fold_name(fold),
                    f"{len(first):,}",
                    f"{len(here):,}",
                    ", ".join(sorted({s.site for s in here} - {MISSING})) or "not stated",
                    _ages(s.age for s in here),
                    _counted(s.sex for s in first),
                    *(f"{counts[d]:,}" for d in diagnoses),
                )
            )
    columns = ("Fold", "Subjects", "Scans", "Sites", "Age: mean (SD), range", "Sex of subjects", *diagnoses)
    return Table(f"{title}: who is in each fold", columns, tuple(rows))


def _ages(values: Iterable[float]) -> str:
    known = np.array([v for v in values if not math.isnan(v)])
    if not len(known):
        return "not stated"
    sd = f" ({known.std(ddof=1):.1f})" if len(known) > 1 else ""
    return f"{known.mean():.1f}{sd}, {known.min():.0f} to {known.max():.0f}"


def _counted(values: Iterable[str]) -> str:
    counts = Counter("not stated" if v == MISSING else v for v in values)
    return ", ".join(f"{n:,} {v}" for v, n in sorted(counts.items()))


def _scans(facts: Facts) -> tuple[Table, Table]:
    """Return the scans of each task by what they were for, and those that were left out, with reasons."""
    rows: dict[tuple[str, ...], None] = {}
    excluded: dict[tuple[str, ...], None] = {}
    for run in facts.runs:
        told, title = facts.described.get(run.name), facts.study.tasks[run.task].title
        if told is None:
            continue
        less = f", without site {run.without}" if run.without else ""
        for fold, what in (("train", f"training, {run.fraction:.0%}{less}"), ("validation", f"validation{less}")):
            rows[title, what, f"{told['folds'].get(fold, 0):,}", ""] = None
        for entry in told.get("excluded", ()):
            excluded[title, entry["reason"], f"{entry['scans']:,}"] = None
        for name, metrics in reading.evaluations(run).items():
            for fold in ("test", "ood"):
                entry = metrics["folds"].get(fold, {})
                if entry.get("scans"):
                    site = f"site {run.without}" if run.without and fold == "ood" else tables.fold_name(fold)
                    of = facts.study.datasets[name].title if name else f"{site}{less if fold == 'test' else ''}"
                    counts = entry.get("class_counts") or {}
                    rows[title, of, f"{entry['scans']:,}", ", ".join(f"{n:,} {c}" for c, n in counts.items())] = None
    head = ("Task", "For", "Scans", "Classes")
    note = "One scan a subject in validation and tests; training takes all."
    return (
        Table("Scans of each task", head, tuple(rows), (note,)),
        tables.cut(Table("Left out of a task", ("Task", "Reason", "Scans"), tuple(excluded)), SHOWN),
    )


def _sheet(facts: Facts, name: str, pictures: Sequence[Picture]) -> Section:
    of = facts.results[name]
    if of.sheet.kind == "maps":
        scored = maps.table(facts.study, facts.out, of.sheet)
        drawn = maps.drawn(facts.study, facts.out, name)
        return Section(name, of.sheet.title, tables=tuple(scored), pictures=tuple(drawn))
    made = results.tables_of(facts.study, of, facts.found)
    return Section(name, of.sheet.title, tables=tuple(made), pictures=tuple(pictures))


def against(facts: Facts) -> Section:
    """Return the paper's numbers beside this study's, in one table, and whether they can be compared."""
    rows = []
    for of in facts.results.values():
        for row in facts.study.rows_of(of.sheet):
            for column in of.columns:
                number, here = results.published_number(facts.study, row, column), of.values.get((row.name, column))
                if number is not None:
                    mean = here.mean if here and here.n else math.nan
                    rows.append(
                        (
                            row.backbone,
                            row.initial,
                            published.STARTS[row.published],
                            column.head,
                            _with_sd(mean, here.sd if here else math.nan),
                            _with_sd(number.mean, math.nan if number.sd is None else number.sd),
                            # A difference would be read as a result.
                            *(() if facts.synthetic else (tables.number(mean - number.mean, results.DIGITS),)),
                        )
                    )
    unique = tuple(dict.fromkeys(rows))
    if not unique:
        lines: tuple[str, ...] = ("No row of this study stands for one of the paper's.",)
    elif facts.synthetic:
        lines = (
            "Not comparable: scans of this study are synthetic, and how strong their effects are was chosen by a "
            "program. The paper's numbers stand here to show the shape of its tables, not as a mark to reach.",
        )
    else:
        lines = (
            "Comparable as far as the scans are: the paper's own subjects and splits are not published, and "
            "differences between test sets of this size are partly noise (the intervals of the tables).",
        )
    head: tuple[str, ...] = ("Backbone", "Initial", "In the paper", "What", "Here: mean (SD)", "Paper: mean (SD)")
    head = head if facts.synthetic else (*head, "Here less paper")
    made = (Table("Side by side", head, unique, (f"Paper: {published.SOURCE}.",)),) if unique else ()
    return Section("paper", "Against the paper", lines, made)


def _with_sd(mean: float, sd: float) -> str:
    spread = "" if math.isnan(sd) else f" ({tables.number(sd, results.DIGITS)})"
    return f"{tables.number(mean, results.DIGITS)}{spread}"


def failures(facts: Facts) -> Section:
    """Return the jobs that failed or are not finished, and the scans that were left out in preparation."""
    counts = Counter(state for state, _ in facts.states.values())
    told = ", ".join(
        f"{counts[s]} {s}"
        for s in (progress.FINISHED, progress.RUNNING, progress.FAILED, progress.READY, progress.WAITS)
        if counts[s]
    )
    failed = tuple((name, note) for name, (state, note) in facts.states.items() if state == progress.FAILED)
    scans = tuple(
        (facts.study.datasets[name].title, "left out" if p.dropped else "kept, value missing", str(p))
        for name, dataset in facts.datasets.items()
        for p in reading.problems(dataset)
    )
    lines = [f"{len(facts.jobs)} jobs: {told}."]
    if not scans:
        lines.append("Preparation left out no scan and mended no value.")
    made = (
        Table("Jobs that failed", ("Job", "Why"), failed),
        tables.cut(Table("Scans with a problem in preparation", ("Dataset", "Scan", "Problem"), scans), SHOWN),
    )
    return Section("failures", "Failures", tuple(lines), tuple(table for table in made if table.rows))


def versions(facts: Facts) -> Section:
    """Return the versions of the software that trained, and hashes of the datasets."""
    found: dict[str, dict[str, None]] = {}
    for told in facts.described.values():
        for name, version in told["versions"].items():
            found.setdefault(name, {})[version] = None
    rows = [(name, ", ".join(every)) for name, every in found.items()]
    devices = sorted({told["devices"] for told in facts.described.values() if "devices" in told})
    rows += [("Devices of a run", ", ".join(devices))] if devices else []
    for name, dataset in facts.datasets.items():
        title = facts.study.datasets[name].title
        rows += [
            (f"{title}: {what}, SHA-256", str(dataset.card[key]))
            for key, what in (("manifest_sha256", "manifest"), ("splits_sha256", "folds"))
            if key in dataset.card
        ]
        rows.append((f"{title}: recipe's fingerprint", str(dataset.card.get("recipe_fingerprint", "n/a"))))
    made = Table("Software, devices, data", ("What", "Which"), tuple(rows))
    return Section("versions", "Versions and hashes", tables=(made,) if rows else ())
