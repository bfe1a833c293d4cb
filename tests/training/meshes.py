"""One step of training on each of several meshes of simulated devices, beside the same step on one; prints JSON.

python -m tests.training.meshes DATA CONFIG '[{"data": 8}, {"fsdp": 8}]' KEY=VALUE ...
"""

import json
import sys

import jax
import numpy as np

from jaxneuro import augment, configuration, data
from jaxneuro.training import collectives, experiment, loop, optim, sharding, state, steps
from tests.conftest import CONFIGS

RATE = 0.5


def step(config, shape, devices):
    """Return loss, what one step of plain SGD adds to each parameter, new statistics, state, compiled program."""
    parts = experiment.build(config)
    mesh = sharding.make_mesh(shape, devices)
    optimizer, _ = optim.build(
        name="sgd", learning_rate=RATE, momentum=0.0, weight_decay=0.0, clip=0.0, schedule="constant",
        warmup_steps=0, total_steps=1,
    )  # fmt: skip
    where = sharding.shardings(mesh, state.abstract(parts.model, optimizer))
    now = state.create(parts.model, optimizer, jax.random.key(0), where)
    before = jax.tree.map(sharding.fetch, now.params)
    train_step = steps.train_step(
        parts.model.apply, parts.objective, optimizer, normalise=augment.normaliser(config.data.normalise),
        views=augment.build(config.augment.to_dict(), sharding.across(mesh)), mesh=mesh, where=where,
    )  # fmt: skip
    with data.open_reader(parts.dataset) as reader:
        batch = next(
            data.training_batches(
                reader, parts.folds["train"], parts.labels, seed=0, **loop.how_to_read(parts.config, mesh)
            )
        )
    batch.pop("index")
    arguments = now, sharding.put(mesh, batch), jax.random.key(1)
    compiled = train_step.lower(*arguments).compile()
    after, metrics = compiled(*arguments)
    added = jax.tree.map(lambda a, b: (sharding.fetch(a) - b) / RATE, after.params, before)
    statistics = jax.tree.map(sharding.fetch, after.batch_stats)
    return float(metrics["loss"]), added, statistics, collectives.of(compiled.as_text(), mesh)


def difference(ours, theirs):
    """Return the largest difference of two trees, over the largest value of the second."""
    pairs = list(zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True))
    if not pairs:
        return 0.0
    return float(max(np.abs(a - b).max() for a, b in pairs) / max(np.abs(b).max() for _, b in pairs))


def main():
    path, name, shapes, *settings = sys.argv[1:]
    config = configuration.read(
        str(CONFIGS / name), [f"--config.data.path={path}", *(f"--config.{s}" for s in settings)]
    )
    devices = jax.devices()
    loss, added, statistics, _ = step(config, {}, devices[:1])
    found = []
    for shape in json.loads(shapes):
        here, moved, counted, told = step(config, shape, devices)
        found.append(
            {
                "loss": abs(here - loss) / abs(loss),
                "gradient": difference(moved, added),
                "statistics": difference(counted, statistics),
                "collectives": [
                    [kind, list(axes), *totals] for (kind, axes), totals in collectives.summary(told).items()
                ],
                "shapes": sorted({(c.kind, c.shape) for c in told}),
            }
        )
    print(json.dumps({"devices": len(devices), "meshes": found}))


if __name__ == "__main__":
    main()
