"""Maps of scans, one after the other: by occlusion or by gradients, as the settings say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxneuro import augment, terminal
from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps import gradient, hiding, rollout
from jaxneuro.evaluation.maps.hiding import Triple
from jaxneuro.training import sharding

METHODS = ("occlusion", "gradient", "rollout")
#: Copies at once: on accelerators, and on CPUs, where more are no faster.
_BATCH, _BATCH_CPU = 64, 16


@dataclass(frozen=True)
class Settings:
    """How maps are made.

    Attributes:
      method: "occlusion", "gradient" (the absolute gradient by each voxel) or "rollout" (of attention).
      patch: voxels along each axis, or one number for all; None is an eighth of the volume.
      stride: the same; None is half a patch, rounded up.
      value: what hidden voxels have, in units of the volume as the network sees it; None is its background.
      coarse, quantile: see `hiding.differences`.
      batch_size: copies at once; None suits the device.
    """

    method: str = "occlusion"
    patch: Sequence[int] | None = None
    stride: Sequence[int] | None = None
    value: float | None = None
    coarse: int = 1
    quantile: float = 0.9
    batch_size: int | None = None

    def grid(self, size: Triple) -> hiding.Grid:
        """Return the positions of the patch in volumes of a size, (depth, height, width).

        Raises:
          InputError: the settings make no sense together, or for this size.
        """
        if self.method not in METHODS:
            raise InputError(f"--method: found '{self.method}'; expected one of {', '.join(METHODS)}")
        if not 0 <= self.quantile <= 1:
            raise InputError(f"--quantile: found {self.quantile}; expected 0 to 1")
        if self.coarse < 1:
            raise InputError(f"--coarse: found {self.coarse}; expected 1 (every position) or more")
        if self.value is not None and not math.isfinite(self.value):
            raise InputError(f"--value: found {self.value}; expected a number")
        patch = _three(self.patch or [max(n // 8, 1) for n in size], "--patch")
        stride = _three([-(-p // 2) for p in patch] if self.stride is None else self.stride, "--stride")
        grid = hiding.grid(size, patch, stride)
        hiding.coarse_positions(grid, self.coarse)
        return grid

    def describe(self, size: Triple) -> dict[str, Any]:
        """Return what results say of an occlusion of volumes of a size."""
        grid = self.grid(size)
        return {
            "patch": list(grid.patch),
            "stride": [int(np.diff(s).max(initial=0)) for s in grid.starts],
            "positions": list(grid.shape),
            "value": "background" if self.value is None else self.value,
            "coarse": self.coarse,
            "quantile": self.quantile if self.coarse > 1 else None,
        }


class Made(NamedTuple):
    """Maps [n, d, h, w], the outputs of the whole volumes [n], and how many volumes went through the network."""

    maps: np.ndarray
    outputs: list[float]
    passes: int


def make(
    output: hiding.Output,
    weights: Any,
    volumes: np.ndarray,
    which: Sequence[int],
    settings: Settings,
    *,
    normalise: str,
    mesh: Mesh,
    label: str,
    model: nn.Module | None = None,
) -> Made:
    """Return maps of volumes.

    Volumes are normalised first and a part is hidden then: the statistics do not move with the patch.

    Args:
      output: of the network.
      weights: of it, on the mesh.
      volumes: [n, d, h, w, c] as stored.
      which: the class that is explained, for each volume.
      settings: how maps are made.
      normalise: a kind of `augment.normalise`.
      mesh: the devices.
      label: what the progress says.
      model: the network, for "rollout" alone.

    Raises:
      InputError: the settings do not go with the volumes.
    """
    if settings.method == "occlusion":
        return _hide(output, weights, volumes, which, settings, normalise, mesh, label)
    if settings.method == "gradient":
        one = gradient.program(output, mesh)
    else:
        assert model is not None
        one = rollout.program(model, output, mesh)
    return _at_once(one, weights, volumes, which, normalise, mesh, label)


def _hide(
    output: hiding.Output,
    weights: Any,
    volumes: np.ndarray,
    which: Sequence[int],
    settings: Settings,
    normalise: str,
    mesh: Mesh,
    label: str,
) -> Made:
    """Return occlusion maps of volumes [n, d, h, w, c] as stored."""
    whole, grid = sharding.replicated(mesh), settings.grid(volumes.shape[1:4])

    @jax.jit
    def seen(raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        value = hiding.background(raw, normalise) if settings.value is None else jnp.full(raw.shape[-1], settings.value)
        return augment.normalise(raw[None], normalise)[0], value.astype(jnp.float32)

    outputs = hiding.program(output, mesh, grid.patch)
    positions = math.prod(grid.shape) + 1
    size = settings.batch_size or (_BATCH_CPU if jax.default_backend() == "cpu" else _BATCH)
    size = -(-min(size, positions) // mesh.size) * mesh.size
    maps, wholes, passes = [], [], 0
    with terminal.progress(label, len(volumes) * positions) as report:
        for i, raw in enumerate(volumes):
            volume, value = jax.device_put(seen(raw), whole)

            def told(done: int, before: int = i) -> None:
                report(before * positions + done, note=f"scan {before + 1} of {len(volumes)}")

            found = hiding.differences(
                outputs, weights, volume, value, grid, mesh=mesh, batch_size=size, which=which[i],
                coarse=settings.coarse, quantile=settings.quantile, report=told,
            )  # fmt: skip
            maps.append(hiding.spread(grid, found.values))
            wholes.append(found.output)
            passes += found.passes
            report((i + 1) * positions)
    return Made(np.stack(maps), wholes, passes)


def _at_once(
    saliency: Callable[..., tuple[jax.Array, jax.Array]],
    weights: Any,
    volumes: np.ndarray,
    which: Sequence[int],
    normalise: str,
    mesh: Mesh,
    label: str,
) -> Made:
    """Return maps, of volumes [n, d, h, w, c] as stored, that take one call each."""
    seen = jax.jit(augment.normaliser(normalise))
    maps, wholes = [], []
    with terminal.progress(label, len(volumes)) as report:
        for klass in sorted(set(which)):
            rows = [i for i, w in enumerate(which) if w == klass]
            for begin in range(0, len(rows), mesh.size):
                some = rows[begin : begin + mesh.size]
                batch = volumes[np.resize(some, mesh.size)]
                placed = sharding.put(mesh, {"volume": batch})["volume"]
                values, found = (sharding.fetch(x) for x in saliency(weights, seen(placed), np.int32(klass)))
                maps += list(zip(some, found, strict=False))
                wholes += list(zip(some, values.tolist(), strict=False))
                report(len(maps))
    order = np.argsort([i for i, _ in maps])
    return Made(np.stack([maps[i][1] for i in order]), [wholes[i][1] for i in order], len(maps))


def _three(values: Sequence[int], flag: str) -> Triple:
    numbers = [int(v) for v in values] * (3 if len(values) == 1 else 1)
    if len(numbers) != 3 or min(numbers) < 1:
        raise InputError(f"{flag}: found {','.join(map(str, numbers))}; expected one number of voxels, or three")
    return numbers[0], numbers[1], numbers[2]
