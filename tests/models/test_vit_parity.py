"""The ViT and the masked autoencoder against MONAI's, every weight random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import interop, models
from jaxneuro.models.transformer import sincos_positions
from tests.torch_reference import largest_difference, monai_nets, randomised, relative_norm, state_dict, torch, volumes

# MONAI's own call of torch.meshgrid warns, once a process.
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")

PUBLISHED = {
    "vit_b16": {"patch_size": (16,) * 3, "hidden_size": 300, "mlp_dim": 1200, "num_layers": 6, "num_heads": 12},
    "vit_b16_testing": {"patch_size": (8,) * 3, "hidden_size": 24, "mlp_dim": 96, "num_layers": 2, "num_heads": 4},
}
DECODERS = {
    "vit_b16": {"decoder_hidden_size": 192, "decoder_mlp_dim": 768, "decoder_num_layers": 2, "decoder_num_heads": 6},
    "vit_b16_testing": {
        "decoder_hidden_size": 12, "decoder_mlp_dim": 48, "decoder_num_layers": 1, "decoder_num_heads": 2,
    },
}  # fmt: skip
MAE = {"vit_b16": "vit_b16_mae", "vit_b16_testing": "vit_b16_mae_testing"}


def vit(name, size, *, channels=1, outputs=1, qkv_bias=True, class_token=True, **keywords):
    """Return MONAI's ViT with random weights, ours, and those weights in ours."""
    settings = {"in_channels": channels, "img_size": size, "qkv_bias": qkv_bias, **PUBLISHED[name]}
    settings["mlp_dim"] = keywords.get("mlp_hidden", settings["mlp_dim"])
    if class_token:
        settings |= {"classification": True, "num_classes": outputs, "post_activation": None}
    theirs = randomised(monai_nets.ViT(**settings))
    ours = models.build(
        name,
        num_outputs=outputs if class_token else 0,
        input_size=size,
        in_channels=channels,
        qkv_bias=qkv_bias,
        class_token=class_token,
        pool="class" if class_token else "mean",
        **keywords,
    )
    return theirs, ours, interop.from_torch(ours, state_dict(theirs), source="monai")


def compare_vit(name, size, batch=1, **keywords):
    theirs, ours, variables = vit(name, size, **keywords)
    x, tensor = volumes(batch, *size, ours.in_channels)
    tokens = {}
    theirs.norm.register_forward_hook(lambda _, __, out: tokens.update(tokens=out))
    with torch.no_grad():
        expected = theirs(tensor)[0]
    outputs, features = jax.jit(lambda v, x: ours.apply(v, x, train=False))(variables, x)
    if not ours.class_token:
        outputs = features["tokens"]
    return largest_difference(features["tokens"], tokens["tokens"]), largest_difference(outputs, expected)


def mae(name, size, *, channels=1, qkv_bias=False, **keywords):
    """Return MONAI's masked autoencoder with random weights, ours, and those weights in ours."""
    theirs = monai_nets.MaskedAutoEncoderViT(
        in_channels=channels, img_size=size, qkv_bias=qkv_bias, **PUBLISHED[name], **DECODERS[name]
    )
    ours = models.build(
        MAE[name], input_size=size, in_channels=channels, qkv_bias=qkv_bias, positions="sincos", **keywords
    )
    return randomised(theirs), ours, interop.from_torch(ours, state_dict(theirs), source="monai")


def keeping(theirs, keep):
    """Let MONAI's network keep these patches."""
    numbers = torch.from_numpy(keep)

    def masking(x, masking_ratio=None):
        rows = torch.arange(len(numbers))[:, None]
        mask = torch.ones(x.shape[:2], dtype=torch.int)
        mask[rows, numbers] = 0
        return x[rows, numbers], numbers, mask

    theirs._masking = masking


def draw(batch, patches, kept):
    rng = np.random.default_rng(3)
    return np.stack([rng.permutation(patches)[:kept] for _ in range(batch)])


