"""Experiments as files: find a config, read it, apply overrides."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from jaxneuro.errors import InputError

#: Parts of a config that take keys of their own.
OPEN = ("model", "augment", "objective", "also")


def read(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Return the locked config of a file, with `--config.a.b=value` overrides.

    A config may import its neighbours, as a script may.

    Raises:
      InputError: no such file, no `get_config` in it, or a key or value that the config does not take.
    """
    file = locate(path)
    values = flags.FlagValues()
    arguments = ["jaxneuro", *overrides]
    config = load(path)
    if not isinstance(config, ml_collections.ConfigDict):
        raise InputError(
            f"{file}: found a {type(config).__name__}; expected the config of a run; a Study is for jaxneuro study, a "
            "Search for jaxneuro search"
        )
    try:
        _make_room(config, overrides)
        _check_overrides(config, overrides)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        left = values(arguments)
    except InputError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file}: {_message(e)}; expected a key and a value of this config") from e
    if len(left) > 1:
        raise InputError(f"config: found {' '.join(left[1:])}; expected only --config.KEY=VALUE")
    check(config)
    return config.lock()


def load(path: str) -> Any:
    """Return what `get_config()` of a file returns, whatever it is.

    Raises:
      InputError: no such file, or no `get_config` in it that runs.
    """
    file = locate(path)
    try:
        return _load(file)
    except InputError as e:  # of ours, which it called
        raise InputError(f"{_place(file, e)}: {e}") from e
    except (Exception, SystemExit) as e:  # a file is a program, which may raise anything
        raise InputError(
            f"{_place(file, e)}: {type(e).__name__}: {_message(e) or 'no message'}; expected a Python file whose "
            "get_config() returns a config"
        ) from e


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse numbers that no run can be made of.

    Raises:
      InputError: names the key, what was found, and what is expected.
    """
    for key, (fits, expected) in _RANGES.items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, ml_collections.ConfigDict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not fits(value):
            raise InputError(f"{key}: found {value}; expected {expected}; set it with --config.{key}=VALUE")


def _whole(least: int) -> tuple[Callable[[float], bool], str]:
    return lambda v: v >= least, f"a whole number of at least {least}"


_NOT_NEGATIVE: tuple[Callable[[float], bool], str] = (lambda v: 0 <= v < math.inf, "a number of at least 0")
_BELOW_ONE: tuple[Callable[[float], bool], str] = (lambda v: 0 <= v < 1, "a number in [0, 1)")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    # A key keeps 32 bits of it: a larger seed would draw as another, or fail.
    "seed": (lambda v: 0 <= v < 2**32, "a whole number from 0 to 4294967295"),
    "data.batch_size": _whole(1),
    "data.threads": _whole(1),
    "data.prefetch": _whole(1),
    "data.fraction": (lambda v: 0 < v <= 1, "a share in (0, 1]"),
    "training.epochs": _whole(0),
    "training.patience": _whole(0),
    "training.accumulate": _whole(1),
    "training.evaluate_every": _whole(1),
    "training.log_every": _whole(1),
    "training.keep": _whole(1),
    "optimizer.learning_rate": (lambda v: 0 < v < math.inf, "a rate above 0"),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.clip": _NOT_NEGATIVE,
    "optimizer.warmup_epochs": _NOT_NEGATIVE,
    "optimizer.momentum": _BELOW_ONE,
    "optimizer.beta1": _BELOW_ONE,
    "optimizer.beta2": _BELOW_ONE,
    "optimizer.average": _BELOW_ONE,
    "optimizer.final_rate": (lambda v: 0 <= v <= 1, "a share in [0, 1]"),
    "optimizer.layer_decay": (lambda v: 0 < v <= 1, "a factor in (0, 1]"),
}


def locate(path: str) -> Path:
    """Find a config: the path itself, else that name in the repository's or the installed package's configs.

    Raises:
      InputError: there is none.
    """
    here = Path(__file__).parent
    name = Path(path)
    candidates = [name]
    if len(name.parts) == 1 or (len(name.parts) == 2 and name.parts[0] == "configs"):
        candidates += [here.parent / "configs" / name.name, here / "configs" / name.name]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.resolve()
    raise InputError(f"config: found no file {path}; expected one such as configs/finetune_ad.py")


def _check_overrides(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Refuse keys that the config does not have, and numbers that are none, by the words that the user typed.

    Raises:
      InputError: names the override.
    """
    leaves = list(_leaves(config))
    for i, override in enumerate(overrides):
        if not override.startswith("--"):
            continue
        name, equals, text = override.removeprefix("--").partition("=")
        first, *path = name.split(".")
        if first != "config" or not path:
            near = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name]
            hint = f", such as --config.{near[0]}=VALUE" if near else ""
            raise InputError(f"--{name}: found no such flag; expected --config.KEY=VALUE{hint}")
        text = text if equals else "".join(overrides[i + 1 : i + 2])
        place: Any = config
        for level, key in enumerate(path):
            if not isinstance(place, ml_collections.ConfigDict) or key not in place:
                near = difflib.get_close_matches(".".join(path), leaves, n=1)
                hint = f"; did you mean --config.{near[0]}?" if near else ""
                at = ".".join(path[:level])
                keys = (
                    f"; '{at}' holds {', '.join(place)}" if isinstance(place, ml_collections.ConfigDict) and at else ""
                )
                raise InputError(
                    f"--config.{'.'.join(path)}: found no such key; expected one of this config{hint or keys}"
                )
            place = place[key]
        kind, what = (int, "a whole number") if isinstance(place, int) else (float, "a number")
        if isinstance(place, int | float) and not isinstance(place, bool):
            try:
                kind(text)
            except ValueError as e:
                raise InputError(f"--config.{'.'.join(path)}: found '{text}'; expected {what}") from e


