"""What a network costs: parameters, operations, and what training keeps for the backward pass, by module.

Counted on the traced program, in its forms for accelerators; nothing is computed and no device is needed.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

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

    def loss(params: Any, variables: Any, x: Any) -> tuple[jax.Array, Any]:
        (outputs, _), updates = model.apply(
            {**variables, "params": params}, **x, train=True, mutable=["batch_stats"], rngs=keys
        )
        return jnp.sum(outputs), updates

    with accelerator_forms():
        runs = jax.make_jaxpr(forward)(variables, inputs).jaxpr
    costs: dict[Path, Cost] = {_path(eqn)[:depth]: Cost() for eqn in runs.eqns}

    def add(path: Path, cost: Cost) -> None:
        costs[path[:depth]] = costs.get(path[:depth], Cost()) + cost

    for path, leaf in jax.tree.leaves_with_path(variables["params"]):
        names = tuple(k.key for k in path)
        add(names[:-1] or names, Cost(parameters=leaf.size))
    for modules, product in _products(runs, ()):
        add(modules, Cost(flops=product.flops))
    for modules, size in _kept(loss, variables["params"], variables, inputs):
        add(modules, Cost(kept=size))
    return {path: cost for path, cost in costs.items() if cost != Cost()}


def total(costs: dict[Path, Cost]) -> Cost:
    """Return the sum."""
    return sum(costs.values(), Cost())


@dataclass(frozen=True)
class Work:
    """What a program does in matrix products and convolutions.

    Attributes:
      flops: floating-point operations by the dtype of what is multiplied; a multiply and an add are two.
      moved: bytes of the factors and of what they make, each counted once for each product.
    """

    flops: dict[str, int]
    moved: int


def work(function: Callable[..., Any], *arguments: Any) -> Work:
    """Return what a function does, counted on its traced program in the forms for accelerators.

    Args:
      function: any function of arrays, compiled or not. One that was traced before must not be given: what was traced
        then is taken.
      arguments: its arguments, or their shapes and dtypes.
    """
    with accelerator_forms():
        program = jax.make_jaxpr(function)(*arguments).jaxpr
    flops: Counter[str] = Counter()
    moved = 0
    for _, product in _products(program, ()):
        flops[product.dtype] += product.flops
        moved += product.moved
    return Work(dict(flops), moved)


def kept(loss: Callable[..., tuple[jax.Array, Any]], params: Any, *others: Any) -> int:
    """Return the bytes that the gradient by `params` needs of what `loss(params, *others) -> (scalar, any)` makes.

    Arguments are there anyway, and not counted. As in `Cost.kept`, before the compiler fuses or recomputes any.
    """
    return sum(size for _, size in _kept(loss, params, *others))


def _kept(loss: Callable[..., tuple[jax.Array, Any]], params: Any, *others: Any) -> Iterator[tuple[Path, int]]:
    """Yield the modules that make what the backward pass needs, and its bytes."""

    def saved(params: Any, *others: Any) -> list[Any]:
        _, backward, _ = jax.vjp(lambda p: loss(p, *others), params, has_aux=True)
        return jax.tree.leaves(backward)

    with accelerator_forms():
        saves = jax.make_jaxpr(saved)(params, *others).jaxpr
    made_by = {out: _path(eqn) for eqn in saves.eqns for out in eqn.outvars}
    variables_out = (v for v in saves.outvars if not isinstance(v, Literal))
    for out in dict.fromkeys(v for v in variables_out if v in made_by):
        yield made_by[out], _bytes(out)


class _Product(NamedTuple):
    """One matrix product or convolution, or several alike."""

    flops: int
    moved: int
    dtype: str

    def times(self, count: int) -> "_Product":
        return _Product(count * self.flops, count * self.moved, self.dtype)


def _products(jaxpr: Any, outer: Path) -> Iterator[tuple[Path, _Product]]:
    for eqn in jaxpr.eqns:
        path = outer or _path(eqn)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            taps = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
            yield path, _product(eqn, taps)
        elif eqn.primitive.name == "conv_general_dilated":
            kernel, numbers = eqn.invars[1].aval.shape, eqn.params["dimension_numbers"]
            # The gradient of a stride multiplies zeros, which a convolution leaves out.
            zeros = math.prod(eqn.params["lhs_dilation"])
            yield path, _product(eqn, math.prod(kernel) // kernel[numbers.rhs_spec[0]], zeros)
        elif eqn.primitive.name == "scan":
            for inner, product in _products(eqn.params["jaxpr"].jaxpr, path):
                yield inner, product.times(eqn.params["length"])
        elif eqn.primitive.name == "cond":
            # Either branch may run; the dearest is what must be reckoned with.
            branches = [list(_products(branch.jaxpr, path)) for branch in eqn.params["branches"]]
            yield from max(branches, key=lambda found: sum(product.flops for _, product in found))
        else:
            for value in eqn.params.values():
                inner_jaxpr = getattr(value, "jaxpr", value)
                if hasattr(inner_jaxpr, "eqns"):
                    yield from _products(inner_jaxpr, path)


def _product(eqn: Any, taps: int, zeros: int = 1) -> _Product:
    """Return the product of an equation in which each output sums `taps` products, one in `zeros` of which counts."""
    made = eqn.outvars[0]
    dtype = jnp.result_type(*(factor.aval.dtype for factor in eqn.invars)).name
    return _Product(2 * made.aval.size * taps // zeros, sum(_bytes(v) for v in (*eqn.invars, made)), dtype)


def _bytes(variable: Any) -> int:
    return variable.aval.size * variable.aval.dtype.itemsize


def _path(eqn: Any) -> Path:
    """Return the modules that an equation belongs to, without the model itself and the transformations."""
    # "jvp(DenseNet)/conv0" and "jvp(DenseNet/conv0)" are both seen.
    names = str(eqn.source_info.name_stack).replace("(", "/").replace(")", "").split("/")
    return tuple(n for n in names if n and n not in _TRANSFORMATIONS)[1:]
