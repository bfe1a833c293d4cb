"""Our side: the step and the evaluation of a real run, on one device, without a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro import augment, configuration
from jaxneuro.manifest import Scan
from jaxneuro.models import cost
from jaxneuro.tasks import Task
from jaxneuro.training import experiment, optim, pairing, runtime, sharding, state, steps
from tools.benchmarking import inputs
from tools.benchmarking.process import ROOT

Run = Callable[[int], None]


class Network:
    """A network and its objective as a config pairs them.

    Args:
      config: keys of a config and their values.
      batch: volumes a step.
      side: of a volume, in voxels.
    """

    def __init__(self, config: Mapping[str, Any], batch: int, side: int) -> None:
        runtime.start()
        settings = configuration.read(
            str(ROOT / "configs" / "common.py"), [f"--config.{key}={value}" for key, value in config.items()]
        )
        self.batch, self.side = batch, side
        self.mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
        scans = [Scan(f"s{i}", age=40.0 + i, diagnosis=("CN", "AD")[i % 2]) for i in range(max(batch, 2))]
        tasks = (Task("ad", "binary", "diagnosis", ("CN", "AD")),) if settings.objective.name == "supervised" else ()
        labels, usable, _ = experiment.labels_for(tasks, scans)
        material = pairing.Material((side, side, side, 1), scans, tasks, labels, usable.tolist())
        pair = pairing.pair(settings, material)
        self.model, self.objective = pair.model, pair.objective
        self.labels = {name: values[:batch].astype(np.float32) for name, values in pair.labels.items()}
        self.optimizer, _ = optim.build(
            name="adamw", learning_rate=3e-4, weight_decay=0.05, schedule="constant", warmup_steps=0, total_steps=1
        )
        self.boxed = state.abstract(self.model, self.optimizer)
        self.where = sharding.shardings(self.mesh, self.boxed)
        # Views are timed by tools/benchmark_views.py.
        self.seen: dict[str, Any] = {"normalise": augment.normaliser("none"), "mesh": self.mesh}

    def tasks(self) -> dict[str, Callable[[], Run]]:
        """Return what can be timed."""
        return {"step": self.step, "inference": self.inference, "occlusion": self.occlusion}

    def step(self) -> Run:
        """Return steps of training: forward, backward, update."""
        now, key = self._state(), jax.random.key(0)
        step, batch = self._train_step(), self._batch()

        def run(n: int) -> None:
            nonlocal now
            for _ in range(n):
                now, metrics = step(now, batch, key)
            jax.block_until_ready((now, metrics))

        return run

    def inference(self) -> Run:
        """Return evaluation of one batch, as `jaxneuro evaluate` does it."""
        weights, batch, key = self._state().weights(), self._batch(), jax.random.key(0)
        evaluate = steps.evaluation_step(self.model.apply, self.objective, **self.seen)

        def run(n: int) -> None:
            for _ in range(n):
                values = evaluate(weights, batch, key)
            values.block_until_ready()

        return run

    def occlusion(self) -> Run:
        """Return evaluation of a batch of copies of one volume, of each of which a cube is hidden."""
        weights = self._state().weights()
        starts, cube = inputs.corners(self.batch, self.side)
        volume = jnp.asarray(inputs.volumes(1, self.side)[0])

        @jax.jit
        def outputs(weights: Any, volume: jax.Array, starts: jax.Array) -> jax.Array:
            place = jnp.arange(self.side)
            d, h, w = ((place >= s[:, None]) & (place < s[:, None] + cube) for s in starts.T)
            hidden = d[:, :, None, None] & h[:, None, :, None] & w[:, None, None, :]
            copies = jnp.where(hidden[..., None], 0.0, volume)
            return self.model.apply(weights, copies, train=False)[0]

        def run(n: int) -> None:
            for _ in range(n):
                values = outputs(weights, volume, starts)
            values.block_until_ready()

        return run

    def flops(self) -> int:
        """Return the operations of one step of training."""
        return sum(
            cost.work(self._train_step(), sharding.unbox(self.boxed), self._batch(), jax.random.key(0)).flops.values()
        )

    def device_memory(self) -> int | None:
        """Return the peak of the device's memory in bytes, None where nobody counts it (CPUs)."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

    def _state(self) -> state.TrainState:
        return state.create(self.model, self.optimizer, jax.random.key(0), self.where)

    def _train_step(self) -> Any:
        views = augment.build({})
        return steps.train_step(
            self.model.apply, self.objective, self.optimizer, views=views, where=self.where, **self.seen
        )

    def _batch(self) -> dict[str, jax.Array]:
        batch = {"volume": inputs.volumes(self.batch, self.side), "valid": np.ones(self.batch, bool), **self.labels}
        return sharding.put(self.mesh, batch)


def product_ceiling(dtype: str, size: int = 8192, rounds: int = 5) -> float:
    """Return the most operations a second that one large matrix product reached."""
    x = jnp.full((size, size), 0.5, dtype)
    product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=x.dtype))
    product(x).block_until_ready()
    best = 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(8):
            y = product(x)
        y.block_until_ready()
        best = max(best, 8 * 2 * size**3 / (time.perf_counter() - start))
    return best
