"""Our own weights into another of our networks."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.interop import Adaptation, transfer, weights
from tests.models.every import abstract_init, random_variables

DECODERS = [name for name, preset in models.MODELS.items() if preset.encoder and name.endswith("_testing")]
SIZE = {"densenet": (32, 32, 32), "nit": (24, 32, 24), "minit": (32, 16, 32), "vit": (16, 24, 16), "swin": (10, 19, 26)}
#: What the fresh leaves of these tests hold.
DRAWN = 7.0


@pytest.fixture(autouse=True)
def quick_draws(monkeypatch):
    """Let fresh leaves hold one number: compiling a network's own draws takes longer than all else here."""

    def init(model, seed):
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, DRAWN, leaf.dtype), abstract_init(model))

    monkeypatch.setattr(weights, "_init", init)


def build(name, **keywords):
    size = SIZE[name.removeprefix("tiny_").split("_")[0].rstrip("0123456789")]
    return models.build(name, **{"input_size": size, **keywords})


def leaves_of(model, seed=0):
    """Return random leaves of a model by path."""
    return {k: np.array(v) for k, v in weights.flat(random_variables(abstract_init(model), seed)).items()}


def check(variables, rows, expected):
    """Hold every leaf of the result, and its row, against `expected`: path -> array, or None where it is fresh."""
    found = weights.flat(variables)
    assert found.keys() == expected.keys()
    what = {r.ours: r.what for r in rows if r.ours}
    assert what.keys() == expected.keys()
    for path, value in expected.items():
        assert what[path] == ("fresh" if value is None else "copied"), path
        np.testing.assert_array_equal(found[path], DRAWN if value is None else value, err_msg=path)


def ignored(rows):
    return {r.theirs for r in rows if r.what == "ignored"}


# --- Masked modelling: the encoder goes into its backbone, and back -----------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
def test_a_pretrained_encoder_fills_its_backbone_and_the_decoder_is_left_out_by_name(name):
    source, model = build(name), build(models.MODELS[name].encoder)
    leaves = leaves_of(source)
    variables, rows = transfer(model, leaves)
    inside = {re.sub("^params/encoder/", "params/", k): v for k, v in leaves.items() if k.startswith("params/encoder/")}
    heads = [k for k in weights.flat(abstract_init(model)) if k.split("/")[1] in ("head", "distill", "distill_token")]
    assert heads
    check(variables, rows, inside | dict.fromkeys(heads))
    assert ignored(rows) == {k for k in leaves if not k.startswith("params/encoder/")}
    assert any(k.startswith("params/decoder/") for k in ignored(rows))
    # Rows name the leaves, and give their shapes, as the weights have them.
    for row in rows:
        assert row.their_shape == (leaves[row.theirs].shape if row.theirs else ())


@pytest.mark.parametrize("name", DECODERS)
def test_a_backbone_fills_the_encoder_and_the_decoder_begins_afresh(name):
    source, model = build(models.MODELS[name].encoder), build(name)
    leaves = leaves_of(source)
    variables, rows = transfer(model, leaves)
    heads = {k for k in leaves if k.split("/")[1] in ("head", "distill", "distill_token")}
    inside = {k.replace("params/", "params/encoder/", 1): v for k, v in leaves.items() if k not in heads}
    fresh = [k for k in weights.flat(abstract_init(model)) if not k.startswith("params/encoder/")]
    check(variables, rows, inside | dict.fromkeys(fresh))
    assert ignored(rows) == heads


def test_a_decoder_goes_along_to_a_network_that_has_one():
    leaves = leaves_of(build("vit_b16_mae_testing"))
    check(*transfer(build("vit_b16_mae_testing"), leaves), leaves)


def test_what_begins_afresh_is_what_a_new_network_of_the_seed_holds(monkeypatch):
    monkeypatch.undo()  # the network's own draws
    model = build("vit_b16_testing", depth=1, num_outputs=3)
    leaves = leaves_of(build("vit_b16_simmim_testing", depth=1))
    variables, _ = transfer(model, leaves, seed=5)
    found = variables["params"]["head"]["out"]["kernel"]
    x = jnp.zeros((1, 16, 24, 16, 1))
    init = jax.jit(lambda key: model.init(key, x, train=False)["params"]["head"]["out"]["kernel"].value)
    np.testing.assert_array_equal(found, init(jax.random.key(5)))
    assert (found != init(jax.random.key(0))).all()
    np.testing.assert_array_equal(variables["params"]["norm"]["scale"], leaves["params/encoder/norm/scale"])


