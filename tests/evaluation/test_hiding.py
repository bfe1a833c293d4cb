"""Occlusion by hand: every patch in a loop of NumPy, MONAI, linear networks, few of the positions, many devices."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import augment, interop, models
from jaxneuro.errors import InputError
from jaxneuro.evaluation.maps import gradient, hiding, nearby
from jaxneuro.training import sharding


def mesh():
    return sharding.make_mesh({"data": -1})


def measure(output, volume, patch, stride, value=0.0, weights=None, batch_size=5, model=None, **keywords):
    """Return the grid, what hiding does, and the map of a volume [d, h, w]; of a model, by its own layers."""
    where = hiding.grid(volume.shape, patch, stride)
    outputs = nearby.program(model, output, mesh(), patch) if model else hiding.program(output, mesh(), patch)
    found = hiding.differences(
        outputs, weights, jnp.asarray(volume[..., None], jnp.float32), jnp.full(1, value, jnp.float32), where,
        mesh=mesh(), batch_size=-(-batch_size // mesh().size) * mesh().size, **keywords,
    )  # fmt: skip
    return where, found, hiding.spread(where, found.values)


def squares(weights, x, which):
    """An output that is no sum over voxels: hidden patches interact with the rest."""
    return jnp.tanh((weights * x[..., 0] ** 2).sum((1, 2, 3))) + 0.1 * x.mean((1, 2, 3, 4)) * which


def by_loops(f, volume, patch, stride, value):
    """The same in a loop over positions and voxels, with nothing of ours."""
    starts = []
    for n, p, s in zip(volume.shape, patch, stride, strict=True):
        along = list(range(0, n - p + 1, s))
        starts.append(along if along[-1] == n - p else [*along, n - p])
    total, count = np.zeros(volume.shape), np.zeros(volume.shape)
    for i in starts[0]:
        for j in starts[1]:
            for k in starts[2]:
                box = np.s_[i : i + patch[0], j : j + patch[1], k : k + patch[2]]
                hidden = volume.copy()
                hidden[box] = value
                total[box] += f(volume) - f(hidden)
                count[box] += 1
    return total / count


@pytest.mark.parametrize(
    ("patch", "stride"),
    [
        ((3, 2, 4), (3, 2, 4)),
        ((3, 3, 3), (2, 1, 3)),
        ((1, 1, 1), (1, 1, 1)),
        ((7, 6, 8), (1, 5, 8)),
        ((4, 6, 3), (3, 2, 2)),
    ],
)
def test_maps_equal_loops_over_positions_and_voxels(patch, stride):
    rng = np.random.default_rng(0)
    volume, weights = rng.normal(size=(7, 6, 8)), rng.normal(size=(7, 6, 8)) / 20

    def f(x):
        return np.tanh((weights * x**2).sum()) + 0.1 * x.mean() * 3

    expected = by_loops(f, volume, patch, stride, 0.5)
    _, found, ours = measure(squares, volume, patch, stride, 0.5, jnp.asarray(weights, jnp.float32), which=3)
    assert found.output == pytest.approx(f(volume), abs=1e-5)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_positions_of_a_stride_that_does_not_divide_end_with_the_volume():
    where = hiding.grid((10, 8, 5), (4, 3, 5), (3, 2, 1))
    assert [s.tolist() for s in where.starts] == [[0, 3, 6], [0, 2, 4, 5], [0]]
    assert hiding.grid((10, 10, 10), (4, 4, 4), (4, 4, 4)).starts[0].tolist() == [0, 4, 6]
    assert where.shape == (3, 4, 1)
    assert where.corners()[2, 3, 0].tolist() == [6, 5, 0]


@pytest.mark.parametrize(
    ("patch", "stride", "said"),
    [
        ((11, 4, 4), (4, 4, 4), "--patch: found 11 voxels along depth; expected 1 to 10, the volume's depth"),
        ((4, 0, 4), (4, 4, 4), "--patch: found 0 voxels along height"),
        ((4, 4, 4), (4, 4, 0), "--stride: found 0 voxels along width for a patch of 4; expected 1 to 4"),
        ((4, 4, 4), (5, 4, 4), "--stride: found 5 voxels along depth for a patch of 4; expected 1 to 4"),
    ],
)
def test_patches_and_strides_that_make_no_sense_are_told(patch, stride, said):
    with pytest.raises(InputError) as e:
        hiding.grid((10, 10, 10), patch, stride)
    assert said in str(e.value)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_linear_output_loses_what_its_patch_contributed(data):
    size = data.draw(st.tuples(*[st.integers(1, 6)] * 3))
    patch = tuple(data.draw(st.integers(1, n)) for n in size)
    stride = tuple(data.draw(st.integers(1, p)) for p in patch)
    value = data.draw(st.floats(-2, 2, width=16))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    volume = rng.integers(-3, 4, size).astype(float)
    weights = rng.integers(-3, 4, size).astype(float)
    where, found, _ = measure(
        lambda w, x, _: (w * x[..., 0]).sum((1, 2, 3)), volume, patch, stride, value, jnp.asarray(weights, jnp.float32)
    )
    contribution = weights * (volume - value)
    for at, corner in zip(np.ndindex(where.shape), where.corners().reshape(-1, 3), strict=True):
        box = tuple(slice(c, c + p) for c, p in zip(corner, patch, strict=True))
        assert found.values[at] == pytest.approx(contribution[box].sum(), abs=1e-3)


def test_patches_that_change_nothing_are_not_tried():
    volume = np.zeros((8, 8, 8))
    volume[4:, :4, :4] = 1.0
    _, found, ours = measure(lambda w, x, _: x.sum((1, 2, 3, 4)), volume, (4, 4, 4), (4, 4, 4))
    assert found.passes == 2  # the whole volume, and without the one corner
    expected = np.zeros((8, 8, 8))
    expected[4:, :4, :4] = 64
    np.testing.assert_array_equal(ours, expected)


def test_coarse_to_fine_is_exact_around_the_largest_and_holds_the_maximum():
    volume = np.full((16, 16, 16), 0.1)
    volume[9:12, 5:8, 10:13] = 1.0  # planted

    def output(weights, x, which):
        return (weights * x[..., 0]).sum((1, 2, 3)) + 0.02 * x[..., 0].sum((1, 2, 3))

    weights = np.zeros((16, 16, 16), np.float32)
    weights[9:12, 5:8, 10:13] = 1.0
    arguments = output, volume, (4, 4, 4), (1, 1, 1), 0.0, jnp.asarray(weights)
    _, every, fine = measure(*arguments, batch_size=256)
    _, some, ours = measure(*arguments, batch_size=256, coarse=4, quantile=0.95)
    assert every.passes == 13**3 + 1
    assert some.passes < every.passes / 3
    assert np.isfinite(ours).all()
    peak = np.unravel_index(fine.argmax(), fine.shape)
    assert np.unravel_index(ours.argmax(), ours.shape) == peak
    assert ours[peak] == pytest.approx(fine[peak], rel=1e-4)
    # Wherever the coarse map is among its largest twentieth, the map is that of every position.
    where = hiding.grid(volume.shape, (4, 4, 4), (4, 4, 4))
    coarse = hiding.spread(where, measure(*arguments[:3], (4, 4, 4), 0.0, arguments[5])[1].values)
    large = coarse > np.quantile(coarse, 0.95)
    assert large.sum() == 2 * 4**3
    np.testing.assert_allclose(ours[large], fine[large], atol=1e-3)


def test_coarse_positions_that_leave_voxels_out_are_told():
    with pytest.raises(InputError, match=r"--coarse: found 3, .* along depth between patches of 4; expected at most 2"):
        measure(squares, np.ones((16, 16, 16)), (4, 4, 4), (2, 2, 2), 0.0, jnp.ones((16, 16, 16)), coarse=3)


@pytest.mark.parametrize("how", ["brain", "volume", "none"])
def test_the_background_is_what_normalisation_makes_of_zero(how):
    raw = np.random.default_rng(0).uniform(1, 2, (6, 6, 6, 1)).astype(np.float16)
    raw[:3] = 0
    seen = np.asarray(augment.normalise(jnp.asarray(raw[None]), how))[0]
    value = np.asarray(hiding.background(jnp.asarray(raw), how))
    np.testing.assert_allclose(np.broadcast_to(value, (3, 6, 6, 1)), seen[:3], atol=1e-6)
    assert (value == 0).all() == (how != "volume")


def test_gradients_of_a_network_of_squares():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 4, 1)).astype(np.float32)
    outputs, maps = gradient.program(lambda w, x, which: which * (x**2).sum((1, 2, 3, 4)), mesh())(None, x, 3)
    np.testing.assert_allclose(outputs, 3 * (x**2).sum((1, 2, 3, 4)), rtol=1e-5)
    np.testing.assert_allclose(maps, np.abs(6 * x[..., 0]), rtol=1e-5)


def small(size):
    """Return MONAI's DenseNet with random weights, ours, and those weights in ours."""
    from tests.models.test_densenet_parity import pair

    return pair("tiny_densenet_testing", size, outputs=2)


