"""The decoders of masked modelling: counts, where tokens and voxels go, and what a user may get wrong."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxneuro import models
from jaxneuro.models import masked
from jaxneuro.patches import patchify, unpatchify
from tests.models.every import abstract_init, count, example, random_variables

CUBE = (96, 96, 96)
SMALL = (16, 24, 16)
DECODERS = [name for name, preset in models.MODELS.items() if preset.encoder]


def evaluation(model):
    return jax.jit(partial(model.apply, train=False))


def test_counts_of_the_autoencoder():
    encoder = 72 * 300**2 + 4395 * 300
    # embed, mask token, positions, two blocks, norm, prediction
    decoder = 301 * 192 + 192 + 217 * 192 + 2 * (12 * 192**2 + 13 * 192) + 2 * 192 + 193 * 4096
    assert count(models.build("vit_b16_mae", input_size=CUBE)) == encoder + decoder == 9_578_788
    # MONAI counts 9,576,112: it has an unused norm of 2 w in each block, no position for the class token (one in each
    # half here), and no bias of queries, keys and values.
    ours = count(models.build("vit_b16_mae", input_size=CUBE, positions="sincos", qkv_bias=False))
    assert ours == 9_576_112 - 2 * (6 * 300 + 2 * 192) + 300 + 192


@pytest.mark.parametrize(("name", "channels", "width", "stride"), [("vit", 3, 300, 16**3), ("swin", 1, 768, 2 * 32**2)])
def test_count_of_the_linear_decoder(name, channels, width, stride):
    backbone, embed = {"vit": ("vit_b16", 300), "swin": ("swin_t", 96)}[name]
    alone = count(models.build(backbone, num_outputs=0, in_channels=channels))
    more = embed + (width + 1) * stride * channels  # the mask token; one linear layer
    assert count(models.build(f"{backbone}_simmim", in_channels=channels)) == alone + more


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_stands_on_the_backbone_of_its_name_and_takes_its_keywords(name):
    backbone = name.replace("_mae", "").replace("_simmim", "")
    assert models.build(name).encoder == models.build(backbone, num_outputs=0)
    keywords = {"input_size": [32, 32, 48], "in_channels": 2, "patch_size": [8, 4, 8], "dtype": jnp.bfloat16}
    assert models.build(name, **keywords).encoder == models.build(backbone, num_outputs=0, **keywords)


def test_keywords_of_encoder_and_decoder_go_together():
    model = models.build("vit_b16_mae", depth=3, decoder_depth=1, decoder_width=96, decoder_mlp_ratio=2)
    assert (model.encoder.depth, model.decoder_depth, model.decoder_width) == (3, 1, 96)
    assert abstract_init(model)["params"]["decoder"]["block0"]["mlp"]["fc1"]["kernel"].shape == (96, 192)


# --- The masked autoencoder ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder():
    """Return a model, its variables, its inputs (a quarter of 12 patches kept) and a jitted evaluation of it."""
    model = models.build("vit_b16_mae_testing", input_size=SMALL, in_channels=3)
    return model, random_variables(abstract_init(model)), example(model), evaluation(model)


def test_mask_tokens_stand_where_patches_are_missing(autoencoder):
    """Without blocks the decoder is: place, add positions, normalise, predict; worked out in float64."""
    model, _, inputs, _ = autoencoder
    model = model.copy(decoder_depth=0)
    variables = random_variables(abstract_init(model))
    predictions, features = evaluation(model)(variables, **inputs)
    assert predictions.shape == (2, 12, 8**3 * 3)
    decoder = {k: np.asarray(v, np.float64) for k, v in flatten_dict(variables["params"]["decoder"], sep="/").items()}
    kept = np.asarray(features["tokens"], np.float64) @ decoder["embed/kernel"] + decoder["embed/bias"]
    expected = np.empty(predictions.shape)
    for b, keep in enumerate(inputs["keep"]):
        for n in range(12):
            x = kept[b, 1 + list(keep).index(n)] if n in keep else decoder["mask_token"][0, 0]
            x = x + decoder["positions"][0, 1 + n]
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * decoder["norm/scale"] + decoder["norm/bias"]
            expected[b, n] = x @ decoder["pred/kernel"] + decoder["pred/bias"]
    np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_the_class_token_goes_through_the_decoder_and_is_dropped(autoencoder):
    model, variables, inputs, _ = autoencoder
    decoder = masked.MAEDecoder((2, 3, 2), 12, 1, 2, 4.0, 8**3 * 3, True, 1e-5, False, jnp.float32)
    tokens = np.random.default_rng(0).normal(size=(2, 4, model.encoder.width)).astype(np.float32)
    other = np.concatenate([tokens[:, :1] + 1, tokens[:, 1:]], axis=1)
    run = evaluation(decoder)
    predictions = [run({"params": variables["params"]["decoder"]}, x, inputs["keep"]) for x in (tokens, other)]
    assert predictions[0].shape == (2, 12, 8**3 * 3)
    # Every patch, kept or missing, attends to it.
    assert (jnp.abs(predictions[1] - predictions[0]).max(-1) > 1e-3).all()


def test_the_order_of_kept_patches_does_not_matter_and_which_does(autoencoder):
    _, variables, inputs, run = autoencoder
    x, keep = inputs["x"], inputs["keep"]
    predictions = run(variables, x, keep=keep)[0]
    close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5 * float(jnp.abs(predictions).max()))
    close(run(variables, x, keep=keep[:, ::-1])[0], predictions)
    others = np.stack([np.setdiff1d(np.arange(12), row)[: keep.shape[1]] for row in keep])
    with pytest.raises(AssertionError):
        close(run(variables, x, keep=others)[0], predictions)


def test_patches_left_out_do_not_leak_into_the_predictions(autoencoder):
    _, variables, inputs, run = autoencoder
    patches = np.array(patchify(inputs["x"], (8, 8, 8)))
    for b, keep in enumerate(inputs["keep"]):
        patches[b, np.setdiff1d(np.arange(12), keep)] = 9.0
    other = unpatchify(patches, (8, 8, 8), (2, 3, 2))
    assert (other != inputs["x"]).any()
    same = [run(variables, x, keep=inputs["keep"])[0] for x in (inputs["x"], other)]
    np.testing.assert_array_equal(*same)


def test_remat_keeps_gradients_and_fixed_positions_get_none():
    def gradients(remat):
        model = models.build("vit_b16_mae_testing", input_size=SMALL, positions="sincos", depth=1, remat=remat)
        inputs, params = example(model), random_variables(abstract_init(model))["params"]
        gradient = jax.grad(lambda p: jnp.mean(jnp.square(model.apply({"params": p}, **inputs, train=True)[0])))
        return flatten_dict(jax.jit(gradient)(params), sep="/"), str(jax.make_jaxpr(gradient)(params))

    (plain, program), (again, rematted) = gradients(False), gradients(True)
    scale = max(float(jnp.abs(g).max()) for g in plain.values())
    for path, g in plain.items():
        np.testing.assert_allclose(again[path], g, rtol=1e-3, atol=1e-5 * scale, err_msg=path)
    still = sorted(path for path, g in plain.items() if not jnp.abs(g).max() > 0)
    assert still == ["decoder/positions", "encoder/positions"]
    # One block of the encoder, one of the decoder.
    assert [text.count("checkpoint[") + text.count("remat2[") for text in (program, rematted)] == [0, 2]


def test_dropout_of_the_encoder_is_keyed():
    model = models.build("vit_b16_mae_testing", input_size=SMALL, drop_rate=0.3, drop_path=0.3)
    variables, inputs = random_variables(abstract_init(model)), example(model)
    run = jax.jit(lambda key: model.apply(variables, **inputs, train=True, rngs={"dropout": key})[0])
    first, second, third = (run(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


# --- SimMIM -------------------------------------------------------------------------------------------------------

SWIN = {"depths": (1, 1)}


@pytest.mark.parametrize(
    ("name", "size", "stride", "keywords"),
    [
        ("vit_b16_simmim_testing", (16, 24, 16), (8, 8, 8), {}),
        ("vit_b16_simmim_testing", (16, 12, 8), (8, 4, 2), {"patch_size": (8, 4, 2)}),
        ("swin_t_simmim_testing", (7, 30, 17), (2, 8, 8), SWIN),
        ("swin_t_simmim_testing", (30, 7, 17), (8, 2, 8), {**SWIN, "time_axis": 1}),
        ("swin_t_simmim_testing", (9, 30, 7), (8, 8, 2), {**SWIN, "time_axis": 2}),
    ],
)
def test_a_token_is_decoded_where_it_stands(name, size, stride, keywords):
    """A column of the decoder lights one voxel of each token's cell, in one channel; a token lights its cell alone."""
    model = models.build(name, input_size=size, in_channels=3, **keywords)
    assert model.encoder.stride() == stride
    variables = random_variables(abstract_init(model))
    decoder = jax.tree.map(jnp.zeros_like, variables["params"]["decoder"])
    d, h, w, c = 1, 3, 1, 2
    d, h, w = (min(i, s - 1) for i, s in zip((d, h, w), stride, strict=True))
    column = c * np.prod(stride) + (d * stride[1] + h) * stride[2] + w
    x = np.random.default_rng(0).normal(size=(1, *size, 3)).astype(np.float32)
    mask = np.zeros((1, *model.encoder.grid()), np.float32)
    run = evaluation(model)

    def decode(decoder):
        return run({"params": {**variables["params"], "decoder": decoder}}, x, mask=mask)

    volume, _ = decode({**decoder, "bias": decoder["bias"].at[column].set(1.0)})
    assert volume.shape == x.shape
    expected = np.zeros_like(x)
    expected[:, d :: stride[0], h :: stride[1], w :: stride[2], c] = 1
    np.testing.assert_array_equal(volume, expected)
    # Feature 0 of the map, copied to that column, comes out in the map's own order, less what padding added.
    volume, features = decode({**decoder, "kernel": decoder["kernel"].at[0, column].set(1.0)})
    lit = np.asarray(volume)[:, d :: stride[0], h :: stride[1], w :: stride[2], c]
    ends = lit.shape[1:]
    np.testing.assert_allclose(lit, features["map"][:, : ends[0], : ends[1], : ends[2], 0], rtol=1e-5, atol=1e-6)
    assert np.count_nonzero(volume) == np.count_nonzero(lit) > 1


