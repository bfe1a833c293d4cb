"""Patches: the order of their voxels, worked out by hand, and that cutting and joining undo each other."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro.patches import patchify, unpatchify


def test_patches_are_cut_and_joined_in_order():
    x = np.arange(2 * 4 * 6 * 4 * 2, dtype=np.float32).reshape(2, 4, 6, 4, 2)
    patches = patchify(x, (2, 3, 2))
    assert patches.shape == (2, 8, 24)
    # The patch (1, 0, 1) is number 5; its voxel (1, 2, 0), channel 1, stands at ((1 * 3 + 2) * 2 + 0) * 2 + 1.
    assert patches[1, 5, 21] == x[1, 2 + 1, 2, 2 + 0, 1]
    np.testing.assert_array_equal(unpatchify(patches, (2, 3, 2), (2, 2, 2)), x)


@pytest.mark.parametrize(("patch", "grid"), [((1, 2, 4), (4, 3, 1)), ((4, 6, 4), (1, 1, 1)), ((1, 1, 1), (4, 6, 4))])
def test_every_patch_is_a_box_of_the_volume(patch, grid):
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 4, 3)).astype(np.float32)
    patches = np.asarray(patchify(jnp.asarray(x), patch))
    for number, place in enumerate(np.ndindex(*grid)):
        box = tuple(slice(i * p, (i + 1) * p) for i, p in zip(place, patch, strict=True))
        np.testing.assert_array_equal(patches[0, number].reshape(*patch, 3), x[(0, *box)])
    np.testing.assert_array_equal(unpatchify(patches, patch, grid), x)