@pytest.mark.filterwarnings("ignore")  # MONAI's own
@pytest.mark.parametrize(("patch", "overlap", "stride"), [((8, 8, 8), 0.0, (8, 8, 8)), ((6, 5, 8), 0.5, (3, 2, 4))])
def test_maps_equal_those_of_monai(patch, overlap, stride):
    torch_reference = pytest.importorskip("tests.torch_reference")
    from monai.visualize import OcclusionSensitivity

    size = (16, 17, 24)
    theirs, model, variables = small(size)
    x, tensor = torch_reference.volumes(1, *size, 1)
    explain = OcclusionSensitivity(
        theirs, mask_size=patch, n_batch=8, verbose=False, mode=-0.25, overlap=overlap, activate=False
    )
    with torch_reference.torch.no_grad():
        hidden = explain(tensor)[0].numpy()[0]  # [class, d, h, w]: the outputs without the patch
        expected = theirs(tensor).numpy()[0, :, None, None, None] - hidden

    def output(weights, x, which):
        return jnp.take(model.apply(weights, x, train=False)[0], which, axis=1)

    for which in (0, 1):
        *_, ours = measure(output, x[0, ..., 0], patch, stride, -0.25, variables, batch_size=8, which=which)
        assert np.abs(ours - expected[which]).max() <= 1e-4 * np.abs(hidden).max()


