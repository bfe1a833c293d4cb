"""NiT and MiNiT against the torch statement where `test_nit_parity` does not look: features, non-cubes, dropout."""

import jax
import numpy as np
import pytest

from jaxneuro import interop, models
from jaxneuro.models import transformer
from tests.models import minit_torch
from tests.torch_reference import largest_difference, randomised, state_dict, torch, volumes

TESTING = {"dim": 16, "heads": 2, "dim_head": 8, "mlp_dim": 20, "patch_size": 4}
PUBLISHED = {"dim": 256, "heads": 8, "dim_head": 32}
MINIT = {**PUBLISHED, "block_size": 16, "patch_size": 4, "depth": 6, "mlp_dim": 309}
NIT = {**PUBLISHED, "patch_size": 8, "depth": 4, "mlp_dim": 234}
DROPHEAD = {"drophead": 0.25}


def pair(size, settings, channels=1, outputs=2):
    """Return the torch statement with random weights, our model of the same settings, and those weights in it."""
    settings = {"image_size": size, "num_classes": outputs, "channels": channels, **settings}
    kind = minit_torch.MINiT if "block_size" in settings else minit_torch.NiT
    theirs = randomised(kind(**settings))
    names = {"dim": "width", "dim_head": "head_width", "mlp_dim": "mlp_hidden", "drophead": "layer_drop"}
    keywords = {names.get(k, k): settings[k] for k in settings.keys() & {*names, "depth", "heads"}}
    keywords |= {k: (settings[k],) * 3 for k in settings.keys() & {"patch_size", "block_size"}}
    name = "minit" if kind is minit_torch.MINiT else "nit"
    ours = models.build(name, num_outputs=outputs, input_size=size, in_channels=channels, **keywords)
    return theirs, ours, interop.from_torch(ours, state_dict(theirs), source="minit")


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


def assert_equal_features(size, settings, batch, **keywords):
    theirs, ours, variables = pair(size, settings, **keywords)
    x, tensor = volumes(batch, *size, ours.in_channels)
    expected, features = run_statement(theirs, tensor)
    outputs, found = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    differences = {"outputs": largest_difference(outputs, expected)}
    differences |= {k: largest_difference(found[k], features[k]) for k in ("map", "pooled")}
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.parametrize(
    ("size", "settings", "keywords"),
    [
        ((32, 16, 48), {"block_size": 16, "depth": 3, **DROPHEAD}, {"channels": 3}),
        ((16, 24, 8), {"block_size": 8, "depth": 2}, {"outputs": 3}),
        ((24, 12, 16), {"depth": 2}, {"channels": 3}),
        ((12, 16, 20), {"depth": 3}, {"outputs": 1}),
    ],
)
def test_features_equal_the_statement_on_volumes_that_are_no_cubes(size, settings, keywords):
    assert_equal_features(size, {**TESTING, **settings}, 2, **keywords)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((64, 64, 64), MINIT),
        ((64, 80, 48), {**MINIT, **DROPHEAD}),
        ((80, 80, 80), {**MINIT, "block_size": 20, "patch_size": 5}),
        ((80, 80, 80), NIT),
        ((64, 96, 72), NIT),
    ],
)
def test_features_of_published_networks_equal_the_statement(size, settings):
    assert_equal_features(size, settings, 1)


@pytest.mark.parametrize("settings", [{"depth": 2}, {"depth": 3, "block_size": 8}])
def test_dropout_stands_where_it_is_published(settings, monkeypatch):
    """One fixed pattern of kept values for each place, in both: equal outputs mean equal places, in equal order."""
    places, rates = 1 + 3 * settings["depth"], []

    def pattern(place, shape):
        return np.random.default_rng(place).integers(0, 2, shape[-2:]).astype(np.float32) * 2

    def fake(module, x, rate, train):
        assert train
        rates.append(rate)
        return x * pattern(len(rates) - 1, x.shape)

    theirs, ours, variables = pair((8, 16, 16), {**TESTING, **settings})
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
