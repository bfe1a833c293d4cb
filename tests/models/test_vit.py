"""The ViT and the decoders of masked modelling: counts, masks, patches, and what a user may get wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import models
from jaxneuro.models import masked
from tests.models.every import abstract_init, count, random_variables

CUBE = (96, 96, 96)


@pytest.mark.parametrize(
    ("width", "expected"), [(300, 7_798_500), (768, 45_842_688), (312, 8_380_008), (288, 7_237_728)]
)
def test_counts_at_96(width, expected):
    assert expected == 72 * width**2 + 4395 * width
    assert count(models.build("vit_b16", input_size=CUBE, width=width, num_outputs=0)) == expected


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [("vit_b16_w768", 768, 6), ("vit_b16_l12", 768, 12), ("vit_l16", 1024, 24), ("vit_h16", 1280, 32)],
)
def test_counts_of_the_named_sizes(name, width, depth):
    # Each block 12 w^2 + 13 w; patches 4097 w, class token w, positions 217 w, last norm 2 w; head w + 1.
    expected = depth * (12 * width**2 + 13 * width) + (4097 + 1 + 217 + 2) * width + width + 1
    assert count(models.build(name, input_size=CUBE)) == expected


def test_count_of_the_autoencoder():
    # MONAI counts 9,576,112: it has an unused norm of 2 w in each block, no position for the class token (one in each
    # half here), and no bias of queries, keys and values.
    ours = count(models.build("vit_b16_mae", input_size=CUBE, positions="sincos", qkv_bias=False))
    assert ours == 9_576_112 - 2 * (6 * 300 + 2 * 192) + 300 + 192


def test_positions_begin_as_fixed_or_normal():
    model = models.build("vit_b16_testing", input_size=(16, 16, 16), positions="sincos")
    params = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)), train=False)["params"]
    table = params["positions"].unbox()
    assert not table[:, 0].any()
    np.testing.assert_allclose(jnp.sum(jnp.square(table[0, 1:]), -1), 12, rtol=1e-5)  # sin^2 + cos^2, 12 times


@pytest.fixture(scope="module")
def small():
    model = models.build("vit_b16_testing", input_size=(16, 24, 16), num_outputs=3)
    x = np.random.default_rng(0).normal(size=(2, 16, 24, 16, 1)).astype(np.float32)
    return model, random_variables(abstract_init(model)), x


def test_all_patches_kept_in_any_order_is_no_mask(small):
    model, variables, x = small
    order = np.stack([np.random.default_rng(i).permutation(12) for i in range(2)])
    plain, features = model.apply(variables, x, train=False)
    kept, shuffled = model.apply(variables, x, train=False, keep=order)
    np.testing.assert_allclose(kept, plain, rtol=1e-4, atol=1e-5)
    tokens = np.take_along_axis(np.asarray(features["tokens"][:, 1:]), order[..., None], 1)
    np.testing.assert_allclose(shuffled["tokens"][:, 1:], tokens, rtol=1e-4, atol=1e-5)
    assert "map" not in shuffled
    np.testing.assert_array_equal(features["map"].reshape(2, 12, 24), features["tokens"][:, 1:])


def test_patches_not_kept_and_hidden_patches_have_no_influence(small):
    model, variables, x = small
    other = x.copy()
    other[:, 8:16, 16:24, 0:8] += 3.0  # patch (1, 2, 0) of 2 x 3 x 2: number 10
    keep = np.array([[0, 3, 11], [4, 9, 2]])
    mask = np.zeros((2, 2, 3, 2), np.float32)
    mask[:, 1, 2, 0] = 1
    for keywords in ({"keep": keep}, {"masked": (mask, np.ones(24, np.float32))}):
        np.testing.assert_array_equal(
            model.apply(variables, x, train=False, **keywords)[0],
            model.apply(variables, other, train=False, **keywords)[0],
        )
    assert (model.apply(variables, x, train=False)[0] != model.apply(variables, other, train=False)[0]).any()


def test_patches_are_cut_and_joined_in_order():
    x = np.arange(2 * 4 * 6 * 4 * 2, dtype=np.float32).reshape(2, 4, 6, 4, 2)
    patches = masked.patchify(x, (2, 3, 2))
    assert patches.shape == (2, 8, 24)
    # The patch (1, 0, 1) is number 5; its voxel (1, 2, 0), channel 1, stands at ((1 * 3 + 2) * 2 + 0) * 2 + 1.
    assert patches[1, 5, 21] == x[1, 2 + 1, 2, 2 + 0, 1]
    np.testing.assert_array_equal(masked.unpatchify(patches, (2, 3, 2), (2, 2, 2)), x)


@pytest.mark.parametrize(
    ("name", "size", "stride"),
    [
        ("vit_b16_simmim_testing", (16, 24, 16), (8, 8, 8)),
        ("swin_t_simmim_testing", (7, 30, 17), (2, 8, 8)),
    ],
)
def test_a_token_is_decoded_where_it_stands(name, size, stride):
    """Setting a voxel's column of the decoder lights that voxel of each token's cell, in its channel, and no other."""
    model = models.build(name, input_size=size, in_channels=3)
    assert model.encoder.stride() == stride
    variables = random_variables(abstract_init(model))
    decoder = jax.tree.map(jnp.zeros_like, variables["params"]["decoder"])
    d, h, w, c = 1, 3, 6, 2
    column = c * np.prod(stride) + (d * stride[1] + h) * stride[2] + w
    decoder["bias"] = decoder["bias"].at[column].set(1.0)
    variables = {"params": {**variables["params"], "decoder": decoder}}
    x = np.zeros((1, *size, 3), np.float32)
    volume, _ = model.apply(variables, x, train=False, mask=np.zeros((1, *model.encoder.grid()), np.float32))
    assert volume.shape == x.shape
    expected = np.zeros_like(x)
    expected[:, d :: stride[0], h :: stride[1], w :: stride[2], c] = 1
    np.testing.assert_array_equal(volume, expected)


def test_hidden_voxels_do_not_leak_into_the_reconstruction():
    model = models.build("vit_b16_simmim_testing", input_size=(16, 16, 16))
    variables = random_variables(abstract_init(model))
    mask = np.zeros((1, 2, 2, 2), np.float32)
    mask[0, 1, 0, 1] = 1
    x = np.random.default_rng(0).normal(size=(1, 16, 16, 16, 1)).astype(np.float32)
    other = x.copy()
    other[0, 8:, :8, 8:] = 9.0
    run = [model.apply(variables, v, train=False, mask=mask)[0] for v in (x, other)]
    np.testing.assert_array_equal(*run)


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("vit_b16", {"input_size": (80, 81, 80)}, r"multiples of \(16, 16, 16\), such as \(80, 80, 80\)"),
        ("vit_b16", {"input_size": (7, 80, 80)}, r"such as \(16, 80, 80\)"),
        ("vit_b16", {"width": 301}, "for 12 heads"),
        ("vit_b16", {"positions": "sincos", "width": 40, "heads": 4}, "multiple of 6"),
        ("vit_b16", {"class_token": False}, "expected mean"),
        ("vit_b16_mae", {"class_token": False, "pool": "mean"}, "expected an encoder with a class token"),
        ("vit_b16_mae", {"decoder_width": 100}, "multiple of 6 and of decoder_heads 6"),
        ("vit_b16_mae", {"decoder_widht": 96}, "unknown keyword decoder_widht .*: known are .*width.*decoder_width"),
        ("vit_b16_mae", {"num_outputs": 2}, "unknown keyword num_outputs"),
    ],
)
def test_what_cannot_be_is_told(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **keywords)
