"""Scans that are done, kept beside the dataset until it is whole: a stopped preparation goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Spool:
    """A folder of prepared scans, each under a key of what it was made from.

    Attributes:
      folder: where they are.
      recipe: fingerprint of the recipe that makes them.
    """

    folder: Path
    recipe: str

    def key(self, *paths: str) -> str:
        """Return the key of a scan: its files' names, sizes and times of change, and the recipe.

        Raises:
          OSError: a file is not there.
        """
        parts: list[Any] = [self.recipe]
        for path in paths:
            if path:
                status = os.stat(path)
                parts.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
        text = json.dumps(parts).encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).hexdigest()[:32]

    def find(self, key: str) -> dict[str, Any] | None:
        """Return what `keep` wrote for a key, None when there is nothing whole."""
        try:
            found = json.loads(self._file(key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return found if "problem" in found or self._file(key, ".npy").is_file() else None

    def keep(self, key: str, entry: dict[str, Any], volume: np.ndarray | None = None) -> None:
        """Write an entry, and its volume before it: an entry that can be found is whole.

        Raises:
          OSError: the disk is full or not writable.
        """
        self._file(key, "").parent.mkdir(parents=True, exist_ok=True)
        mine = f".{os.getpid()}.tmp"
        if volume is not None:
            with open(self._file(key, mine), "wb") as f:
                np.save(f, volume)
            os.replace(self._file(key, mine), self._file(key, ".npy"))
        self._file(key, mine).write_text(json.dumps(entry), encoding="utf-8")
        os.replace(self._file(key, mine), self._file(key, ".json"))

    def volume(self, key: str) -> np.ndarray:
        """Return the volume of a key."""
        return np.load(self._file(key, ".npy"))

    def _file(self, key: str, ending: str) -> Path:
        # 256 folders: some file systems are slow with 100,000 files in one.
        return self.folder / key[:2] / f"{key}{ending}"
