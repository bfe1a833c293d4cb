"""How well maps point at a place that is known, and what they hold in the regions of an atlas."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage, stats

from jaxneuro import whole
from jaxneuro.evaluation.maps import hiding


class Truth(NamedTuple):
    """Where an effect is.

    Attributes:
      brain: where maps are looked at, bool [d, h, w].
      region: where in it the effect is, bool [d, h, w].
      away_mm: how far each voxel is from the region [d, h, w], 0 in it.
      tolerance_mm: so far from the region a largest value still counts as a hit.
    """

    brain: np.ndarray
    region: np.ndarray
    away_mm: np.ndarray
    tolerance_mm: float

    @property
    def share(self) -> float:
        """The region's share of the brain: what a map scores that says nothing."""
        return float(self.region.sum() / self.brain.sum())

    @property
    def near(self) -> float:
        """The share of the brain that counts as a hit: the hits of a peak that lies anywhere."""
        return float((self.away_mm[self.brain] <= self.tolerance_mm).mean())


def truth(brain: np.ndarray, region: np.ndarray, voxel_mm: np.ndarray, tolerance_mm: float) -> Truth | None:
    """Return what maps are scored against; None where no voxel of the brain, or every one, lies in the region."""
    inside = region & brain
    if not inside.any() or inside.sum() == brain.sum():
        return None
    away = ndimage.distance_transform_edt(~inside, sampling=list(voxel_mm))
    return Truth(brain, inside, away, tolerance_mm)


def score(values: np.ndarray, against: Truth) -> dict[str, float | None]:
    """Return how a map [d, h, w] points at the region, looked at in the brain alone.

    Returns:
      share: of the sum of its positive values, that in the region; chance is `Truth.share`. None without any.
      auc: area under the ROC curve of its values for telling the region's voxels from others; chance is 0.5.
      size_share, size_auc: the same of absolute values: hiding what is lost already can make it look more lost.
      hit: the share of its largest voxels, of which an occlusion map has many alike, that lie in the region or within
        the tolerance: the pointing game (Zhang et al. 2018).
      distance_mm: from its largest voxels to the region, mean.
    """
    inside, here = values[against.brain].astype(np.float64), against.region[against.brain]
    away = against.away_mm[against.brain][inside == inside.max()]
    size = np.abs(inside)
    return {
        "share": _share(np.maximum(inside, 0), here),
        "auc": _auc(inside, here),
        "size_share": _share(size, here),
        "size_auc": _auc(size, here),
        "hit": float((away <= against.tolerance_mm).mean()),
        "distance_mm": float(away.mean()),
    }


def _share(values: np.ndarray, here: np.ndarray) -> float | None:
    total = values.sum()
    return float(values[here].sum() / total) if total > 0 else None


def _auc(values: np.ndarray, here: np.ndarray) -> float:
    # Of Mann and Whitney: from the ranks of the region's voxels, ties shared.
    n = int(here.sum())
    return float((stats.rankdata(values)[here].sum() - n * (n + 1) / 2) / (n * (len(here) - n)))


def by_chance(where: hiding.Grid | None, against: Truth, draws: int, seed: int) -> dict[str, Any]:
    """Return how random maps score: the mean of each score, and the 95th percentile of shares and AUCs.

    Args:
      where: the positions of the patches, each of which gets a normal value, so that the map is as smooth; None for a
        value for each voxel.
      against: the truth.
      draws: how many maps.
      seed: of them.
    """
    rng = np.random.default_rng(seed)
    found: list[dict[str, float | None]] = []
    for _ in range(draws):
        if where is None:
            values = np.abs(rng.standard_normal(against.brain.shape))
        else:
            values = hiding.spread(where, rng.standard_normal(where.shape))
        found.append(score(values, against))
    columns = {k: np.array([f[k] for f in found], float) for k in found[0]}
    return {
        "draws": draws,
        "mean": {k: float(v.mean()) for k, v in columns.items()},
        "percentile_95": {k: float(np.percentile(v, 95)) for k, v in columns.items() if "share" in k or "auc" in k},
    }


def mean(found: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each score over maps that have it."""
    columns = {k: [v for f in found if (v := f[k]) is not None] for k in found[0]}
    return {k: math.fsum(v) / len(v) if v else None for k, v in columns.items()}


def regions(
    maps: Mapping[str, np.ndarray], brain: np.ndarray, atlas: np.ndarray, names: Mapping[int, str], voxel_mm: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Yield a row for each map and each region of an atlas that has voxels in the brain, the largest mean first.

    Args:
      maps: group to map [d, h, w].
      brain: bool [d, h, w].
      atlas: number of the region of each voxel [d, h, w], 0 for none.
      names: of regions by number.
      voxel_mm: [3].
    """
    numbers = [int(n) for n in np.unique(atlas[brain]) if n]
    ml = float(np.prod(voxel_mm)) / 1000
    for group, values in maps.items():
        total = np.maximum(values[brain], 0).sum(dtype=np.float64)
        rows = []
        for n in numbers:
            inside = values[brain & (atlas == n)].astype(np.float64)
            rows.append(
                {
                    "group": group, "index": n, "name": names.get(n, str(n)), "voxels": inside.size,
                    "ml": round(inside.size * ml, 3), "mean": float(inside.mean()), "max": float(inside.max()),
                    "share_of_positive": float(np.maximum(inside, 0).sum() / total) if total > 0 else 0.0,
                }
            )  # fmt: skip
        yield from sorted(rows, key=lambda r: -r["mean"])


def write_regions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of `regions` as CSV."""
    whole.write_csv(path, list(rows[0]), [list(row.values()) for row in rows])
