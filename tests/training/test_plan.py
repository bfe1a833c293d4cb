"""Plans: against counts by hand, made-up devices of which each part limits in turn, and the compiled program."""

import json
import math
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import augment, cli, configuration
from jaxneuro.errors import InputError
from jaxneuro.training import devices, experiment, load, plan, sharding, state, steps
from jaxneuro.training.devices import Collective, Device
from tests.conftest import CONFIGS, EXPERIMENTS

#: ViT of width 24, 2 blocks of 4 heads, patches of 8, at 16^3: 8 patches and a class token, with SimMIM's decoder.
VIT = ("model.name=vit_b16_testing", "augment={}", "data.batch_size=8", "optimizer.clip=0.0")
#: Of so few patches 90 % cannot be hidden.
HALF = "objective.ratio=0.5"
#: Parameters with an axis that `fsdp` splits: patches, positions, token, the kernels of two blocks, the decoder's.
SPLIT = 512 * 24 + 9 * 24 + 24 + 2 * (24 * 72 + 24 * 24 + 2 * 24 * 96) + 24 * 512
#: Biases, norms (two a block and a last one) and the token of hidden patches.
WHOLE = 24 + 2 * (4 * 24 + 72 + 24 + 96 + 24) + 2 * 24 + 24 + 512


def read(*overrides, name="pretrain_masked"):
    return configuration.read(str(CONFIGS / f"{name}.py"), [f"--config.{o}" for o in overrides])


def made(*overrides, size=(16, 16, 16), name="pretrain_masked", **keywords):
    more = (HALF,) if name == "pretrain_masked" else ()
    return plan.make(read(*more, *overrides, name=name), input_size=size, **keywords)


def by_kind(found):
    return {(one.axes, one.kind): (one.size, one.sent) for one in found}


@pytest.fixture(scope="module")
def one():
    return made(*VIT)


def test_memory_by_hand(one):
    memory, size = one.load.memory, 4 * (SPLIT + WHOLE)
    assert one.load.parameters == SPLIT + WHOLE == 39_872
    assert memory["parameters"] == memory["gradients"] == size
    assert memory["moments of the optimiser"] == 2 * size + 2 * 4  # AdamW counts its steps, and so does the schedule
    assert memory["running average"] == memory["batch statistics"] == 0
    assert memory["parameters gathered from other devices"] == 0
    # Two batches of half floats, and one in float32 as the network sees it.
    assert memory["batch"] == 8 * 16**3 * (2 * 2 + 4)
    assert one.load.read == 8 * 16**3 * 2
    assert one.load.exchanged == []


def test_operations_by_hand(one):
    batch, tokens = 8, 9
    patches = 2 * batch * 8 * 512 * 24
    block = 2 * batch * tokens * (24 * 72 + 2 * tokens * 24 + 24 * 24 + 2 * 24 * 96)
    forward = patches + 2 * block + 2 * batch * 8 * 24 * 512
    assert one.load.forward == forward
    # Twice as much backward, but that nobody needs the gradient of volumes.
    assert one.load.flops == {"float32": 3 * forward - patches}


