"""What a study knows of the items of TRIPOD+AI, in sentences, from its own files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from jaxneuro.manifest import MISSING, Scan
from jaxneuro.study import facts as reading
from jaxneuro.study import tables
from jaxneuro.study.facts import Facts
from jaxneuro.study.gather import TEST
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import UNSEEN


def known(facts: Facts) -> dict[str, str]:
    """Return what is known of each item, by its number; items that only authors can answer are not there."""
    study = facts.study
    runs = [run for run in facts.runs if run.name in facts.described]
    if not runs:
        return {}
    configs = [facts.configs[run.name] for run in runs]
    tasks = {run.task: facts.configs[run.name].task for run in runs}
    zero_shot = any(run.others or UNSEEN in study.tasks[run.task].zero_shot for run in runs)
    said = {
        "4": "Development, and evaluation on people held out"
        + ("; and on datasets or sites that none was fine-tuned on." if zero_shot else "."),
        "5a": _listed(
            f"{study.datasets[n].title} ({'synthetic, ' if d.card.get('synthetic') else ''}{len(d.scans):,} scans)"
            for n, d in facts.datasets.items()
        ),
        "6a": _listed(f"{study.datasets[n].title}: {_sites(d.scans)}" for n, d in facts.datasets.items()),
        "6b": "Scans that preparation accepted and that have a label of the task; reasons and numbers under 'Data and "
        "folds'. Who was eligible for the studies that scanned them is for the authors.",
        "7": _listed(
            f"{study.datasets[n].title}: recipe {(d.card.get('recipe') or {}).get('name', 'n/a')}, "
            f"{sum(p.dropped for p in reading.problems(d)):,} scans left out"
            for n, d in facts.datasets.items()
        )
        + " The same recipe and checks for everybody of a dataset.",
        "8a": _listed(f"{study.tasks[n].title}: '{t.target}' of the manifest ({t.kind})" for n, t in tasks.items())
        + " How it was assessed is for the authors.",
        "9a": "One: the volume of the T1-weighted scan. Age, sex and site are not given to a network.",
        "9b": _listed(
            f"{study.datasets[n].title}: {' × '.join(map(str, d.card['shape'][:3]))} voxels"
            for n, d in facts.datasets.items()
        ),
        "10": "Every scan that is there; no sample size was calculated. The intervals say what it allows.",
        "11": f"Scans that a task is not about or that have no label of it are left out (reasons: 'Data and folds'): "
        f"{_excluded(runs, facts)}. Nothing was imputed.",
        "12a": "Subjects, not scans, were divided into training, validation and test once for all tasks; smaller "
        f"shares of the training subjects are part of larger ones: {_listed(f'{f:.0%}' for f in _fractions(runs))}",
        "12b": f"Half floats, normalised on the device: {_listed({c.data.normalise for c in configs})} Views in "
        f"training: {_listed({v for c in configs for v in _views(c.augment)})}",
        "12c": f"Networks: {_listed({c.model.name for c in configs})} Optimisers: "
        f"{_listed({c.optimizer.name for c in configs})} Seeds: {_listed(map(str, study.seeds))} The weights of each "
        "run are those with the best validation metric; every setting is in its config.json.",
        "12d": _sites_answer(facts),
        "12e": "See 'How the numbers were made': DeLong's intervals and paired tests, bootstraps over subjects, Holm's "
        "correction; calibration and operating points in each run's metrics.json.",
        "12f": "None.",
        "12g": "By the network itself, its weights and threshold chosen on validation and applied unchanged.",
        "13": f"Scans of each class under 'Data and folds'. Classes weighted in the loss: {_weighted(configs)}.",
        "14": "Metrics within each site, sex and decade of age, and the worst site, in each run's metrics.json "
        "(groups); nothing was done to make them equal.",
        "15": "A probability, or years. Thresholds by Youden's index on validation; also at 0.5, and at the best of "
        "the test, which is labelled optimistic.",
        "16": _differences(facts),
        "18f": _code(facts, runs),
        "20a": "See 'Data and folds' and 'Failures'. Follow-up is for the authors.",
        "20b": "See 'Data and folds': age, sex, site and diagnosis of each fold of each dataset.",
        "20c": "See 'Data and folds': training and tests beside each other.",
        "21": "See 'Scans of each task'.",
        "22": "The weights of each run are in its folder (best/); jaxneuro export writes them with a card.",
        "23a": _performance(facts),
        "23b": "By site in each run's metrics.json (groups)"
        + ("; leave-one-site-out in the tables." if _has(facts, "sites") else "."),
        "24": "None.",
        "26": _limits(facts),
    }
    if facts.datasets and len(facts.synthetic) == len(facts.datasets):
        said["5b"] = "None: the scans were made by a program."
        said["17"] = "No person took part: all scans are synthetic."
        said["18e"] = "Cohorts are made anew from the seeds in the study's file, by jaxneuro cohort."
    return said


def _listed(names: Iterable[str]) -> str:
    return f"{', '.join(dict.fromkeys(sorted(names) if isinstance(names, set) else names)) or 'none'}."


def _sites(scans: Iterable[Scan]) -> str:
    names = {s.site for s in scans} - {MISSING}
    return f"{len(names):,} sites" if names else "sites not stated"


def _views(augment: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the views that change a scan at all."""
    return [name for name, given in augment.items() if given.get("probability", 1) and given.get("voxels", 1)]


