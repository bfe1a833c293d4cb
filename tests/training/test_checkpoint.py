"""Checkpoints: what is damaged on disk is found, put aside and not used; the sum of bits misses no bit."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import configuration
from jaxneuro.errors import CorruptDataError
from jaxneuro.training import checkpoint, loop
from jaxneuro.training.state import TrainState
from tests.conftest import CONFIGS
from tests.training import runs


def made(step):
    """Return a small state that nothing can compress: damage lands in its values."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        params={"layer": {"kernel": draw(64, 32), "bias": draw(32)}},
        batch_stats={"mean": draw(32)},
        opt_state={"count": jnp.asarray(step, jnp.int32), "mu": draw(64, 32)},
        average={},
    )


def restore(workdir):
    state = made(0)
    like = checkpoint.like(jax.eval_shape(lambda: state), jax.tree.map(lambda x: x.sharding, state))
    with checkpoint.Checkpoints(workdir, keep=4) as checkpoints:
        return checkpoints.restore(like)


def position(step):
    return {"data": {"next_index": step}, "best": {"value": 0.5, "step": 1}, "pending": []}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A folder with the states of steps 1, 2 and 3, and the best weights, those of step 3."""
    workdir = tmp_path_factory.mktemp("three")
    with checkpoint.Checkpoints(workdir, keep=4) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save_best(made(step), {"mae": 4.5 - step})
            checkpoints.save(made(step), position(step))
    return workdir


@pytest.fixture
def workdir(three, tmp_path):
    shutil.copytree(three, tmp_path / "r")
    return tmp_path / "r"


def values(folder):
    """Return the file with most of the values of a checkpoint."""
    return max((p for p in folder.rglob("*") if p.parent.name == "d"), key=lambda p: p.stat().st_size)


def truncate(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(bytes(data))


def remove(file):
    file.unlink()


def names(workdir):
    return sorted(p.name for p in (workdir / "checkpoints").iterdir())


def test_the_last_state_comes_back_to_the_bit(workdir, capfd):
    state, where = restore(workdir)
    runs.assert_same_bits(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, made(3)))
    assert where == position(3)
    step, weights, metrics = checkpoint.load_best(workdir)
    assert (step, metrics) == (3, {"mae": 1.5})
    runs.assert_same_bits(weights, jax.tree.map(np.asarray, made(3).weights()))
    assert "damaged" not in capfd.readouterr().err


@pytest.mark.parametrize("part", ["values", "position"])
@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(workdir, capfd, damage, part):
    folder = workdir / "checkpoints" / "3"
    damage(values(folder) if part == "values" else folder / "position" / "metadata")
    state, where = restore(workdir)
    runs.assert_same_bits(jax.tree.map(np.asarray, state), jax.tree.map(np.asarray, made(2)))
    assert where == position(2)
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(told) == 1
    assert told[0].startswith(f"warning: {folder}: is damaged (")
    assert told[0].endswith("put aside as damaged-3, going on from step 2")
    assert names(workdir) == ["1", "2", "damaged-3"]
    if damage is flip and part == "values":
        # Orbax reads another value and says nothing.
        assert "its bits sum to" in told[0]


def test_a_step_that_is_damaged_again_is_put_aside_again(workdir, capfd):
    for name in ("damaged-3", "damaged-3-1"):
        flip(values(workdir / "checkpoints" / "3"))
        assert restore(workdir)[1] == position(2)
        assert f"put aside as {name}, going on from step 2" in capfd.readouterr().err
        with checkpoint.Checkpoints(workdir, keep=4) as checkpoints:
            checkpoints.save(made(3), position(3))
    assert restore(workdir)[1] == position(3)
    assert names(workdir) == ["1", "2", "3", "damaged-3", "damaged-3-1"]


def test_another_position_in_the_data_is_damage(workdir, capfd):
    file = workdir / "checkpoints" / "3" / "position" / "metadata"
    # One bit, and it still reads: the run would go on with other scans.
    file.write_text(file.read_text().replace('"next_index": 3', '"next_index": 7'))
    assert json.loads(file.read_text())["data"] == {"next_index": 7}
    assert restore(workdir)[1] == position(2)
    assert "its bits sum to" in capfd.readouterr().err


def test_nothing_whole_is_one_line_and_moves_nothing(workdir, capfd):
    for step, damage in ((1, flip), (2, truncate), (3, remove)):
        damage(values(workdir / "checkpoints" / str(step)))
    with pytest.raises(CorruptDataError, match=r"none of the checkpoints \[3, 2, 1\] is whole \(.+\); expected") as e:
        restore(workdir)
    assert "\n" not in str(e.value)
    assert names(workdir) == ["1", "2", "3"]
    assert "put aside" not in capfd.readouterr().err


@pytest.mark.parametrize("damage", [truncate, flip, remove])
def test_damaged_best_weights_are_refused(workdir, damage):
    damage(values(workdir / "best" / "3"))
    with pytest.raises(CorruptDataError, match=r"best/3: is damaged \(.+\); expected the bytes") as e:
        checkpoint.load_best(workdir)
    assert "\n" not in str(e.value)


def test_another_score_of_the_best_weights_is_damage(workdir):
    (file,) = (p for p in (workdir / "best" / "3" / "metrics").iterdir() if "mae" in p.read_text())
    file.write_text(file.read_text().replace("1.5", "1.7"))
    with pytest.raises(CorruptDataError, match="its bits sum to"):
        checkpoint.load_best(workdir)


# ---- the sum of bits --------------------------------------------------------------------------------------------
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.uint8, np.float64)


@st.composite
def trees(draw):
    """Draw a few arrays of several kinds, with any bits, NaN among them."""
    found = {}
    for i in range(draw(st.integers(1, 4))):
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        size = int(np.prod(shape)) * dtype.itemsize
        found[f"leaf{i}"] = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype).reshape(shape)
    return found


def by_hand(tree):
    """Sum words of four bytes (bytes where an item is of another size), each leaf times its place, in Python."""
    total = 0
    for place, (_, leaf) in enumerate(sorted(tree.items()), start=1):
        data, word = leaf.tobytes(), 4 if leaf.itemsize % 4 == 0 else 1
        total += place * sum(int.from_bytes(data[i : i + word], sys.byteorder) for i in range(0, len(data), word))
    return total % 2**62


@given(trees())
@settings(max_examples=60, deadline=None)
def test_the_sum_of_bits_is_the_sum_of_words_by_place(tree):
    assert checkpoint.bit_sum(tree) == by_hand(tree)


@given(trees(), st.data())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_changes_the_sum(tree, data):
    full = [name for name, leaf in tree.items() if leaf.nbytes]
    if not full:
        return
    name = data.draw(st.sampled_from(full))
    leaf = tree[name]
    bits = bytearray(leaf.tobytes())
    place = data.draw(st.integers(0, 8 * len(bits) - 1))
    bits[place // 8] ^= 1 << place % 8
    other = {**tree, name: np.frombuffer(bytes(bits), leaf.dtype).reshape(leaf.shape)}
    assert checkpoint.bit_sum(other) != checkpoint.bit_sum(tree)


def test_leaves_that_change_places_change_the_sum():
    a, b = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    assert checkpoint.bit_sum({"a": a, "b": b}) != checkpoint.bit_sum({"a": b, "b": a})


def test_an_array_on_the_device_sums_as_on_the_host():
    host = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    tree = {"a": host, "b": host.astype(ml_dtypes.bfloat16)}
    assert checkpoint.bit_sum(jax.tree.map(jnp.asarray, tree)) == by_hand(tree)


@pytest.mark.slow
def test_the_sum_and_the_state_are_the_same_on_every_mesh(tmp_path):
    body = f"""
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jaxneuro.training import checkpoint, sharding
        from jaxneuro.training.state import TrainState

        rng = np.random.default_rng(0)
        host = {{
            "kernel": rng.normal(size=(16, 8)).astype(np.float32),
            "half": rng.normal(size=(8, 4)).astype(jax.numpy.bfloat16),
        }}
        expected = 0
        for place, name in enumerate(sorted(host), start=1):
            word = np.uint32 if host[name].itemsize == 4 else np.uint8
            expected += place * int(host[name].view(word).astype(object).sum())
        written = TrainState(step=np.int32(0), params=host, batch_stats={{}}, opt_state={{}}, average={{}})
        for step, (shape, spec) in enumerate([
            (dict(data=8), P()), (dict(data=1, fsdp=8), P("fsdp")), (dict(data=2, fsdp=2, model=2), P("fsdp", "model")),
            (dict(data=4, model=2), P("model")), (dict(data=2, fsdp=2, model=2), P(("fsdp", "model"))),
        ], start=1):
            mesh = sharding.make_mesh(shape)
            where = {{name: NamedSharding(mesh, spec) for name in host}}
            tree = jax.device_put(host, where)
            assert checkpoint.bit_sum(tree) == expected, (shape, spec)
            everywhere = sharding.replicated(mesh)
            state = written.replace(step=jax.device_put(np.int32(step), everywhere), params=tree)
            placed = written.replace(step=everywhere, params=where)
            like = checkpoint.like(jax.eval_shape(lambda: state), placed)
            with checkpoint.Checkpoints({str(tmp_path)!r}) as checkpoints:
                # What the mesh before this one wrote.
                found = checkpoints.restore(like)
                assert (found is None) == (step == 1)
                if found:
                    assert int(found[0].step) == step - 1
                    for name in host:
                        assert np.asarray(found[0].params[name]).tobytes() == host[name].tobytes()
                        assert found[0].params[name].sharding.is_equivalent_to(where[name], 2)
                checkpoints.save(state, {{}})
        print("same", step)
    """
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body)], capture_output=True, text=True, timeout=200, env=environment
    )
    assert done.stdout.split() == ["same", "5"], done.stderr


# ---- a whole run ------------------------------------------------------------------------------------------------
def test_a_run_whose_checkpoints_are_damaged_ends_in_the_same_bits(boxes, tmp_path, capfd):
    overrides = (f"data.path={boxes}", "model.name=vit_b16_testing", "training.epochs=4", "training.keep=4")
    config = configuration.read(str(CONFIGS / "smoke.py"), [f"--config.{o}" for o in overrides])
    loop.train(config, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    folder = tmp_path / "damaged" / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["14", "21", "28", "7"]
    for step, damage in ((28, truncate), (21, flip), (14, remove)):
        damage(values(folder / str(step)))
    capfd.readouterr()
    loop.train(config, tmp_path / "damaged")
    told = capfd.readouterr().err
    for step in (28, 21, 14):
        assert f"put aside as damaged-{step}, going on from step 7" in told
    assert "resuming at step 7 of 28" in told
    # Orbax has pages to say of every array that it could not read.
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    runs.assert_same_run(tmp_path / "whole", tmp_path / "damaged")
