"""Our own form of weights: a folder with `model.safetensors` (slash paths) and `card.json`, which describes them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from jaxneuro import __version__, models, records
from jaxneuro.errors import CorruptDataError, InputError
from jaxneuro.interop import files, weights

CARD, WEIGHTS = "card.json", "model.safetensors"
_FORMAT = 1
_EXPECTED = "a folder that jaxneuro convert or export wrote"
#: What a card must say, and as what.
_KEYS: dict[str, type] = {"format": int, "jaxneuro": str, "file": str, "sha256": str, "model": dict}


@contextmanager
def new(out: Path) -> Iterator[Path]:
    """Yield a folder to fill that becomes `out` when all went well, and leaves nothing behind when not.

    Raises:
      InputError: `out` is there and not empty.
    """
    out = Path(out).absolute()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; expected a new folder; choose another or remove it")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with suppress(OSError):  # it is not empty
                parent.rmdir()


_JSON = {int: "a whole number", str: "a text", dict: "an object"}


def write(folder: Path, file: str, card: Mapping[str, Any]) -> None:
    """Write the card beside a file of weights, with its SHA-256 and the version of jaxneuro."""
    seal = {"format": _FORMAT, "jaxneuro": __version__, "file": file, "sha256": records.file_sha256(folder / file)}
    (folder / CARD).write_text(json.dumps({**seal, **card}, indent=1) + "\n", encoding="utf-8")


def flat(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return variables by slash path; the tensors kept beside them under "unused/" and torch's name."""
    leaves = {k: np.asarray(v) for k, v in weights.flat(variables).items() if not k.startswith("unused/")}
    return leaves | {f"unused/{k}": np.asarray(v) for k, v in variables.get("unused", {}).items()}


def read_card(folder: Path) -> dict[str, Any]:
    """Return a folder's card, once its file is what the card says.

    Raises:
      InputError: no such folder, or of a later version.
      CorruptDataError: the file is not the one that was written.
    """
    card = records.read_json(folder / CARD, _KEYS, expected=_EXPECTED)
    model = card["model"] if isinstance(card["model"], dict) else {}
    parts = [(key, card[key], kind) for key, kind in _KEYS.items()]
    parts += [(f"model.{key}", model.get(key), kind) for key, kind in (("name", str), ("settings", dict))]
    for key, value, kind in parts:
        if type(value) is not kind:
            raise InputError(f"{folder / CARD}: found {key} {value!r}; expected {_JSON[kind]}; convert it again")
    if card["format"] != _FORMAT:
        raise InputError(f"{folder}: found format {card['format']}; expected {_FORMAT}; use the jaxneuro that wrote it")
    file = folder / card["file"]
    if Path(card["file"]).name != card["file"] or not file.is_file():
        raise InputError(f"{file}: found no file; expected {_EXPECTED}")
    if (found := records.file_sha256(file)) != card["sha256"]:
        raise CorruptDataError(
            f"{file}: its SHA-256 is {found[:12]}..., its card says {card['sha256'][:12]}...; copy or convert it again"
        )
    return card


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return card and leaves, by slash path, of weights in our own form; tensors kept beside them are under "unused/".

    Raises:
      InputError: the folder holds no such weights.
      CorruptDataError: the file is not the one that was written.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.get("layout", "jaxneuro") != "jaxneuro" or card["file"] != WEIGHTS:
        raise InputError(
            f"{folder}: found {card['file']} in the layout '{card.get('layout')}'; expected jaxneuro's; export it so"
        )
    return card, files.read(folder / WEIGHTS)[0]


def load(folder: str | Path) -> tuple[nn.Module, dict[str, Any], dict[str, Any]]:
    """Return model, variables and card of weights in our own form.

    Raises:
      InputError: the folder holds no such weights, or they are not those of the model that its card names.
      CorruptDataError: the file is not the one that was written.
    """
    folder = Path(folder)
    card, tensors = read(folder)
    try:
        model = build(card["model"])
    except InputError as e:
        raise InputError(f"{folder / CARD}: {e}") from e
    unused = {k.removeprefix("unused/"): v for k, v in tensors.items() if k.startswith("unused/")}
    leaves = {k: v for k, v in tensors.items() if not k.startswith("unused/")}
    wanted = weights.abstract(model)
    wrong = sorted(leaves.keys() ^ wanted.keys()) or [k for k in wanted if leaves[k].shape != wanted[k].shape]
    if wrong:
        raise InputError(
            f"{folder}: {len(wrong)} leaves are not those of {card['model']['name']} ({', '.join(wrong[:5])}); "
            "expected the model that its card names; convert it again"
        )
    variables = weights.nested(leaves)
    return model, variables | ({"unused": unused} if unused else {}), card


def build(described: Mapping[str, Any]) -> nn.Module:
    """Build the model that a card describes."""
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in described["settings"].items()}
    return models.build(described["name"], **settings)
