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
      ValueError: the text is no compiled program.
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
                ids = _group(line)
                size = sum(size for _, size in arrays) * (len(ids) if match[2] == "reduce-scatter" else 1)
                axes = _axes(ids or list(range(mesh.size)), mesh)
                found.append(Collective(match[2], axes, arrays[0][0], size, times[name]))
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


def _group(line: str) -> list[int]:
    """Return the devices of the first group that takes part, by their place in the mesh; none for all."""
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(n) for n in match[1].split(",")]
    if match := re.search(r"source_target_pairs=\{(.*?)\}\}", line):
        # A ring, or part of one: who can reach whom.
        pairs = [tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)", match[1])]
        reached = {pairs[0][0]}
        for _ in pairs:
            reached |= {b for a, b in pairs if a in reached} | {a for a, b in pairs if b in reached}
        return sorted(reached)
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line):
        groups, sizes = ([int(n) for n in match[i].split(",")] for i in (1, 2))
        devices = np.arange(math.prod(sizes)).reshape(sizes)
        if match[3]:
            devices = devices.transpose([int(n) for n in match[3].split(",")])
        return [int(n) for n in devices.reshape(groups)[0]]
    return []


def _axes(ids: list[int], mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    places = np.array(np.unravel_index(ids, tuple(mesh.shape[a] for a in mesh.axis_names)))
    return tuple(name for name, row in zip(mesh.axis_names, places, strict=True) if len(set(row.tolist())) > 1)
