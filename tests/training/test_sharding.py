"""The mesh: rules cover every axis, sizes are checked, and eight simulated devices train as one does."""

import json
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxneuro.errors import InputError
from jaxneuro.models.layers import LOGICAL_AXES
from jaxneuro.training import sharding
from tests.conftest import box_scans, write_dataset


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


SCRIPT = """
    import json, sys
    import jax
    import numpy as np
    from jaxneuro import configuration
    from jaxneuro.training import loop
    from tests.conftest import CONFIGS

    data, work, mesh = sys.argv[1:]
    # No clipping and plain SGD: a difference of rounding stays one.
    settings = ["data.path=" + data, "data.batch_size=8", "optimizer.name=sgd", "optimizer.learning_rate=0.01",
                "optimizer.warmup_epochs=0.0", "training.epochs=1", "augment={}",
                *(f"mesh.{k}={v}" for k, v in json.loads(mesh).items())]
    loop.train(configuration.read(str(CONFIGS / "smoke.py"), ["--config." + s for s in settings]), work)
    lines = [json.loads(line) for line in open(work + "/metrics.jsonl")]
    train = [x for x in lines if "train/loss" in x]
    print(json.dumps([jax.device_count(), [[x["train/loss"], x["train/gradient_norm"]] for x in train]]))
"""


def losses(boxes, work, devices, mesh):
    import os

    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(boxes), str(work), json.dumps(mesh)],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    count, values = json.loads(done.stdout.splitlines()[-1])
    assert count == devices
    return values


@pytest.mark.slow
def test_eight_devices_train_as_one(tmp_path):
    # At 32^3 the last maps are 2^3; at 16^3 they are single voxels, whose batch statistics amplify any rounding.
    boxes = write_dataset(tmp_path / "d", box_scans(), shape=(32, 32, 32))
    one = losses(boxes, tmp_path / "one", 1, {"data": 1})
    for name, mesh in {"8x1x1": {"data": 8}, "2x2x2": {"data": 2, "fsdp": 2, "model": 2}}.items():
        many = losses(boxes, tmp_path / name, 8, mesh)
        # Losses, and norms of the gradients: those are what went wrong when a kernel was split along both channels.
        np.testing.assert_allclose(many, one, rtol=1e-4, err_msg=name)
