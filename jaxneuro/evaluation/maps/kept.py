"""Maps that a stopped command had made: kept on disk, one file a scan, until the command is done."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections import UserDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxneuro.evaluation.maps.making import One
from jaxneuro.training import hosts

#: In the folder of the results.
FOLDER = ".maps"


class Kept(UserDict[int, One]):
    """Maps by their place in a list of scans; each is on disk as soon as it is set, and there at the next start.

    Of several processes the first one writes. A map counts as there where all of them can read it.

    Args:
      out: folder of the results.
      what: all that maps hang on besides the scan and its class, as plain values: files of anything else are left
        alone.
      names: of each scan and its class, in the order of the list.
    """

    def __init__(self, out: Path, what: Mapping[str, Any], names: Sequence[str]) -> None:
        super().__init__()
        text = json.dumps(what, sort_keys=True).encode()
        folder = out / FOLDER / hashlib.sha256(text).hexdigest()[:16]
        self._files = [folder / f"{name}.npz" for name in names]
        found = {i: one for i, file in enumerate(self._files) if (one := _read(file))}
        for i in _everywhere(sorted(found), len(names)):
            self.data[i] = found[i]
        self.before = len(self.data)

    def __setitem__(self, i: int, one: One) -> None:
        super().__setitem__(i, one)
        if hosts.is_first():
            file = self._files[i]
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_suffix(".partial")
            with open(partial, "wb") as f:
                np.savez(f, values=one.values, output=one.output, passes=one.passes)
            partial.replace(file)


def forget(out: Path) -> None:
    """Remove what was kept beside finished results."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def digest(weights: Any) -> str:
    """Return what tells weights from others: a hash of their names, shapes and bits."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(weights):
        hashed.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
        hashed.update(np.ascontiguousarray(leaf).tobytes())
    return hashed.hexdigest()


def _read(file: Path) -> One | None:
    """Return the map in a file; None where there is none, or a damaged one, which is made again."""
    try:
        with open(file, "rb") as f, np.load(f) as there:
            return One(there["values"], float(there["output"]), int(there["passes"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def _everywhere(mine: Sequence[int], count: int) -> list[int]:
    """Return which of so many numbers every process names."""
    if jax.process_count() == 1:
        return list(mine)
    told = multihost_utils.process_allgather(np.isin(np.arange(count), mine))
    return np.flatnonzero(np.asarray(told).reshape(-1, count).all(0)).tolist()
