"""Verbs that make data: a synthetic cohort, shards of a study or of videos."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxneuro import terminal
from jaxneuro.errors import InputError
from jaxneuro.verbs import arguments

STUDIES = "bids, table, adni, oasis1, oasis3, ukb, openbhb, ldm100k, ppmi"


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    p = verbs.add_parser("cohort", help="make a synthetic cohort: a BIDS folder of scans with a known truth")
    p.add_argument("out", type=Path, help="folder to make")
    p.add_argument("--subjects", type=arguments.positive, default=320)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--voxel-size", type=float, default=2.0, help="mm (default: 2)")
    p.add_argument("--heads", action="store_true", help="whole heads, tilted, rather than brains")
    arguments.workers(p)
    p.set_defaults(run=_cohort)

    p = verbs.add_parser("prepare", help="turn a study's folder or a CSV of scans into shards, or videos into clips")
    p.add_argument("source", type=Path, help="a study's folder, such as BIDS, a CSV/TSV with one row a scan, or videos")
    p.add_argument("--out", type=Path, required=True, help="folder to make")
    p.add_argument(
        "--recipe", default="paper80", help="paper80 (default), paper96 or quick40; for videos clip32x2 or video80"
    )
    p.add_argument("--study", metavar="NAME", help=f"its layout: {STUDIES} (default: by its marks; see docs/data.md)")
    p.add_argument("--table", type=Path, metavar="FILE", help="the study's table of people or visits")
    p.add_argument("--columns", default="", help="our=theirs,... such as subject=PTID,age=AGE: the table's columns")
    p.add_argument(
        "--option",
        type=arguments.setting,
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
    video.add_argument(
        "--clips", type=arguments.positive, help="of each training video, with --store clips (default: 1)"
    )
    arguments.workers(p)
    p.set_defaults(run=_prepare)


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


@arguments.terminable()
def _prepare(args: argparse.Namespace, _: Sequence[str]) -> None:
    from jaxneuro.prepare import run

    pairs = [pair for pair in args.columns.split(",") if pair]
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise InputError(f"--columns: found {wrong}; expected pairs such as subject=PTID,age=AGE")
    columns = arguments.once(
        "--columns", [(ours.strip(), theirs) for ours, theirs in (pair.split("=", 1) for pair in pairs)]
    )
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
            options=arguments.once("--option", args.option),
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
