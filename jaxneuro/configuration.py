"""Experiments as files: find a config, read it, apply overrides."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from jaxneuro.errors import InputError


def read(path: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """Return the locked config of a file, with `--config.a.b=value` overrides.

    A config may import its neighbours, as a script may.

    Raises:
      InputError: no such file, no `get_config` in it, or a key or value that the config does not take.
    """
    file = locate(path)
    values = flags.FlagValues()
    arguments = ["jaxneuro", *overrides]
    try:
        config = _load(file)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=arguments)
        left = values(arguments)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as e:
        # KeyError and AttributeError put quotes around their message.
        found = " ".join(str(e.args[0] if e.args else e).split())
        raise InputError(f"{file}: {found}; expected a key and a value of this config") from e
    if len(left) > 1:
        raise InputError(f"config: found {' '.join(left[1:])}; expected only --config.KEY=VALUE")
    return config.lock()


def locate(path: str) -> Path:
    """Find a config: the path itself, else that name in the repository's or the installed package's configs.

    Raises:
      InputError: there is none.
    """
    here = Path(__file__).parent
    for candidate in (Path(path), here.parent / "configs" / Path(path).name, here / "configs" / Path(path).name):
        if candidate.is_file():
            return candidate.resolve()
    raise InputError(f"config: found no file {path}; expected one such as configs/train_ad.py")


def _load(file: Path) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise ValueError("is no Python file")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
        return module.get_config()
    finally:
        sys.path.remove(str(file.parent))
        # Another folder may have a neighbour of the same name.
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(str(file.parent)):
                del sys.modules[name]