# --- Contrastive and supervised pre-training ----------------------------------------------------------------------


def test_a_contrastive_encoder_into_a_classifier_lacks_the_last_norm_and_keeps_its_statistics():
    source = build("densenet121_testing", final_norm=False, head_hidden=(8,), num_outputs=6)
    leaves, model = leaves_of(source), build("densenet121_testing", num_outputs=2)
    variables, rows = transfer(model, leaves)
    fresh = [k for k in weights.flat(abstract_init(model)) if k.split("/")[1] in ("norm5", "head")]
    assert len(fresh) == 6  # scale, bias, mean, var; kernel, bias
    check(variables, rows, {k: v for k, v in leaves.items() if "/head/" not in k} | dict.fromkeys(fresh))
    assert ignored(rows) == {f"params/head/{m}/{p}" for m in ("hidden0", "out") for p in ("kernel", "bias")}
    assert (variables["batch_stats"]["norm0"]["var"] != 1).any()


def test_a_classifier_into_a_classifier_copies_the_last_norm():
    leaves = leaves_of(build("tiny_densenet_testing", num_outputs=1))
    variables, rows = transfer(build("tiny_densenet_testing", num_outputs=5), leaves)
    kept = {k: v for k, v in leaves.items() if "/head/" not in k}
    assert "batch_stats/norm5/mean" in kept
    check(variables, rows, kept | dict.fromkeys(["params/head/out/kernel", "params/head/out/bias"]))


@pytest.mark.parametrize(
    "lost", ["batch_stats/", "batch_stats/norm5/var", "batch_stats/denseblock1/denselayer2/norm1/mean"]
)
def test_missing_batch_statistics_are_refused(lost):
    model = build("tiny_densenet_testing")
    every = leaves_of(model)
    leaves = {k: v for k, v in every.items() if not k.startswith(lost)}
    assert len(leaves) < len(every)
    with pytest.raises(
        InputError, match=f"{len(every) - len(leaves)} tensors that the model needs are not there.*{lost}"
    ):
        transfer(model, leaves)


def test_a_head_is_kept_whole_and_refused_at_another_width():
    model = build("vit_b16_testing", num_outputs=2)
    leaves = leaves_of(model)
    check(*transfer(model, leaves, new_head=False), leaves)
    with pytest.raises(
        InputError, match=r"params/head/out/bias: .*\[2\]; expected \[3\].*head/out/kernel: .*\[24, 2\]"
    ):
        transfer(build("vit_b16_testing", num_outputs=3), leaves, new_head=False)
    with pytest.raises(InputError, match=r"2 tensors that the model needs are not there: params/head/out"):
        transfer(model, leaves_of(build("vit_b16_mae_testing")), new_head=False)


def test_nits_unused_distillation_goes_with_the_head():
    model = build("nit_testing", num_outputs=2)
    leaves = leaves_of(model)
    unused = {
        "params/distill_token",
        *(f"params/distill/{k}" for k in ("norm/scale", "norm/bias", "out/kernel", "out/bias")),
    }
    assert unused < leaves.keys()
    check(*transfer(model, leaves, new_head=False), leaves)
    _, rows = transfer(build("nit_testing", num_outputs=4), leaves)
    assert {r.ours for r in rows if r.what == "fresh"} == unused | {k for k in leaves if k.startswith("params/head/")}


# --- What does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"), [("vit_b16_testing", "nit_testing"), ("swin_t_testing", "vit_b16_mae_testing")]
)
def test_another_architecture_is_refused_in_one_message(before, after):
    model, leaves = build(after), leaves_of(build(before))
    with pytest.raises(InputError) as caught:
        transfer(model, leaves)
    assert "\n" not in str(caught.value)
    wanted = {k for k in weights.flat(abstract_init(model)) if not re.match("params/(head|distill|decoder)", k)}
    inner = {k.replace("/encoder/", "/", 1) if "mae" in after else k: k for k in wanted}
    theirs = {k for k in leaves if "/head/" not in k}
    assert f"{len(theirs - inner.keys())} tensors have no place in the model" in str(caught.value)
    assert f"{len(inner.keys() - theirs)} tensors that the model needs are not there" in str(caught.value)


def test_whatever_does_not_fit_is_told_at_once():
    leaves = leaves_of(build("vit_b16_testing", in_channels=3))
    leaves["params/wing"] = leaves.pop("params/norm/scale")
    with pytest.raises(InputError) as caught:
        transfer(build("vit_b16_testing", input_size=(24, 24, 24)), leaves)
    for part in (
        "params/wing [24]",
        "not there: params/norm/scale",
        "--channels sum",
        "params/positions: ",
        "--resample",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["fresh", "ignore"])
