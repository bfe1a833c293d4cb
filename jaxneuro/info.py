"""Describe a dataset or a model in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from jaxneuro import records, terminal
from jaxneuro.errors import CorruptDataError, InputError


def dataset(path: Path) -> None:
    """Print a dataset's card and folds, and check every byte of it.

    Raises:
      InputError: the folder holds no dataset.
      CorruptDataError: a file is not what was written; names each.
    """
    found = records.open_dataset(path)
    card = found.card
    table = Table(title=f"{card['name']}: {card['description']}")
    for column in ("fold", "subjects", "scans", "diagnoses", "sites"):
        table.add_column(column)
    for fold, subjects in found.splits.subjects.items():
        scans = [s for s in found.scans if s.subject in set(subjects)]
        diagnoses = Counter(s.diagnosis for s in scans)
        table.add_row(
            fold,
            str(len(subjects)),
            str(len(scans)),
            ", ".join(f"{k} {v}" for k, v in sorted(diagnoses.items())),
            ", ".join(sorted({s.site for s in scans})),
        )
    terminal.say(table)
    spacing = " x ".join(f"{s:.4g}" for s in card["spacing_mm"])
    terminal.say(f"volumes {card['shape']} {card['dtype']}, voxel {spacing} mm, {card['axes']}")
    terminal.say(
        f"recipe {card['recipe'].get('name')} ({card['recipe_fingerprint']}); failures {card['counts']['failures']}"
    )
    if faults := records.verify(path):
        raise CorruptDataError("; ".join(faults) + "; copy or prepare the data again")
    terminal.say(f"all {len(card['shards'])} shards are as written (SHA-256)")


def model(
    name: str,
    input_size: str,
    *,
    in_channels: int = 1,
    num_outputs: int | None = None,
    batch_size: int = 1,
    depth: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Print a model's parameters, operations and memory, by module; computes shapes only.

    Args:
      name: as in `models.build`.
      input_size: "depth,height,width".
      in_channels: of the volumes.
      num_outputs: of the head; by default the model's own.
      batch_size: volumes in a batch, on one device.
      depth: how many levels of modules get a row.
      settings: further keywords of the model.

    Raises:
      InputError: no such model or keyword, or a size that is none.
    """
    from jaxneuro import models
    from jaxneuro.models import cost

    try:
        d, h, w = (int(v) for v in input_size.split(","))
    except ValueError as e:
        raise InputError(f"input-size: found '{input_size}'; expected three numbers such as 80,80,80") from e
    keywords = dict(settings or {}) | ({} if num_outputs is None else {"num_outputs": num_outputs})
    network = models.build(name, input_size=(d, h, w), in_channels=in_channels, **keywords)
    costs = cost.by_module(network, models.inputs(network, batch_size), depth=depth)
    total = cost.total(costs)
    table = Table(title=f"{name} at {d} x {h} x {w}, channels {in_channels}, batch {batch_size}")
    table.add_column("module", no_wrap=True)
    for column in ("parameters", "GFLOPs", "kept, MiB"):
        table.add_column(column, justify="right")
    for path, part in [*costs.items(), (("all",), total)]:
        cells = (f"{part.parameters:,}", f"{part.flops / 1e9:,.3f}", f"{part.kept / 2**20:,.1f}")
        table.add_row("/".join(path) or "(between modules)", *cells, style="bold" if path == ("all",) else "")
    terminal.say(table)
    weights = 4 * total.parameters / 2**20
    terminal.say(
        f"one batch forward: {total.flops / 1e9:,.1f} GFLOPs in matrix products and convolutions "
        "(a multiply and an add are two)"
    )
    terminal.say(
        f"memory in float32: parameters {weights:,.1f} MiB, with gradients and Adam's moments {4 * weights:,.1f} MiB; "
        f"kept for the backward pass {total.kept / 2**20:,.1f} MiB"
    )
    terminal.say("calculated from the traced program; what the compiler fuses or recomputes is kept in less")
