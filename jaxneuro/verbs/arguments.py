"""What several verbs take, and how values on the command line are read."""

from __future__ import annotations

import argparse
import ast
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jaxneuro.errors import InputError, Terminated

LAYOUTS = "torchvision, video_swin, mmaction2 (Swin); monai, yaware (DenseNet); minit (MiNiT, NiT); monai, mae (ViT)"


def count(text: str) -> int:
    """Read a whole number of at least 0."""
    return 0 if text == "0" else positive(text)


def triple(text: str) -> tuple[int, int, int]:
    """Read depth,height,width."""
    try:
        d, h, w = (positive(v.strip()) for v in text.split(","))
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected three numbers such as 80,80,80") from e
    return d, h, w


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found '{text}'; expected a whole number of at least 1")
    return int(text)


def setting(text: str) -> tuple[str, Any]:
    """Read `window=(8,6,6)` or `bias_index=geometric`: a Python literal, or else a word."""
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise argparse.ArgumentTypeError(f"found '{text}'; expected KEY=VALUE such as window=(8,6,6)")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def once(flag: str, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return pairs by key; of a key that is given twice nobody can tell which was meant."""
    found = Counter(key for key, _ in pairs)
    if twice := [key for key, n in found.items() if n > 1]:
        raise InputError(f"{flag}: found {twice} more than once; expected each once")
    return dict(pairs)


def settings(p: Any) -> None:
    """Add the flags of a model: its volumes, its outputs, its keywords."""
    p.add_argument("--input-size", type=triple, default=(80, 80, 80), help="depth,height,width (default: 80,80,80)")
    p.add_argument("--in-channels", type=positive, default=1)
    p.add_argument("--num-outputs", type=count, help="of the head; 0 for none (default: the model's own)")
    p.add_argument(
        "--set", type=setting, action="append", default=[], metavar="KEY=VALUE", help="a keyword of the model; repeat"
    )


def keywords(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords of a model that the flags say; `--set` has no say where there is a flag."""
    flags = {"input_size": args.input_size, "in_channels": args.in_channels, "num_outputs": args.num_outputs}
    for key, _ in args.set:
        if key in flags:
            raise InputError(f"--set: found {key}; expected --{key.replace('_', '-')}, which sets it")
    return {k: v for k, v in flags.items() if v is not None} | dict(args.set)


def distributed(p: argparse.ArgumentParser) -> None:
    """Add the flag of one run in several processes."""
    p.add_argument(
        "--distributed",
        action="store_true",
        help="one of several processes, each with this command: Slurm or Cloud TPU tells which, or "
        "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
    )


def workers(p: argparse.ArgumentParser) -> None:
    """Add the flag of how many processes work."""
    p.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="processes (default: one a core)")


@contextmanager
def terminable() -> Iterator[None]:
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
