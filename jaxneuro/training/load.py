"""What one step of training asks of each device: memory, operations, traffic, exchange. Nothing is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh

from jaxneuro import augment
from jaxneuro.models import cost, layers
from jaxneuro.models.convolution import accelerator_forms
from jaxneuro.training import sharding, state, steps
from jaxneuro.training.devices import Collective
from jaxneuro.training.experiment import Experiment

_FLOAT = 4  # parameters, gradients and moments are float32


@dataclass(frozen=True)
class Load:
    """What one step of training asks of each of the devices of a mesh; all of them do the same.

    Attributes:
      devices: how many there are.
      memory: bytes on one device, by what they hold.
      flops: operations of one step in matrix products and convolutions, over all devices, by dtype of the factors.
      forward: those of the forward pass alone, all dtypes.
      moved: bytes between the memory of one device and its chip, at the least, by what moves.
      exchanged: what the devices exchange.
      read: bytes of a batch as it is read, over all devices.
      copies: on how many devices each scan of a batch lies.
      parameters: their number.
      uneven: parameters of which an axis stays whole, since its mesh axis does not divide it.
    """

    devices: int
    memory: dict[str, float]
    flops: dict[str, float]
    forward: float
    moved: dict[str, float]
    exchanged: list[Collective]
    read: float
    copies: int
    parameters: int
    uneven: int


def of(parts: Experiment, optimizer: optax.GradientTransformation, mesh: AbstractMesh) -> Load:
    """Return what one step of an experiment asks of each device of a mesh.

    Operations are counted on the traced step itself, with the views, the objective and its gradient, each part of a
    batch that is taken in parts, and what `remat` computes again.
    """
    config, model, objective = parts.config, parts.model, parts.objective
    size, count = config.data.batch_size, config.training.accumulate
    average = config.optimizer.average
    boxed = state.abstract(model, optimizer, average=bool(average))
    where = sharding.shardings(mesh, boxed)
    whole = sharding.unbox(boxed)
    normalise, views = (
        augment.normaliser(config.data.normalise),
        augment.build(config.augment.to_dict(), sharding.across(mesh)),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    ways = mesh.shape["data"] * mesh.shape["fsdp"]

    def batch(samples: int) -> dict[str, jax.ShapeDtypeStruct]:
        volume = jax.ShapeDtypeStruct((samples, *parts.dataset.shape), np.dtype(parts.dataset.card["dtype"]))
        label = jax.ShapeDtypeStruct((samples,), np.float32)
        return {"volume": volume, **dict.fromkeys(parts.labels, label)}

    def seen(samples: int) -> dict[str, jax.ShapeDtypeStruct]:
        return jax.eval_shape(lambda b, k: steps.seen(objective, b, k, normalise, views), batch(samples), key)

    def step(samples: int) -> cost.Work:
        # Made anew for each trace: a compiled function keeps the first one, in the forms for the CPU perhaps.
        once = steps.train_step(
            model.apply, objective, optimizer, normalise=normalise, views=views, mesh=mesh, where=where, parts=count,
            average=average,
        )  # fmt: skip
        return cost.work(once, whole, batch(samples), key)

    def loss(params: Any, batch_stats: Any, batch: Any, key: Any) -> Any:
        return objective.loss(model.apply, params, batch_stats, batch, key)

    def of_part(samples: int) -> tuple[Any, ...]:
        return whole.params, whole.batch_stats, seen(samples), key

    per_part = size // count
    done = step(size)
    products = _on_one(lambda n: done.moved if n == size else step(n).moved, size, ways) / mesh.shape["model"]
    kept = _on_one(lambda n: cost.kept(loss, *of_part(n)), per_part, ways)
    read, look = _bytes(batch(size)), _bytes(seen(size))
    local = {name: _local(getattr(whole, name), getattr(where, name)) for name in ("params", "opt_state", "average")}
    leaves = list(zip(jax.tree.leaves(whole.params), jax.tree.leaves(where.params), strict=True))
    gathered = sum((1 - 1 / _pieces(leaf, at)) * _used(leaf, at) for leaf, at in leaves)
    calls = _calls(lambda: jax.eval_shape(loss, *of_part(per_part)))
    return Load(
        devices=mesh.size,
        memory={
            "parameters": local["params"],
            "gradients": local["params"] * (2 if count > 1 else 1),  # the sum, and those of a part
            "moments of the optimiser": local["opt_state"],
            "running average": local["average"],
            "batch statistics": _local(whole.batch_stats, where.batch_stats),
            "parameters gathered from other devices": gathered,
            # The next batch is on its way while one is used; parts are cut out of a batch into a copy.
            "batch": (2 * read + look * (2 if count > 1 else 1)) / ways,
            "kept for the backward pass": kept,
        },
        flops={dtype: float(n) for dtype, n in done.flops.items()},
        forward=float(count * sum(cost.work(loss, *of_part(per_part)).flops.values())),
        moved={
            "matrix products and convolutions": products,
            # Gradients are read, what is kept is read and written.
            "update": local["params"] + 2 * sum(local.values()),
            "volumes": (read + look) / ways,
        },
        exchanged=_of_parameters(leaves, mesh, count) + _of_activations(calls, where.params, mesh, count, ways),
        read=read,
        copies=mesh.shape["model"],
        parameters=sum(leaf.size for leaf, _ in leaves),
        uneven=sum(
            leaf.unbox().size
            for leaf, (_, at) in zip(jax.tree.leaves(boxed.params, is_leaf=_is_box), leaves, strict=True)
            if _is_box(leaf) and _uneven(leaf.names, at)
        ),
    )


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.LogicallyPartitioned)


def _on_one(bytes_at: Callable[[int], float], size: int, ways: int) -> float:
    """Return the bytes on one device of a quantity that is known for whole batches.

    It grows in a line with the batch, from what does not depend on it, as parameters, which every device has.
    """
    at = bytes_at(size)
    if ways == 1:
        return at
    fixed = max(2 * at - bytes_at(2 * size), 0)
    return fixed + (at - fixed) / ways


def _bytes(tree: Any) -> float:
    return float(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def _local(tree: Any, where: Any) -> float:
    """Return the bytes of a tree that lie on one device."""
    shapes = jax.tree.map(lambda x, at: math.prod(at.shard_shape(x.shape)) * x.dtype.itemsize, tree, where)
    return float(sum(jax.tree.leaves(shapes)))


def _axes(at: Any, dimension: int) -> tuple[str, ...]:
    """Return the mesh axes that split one dimension of an array."""
    found = at.spec[dimension] if dimension < len(at.spec) else None
    return (found,) if isinstance(found, str) else tuple(found or ())


def _ways(at: Any, axis: str, dimensions: range | None = None) -> int:
    """Return over how many devices of a mesh axis an array is split, along some or all of its dimensions."""
    split = any(axis in _axes(at, i) for i in (range(len(at.spec)) if dimensions is None else dimensions))
    return at.mesh.shape[axis] if split else 1


def _uneven(names: tuple[str, ...], at: Any) -> bool:
    """Tell whether a parameter stays whole over a mesh axis that the rules split it over."""
    asked = {a for name in names for a in sharding.RULES[name] if at.mesh.shape[a] > 1}
    return bool(asked - {a for i in range(len(at.spec)) for a in _axes(at, i)})


def _is_convolution(leaf: Any) -> bool:
    return leaf.ndim == 5


def _used(leaf: Any, at: Any) -> float:
    """Return the bytes of a parameter as a device computes with it: a convolution's kernel whole (`placing`)."""
    return _FLOAT * leaf.size / (1 if _is_convolution(leaf) else _ways(at, "model"))


