"""Verbs of many runs: a report of them, a study, a search, the demo."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxneuro import terminal
from jaxneuro.errors import InputError
from jaxneuro.verbs import arguments


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    p = verbs.add_parser("report", help="one HTML page about one or more evaluated runs")
    p.add_argument("workdirs", type=Path, nargs="+", help="folders of runs")
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument("--title", default="Test report")
    p.set_defaults(run=_report)

    p = verbs.add_parser(
        "study",
        help="a benchmark: pre-trainings, rows, tasks, fractions and seeds to one report; the same command goes on",
        epilog="docs/study.md says what is written, how to spread a study over machines, and what its numbers mean.",
    )
    p.add_argument("--config", required=True, help="a file in configs/ that declares a study, such as study_paper.py")
    p.add_argument("--out", type=Path, required=True, help="folder; an unfinished study in it goes on")
    p.add_argument("--list", action="store_true", help="print the work list with what is done; run nothing")
    p.add_argument("--report", action="store_true", help="write the report of what is finished; run nothing")
    p.add_argument("--job", action="append", default=[], metavar="NAME", help="this one and what it needs; repeat")
    p.add_argument("--jobs", type=_share, metavar="I/N", help="the Ith of N parts of the runs, and what they need")
    p.add_argument(
        "--data", type=_place, action="append", default=[], metavar="NAME=PATH", help="shards of a dataset; repeat"
    )
    arguments.workers(p)
    p.set_defaults(run=_study)

    p = verbs.add_parser(
        "search",
        help="hyper-parameters by validation: random trials, or stopped where they are poor; the same command goes on",
        epilog="Several processes may give the same command and share the trials; each is trained by one process (no "
        "--distributed). docs/study.md says what is written.",
    )
    p.add_argument("--config", required=True, help="a file in configs/ that declares a search, such as search_paper.py")
    p.add_argument("--out", type=Path, required=True, help="folder; an unfinished search in it goes on")
    p.add_argument("--trials", type=arguments.positive, metavar="N", help="in all (default: as the file says)")
    p.add_argument("--data", type=Path, metavar="PATH", help="shards (default: as the file or its experiment says)")
    p.add_argument("--list", action="store_true", help="print every trial and how far it is; run nothing")
    p.set_defaults(run=_search)

    p = verbs.add_parser("demo", help="the whole road on synthetic scans; the last line printed is the report")
    p.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder; an unfinished demo in it goes on")
    p.add_argument("--seed", type=int, default=0)
    arguments.workers(p)
    p.set_defaults(run=_demo)


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


def _report(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import report

    print(report.write(args.out, args.workdirs, title=args.title))


@arguments.terminable()
def _study(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import declared, plan, progress, publish, tables

    # Whole: a run's config says where its weights came from, wherever the next command is given.
    out = args.out.resolve()
    study = declared.read(args.config, arguments.once("--data", args.data))
    jobs = plan.part(plan.jobs(study, out), args.job, args.jobs)
    if args.list:
        terminal.answer(tables.to_rich(progress.listing(jobs, out)))
        return
    failed: dict[str, str] = {}
    if args.report and not out.is_dir():
        raise InputError(f"{args.out}: found no such folder; expected that of a study; without --report it is begun")
    if not args.report:
        from jaxneuro.study import work
        from jaxneuro.training import runtime

        runtime.start()
        outcome = work.work(jobs, out, work.Means(args.workers, study.resamples))
        failed = outcome.failed
        if outcome.others:
            terminal.say(f"others are at work on {', '.join(outcome.others)}; the report is without it")
    for table in publish.write(study, out, args.config):
        terminal.say(tables.to_rich(table))
    # On standard output, alone, as that of other reports.
    print(out / "report.html")
    if failed:
        name, line = next(iter(failed.items()))
        raise InputError(
            f"{len(failed)} of {len(jobs)} jobs failed, the first {name}: {line}; {out / 'jobs'} has all; the same "
            "command tries them again"
        )


def _search(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.training import stopping

    # Before the rest is imported, as in `train`.
    with stopping.on_signal() as stop:
        from jaxneuro.study import search, search_results, search_spec, tables, trials
        from jaxneuro.training import runtime

        # Whole: jobs and trials are the same wherever the next command is given.
        out = args.out.resolve()
        asked = search_spec.read(
            args.config, data=str(args.data.resolve()) if args.data else "", trials=args.trials or 0
        )
        if args.list:
            begun = search.there(asked, out)
            terminal.say(tables.to_rich(search_results.listing(begun)) if begun else f"{out}: no trial yet")
            return
        runtime.start()
        found = search.begin(asked, out)
        others = search.run(found, stop)
        with trials.alone(out):
            search_results.write(found, out)
        if others:
            terminal.say(f"others are at work on trials {', '.join(others)}; the tables are without them")
        for table in (search_results.importance(found), search_results.top(found)):
            if table:
                terminal.say(tables.to_rich(table))
        terminal.say(f"{out / search_results.TRIALS}: every trial; {search_results.BEST}: the best one's overrides")
        if not others and not search_results.ranking(found):
            raise InputError(
                f"{out}: found no trial that came to its end; expected one at least; trials.csv says why; more trials: "
                "--trials N"
            )


def _demo(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.study import demo
    from jaxneuro.training import runtime

    runtime.start()
    # The one line on standard output, and the last one: where the report is.
    print(demo.run(args.out, seed=args.seed, workers=args.workers).resolve())
