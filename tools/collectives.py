"""Print what the devices of a mesh tell each other in one training step, read from the compiled program.

python tools/collectives.py --config configs/pretrain_masked.py --devices 8 --config.data.path=DIR --config.mesh.fsdp=8

The devices are simulated on this machine's CPU, whose compiler sums by all-reduce where others scatter; nothing is
computed. What a step holds in memory is the compiler's word for the CPU, too.
"""

from __future__ import annotations

import argparse
import os
import sys


def main() -> None:
    """Compile a step for so many simulated devices and print its collectives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--largest", type=int, default=0, help="list so many of the largest, each with its shape")
    args, rest = parser.parse_known_args()
    if args.devices < 1:
        sys.exit(f"error: --devices: found {args.devices}; expected 1 or more")
    # Read once, by jax's first device.
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={args.devices}"
    ).strip()
    os.environ["JAX_PLATFORMS"] = "cpu"

    import jax
    import jax.numpy as jnp
    import numpy as np
    from rich.table import Table

    from jaxneuro import augment, configuration, terminal
    from jaxneuro.errors import InputError
    from jaxneuro.training import collectives, experiment, loop, runtime, sharding, state, steps

    try:
        config = configuration.read(args.config, rest)
        runtime.start()
        parts = experiment.build(config)
        config = parts.config
        mesh = sharding.make_mesh(config.mesh.to_dict())
        sharding.check_batch_size(mesh, config.data.batch_size)
        loop.check_parts(config, parts, mesh)
        views = augment.build(config.augment.to_dict(), sharding.across(mesh))
    except InputError as e:
        sys.exit(f"error: {e}")
    optimizer, _ = experiment.optimizer(parts, 1)
    boxed = state.abstract(parts.model, optimizer, average=bool(config.optimizer.average))
    step = steps.train_step(
        parts.model.apply, parts.objective, optimizer, normalise=augment.normaliser(config.data.normalise),
        views=views, mesh=mesh,
        where=sharding.shardings(mesh, boxed), parts=config.training.accumulate, average=config.optimizer.average,
    )  # fmt: skip
    size = config.data.batch_size
    batch = {name: jax.ShapeDtypeStruct((size,), jnp.float32) for name in parts.labels}
    batch["volume"] = jax.ShapeDtypeStruct((size, *parts.dataset.shape), np.dtype(parts.dataset.card["dtype"]))
    batch["valid"] = jax.ShapeDtypeStruct((size,), jnp.bool_)
    compiled = step.lower(sharding.unbox(boxed), batch, jax.random.key(0)).compile()
    found = collectives.of(compiled.as_text(), mesh)

    shape = " x ".join(str(n) for n in mesh.devices.shape)
    table = Table(title=f"{parts.described['name']}, batch {size}, mesh {shape}: told by each device in one step")
    table.add_column("what")
    table.add_column("between devices along")
    for column in ("count", "MiB"):
        table.add_column(column, justify="right")
    for (kind, axes), (count, total) in sorted(collectives.summary(found).items(), key=lambda pair: -pair[1][1]):
        table.add_row(kind, ", ".join(axes), str(count), f"{total / 2**20:,.3f}")
    terminal.say(table)
    for one in sorted(found, key=lambda c: -c.times * c.size)[: args.largest]:
        times = f", {one.times} times" if one.times > 1 else ""
        terminal.say(f"{one.kind} over {', '.join(one.axes)}: {list(one.shape)}, {one.size / 2**20:,.3f} MiB{times}")
    memory = compiled.memory_analysis()
    terminal.say(
        f"each device: {memory.argument_size_in_bytes / 2**20:,.1f} MiB of state and batch, "
        f"{memory.temp_size_in_bytes / 2**20:,.1f} MiB while it computes (compiled for the CPU)"
    )


if __name__ == "__main__":
    main()
