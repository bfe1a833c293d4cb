"""Does pre-training help? The paper's question on synthetic scans: pre-train, fine-tune, test, one table.

python tools/pretraining.py --out runs/pretraining            (about four hours on two cores; stopped, it goes on)
python tools/pretraining.py --out runs/pretraining --only vit
python tools/pretraining.py --out /tmp/try --small            (fewer people, one seed, one epoch; half an hour)

A pre-training cohort of healthy people, and another cohort with Alzheimer's and Parkinson's disease, of other people.
Two small networks, each from scratch and after each objective that it can be pre-trained with; three tasks, 10 % and
100 % of the training subjects, three seeds; the same recipe for every row of a network. Prints and writes `table.md`,
`learnt.md` (what each pre-training learnt: its loss beside that of knowing nothing, linear probes of its features
beside those of an untrained network) and `results.json`, with the network's name when it is one (`--only`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxneuro import configuration, terminal
from jaxneuro.errors import InputError, Preempted
from jaxneuro.evaluation import evaluate, probe
from jaxneuro.prepare import cohort, recipes
from jaxneuro.prepare import run as preparing
from jaxneuro.study import tables
from jaxneuro.training import journal, loop, runtime

VOXEL_MM = 3.0
RECIPE = "quick40"
UNSEEN_SITE = "D"

#: Network -> its overrides.
NETWORKS = {
    "densenet": (
        "model.name=tiny_densenet", "model.block_sizes=(2,4,4)", "model.growth_rate=12", "model.stem_features=24",
        "data.batch_size=16",
    ),
    "vit": (
        "model.name=vit_b16", "model.patch_size=(8,8,8)", "model.width=96", "model.depth=4", "model.heads=4",
        "data.batch_size=16",
    ),
}  # fmt: skip
#: Network -> name of a pre-training -> (config, overrides).
PRETRAINING: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "densenet": {
        "sex": (
            "pretrain_supervised",
            ("training.epochs=3", "optimizer.warmup_epochs=0.5", "optimizer.learning_rate=2e-3"),
        ),
        "y-aware": (
            "pretrain_contrastive",
            (
                "training.epochs=10",
                "data.batch_size=32",
                "optimizer.learning_rate=3e-4",
                "data.normalise=brain",
                # The published noise and blur hide what a small network at this size can see: with them the
                # embeddings of all scans fall together and the loss stays at that of knowing nothing.
                "augment.noise.probability=0.0",
                "augment.blur.probability=0.0",
            ),
        ),
    },
    "vit": {
        "sex": (
            "pretrain_supervised",
            ("training.epochs=6", "optimizer.warmup_epochs=1.0", "optimizer.learning_rate=5e-4"),
        ),
        "SimMIM": (
            "pretrain_masked",
            (
                "training.epochs=20",
                "optimizer.learning_rate=1e-3",
                "optimizer.warmup_epochs=2.0",
                "objective.ratio=0.6",
            ),
        ),
        "MAE": (
            "pretrain_masked",
            (
                "training.epochs=30",
                "optimizer.learning_rate=1e-3",
                "optimizer.warmup_epochs=2.0",
                "objective.kind=mae",
                "objective.ratio=0.75",
            ),
        ),
    },
}
TASKS = {"ad": "finetune_ad", "pd": "finetune_pd", "age": "finetune_age"}
#: Network -> share of the training subjects -> overrides. A tenth is so few scans that an epoch is a step or two.
FRACTIONS = {
    "densenet": {
        "0.1": ("training.epochs=100", "data.batch_size=8", "training.evaluate_every=10"),
        "1.0": ("training.epochs=20", "training.evaluate_every=2"),
    },
    # Three times the steps, four times the rate and half the batch did no better (docs/pretraining.md).
    "vit": {
        "0.1": ("training.epochs=30", "data.batch_size=8", "training.evaluate_every=3"),
        "1.0": ("training.epochs=10",),
    },
}
SHARES = ("0.1", "1.0")
FINETUNING = {
    "densenet": ("optimizer.learning_rate=2e-3",),
    "vit": ("optimizer.learning_rate=5e-4",),
}


def main() -> None:
    """Run what is not yet done and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/pretraining"))
    parser.add_argument("--subjects", type=int, default=1200, help="of the pre-training cohort")
    parser.add_argument("--patients", type=int, default=640, help="subjects of the cohort with patients")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=list(NETWORKS), help="one network")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="few people, one seed, one epoch, to try the tool itself")
    args = parser.parse_args()
    if args.small:
        args.subjects, args.patients, args.seeds = 100, 560, 1  # a tenth must fill a batch of 8
    try:
        run(args)
    except InputError as e:
        raise SystemExit(f"error: {e}") from e
    except (Preempted, KeyboardInterrupt) as e:
        raise SystemExit(f"stopped {e}".strip()) from e