@pytest.mark.parametrize(("pattern", "message"), [("^params/nrom/", "is in no path"), ("(", "regular expression")])
def test_a_pattern_that_finds_nothing_is_refused(name, pattern, message):
    model = build("vit_b16_testing")
    with pytest.raises(InputError, match=rf"{name}: found '{re.escape(pattern)}'.*{message}"):
        transfer(model, leaves_of(model), **{name: [pattern]})


def test_patterns_begin_leaves_afresh_and_leave_others_out():
    model = build("vit_b16_testing")
    leaves = leaves_of(model)
    more = {"params/encoder/wing": np.zeros(3, np.float32)}
    variables, rows = transfer(model, leaves | more, new_head=False, fresh=["^params/norm/"], ignore=["/wing$"])
    norm = dict.fromkeys(["params/norm/scale", "params/norm/bias"])
    check(variables, rows, leaves | norm)
    assert ignored(rows) == {"params/encoder/wing", *norm}


def test_ignored_leaves_go_by_the_names_that_the_weights_have():
    leaves = leaves_of(build("vit_b16_simmim_testing", depth=3))
    _, rows = transfer(build("vit_b16_testing"), leaves, ignore=["^params/encoder/block2/"])
    assert ignored(rows) == {k for k in leaves if re.match("params/(encoder/block2|decoder|mask_token)", k)}


# --- What is adapted ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vit_b16_testing", "densenet121_testing", "swin_t_testing", "nit_testing"])
def test_one_channel_of_three_is_their_sum_on_request_alone(name):
    leaves, model = leaves_of(build(name, in_channels=3)), build(name)
    (path,) = (k for k in leaves if k.endswith(("patch_embed/proj/kernel", "conv0/kernel")) and "dense" not in k)
    with pytest.raises(InputError, match=rf"{path}: .*to make one channel of 3: --channels sum"):
        transfer(model, leaves)
    variables, rows = transfer(model, leaves, adaptation=Adaptation(channels="sum"))
    kernel = leaves[path].astype(np.float64)  # [d, h, w, in, out]
    expected = kernel[:, :, :, :1] + kernel[:, :, :, 1:2] + kernel[:, :, :, 2:]
    np.testing.assert_array_equal(weights.flat(variables)[path], expected.astype(np.float32))
    (row,) = (r for r in rows if r.what == "adapted")
    assert (row.ours, row.theirs, row.how) == (path, path, "sum over 3 channels")
    assert (row.their_shape, row.our_shape) == (leaves[path].shape, expected.shape)


def linear(grid, slope):
    """Return a table [cells, width] that is linear in the place of the centres of a grid's cells on [0, 1]^3.

    Beyond the outer centres of a grid of 2 cells, at 1/4 and 3/4, it stays as it is there.
    """
    places = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in grid], indexing="ij"), -1).reshape(-1, 3)
    return np.clip(places, 0.25, 0.75) @ slope


@pytest.mark.parametrize("decoder", ["", "_simmim", "_mae"])
def test_positions_go_to_another_grid_and_only_if_asked_for(decoder):
    source = build("vit_b16_testing", input_size=(16, 16, 16))
    model = build(f"vit_b16{decoder}_testing", input_size=(32, 24, 16))
    leaves, slope = leaves_of(source), np.random.default_rng(0).normal(size=(3, 24))
    leaves["params/positions"][0, 1:] = linear((2, 2, 2), slope)
    with pytest.raises(
        InputError, match=r"params/positions: .*to resample the positions to the grid \(4, 3, 2\): --resample"
    ):
        transfer(model, leaves, source=source)
    variables, rows = transfer(model, leaves, source=source, adaptation=Adaptation(resample=True))
    path = "params/encoder/positions" if decoder else "params/positions"
    found = weights.flat(variables)[path]
    np.testing.assert_allclose(found[0, 1:], linear((4, 3, 2), slope), atol=1e-6)
    np.testing.assert_array_equal(found[0, 0], leaves["params/positions"][0, 0])
    (row,) = (r for r in rows if r.what == "adapted")
    assert (row.ours, row.theirs, row.their_shape) == (path, "params/positions", (1, 9, 24))
    assert row.how == "resampled from the grid (2, 2, 2) to (4, 3, 2)"


