"""Our own weights into another of our networks: the encoder of a pre-trained one, strictly and leaf by leaf."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import numpy as np

from jaxneuro.interop import adapt as adapting
from jaxneuro.interop import transforms, weights
from jaxneuro.interop.adapt import Adaptation
from jaxneuro.interop.layouts import Layout
from jaxneuro.interop.transforms import Transform
from jaxneuro.interop.weights import HEAD, Row

_INSIDE = re.compile(r"^(params|batch_stats)/encoder/")
#: What only masked modelling has.
_DECODER = r"^params/(decoder/|mask_token$)"
#: The norm that encoders of contrastive pre-training lack (Dufumier et al. 2021).
_LAST_NORM = r"^(params|batch_stats)/norm5/"


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
    there = _aligned(leaves, target)
    if any(re.search(_LAST_NORM, k) for k in target) and not any(re.search(_LAST_NORM, k) for k in leaves):
        fresh.append(_LAST_NORM)
    decoders = [any(re.search(_DECODER, k) for k in paths) for paths in (target, leaves)]
    if decoders == [False, True]:
        ignore.append(_DECODER)
    elif decoders == [True, False]:
        fresh.append(_DECODER)
    tensors = {k: v.transpose(4, 3, 0, 1, 2) if _first_kernel(k) else v for k, v in leaves.items()}
    sizes = {k: adapting.size_of(source, k) for kinds in adapting.TABLES.values() for k in kinds}
    variables, rows = weights.convert(
        model,
        tensors,
        _Own({}, head=HEAD + ".*", there=there),
        adaptation=adaptation,
        sizes={k: v for k, v in sizes.items() if v},
        new_head=new_head,
        fresh=fresh,
        ignore=ignore,
        seed=seed,
    )
    # As the weights have them, not as they were handed on.
    shapes = {"": (), **{k: v.shape for k, v in leaves.items()}}
    return variables, [replace(row, their_shape=shapes[row.theirs]) for row in rows]


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


def _first_kernel(path: str) -> bool:
    """Say whether a leaf is a kernel over the volume's channels, which adapting knows in torch's order of axes."""
    return path.endswith(("patch_embed/proj/kernel", "params/conv0/kernel"))
