"""Scans that are done, kept beside the dataset until it is whole: a stopped preparation goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxneuro import lock

#: What a record holds at the least.
_KEYS = {"content_hash", "volume_sha256", "recipe_fingerprint", "versions", "stages", "measures", "flags"}


@dataclass(frozen=True)
class Spool:
    """A folder of prepared scans, each under a key of what it was made from; each recipe has a folder of its own in it.

    Attributes:
      folder: where they are.
      recipe: fingerprint of the recipe that makes them.
      shape: of the volumes that it makes.
    """

    folder: Path
    recipe: str
    shape: tuple[int, ...]

    def key(self, *paths: str) -> str:
        """Return the key of a scan: its files' names, sizes and times of change, and the recipe.

        Raises:
          OSError: a file is not there.
        """
        parts: list[Any] = [self.recipe]
        for path in paths:
            if path:
                for file in (path, *_partners(path)):
                    status = os.stat(file)
                    parts.append((os.path.abspath(file), status.st_size, status.st_mtime_ns))
        text = json.dumps(parts).encode("utf-8", "surrogatepass")
        return hashlib.sha256(text).hexdigest()[:32]

    def find(self, key: str) -> tuple[dict[str, Any], np.ndarray | None] | None:
        """Return what `keep` wrote for a key, its entry and volume; None when that is not there, or no longer whole."""
        try:
            entry = json.loads(self._file(key, ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(entry, dict):
            return None
        if "problem" in entry:
            parts = entry["problem"]
            words = isinstance(parts, list) and len(parts) == 3 and all(isinstance(p, str) for p in parts)
            return (entry, None) if words else None
        record = entry.get("record")
        if not isinstance(record, dict) or not set(record) >= _KEYS or record["recipe_fingerprint"] != self.recipe:
            return None
        try:
            volume = np.load(self._file(key, ".npy"))
        except Exception:  # NumPy raises half a dozen kinds for damaged headers
            return None
        if not isinstance(volume, np.ndarray) or volume.shape != self.shape or volume.dtype != np.float16:
            return None
        return (entry, volume) if hashlib.sha256(volume.tobytes()).hexdigest() == record["volume_sha256"] else None

    def keep(self, key: str, entry: dict[str, Any], volume: np.ndarray | None = None) -> None:
        """Write an entry, and its volume before it: an entry that can be found is whole, after a loss of power, too.

        Raises:
          OSError: the disk is full or not writable.
        """
        mine = self._file(key, f".{socket.gethostname()}-{os.getpid()}.tmp")
        mine.parent.mkdir(parents=True, exist_ok=True)
        if volume is not None:
            with open(mine, "wb") as f:
                np.save(f, volume)
                f.flush()
                os.fsync(f.fileno())
            os.replace(mine, self._file(key, ".npy"))
        with open(mine, "w", encoding="utf-8") as text:
            json.dump(entry, text)
            text.flush()
            os.fsync(text.fileno())
        os.replace(mine, self._file(key, ".json"))

    def begin(self, key: str) -> None:
        """Leave a mark that a scan has begun, for the run after one that the scan ended."""
        self._file(key, ".began").parent.mkdir(parents=True, exist_ok=True)
        self._file(key, ".began").touch()

    def begun(self, key: str) -> bool:
        """Whether a scan began that did not end, in a run that was killed."""
        return self._file(key, ".began").exists()

    def end(self, key: str) -> None:
        """Take the mark of `begin` away."""
        self._file(key, ".began").unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove what this recipe has made, and the folder if nothing else lies in it."""
        shutil.rmtree(self.folder / self.recipe, ignore_errors=True)
        self._remove_empty()

    def remove_failures(self) -> None:
        """Remove what this recipe has left, and the folder if nothing else lies in it, unless scans are done there."""
        if not any((self.folder / self.recipe).glob("*/*.npy")):
            self.remove()

    def _remove_empty(self) -> None:
        if {p.name for p in self.folder.iterdir()} <= {lock.FILE}:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, key: str, ending: str) -> Path:
        # 256 folders: some file systems are slow with 100,000 files in one.
        return self.folder / self.recipe / key[:2] / f"{key}{ending}"


def _partners(path: str) -> list[str]:
    """Return the other file of an image in two, header and voxels."""
    found = re.search(r"\.(hdr|img)(\.gz)?$", path, re.IGNORECASE)
    if found is None:
        return []
    others = ("img", "IMG") if found[1].lower() == "hdr" else ("hdr", "HDR")
    names = [f"{path[: found.start()]}.{other}{end}" for other in others for end in ("", ".gz", ".GZ")]
    return [name for name in names if os.path.exists(name)]
