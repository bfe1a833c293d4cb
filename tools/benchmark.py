"""Time jaxneuro beside torch and MONAI, in one run whose sides alternate: the tables of docs/scale.md.

python tools/benchmark.py --json out.json                  (full networks at 80^3; more than half an hour on two cores)
python tools/benchmark.py --only step --models vit_b16,nit
python tools/benchmark.py --size testing --rounds 1          (tiny networks: tries the benchmark itself)

compile     the first step of training, with nothing compiled and from the cache
step        forward, backward and update of the six backbones
inference   predictions of a batch
occlusion   predictions of copies of one volume, a cube of each hidden
objectives  steps of MAE, SimMIM and y-aware pre-training, ours alone
input       volumes into host batches, beside MONAI's PersistentDataset and beside reading the same bytes

Each side is a process of its own, warmed up, that waits while another runs. Same volumes, batch, precision and threads;
no dropout and no views on either side. Where jax finds an accelerator, both sides use it, in bfloat16 unless told
otherwise. What could not be measured is not in the tables, but in a list with the reason.

A busy machine gives other numbers: run it alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))


from jaxneuro import terminal
from tools.benchmarking import cases, machine, report, settings
from tools.benchmarking.process import Failed


def several(known: list[str]) -> Any:
    """Return a parser of names between commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"found {', '.join(unknown)}; expected some of {','.join(known)}")
        return [name for name in known if name in names]

    return parse


def positive(text: str) -> int:
    """Parse a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; expected a whole number of 1 or more")
    return int(text)


def options(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names, forms = list(cases.CASES), [name.removeprefix("torch ") for name in cases.TORCH]
    parser.add_argument("--only", type=several(names), default=names, metavar="CASE,...")
    parser.add_argument("--models", type=several(list(settings.MODELS)), default=list(settings.MODELS))
    parser.add_argument("--torch", type=several(forms), default=forms, metavar="FORM,...", help=", ".join(forms))
    parser.add_argument("--size", choices=list(settings.SIZES), default="full")
    parser.add_argument("--batch", type=positive, help="volumes a call, of every case but input")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="bfloat16 on accelerators by default")
    parser.add_argument("--at-least", type=float, default=0.5, help="seconds of a round")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one call above which a side is left out")
    parser.add_argument("--patience", type=float, default=900.0, help="seconds to wait for an answer of a side")
    parser.add_argument("--json", type=Path, help="file for every sample")
    return parser.parse_args(arguments)


def prepare(chosen: argparse.Namespace, folder: Path) -> cases.Run:
    """Find the devices, and whether torch can take part.

    Raises:
      Failed: jax cannot be asked for its devices.
    """
    run = cases.Run(
        models=chosen.models, size=settings.SIZES[chosen.size], precision=chosen.precision or "float32",
        rounds=chosen.rounds, batch=chosen.batch, at_least=chosen.at_least, limit=chosen.limit,
        patience=chosen.patience, folder=folder, devices={}, forms=tuple(f"torch {form}" for form in chosen.torch),
    )  # fmt: skip
    with ExitStack() as stack:
        found = run.start(stack, "machine", "machine", {})
        run.devices = found.ask("call", name="devices")
        if run.place == "accelerator":
            run.precision = chosen.precision or "bfloat16"
            run.ceiling = found.ask("call", name="ceiling") if "step" in chosen.only else {}
        if why := without_torch():
            run.leave_out("all", "every backbone", "torch", why)
        elif run.place == "cpu":
            run.torch_device = "cpu"
        elif found.ask("call", name="torch_cuda"):
            run.torch_device = "cuda"
        else:
            run.leave_out("all", "every backbone", "torch", f"it sees no {run.devices['kind']}")
    return run


def without_torch() -> str:
    """Return why torch cannot take part, "" where it can."""
    needed = ("torch", "torchvision", "monai", "pytest")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}; pip install 'jaxneuro[test]'" if missing else ""


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    chosen = options(arguments)
    if chosen.json and not chosen.json.parent.is_dir():  # told now, not when the first case is done
        print(f"error: --json: found no folder {chosen.json.parent}; expected one that is there", file=sys.stderr)
        return 1
    found: dict[str, Any] = {"command": shlex.join(["python", "tools/benchmark.py", *arguments])}
    found["machine"] = machine.describe()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        try:
            run = prepare(chosen, Path(folder))
        except Failed as e:
            print(f"error: jax: {e}", file=sys.stderr)
            return 1
        found |= {
            "devices": run.devices, "ceiling": run.ceiling, "left_out": run.left_out, "results": [],
            "load_after": machine.load(),
            "settings": {
                "size": chosen.size, "side": run.size.side, "precision": run.precision, "rounds": run.rounds,
                "at_least": run.at_least, "limit": run.limit, "batch": run.batch, "threads": machine.cores(),
            },
        }  # fmt: skip
        for case in chosen.only:
            for result in cases.CASES[case](run):
                found["results"].append(result)
                terminal.say(f"{case} of {result['of']}: measured {', '.join(result['sides']) or 'nothing'}")
                found["load_after"] = machine.load()
                if chosen.json:  # what is measured stays, whatever comes after it
                    chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(report.lines(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
