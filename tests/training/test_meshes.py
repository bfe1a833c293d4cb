"""Eight simulated devices learn as one does, on any mesh, and tell each other no more than they must."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxneuro import models
from jaxneuro.models import layers
from jaxneuro.training import collectives, optim, sharding, state
from tests.conftest import box_scans, write_dataset

#: What is trained, by name: a config and what is set in it.
CASES = {
    "vit": ["model.name=vit_b16_testing"],
    "swin": ["model.name=swin_t_testing"],
    "nit": ["model.name=nit_testing"],
    "minit": ["model.name=minit_testing"],
    "densenet121": ["model.name=densenet121_testing"],
    "tiny_densenet": ["model.name=tiny_densenet_testing"],
    "contrastive densenet": ["model.name=tiny_densenet_testing", "objective.name=contrastive"],
    "contrastive vit": ["model.name=vit_b16_testing", "objective.name=contrastive"],
    "mae vit": ["model.name=vit_b16_testing", "objective.name=masked", "objective.kind=mae", "objective.ratio=0.75"],
    "simmim vit": ["model.name=vit_b16_testing", "objective.name=masked", "objective.kind=simmim"],
    "simmim swin": ["model.name=swin_t_testing", "objective.name=masked", "objective.kind=simmim"],
    "simmim nit": ["model.name=nit_testing", "objective.name=masked", "objective.kind=simmim"],
    "simmim minit": ["model.name=minit_testing", "objective.name=masked", "objective.kind=simmim"],
}
FIRST = [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 2, "model": 2}, {"model": 8}]
MORE = [{"data": 4, "fsdp": 2}, {"data": 2, "model": 4}, {"fsdp": 4, "model": 2}, {"data": -1, "fsdp": 4}]


@pytest.fixture(scope="session")
def boxes(tmp_path_factory):
    # At 32^3 the last maps are 2^3; at 16^3 they are single voxels, whose batch statistics amplify any rounding.
    return write_dataset(tmp_path_factory.mktemp("meshes") / "d", box_scans(), shape=(32, 32, 32))


def steps(boxes, case, meshes):
    """Return what `meshes.py` prints of a case: {mesh: differences from one device, collectives}."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    arguments = [str(boxes), "smoke.py", json.dumps(meshes), *CASES[case], "data.batch_size=8"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.meshes", *arguments],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 8
    return list(zip(meshes, found["meshes"], strict=True))


def check(boxes, case, meshes):
    found = steps(boxes, case, meshes)
    for mesh, one in found:
        # Losses, every parameter's gradient (plain SGD adds it), statistics of the batch: sums in another order.
        for name in ("loss", "gradient", "statistics"):
            assert one[name] < 1e-4, (case, mesh, name, one[name])
    return found


#: That a backbone's or an objective's own parts are split right is seen in these; others are put together of them.
QUICK = ("swin", "nit", "minit", "densenet121", "tiny_densenet", "contrastive vit", "mae vit", "simmim swin")


@pytest.mark.parametrize("case", [pytest.param(c, marks=() if c in QUICK else pytest.mark.slow) for c in CASES])
def test_two_by_two_by_two_devices_learn_as_one(boxes, case):
    check(boxes, case, FIRST[2:3])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_learn_as_one_on_any_mesh(boxes, case):
    check(boxes, case, [*FIRST[:2], FIRST[3], *(MORE if case in ("vit", "swin", "tiny_densenet") else ())])


def told(one):
    """Return {(kind, axes): (count, bytes)}."""
    return {(kind, *axes): (count, size) for kind, axes, count, size in one["collectives"]}


