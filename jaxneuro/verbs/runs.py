"""Verbs of one run: train it, test it, look into it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxneuro import terminal
from jaxneuro.verbs import arguments


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    p = verbs.add_parser(
        "train",
        help="train as a config says; the same command again resumes",
        epilog="Any value of the config can be set: --config.optimizer.learning_rate=3e-4",
    )
    p.add_argument("--config", required=True, help="a file in configs/")
    p.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    arguments.distributed(p)
    p.set_defaults(run=_train)

    p = verbs.add_parser("evaluate", help="test a run's best checkpoint: predictions.csv and metrics.json")
    p.add_argument("workdir", type=Path, help="folder of the run")
    p.add_argument("--data", type=Path, help="another dataset, to test on all of it")
    p.add_argument("--task", help="of a run that learnt several (default: the main one)")
    p.add_argument("--out", type=Path, help="folder for the results")
    p.add_argument("--resamples", type=arguments.positive, default=2000, help="of the bootstrap (default: 2000)")
    arguments.distributed(p)
    p.set_defaults(run=_evaluate)

    p = verbs.add_parser(
        "probe",
        help="how much a linear model reads from a network's frozen features, and from those of an untrained one",
        epilog="Any value of the config can be set: --config.data.fraction=0.1",
    )
    p.add_argument("workdir", type=Path, metavar="RUN", help="folder of a run, or one that convert or export wrote")
    p.add_argument("--config", required=True, help="a file in configs/: its data and task")
    p.add_argument("--out", type=Path, help="folder for probe.json (default: probe-TASK in the run's)")
    p.add_argument("--features", type=Path, metavar="FILE", help="write the features here, too (.npz)")
    p.add_argument("--resamples", type=arguments.positive, default=2000, help="of the bootstrap (default: 2000)")
    p.set_defaults(run=_probe)

    p = verbs.add_parser(
        "occlusion",
        help="maps of where a run's output comes from: a patch slid over the volume, or gradients",
        epilog="docs/explain.md says what the maps mean and how they are scored.",
    )
    p.add_argument("workdir", type=Path, metavar="RUN", help="folder of a run")
    p.add_argument("--task", help="of a run that learnt several (default: the main one)")
    p.add_argument("--class", dest="of", metavar="CLASS", help="to explain (default: of two the second, else its own)")
    p.add_argument("--probability", action="store_true", help="explain the probability in place of the logit")
    p.add_argument("--fold", help="train, validation, test (default) or ood")
    p.add_argument("--data", type=Path, help="another dataset, to explain scans of it")
    p.add_argument("--scans", type=arguments.positive, default=10, help="of each class (default: 10)")
    p.add_argument("--seed", type=int, default=0, help="of the scans drawn, and of what maps are compared with")
    p.add_argument("--out", type=Path, help="folder for the results (default: METHOD-TASK in the run's)")
    p.add_argument("--each", action="store_true", help="write the map of every scan, too")
    p.add_argument("--no-pictures", action="store_true", help="write no PNG")
    made = p.add_argument_group("how maps are made")
    made.add_argument("--method", default="occlusion", help="occlusion (default), gradient or rollout")
    made.add_argument("--patch", type=_voxels, metavar="N[,N,N]", help="voxels (default: an eighth of the volume)")
    made.add_argument("--stride", type=_voxels, metavar="N[,N,N]", help="voxels (default: half a patch)")
    made.add_argument("--value", type=float, help="of hidden voxels, once normalised (default: the background's)")
    made.add_argument("--coarse", type=int, default=1, metavar="K", help="try every Kth position first (default: 1)")
    made.add_argument("--quantile", type=float, default=0.9, help="then those at voxels above it (default: 0.9)")
    made.add_argument("--batch-size", type=arguments.positive, help="copies at once (default: 64, on CPUs 16)")
    known = p.add_argument_group("what maps are laid beside")
    known.add_argument("--atlas", type=Path, metavar="FILE", help="NIfTI of numbered regions in MNI152 space")
    known.add_argument("--labels", type=Path, metavar="FILE", help="CSV or TSV of its regions: index, name")
    known.add_argument(
        "--truth", type=Path, metavar="FILE", help="NIfTI of where the effect is (default: a synthetic cohort's own)"
    )
    known.add_argument("--tolerance", type=float, default=5.0, metavar="MM", help="of the pointing game (default: 5)")
    known.add_argument("--untrained", action="store_true", help="go through it with an untrained network, too")
    arguments.distributed(p)
    p.set_defaults(run=_occlusion)


def _voxels(text: str) -> list[int]:
    parts = [v.strip() for v in text.split(",")]
    if len(parts) not in (1, 3) or not all(v.isdecimal() for v in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a number of voxels such as 10, or three")
    return [int(v) for v in parts]


def _train(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxneuro.training import stopping

    # Before the rest is imported, which takes seconds: a job can be sent away as soon as it runs.
    with stopping.on_signal() as stop:
        from jaxneuro import configuration
        from jaxneuro.training import hosts, loop, runtime

        config = configuration.read(args.config, rest)
        runtime.start(args.distributed)
        with hosts.deaths_told(args.workdir):
            loop.train(config, args.workdir, stop)
    verb = "evaluate" if config.objective.name == "supervised" else "probe"
    terminal.say(f"done: {args.workdir}; next: jaxneuro {verb} {args.workdir}")


def _evaluate(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.evaluation import evaluate
    from jaxneuro.study import tables
    from jaxneuro.training import hosts, runtime

    runtime.start(args.distributed)
    with hosts.deaths_told(args.workdir):
        result = evaluate.evaluate(args.workdir, data=args.data, task=args.task, out=args.out, resamples=args.resamples)
    terminal.say(tables.to_rich(tables.summary(result)))


def _probe(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxneuro import configuration
    from jaxneuro.evaluation import probe
    from jaxneuro.study import tables
    from jaxneuro.training import runtime

    config = configuration.read(args.config, rest)
    runtime.start()
    result = probe.probe(args.workdir, config, args.out, features=args.features, resamples=args.resamples)
    terminal.say(tables.to_rich(tables.probe(result)))


def _occlusion(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.evaluation import occlusion
    from jaxneuro.study import tables
    from jaxneuro.training import hosts, runtime

    runtime.start(args.distributed)
    settings = occlusion.Settings(
        **{k: getattr(args, k) for k in ("method", "patch", "stride", "value", "coarse", "quantile", "batch_size")}
    )
    same = (
        "data",
        "task",
        "fold",
        "scans",
        "of",
        "probability",
        "atlas",
        "labels",
        "truth",
        "untrained",
        "each",
        "seed",
        "out",
    )
    with hosts.deaths_told(args.workdir):
        result = occlusion.occlusion(
            args.workdir,
            settings,
            tolerance_mm=args.tolerance,
            draw=not args.no_pictures,
            **{k: getattr(args, k) for k in same},
        )
    terminal.say(tables.to_rich(tables.maps(result)))