def compare_mae(name, size, batch=1, **keywords):
    theirs, ours, variables = mae(name, size, **keywords)
    x, tensor = volumes(batch, *size, ours.encoder.in_channels)
    patches = int(np.prod(ours.encoder.grid()))
    keep = draw(batch, patches, max(patches // 10, 2))
    keeping(theirs, keep)
    tokens = {}
    theirs.blocks.register_forward_hook(lambda _, __, out: tokens.update(tokens=out))
    with torch.no_grad():
        expected, mask = theirs(tensor)
    assert int(mask.sum()) == batch * (patches - keep.shape[1])
    outputs, features = jax.jit(lambda v, x, keep: ours.apply(v, x, train=False, keep=keep))(variables, x, keep)
    return largest_difference(features["tokens"], tokens["tokens"]), largest_difference(outputs, expected)


@pytest.mark.parametrize(
    ("size", "keywords"),
    [
        ((32, 32, 32), {}),
        ((16, 24, 40), {"channels": 3, "outputs": 2}),
        ((24, 24, 24), {"qkv_bias": False}),
        ((24, 16, 24), {"class_token": False}),
        ((24, 16, 24), {"class_token": False, "qkv_bias": False, "mlp_hidden": 41}),
    ],
)
def test_small_vit_equals_monai(size, keywords):
    assert max(compare_vit("vit_b16_testing", size, batch=2, **keywords)) <= 1e-4


@pytest.mark.parametrize(
    ("size", "keywords"), [((32, 32, 32), {}), ((16, 24, 40), {"channels": 3}), ((24, 24, 24), {"qkv_bias": True})]
)
def test_small_autoencoder_equals_monai(size, keywords):
    assert max(compare_mae("vit_b16_testing", size, batch=2, **keywords)) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 80, 80), (96, 96, 96), (64, 96, 80)], ids=str)
def test_published_vit_and_autoencoder_equal_monai(size):
    assert max(compare_vit("vit_b16", size)) <= 1e-4
    assert max(compare_mae("vit_b16", size)) <= 1e-4


def gradients_of(function, params):
    return {"params": jax.jit(jax.grad(function))(params), "batch_stats": {}}


def test_gradients_of_the_vit_equal_monais():
    theirs, ours, variables = vit("vit_b16_testing", (24, 32, 16))
    x, tensor = volumes(2, 24, 32, 16, 1)
    weight = np.random.default_rng(2).normal(size=(2, 1)).astype(np.float32)
    theirs.train()
    (theirs(tensor)[0] * torch.from_numpy(weight)).sum().backward()
    # The norm of cross attention takes no part, there as here.
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters() if "norm_cross_attn" not in n}

    def scalar(params):
        return jnp.sum(ours.apply({"params": params}, x, train=True)[0] * weight)

    gradients = gradients_of(scalar, variables["params"])
    # Ours has a position for the class token besides, whose gradient is that of the token.
    token, positions = gradients["params"]["cls_token"], gradients["params"]["positions"]
    np.testing.assert_allclose(positions[:, :1], token, rtol=1e-5)
    gradients["params"]["positions"] = positions.at[:, :1].set(0)
    state = interop.to_torch(ours, gradients, target="monai")
    assert relative_norm({k: state[k] for k in expected}, expected) <= 1e-3


def test_gradients_of_the_autoencoder_equal_monais_and_leave_fixed_positions():
    theirs, ours, variables = mae("vit_b16_testing", (24, 32, 16))
    x, tensor = volumes(2, 24, 32, 16, 1)
    keep = draw(2, 24, 6)
    keeping(theirs, keep)
    weight = np.random.default_rng(2).normal(size=(2, 24, 512)).astype(np.float32)
    theirs.train()
    (theirs(tensor)[0] * torch.from_numpy(weight)).sum().backward()
    expected = {n: p.grad.numpy() for n, p in theirs.named_parameters() if p.grad is not None}

    def scalar(params):
        return jnp.sum(ours.apply({"params": params}, x, train=True, keep=keep)[0] * weight)

    gradients = gradients_of(scalar, variables["params"])
    assert not gradients["params"]["encoder"]["positions"].any()
    assert not gradients["params"]["decoder"]["positions"].any()
    state = interop.to_torch(ours, gradients, target="monai")
    assert relative_norm({k: state[k] for k in expected}, expected) <= 1e-3


def test_fixed_positions_equal_monais():
    from monai.networks.blocks.pos_embed_utils import build_sincos_position_embedding

    expected = build_sincos_position_embedding([3, 5, 4], 24, 3)
    assert largest_difference(sincos_positions((3, 5, 4), 24, class_token=False), expected) <= 1e-5