def test_an_eighth_where_eight_devices_divide_it(one):
    many = made(*VIT, "mesh.fsdp=8")
    local = 4 * (SPLIT // 8 + WHOLE)
    assert many.load.devices == 8
    assert many.load.memory["parameters"] == local
    assert many.load.memory["moments of the optimiser"] == 2 * local + 2 * 4
    assert many.load.memory["parameters gathered from other devices"] == 4 * SPLIT * 7 / 8
    assert many.load.memory["kept for the backward pass"] < one.load.memory["kept for the backward pass"] / 7
    assert many.load.flops == one.load.flops
    assert many.load.uneven == 0
    assert by_kind(many.load.exchanged) == {
        ("fsdp", "all-gather"): (4 * SPLIT, 4 * SPLIT * 7 / 8),
        ("fsdp", "reduce-scatter"): (4 * SPLIT, 4 * SPLIT * 7 / 8),
        ("fsdp", "all-reduce"): (4 * WHOLE, 4 * WHOLE * 2 * 7 / 8),
    }


def test_what_a_mesh_does_not_divide_is_not_counted_as_split():
    five = made(*VIT, "mesh.fsdp=5", "data.batch_size=10")
    assert five.load.uneven == SPLIT
    assert five.load.memory["parameters"] == 4 * (SPLIT + WHOLE)
    size = 4 * (SPLIT + WHOLE)
    assert by_kind(five.load.exchanged) == {("fsdp", "all-reduce"): (size, pytest.approx(size * 2 * 4 / 5))}


def test_data_and_fsdp_together_a_batch_in_parts_and_an_average(one):
    both = made(*VIT, "mesh.fsdp=2", "training.accumulate=2", "optimizer.average=0.9", count=4)
    # The gradients of each of the two parts are summed over the devices.
    assert by_kind(both.load.exchanged) == {
        ("fsdp", "all-gather"): (2 * 4 * SPLIT, 4 * SPLIT),
        ("fsdp", "reduce-scatter"): (2 * 4 * SPLIT, 4 * SPLIT),
        ("data", "all-reduce"): (4 * SPLIT, 4 * SPLIT),
        ("data x fsdp", "all-reduce"): (2 * 4 * WHOLE, 2 * 4 * WHOLE * 2 * 3 / 4),
    }
    memory = both.load.memory
    assert memory["gradients"] == 2 * memory["parameters"]
    assert memory["running average"] == memory["parameters"]
    # One of eight scans is looked at at a time on each device.
    kept = one.load.memory["kept for the backward pass"]
    assert kept / 8 <= memory["kept for the backward pass"] < 1.1 * kept / 8
    assert both.load.flops == one.load.flops


def test_split_layers_reduce_four_times_a_block():
    two = made(*VIT, "mesh.model=2")
    tokens = 4 * 8 * 9 * 24
    found = by_kind(two.load.exchanged)
    assert found["model", "all-reduce"][0] == 2 * 4 * tokens
    assert found["model", "all-gather"][0] == 4 * 8**3 * 24  # the kernel of the patches' convolution
    # Both devices look at the same scans.
    assert two.load.copies == 2
    assert two.load.memory["batch"] == 8 * 16**3 * (2 * 2 + 4)


def test_two_views_cost_two_passes():
    settings = (*VIT, "model.name=vit_b16_testing")
    two = made(*settings, name="pretrain_contrastive")
    once = made(*settings, name="finetune_ad")
    head, projection = 2 * 8 * 24, 2 * 8 * (24 * 512 + 512 * 128)
    cosines = 2 * 16 * 16 * 128  # of 16 views with each other, for the loss and again for its metrics
    assert two.load.forward == 2 * (once.load.forward - head + projection) + 2 * cosines


def test_mae_encodes_what_is_visible_alone():
    little, much = (
        made(*VIT, "objective.kind=mae", f"objective.ratio={ratio}", size=(32, 32, 32)).load for ratio in (0.75, 0.25)
    )

    # 16 or 48 of 64 patches, and the class token, in two blocks of the encoder; the decoder sees all in either.
    def encoder(tokens):
        return 2 * 2 * 8 * tokens * (24 * 72 + 2 * tokens * 24 + 24 * 24 + 2 * 24 * 96) + 2 * 8 * tokens * 24 * 12

    assert much.forward - little.forward == encoder(49) - encoder(17)


def test_what_does_not_grow_with_the_batch_is_on_every_device():
    assert load._on_one(lambda n: 100 + 3 * n, 8, 4) == 100 + 3 * 8 / 4
    assert load._on_one(lambda n: 100 + 3 * n, 8, 1) == 124


def test_a_ring():
    assert Collective("data", "all-reduce", 1000.0, 4, 1).sent == 1500.0
    assert Collective("fsdp", "all-gather", 1000.0, 4, 1).sent == 750.0
    assert Collective("fsdp", "reduce-scatter", 1000.0, 4, 1).sent == 750.0


@pytest.mark.parametrize(
    ("ways", "stride", "per_host", "rate"),
    [
        (8, 1, 8, 450e9),  # within a host
        (16, 1, 8, 400e9),  # a ring through two hosts, with the eight adapters of each
        (2, 8, 8, 50e9),  # eight rings of one device a host, an adapter each
        (4, 4, 8, 100e9),
    ],
)
def test_what_leaves_a_host_goes_through_adapters(ways, stride, per_host, rate):
    one = Collective("data", "all-reduce", 1.0, ways, stride)
    assert one.rate(devices.DEVICES["h100"], per_host) == rate
    assert one.rate(devices.DEVICES["v5p"], per_host) == 600e9  # links reach all of a slice


def test_each_part_limits_in_turn():
    device = Device("toy", {"float32": 100.0, "bfloat16": 200.0}, 1.0, 50.0, 10.0, 0.0, 5.0, 8)
    asks = {"flops": {"float32": 100.0, "bfloat16": 200.0}, "moved": 50.0, "read": 5.0, "per_host": 8}
    ring = Collective("data", "all-reduce", 5.0, 2, 1)
    time = devices.roofline(device, exchanged=[ring, ring], **asks)
    assert time.parts == {"compute": 2.0, "memory": 1.0, "network": 1.0, "input": 1.0}
    assert (time.limit, time.step) == ("compute", 2.0)
    more = {"memory": {"moved": 150.0}, "network": {"exchanged": [ring] * 6}, "input": {"read": 15.0}}
    for part, changed in more.items():
        time = devices.roofline(device, **({"exchanged": [ring]} | asks | changed))
        assert (time.limit, time.step) == (part, 3.0)


def test_the_roofline_of_a_plan(one):
    asked, time, peak = one.load, one.times["h100"], devices.DEVICES["h100"]
    assert time.compute == asked.flops["float32"] / 494.7e12
    assert time.memory == sum(asked.moved.values()) / 3350e9
    assert time.network == 0
    assert time.input == asked.read / 64e9
    assert peak.flops["bfloat16"] / peak.flops["float32"] == 2
    # Eight devices share the work; what each of them moves and gets of the update is the same.
    eight = made(*VIT, "mesh.data=8")
    assert eight.times["h100"].compute == pytest.approx(time.compute / 8)
    assert eight.times["h100"].input == pytest.approx(time.input / 8)
    assert eight.load.moved["update"] == asked.moved["update"] == 4 * 39_872 * (1 + 2 + 4) + 2 * 2 * 4
    assert eight.times["h100"].memory > time.memory / 8
    halves = made(*VIT, "model.dtype=bfloat16").load.flops
    decoder = 3 * 2 * 8 * 8 * 24 * 512  # stays float32, and so do gradients of attention's weights
    assert decoder <= halves["float32"] < 1.05 * decoder
    assert sum(halves.values()) == asked.flops["float32"]


def test_traffic_of_a_product_by_hand():
    from jaxneuro.models import cost

    x, w = jax.ShapeDtypeStruct((8, 3), jnp.bfloat16), jax.ShapeDtypeStruct((3, 5), jnp.bfloat16)
    assert cost.work(jnp.dot, x, w) == cost.Work({"bfloat16": 2 * 8 * 3 * 5}, 2 * (24 + 15 + 40))


def compiled(config, size):
    """Return the compiled step of a config on one device, its state's shapes, and the experiment."""
    parts = experiment.on(config, plan._dataset(config, (*size, 1), None))
    optimizer, _ = experiment.optimizer(parts, 1)
    mesh = sharding.make_mesh({}, jax.devices()[:1])
    boxed = state.abstract(parts.model, optimizer)
    step = steps.train_step(
        parts.model.apply, parts.objective, optimizer, normalise=augment.normaliser(config.data.normalise),
        views=augment.build({}), mesh=mesh, where=sharding.shardings(mesh, boxed),
    )  # fmt: skip
    batch = {"volume": jax.ShapeDtypeStruct((config.data.batch_size, *size, 1), jnp.float16)}
    key = jax.random.key(0)
    return step.lower(sharding.unbox(boxed), batch, key).compile(), parts, optimizer, mesh


def test_operations_and_memory_are_those_of_the_compiled_step():
    # Wide, so that what is no product is a small part: XLA counts additions and the like, too.
    config = read(*VIT, "model.width=192", "model.depth=1", "data.batch_size=4", HALF)
    step, parts, optimizer, mesh = compiled(config, (32, 32, 32))
    asked = load.of(parts, optimizer, sharding.imagined({}, 1))
    counted = sum(asked.flops.values())
    assert 1.0 <= step.cost_analysis()["flops"] / counted < 1.06
    # The state as it is made, leaf by leaf, and as the step takes it.
    where = sharding.shardings(mesh, state.abstract(parts.model, optimizer))
    real = state.create(parts.model, optimizer, jax.random.key(0), where)
    there = sum(x.nbytes for x in jax.tree.leaves((real.params, real.opt_state)))
    planned = asked.memory["parameters"] + asked.memory["moments of the optimiser"]
    assert planned == there
    arguments = step.memory_analysis().argument_size_in_bytes
    # Beside it: the step's number, a key, and a batch of half floats.
    assert arguments == pytest.approx(there + 4 * 32**3 * 2, abs=64)


SCRIPT = r"""
    import json, sys
    import jax, jax.numpy as jnp
    from jaxneuro import augment, configuration
    from jaxneuro.training import collectives, experiment, plan, sharding, state, steps
    from tests.conftest import CONFIGS

    config = configuration.read(str(CONFIGS / "finetune_ad.py"), json.loads(sys.argv[1]))
    parts = experiment.on(config, plan._dataset(config, (32, 32, 32, 1), None))
    optimizer, _ = experiment.optimizer(parts, 1)
    mesh = sharding.make_mesh(config.mesh.to_dict())
    boxed = state.abstract(parts.model, optimizer)
    step = steps.train_step(
        parts.model.apply, parts.objective, optimizer, normalise=augment.normaliser("brain"), views=augment.build({}),
        mesh=mesh, where=sharding.shardings(mesh, boxed),
    )
    size = config.data.batch_size
    batch = {"volume": jax.ShapeDtypeStruct((size, 32, 32, 32, 1), jnp.float16),
             "ad": jax.ShapeDtypeStruct((size,), jnp.float32)}
    text = step.lower(sharding.unbox(boxed), batch, jax.random.key(0)).compile().as_text()
    print(json.dumps([[c.kind, list(c.axes), c.size * c.times] for c in collectives.of(text, mesh)]))
"""


@pytest.mark.slow
def test_exchange_is_that_of_the_compiled_step_on_eight_devices():
    import os

    settings = ("model.name=vit_b16_testing", "model.width=96", "model.depth=4", "augment={}", "data.batch_size=16",
                "mesh.data=2", "mesh.fsdp=2", "mesh.model=2")  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT),
         json.dumps([f"--config.{s}" for s in settings])],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    real = {}
    for kind, axes, size in json.loads(done.stdout.splitlines()[-1]):
        real[kind, *axes] = real.get((kind, *axes), 0) + size
    planned = by_kind(made(*settings, name="finetune_ad", size=(32, 32, 32)).load.exchanged)
    # On a CPU sums are scattered by an all-reduce. The kernel of the patches, split over fsdp and model along one axis,
    # goes other ways.
    patches = 4 * 8**3 * 96
    elsewhere = {("fsdp", "reduce-scatter"): patches, ("data", "all-reduce"): patches / 2}
    for (axes, kind), there in {
        ("fsdp", "all-gather"): ("all-gather", "fsdp"),
        ("fsdp", "reduce-scatter"): ("all-reduce", "fsdp"),
        ("data", "all-reduce"): ("all-reduce", "data"),
        ("model", "all-reduce"): ("all-reduce", "model"),
    }.items():
        size = planned[axes, kind][0] - elsewhere.get((axes, kind), 0)
        assert real[there] == pytest.approx(size, rel=0.05), (axes, kind)


