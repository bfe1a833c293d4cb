"""Plan a run before it starts: what a step asks of each device, and the time that published peaks allow it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_collections
from rich.table import Table

from jaxneuro import records, splits, terminal
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan
from jaxneuro.tasks import ALL
from jaxneuro.training import devices, experiment, feed, load, loop, sharding
from jaxneuro.training.devices import DEVICES, Roofline
from jaxneuro.training.load import Load

#: Without a dataset: the ages that soft labels have bins for, in years.
_AGES = (20.0, 90.0)


@dataclass(frozen=True)
class Plan:
    """What a run asks for, and what it can take on each kind of device.

    Attributes:
      title: network, volumes and batch, in words.
      load: what one step asks of each device.
      batch_size: scans in a batch, over all devices.
      epoch_steps: steps of an epoch, 0 where the number of scans is not known.
      epochs: of the run.
      hosts: how many hosts there are, by device.
      times: the least seconds of a step, by device.
    """

    title: str
    load: Load
    batch_size: int
    epoch_steps: int
    epochs: int
    hosts: dict[str, int]
    times: dict[str, Roofline]


def make(
    config: ml_collections.ConfigDict,
    *,
    count: int | None = None,
    hosts: int | None = None,
    kinds: Sequence[str] = tuple(DEVICES),
    input_size: tuple[int, int, int] | None = None,
    channels: int = 1,
    classes: int | None = None,
    samples: int | None = None,
) -> Plan:
    """Return the plan of an experiment; nothing is computed, and no device is needed.

    Args:
      config: the experiment.
      count: devices; by default as many as the mesh names.
      hosts: over which they are spread evenly; by default as few as have room.
      kinds: names of devices.
      input_size: (depth, height, width) of volumes that there is no dataset of; None takes those of `data.path`.
      channels, classes, samples: of the volumes, labels and training scans of such a dataset; `samples` wins over
        those of a dataset, too.

    Raises:
      InputError: the config cannot be run, on so many devices, or there is no dataset; or an unknown device.
    """
    chosen = {name.lower(): devices.find(name) for name in kinds}
    named = config.mesh.to_dict()
    count = count or math.prod(n for n in named.values() if n > 0)
    mesh = sharding.imagined(named, count)
    sharding.check_batch_size(mesh, config.data.batch_size)
    if hosts is not None and count % hosts:
        raise InputError(f"--hosts: found {hosts} for {count} devices; expected a number that divides them evenly")
    if input_size is None:
        path = Path(config.data.path)
        if not (path / "card.json").is_file():
            raise InputError(
                f"data.path: found no dataset at {path}; expected one, or --input-size such as 80,80,80 to plan without"
            )
        parts = experiment.build(config)
        samples = samples or len(parts.folds["train"])
    else:
        config = config.copy_and_resolve_references()
        config.data.update(fraction=1.0, leave_out=())  # `samples` says how many there are
        parts = experiment.on(config, _dataset(config, (*input_size, channels), classes))
    loop.check_parts(config, parts, mesh)
    feed.check(config.data.source)
    size = config.data.batch_size
    if samples is not None and samples < size:
        raise InputError(
            f"data.batch_size: found {size} with {samples} training scans; expected at most that many; set "
            "--config.data.batch_size lower"
        )
    epoch_steps = (samples or 0) // size
    optimizer, _ = experiment.optimizer(parts, epoch_steps)
    asked = load.of(parts, optimizer, mesh)
    if config.data.source == "device" and samples:
        each = -(-samples // (mesh.shape["data"] * mesh.shape["fsdp"])) * asked.read / size
        asked = replace(asked, memory={**asked.memory, "volumes kept": each})
    *volume, channel = parts.dataset.shape
    dtype = config.model.get("dtype", "float32")
    parts_of = f" in {config.training.accumulate} parts" if config.training.accumulate > 1 else ""
    split = ", ".join(f"{axis} {n}" for axis, n in mesh.shape.items() if n > 1)
    room = {name: hosts or -(-count // device.per_host) for name, device in chosen.items()}
    return Plan(
        title=f"{parts.described['name']} ({asked.parameters:,} parameters, {dtype}), {config.objective.name}, volumes "
        f"{' x '.join(map(str, volume))}{f', channels {channel}' if channel > 1 else ''}, batch {size}{parts_of}, "
        f"devices {count}{f' ({split})' if split else ''}",
        load=asked,
        batch_size=size,
        epoch_steps=epoch_steps,
        epochs=config.training.epochs,
        hosts=room,
        times={
            name: devices.roofline(
                device,
                flops={dtype: n / count for dtype, n in asked.flops.items()},
                moved=sum(asked.moved.values()),
                exchanged=asked.exchanged,
                read=asked.read * asked.copies / count,
                per_host=-(-count // room[name]),
            )
            for name, device in chosen.items()
        },
    )


def _dataset(config: Any, shape: tuple[int, int, int, int], classes: int | None) -> records.Dataset:
    """Return a dataset that is not there: scans with every label that the tasks of a config name."""
    video = config.data.normalise == "video"
    labels: dict[str, dict[str, None]] = {name: {} for name in ("diagnosis", "sex", "site", "label")}
    tasks = [config.task, *config.also.values()] if config.objective.name == "supervised" else []
    for task in tasks:
        labels["diagnosis"] |= dict.fromkeys(task.get("only", ()))
        named = tuple(task.get("classes", ()))
        if named == ALL:
            if classes is None:
                raise InputError(
                    "task.classes: found ('*',), the labels that the scans have, without scans; expected "
                    "--num-outputs, how many there are"
                )
            named = tuple(f"label {i}" for i in range(classes))
        if task.get("target") in labels:
            labels[task.target] |= dict.fromkeys(named)
    choices = itertools.product(*(list(found) or ["some"] for found in labels.values()))
    scans: list[Scan] = []
    for diagnosis, sex, site, label in choices:
        for age, fold in itertools.product(_AGES, ("train", "validation")):
            name = f"{fold}-{len(scans)}"
            scans.append(Scan(name, "", site, age, sex, diagnosis, content_hash=name, label=label))
    folds = splits.given(scans, {scan.subject: scan.subject.split("-")[0] for scan in scans})
    card = {"shape": list(shape), "dtype": "uint8" if video else "float16"}
    return records.Dataset(Path(config.data.path), card, scans, folds)


def say(plan: Plan) -> None:
    """Print a plan."""
    terminal.answer(plan.title)
    terminal.answer(_memory(plan))
    terminal.answer(_work(plan))
    terminal.answer(_times(plan))
    for line in _remarks(plan):
        terminal.answer(line)
    terminal.answer(
        "calculated, not measured: operations and bytes of the traced step over published peaks, which real steps "
        "hardly ever reach (docs/scale.md)"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as numbers: bytes, floating-point operations, seconds; `calculated` says that none was measured."""
    asked = plan.load
    return {
        "calculated": True,
        "title": plan.title,
        "devices": asked.devices,
        "parameters": asked.parameters,
        "parameters_not_split": asked.uneven,
        "batch_size": plan.batch_size,
        "steps_of_an_epoch": plan.epoch_steps or None,
        "epochs": plan.epochs,
        "memory_of_a_device": asked.memory,
        "flops_of_a_step": {**asked.flops, "forward": asked.forward},
        "memory_traffic_of_a_device": asked.moved,
        "sent_by_a_device": [
            {"kind": one.kind, "axes": str(one.axes), "ways": one.ways, "bytes": one.sent} for one in asked.exchanged
        ],
        "read_of_a_step": asked.read,
        "least_time_of_a_step": {
            name: {
                "hosts": plan.hosts[name],
                "memory_of_a_device": DEVICES[name].memory,
                "parts": time.parts,
                "step": time.step,
                "limited_by": time.limit,
            }
            for name, time in plan.times.items()
        },
    }


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _memory(plan: Plan) -> Table:
    table = _table("Memory of one device", "what it holds", "bytes")
    for what, size in plan.load.memory.items():
        if size:
            table.add_row(what, _size(size))
    table.add_row("all", _size(sum(plan.load.memory.values())), style="bold")
    return table