def _pieces(leaf: Any, at: Any) -> int:
    """Return in how many pieces what a device computes with is stored."""
    return _ways(at, "fsdp") * (_ways(at, "model") if _is_convolution(leaf) else 1)


def _of_parameters(leaves: list[tuple[Any, Any]], mesh: AbstractMesh, count: int) -> list[Collective]:
    """Return the exchange of parameters and gradients.

    A parameter that `fsdp` splits is gathered once for each part of a batch (the compiler keeps it for the backward
    pass), its gradient scattered in sums over `fsdp`, and the sums reduced over `data`. The gradient of any other one
    is reduced over both. What `model` splits, each of its devices has a piece of; convolutions' kernels are gathered
    over it, too.
    """
    data, fsdp, model = (mesh.shape[a] for a in sharding.AXES)
    split = whole = 0.0
    gathered = dict.fromkeys(("fsdp", "model", "fsdp x model"), 0.0)
    for leaf, at in leaves:
        size = count * _used(leaf, at)
        over = [a for a in ("fsdp", "model") if _ways(at, a) > 1 and (a == "fsdp" or _is_convolution(leaf))]
        if over:
            gathered[" x ".join(over)] += size
        if "fsdp" in over:
            split += size
        else:
            whole += size
    both = "data x fsdp" if data > 1 and fsdp > 1 else "fsdp" if fsdp > 1 else "data"
    found = [
        Collective("fsdp", "all-gather", gathered["fsdp"], fsdp, model),
        Collective("model", "all-gather", gathered["model"], model, 1),
        Collective("fsdp x model", "all-gather", gathered["fsdp x model"], fsdp * model, 1),
        Collective("fsdp", "reduce-scatter", split, fsdp, model),
        Collective("data", "all-reduce", split / fsdp, data, fsdp * model),
        Collective(both, "all-reduce", whole, data * fsdp, model),
    ]
    return [one for one in found if one.size and one.ways > 1]


#: A layer as it is called: its path, how many axes its kernel contracts (0: a convolution), bytes in, bytes out.
_Call = tuple[tuple[str, ...], int, float, float]


def _calls(trace: Callable[[], Any]) -> list[_Call]:
    """Return the calls of layers with a kernel, in order, while a function is traced."""
    found: list[_Call] = []

    def note(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        made = call(*arguments, **keywords)
        layer = context.module
        if isinstance(layer, layers.Dense | layers.Conv) and context.method_name == "__call__":
            width = jnp.dtype(layer.dtype).itemsize
            contract = layer.contract if isinstance(layer, layers.Dense) else 0
            found.append((layer.path, contract, width * arguments[0].size, width * made.size))
        return made

    with nn.intercept_methods(note), accelerator_forms():
        trace()
    return found


def _of_activations(calls: list[_Call], where: Any, mesh: AbstractMesh, count: int, ways: int) -> list[Collective]:
    """Return the exchange of activations between devices that split layers (Shoeybi et al. 2019, Megatron-LM).

    A dense layer whose kernel `model` splits along what it sums over gives partial sums, reduced in the forward pass;
    one whose outputs it splits gets a gradient in partial sums, reduced in the backward pass. In a transformer that is
    two and two a block. Convolutions are not split.
    """
    model = mesh.shape["model"]
    reduced = 0.0
    for path, contract, taken, made in calls:
        if not contract:
            continue
        at = where
        for name in (*path, "kernel"):
            at = at[name]
        inner = range(contract)
        outer = range(inner.stop, len(at.spec))
        if _ways(at, "model", inner) > 1:
            reduced += made
        if _ways(at, "model", outer) > 1:
            reduced += taken
    one = Collective("model", "all-reduce", count * reduced / ways, model, 1)
    return [one] if one.size and one.ways > 1 else []
