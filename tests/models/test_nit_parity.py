"""NiT and MiNiT against a plain torch statement of them, every weight random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from jaxneuro.models import transformer
from tests.models import minit_torch
from tests.torch_reference import largest_difference, randomised, relative_norm, state_dict, torch, volumes

PUBLISHED = {
    "minit": {"block_size": 16, "patch_size": 4, "dim": 256, "depth": 6, "heads": 8, "dim_head": 32, "mlp_dim": 309},
    "nit": {"patch_size": 8, "dim": 256, "depth": 4, "heads": 8, "dim_head": 32, "mlp_dim": 234},
    "minit_testing": {
        "block_size": 16, "patch_size": 4, "dim": 16, "depth": 3, "heads": 2, "dim_head": 8, "mlp_dim": 20,
    },
    "nit_testing": {"patch_size": 8, "dim": 16, "depth": 2, "heads": 2, "dim_head": 8, "mlp_dim": 20},
}  # fmt: skip
CUBES = {"patch_size", "block_size"}


def pair(name, size, *, channels=1, outputs=2, layer_drop=0.0, **more):
    """Return the torch statement with random weights, ours, and those weights in ours.

    `layer_drop`, `depth`, `patch_size` and `block_size` are set in both, other keywords in ours alone.
    """
    size = (size,) * 3 if isinstance(size, int) else size
    both = {k: more.pop(k) for k in list(more) if k in PUBLISHED[name]}
    ours = {k: (v,) * 3 if k in CUBES else v for k, v in both.items()} | more
    settings = {"image_size": size, "num_classes": outputs, "channels": channels, **PUBLISHED[name], **both}
    if name.startswith("minit"):
        theirs = minit_torch.MINiT(drophead=layer_drop, **settings)
        ours["layer_drop"] = layer_drop
    else:
        theirs = minit_torch.NiT(**settings)
    model = models.build(name, num_outputs=outputs, input_size=size, in_channels=channels, **ours)
    return randomised(theirs), model, interop.from_torch(model, state_dict(theirs), source="minit")


def run_statement(theirs, x):
    """Return outputs, and map [b, d', h', w', c] and pooled [b, c], put together by loops from what its layers gave."""
    seen = []
    vit = getattr(theirs, "vit", theirs)
    hook = vit.transformer.register_forward_hook(lambda module, args, y: seen.append(y))
    with torch.no_grad():
        outputs = theirs(x)
    hook.remove()
    side = getattr(theirs, "block", None)
    step = side // vit.patch if side else 0
    grid = [n // vit.patch for n in x.shape[2:]]
    whole = np.full((len(x), *grid, seen[0].shape[-1]), np.nan, np.float32)
    corners = [[0] if not side else range(0, n, step) for n in grid]
    numbered = ((i, j, k) for i in corners[0] for j in corners[1] for k in corners[2])
    for (i, j, k), tokens in zip(numbered, seen, strict=True):
        part = whole[:, i : i + step, j : j + step, k : k + step] if side else whole
        places = ((d, h, w) for d in range(part.shape[1]) for h in range(part.shape[2]) for w in range(part.shape[3]))
        for token, (d, h, w) in enumerate(places, start=1):
            part[:, d, h, w] = tokens[:, token]
    return outputs, {"map": whole, "pooled": np.mean([y[:, 0].numpy() for y in seen], axis=0)}


def compare(name, size, batch=1, **keywords):
    """Return the largest differences of outputs, map and pooled features."""
    theirs, ours, variables = pair(name, size, **keywords)
    x, tensor = volumes(batch, *ours.input_size, ours.in_channels)
    expected, features = run_statement(theirs, tensor)
    outputs, found = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    return (
        largest_difference(outputs, expected),
        *(largest_difference(found[k], features[k]) for k in ("map", "pooled")),
    )


def test_the_statement_has_the_published_names_and_counts():
    theirs = minit_torch.MINiT(image_size=64, num_classes=2, **PUBLISHED["minit"])
    assert len(theirs.state_dict()) == 77
    assert sum(p.numel() for p in theirs.parameters()) == 3_632_962
    theirs = minit_torch.NiT(image_size=80, num_classes=2, **PUBLISHED["nit"])
    assert len(theirs.state_dict()) == 57
    assert sum(p.numel() for p in theirs.parameters()) == 1_925_036


@pytest.mark.parametrize(("name", "size", "keywords"), [
    ("minit_testing", 32, {}),
    ("minit_testing", (32, 16, 48), {"channels": 3, "outputs": 1, "layer_drop": 0.25}),
    ("minit_testing", (16, 24, 8), {"depth": 2, "block_size": 8, "outputs": 3, "layer_drop": 0.5}),
    ("nit_testing", 32, {}),
    ("nit_testing", (24, 12, 16), {"patch_size": 4, "channels": 3, "outputs": 1, "depth": 3}),
])  # fmt: skip
def test_small_networks_equal_the_statement(name, size, keywords):
    assert max(compare(name, size, batch=2, **keywords)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "keywords"),
    [
        ("minit", 64, {}),
        ("minit", 80, {"layer_drop": 0.25}),
        ("minit", (64, 80, 48), {"layer_drop": 0.25}),
        ("minit", 80, {"block_size": 20, "patch_size": 5}),
        ("nit", 64, {}),
        ("nit", 80, {}),
        ("nit", (64, 96, 72), {}),
    ],
)
def test_published_networks_equal_the_statement(name, size, keywords):
    assert max(compare(name, size, **keywords)) <= 1e-4


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [("nit_testing", {"depth": 2, "patch_size": 4}), ("minit_testing", {"depth": 3, "block_size": 8})],
)
def test_dropout_stands_where_it_is_published(name, settings, monkeypatch):
    """One fixed pattern of kept values for each place, in both: equal outputs mean equal places, in equal order."""
    places, rates = 1 + 3 * settings["depth"], []

    def pattern(place, shape):
        return np.random.default_rng(place).integers(0, 2, shape[-2:]).astype(np.float32) * 2

    def fake(module, x, rate, train):
        assert train
        rates.append(rate)
        return x * pattern(len(rates) - 1, x.shape)

    theirs, ours, variables = pair(name, (8, 16, 16), **settings)
    calls = []

    def hook(module, args, y):
        calls.append(module)
        return args[0] * torch.from_numpy(pattern((len(calls) - 1) % places, y.shape))

    x, tensor = volumes(2, 8, 16, 16, 1)
    with torch.no_grad():
        plain = theirs(tensor)
        for module in theirs.modules():
            if isinstance(module, torch.nn.Dropout):
                module.register_forward_hook(hook)
        expected = theirs(tensor)
    monkeypatch.setattr(transformer, "dropout", fake)
    outputs, _ = ours.copy(drop_rate=0.3, embed_drop_rate=0.2).apply(variables, x, train=True)
    assert rates == [0.2, *[0.3] * (places - 1)]
    assert largest_difference(outputs, expected) <= 1e-4
    assert largest_difference(plain, expected) > 0.01