@pytest.mark.parametrize(
    ("keywords", "overrides", "told"),
    [
        ({"kinds": ("h100", "v6e")}, (), "--device: found 'v6e'; expected one of v5e, v5p, a100, h100, h200"),
        ({"count": 3}, (), "data.batch_size: found 8 over 3 devices (data x fsdp); expected a multiple of 3"),
        ({"count": 6}, ("mesh.fsdp=4",), "mesh: found"),
        ({"count": 4, "hosts": 3}, (), "--hosts: found 3 for 4 devices"),
        ({"size": None}, (), "data.path: found no dataset at data/shards; expected one, or --input-size"),
        ({"count": 8}, ("training.accumulate=2",), "training.accumulate: found 2 parts of a batch of 8 over 8 devices"),
        ({"size": (20, 20, 20)}, (), "expected three multiples of (8, 8, 8)"),
        ({}, ("objective.ratio=2.0",), "objective.ratio: found 2.0"),
        ({}, ("data.source=disk",), "data.source: found 'disk'; expected one of shards, memory, device, synthetic"),
        ({"samples": 7}, (), "data.batch_size: found 8 with 7 training scans; expected at most that many"),
    ],
)
def test_what_cannot_be_planned_is_refused(keywords, overrides, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        made(*VIT, *overrides, **keywords)
    assert told in str(refused.value)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_config_has_a_dataset_that_is_not_there(name):
    config = read(name=name)
    shape, classes = (64, 64, 64, 1), 7 if name in ("pretrain_video", "probe_site") else None
    parts = experiment.on(config, plan._dataset(config, shape, classes))
    assert parts.dataset.shape == shape
    assert parts.model.input_size == shape[:3] if name != "pretrain_masked" else parts.model.encoder.input_size
    if classes:
        assert parts.model.num_outputs == 7
        assert parts.dataset.card["dtype"] == ("uint8" if name == "pretrain_video" else "float16")
        with pytest.raises(InputError, match="--num-outputs"):
            plan._dataset(config, shape, None)


def test_volumes_that_are_kept_on_the_devices_take_their_memory():
    kept = made(*VIT, "data.source=device", samples=1001, count=4).load.memory
    read = made(*VIT, samples=1001, count=4).load.memory
    side = made(*VIT, samples=1001, count=4).load.read / 8  # a volume as stored
    assert kept.pop("volumes kept") == 251 * side
    assert kept == read


def test_what_does_not_fit_is_told_with_what_to_try(monkeypatch, one, capsys):
    used = sum(one.load.memory.values())
    small = SimpleNamespace(**{**devices.DEVICES["v5e"].__dict__, "memory": used - 1})
    monkeypatch.setitem(devices.DEVICES, "v5e", small)
    lines = plan._remarks(one)
    assert len(lines) == 1
    assert lines[0].startswith("does not fit v5e: ")
    monkeypatch.setitem(devices.DEVICES, "v5e", SimpleNamespace(**{**small.__dict__, "memory": used}))
    assert plan._remarks(one) == []


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0 B"), (999.4, "999 B"), (1234.0, "1.23 kB"), (35e6, "35.0 MB"), (6.2e16, "62,000 TB")]
)
def test_sizes_have_three_digits(value, said):
    assert plan._size(value) == said


