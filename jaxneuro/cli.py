"""`jaxneuro VERB ...`: parse, call one function, turn a user's error into one clear line.

Verbs import what they need when they run, so that `--help` and the verbs without a model never load jax.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from jaxneuro import __version__, terminal
from jaxneuro.errors import InputError, Preempted, Terminated
from jaxneuro.verbs import about, runs, scans, studies, weights

_EXTRAS = {
    "nilearn": "prepare", "SimpleITK": "prepare", "av": "video", "matplotlib": "report", "jinja2": "report",
    "torch": "torch", "optuna": "search",
}  # fmt: skip


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
    errno.ENOENT: "; expected it, or the folder that it is to lie in, to be there; check the path",
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
    for kind in (scans, runs, about, weights, studies):
        kind.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