def test_the_grid_of_the_source_is_known_where_it_is_no_cube():
    """Of 8 positions nobody can tell a cube of 2 from a bar; of the same number on another grid nothing can be told."""
    source, bar = (build("vit_b16_testing", input_size=size) for size in ((64, 8, 8), (8, 64, 8)))
    leaves = leaves_of(source)
    with pytest.raises(InputError, match=r"to the grid \(1, 8, 1\): --resample"):
        transfer(bar, leaves, source=source)
    may = Adaptation(resample=True)
    variables, rows = transfer(bar, leaves, source=source, adaptation=may)
    # Along an axis of 1 in the source all is the same; an axis of 8 in one cell is the mean of its middle two.
    middle = leaves["params/positions"][0, 4:6].mean(0)
    np.testing.assert_allclose(variables["params"]["positions"][0, 1:], np.tile(middle, (8, 1)), atol=1e-6)
    assert [r.how for r in rows if r.what == "adapted"] == ["resampled from the grid (8, 1, 1) to (1, 8, 1)"]
    cube = build("vit_b16_testing", input_size=(16, 16, 16))
    _, rows = transfer(cube, leaves, source=source, adaptation=may)
    assert [r.how for r in rows if r.what == "adapted"] == ["resampled from the grid (8, 1, 1) to (2, 2, 2)"]
    # The same grid is copied, asked or not.
    check(*transfer(source, leaves, source=source, new_head=False, adaptation=may), leaves)


def test_a_block_cut_otherwise_is_no_copy_though_it_has_as_many_patches():
    source = build("minit_testing", input_size=(16, 16, 16))
    model = build("minit_testing", input_size=(32, 16, 8), block_size=(32, 16, 8))
    assert (source.grid(), model.grid()) == ((4, 4, 4), (8, 4, 2))
    leaves = leaves_of(source)
    with pytest.raises(InputError, match=r"block_embeddings: .*\(8, 4, 2\): --resample.*positions: .*--resample"):
        transfer(model, leaves, source=source)
    variables, rows = transfer(model, leaves, source=source, adaptation=Adaptation(resample=True))
    assert {r.how for r in rows if r.what == "adapted"} == {"resampled from the grid (4, 4, 4) to (8, 4, 2)"}
    for name in ("positions", "block_embeddings"):
        old = leaves[f"params/{name}"][0, 1:].reshape(4, 4, 4, -1)
        old = (old[:, :, ::2] + old[:, :, 1::2]) / 2  # two cells become one: their mean
        new = np.empty((8, *old.shape[1:]))
        # Centres of the new cells, in old ones: -1/4 and 3 1/4 (which take the end), 1/4, 3/4, ...
        new[0], new[7], new[1:7:2], new[2:7:2] = (
            old[0],
            old[3],
            0.75 * old[:3] + 0.25 * old[1:],
            0.25 * old[:3] + 0.75 * old[1:],
        )
        np.testing.assert_allclose(variables["params"][name][0, 1:], new.reshape(64, -1), atol=1e-6)


@pytest.mark.parametrize("decoder", ["", "_simmim"])
def test_tables_over_windows_and_blocks_find_the_sizes_of_both_networks(decoder):
    may = Adaptation(resample=True)
    source = build("swin_t_testing", window=(2, 3, 3))
    model = build(f"swin_t{decoder}_testing")  # of window (4, 3, 3)
    with pytest.raises(InputError, match=r"to resample the table to the window \(4, 3, 3\): --resample"):
        transfer(model, leaves_of(source), source=source)
    _, rows = transfer(model, leaves_of(source), source=source, adaptation=may)
    hows = [r.how for r in rows if r.what == "adapted"]
    assert hows == ["resampled from the window (2, 3, 3) to (4, 3, 3)"] * 4

    source = build("minit_testing", input_size=(32, 16, 32))
    leaves = leaves_of(source)
    model = build(f"minit{decoder}_testing", input_size=(32, 16, 16))
    variables, rows = transfer(model, leaves, source=source, adaptation=may)
    (how,) = (r.how for r in rows if r.what == "adapted")
    assert how == "resampled from the grid (2, 1, 2) to (2, 1, 1)"
    path = "params/encoder/block_embeddings" if decoder else "params/block_embeddings"
    old = leaves["params/block_embeddings"]  # of blocks (0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1)
    expected = np.stack([(old[0] + old[1]) / 2, (old[2] + old[3]) / 2])
    np.testing.assert_allclose(weights.flat(variables)[path], expected, atol=1e-6)
    assert math.prod(model.blocks() if not decoder else model.encoder.blocks()) == 2