@pytest.mark.parametrize(
    ("name", "size", "keywords"),
    [
        ("vit_b16_simmim_testing", (16, 24, 32), {}),
        ("swin_t_simmim_testing", (8, 24, 16), SWIN),
        ("swin_t_simmim_testing", (24, 16, 8), {**SWIN, "time_axis": 2}),
    ],
)
def test_a_hidden_patch_is_the_token_in_its_place(name, size, keywords):
    """Hiding patches behind the embedding of a constant patch is the same as filling them with that constant."""
    model = models.build(name, input_size=size, **keywords)
    params = random_variables(abstract_init(model))["params"]
    embed = jax.tree.map(lambda p: np.asarray(p, np.float64), params["encoder"]["patch_embed"])
    token = 0.7 * embed["proj"]["kernel"].sum((0, 1, 2, 3)) + embed["proj"]["bias"]
    if "norm" in embed:  # Swin normalises each patch
        token = (token - token.mean()) / np.sqrt(token.var() + 1e-5)
        token = token * embed["norm"]["scale"] + embed["norm"]["bias"]
    params = {**params, "mask_token": jnp.asarray(token, jnp.float32)}
    rng = np.random.default_rng(0)
    grid = model.encoder.grid()
    mask = (rng.uniform(size=(2, *grid)) < 0.4).astype(np.float32)
    x = rng.normal(size=(2, *size, 1)).astype(np.float32)
    voxels = mask
    for axis, (n, g) in enumerate(zip(size, grid, strict=True), start=1):
        voxels = voxels.repeat(n // g, axis)
    filled = np.where(voxels[..., None] == 1, np.float32(0.7), x)
    run = evaluation(model)
    hidden, want = run({"params": params}, x, mask=mask)[0], run({"params": params}, filled, mask=0 * mask)[0]
    np.testing.assert_allclose(hidden, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))
    # What is under a hidden patch has no influence at all; what is not hidden has.
    other = np.where(voxels[..., None] == 1, np.float32(9), x)
    np.testing.assert_array_equal(run({"params": params}, other, mask=mask)[0], hidden)
    assert (run({"params": params}, other, mask=0 * mask)[0] != hidden).any()


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("vit_b16_mae", {"class_token": False, "pool": "mean"}, "expected an encoder with a class token"),
        ("vit_b16_mae", {"decoder_width": 100}, "decoder_width 100; expected a multiple of 6 and of decoder_heads 6"),
        ("vit_b16_mae", {"decoder_width": 40, "decoder_heads": 4}, "multiple of 6"),
        ("vit_b16_mae", {"decoder_width": 0}, "decoder_width=0"),
        ("vit_b16_mae", {"decoder_heads": 0}, "decoder_heads=0"),
        ("vit_b16_mae", {"decoder_widht": 96}, "unknown keyword decoder_widht .*: known are .*width.*decoder_width"),
        ("vit_b16_mae", {"num_outputs": 2}, "unknown keyword num_outputs"),
        ("vit_b16_mae", {"encoder": "vit_b16"}, "unknown keyword encoder"),
        ("vit_b16_mae", {"input_size": (80, 81, 80)}, r"such as \(80, 80, 80\)"),
        ("vit_b16_simmim", {"decoder_width": 96}, "unknown keyword decoder_width"),
    ],
)
def test_what_cannot_be_is_told(name, keywords, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **keywords)
