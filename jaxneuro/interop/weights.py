"""Weights between torch's names and ours: strict both ways, every tensor and every leaf accounted for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
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

#: Leaves of heads: those of NiT's unused distillation, too.
HEAD = r"^params/(head/|distill/|distill_token$)"
#: How many names an error lists before it counts the rest.
_SHOWN = 4
#: So many misfits are no slip of single names.
_MANY = 20


class MisfitError(InputError):
    """Say that weights do not fit a model; `faults` has every single one, the message the first of them."""

    def __init__(self, message: str, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(message)


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
    sizes: Mapping[str, adapting.Size] | None = None,
    new_head: bool = False,
    fresh: Iterable[str] = (),
    ignore: Iterable[str] = (),
    seed: int = 0,
) -> tuple[dict[str, Any], list[Row]]:
    """Return variables as `from_torch` does, adapted on request, and what became of every tensor and leaf.

    A table made for another window or grid is never copied, though it may have as many rows, where its size is known:
    from `sizes`, from `adaptation.source_size`, or from an index that the file keeps beside it.

    Args:
      model: a backbone.
      tensors: names to arrays.
      source: a layout, or its name.
      adaptation: what may be adapted and how; by default nothing.
      sizes: what the tables were made for, by "window", "grid" and "blocks", as far as it is known.
      new_head: whether the head begins afresh.
      fresh: regular expressions, found in our paths, of leaves that begin afresh (a new head); the tensors that would
        have filled them are ignored.
      ignore: regular expressions, found in torch's names, of tensors to leave out.
      seed: of the leaves that begin afresh.

    Raises:
      MisfitError: whatever does not fit, all in one message.
      InputError: a pattern that finds nothing, or a model that computes otherwise than the layout's networks.
    """
    names, adaptation = source if isinstance(source, Layout) else layout(model, source), adaptation or Adaptation()
    source = source if isinstance(source, str) else "jaxneuro"
    fresh, ignore, target = list(fresh), list(ignore), abstract(model)
    _check_patterns("fresh", fresh, target)
    _check_patterns("ignore", ignore, tensors)
    fresh += [HEAD] if new_head else []
    new_head = _any(fresh, "params/head/out/kernel")
    check_settings(model, names, source, leave={"out", *(["head"] if new_head else [])})
    rows: list[Row] = []
    leaves: dict[str, np.ndarray] = {}
    begins: list[str] = []
    missing: list[str] = []
    faults: list[str] = []
    left = dict(tensors)
    index = next((k for k in names.computed if k in left), "")
    known = _sizes([k for k in target if not _any(fresh, k)], sizes or {}, adaptation.source_size, faults)
    if index:
        _recognise(model, index, names.windows(left[index]), known, faults)
    taken: set[str] = set()
    dropped: set[str] = set()
    for path, leaf in target.items():
        place = names.name(path)
        theirs, transform = place if place else ("", None)
        if _any(fresh, path):
            begins.append(path)
            if theirs in left:
                shape = left.pop(theirs).shape
                dropped.add(theirs)
                rows.append(Row(theirs, shape, "", (), "ignored", f"{path} begins afresh"))
        elif transform is None or theirs not in left:
            missing.append(f"{theirs} ({path})" if theirs else path)
        else:
            value = left.pop(theirs)
            taken.add(theirs)
            how = ""
            other = any(known.get(k) not in (None, adapting.size_of(model, k)) for k in adapting.table_over(path))
            if value.dtype.kind != "f":
                faults.append(f"{theirs}: found {value.dtype} numbers; expected float32")
                continue
            if value.shape == transform.their_shape(leaf.shape) and not other:
                leaves[path] = transform.to_ours(value, leaf.shape)
            else:
                try:
                    leaves[path], how = adapting.adapt(model, path, value, leaf.shape, transform, adaptation, known)
                except InputError as e:
                    faults.append(f"{theirs}: {e}")
                    continue
            rows.append(Row(theirs, value.shape, path, leaf.shape, "adapted" if how else "copied", how))
    computed = {k: left.pop(k) for k in names.computed if k in left}
    for name, value in computed.items():
        if not np.array_equal(value, computed[index]):
            faults.append(f"{name}: is another index than {index}; expected that of one window throughout")
        same = np.array_equal(value, names.computed[name])
        how = "equals what the model computes" if same else f"of the window {known.get('window')}; the model's differs"
        rows.append(Row(name, value.shape, "", (), "computed", how))
    unused, extra = _sort_out(left, names, taken, dropped, ignore, new_head, rows)
    if missing or extra or faults:
        kind = type(model).__name__
        hints = [hint for pattern, hint in names.hints.items() if any(re.fullmatch(pattern, k) for k in extra)]
        raise MisfitError(
            f"layout '{source}', {kind}: "
            + "; ".join([*_told(missing, extra, faults, bool(leaves)), *hints])
            + _guess(tensors, source, len(leaves)),
            [*(f"{k} {v}: has no place" for k, v in extra.items()), *(f"{k}: is not there" for k in missing), *faults],
        )
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
    check_settings(model, names, target, leave=set())
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


def check_settings(model: Any, names: Layout, source: str, *, leave: set[str]) -> None:
    """Refuse a model that differs from the layout's networks in what no weight shows; see `layouts.Setting`.

    Args:
      model: the network.
      names: the layout.
      source: its name.
      leave: which settings do not count here, by when they do.

    Raises:
      InputError: names the keyword to set.
    """
    backbone = getattr(model, "encoder", model)
    if not getattr(model, "num_outputs", 0):
        leave = leave | {"head"}
    for keyword, (value, when, hint) in names.settings.items():
        if when not in leave and (found := getattr(backbone, keyword)) != value:
            raise InputError(
                f"layout '{source}': found {keyword} {found!r} in the model; expected {value!r}, with which all its "
                f"networks compute and which no weight shows: {hint or f'--set {keyword}={value}'}"
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


def _sizes(
    paths: Iterable[str], sizes: Mapping[str, adapting.Size], asked: adapting.Size | None, faults: list[str]
) -> dict[str, adapting.Size]:
    """Return what the tables at `paths` were made for, as far as it is known; a size that none takes is a fault."""
    known = dict(sizes)
    if asked is None:
        return known
    kinds = {kind for path in paths for kind in adapting.table_over(path)}
    kind = next((k for k in ("window", "blocks", "grid") if k in kinds), None)
    if kind is None:
        faults.append(f"--source-size: found {asked}; expected none, for no table is filled; leave it out")
    else:
        known.setdefault(kind, asked)
    return known


def _recognise(
    model: nn.Module,
    name: str,
    windows: list[adapting.Size],
    known: dict[str, adapting.Size],
    faults: list[str],
) -> None:
    """Put the window that a file's index `name` is of into `known`: the one asked for, or the model's, among them."""
    asked = known.get("window")
    if not windows:
        faults.append(f"{name}: is the index of no window; expected that of relative positions in one")
    elif asked is not None and asked not in windows:
        faults.append(f"--source-size: found {asked}; expected {windows[0]}, the window of which {name} is the index")
    else:
        known["window"] = next((w for w in (asked, adapting.size_of(model, "window")) if w in windows), windows[0])


def _check_patterns(name: str, patterns: Iterable[str], paths: Iterable[str]) -> None:
    """Refuse a pattern that is no regular expression, or finds nothing: a misspelt one would pass unseen."""
    paths = list(paths)
    for pattern in patterns:
        try:
            found = any(re.search(pattern, k) for k in paths)
        except re.error as e:
            raise InputError(f"{name}: found '{pattern}'; expected a regular expression ({e})") from e
        if not found:
            raise InputError(
                f"{name}: found '{pattern}', which is in no path; expected one that is in some of {len(paths)}, such "
                f"as {', '.join(paths[:: max(-(-len(paths) // 4), 1)])}"
            )


def _sort_out(
    left: dict[str, np.ndarray],
    names: Layout,
    taken: set[str],
    dropped: set[str],
    ignore: Iterable[str],
    new_head: bool,
    rows: list[Row],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Say of every tensor that no leaf takes what it is; returns those kept beside, and those that have no place."""
    unused: dict[str, np.ndarray] = {}
    extra = {}
    for name, value in left.items():
        beside = {name.removesuffix(end) + by for end, (by, _) in names.unused.items() if name.endswith(end)}
        if beside & taken:
            unused[name] = value
            rows.append(Row(name, value.shape, "", (), "beside", "no computation uses it; kept to go back"))
        elif beside & dropped:
            rows.append(Row(name, value.shape, "", (), "ignored", "what it stands beside begins afresh"))
        elif _any(ignore, name):
            rows.append(Row(name, value.shape, "", (), "ignored", "as asked"))
        elif re.fullmatch(names.head, name) and new_head:
            rows.append(Row(name, value.shape, "", (), "ignored", "the head begins afresh"))
        else:
            extra[name] = str(list(value.shape))
    return unused, extra


