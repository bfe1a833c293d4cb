"""NiT and MiNiT against a plain torch statement of them, every weight random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from tests.models import minit_torch
from tests.torch_reference import largest_difference, randomised, relative_norm, state_dict, torch, volumes

PUBLISHED = {
    "minit": {"patch_size": 4, "dim": 256, "depth": 6, "heads": 8, "dim_head": 32, "mlp_dim": 309},
    "nit": {"patch_size": 8, "dim": 256, "depth": 4, "heads": 8, "dim_head": 32, "mlp_dim": 234},
    "minit_testing": {"patch_size": 4, "dim": 16, "depth": 3, "heads": 2, "dim_head": 8, "mlp_dim": 20},
    "nit_testing": {"patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 20},
}


def pair(name, side, *, channels=1, outputs=2, **keywords):
    """Return the torch statement with random weights, ours, and those weights in ours."""
    settings = {"image_size": side, "num_classes": outputs, "channels": channels, **PUBLISHED[name]}
    if name.startswith("minit"):
        theirs = minit_torch.MINiT(block_size=16, drophead=keywords.get("layer_drop", 0.0), **settings)
    else:
        theirs = minit_torch.NiT(**settings)
    ours = models.build(name, num_outputs=outputs, input_size=(side,) * 3, in_channels=channels, **keywords)
    return randomised(theirs), ours, interop.from_torch(ours, state_dict(theirs), source="minit")


def compare(name, side, batch=1, **keywords):
    theirs, ours, variables = pair(name, side, **keywords)
    x, tensor = volumes(batch, side, side, side, ours.in_channels)
    with torch.no_grad():
        expected = theirs(tensor)
    outputs, _ = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    return largest_difference(outputs, expected)


def test_the_statement_has_the_published_names_and_counts():
    theirs = minit_torch.MINiT(block_size=16, image_size=64, num_classes=2, **PUBLISHED["minit"])
    assert len(theirs.state_dict()) == 77
    assert sum(p.numel() for p in theirs.parameters()) == 3_632_962
    theirs = minit_torch.NiT(image_size=80, num_classes=2, **PUBLISHED["nit"])
    assert len(theirs.state_dict()) == 57
    assert sum(p.numel() for p in theirs.parameters()) == 1_925_036


@pytest.mark.parametrize(("name", "keywords"), [
    ("minit_testing", {}),
    ("minit_testing", {"channels": 3, "outputs": 1}),
    ("minit_testing", {"layer_drop": 0.25}),
    ("minit_testing", {"depth": 3, "layer_drop": 0.5}),
    ("nit_testing", {}),
    ("nit_testing", {"channels": 3, "outputs": 1}),
])  # fmt: skip
def test_small_networks_equal_the_statement(name, keywords):
    assert compare(name, 32, batch=2, **keywords) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "keywords"),
    [("minit", 64, {}), ("minit", 80, {"layer_drop": 0.25}), ("nit", 64, {}), ("nit", 80, {})],
)
def test_published_networks_equal_the_statement(name, side, keywords):
    assert compare(name, side, **keywords) <= 1e-4


@pytest.mark.parametrize("name", ["minit_testing", "nit_testing"])
def test_gradients_equal_the_statement(name):
    theirs, ours, variables = pair(name, 32, drop_rate=0.0, embed_drop_rate=0.0)
    x, tensor = volumes(2, 32, 32, 32, 1)
    weight = np.random.default_rng(2).normal(size=(2, 2)).astype(np.float32)
    theirs.train()
    (theirs(tensor) * torch.from_numpy(weight)).sum().backward()
    expected = {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for n, p in theirs.named_parameters()}

    def scalar(params):
        return jnp.sum(ours.apply({"params": params}, x, train=True)[0] * weight)

    gradients = jax.jit(jax.grad(scalar))(variables["params"])
    state = interop.to_torch(ours, {"params": gradients, "batch_stats": {}}, target="minit")
    assert relative_norm({k: state[k] for k in expected}, expected) <= 1e-3
    unused = {k for k, v in expected.items() if not np.any(v)}
    assert all(k.startswith("distill") for k in unused)
    assert len(unused) == (5 if name.startswith("nit") else 0)
