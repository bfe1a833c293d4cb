"""Video Swin against torchvision's, every weight and table random."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from tests.torch_reference import (
    largest_difference,
    randomised,
    relative_norm,
    state_dict,
    torch,
    torchvision_swin,
    volumes,
)

#: Named as our presets: what torchvision's general class takes.
REFERENCES = {
    "swin_t": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": [8, 7, 7]},
    "swin_s": {"embed_dim": 96, "depths": [2, 2, 18, 2], "num_heads": [3, 6, 12, 24], "window_size": [8, 7, 7]},
    "swin_b": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": [8, 7, 7]},
    "swin_t_testing": {"embed_dim": 12, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 3, 3]},
}


def reference(name, channels=1, outputs=1):
    return torchvision_swin.SwinTransformer3d(
        patch_size=[2, 4, 4],
        patch_embed=partial(torchvision_swin.PatchEmbed3d, in_channels=channels),
        num_classes=outputs,
        stochastic_depth_prob=0.0,
        **REFERENCES[name],
    )


def pair(name, size, *, channels=1, outputs=1, **keywords):
    """Return torchvision's network with random weights, ours, and those weights in ours."""
    theirs = randomised(reference(name, channels, outputs))
    ours = models.build(name, num_outputs=outputs, input_size=size, in_channels=channels, **keywords)
    return theirs, ours, interop.from_torch(ours, state_dict(theirs), source="torchvision")


def compare(name, size, batch=1, **keywords):
    theirs, ours, variables = pair(name, size, **keywords)
    x, tensor = volumes(batch, *size, ours.in_channels)
    maps = {}
    theirs.norm.register_forward_hook(lambda _, __, out: maps.update(map=out))
    with torch.no_grad():
        expected = theirs(tensor)
    outputs, features = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    return largest_difference(features["map"], maps["map"]), largest_difference(outputs, expected)


# Whole windows; padded ones; clipped along one axis, two, all; odd merges; less than a patch.
SMALL = [(16, 24, 24), (18, 28, 20), (6, 40, 40), (8, 12, 44), (4, 8, 8), (13, 29, 35), (1, 3, 2)]


@pytest.mark.parametrize("size", SMALL, ids=str)
def test_small_network_equals_torchvision(size):
    assert max(compare("swin_t_testing", size, batch=2)) <= 1e-4


def test_three_channels_and_several_outputs():
    assert max(compare("swin_t_testing", (10, 20, 30), channels=3, outputs=4)) <= 1e-4


def test_time_along_another_axis_is_the_transposed_volume():
    theirs, _, variables = pair("swin_t_testing", (16, 24, 20))
    x, tensor = volumes(1, 16, 24, 20, 1)
    maps = {}
    theirs.norm.register_forward_hook(lambda _, __, out: maps.update(map=out.numpy()))
    with torch.no_grad():
        expected = theirs(tensor)
    for axis in (1, 2):
        turned = np.moveaxis(x, 1, 1 + axis)
        model = models.build("swin_t_testing", input_size=turned.shape[1:4], time_axis=axis)
        outputs, features = model.apply(variables, turned, train=False)
        assert largest_difference(outputs, expected) <= 1e-4
        assert largest_difference(features["map"], np.moveaxis(maps["map"], 1, 1 + axis)) <= 1e-4


def test_published_network_equals_torchvision_on_a_small_clip():
    assert max(compare("swin_t", (8, 28, 28))) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 56, 56), (79, 81, 83), (80, 80, 80), (96, 96, 96)], ids=str)
def test_published_network_equals_torchvision(size):
    assert max(compare("swin_t", size)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_s", "swin_b"])
def test_larger_networks_equal_torchvision(name):
    assert max(compare(name, (16, 64, 64))) <= 1e-4


@pytest.mark.parametrize("name", ["swin_t", "swin_s", "swin_b"])
def test_counts_equal_torchvisions(name):
    with torch.device("meta"):
        expected = sum(p.numel() for p in reference(name).parameters())
    shapes = interop.abstract(models.build(name, input_size=(8, 28, 28)))
    assert sum(leaf.size for leaf in shapes.values()) == expected


@pytest.mark.parametrize("size", [(18, 28, 20), (6, 40, 40)], ids=str)
def test_gradients_equal_torchvisions(size):
    theirs, ours, variables = pair("swin_t_testing", size, drop_path=0.0)
    x, tensor = volumes(2, *size, 1)
    weight = np.random.default_rng(2).normal(size=(2, 1)).astype(np.float32)
    theirs.train()
    (theirs(tensor) * torch.from_numpy(weight)).sum().backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    def scalar(params):
        return jnp.sum(ours.apply({"params": params}, x, train=True)[0] * weight)

    gradients = jax.jit(jax.grad(scalar))(variables["params"])
    state = interop.to_torch(ours, {"params": gradients, "batch_stats": {}}, target="torchvision")
    assert relative_norm({k: state[k] for k in expected}, expected) <= 1e-3
