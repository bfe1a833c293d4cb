"""How the values of one leaf change between torch's layout and ours. Both ways, and never the value of a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """`to_ours(theirs, our shape)` and `to_theirs(ours)`; either undoes the other, bit for bit."""

    to_ours: Callable[[np.ndarray, Shape], np.ndarray]
    to_theirs: Callable[[np.ndarray], np.ndarray]

    def their_shape(self, shape: Shape) -> Shape:
        """Return the shape that torch gives a leaf of ours of this shape."""
        return self.to_theirs(np.broadcast_to(np.int8(0), shape)).shape


#: The same axes.
SAME = Transform(lambda a, shape: a.reshape(shape), lambda a: a)
#: A bias of several axes, such as [3, heads, head_width], is flat in torch.
FLAT = Transform(lambda a, shape: a.reshape(shape), lambda a: a.reshape(-1))
#: Conv3d [out, in, d, h, w] and our kernel [d, h, w, in, out].
CONV = Transform(lambda a, _: a.transpose(2, 3, 4, 1, 0), lambda a: a.transpose(4, 3, 0, 1, 2))
#: A position table that has no row for the class token: ours begins with one, of zeros.
PATCH_POSITIONS = Transform(
    lambda a, _: np.concatenate([np.zeros_like(a[:, :1]), a], axis=1), lambda a: np.ascontiguousarray(a[:, 1:])
)


def dense(inputs: int = 1) -> Transform:
    """Return the transform of a Linear (out, in) whose kernel has here `inputs` input axes: [*in, *out]."""
    return Transform(lambda a, shape: a.T.reshape(shape), lambda a: a.reshape(math.prod(a.shape[:inputs]), -1).T)