def _excluded(runs: list[Run], facts: Facts) -> str:
    counts: Counter[str] = Counter()
    for run in runs:
        title = facts.study.tasks[run.task].title
        counts[title] = sum(entry["scans"] for entry in facts.described[run.name].get("excluded", ()))
    return ", ".join(f"{title} {n:,}" for title, n in counts.items())


def _fractions(runs: list[Run]) -> list[float]:
    return sorted({run.fraction for run in runs}, reverse=True)


def _weighted(configs: list[Any]) -> str:
    named = {str(c.objective.get("class_weights", "none")) for c in configs}
    return ", ".join(sorted(named))


def _has(facts: Facts, kind: str) -> bool:
    return any(sheet.kind == kind for sheet in facts.study.sheets.values())


def _sites_answer(facts: Facts) -> str:
    said = ["Metrics by site in each run's metrics.json"]
    if any(UNSEEN in facts.study.tasks[run.task].zero_shot for run in facts.runs):
        said.append("sites held out whole")
    if _has(facts, "sites"):
        said.append("leave-one-site-out")
    if _has(facts, "probe"):
        said.append("a linear probe for site of the networks' features")
    return "; ".join(said) + "."


def _differences(facts: Facts) -> str:
    recipes = {d.card.get("recipe_fingerprint") for d in facts.datasets.values()}
    same = "prepared alike" if len(recipes) < 2 else "not all prepared by one recipe"
    return f"Datasets are {same}; ages, sites and diagnoses of each stand under 'Data and folds'."


def _code(facts: Facts, runs: list[Run]) -> str:
    versions = {facts.described[run.name]["versions"].get("jaxneuro", "unknown") for run in runs}
    return f"jaxneuro {', '.join(sorted(versions))}; the study's file and the command stand in this report."


def _performance(facts: Facts) -> str:
    sizes = {facts.study.tasks[key.task].title: len(of.scans) for key, of in facts.found.items() if key.set == TEST}
    told = ", ".join(f"{title} {n:,} scans" for title, n in sizes.items())
    return f"See the tables, with intervals. Tests: {told or 'none finished'}. Of groups: metrics.json of each run."


def _limits(facts: Facts) -> str:
    said = [f"{len(facts.study.seeds)} seeds of the fine-tuning, one of each pre-training"]
    tests = [len(of.scans) for of in facts.found.values() if of.scans]
    if tests and min(tests) < tables.FEW_SUBJECTS:
        said.append(f"tests of as few as {min(tests)} scans")
    if facts.synthetic:
        said.append("synthetic scans: nothing about patients follows")
    return "; ".join(said) + ". What else limits it is for the authors."
