"""`jaxneuro VERB ...`: parse, call one function, turn a user's error into one clear line.

Verbs import what they need when they run, so that `--help` and the verbs without a model never load jax.
"""

from __future__ import annotations

import argparse
import ast
import errno
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from jaxneuro import __version__, terminal
from jaxneuro.errors import InputError, Preempted, Terminated

_EXTRAS = {
    "nilearn": "prepare", "SimpleITK": "prepare", "av": "video", "matplotlib": "report", "jinja2": "report",
    "torch": "torch",
}  # fmt: skip
_STUDIES = "bids, table, adni, oasis1, oasis3, ukb, openbhb, ldm100k, ppmi"
_LAYOUTS = "torchvision, video_swin, mmaction2 (Swin); monai, yaware (DenseNet); minit (MiNiT, NiT); monai, mae (ViT)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 1 for an error that the line explains, 130 when interrupted.

    75 (sysexits' EX_TEMPFAIL: try again) says that SIGTERM ended a run, which has saved its state, or a preparation.

    With JAXNEURO_DEBUG=1 in the environment an error comes with its traceback.
    """
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.verb not in ("train", "probe") and not getattr(known, "plan", False):
        parser.exit(2, f"error: found {' '.join(rest)}; expected no such argument; see jaxneuro {known.verb} --help\n")
    code = _run(known, rest)
    if code and getattr(known, "distributed", False):
        from jaxneuro.training import hosts

        hosts.leave(code)
    return code


def _run(known: argparse.Namespace, rest: Sequence[str]) -> int:
    try:
        known.run(known, rest)
    except Terminated as e:
        return _fail(f"told to end {e}".strip(), os.EX_TEMPFAIL)
    except KeyboardInterrupt as e:
        return _fail(f"interrupted {e}".strip(), 130)
    except Preempted as e:
        return _fail(f"told to end {e}", os.EX_TEMPFAIL)
    except InputError as e:
        return _fail(str(e))
    except OSError as e:
        # A failed write does not always know its file; the folder of the command is the next best.
        where = e.filename or getattr(known, "workdir", None) or getattr(known, "out", None)
        hint = _HINTS.get(e.errno or 0, "")
        return _fail(f"{where}: {e.strerror or e}{hint}")
    except ModuleNotFoundError as e:
        extra = _EXTRAS.get(e.name or "")
        if extra is None:
            raise
        return _fail(f"found no package {e.name}; expected the extra: pip install 'jaxneuro[{extra}]'")
    return 0


_ELSEWHERE = "; expected a folder that can be read and written; change its permissions, or choose another"
_HINTS = {
    errno.ENOSPC: "; free some space and run the same command again",
    **dict.fromkeys((errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS), _ELSEWHERE),
}


def _fail(line: str, code: int = 1) -> int:
    if os.environ.get("JAXNEURO_DEBUG") == "1" and sys.exc_info()[0] is not None and code == 1:
        raise
    terminal.say_wrong(f"error: {line}")
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """End with one line, as every other error does."""
        self.exit(2, f"error: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxneuro", description="Pre-train, fine-tune, test and explain 3D networks on brain MRI.")
    parser.add_argument("--version", action="version", version=f"jaxneuro {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    p = verbs.add_parser("cohort", help="make a synthetic cohort: a BIDS folder of scans with a known truth")
    p.add_argument("out", type=Path, help="folder to make")
    p.add_argument("--subjects", type=_positive, default=320)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--voxel-size", type=float, default=2.0, help="mm (default: 2)")
    p.add_argument("--heads", action="store_true", help="whole heads, tilted, rather than brains")
    _workers(p)
    p.set_defaults(run=_cohort)

    p = verbs.add_parser("prepare", help="turn a study's folder or a CSV of scans into shards, or videos into clips")
    p.add_argument("source", type=Path, help="a study's folder, such as BIDS, a CSV/TSV with one row a scan, or videos")
    p.add_argument("--out", type=Path, required=True, help="folder to make")
    p.add_argument(
        "--recipe", default="paper80", help="paper80 (default), paper96 or quick40; for videos clip32x2 or video80"
    )
    p.add_argument("--study", metavar="NAME", help=f"its layout: {_STUDIES} (default: by its marks; see docs/data.md)")
    p.add_argument("--table", type=Path, metavar="FILE", help="the study's table of people or visits")
    p.add_argument("--columns", default="", help="our=theirs,... such as subject=PTID,age=AGE: the table's columns")
    p.add_argument(
        "--option",
        type=_setting,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a keyword of the layout; repeat",
    )
    p.add_argument(
        "--strip", metavar="NAME", help="template (default), deepbet, synthstrip, hd-bet, mask (BIDS) or none"
    )
    p.add_argument("--skip", action="append", default=[], metavar="STAGE", help="leave out bias, strip or register")
    p.add_argument("--already", action="append", default=[], metavar="STAGE", help="done by the study: checked instead")
    p.add_argument("--cluster", default="", metavar="WHERE", help="slurm, or the address of a Dask scheduler")
    p.add_argument("--work", type=Path, help="keep finished scans here (default: beside --out, until it is whole)")
    p.add_argument(
        "--compression", default="snappy", help="of the shards: snappy (default) or none: larger, read faster"
    )
    p.add_argument("--name", help="name of the dataset")
    p.add_argument("--subject-prefix", default="", help="put before every subject")
    p.add_argument("--validation", type=float, help="share of the subjects (default: 0.15)")
    p.add_argument("--test", type=float, help="share of the subjects (default: 0.25)")
    p.add_argument("--ood-site", action="append", default=[], help="site held out whole; may be repeated")
    p.add_argument("--seed", type=int, default=0, help="of the folds")
    p.add_argument("--synthetic", action=argparse.BooleanOptionalAction, help="say whether the scans are synthetic")
    video = p.add_argument_group("for videos")
    video.add_argument("--store", help="files (default): decode them in training; clips: decode now, into shards")
    video.add_argument("--views", help="clips x crops that a video is tested on (default: 4x3; also 12x1)")
    video.add_argument("--clips", type=_positive, help="of each training video, with --store clips (default: 1)")
    _workers(p)
    p.set_defaults(run=_prepare)

    p = verbs.add_parser(
        "train",
        help="train as a config says; the same command again resumes",
        epilog="Any value of the config can be set: --config.optimizer.learning_rate=3e-4",
    )
    p.add_argument("--config", required=True, help="a file in configs/")
    p.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    _distributed(p)
    p.set_defaults(run=_train)

    p = verbs.add_parser("evaluate", help="test a run's best checkpoint: predictions.csv and metrics.json")
    p.add_argument("workdir", type=Path, help="folder of the run")
    p.add_argument("--data", type=Path, help="another dataset, to test on all of it")
    p.add_argument("--task", help="of a run that learnt several (default: the main one)")
    p.add_argument("--out", type=Path, help="folder for the results")
    p.add_argument("--resamples", type=_positive, default=2000, help="of the bootstrap (default: 2000)")
    _distributed(p)
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
    p.add_argument("--resamples", type=_positive, default=2000, help="of the bootstrap (default: 2000)")
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
    p.add_argument("--fold", default="test", help="train, validation, test (default) or ood")
    p.add_argument("--scans", type=_positive, default=10, help="of each class (default: 10)")
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
    made.add_argument("--batch-size", type=_positive, help="copies at once (default: 64, on CPUs 16)")
    known = p.add_argument_group("what maps are laid beside")
    known.add_argument("--atlas", type=Path, metavar="FILE", help="NIfTI of numbered regions in MNI152 space")
    known.add_argument("--labels", type=Path, metavar="FILE", help="CSV or TSV of its regions: index, name")
    known.add_argument(
        "--truth", type=Path, metavar="FILE", help="NIfTI of where the effect is (default: a synthetic cohort's own)"
    )
    known.add_argument("--tolerance", type=float, default=5.0, metavar="MM", help="of the pointing game (default: 5)")
    known.add_argument("--untrained", action="store_true", help="go through it with an untrained network, too")
    p.set_defaults(run=_occlusion)

    p = verbs.add_parser(
        "info",
        help="describe a dataset or weights (and check them), or a model; or plan a run",
        epilog="Any value of the config of a plan can be set: --config.data.batch_size=64",
    )
    p.add_argument("what", nargs="?", help="a folder that prepare, convert or export made, or a model's name")
    model = p.add_argument_group("for a model")
    model.add_argument("--batch-size", type=_positive, help="on one device (default: 1)")
    model.add_argument("--depth", type=_positive, help="levels of modules to tell apart (default: 1)")
    _settings(model)
    plan = p.add_argument_group("for a plan")
    plan.add_argument("--plan", action="store_true", help="memory, operations and the least time of a run's step")
    plan.add_argument("--config", help="a file in configs/")
    plan.add_argument("--device", action="append", metavar="NAME", help="v5e, v5p, a100, h100 or h200; repeat")
    plan.add_argument("--devices", type=_positive, help="how many (default: as many as the config's mesh names)")
    plan.add_argument("--hosts", type=_positive, help="over which they are spread (default: as few as have room)")
    plan.add_argument("--samples", type=_positive, help="training scans (default: those of the dataset)")
    # A plan takes the dataset's size unless one is given; models have the default that the help says.
    p.set_defaults(run=_info, input_size=None, in_channels=None)

    p = verbs.add_parser("convert", help="a published torch checkpoint to weights of ours, every tensor accounted for")
    p.add_argument(
        "source", type=Path, metavar="SRC", help=".safetensors, or .pth/.pt (read without executing anything)"
    )
    p.add_argument("--model", required=True, help="a model's name, as in jaxneuro info")
    p.add_argument("--source", dest="layout", required=True, metavar="LAYOUT", help=f"one of {_LAYOUTS}")
    p.add_argument("--out", type=Path, help="folder to make (not needed with --dry-run)")
    _settings(p)
    p.add_argument("--head", choices=("keep", "fresh"), default="keep", help="keep the head, or begin a new one")
    p.add_argument("--fresh", action="append", default=[], metavar="REGEX", help="our paths that begin afresh; repeat")
    p.add_argument("--ignore", action="append", default=[], metavar="REGEX", help="tensors to leave out; repeat")
    p.add_argument(
        "--channels",
        nargs="?",
        const="sum",
        choices=("sum", "mean", "fresh"),
        help="make one channel of several: by sum",
    )
    p.add_argument("--resample", action="store_true", help="tables of relative biases or positions to another size")
    p.add_argument("--source-size", type=_triple, help="what those tables were made for: window, or grid of patches")
    p.add_argument("--inflate-time", action="store_true", help="stretch the patch kernel along time, say 2 to 4")
    p.add_argument("--allow-half", action="store_true", help="widen float16 and bfloat16 weights")
    p.add_argument("--seed", type=int, default=0, help="of what begins afresh")
    p.add_argument("--dry-run", action="store_true", help="print what would become of every tensor; write nothing")
    p.set_defaults(run=_convert)

    p = verbs.add_parser("export", help="a run or converted weights to safetensors, torch or StableHLO, with a card")
    p.add_argument("workdir", type=Path, metavar="SOURCE", help="folder of a run, or one that convert made")
    p.add_argument("--format", required=True, choices=("safetensors", "torch", "stablehlo"))
    p.add_argument("--layout", help=f"names and shapes of the tensors: jaxneuro (default), {_LAYOUTS}")
    p.add_argument("--out", type=Path, required=True, help="folder to make")
    p.set_defaults(run=_export)

    p = verbs.add_parser("report", help="one HTML page about one or more evaluated runs")
    p.add_argument("workdirs", type=Path, nargs="+", help="folders of runs")
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument("--title", default="Test report")
    p.set_defaults(run=_report)

    p = verbs.add_parser(
        "study",
        help="a benchmark: pre-trainings, rows, tasks, fractions and seeds to tables; the same command goes on",
        epilog="docs/study.md says what is written, how to spread a study over machines, and what its numbers mean.",
    )
    p.add_argument("--config", required=True, help="a file in configs/ that declares a study, such as study_paper.py")
    p.add_argument("--out", type=Path, required=True, help="folder; an unfinished study in it goes on")
    p.add_argument("--list", action="store_true", help="print the work list with what is done; run nothing")
    p.add_argument("--tables", action="store_true", help="write and print the tables of what is finished; run nothing")
    p.add_argument("--job", action="append", default=[], metavar="NAME", help="this one and what it needs; repeat")
    p.add_argument("--jobs", type=_share, metavar="I/N", help="the Ith of N parts of the runs, and what they need")
    p.add_argument(
        "--data", type=_place, action="append", default=[], metavar="NAME=PATH", help="shards of a dataset; repeat"
    )
    _workers(p)
    p.set_defaults(run=_study)

    p = verbs.add_parser("demo", help="the whole road on synthetic scans; the last line printed is the report")
    p.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder; an unfinished demo in it goes on")
    p.add_argument("--seed", type=int, default=0)
    _workers(p)
    p.set_defaults(run=_demo)
    return parser


def _count(text: str) -> int:
    return 0 if text == "0" else _positive(text)


def _triple(text: str) -> tuple[int, int, int]:
    try:
        d, h, w = (_positive(v.strip()) for v in text.split(","))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected three numbers such as 80,80,80") from e
    return d, h, w


def _voxels(text: str) -> list[int]:
    parts = [v.strip() for v in text.split(",")]
    if len(parts) not in (1, 3) or not all(v.isdecimal() for v in parts):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a number of voxels such as 10, or three")
    return [int(v) for v in parts]


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a whole number of at least 1")
    return int(text)


def _share(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected I/N such as 1/8, from 1/N to N/N")
    return int(part), int(parts)


def _place(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (equals and name and path):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected NAME=PATH such as adni=data/adni")
    return name, path


def _settings(p: Any) -> None:
    p.add_argument("--input-size", type=_triple, default=(80, 80, 80), help="depth,height,width (default: 80,80,80)")
    p.add_argument("--in-channels", type=_positive, default=1)
    p.add_argument("--num-outputs", type=_count, help="of the head; 0 for none (default: the model's own)")
    p.add_argument(
        "--set", type=_setting, action="append", default=[], metavar="KEY=VALUE", help="a keyword of the model; repeat"
    )


def _keywords(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of a model that the flags say; `--set` has no say where there is a flag."""
    flags = {"input_size": args.input_size, "in_channels": args.in_channels, "num_outputs": args.num_outputs}
    for key, _ in args.set:
        if key in flags:
            raise InputError(f"--set: found {key}; expected --{key.replace('_', '-')}, which sets it")
    return {k: v for k, v in flags.items() if v is not None} | dict(args.set)


def _setting(text: str) -> tuple[str, Any]:
    """Read `window=(8,6,6)` or `bias_index=geometric`: a Python literal, or else a word."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected KEY=VALUE such as window=(8,6,6)")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _distributed(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, each with this command: Slurm or Cloud TPU tells which, or "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    )


def _workers(p: argparse.ArgumentParser) -> None:
    p.add_argument("--workers", type=_positive, default=os.cpu_count() or 1, help="processes (default: one a core)")


def _cohort(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.prepare import cohort

    spec = cohort.CohortSpec(subjects=args.subjects, seed=args.seed, voxel_size=args.voxel_size, heads=args.heads)
    with terminal.progress("making subjects") as report:
        made = cohort.write_cohort(
            args.out, spec, workers=args.workers, progress=lambda done, total: report(done, total)
        )
    terminal.say(
        f"{args.out}: " + ", ".join(f"{v} {k}" for k, v in made.items() if isinstance(v, int)) + " (synthetic)"
    )


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end a verb as Ctrl-C does: what it began to write is removed, and a line says what is kept."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # ignored, or the caller's own
        yield
        return

    def end(signum: int, frame: Any) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # schedulers send it several times
        raise Terminated

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@_terminable()
def _prepare(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.prepare import run

    pairs = [pair for pair in args.columns.split(",") if pair]
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"--columns: found {wrong}; expected pairs such as subject=PTID,age=AGE")
    columns = _once("--columns", [(ours.strip(), theirs) for ours, theirs in (pair.split("=", 1) for pair in pairs)])
    with terminal.progress("preparing scans") as report:
        card = run.prepare(
            args.source,
            args.out,
            recipe=args.recipe,
            stripper=args.strip,
            skip=args.skip,
            already=args.already,
            work=args.work,
            cluster=args.cluster,
            compression=args.compression,
            study=args.study,
            table=args.table,
            columns=columns,
            options=_once("--option", args.option),
            name=args.name,
            synthetic=args.synthetic,
            subject_prefix=args.subject_prefix,
            validation=args.validation,
            test=args.test,
            ood_sites=args.ood_site,
            seed=args.seed,
            workers=args.workers,
            progress=lambda what, done, total: report(done, total, what),
            video={k: v for k in ("store", "views", "clips") if (v := getattr(args, k)) is not None},
        )
    _say_prepared(args.out, card)


def _once(flag: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs by key; of a key that is given twice nobody can tell which was meant."""
    count = Counter(key for key, _ in pairs)
    if twice := [key for key, n in count.items() if n > 1]:
        raise InputError(f"{flag}: found {twice} more than once; expected each once")
    return dict(pairs)


def _say_prepared(out: Path, card: dict[str, Any]) -> None:
    from jaxneuro import manifest

    counts = card["counts"]
    clips = "videos" in card
    terminal.say(
        f"{out}: {counts['scans']} {'clips' if clips else 'scans'} of {counts['subjects']} subjects as {card['shape']} "
        f"{card['dtype']}, shards: {len(card['shards'])}"
        + ("; the videos stay where they are" if card.get("kind") == "video" else "")
    )
    scans = manifest.read(out / "manifest.csv")
    if clips:
        labels = Counter(s.label for s in scans)
        unknown = labels.pop(manifest.MISSING, 0)
        terminal.say(f"label: {len(labels)} different, missing for {unknown}")
    else:
        for column in ("diagnosis", "sex", "site"):
            labels = Counter(getattr(s, column) for s in scans)
            terminal.say(f"{column}: " + ", ".join(f"{label} {n}" for label, n in sorted(labels.items())))
        terminal.say(f"age: known for {sum(s.age == s.age for s in scans)}")
    problems = manifest.read_problems(out / "failures.csv")
    for problem in problems[:20]:
        terminal.say(("left out: " if problem.dropped else "kept: ") + str(problem))
    if problems:
        more = f" (the first 20 of {len(problems)} shown)" if len(problems) > 20 else ""
        kept = "all the same" if clips else "with a value missing"
        terminal.say(f"{counts['failures']} left out, {counts['mended']} kept {kept}: {out / 'failures.csv'}{more}")


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
    from jaxneuro.training import runtime

    runtime.start()
    settings = occlusion.Settings(
        **{k: getattr(args, k) for k in ("method", "patch", "stride", "value", "coarse", "quantile", "batch_size")}
    )
    same = (
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
    result = occlusion.occlusion(
        args.workdir,
        settings,
        tolerance_mm=args.tolerance,
        draw=not args.no_pictures,
        **{k: getattr(args, k) for k in same},
    )
    terminal.say(tables.to_rich(tables.maps(result)))


def _info(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxneuro import info

    if args.plan:
        return _plan(args, rest)
    for flag in ("config", "device", "devices", "hosts", "samples"):
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag}: found it without --plan; expected both")
    if args.what is None:
        raise InputError("info: found nothing to describe; expected a folder, a model's name, or --plan --config FILE")
    path = Path(args.what)
    if (path / "run.json").is_file():
        raise InputError(f"{path}: found a run; expected a dataset, weights or a model; see jaxneuro report {path}")
    if path.is_dir() and info.holds_weights(path):
        from jaxneuro.interop import folder

        info.weights(folder.read_card(path))
    elif path.is_dir():
        info.dataset(path)
    else:
        info.model(args.what, _keywords(args), batch_size=args.batch_size or 1, depth=args.depth or 1)


def _plan(args: argparse.Namespace, rest: Sequence[str]) -> None:
    if args.what is not None or args.config is None:
        found = f"'{args.what}'" if args.what is not None else "no --config"
        raise InputError(f"--plan: found {found}; expected --config FILE, and changes as --config.KEY=VALUE")
    for flag, instead in (
        ("batch_size", "--config.data.batch_size"),
        ("set", "--config.model.KEY=VALUE"),
        ("depth", "none of it"),
    ):
        if getattr(args, flag):
            raise InputError(f"--{flag.replace('_', '-')}: found it with --plan; expected {instead}")
    if args.input_size is None and (given := [f for f in ("in_channels", "num_outputs") if getattr(args, f)]):
        raise InputError(
            f"--{given[0].replace('_', '-')}: found it with a dataset, which knows; expected --input-size with it"
        )
    from jaxneuro import configuration
    from jaxneuro.training import devices, plan

    plan.say(
        plan.make(
            configuration.read(args.config, rest),
            count=args.devices,
            hosts=args.hosts,
            kinds=args.device or tuple(devices.DEVICES),
            input_size=args.input_size,
            channels=args.in_channels or 1,
            classes=args.num_outputs,
            samples=args.samples,
        )
    )


def _convert(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.interop import Adaptation, MisfitError, convert, tables

    if args.out is None and not args.dry_run:
        raise InputError("--out: found none; expected a folder to make, or --dry-run")
    fresh = list(args.fresh)
    if args.channels == "fresh":
        fresh.append("patch_embed/proj/kernel$|^params/conv0/kernel$")
    try:
        rows, notes = convert.convert(
            args.source,
            args.layout,
            args.model,
            _keywords(args),
            out=None if args.dry_run else args.out,
            adaptation=Adaptation(
                channels=None if args.channels == "fresh" else args.channels,
                resample=args.resample,
                inflate=args.inflate_time,
                source_size=args.source_size,
            ),
            new_head=args.head == "fresh",
            fresh=fresh,
            ignore=args.ignore,
            allow_half=args.allow_half,
            seed=args.seed,
        )
    except MisfitError as e:
        for fault in e.faults if args.dry_run else ():
            terminal.say(fault)
        raise
    for note in notes:
        terminal.say(f"{args.source}: {note}")
    terminal.say(tables.every(rows) if args.dry_run else tables.changes(rows))
    terminal.say(tables.counts(rows) + ("; nothing was written" if args.dry_run else f": {args.out}"))


def _export(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro import export
    from jaxneuro.training import runtime

    runtime.start()
    card = export.export(args.workdir, args.format, args.out, layout=args.layout)
    terminal.say(f"{args.out}: {card['file']}, {export.folder.CARD} (SHA-256 {card['sha256'][:12]}...)")


def _report(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import report

    print(report.write(args.out, args.workdirs, title=args.title))


@_terminable()
def _study(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import declared, plan, progress, results, tables

    # Whole: a run's config says where its weights came from, wherever the next command is given.
    out = args.out.resolve()
    study = declared.read(args.config, _once("--data", args.data))
    jobs = plan.part(plan.jobs(study, out), args.job, args.jobs)
    if args.list:
        terminal.say(tables.to_rich(progress.listing(jobs, out)))
        return
    failed: dict[str, str] = {}
    if not args.tables:
        from jaxneuro.study import work
        from jaxneuro.training import runtime

        runtime.start()
        outcome = work.work(jobs, out, work.Means(args.workers, study.resamples))
        failed = outcome.failed
        if outcome.others:
            terminal.say(f"others are at work on {', '.join(outcome.others)}; the tables are without it")
    for table in results.write(study, out):
        terminal.say(tables.to_rich(table))
    terminal.say(f"{out / 'tables.md'}: the tables, and how to read them")
    if failed:
        name, line = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs failed, the first {name}: {line}; {out / 'jobs'} has all; the same "
            "command tries them again"
        )


def _demo(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import demo
    from jaxneuro.training import runtime

    runtime.start()
    # The one line on standard output, and the last one: where the report is.
    print(demo.run(args.out, seed=args.seed, workers=args.workers).resolve())


if __name__ == "__main__":
    sys.exit(main())