def test_a_transformer_tells_its_weights_and_gradients_and_nothing_else(boxes):
    found = dict(zip(("data", "fsdp", "all", "model"), (one for _, one in check(boxes, "vit", FIRST)), strict=True))
    # By hand: parameters of the ViT of width 24, 4 heads, 2 blocks, feed-forward 96, patches of 8^3, 64 of them.
    # Patches, positions, class token, blocks, head; then what has one axis, and is whole everywhere.
    kernels = 512 * 24 + 64 * 24 + 24 + 2 * (24 * 72 + 24 * 24 + 2 * 24 * 96) + 24
    vectors = 24 + 2 * (4 * 24 + 72 + 24 + 96 + 24) + 2 * 24 + 1
    sums = told(found["data"])
    assert set(sums) == {("all-reduce", "data")}
    # Gradients, and a few numbers: loss and the square of the gradient's norm.
    assert 4 * (kernels + vectors) <= sums["all-reduce", "data"][1] <= 4 * (kernels + vectors) + 64
    sums = told(found["fsdp"])
    assert set(sums) == {("all-gather", "fsdp"), ("all-reduce", "fsdp")}
    # Each kernel comes once, whole; no image, no token.
    assert sums["all-gather", "fsdp"] == (12, 4 * kernels)
    assert sums["all-reduce", "fsdp"][1] <= 4 * (kernels + vectors) + 64
    # Two sums of the tokens a block, forward and back: after attention's and the feed-forward layer's second kernel.
    tokens = 4 * 2 * 65 * 24
    # Beside them, numbers for the gradient's norm.
    assert 8 * tokens <= told(found["all"])["all-reduce", "model"][1] <= 8 * tokens + 64
    # Four heads are not split over eight devices, so only the feed-forward layers are: 2 blocks, forward and back.
    # Beside them, numbers for the gradient's norm.
    count, size = told(found["model"])["all-reduce", "model"]
    assert count == 4
    assert 4 * 4 * tokens <= size <= 4 * 4 * tokens + 64


@pytest.mark.slow
def test_relative_biases_are_summed_as_tables_not_for_each_pair_of_tokens(boxes):
    ((_, one),) = check(boxes, "swin", [{"data": 8}])
    tree, _ = abstract("swin_t_testing", {"data": 8}, input_size=(32, 32, 32))
    learnt = sum(x.size for x in jax.tree.leaves(tree.params))
    ((what, (_, size)),) = told(one).items()
    assert what == ("all-reduce", "data")
    assert 4 * learnt <= size <= 4 * learnt + 64


def abstract(name, shape, **more):
    """Return shapes and shardings of a full network's state on eight devices that are not there."""
    mesh = jax.sharding.AbstractMesh(tuple(shape.get(a, 1) for a in sharding.AXES), sharding.AXES)
    model = models.build(name, **{"input_size": (80, 80, 80), "in_channels": 1, "num_outputs": 1, **more})
    optimizer, _ = optim.build(
        name="adamw", learning_rate=1e-3, weight_decay=0.05, schedule="constant", warmup_steps=0, total_steps=1
    )
    boxed = state.abstract(model, optimizer)
    return sharding.unbox(boxed), sharding.shardings(mesh, boxed)


@pytest.mark.parametrize(
    ("name", "devices", "share"),
    [
        *((name, 8, 1 / 6) for name in ("swin_t", "vit_b16_w768", "vit_b16_l12")),
        # Of width 300, with 12 heads of 25: 8 divides neither, 4 divides both.
        ("vit_b16", 8, 0.38),
        ("vit_b16", 4, 0.26),
    ],
)
def test_devices_hold_their_share_of_parameters_and_moments(name, devices, share):
    tree, where = abstract(name, {"fsdp": devices})
    leaves = list(zip(jax.tree.leaves(tree), jax.tree.leaves(where), strict=True))
    whole = sum(x.size * x.dtype.itemsize for x, _ in leaves)
    held = sum(int(np.prod(w.shard_shape(x.shape))) * x.dtype.itemsize for x, w in leaves)
    assert held <= whole * share, held / whole


