"""Cut volumes into patches and join them again: the one layout that networks and objectives share."""

from __future__ import annotations

import jax

Triple = tuple[int, int, int]


def patchify(x: jax.Array, patch: Triple) -> jax.Array:
    """Cut volumes [b, d, h, w, c] into patches [b, n, pd * ph * pw * c], row by row, channel last in each."""
    b, *size, c = x.shape
    split = [n for length, p in zip(size, patch, strict=True) for n in (length // p, p)]
    x = x.reshape(b, *split, c).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return x.reshape(b, split[0] * split[2] * split[4], -1)


def unpatchify(x: jax.Array, patch: Triple, grid: Triple) -> jax.Array:
    """Join patches [b, n, pd * ph * pw * c] into volumes [b, d, h, w, c]; undoes `patchify`."""
    b = x.shape[0]
    x = x.reshape(b, *grid, *patch, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, *(n * p for n, p in zip(grid, patch, strict=True)), x.shape[-1])