def _told(missing: list[str], extra: dict[str, str], faults: list[str], filled: bool) -> list[str]:
    """Return what is wrong, shortened."""
    told = []
    if extra:
        shown = _list([f"{k} {v}" for k, v in extra.items()])
        told.append(f"{len(extra)} tensors have no place in the model: {shown}; to leave them out: --ignore")
    if missing:
        hint = "; to begin them afresh: --fresh" if filled else ""
        # A kernel says more to a reader than a running mean.
        first = sorted(missing, key=lambda name: "running_" in name)
        told.append(f"{len(missing)} tensors that the model needs are not there: {_list(first)}{hint}")
    told += sorted(faults, key=lambda fault: "running_" in fault)[:_SHOWN]
    if len(faults) > _SHOWN:
        told.append(f"and {len(faults) - _SHOWN} more")
    if filled and (why := _why(missing, extra, faults)):
        told.append(why)
    return told


def _why(missing: list[str], extra: dict[str, str], faults: list[str]) -> str:
    """Guess what makes most of a file's tensors misfit: names a prefix short or long, or a network of another size."""
    wanted = [name.split(" (")[0] for name in missing]
    # Names are compared from their ends: the longest name of the file that a wanted one ends with, or the reverse.
    needed = set(wanted)
    short = Counter(w[: -len(e)] for w in wanted if (e := _ending(w, extra.keys())))
    long = Counter(e[: -len(w)] for e in extra if (w := _ending(e, needed)))
    for lacks, count in (("lack", short), ("begin with", long)):
        if count and (common := count.most_common(1)[0])[1] > len(wanted) / 2:
            return f"the file's names {lacks} '{common[0]}'; rename them and convert again"
    if len(missing) + len(extra) + len(faults) > _MANY:
        return "is it a network of another size or depth?"
    return ""


def _ending(name: str, among: Set[str]) -> str:
    """Return the longest of `among` that comes after a dot in `name`; "" for none."""
    parts = name.split(".")
    return next((end for i in range(1, len(parts)) if (end := ".".join(parts[i:])) in among), "")


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
