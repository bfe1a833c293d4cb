"""Verbs that take weights in and give them out."""

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
    p = verbs.add_parser("convert", help="a published torch checkpoint to weights of ours, every tensor accounted for")
    p.add_argument(
        "source", type=Path, metavar="SRC", help=".safetensors, or .pth/.pt (read without executing anything)"
    )
    p.add_argument("--model", required=True, help="a model's name, as in jaxneuro info")
    p.add_argument("--source", dest="layout", required=True, metavar="LAYOUT", help=f"one of {arguments.LAYOUTS}")
    p.add_argument("--out", type=Path, help="folder to make (not needed with --dry-run)")
    arguments.settings(p)
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
    p.add_argument(
        "--source-size", type=arguments.triple, help="what those tables were made for: window, or grid of patches"
    )
    p.add_argument("--inflate-time", action="store_true", help="stretch the patch kernel along time, say 2 to 4")
    p.add_argument("--allow-half", action="store_true", help="widen float16 and bfloat16 weights")
    p.add_argument("--seed", type=int, default=0, help="of what begins afresh")
    p.add_argument("--dry-run", action="store_true", help="print what would become of every tensor; write nothing")
    p.set_defaults(run=_convert)

    p = verbs.add_parser("export", help="a run or converted weights to safetensors, torch or StableHLO, with a card")
    p.add_argument("workdir", type=Path, metavar="SOURCE", help="folder of a run, or one that convert made")
    p.add_argument("--format", required=True, choices=("safetensors", "torch", "stablehlo"))
    p.add_argument("--layout", help=f"names and shapes of the tensors: jaxneuro (default), {arguments.LAYOUTS}")
    p.add_argument("--out", type=Path, required=True, help="folder to make")
    p.set_defaults(run=_export)


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
            arguments.keywords(args),
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
