"""Weights between torch's names and ours: strict both ways, every tensor and every leaf accounted for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.interop import adapt as adapting
from jaxneuro.interop.adapt import Adaptation
from jaxneuro.interop.layouts import Layout, layout
from jaxneuro.interop.transforms import Shape

#: How many names an error lists before it counts the rest.
_SHOWN = 8


@dataclass(frozen=True)
class Row:
    """What became of one tensor or one leaf.

    Attributes:
      theirs: torch's name, "" for a leaf that no tensor fills.
      their_shape: its shape.
      ours: our path, "" for a tensor that no leaf takes.
      our_shape: its shape.
      what: one of copied, adapted, fresh, beside, computed, ignored.
      how: for people: how it was adapted, why it is beside or ignored.
    """

    theirs: str
    their_shape: Shape
    ours: str
    our_shape: Shape
    what: str
    how: str = ""


def from_torch(model: nn.Module, tensors: Mapping[str, np.ndarray], source: str) -> dict[str, Any]:
    """Return the variables that a torch state dict in the layout `source` is in `model`.

    Every tensor is used, or named by the layout as used by no computation; those are returned in a third collection,
    `unused`, which `apply` never reads and `to_torch` puts back. For weights to be adapted see `convert`.

    Args:
      model: a backbone, as `models.build` makes it.
      tensors: names to arrays, wrappers and prefixes taken off.
      source: a layout.

    Raises:
      InputError: tensors missing, left over or of another shape; all are told at once.
    """
    return convert(model, tensors, source)[0]


def convert(
    model: nn.Module,
    tensors: Mapping[str, np.ndarray],
    source: str | Layout,
    *,
    adaptation: Adaptation | None = None,
    fresh: Iterable[str] = (),
    ignore: Iterable[str] = (),
    seed: int = 0,
) -> tuple[dict[str, Any], list[Row]]:
    """Return variables as `from_torch` does, adapted on request, and what became of every tensor and leaf.

    Args:
      model: a backbone.
      tensors: names to arrays.
      source: a layout, or its name.
      adaptation: what may be adapted and how; by default nothing.
      fresh: regular expressions, found in our paths, of leaves that begin afresh (a new head); the tensors that would
        have filled them are ignored.
      ignore: regular expressions, found in torch's names, of tensors to leave out.
      seed: of the leaves that begin afresh.

    Raises:
      InputError: whatever does not fit, all in one message.
    """
    names, adaptation = source if isinstance(source, Layout) else layout(model, source), adaptation or Adaptation()
    source = source if isinstance(source, str) else "jaxneuro"
    check_settings(model, names, source)
    target = abstract(model)
    rows: list[Row] = []
    leaves: dict[str, np.ndarray] = {}
    begins: list[str] = []
    missing: list[str] = []
    faults: list[str] = []
    left = dict(tensors)
    for path, leaf in target.items():
        place = names.name(path)
        theirs, transform = place if place else ("", None)
        if _any(fresh, path):
            begins.append(path)
            if theirs in left:
                shape = left.pop(theirs).shape
                rows.append(Row(theirs, shape, "", (), "ignored", f"{path} begins afresh"))
        elif transform is None or theirs not in left:
            missing.append(f"{theirs} ({path})" if theirs else path)
        else:
            value = left.pop(theirs)
            how = ""
            if value.shape == transform.their_shape(leaf.shape):
                leaves[path] = transform.to_ours(value, leaf.shape)
            else:
                try:
                    leaves[path], how = adapting.adapt(model, path, value, leaf.shape, transform, adaptation)
                except InputError as e:
                    faults.append(f"{theirs}: {e}")
                    continue
            rows.append(Row(theirs, value.shape, path, leaf.shape, "adapted" if how else "copied", how))
    unused, extra = _sort_out(left, names, ignore, fresh, rows, faults)
    if missing:
        hint = "; to begin them afresh: --fresh" if leaves else ""
        faults.insert(0, f"{len(missing)} tensors that the model needs are not there: {_list(missing)}{hint}")
    if extra:
        faults.insert(
            0, f"{len(extra)} tensors have no place in the model: {_list(extra)}; to leave them out: --ignore"
        )
    if faults:
        kind = type(model).__name__
        shown = faults if len(faults) <= 2 * _SHOWN else [*faults[: 2 * _SHOWN], f"and {len(faults) - 2 * _SHOWN} more"]
        raise InputError(f"layout '{source}', {kind}: " + "; ".join(shown) + _guess(tensors, source, len(leaves)))
    if begins:
        # Only those: compiling the draws of all leaves takes most of the time of a conversion.
        drawn = jax.jit(lambda: {k: v for k, v in flat(_init(model, seed)).items() if k in begins})()
        for path in begins:
            leaves[path] = np.asarray(drawn[path])
            rows.append(Row("", (), path, target[path].shape, "fresh", f"initialised, seed {seed}"))
    variables = nested(leaves)
    if unused:
        variables["unused"] = unused
    return variables, rows


def to_torch(model: nn.Module, variables: Mapping[str, Any], target: str) -> dict[str, np.ndarray]:
    """Return variables as a torch state dict in the layout `target`.

    Tensors that no computation uses come from the collection `unused`; without it they are as in a fresh network.

    Raises:
      InputError: the variables are not the model's, or the layout has no place for them.
    """
    names, wanted = layout(model, target), abstract(model)
    check_settings(model, names, target)
    leaves = {k: np.asarray(v) for k, v in flat({k: v for k, v in variables.items() if k != "unused"}).items()}
    if leaves.keys() != wanted.keys() or any(leaves[k].shape != wanted[k].shape for k in wanted):
        wrong = sorted(leaves.keys() ^ wanted.keys()) or [k for k in wanted if leaves[k].shape != wanted[k].shape]
        raise InputError(f"variables: found other leaves or shapes than the model's: {_list(wrong)}")
    leaves = names.fold(leaves)
    found: dict[str, np.ndarray] = {}
    homeless = []
    for path, value in leaves.items():
        place = names.name(path)
        if place is None:
            homeless.append(path)
            continue
        theirs, transform = place
        found[theirs] = np.array(transform.to_theirs(value), order="C")  # one's own: torch wants to write
    if homeless:
        raise InputError(f"layout '{target}': has no place for {_list(homeless)}; choose another layout")
    return found | names.computed | _unused(found, names, dict(variables.get("unused", {})))


def check_settings(model: Any, names: Layout, source: str) -> None:
    """Refuse a model that differs from the layout's networks in what no weight shows.

    Raises:
      InputError: names the keyword to set.
    """
    backbone = getattr(model, "encoder", model)
    for keyword, value in names.settings.items():
        if (found := getattr(backbone, keyword)) != value:
            raise InputError(
                f"layout '{source}': found {keyword} {found!r} in the model; expected {value!r}, with which all its "
                f"networks compute and which no weight shows: --set {keyword}={value}"
            )


def abstract(model: nn.Module) -> dict[str, jax.ShapeDtypeStruct]:
    """Return our paths, "params/..." and "batch_stats/...", and shapes of a model's leaves; computes nothing."""
    return flat(nn.meta.unbox(jax.eval_shape(lambda: _init(model, 0))))


