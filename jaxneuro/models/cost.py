"""What a network costs: parameters, operations, and what training keeps for the backward pass, by module.

Counted on the traced program, in its forms for accelerators; nothing is computed and no device is needed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from jaxneuro.models.convolution import accelerator_forms

Path = tuple[str, ...]
_TRANSFORMATIONS = {"jvp", "transpose", "vmap", "checkpoint", "remat", "rematted_computation"}


@dataclass(frozen=True)
class Cost:
    """The cost of a module, or of all.

    Attributes:
      parameters: their number.
      flops: floating-point operations of one forward pass of the batch, in matrix products and convolutions; a
        multiply and an add are two (papers that count "multiply-adds", as Video Swin's, give half).
      kept: bytes that the backward pass of one training step needs from the forward pass, before the compiler fuses
        or recomputes any.
    """

    parameters: int = 0
    flops: int = 0
    kept: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.parameters + other.parameters, self.flops + other.flops, self.kept + other.kept)


def by_module(model: nn.Module, inputs: dict[str, jax.ShapeDtypeStruct], *, depth: int = 1) -> dict[Path, Cost]:
    """Return the cost of each module of a model, in the order in which they run; their sum is that of the model.

    Args:
      model: the network.
      inputs: shapes and dtypes of what it takes beside `train`, as from `models.inputs`.
      depth: how many levels of modules are told apart; what lies outside of any is under ().
    """
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    variables = nn.meta.unbox(jax.eval_shape(lambda x: model.init(keys, **x, train=False), inputs))

    def forward(variables: Any, x: Any) -> Any:
        return model.apply(variables, **x, train=False)

    def kept(variables: Any, x: Any) -> list[Any]:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            (outputs, _), updates = model.apply(
                {**variables, "params": params}, **x, train=True, mutable=["batch_stats"], rngs=keys
            )
            return jnp.sum(outputs), updates

        _, backward, _ = jax.vjp(loss, variables["params"], has_aux=True)
        return jax.tree.leaves(backward)

    with accelerator_forms():
        runs = jax.make_jaxpr(forward)(variables, inputs).jaxpr
        saves = jax.make_jaxpr(kept)(variables, inputs).jaxpr
    costs: dict[Path, Cost] = {_path(eqn)[:depth]: Cost() for eqn in runs.eqns}

    def add(path: Path, cost: Cost) -> None:
        costs[path[:depth]] = costs.get(path[:depth], Cost()) + cost

    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        names = tuple(k.key for k in path)
        add(names[:-1] or names, Cost(parameters=leaf.size))
    for modules, flops in _flops(runs, ()):
        add(modules, Cost(flops=flops))
    made_by = {out: _path(eqn) for eqn in saves.eqns for out in eqn.outvars}
    variables_out = (v for v in saves.outvars if not isinstance(v, Literal))
    for out in dict.fromkeys(v for v in variables_out if v in made_by):  # parameters and volumes are there anyway
        add(made_by[out], Cost(kept=out.aval.size * out.aval.dtype.itemsize))
    return {path: cost for path, cost in costs.items() if cost != Cost()}


def total(costs: dict[Path, Cost]) -> Cost:
    """Return the sum."""
    return sum(costs.values(), Cost())


def _flops(jaxpr: Any, outer: Path) -> Iterator[tuple[Path, int]]:
    for eqn in jaxpr.eqns:
        path = outer or _path(eqn)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            taps = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            yield path, 2 * eqn.outvars[0].aval.size * taps
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
            yield path, 2 * eqn.outvars[0].aval.size * taps
        elif eqn.primitive.name == "scan":
            for inner, flops in _flops(eqn.params["jaxpr"].jaxpr, path):
                yield inner, flops * eqn.params["length"]
        elif eqn.primitive.name == "cond":
            # Either branch may run; the dearest is what must be reckoned with.
            branches = [list(_flops(branch.jaxpr, path)) for branch in eqn.params["branches"]]
            yield from max(branches, key=lambda found: sum(flops for _, flops in found))
        else:
            for value in eqn.params.values():
                inner_jaxpr = getattr(value, "jaxpr", value)
                if hasattr(inner_jaxpr, "eqns"):
                    yield from _flops(inner_jaxpr, path)


def _path(eqn: Any) -> Path:
    """Return the modules that an equation belongs to, without the model itself and the transformations."""
    # "jvp(DenseNet)/conv0" and "jvp(DenseNet/conv0)" are both seen.
    names = str(eqn.source_info.name_stack).replace("(", "/").replace(")", "").split("/")
    return tuple(n for n in names if n and n not in _TRANSFORMATIONS)[1:]