_HELD = """
import json, sys
import jax
from jaxneuro import models
from jaxneuro.training import optim, sharding, state
model = models.build(sys.argv[1], input_size=(80, 80, 80), in_channels=1, num_outputs=1)
optimizer, _ = optim.build(
    name="adamw", learning_rate=1e-3, weight_decay=0.05, schedule="constant", warmup_steps=0, total_steps=1
)
mesh = sharding.make_mesh({"fsdp": 8})
where = sharding.shardings(mesh, state.abstract(model, optimizer))
leaves = jax.tree.leaves(state.create(model, optimizer, jax.random.key(0), where))
held = [sum(s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == d) for d in jax.devices()]
print(json.dumps({"whole": sum(x.nbytes for x in leaves), "held": held}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "vit_b16_w768"])
def test_the_arrays_on_each_of_eight_devices_are_at_most_a_sixth(name):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", _HELD, name], env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["held"]) == 8
    assert max(found["held"]) <= found["whole"] / 6


def test_collectives_are_read_from_a_program_with_loops_and_groups():
    text = """HloModule m

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %ag = f32[4,8]{1,0} all-gather(%x), channel_id=1, replica_groups=[4,2]<=[8], dimensions={1}
}

%cond (p: (s32[], f32[4,8])) -> pred[] {
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %ar = (f32[16]{0}, bf16[2,2]{1,0}) all-reduce(%b, %c), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%add
  %rs = f32[2]{0} reduce-scatter(%d), replica_groups=[2,4]<=[2,2,2]T(1,0,2), dimensions={0}
  %cp = s8[10]{0} collective-permute(%e), source_target_pairs={{0,2},{2,0},{1,3},{3,1}}
}
"""
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    found = collectives.of(text, mesh)
    assert [(c.kind, c.axes, c.size, c.times) for c in found] == [
        ("all-gather", ("model",), 4 * 8 * 4, 3),
        ("all-reduce", ("data",), 16 * 4 + 4 * 2, 1),
        ("reduce-scatter", ("data", "model"), 2 * 4 * 4, 1),
        ("collective-permute", ("fsdp",), 10, 1),
    ]
    assert collectives.summary(found)["all-gather", ("model",)] == (3, 3 * 128)
    with pytest.raises(ValueError, match="expected the text of a compiled program"):
        collectives.of("nothing", mesh)


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        # As jaxlib 0.10 prints them; of devices 0 to 7 on a mesh 2 x 2 x 2 the last axis is the fastest.
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_2'}", ("model",)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}", ("data", "fsdp")),
        # [4, 2] transposed: rows are 0 2 4 6 and 1 3 5 7; the first axis pairs 0 with 1.
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", ("model",)),
        # Axes in the order fsdp, data, model.
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([2,2,2]T(1,0,2)) {'a'}", ("fsdp",)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2], device_ids=([2,2,2]T(1,0,2)) {'b','c'}", ("data", "model")),
        ("replica_groups={}", ("data", "fsdp", "model")),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("source_target_pairs={{0,0},{2,1},{4,4},{6,5},{1,2},{3,3},{5,6},{7,7}}", ("fsdp", "model")),
    ],
)
def test_who_takes_part_is_read_in_every_form(groups, axes):
    kind = "collective-permute" if groups.startswith("source") else "all-reduce"
    line = f"  %x = f32[4]{{0}} {kind}(%a), channel_id=1, {groups}, metadata={{}}"
    text = f"ENTRY %main (a: f32[4]) -> f32[4] {{\n{line}\n}}"
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    assert [(c.axes, c.size) for c in collectives.of(text, mesh)] == [(axes, 16)]


def test_groups_of_an_unknown_form_are_not_taken_for_anything():
    mesh = jax.sharding.AbstractMesh((2, 2, 2), sharding.AXES)
    for groups in ("replica_groups=new[3]", "replica_groups=mesh['a'=2,'b'=4] {'a':(1)2}"):
        text = f"ENTRY %main (a: f32[4]) -> f32[4] {{\n  %x = f32[4]{{0}} all-reduce(%a), {groups}\n}}"
        with pytest.raises(ValueError, match="expected groups of devices in a form that is known"):
            collectives.of(text, mesh)


def test_places_are_said_only_while_they_are_asked_for():
    seen = []
    dense = layers.Dense(6)
    x = np.zeros((2, 3, 4), np.float32)
    variables = dense.init(jax.random.key(0), x)
    with layers.placing(lambda x, names: seen.append((x.shape, names)) or x):
        dense.apply(variables, x)
    dense.apply(variables, x)
    assert seen == [((4, 6), ("embed", "mlp")), ((2, 3, 6), ("batch", None, "mlp"))]
