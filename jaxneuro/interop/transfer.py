"""Our own weights into another of our networks: the encoder of a pre-trained one, strictly and leaf by leaf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.interop import adapt as adapting
from jaxneuro.interop import transforms, weights
from jaxneuro.interop.adapt import Adaptation
from jaxneuro.interop.layouts import Layout
from jaxneuro.interop.transforms import Transform
from jaxneuro.interop.weights import Row

_INSIDE = re.compile(r"^(params|batch_stats)/encoder/")
#: Leaves of heads: those of NiT's unused distillation, too.
HEAD = r"^params/(head/|distill/|distill_token$)"
#: What only masked modelling has.
_DECODER = r"^params/(decoder/|mask_token$)"
#: The norm that encoders of contrastive pre-training lack (Dufumier et al. 2021).
_LAST_NORM = r"^(params|batch_stats)/norm5/"
#: Tables, by the end of their paths, and what of a backbone says what they are tables over.
_TABLES = {"relative_bias/table": "window", "positions": "grid", "block_embeddings": "blocks"}


@dataclass(frozen=True)
class _Own(Layout):
    """Our own names, as a layout.

    Attributes:
      there: path in the network to fill -> path in the weights.
    """

    there: Mapping[str, str] = field(default_factory=dict)

    def name(self, path: str) -> tuple[str, Transform] | None:
        theirs = self.there.get(path)
        return None if theirs is None else (theirs, transforms.CONV if _first_kernel(path) else transforms.SAME)


def transfer(
    model: nn.Module,
    leaves: Mapping[str, np.ndarray],
    *,
    source: nn.Module | None = None,
    new_head: bool = True,
    fresh: Iterable[str] = (),
    ignore: Iterable[str] = (),
    adaptation: Adaptation | None = None,
    seed: int = 0,
) -> tuple[dict[str, Any], list[Row]]:
    """Return the variables of `model` from the leaves of another of our networks, and what became of each.

    An encoder's leaves fit the backbone alone and the other way round. Decoders are left out, by name. Batch statistics
    come along always: one that is missing is an error, as a parameter is.

    Args:
      model: the network to fill.
      leaves: slash paths, as `weights.flat` gives them, to arrays.
      source: the network that the leaves are of; then tables are resampled from its window or grid, and one over
        another grid of as many patches is told from one over the same. Without it see `Adaptation.source_size`.
      new_head: whether the head begins afresh.
      fresh: regular expressions, found in paths of `model`, of leaves that begin afresh.
      ignore: regular expressions, found in paths of `leaves`, to leave out.
      adaptation: what may be adapted: positions to another grid, one channel of three.
      seed: of what begins afresh.

    Raises:
      InputError: leaves missing, left over, or of another shape, all in one message; or a pattern that finds nothing.
    """
    target = weights.abstract(model)
    fresh, ignore = list(fresh), list(ignore)
    _check_patterns("fresh", fresh, target)
    _check_patterns("ignore", ignore, leaves)
    there = _aligned(leaves, target)
    if new_head:
        fresh.append(HEAD)
    if any(re.search(_LAST_NORM, k) for k in target) and not any(re.search(_LAST_NORM, k) for k in leaves):
        fresh.append(_LAST_NORM)
    if not any(re.search(_DECODER, k) for k in target):
        ignore.append(_DECODER)
    elif not any(re.search(_DECODER, k) for k in leaves):
        fresh.append(_DECODER)
    tensors = {k: v.transpose(4, 3, 0, 1, 2) if _first_kernel(k) else v for k, v in leaves.items()}
    wanted = {k: v for k, v in target.items() if not any(re.search(p, k) for p in fresh)}
    hows, faults = _resample(model, source, tensors, there, wanted, adaptation or Adaptation())
    own = _Own({}, head=HEAD + ".*", there=there)
    try:
        variables, rows = weights.convert(
            model, tensors, own, adaptation=adaptation, fresh=fresh, ignore=ignore, seed=seed
        )
    except InputError as e:
        raise InputError("; ".join([str(e), *faults])) from e
    if faults:
        raise InputError("; ".join(faults))
    # As the weights have them, not as they were handed on.
    shapes = {"": (), **{k: v.shape for k, v in leaves.items()}}
    rows = [replace(row, their_shape=shapes[row.theirs]) for row in rows]
    return variables, [replace(r, what="adapted", how=hows[r.ours]) if r.ours in hows else r for r in rows]


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
                f"as {', '.join(paths[:: -(-len(paths) // 4)])}"
            )


def _aligned(leaves: Iterable[str], target: Iterable[str]) -> dict[str, str]:
    """Return for each path in the network its path in the weights: `encoder/` stands before all, or before none."""
    inside, wanted = _is_encoder(leaves), _is_encoder(target)
    if inside == wanted:
        return {k: k for k in leaves}
    if inside:
        return {_INSIDE.sub(r"\1/", k): k for k in leaves}
    # A head stays where it is: no encoder has one.
    return {k if re.search(HEAD, k) else re.sub(r"^(\w+)/", r"\1/encoder/", k): k for k in leaves}


def _is_encoder(paths: Iterable[str]) -> bool:
    """Tell whether everything but a decoder is below `encoder/`; of NiT alone only the blocks are."""
    return all(_INSIDE.match(k) or re.search(_DECODER, k) for k in paths)


def _resample(
    model: nn.Module,
    source: nn.Module | None,
    tensors: dict[str, np.ndarray],
    there: Mapping[str, str],
    target: Mapping[str, Any],
    may: Adaptation,
) -> tuple[dict[str, str], list[str]]:
    """Put tables for the network's windows and grids into `tensors`; returns how each was made, and what is wrong."""
    hows, faults = {}, []
    for path, leaf in target.items():
        kind = next((size for end, size in _TABLES.items() if path.endswith(end)), None)
        if kind is None or path not in there:
            continue
        name = there[path]
        new, old = _size(model, kind), _size(source, kind)
        if tensors[name].shape == leaf.shape and old in (None, new):
            continue
        try:
            tensors[name], hows[path] = adapting.adapt(
                _backbone(model),
                path,
                tensors[name],
                leaf.shape,
                transforms.SAME,
                replace(may, source_size=old or may.source_size),
            )
        except InputError as e:
            faults.append(f"{name}: {e}")
            tensors[name] = np.zeros(leaf.shape, leaf.dtype)  # told already; nothing comes of it
    return hows, faults


def _size(model: nn.Module | None, kind: str) -> tuple[int, int, int] | None:
    found = getattr(_backbone(model), kind, None)
    found = found() if callable(found) else found
    return found if found is None else tuple(found)


def _backbone(model: Any) -> Any:
    return getattr(model, "encoder", model)


def _first_kernel(path: str) -> bool:
    """Say whether a leaf is a kernel over the volume's channels, which adapting knows in torch's order of axes."""
    return path.endswith(("patch_embed/proj/kernel", "params/conv0/kernel"))