def _init(model: nn.Module, seed: int) -> Any:
    inputs: dict[str, Any] = {k: jax.numpy.zeros(x.shape, x.dtype) for k, x in models.inputs(model).items()}
    return nn.meta.unbox(model.init(jax.random.key(seed), **inputs, train=False))


def flat(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the leaves of variables by slash path."""
    return {"/".join(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(dict(variables))}


def nested(leaves: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return variables from leaves by slash path; undoes `flat`."""
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, leaf in leaves.items():
        *modules, name = path.split("/")
        place = variables
        for module in modules:
            place = place.setdefault(module, {})
        place[name] = leaf
    return variables


def _sort_out(
    left: dict[str, np.ndarray],
    names: Layout,
    ignore: Iterable[str],
    fresh: Iterable[str],
    rows: list[Row],
    faults: list[str],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Say of every tensor that no leaf takes what it is; returns those kept beside, and those that have no place."""
    unused: dict[str, np.ndarray] = {}
    extra = []
    for name, value in left.items():
        if name in names.computed:
            if value.shape == names.computed[name].shape and not np.array_equal(value, names.computed[name]):
                faults.append(f"{name}: is not the index of the model's window; pass the window that it was made with")
            # Of another shape is that of another window, whose table is resampled or refused.
            same = value.shape == names.computed[name].shape
            how = "equals what the model computes" if same else "of another window; the model computes its own"
            rows.append(Row(name, value.shape, "", (), "computed", how))
        elif name.endswith(tuple(names.unused)):
            unused[name] = value
            rows.append(Row(name, value.shape, "", (), "beside", "no computation uses it; kept to go back"))
        elif _any(ignore, name):
            rows.append(Row(name, value.shape, "", (), "ignored", "as asked"))
        elif re.fullmatch(names.head, name) and _any(fresh, "params/head/out/kernel"):
            rows.append(Row(name, value.shape, "", (), "ignored", "the head begins afresh"))
        else:
            extra.append(f"{name} {list(value.shape)}")
    return unused, extra


def _unused(found: dict[str, np.ndarray], names: Layout, kept: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the tensors that no computation uses: as they came, or as in a fresh network."""
    fresh = {
        name.removesuffix(beside) + end: value(array)
        for end, (beside, value) in names.unused.items()
        for name, array in found.items()
        if name.endswith(beside)
    }
    # Those of another layout, in which the weights came, have no place in this one.
    return fresh | {name: kept[name] for name in fresh.keys() & kept.keys()}


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(re.search(p, name) for p in patterns)


def _list(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _guess(tensors: Mapping[str, Any], source: str, filled: int) -> str:
    if filled:
        return ""
    first = Counter(name.split(".")[0] for name in tensors).most_common(3)
    return f"; no tensor fits: the file's names begin with {', '.join(n for n, _ in first)}; is it '{source}'?"