def test_plan_from_the_command_line(boxes, tmp_path, capsys):
    vit = "--config.model.name=vit_b16_testing"
    command = ["info", "--plan", "--config", str(CONFIGS / "smoke.py"), "--config.augment={}", vit]
    given = [*command, "--input-size=32,32,32", "--devices=2", "--device=h100", "--device=v5e", "--samples=40"]
    assert cli.main(given) == 0
    told = capsys.readouterr().out
    for part in ("vit_b16_testing", "volumes 32 x 32 x 32", "devices 2 (data 2)", "h100", "v5e", "10 steps",
                 "all-reduce over data (2)", "limited by", "calculated, not measured"):  # fmt: skip
        assert part in told
    assert "a100" not in told
    # A dataset knows its size and scans.
    assert cli.main([*command, f"--config.data.path={boxes}", "--config.data.batch_size=2"]) == 0
    told = capsys.readouterr().out
    assert "volumes 16 x 16 x 16" in told
    train = len(experiment.build(read(f"data.path={boxes}", "data.batch_size=2", name="smoke")).folds["train"])
    assert f"{train // 2} steps, an epoch" in told


def test_a_plan_as_json(tmp_path, capsys):
    command = ["info", "--plan", "--config", str(CONFIGS / "smoke.py"), "--config.model.name=vit_b16_testing"]
    given = ["--input-size=32,32,32", "--devices=2", "--device=h100", "--samples=40"]
    assert cli.main([*command, *given, "--json", str(tmp_path / "new" / "plan.json")]) == 0
    told = json.loads((tmp_path / "new" / "plan.json").read_text())
    asked = made("model.name=vit_b16_testing", name="smoke", size=(32, 32, 32), count=2, kinds=("h100",), samples=40)
    assert told["calculated"] is True
    assert told["devices"] == 2
    assert told["memory_of_a_device"] == asked.load.memory
    assert told["flops_of_a_step"] == asked.load.flops | {"forward": asked.load.forward}
    assert [one["bytes"] for one in told["sent_by_a_device"]] == [one.sent for one in asked.load.exchanged]
    assert told["least_time_of_a_step"]["h100"]["step"] == asked.times["h100"].step
    assert told["steps_of_an_epoch"] == 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--plan"], "--plan: found no --config; expected --config FILE"),
        (["vit_b16", "--plan", "--config", "smoke.py"], "--plan: found 'vit_b16'"),
        (["--plan", "--config", "smoke.py", "--batch-size", "3"], "expected --config.data.batch_size"),
        (["--plan", "--config", "smoke.py", "--set", "width=3"], "expected --config.model.KEY=VALUE"),
        (["--plan", "--config", "smoke.py", "--num-outputs", "3"], "--num-outputs: found it with a dataset"),
        (["--plan", "--config", "smoke.py", "--config.modell=3"], "found no such key"),
        (["nit", "--devices", "3"], "--devices: found it without --plan"),
        ([], "info: found nothing to describe"),
    ],
)
def test_a_plan_that_is_asked_for_wrongly_is_one_line(arguments, told, capsys):
    assert cli.main(["info", *arguments]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0]


def test_published_peaks():
    """The figures that docs/scale.md states, from the vendors' pages named there."""
    stated = {
        "v5e": (197, 197, 16, 819, 1600 / 8),
        "v5p": (459, 459, 95, 2765, 4800 / 8),
        "a100": (312, 156, 80, 2039, 600 / 2),
        "h100": (1978.9 / 2, 989.4 / 2, 80, 3350, 900 / 2),
        "h200": (1978.9 / 2, 989.4 / 2, 141, 4800, 900 / 2),
    }
    assert set(stated) == set(devices.DEVICES)
    for name, figures in stated.items():
        d = devices.DEVICES[name]
        ours = (d.flops["bfloat16"] / 1e3, d.flops["float32"] / 1e3, d.memory, d.memory_rate, d.link_rate)
        np.testing.assert_allclose(np.array(ours) / 1e9, figures, rtol=1e-3)
        assert math.isfinite(d.host_rate)
