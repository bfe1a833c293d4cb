"""The verb that describes: a dataset, weights, a model, the plan of a run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxneuro.errors import InputError
from jaxneuro.verbs import arguments


def add(verbs: Any) -> None:
    """Add the verbs to the parser."""
    p = verbs.add_parser(
        "info",
        help="describe a dataset or weights (and check them), or a model; or plan a run",
        epilog="Any value of the config of a plan can be set: --config.data.batch_size=64",
    )
    p.add_argument("what", nargs="?", help="a folder that prepare, convert or export made, or a model's name")
    model = p.add_argument_group("for a model")
    model.add_argument("--batch-size", type=arguments.positive, help="on one device (default: 1)")
    model.add_argument("--depth", type=arguments.positive, help="levels of modules to tell apart (default: 1)")
    arguments.settings(model)
    plan = p.add_argument_group("for a plan")
    plan.add_argument("--plan", action="store_true", help="memory, operations and the least time of a run's step")
    plan.add_argument("--config", help="a file in configs/")
    plan.add_argument("--device", action="append", metavar="NAME", help="v5e, v5p, a100, h100 or h200; repeat")
    plan.add_argument(
        "--devices", type=arguments.positive, help="how many (default: as many as the config's mesh names)"
    )
    plan.add_argument(
        "--hosts", type=arguments.positive, help="over which they are spread (default: as few as have room)"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write its numbers here, too")
    plan.add_argument("--samples", type=arguments.positive, help="training scans (default: those of the dataset)")
    # A plan takes the dataset's size unless one is given; models have the default that the help says.
    p.set_defaults(run=_info, input_size=None, in_channels=None)


def _info(args: argparse.Namespace, rest: Sequence[str]) -> None:
    from jaxneuro import info

    if args.plan:
        return _plan(args, rest)
    for flag in ("config", "device", "devices", "hosts", "json", "samples"):
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
        info.model(args.what, arguments.keywords(args), batch_size=args.batch_size or 1, depth=args.depth or 1)


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
    from jaxneuro import configuration, whole
    from jaxneuro.training import devices, plan

    made = plan.make(
        configuration.read(args.config, rest),
        count=args.devices,
        hosts=args.hosts,
        kinds=args.device or tuple(devices.DEVICES),
        input_size=args.input_size,
        channels=args.in_channels or 1,
        classes=args.num_outputs,
        samples=args.samples,
    )
    plan.say(made)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        whole.write_json(args.json, plan.as_json(made))
