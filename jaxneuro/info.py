"""Describe a dataset or a model in the terminal."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

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


def model(name: str, input_size: str) -> None:
    """Print a model's parameters by module; computes shapes only.

    Args:
      name: as in `models.build`.
      input_size: "depth,height,width".

    Raises:
      InputError: no such model, or a size that is none.
    """
    import jax
    import jax.numpy as jnp

    from jaxneuro import models

    try:
        depth, height, width = (int(v) for v in input_size.split(","))
    except ValueError as e:
        raise InputError(f"input-size: found '{input_size}'; expected three numbers such as 80,80,80") from e
    network = models.build(name, num_outputs=1, input_size=(depth, height, width), in_channels=1)
    variables = jax.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, depth, height, width, 1)), train=False)
    )
    table = Table(title=f"{name} at {depth} x {height} x {width}, one channel, one output")
    table.add_column("module")
    table.add_column("parameters", justify="right")
    total = 0
    for module, tree in variables["params"].items():
        count = sum(x.size for x in jax.tree.leaves(tree))
        total += count
        table.add_row(module, f"{count:,}")
    table.add_row("all", f"{total:,}", style="bold")
    terminal.say(table)
