"""Weights made for other channels, windows, volumes or patches: adapted on request, and never without a word."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxneuro.errors import InputError
from jaxneuro.interop.transforms import Shape, Transform

CHANNELS = ("sum", "mean")
#: Tables, by the end of their paths, and what of a backbone says what they are tables over.
TABLES = {"relative_bias/table": ("window",), "block_embeddings": ("blocks", "grid"), "positions": ("grid",)}
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Adaptation:
    """What may be adapted.

    Attributes:
      channels: of a patch kernel made for several channels, for volumes of one: "sum" is the same function as one
        volume in all channels, "mean" that divided by their number; None refuses.
      resample: whether tables of relative biases and positions may be resampled to another window or grid.
      inflate: whether a patch kernel may be stretched along time, to a whole multiple.
      source_size: what the tables were made for: the window (by default that of Kinetics), or the grid of patches (of
        blocks, in a model that has them; by default a cube).
    """

    channels: str | None = None
    resample: bool = False
    inflate: bool = False
    source_size: Size | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, *CHANNELS):
            raise InputError(f"channels: found '{self.channels}'; expected {' or '.join(CHANNELS)}")


def table_over(path: str) -> tuple[str, ...]:
    """Return what of a backbone the leaf `path` is a table over; nothing where it is no table."""
    return next((kinds for end, kinds in TABLES.items() if path.endswith(end)), ())


def size_of(model: Any, kind: str) -> Size | None:
    """Return a network's "window", "grid" or "blocks"; None where it has none."""
    found = getattr(getattr(model, "encoder", model), kind, None)
    found = found() if callable(found) else found
    return found if found is None else tuple(found)


def adapt(
    model: Any,
    path: str,
    value: np.ndarray,
    shape: Shape,
    transform: Transform,
    may: Adaptation,
    sizes: Mapping[str, Size],
) -> tuple[np.ndarray, str]:
    """Return a tensor of another shape, or a table of another size, as our leaf `path` of `shape`, and how.

    `sizes` are those that tables were made for, by what they are over, as far as they are known.

    Raises:
      InputError: it cannot be, or only on request; says which flag requests it.
    """
    expected = transform.their_shape(shape)
    wrong = f"found shape {list(value.shape)}; expected {list(expected)}"
    if value.shape == expected:
        wrong = f"found a table over {' and '.join(str(sizes[k]) for k in table_over(path) if k in sizes)}"
    if path.endswith(("patch_embed/proj/kernel", "params/conv0/kernel")):
        return _kernel(value, shape, may, wrong)
    backbone = getattr(model, "encoder", model)
    if path.endswith("relative_bias/table"):
        return _relative(value, shape, backbone.window, sizes.get("window"), may, wrong)
    if path.endswith("positions") and value.ndim == 3 and value.shape[-1] == shape[-1]:
        ours = transform.to_ours(value, value.shape)
        return _positions(ours, shape[1], backbone.grid(), sizes.get("grid"), may, wrong)
    if path.endswith("block_embeddings") and value.ndim == 3 and value.shape[-1] == shape[-1]:
        # [blocks, tokens of a block, width]: within each block, then over the blocks.
        table, inside = _positions(value, shape[1], backbone.grid(), sizes.get("grid"), may, wrong)
        over = sizes.get("blocks")
        table, among = _positions(table.transpose(1, 0, 2), shape[0], backbone.blocks(), over, may, wrong)
        return table.transpose(1, 0, 2), ", ".join(how for how in (inside, among) if how)
    raise InputError(wrong + ("; for a new head: --head fresh" if "/head/" in path else ""))


def resize(table: np.ndarray, sizes: tuple[int, ...], *, corners: bool) -> np.ndarray:
    """Resample the first axes of a table [*old, ...] linearly to `sizes` [*new, ...], in float64; returns its dtype.

    With `corners` the first and last entries stay where they are; without, entries are the centres of equal cells, as
    in torch's interpolate with align_corners=False, and what lies beyond the outer centres takes their value.
    """
    found = table.astype(np.float64)
    for axis, new in enumerate(sizes):
        old = found.shape[axis]
        if corners:
            at = np.linspace(0, old - 1, new) if new > 1 else np.array([(old - 1) / 2])
        else:
            at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.minimum(at.astype(int), max(old - 2, 0))
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(found.ndim)])
        high = np.minimum(low + 1, old - 1)
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return found.astype(table.dtype)


