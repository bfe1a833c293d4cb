"""The mesh: rules cover every axis, sizes are checked, and each process knows its part."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxneuro.errors import InputError
from jaxneuro.models.layers import LOGICAL_AXES
from jaxneuro.training import sharding


def test_every_logical_axis_has_a_rule():
    assert set(sharding.RULES) == set(LOGICAL_AXES)
    assert {axis for axes in sharding.RULES.values() for axis in axes} <= set(sharding.AXES)


def test_one_device_is_a_mesh_of_one():
    mesh = sharding.make_mesh({"data": -1})
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "model": 1}
    sharding.check_batch_size(mesh, 3)


@pytest.mark.parametrize("shape", [{"data": 2}, {"data": -1, "fsdp": -1}, {"data": 0}, {"data": -2}, {"row": 1}])
def test_impossible_meshes_are_refused(shape):
    with pytest.raises(InputError, match="mesh: found"):
        sharding.make_mesh(shape)


def test_a_batch_goes_to_the_device_and_back():
    mesh = sharding.make_mesh({})
    batch = {"volume": np.random.default_rng(0).normal(size=(4, 2, 2, 2, 1)).astype(np.float16)}
    placed = sharding.put(mesh, batch)
    assert isinstance(placed["volume"], jax.Array)
    np.testing.assert_array_equal(sharding.fetch(placed["volume"]), batch["volume"])


class Device:
    """Stands for a device of some process."""

    def __init__(self, process_index):
        self.process_index = process_index


@pytest.mark.parametrize(
    ("processes", "shape", "parts"),
    [
        ([0, 0, 1, 1], (4, 1, 1), [(0, 2), (1, 2)]),
        ([0, 0, 1, 1], (2, 1, 2), [(0, 2), (1, 2)]),
        # Two processes that split one layer between them read the same batch.
        ([0, 1], (1, 1, 2), [(0, 1), (0, 1)]),
        ([0, 0, 1, 1, 2, 2, 3, 3], (2, 1, 4), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([0, 1, 2, 3], (2, 2, 1), [(0, 4), (1, 4), (2, 4), (3, 4)]),
    ],
)
def test_the_part_of_a_batch_follows_from_the_mesh(processes, shape, parts):
    devices = np.array([Device(p) for p in processes]).reshape(shape)
    mesh = SimpleNamespace(devices=devices, shape=dict(zip(sharding.AXES, shape, strict=True)))
    assert [sharding.process_part(mesh, p) for p in sorted(set(processes))] == parts


def test_parts_that_are_no_neighbours_are_refused():
    devices = np.array([Device(p) for p in [0, 1, 0, 1]]).reshape(4, 1, 1)
    mesh = SimpleNamespace(devices=devices, shape={"data": 4, "fsdp": 1, "model": 1})
    with pytest.raises(InputError, match="expected neighbouring ones"):
        sharding.process_part(mesh, 0)