def _leaves(config: ml_collections.ConfigDict, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of every value."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _make_room(config: ml_collections.ConfigDict, overrides: Sequence[str]) -> None:
    """Add the keys that overrides name where config files need not list them all: models, views and objectives know
    their keywords themselves."""
    for override in overrides:
        name, _, text = override.lstrip("-").partition("=")
        _, *path = name.split(".")
        if not path or path[0] not in OPEN or len(path) < 2:
            continue
        place = config
        for key in path[:-1]:
            if key not in place:
                place[key] = ml_collections.ConfigDict()
            place = place[key]
            if not isinstance(place, ml_collections.ConfigDict):
                raise ValueError(f"{'.'.join(path)}: {key} holds a value, not keys")
        if path[-1] not in place:
            place[path[-1]] = _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _place(file: Path, error: BaseException) -> str:
    """Return a file and, where it is known, the line of it or of a neighbour that an error came through last."""
    came = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        came.append((error.filename, error.lineno))
    folder = file.resolve().parent
    near = [(path, n) for name, n in came if n and (path := Path(name)).is_file() and path.resolve().parent == folder]
    if not near:
        return str(file)
    name, line = near[-1]
    return f"{file}:{line}" if name.resolve() == file.resolve() else f"{file}: {name.name}:{line}"


def _message(error: BaseException) -> str:
    """Return an error's text on one line, without the quotes and escapes that wrapping one error in another gave it."""
    # An error of syntax has the place in its text, too, which `_place` says.
    text = error.msg if isinstance(error, SyntaxError) else str(error.args[0] if len(error.args) == 1 else error)
    while isinstance(inner := _literal(text), str) and inner != text:
        text = inner
    found = "no key " if isinstance(error, AttributeError | KeyError) and text.isidentifier() else ""
    return found + " ".join(text.split())


def _load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError("is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    # A copy of one of our configs finds `common` where we keep it.
    ours = [str(p / "configs") for p in (Path(__file__).parents[1], Path(__file__).parent) if (p / "configs").is_dir()]
    paths = [str(file.parent), *ours]
    sys.path[:0] = paths
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    finally:
        del sys.path[: len(paths)]
        # Another folder may have a neighbour of the same name.
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(tuple(paths)):
                del sys.modules[name]
