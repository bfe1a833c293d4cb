"""Time the published y-aware views three ways, in turn: on the device, on the host, and in a training step.

python tools/benchmark_views.py                                  (80^3; more than five minutes on two cores)
python tools/benchmark_views.py --size 48 --rounds 5 --json out.json     (two to three minutes on two cores)

device  the five views inside one compiled program, by `augment.build`
host    the same distributions in NumPy and SciPy, sample after sample in one thread, as a data loader's worker does
step    forward, backward and update of a network, without and with the views in the same compiled program

One round times every side once; the table has the median over rounds and the range. Times are per volume.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy
from scipy import ndimage

from jaxneuro import augment, models

#: As published (Dufumier et al., MICCAI 2021): every view with probability 1/2.
VIEWS: dict[str, dict[str, Any]] = {
    "flip": {"axis": -1, "probability": 0.5},
    "blur": {"low": 0.1, "high": 1.0, "probability": 0.5},
    "noise": {"low": 0.1, "high": 1.0, "probability": 0.5},
    "cutout": {"share": 0.25, "probability": 0.5},
    "crop": {"share": 0.75, "probability": 0.5},
}


def on_host(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """Apply the five views to one volume x [d, h, w] float32 by NumPy and SciPy."""

    def box(share: float) -> tuple[slice, ...]:
        sides = [int(np.ceil(share * n)) for n in x.shape]
        starts = [rng.integers(0, n - side + 1) for n, side in zip(x.shape, sides, strict=True)]
        return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))

    if rng.random() < 0.5:
        x = np.flip(x, int(rng.integers(3)))
    if rng.random() < 0.5:
        x = ndimage.gaussian_filter(x, rng.uniform(0.1, 1.0))
    if rng.random() < 0.5:
        x = x + np.float32(rng.uniform(0.1, 1.0)) * rng.standard_normal(x.shape, np.float32)
    if rng.random() < 0.5:
        x = x.copy()
        x[box(0.25)] = 0
    if rng.random() < 0.5:
        part = x[box(0.75)]
        factors = np.divide(x.shape, part.shape)
        x = ndimage.zoom(part, factors, order=1, mode="nearest", grid_mode=True, prefilter=False)
    return np.ascontiguousarray(x)


def training_step(name: str, size: int, views: dict[str, Any]) -> Callable[[int, Any], Any]:
    """Return `run(round, volumes)`: one step of a regression by SGD, waited for; it keeps its own weights."""
    model = models.build(name, num_outputs=1, input_size=(size,) * 3, in_channels=1)
    change, optimizer = augment.build(views), optax.sgd(1e-4)
    inputs: dict[str, Any] = {k: jnp.zeros(v.shape, v.dtype) for k, v in models.inputs(model).items()}
    variables = dict(jax.jit(lambda key: model.init(key, **inputs, train=False))(jax.random.key(0)))
    params = variables.pop("params")

    def step(state: Any, key: jax.Array, x: jax.Array) -> tuple[Any, jax.Array]:
        params, others, moments = state
        x = change(key, x)

        def loss(params: Any) -> Any:
            (outputs, _), updated = model.apply(
                {"params": params, **others}, x, train=True, mutable=list(others), rngs={"dropout": key}
            )
            return jnp.mean((outputs - 1) ** 2), updated

        (value, updated), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return (optax.apply_updates(params, updates), {**others, **updated}, moments), value

    compiled = jax.jit(step, donate_argnums=0)
    state = (params, variables, optimizer.init(params))

    def run(i: int, x: jax.Array) -> None:
        nonlocal state
        state, value = compiled(state, jax.random.key(i), x)
        value.block_until_ready()

    return run


def measure(size: int, batch: int, rounds: int, model: str) -> dict[str, list[float]]:
    """Return side to seconds per volume in each round."""
    volumes = np.random.default_rng(0).standard_normal((batch, size, size, size), np.float32)
    x = jnp.asarray(volumes[..., None])
    change = jax.jit(augment.build(VIEWS))
    sides: dict[str, Callable[[int], Any]] = {
        "views on the device": lambda i: change(jax.random.key(i), x).block_until_ready(),
        "views on the host": lambda i: [on_host(np.random.default_rng([i, j]), v) for j, v in enumerate(volumes)],
    }
    if model:
        plain, changed = (training_step(model, size, views) for views in ({}, VIEWS))
        sides[f"step of {model} without views"] = lambda i: plain(i, x)
        sides[f"step of {model} with views"] = lambda i: changed(i, x)
    for side in sides.values():
        side(0)  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(1, rounds + 1):
        for name, side in list(sides.items())[:: 1 if i % 2 else -1]:  # nobody always goes first
            start = time.perf_counter()
            side(i)
            seconds[name].append((time.perf_counter() - start) / batch)
    return seconds


def machine() -> str:
    """Return what the numbers were measured on, in one line."""
    device = jax.devices()[0]
    return (
        f"{device.device_kind} ({device.platform}), {jax.device_count()} device(s), host of {os.cpu_count()} cores "
        f"({platform.machine()}), Python {platform.python_version()}, jax {jax.__version__}, NumPy {np.__version__}, "
        f"SciPy {scipy.__version__}, {date.today()}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time the published views on the device, on the host, and in a step.")
    parser.add_argument("--size", type=int, default=80, help="side of a volume in voxels")
    parser.add_argument("--batch", type=int, default=8, help="volumes a batch")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", default="tiny_densenet", help="of the training step; '' for none")
    parser.add_argument("--json", type=Path, help="file for the numbers of every round")
    options = parser.parse_args()
    seconds = measure(options.size, options.batch, options.rounds, options.model)
    print(machine())
    print(f"{options.size}^3, batch {options.batch}, {options.rounds} rounds, milliseconds per volume")
    print("\n| | median | range |\n|---|---|---|")
    for name, values in seconds.items():
        low, middle, high = (1e3 * f(values) for f in (min, statistics.median, max))
        print(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} |")
    if options.json:
        settings = {"size": options.size, "batch": options.batch, "views": VIEWS}
        text = json.dumps({"machine": machine(), **settings, "seconds_per_volume": seconds}, indent=1)
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
