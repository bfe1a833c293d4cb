"""What the devices tell each other in one step: read from the compiled program, so nothing that the compiler added is
missed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jax.sharding import AbstractMesh, Mesh

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "bf16": 16}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_CALLED = re.compile(r"(?:body|to_apply|calls|condition)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(?:-start)?\(")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+(\d+))\w*\[([\d,]*)\]")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
      kind: one of `KINDS`.
      axes: the mesh axes whose devices take part.
      shape: of each array that a device ends up with, the largest first.
      size: bytes that a device ends up with; of a reduce-scatter, that it puts in.
      times: how often in a step; more than once in a loop.
    """

    kind: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    size: int
    times: int


def of(program: str, mesh: Mesh | AbstractMesh) -> list[Collective]:
    """Return the collectives of a compiled program in the order in which it lists them.

    Args:
      program: `compiled.as_text()`.
      mesh: the devices that it was compiled for.

    Raises:
      ValueError: the text is no compiled program, or names devices in a way that is not known.
    """
    computations, entry = _computations(program)
    times: Counter[str] = Counter()

    def walk(name: str, factor: int) -> None:
        times[name] += factor
        for line in computations.get(name, ()):
            trips = _TRIPS.search(line)
            for one, several in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", several):
                    walk(called, factor * int(trips[1] if trips else 1))

    walk(entry, 1)
    found = []
    for name, lines in computations.items():
        for line in lines if times[name] else ():
            if match := _OPERATION.search(line):
                arrays = sorted(_arrays(match[1]), key=lambda pair: -pair[1])
                if "-start(" in line and match[2] != "all-reduce":
                    arrays = arrays[: max(1, len(arrays) // 2)]  # what goes in stands beside what comes out
                groups = _groups(line, mesh.size)
                size = sum(size for _, size in arrays) * (groups.shape[1] if match[2] == "reduce-scatter" else 1)
                found.append(Collective(match[2], _axes(groups, mesh), arrays[0][0], size, times[name]))
    return found


def summary(found: list[Collective]) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
    """Return (how many, bytes) in a step by (kind, axes)."""
    totals: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
    for one in found:
        count, size = totals.get((one.kind, one.axes), (0, 0))
        totals[one.kind, one.axes] = count + one.times, size + one.times * one.size
    return totals


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif name:
            computations[name].append(line)
    if not entry:
        raise ValueError("found no ENTRY; expected the text of a compiled program")
    return computations, entry


def _arrays(text: str) -> Iterator[tuple[tuple[int, ...], int]]:
    for kind, bits, dims in _ARRAY.findall(text):
        shape = tuple(int(n) for n in dims.split(",") if n)
        yield shape, math.prod(shape) * (_BITS.get(kind) or int(bits)) // 8


_NUMBERS = r"\[([\d,]+)\]"
_PAIRS = re.compile(r"source_target_pairs=\{(.*?)\}\}")
_LISTED = re.compile(r"replica_groups=\{\{(.*?)\}\}")
_COUNTED = re.compile(rf"replica_groups={_NUMBERS}<={_NUMBERS}(?:T\(([\d,]+)\))?")
_NAMED = re.compile(
    rf"replica_groups=mesh\[([^\]]+)\](?:, device_ids=\({_NUMBERS}(?:T\(([\d,]+)\))?\))? \{{((?:'[^']+',?)+)\}}"
)


def _groups(line: str, everyone: int) -> np.ndarray:
    """Return the devices that tell each other something [groups, devices], by their place in the mesh.

    Raises:
      ValueError: the program names them in a way that is not known here.
    """
    if match := _PAIRS.search(line):
        return np.array([_numbers(pair) for pair in re.findall(r"\{?(\d+,\d+)", match[1])])
    if match := _LISTED.search(line):
        return np.array([_numbers(group) for group in match[1].split("},{")])
    if match := _COUNTED.search(line):
        return _ordered(match[2], match[3]).reshape(_numbers(match[1]))
    if match := _NAMED.search(line):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        along = re.findall(r"'([^']+)'", match[4])
        sizes = list(axes.values())
        devices = _ordered(match[2] or ",".join(map(str, sizes)), match[3]).reshape(sizes)
        places = [list(axes).index(name) for name in along]
        last = np.moveaxis(devices, places, range(-len(places), 0))
        return last.reshape(-1, math.prod(sizes[i] for i in places))
    if "replica_groups={}" in line:
        return np.arange(everyone)[None]
    raise ValueError(f"found {line.strip()[:300]}; expected groups of devices in a form that is known")


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _ordered(sizes: str, order: str | None) -> np.ndarray:
    devices = np.arange(math.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return devices.transpose(_numbers(order)) if order else devices


def _axes(groups: np.ndarray, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    """Return the axes along which devices of one group differ."""
    places = np.unravel_index(groups, tuple(mesh.shape[a] for a in mesh.axis_names))
    return tuple(name for name, of in zip(mesh.axis_names, places, strict=True) if (np.ptp(of, axis=-1) > 0).any())
