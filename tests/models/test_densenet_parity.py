"""The DenseNets against MONAI's, every weight and running statistic random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from tests.torch_reference import largest_difference, monai_nets, randomised, relative_norm, state_dict, torch, volumes

REFERENCES = {
    "densenet121": {"init_features": 64, "growth_rate": 32, "block_config": (6, 12, 24, 16)},
    "tiny_densenet": {"init_features": 64, "growth_rate": 16, "block_config": (6, 12, 16)},
    "densenet121_testing": {"init_features": 8, "growth_rate": 4, "block_config": (2, 1, 1, 1)},
    "tiny_densenet_testing": {"init_features": 8, "growth_rate": 4, "block_config": (2, 1, 1)},
}


def pair(name, size, *, channels=1, outputs=1, seed=0):
    """Return MONAI's network with random weights, ours, and those weights in ours."""
    settings = {"spatial_dims": 3, "in_channels": channels, "out_channels": outputs, **REFERENCES[name]}
    theirs = randomised(monai_nets.DenseNet(**settings), seed)
    ours = models.build(name, num_outputs=outputs, input_size=size, in_channels=channels)
    return theirs, ours, interop.from_torch(ours, state_dict(theirs), source="monai")


def compare(name, size, batch=1, **keywords):
    theirs, ours, variables = pair(name, size, **keywords)
    x, tensor = volumes(batch, *size, ours.in_channels)
    maps = {}
    theirs.class_layers.relu.register_forward_hook(lambda _, __, out: maps.update(map=out))
    with torch.no_grad():
        expected = theirs(tensor)
    outputs, features = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    last = np.moveaxis(maps["map"].numpy(), 1, -1)
    return largest_difference(features["map"], last), largest_difference(outputs, expected)


@pytest.mark.parametrize("name", ["densenet121_testing", "tiny_densenet_testing"])
@pytest.mark.parametrize(("size", "keywords"), [((32, 32, 32), {}), ((29, 45, 38), {"channels": 3, "outputs": 2})])
def test_small_networks_equal_monai(name, size, keywords):
    assert max(compare(name, size, batch=2, **keywords)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "tiny_densenet"])
@pytest.mark.parametrize("size", [(64, 64, 64), (80, 80, 80), (96, 96, 96), (91, 109, 91)], ids=str)
def test_published_networks_equal_monai(name, size):
    assert max(compare(name, size)) <= 1e-4


@pytest.mark.parametrize("name", ["densenet121_testing", "tiny_densenet_testing"])
def test_training_with_batch_statistics_equals_monai(name):
    size = (48, 40, 56)
    theirs, ours, variables = pair(name, size)
    x, tensor = volumes(3, *size, 1)
    weight = np.random.default_rng(2).normal(size=(3, 1)).astype(np.float32)
    theirs.train()
    loss = (theirs(tensor) * torch.from_numpy(weight)).sum()
    loss.backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters()}

    def scalar(params):
        outputs, updates = ours.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(outputs[0] * weight), updates["batch_stats"]

    (value, statistics), gradients = jax.jit(jax.value_and_grad(scalar, has_aux=True))(variables["params"])
    np.testing.assert_allclose(value, loss.item(), rtol=1e-4)
    # The gradients and statistics in torch's names, by the way that weights go out.
    state = interop.to_torch(ours, {"params": gradients, "batch_stats": statistics}, target="monai")
    assert relative_norm({k: state[k] for k in expected}, expected) <= 1e-3
    moved = {k: v.numpy() for k, v in theirs.state_dict().items() if k.endswith(("running_mean", "running_var"))}
    # running_var moves by the unbiased variance of the batch.
    assert relative_norm({k: state[k] for k in moved}, moved) <= 1e-5