EIGHT = """
import json, sys
import jax, numpy as np
from tests.evaluation.test_hiding import small_maps
print(json.dumps([len(jax.devices()), *(x.tolist() for x in small_maps())]))
"""


def small_maps():
    """Return the occlusion map of one volume in both forms, and gradients of eight, by a DenseNet on all devices."""
    model = models.build("tiny_densenet_testing", num_outputs=1, input_size=(16, 16, 16), in_channels=1)
    variables, _ = interop.transfer(model, {}, fresh=[""], seed=0)
    volumes = np.random.default_rng(0).normal(size=(8, 16, 16, 16))
    variables = jax.device_put(variables, sharding.replicated(mesh()))

    def output(weights, x, which):
        return model.apply(weights, x, train=False)[0][:, 0]

    placed = sharding.put(mesh(), {"x": volumes[..., None].astype(np.float32)})["x"]
    _, slopes = gradient.program(output, mesh())(variables, placed, np.int32(0))
    maps = [measure(output, volumes[0], (6, 6, 6), (5, 5, 5), 0.0, variables, model=m)[2] for m in (None, model)]
    return [*maps, np.asarray(slopes)]


def test_eight_devices_make_the_maps_of_one():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT], env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    count, *found = json.loads(done.stdout.splitlines()[-1])
    assert count == 8
    there = small_maps()
    for eight, one in zip(found, there, strict=True):
        # Rounding of the outputs, which are larger than the differences between them.
        np.testing.assert_allclose(np.array(eight), one, atol=5e-5 * np.abs(one).max())
    np.testing.assert_allclose(there[1], there[0], atol=1e-4 * np.abs(there[0]).max())
