"""Maps of scans, one after the other: by occlusion or by gradients, as the settings say."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxneuro import augment, terminal
from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps import gradient, hiding, nearby, rollout
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


class Network(NamedTuple):
    """What is explained.

    Attributes:
      output: of a network.
      weights: of it, on the mesh.
      normalise: what volumes go through before it, a kind of `augment.normalise`.
      model: that the output is of; None is for functions that are no network of ours.
    """

    output: hiding.Output
    weights: Any
    normalise: str
    model: nn.Module | None = None


class One(NamedTuple):
    """The map of a volume [d, h, w], the output of the whole volume, and how many volumes the network saw for it."""

    values: np.ndarray
    output: float
    passes: int


class Made(NamedTuple):
    """Maps [n, d, h, w], the outputs of the whole volumes [n], and how many volumes went through the network."""

    maps: np.ndarray
    outputs: list[float]
    passes: int


@dataclass(frozen=True)
class _Work:
    """Maps to make: of those `volumes` [n, d, h, w, c], as stored, that `todo` numbers; `which` class of each."""

    network: Network
    volumes: np.ndarray
    which: Sequence[int]
    todo: Sequence[int]
    settings: Settings
    mesh: Mesh
    label: str


def make(
    network: Network,
    volumes: np.ndarray,
    which: Sequence[int],
    settings: Settings,
    *,
    mesh: Mesh,
    label: str,
    known: MutableMapping[int, One] | None = None,
) -> Made:
    """Return maps of volumes.

    Volumes are normalised first and a part is hidden then: the statistics do not move with the patch. Of several
    processes each calls this alike, and its devices take their share of every batch.

    Args:
      network: what is explained.
      volumes: [n, d, h, w, c] as stored.
      which: the class that is explained, for each volume.
      settings: how maps are made.
      mesh: the devices.
      label: what the progress says.
      known: maps that are there already, by the number of the volume; it is given each new one once it is made.

    Raises:
      InputError: the settings do not go with the volumes.
    """
    known = {} if known is None else known
    todo = [i for i in range(len(volumes)) if i not in known]
    how = _hide if settings.method == "occlusion" else _at_once
    for i, one in how(_Work(network, volumes, which, todo, settings, mesh, label)):
        known[i] = one
    ordered = [known[i] for i in range(len(volumes))]
    return Made(np.stack([o.values for o in ordered]), [o.output for o in ordered], sum(o.passes for o in ordered))


def program(network: Network, mesh: Mesh, patch: Triple) -> Callable[..., jax.Array]:
    """Return `hiding.program` of a network, in its quickest form."""
    # Where it was measured: of accelerators nobody has yet.
    if jax.default_backend() == "cpu" and nearby.fits(network.model):
        assert network.model is not None
        return nearby.program(network.model, network.output, mesh, patch)
    return hiding.program(network.output, mesh, patch)


def _hide(work: _Work) -> Iterator[tuple[int, One]]:
    """Yield occlusion maps, a volume after the other."""
    network, settings, mesh = work.network, work.settings, work.mesh
    whole, grid = sharding.replicated(mesh), settings.grid(work.volumes.shape[1:4])

    def normalised(raw: jax.Array) -> tuple[jax.Array, jax.Array]:
        zero = hiding.background(raw, network.normalise)
        value = zero if settings.value is None else jnp.full(raw.shape[-1], settings.value)
        return augment.normalise(raw[None], network.normalise)[0], value.astype(jnp.float32)

    seen = jax.jit(normalised, in_shardings=whole, out_shardings=whole)
    outputs = program(network, mesh, grid.patch)
    positions = math.prod(grid.shape) + 1
    size = settings.batch_size or (_BATCH_CPU if jax.default_backend() == "cpu" else _BATCH)
    size = -(-min(size, positions) // mesh.size) * mesh.size
    with terminal.progress(work.label, len(work.todo) * positions) as report:
        for n, i in enumerate(work.todo):
            volume, value = seen(work.volumes[i])

            def told(done: int, before: int = n) -> None:
                report(before * positions + done, note=f"scan {before + 1} of {len(work.todo)}")

            found = hiding.differences(
                outputs, network.weights, volume, value, grid, mesh=mesh, batch_size=size, which=work.which[i],
                coarse=settings.coarse, quantile=settings.quantile, report=told,
            )  # fmt: skip
            yield i, One(hiding.spread(grid, found.values), found.output, found.passes)
            report((n + 1) * positions)


def _at_once(work: _Work) -> Iterator[tuple[int, One]]:
    """Yield maps that take one call each, of as many volumes at once as there are devices."""
    network, mesh = work.network, work.mesh
    if work.settings.method == "gradient":
        saliency = gradient.program(network.output, mesh)
    else:
        assert network.model is not None
        saliency = rollout.program(network.model, network.output, mesh)
    seen = jax.jit(augment.normaliser(network.normalise))
    done = 0
    with terminal.progress(work.label, len(work.todo)) as report:
        for klass in sorted({work.which[i] for i in work.todo}):
            rows = [i for i in work.todo if work.which[i] == klass]
            for begin in range(0, len(rows), mesh.size):
                some = rows[begin : begin + mesh.size]
                batch = hiding.own_part(mesh, work.volumes[np.resize(some, mesh.size)])
                placed = sharding.put(mesh, {"volume": batch})["volume"]
                outputs, maps = (sharding.fetch(x) for x in saliency(network.weights, seen(placed), np.int32(klass)))
                for i, values, output in zip(some, maps, outputs, strict=False):
                    yield i, One(values, float(output), 1)
                done += len(some)
                report(done)


def _three(values: Sequence[int], flag: str) -> Triple:
    numbers = [int(v) for v in values] * (3 if len(values) == 1 else 1)
    if len(numbers) != 3 or min(numbers) < 1:
        raise InputError(f"{flag}: found {','.join(map(str, numbers))}; expected one number of voxels, or three")
    return numbers[0], numbers[1], numbers[2]