def run(args: argparse.Namespace) -> None:
    """Run what is not yet done and write the table."""
    began = time.perf_counter()
    runtime.start()
    healthy = data(args.out / "healthy", args.workers, "h", cohort.CohortSpec(
        subjects=args.subjects, seed=1000, sites=("A", "B", "C"), diagnoses={"CN": 1.0}, age_mean={"CN": 65.0},
        age_sd=10.0, age_range=(45.0, 83.0), max_sessions=1, voxel_size=VOXEL_MM,
    ), test=0.05, validation=0.1)  # fmt: skip
    patients = data(args.out / "patients", args.workers, "p", cohort.CohortSpec(
        subjects=args.patients, seed=0, max_sessions=1, voxel_size=VOXEL_MM,
    ), test=0.45, validation=0.15, ood_sites=(UNSEEN_SITE,))  # fmt: skip
    less = ("training.epochs=1", "training.evaluate_every=1", "optimizer.warmup_epochs=0.1") if args.small else ()
    results: list[dict[str, Any]] = []
    pretrained: list[tuple[str, ...]] = []
    for network in [args.only] if args.only else NETWORKS:
        starts = {"scratch": ""}
        for name, (config, settings) in PRETRAINING[network].items():
            workdir = args.out / network / name / "pretraining"
            train(config, workdir, (f"data.path={healthy}", *NETWORKS[network], *settings, *less))
            starts[name] = str(workdir)
            pretrained.append((network, name, learnt(workdir), *(probed(workdir, TASKS[t], patients) for t in TASKS)))
        for task, fraction, name, seed in rows(starts, args.seeds):
            workdir = args.out / network / name / f"{task}-{fraction}-{seed}"
            settings = (
                f"data.path={patients}", f"data.fraction={fraction}", f"seed={seed}", f"init.path={starts[name]}",
                *NETWORKS[network], *FINETUNING[network], *FRACTIONS[network][fraction], *less,
            )  # fmt: skip
            folds = tested(TASKS[task], workdir, settings)
            row = {"network": network, "start": name, "task": task, "fraction": fraction, "seed": seed, **folds}
            results.append(row)
    of = f"-{args.only}" if args.only else ""  # those of both networks are not written over by those of one
    (args.out / f"results{of}.json").write_text(json.dumps(results, indent=1) + "\n")
    head = ("network", "pre-training", "validation", *(f"probe of {t}: test; untrained" for t in TASKS))
    for file, text in ((f"learnt{of}.md", markdown(head, pretrained)), (f"table{of}.md", table(results))):
        (args.out / file).write_text(text)
        print(text)
    minutes = (time.perf_counter() - began) / 60
    terminal.say(f"{args.out}: table{of}.md, learnt{of}.md, results{of}.json; {minutes:.0f} min")


