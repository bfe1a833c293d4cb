"""What jobs of a study took: an entry for each time that a process worked on one, kept beside its lock."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from jaxneuro.errors import InputError
from jaxneuro.study.plan import Data, Job, Run
from jaxneuro.study.tables import Table, number

FILE = "time.jsonl"


class Spent(NamedTuple):
    """Hold what one process spent on a job.

    Attributes:
      seconds: by the clock.
      host: where.
      devices: how many.
      kind: of device, as jax names it.
      ended: when, in UTC.
    """

    seconds: float
    host: str
    devices: int
    kind: str
    ended: str


def add(folder: Path, seconds: float, devices: Sequence[Any]) -> None:
    """Write down, in the folder of a job's lock, that this process worked on it, to its end or not."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    spent = Spent(round(seconds, 1), socket.gethostname(), len(devices), devices[0].device_kind, now)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / FILE, "a", encoding="utf-8") as file:
        file.write(json.dumps(spent._asdict()) + "\n")


def read(folder: Path) -> list[Spent]:
    """Return what was spent on a job, in order; nothing where nobody wrote it down.

    Raises:
      InputError: a line is not what `add` writes.
    """
    path = folder / FILE
    found = []
    for count, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else (), start=1):
        try:
            found.append(Spent(**json.loads(line)))
        except (ValueError, TypeError) as e:
            raise InputError(f"{path} line {count}: found {line[:60]!r}; expected what a study wrote") from e
    return found


def table(jobs: Iterable[Job], spent: Mapping[str, Sequence[Spent]]) -> Table:
    """Return the hours that jobs took, by what they are: data, pre-trainings, the runs of each row.

    Args:
      jobs: of a study.
      spent: name of a job to what was spent on it.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        what = "Data" if isinstance(job, Data) else f"Runs of {job.row}" if isinstance(job, Run) else "Pre-training"
        groups.setdefault(what, []).append(job)
    rows, all_told = [], []
    for what, members in groups.items():
        told = [one for job in members for one in spent.get(job.name, ())]
        all_told += told
        timed = sum(bool(spent.get(job.name)) for job in members)
        rows.append((what, f"{timed:,} of {len(members):,}", *_hours(told)))
    if len(rows) > 1:
        timed = int(sum(bool(spent.get(job.name)) for members in groups.values() for job in members))
        rows.append(("All", f"{timed:,} of {sum(map(len, groups.values())):,}", *_hours(all_told)))
    kinds = sorted({f"{one.devices} x {one.kind}" for one in all_told})
    notes = [
        f"By the clock, each time that a process worked on a job, stopped ones too; on {', '.join(kinds) or 'nothing'}"
        f", hosts: {len({one.host for one in all_told})}.",
        "Device-hours: hours times the devices of the process. Processes that share a machine slow each other down. "
        "What energy or money that took was not measured.",
    ]
    if all_told:
        notes.append(f"The last ended at {max(one.ended for one in all_told)}.")
    return Table("Hours", ("What", "Jobs timed", "Hours", "Device-hours"), tuple(rows), tuple(notes))


def _hours(told: Sequence[Spent]) -> tuple[str, str]:
    digits = 2
    return (
        number(sum(one.seconds for one in told) / 3600, digits),
        number(sum(one.seconds * one.devices for one in told) / 3600, digits),
    )
