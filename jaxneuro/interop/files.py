"""Checkpoint files to named arrays and back. Nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxneuro.errors import CorruptDataError, InputError

#: Keys under which published files keep their tensors.
WRAPPERS = ("state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "backbone.")
#: How many wrappers may lie in each other.
_DEEPEST = 4
_SHOWN = 5
_PLAIN = "save it as a plain float32 tensor"


def read(path: Path, *, allow_half: bool = False) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the tensors of a checkpoint by name, wrappers and prefixes taken off, and what else was found or done.

    Args:
      path: a .safetensors file (torch is not needed), or one that torch wrote (read with `weights_only=True`).
      allow_half: widen float16 and bfloat16 to float32, which is exact, instead of refusing them.

    Raises:
      InputError: the file cannot be read as weights; says why.
      CorruptDataError: a weight is NaN or infinite.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: found no file; expected a checkpoint (.safetensors, .pth, .pt)")
    if path.suffix == ".safetensors":
        tensors, notes = _read_safetensors(path), list[str]()
    else:
        tensors, notes = _read_torch(path)
    if not tensors:
        raise InputError(f"{path}: found no tensors; expected a state dict, bare or under {', '.join(WRAPPERS)}")
    tensors, stripped = strip(tensors, str(path))
    return _checked(path, tensors, allow_half, notes + stripped)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write named arrays; the same arrays give the same bytes."""
    from safetensors.numpy import save

    path.write_bytes(save({k: np.array(tensors[k], order="C") for k in sorted(tensors)}))


def write_torch(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write named arrays, nested as they are, as torch saves them."""
    import torch

    def tensor(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: tensor(v) for k, v in value.items()}
        return torch.from_numpy(np.array(value))

    torch.save(tensor(tensors), path)


def strip(tensors: dict[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Take off prefixes that all names carry: `module.`, `backbone.` (beside which a `cls_head.` may stand).

    Raises:
      InputError: only some names carry it.
    """
    notes = []
    for prefix in PREFIXES:
        carry = [name for name in tensors if name.startswith(prefix)]
        others = [name for name in tensors if not name.startswith((prefix, "cls_head."))]
        if carry and others:
            raise InputError(
                f"{where}: found the prefix '{prefix}' on {len(carry)} of {len(tensors)} names (not on {others[0]}); "
                "expected it on all or none; two files were mixed: save the weights of one network"
            )
        if carry:
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
            notes.append(f"took the prefix '{prefix}' off {len(carry)} names")
    return tensors, notes


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError, safe_open

    found: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                try:
                    found[name] = file.get_tensor(name)
                except (AttributeError, TypeError) as e:  # a type that NumPy has not
                    raise InputError(f"{path}: found {name} ({_first(e)}); expected real numbers; {_PLAIN}") from e
        return found
    except InputError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError) as e:
        raise InputError(
            f"{path}: cannot be read as safetensors ({_first(e)}); expected a whole file; copy it again"
        ) from e


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    import pickle

    import torch

    with open(path, "rb") as file:
        begins = file.read(16)
    if begins and not begins.startswith((b"PK", b"\x80")):
        raise InputError(f"{path}: begins with {begins!r}; expected a checkpoint that torch wrote; copy it again")
    if begins.startswith(b"PK"):
        _check_records(path)
    try:
        # Published MAE files carry the arguments of their training, a plain record.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old formats, which load all the same
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        raise InputError(
            f"{path}: holds more than weights ({_refused(e)}), and nothing in a file is executed; expected a state "
            "dict, saved where the network is: torch.save(network.state_dict(), FILE)"
        ) from e
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, TypeError, IndexError) as e:
        raise InputError(
            f"{path}: cannot be read by torch ({_first(e)}); expected a whole checkpoint; copy it again"
        ) from e
    notes: list[str] = []
    while isinstance(found, Mapping):
        inner = [key for key in WRAPPERS if isinstance(found.get(key), Mapping)]
        if not inner:
            break
        if len(notes) == _DEEPEST:
            raise InputError(
                f"{path}: found more than {_DEEPEST} wrappers ({', '.join(WRAPPERS)}) in each other; expected a state "
                "dict in one; save the state dict alone"
            )
        others = [str(key) for key in found if key != inner[0]]
        notes.append(f"took the weights under '{inner[0]}'" + (f"; ignored {', '.join(others)}" if others else ""))
        found = found[inner[0]]
    if not isinstance(found, Mapping):
        raise InputError(f"{path}: found a {type(found).__name__}; expected a state dict, bare or under {WRAPPERS}")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    if others := [str(k) for k in found if str(k) not in tensors]:
        notes.append(f"ignored {', '.join(others[:_SHOWN])}: no tensors ({len(others)} in all)")
    return {k: _array(path, k, v) for k, v in tensors.items()}, notes


def _check_records(path: Path) -> None:
    """Hold each record of an archive against its checksum: torch reads a damaged one without a word.

    Raises:
      CorruptDataError: names the record.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as e:
        raise InputError(f"{path}: cannot be read ({_first(e)}); expected a whole checkpoint; copy it again") from e
    if damaged:
        raise CorruptDataError(
            f"{path}: found the record {damaged} with another checksum than it was written with; expected a whole "
            "checkpoint; copy it again"
        )


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    import torch

    try:
        tensor = tensor.detach().resolve_conj().resolve_neg()
        if tensor.dtype == torch.bfloat16:
            import ml_dtypes

            return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()
    except (TypeError, RuntimeError) as e:  # sparse, quantised, without values (meta), of a type that NumPy has not
        what = f"{tensor.layout}, {tensor.dtype}, on {tensor.device}".replace("torch.", "")
        raise InputError(f"{path}: found {name} ({what}); expected real numbers; {_PLAIN}") from e


def _checked(
    path: Path, tensors: dict[str, np.ndarray], allow_half: bool, notes: list[str]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Widen what may be widened, and refuse what no network should be given."""
    halves = [k for k, v in tensors.items() if v.dtype.name in ("float16", "bfloat16")]
    if halves and not allow_half:
        raise InputError(
            f"{path}: found {len(halves)} tensors of {tensors[halves[0]].dtype.name} ({_list(halves)}); expected "
            "float32; to take them as they are, widened: --allow-half"
        )
    if halves:
        notes = [*notes, f"widened {len(halves)} tensors of {tensors[halves[0]].dtype.name} to float32"]
    wide = [k for k, v in tensors.items() if v.dtype == np.float64]
    if wide:
        notes = [*notes, f"rounded {len(wide)} tensors of float64 to float32"]
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
        tensors = {k: v.astype(np.float32) if k in {*halves, *wide} else v for k, v in tensors.items()}
    odd = [f"{k} ({v.dtype})" for k, v in tensors.items() if v.dtype != np.float32 and v.dtype.kind not in "iub"]
    if odd:
        raise InputError(f"{path}: found {_list(odd)}; expected real numbers")
    bad = [k for k, v in tensors.items() if v.dtype == np.float32 and not np.isfinite(v).all()]
    if bad:
        raise CorruptDataError(f"{path}: found NaN or infinity in {_list(bad)}; expected finite weights")
    return tensors, notes


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:160].rstrip(" .")


def _refused(error: BaseException) -> str:
    """Return what torch refused to load; its advice to load it all the same is left out."""
    found = re.search(r"GLOBAL ([\w.]+)|Unsupported (operand \d+)|Unsupported (class [\w.]+)", str(error))
    return next(part for part in found.groups() if part) if found else "what torch does not load as weights"


def _list(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)} in all)" if len(names) > _SHOWN else "")