def _kernel(value: np.ndarray, shape: Shape, may: Adaptation, wrong: str) -> tuple[np.ndarray, str]:
    """Adapt a first kernel, Conv3d [out, in, d, h, w] or Linear [out, d * h * w * in], to [d, h, w, in, out]."""
    *patch, channels, width = shape
    hows = []
    # A flat kernel does not show its patch: only three channels, the number in pictures, are told from a larger one.
    if value.ndim == 2 and value.shape == (width, 3 * math.prod(patch)):
        kernel = value.T.reshape(*patch, -1, width)
    elif value.ndim == 5 and value.shape[0] == width and list(value.shape[3:]) == patch[1:]:
        kernel = value.transpose(2, 3, 4, 1, 0)
    else:
        raise InputError(wrong)
    if kernel.shape[3] != channels:
        if channels != 1:
            raise InputError(f"{wrong}; weights can be adapted to one channel only")
        if may.channels is None:
            raise InputError(f"{wrong}; to make one channel of {kernel.shape[3]}: --channels sum")
        hows.append(f"{may.channels} over {kernel.shape[3]} channels")
        # In float64, so that the sum is rounded once.
        summed = kernel.sum(3, keepdims=True, dtype=np.float64)
        kernel = (summed / (kernel.shape[3] if may.channels == "mean" else 1)).astype(value.dtype)
    if kernel.shape[0] != patch[0]:
        times, rest = divmod(patch[0], kernel.shape[0])
        if rest:
            raise InputError(f"{wrong}; time can be stretched to a whole multiple of {kernel.shape[0]} only")
        if not may.inflate:
            raise InputError(f"{wrong}; to stretch the kernel along time {times} times: --inflate-time")
        hows.append(f"stretched {times} times along time, divided by {times}")
        # A picture that stands still gives the same token.
        kernel = np.repeat(kernel, times, axis=0) / np.asarray(times, value.dtype)
    return np.ascontiguousarray(kernel), ", ".join(hows)


def _relative(
    value: np.ndarray, shape: Shape, window: Size, source: Size | None, may: Adaptation, wrong: str
) -> tuple[np.ndarray, str]:
    """Resample a table of relative biases [rows, heads] from the window of its source, extreme offset to extreme."""
    source = source or (8, 7, 7)
    old, new = (tuple(2 * w - 1 for w in size) for size in (source, window))
    if value.ndim != 2 or value.shape[1] != shape[1]:
        raise InputError(wrong)
    if not may.resample:
        raise InputError(f"{wrong}; to resample the table to the window {tuple(window)}: --resample")
    if len(value) != math.prod(old):
        raise InputError(f"{wrong}; {len(value)} rows are not those of the window {source}; say its own: --source-size")
    table = resize(value.reshape(*old, -1), new, corners=True)
    return table.reshape(shape), f"resampled from the window {source} to {tuple(window)}"


def _positions(
    value: np.ndarray, tokens: int, grid: Size, source: Size | None, may: Adaptation, wrong: str
) -> tuple[np.ndarray, str]:
    """Resample positions [n, rows, width] over the grid of patches to [n, tokens, width].

    Rows before those of the grid stay. A table over the same grid is returned as it is, and then nothing is told.
    """
    leading = tokens - math.prod(grid)
    rows = value.shape[1] - leading
    if rows == math.prod(grid) and source in (None, tuple(grid)):
        return value, ""
    source = source or (round(max(rows, 0) ** (1 / 3)),) * 3
    if not may.resample:
        raise InputError(f"{wrong}; to resample the positions to the grid {tuple(grid)}: --resample")
    if math.prod(source) != rows:
        raise InputError(f"{wrong}; {rows} positions are not those of the grid {source}; say its own: --source-size")
    table = np.moveaxis(value[:, leading:].reshape(len(value), *source, -1), 0, 3)  # [d, h, w, n, width]
    table = np.moveaxis(resize(table, tuple(grid), corners=False), 3, 0).reshape(len(value), math.prod(grid), -1)
    how = f"resampled from the grid {source} to {tuple(grid)}"
    return np.concatenate([value[:, :leading], table], axis=1), how