def _work(plan: Plan) -> Table:
    asked = plan.load
    flops = sum(asked.flops.values())
    table = _table("One step", "what", "amount")
    table.add_row("operations, all devices", _flops(flops))
    table.add_row("  forward", _flops(asked.forward))
    for dtype, n in asked.flops.items():
        table.add_row(f"  of {dtype} factors", _flops(n))
    for what, size in asked.moved.items():
        table.add_row(f"memory traffic of a device: {what}", _size(size))
    for one in asked.exchanged:
        table.add_row(f"sent by a device: {one.kind} over {one.axes} ({one.ways})", _size(one.sent))
    table.add_row("through the input pipeline, all devices", _size(asked.read))
    return table


def _times(plan: Plan) -> Table:
    asked = plan.load
    table = _table("The least time of a step", "", *plan.times)
    used = sum(asked.memory.values())
    table.add_row("memory of one", *(_size(DEVICES[name].memory) for name in plan.times))
    table.add_row("  used", *(f"{used / DEVICES[name].memory:.1%}" for name in plan.times))
    table.add_row("hosts", *(str(plan.hosts[name]) for name in plan.times))
    for part in ("compute", "memory", "network", "input"):
        table.add_row(part, *(_time(time.parts[part]) for time in plan.times.values()))
    table.add_row("a step, at least", *(_time(time.step) for time in plan.times.values()), style="bold")
    table.add_row("  limited by", *(time.limit for time in plan.times.values()))
    table.add_row("  if nothing overlaps", *(_time(sum(time.parts.values())) for time in plan.times.values()))
    rates = {name: plan.batch_size / time.step for name, time in plan.times.items()}
    table.add_row("volumes a second", *(_rounded(rate) for rate in rates.values()))
    table.add_row("  of one device", *(_rounded(rate / asked.devices) for rate in rates.values()))
    table.add_row("read a second", *(_size(asked.read / time.step) for time in plan.times.values()))
    if plan.epoch_steps:
        epoch = {name: plan.epoch_steps * time.step for name, time in plan.times.items()}
        table.add_row(f"{plan.epoch_steps:,} steps, an epoch", *(_time(seconds) for seconds in epoch.values()))
        table.add_row(f"{plan.epochs} epochs", *(_time(plan.epochs * seconds) for seconds in epoch.values()))
    return table