def data(out: Path, workers: int, prefix: str, spec: cohort.CohortSpec, **folds: Any) -> Path:
    """Make a cohort and its shards, once; returns the shards.

    Raises:
      InputError: there is a cohort of other people.
    """
    shards = out / "shards"
    truth = out / "cohort" / "derivatives" / "truth" / "truth.json"
    asked = json.loads(json.dumps(asdict(spec)))
    if truth.exists() and (there := json.loads(truth.read_text())["spec"]) != asked:
        key = next(k for k in asked if there.get(k) != asked[k])
        raise InputError(f"{out}: found a cohort of {key} {there.get(key)}; expected {asked[key]}; take another --out")
    if not shards.exists():
        if not (out / "cohort").exists():
            with terminal.progress("making subjects") as live:
                cohort.write_cohort(out / "cohort", spec, workers=workers, progress=live)
        preparing.prepare(
            out / "cohort", shards, recipe=RECIPE, skip=recipes.STAGES, subject_prefix=prefix, workers=workers, **folds
        )  # the cohort is of brains, already in place
    return shards


def rows(starts: dict[str, str], seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield (task, fraction, start, seed), the cheap ones first."""
    for fraction in SHARES:
        for task in TASKS:
            for name in starts:
                for seed in range(seeds):
                    yield task, fraction, name, seed


def train(config: str, workdir: Path, settings: tuple[str, ...]) -> None:
    """Train, or go on; a finished run of the same settings costs nothing.

    Raises:
      InputError: there is a run of other settings.
    """
    wanted = configuration.read(f"configs/{config}.py", [f"--config.{s}" for s in settings])
    if (workdir / "done").exists():
        journal.check_config(workdir, wanted.to_dict())
        return
    terminal.say(f"\n== {workdir}")
    loop.train(wanted, workdir)
    (workdir / "done").touch()


def tested(config: str, workdir: Path, settings: tuple[str, ...]) -> dict[str, float]:
    """Return the score of a run on held-out subjects and on the unseen site."""
    train(config, workdir, settings)
    file = workdir / "evaluation" / "metrics.json"
    found = json.loads(file.read_text()) if file.exists() else evaluate.evaluate(workdir, resamples=20)
    metric = "mae" if found["task"]["kind"] == "regression" else "roc_auc"
    return {fold: found["folds"][fold]["metrics"][metric]["value"] for fold in ("test", "ood")}


def learnt(workdir: Path) -> str:
    """Return the best validation score of a pre-training, beside that of a network that knows nothing."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    aucs = [x["validation/roc_auc"] for x in lines if "validation/roc_auc" in x]
    if aucs:
        return f"ROC-AUC {max(aucs):.3f}; 0.5"
    losses = [x["validation/loss"] for x in lines if "validation/loss" in x]
    known = next(x["validation/baseline"] for x in lines if "validation/baseline" in x)
    return f"loss {min(losses):.4f}; {known:.4f}"


def probed(workdir: Path, config: str, shards: Path) -> str:
    """Return what a linear model reads on test subjects from a pre-trained network, and from an untrained one."""
    file = workdir / f"probe-{config}" / "probe.json"
    if file.exists():
        found = json.loads(file.read_text())
    else:
        task = configuration.read(f"configs/{config}.py", [f"--config.data.path={shards}"])
        found = probe.probe(workdir, task, file.parent)
    metric = tables.main_metric(found)
    return "; ".join(
        tables.estimate(tables.metric_of(found[which]["folds"]["test"], metric)) for which in ("trained", "untrained")
    )


def table(results: list[dict[str, Any]]) -> str:
    """Return the table in Markdown: mean (deviation over seeds) on held-out subjects; unseen site."""
    head = ("network", "start", *(f"{t}, {float(f):.0%}" for t in TASKS for f in SHARES))
    rows = []
    for network, start in dict.fromkeys((r["network"], r["start"]) for r in results):
        cells = []
        for task in TASKS:
            for fraction in SHARES:
                wanted = {"network": network, "start": start, "task": task, "fraction": fraction}
                mine = [r for r in results if wanted.items() <= r.items()]
                cells.append("; ".join(spread([r[fold] for r in mine], task) for fold in ("test", "ood")))
        rows.append((network, start, *cells))
    return markdown(head, rows)


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def spread(values: list[float], task: str) -> str:
    """Return the mean, and the standard deviation if there are several, in years for age, else of ROC-AUC."""
    digits = 2 if task == "age" else 3
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else mean


if __name__ == "__main__":
    main()
