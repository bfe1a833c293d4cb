"""Volumes that an objective draws (masked and rebuilt ones), as one picture of middle slices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxneuro import data
from jaxneuro.training import sharding
from jaxneuro.training.experiment import Experiment

#: How many scans of the validation fold are drawn.
SCANS = 4
_GAP = 2


def drawer(
    parts: Experiment,
    reader: data.Volumes,
    *,
    normalise: Callable[[jax.Array], jax.Array],
    mesh: Mesh,
    reading: Mapping[str, Any],
) -> Callable[[Any], np.ndarray] | None:
    """Return `draw(weights) -> picture [height, width, 3] uint8` of the first validation scans; None without any.

    The same scans and the same masks every time, so that pictures of one run can be compared.
    """
    drawn = parts.objective.pictures
    if drawn is None:
        return None

    def volumes(weights: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        batch = {**batch, "volume": normalise(batch["volume"])}
        return drawn(parts.model.apply, weights, batch, jax.random.key(0))

    compiled = jax.jit(volumes, in_shardings=(None, sharding.batch_sharding(mesh)))

    def draw(weights: Any) -> np.ndarray:
        batch = next(data.evaluation_batches(reader, parts.folds["validation"], {}, **reading))
        placed = sharding.put(mesh, {k: batch[k] for k in ("volume", "valid")})
        shown = int(min(SCANS, sharding.fetch(placed["valid"]).sum()))
        found = {name: sharding.fetch(v)[:shown] for name, v in compiled(weights, placed).items()}
        return montage(found)

    return draw


def montage(volumes: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return one picture [height, width, 3] uint8: a row a sample and axis, a column a volume [b, d, h, w, c].

    Grey values run from the 1st to the 99th percentile of the first volume of each row. Volumes of three channels are
    in colour, others show their first channel.
    """
    first = next(iter(volumes.values()))
    rows = []
    for sample in range(len(first)):
        low, high = np.percentile(first[sample], (1, 99))
        for axis in range(3):
            cells = []
            for volume in volumes.values():
                slab = np.take(volume[sample], volume.shape[1 + axis] // 2, axis=axis)
                slab = slab if slab.shape[-1] == 3 else np.repeat(slab[..., :1], 3, axis=-1)
                grey = np.clip((slab - low) / max(high - low, 1e-6), 0, 1)
                # Upright: a volume's axes run to the right, the front and the top.
                cells.append(np.rot90((255 * grey).astype(np.uint8)))
            rows.append(_joined(cells, axis=1))
    width = max(row.shape[1] for row in rows)
    return _joined([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows], axis=0)


def _joined(cells: list[np.ndarray], axis: int) -> np.ndarray:
    edge = [(0, 0)] * 3
    edge[axis] = (0, _GAP)
    return np.concatenate([np.pad(cell, edge) for cell in cells], axis=axis)
