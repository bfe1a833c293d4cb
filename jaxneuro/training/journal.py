"""What a run writes down: metrics as JSON lines and TensorBoard files, its config, versions and scans."""

from __future__ import annotations

import json
import math
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.summary import image, scalar

from jaxneuro import lock, records, whole
from jaxneuro.errors import InputError

_CONFIG = "config.json"
#: What a run leaves that was killed before its config was written.
_BEGUN = (lock.FILE, f".{_CONFIG}.partial")
#: Config keys that may differ between a run and its resumption: what is learned does not hang on them (a mesh changes
#: the order of sums, so the last bits), and that moved data are the same data is checked by their hashes.
_FREE = ("data.path", "data.threads", "data.prefetch", "data.source", "training.log_every", "training.keep", "mesh.")
#: Keys that runs of before have not, and what they did.
_LATER: dict[str, Any] = {"data.leave_out": []}
#: The value of data.source that is no data.
_NOISE = "synthetic"
#: Entries of a dataset's card that must not change during the life of a run.
SEALS = ("manifest_sha256", "splits_sha256")
_PACKAGES = ("jaxneuro", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "scikit-learn")


class Journal:
    """Metrics of a run, one JSON object a line in `metrics.jsonl`, and the same in `tensorboard/`.

    Args:
      workdir: folder of the run.
      resume_at: step that the run resumes from; lines after it are dropped, for they will be written again. None for
        a run that begins, which keeps none: another may have been killed before it saved a state.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, resume_at: int | None = None) -> None:
        path = Path(workdir) / "metrics.jsonl"
        kept = [line for line in _lines(path) if resume_at is not None and _step(line) <= resume_at]
        whole.write(path, "".join(line + "\n" for line in kept))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._board = _Board(Path(workdir) / "tensorboard", resume_at or 0)
        self._pictures = Path(workdir) / "pictures"

    def write(self, step: int, epoch: float, values: dict[str, float]) -> None:
        """Write values of one step; a value that is not finite becomes null."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **finite}) + "\n")
        self._file.flush()
        self._board.write(step, values)

    def draw(self, step: int, picture: np.ndarray) -> None:
        """Write a picture [height, width, 3] uint8 of one step, as PNG in `pictures/` too."""
        self._pictures.mkdir(exist_ok=True)
        Image.fromarray(picture).save(self._pictures / f"step-{step:07d}.png")
        self._board.draw(step, picture)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


class Silence:
    """A journal that writes nothing, of a process beside the one that does."""

    def write(self, step: int, epoch: float, values: dict[str, float]) -> None: ...

    def draw(self, step: int, picture: np.ndarray) -> None: ...


class _Board:
    """A TensorBoard event file, written as it comes: tensorboardX's SummaryWriter hands events to a thread through a
    multiprocessing queue, where a full disk or a kill loses them."""

    def __init__(self, folder: Path, resume_at: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Several runs on one folder are read in the order of their names.
        self._writer = EventsWriter(str(folder / f"events-{resume_at:09d}"))
        if resume_at:
            session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(event_pb2.Event(step=resume_at + 1, session_log=session))
        self._writer.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._add(event_pb2.Event(step=step, summary=scalar(name, value)))
        self._writer.flush()

    def draw(self, step: int, picture: np.ndarray) -> None:
        self._add(event_pb2.Event(step=step, summary=image("pictures", picture, dataformats="HWC")))
        self._writer.flush()

    def _add(self, event: event_pb2.Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def close(self) -> None:
        self._writer.close()


def claim(workdir: str | os.PathLike[str], config: dict[str, Any]) -> None:
    """Make a run's folder, or check that it was made by the same config, and write the config into it.

    Raises:
      InputError: as `check_config`.
    """
    check_config(workdir, config)
    Path(workdir).mkdir(parents=True, exist_ok=True)
    whole.write_json(Path(workdir) / _CONFIG, config)


def check_config(
    workdir: str | os.PathLike[str], config: dict[str, Any], *, instead: str = "another --workdir"
) -> None:
    """Refuse a folder that is not a run's, or that of a run with another config; writes nothing.

    Args:
      workdir: the folder.
      config: the config that is asked for.
      instead: what to choose instead, for the error.

    Raises:
      InputError: the folder belongs to another config; names the keys that differ.
    """
    path = Path(workdir) / _CONFIG
    if path.is_file():
        there = records.read_json(path, expected=f"the config of a run; choose {instead}")
        if differ := differences(there, config):
            raise InputError(
                f"{workdir}: was made by another config ({'; '.join(differ[:5])}"
                f"{f'; and {len(differ) - 5} more' if len(differ) > 5 else ''}); expected the same; "
                f"choose {instead}"
            )
    elif Path(workdir).exists() and any(p.name not in _BEGUN for p in Path(workdir).iterdir()):
        raise InputError(f"{workdir}: holds files but no config.json; expected an empty or new folder, or a run's")


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Return "KEY: ... there, ... here" for each key that keeps two nested configs from being one run's."""
    old, new = (_LATER | _flat(of) for of in (there, json.loads(json.dumps(here))))
    return [
        f"{k}: {old.get(k)!r} there, {new.get(k)!r} here"
        for k in sorted({*old, *new})
        if old.get(k) != new.get(k) and not (k.startswith(_FREE) and _NOISE not in (old.get(k), new.get(k)))
    ]


def check_dataset(workdir: str | os.PathLike[str], card: dict[str, Any]) -> None:
    """Refuse a dataset other than the one that a run was made with; nothing to refuse before it was begun.

    Raises:
      InputError: manifest or folds differ: targets and the line between training and test come from them.
    """
    file = Path(workdir) / "run.json"
    if not file.is_file():
        return
    made_with = records.read_json(file, ["dataset"], expected="what a run wrote down; choose another --workdir")[
        "dataset"
    ]
    if differ := [k for k in SEALS if made_with.get(k) != card[k]]:
        raise InputError(
            f"{workdir}: was made with another dataset ({', '.join(differ)} differ from its run.json); expected the "
            "same, for targets and folds come from it; choose another --workdir, or test on it with evaluate --data"
        )


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in _PACKAGES}


def _step(line: str) -> float:
    """Return the step of a line; infinite for one that is damaged, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    # A line cut short by a kill has no newline at its end.
    return text[: text.rfind("\n") + 1].splitlines()


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
