"""What became of each tensor, for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from jaxneuro.interop.transforms import Shape
from jaxneuro.interop.weights import Row


def every(rows: Sequence[Row]) -> Table:
    """Return one row a tensor or leaf."""
    table = Table(title="every tensor and leaf")
    for column in ("tensor", "shape", "leaf", "shape", "what"):
        table.add_column(column, overflow="fold")
    for r in rows:
        table.add_row(r.theirs, _shape(r.their_shape), r.ours, _shape(r.our_shape), f"{r.what} {r.how}".strip())
    return table


def changes(rows: Sequence[Row]) -> Table:
    """Return one row for each tensor or leaf that was not just copied, alike ones together."""
    table = Table(title="all but what was copied")
    for column in ("what", "how", "how many", "the first"):
        table.add_column(column, overflow="fold")
    groups: dict[tuple[str, str], list[Row]] = {}
    for r in rows:
        if r.what != "copied":
            groups.setdefault((r.what, r.how), []).append(r)
    for (what, how), alike in groups.items():
        table.add_row(what, how, str(len(alike)), alike[0].ours or alike[0].theirs)
    return table


def counts(rows: Sequence[Row]) -> str:
    """Return one line: how many tensors and leaves were copied, adapted, and so on."""
    return ", ".join(f"{n} {what}" for what, n in Counter(r.what for r in rows).items())


def _shape(shape: Shape) -> str:
    return " x ".join(map(str, shape))