def _remarks(plan: Plan) -> list[str]:
    """Return what does not fit and what to try, and which parameters the mesh does not split."""
    asked = plan.load
    used = sum(asked.memory.values())
    lines = []
    if full := [name for name in plan.times if used > DEVICES[name].memory]:
        of_state = used - asked.memory["kept for the backward pass"] - asked.memory["batch"]
        smaller = "a smaller --config.data.batch_size, --config.training.accumulate, --config.model.remat=True"
        split = "--config.mesh.fsdp, which splits parameters and moments, or --config.mesh.model"
        tries = (split, smaller) if of_state > used / 2 else (smaller, split)
        lines.append(
            f"does not fit {', '.join(full)}: {_size(used)} a device; what is kept is an upper bound, for the compiler "
            f"fuses; try {tries[0]}; or {tries[1]}"
        )
    if asked.uneven:
        lines.append(
            f"not split: {asked.uneven:,} of {asked.parameters:,} parameters have an axis that its mesh axis does not "
            "divide, and lie on every device of it"
        )
    return lines


def _rounded(value: float) -> str:
    """Return a number with three digits."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{float(f'{value:.3g}'):,.0f}"


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    """Return a value with three digits in the largest unit of which it is one or more, else in the smallest."""
    factor, unit = next(((f, u) for f, u in units if value >= f), units[-1])
    return f"{_rounded(value / factor) if value else 0} {unit}"


def _size(count: float) -> str:
    return _scaled(count, ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def _flops(count: float) -> str:
    return _scaled(count, ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")))


def _time(seconds: float) -> str:
    return _scaled(seconds, ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "us")))
