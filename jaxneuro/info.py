"""Describe a dataset or a model in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from jaxneuro import records, terminal
from jaxneuro.errors import CorruptDataError


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
        members = set(subjects)
        scans = [s for s in found.scans if s.subject in members]
        diagnoses = Counter(s.diagnosis for s in scans)
        table.add_row(
            fold,
            str(len(subjects)),
            str(len(scans)),
            ", ".join(f"{k} {v}" for k, v in sorted(diagnoses.items())),
            ", ".join(sorted({s.site for s in scans})),
        )
    terminal.answer(table)
    spacing = " x ".join(f"{s:.4g}" for s in card["spacing_mm"] or ())
    voxel = f", voxel {spacing} mm" if spacing else ""
    terminal.answer(f"{'volumes' if spacing else 'clips'} {card['shape']} {card['dtype']}{voxel}, {card['axes']}")
    terminal.answer(
        f"recipe {card['recipe'].get('name')} ({card['recipe_fingerprint']}); failures {card['counts']['failures']}"
    )
    faults = records.verify(path)
    if card.get("kind") == "video":
        from jaxneuro.video import files  # needs PyAV, which is an extra

        faults += files.verify(found)
        if not faults:
            terminal.answer(f"videos: {card['videos']}, as prepared (SHA-256)")
    if faults:
        raise CorruptDataError("; ".join(faults) + "; copy or prepare the data again")
    terminal.answer(f"shards: {len(card['shards'])}, as written (SHA-256)")


def holds_weights(path: Path) -> bool:
    """Tell whether a folder is one that convert or export wrote: its card describes a model."""
    return (path / "card.json").is_file() and "model" in records.read_json(path / "card.json", expected="a card")


def weights(card: Mapping[str, Any]) -> None:
    """Print what the card of weights says, but for long lists and the config of the run; its file has been checked."""
    table = Table(title=f"{card['model']['name']}: {card['file']}, as written (SHA-256)", show_header=False)
    for key, value in {**card["model"]["settings"], **card}.items():
        if value not in (None, [], {}, "") and key not in ("model", "config", "adapted", "fresh", "file"):
            table.add_row(key, escape(str(value)))
    terminal.answer(table)


def model(name: str, settings: Mapping[str, Any], *, batch_size: int = 1, depth: int = 1) -> None:
    """Print a model's parameters, operations and memory, by module; computes shapes only.

    Args:
      name: as in `models.build`.
      settings: keywords of the model, input_size and in_channels among them.
      batch_size: volumes in a batch, on one device.
      depth: how many levels of modules get a row.

    Raises:
      InputError: no such model or keyword.
    """
    from jaxneuro import models
    from jaxneuro.models import cost

    network = models.build(name, **settings)
    costs = cost.by_module(network, models.inputs(network, batch_size), depth=depth)
    total = cost.total(costs)
    batch, *size, channels = models.inputs(network, batch_size)["x"].shape
    table = Table(title=f"{name} at {' x '.join(map(str, size))}, channels {channels}, batch {batch}")
    table.add_column("module", no_wrap=True)
    for column in ("parameters", "GFLOPs", "kept, MiB"):
        table.add_column(column, justify="right")
    for path, part in [*costs.items(), (("all",), total)]:
        cells = (f"{part.parameters:,}", f"{part.flops / 1e9:,.3f}", f"{part.kept / 2**20:,.1f}")
        table.add_row("/".join(path) or "(between modules)", *cells, style="bold" if path == ("all",) else "")
    terminal.answer(table)
    weights = 4 * total.parameters / 2**20
    terminal.answer(
        f"one batch forward: {total.flops / 1e9:,.1f} GFLOPs in matrix products and convolutions "
        "(a multiply and an add are two)"
    )
    terminal.answer(
        f"memory in float32: parameters {weights:,.1f} MiB, with gradients and Adam's moments {4 * weights:,.1f} MiB; "
        f"kept for the backward pass {total.kept / 2**20:,.1f} MiB"
    )
    terminal.answer("calculated from the traced program; what the compiler fuses or recomputes is kept in less")
