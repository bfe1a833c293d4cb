"""Weights made for other channels, windows, volumes or patches."""

import re
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from jaxneuro import interop, models
from jaxneuro.interop import Adaptation
from jaxneuro.interop.adapt import resize
from jaxneuro.interop.layouts import windows_of
from jaxneuro.interop.weights import convert
from tests.models.every import abstract_init, random_variables

SIZES = st.tuples(*[st.integers(1, 6)] * 3)


@given(SIZES, SIZES, st.booleans(), st.integers(0, 99))
def test_resizing_equals_scipys_interpolation(old, new, corners, seed):
    table = np.random.default_rng(seed).normal(size=old)
    axes = []
    for n, m in zip(old, new, strict=True):
        if corners:
            axes.append(np.linspace(0, n - 1, m) if m > 1 else np.array([(n - 1) / 2]))
        else:
            axes.append((np.arange(m) + 0.5) * n / m - 0.5)
    expected = ndimage.map_coordinates(table, np.meshgrid(*axes, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(resize(table, new, corners=corners), expected, atol=1e-12)


@given(SIZES, st.booleans())
def test_resizing_to_the_same_size_changes_no_bit(size, corners):
    table = np.random.default_rng(0).normal(size=(*size, 2)).astype(np.float32)
    np.testing.assert_array_equal(resize(table, size, corners=corners), table)


def test_resizing_equals_torchs_interpolation():
    torch = pytest.importorskip("tests.torch_reference").torch
    table = np.random.default_rng(0).normal(size=(5, 4, 6)).astype(np.float32)
    for corners in (False, True):
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(table)[None, None], size=(7, 8, 3), mode="trilinear", align_corners=corners
        )
        np.testing.assert_allclose(resize(table, (7, 8, 3), corners=corners), expected[0, 0], atol=1e-6)


def network(name, **keywords):
    """Return a model, its random variables, and these as torch's tensors."""
    model = models.build(name, **keywords)
    variables = random_variables(abstract_init(model))
    return model, variables, interop.to_torch(model, variables, layout_of(name))


def layout_of(name):
    return {"swin": "torchvision", "vit": "mae", "nit": "minit", "minit": "minit", "densenet121": "monai"}[
        name.split("_")[0]
    ]


def run(model, variables, x):
    return jax.jit(partial(model.apply, train=False))({k: v for k, v in variables.items() if k != "unused"}, x)


def adapted(name, tensors, adaptation, *, fresh=(), **keywords):
    model = models.build(name, **keywords)
    variables, rows = convert(model, tensors, layout_of(name), adaptation=adaptation, fresh=fresh)
    return model, variables, {r.ours: r.how for r in rows if r.what == "adapted"}


@pytest.mark.parametrize("name", ["swin_t_testing", "vit_b16_testing", "minit_testing", "densenet121_testing"])
def test_the_sum_over_channels_is_the_same_function_of_one_volume_in_all(name):
    size = (32, 32, 32)
    more = {"epsilon": 1e-6} if "vit" in name else {}
    colour, variables, tensors = network(name, in_channels=3, input_size=size, **more)
    x = np.random.default_rng(1).normal(size=(2, *size, 1)).astype(np.float32)
    # Of all features that the head sees: its outputs are small differences of large numbers.
    expected = run(colour, variables, np.repeat(x, 3, axis=-1))[1]["pooled"]
    model, found, how = adapted(name, tensors, Adaptation(channels="sum"), input_size=size, **more)
    pooled = run(model, found, x)[1]["pooled"]
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-5 * float(abs(expected).max()))
    (path,) = how
    assert how[path] == "sum over 3 channels"
    _, thirds, _ = adapted(name, tensors, Adaptation(channels="mean"), input_size=size, **more)
    leaf = path.split("/")[1:]
    total, mean = (v["params"][leaf[0]] for v in (found, thirds))
    for key in leaf[1:]:
        total, mean = total[key], mean[key]
    np.testing.assert_allclose(3 * mean, total, rtol=1e-6)


def test_a_window_resampled_keeps_what_it_can():
    """A table that is linear in the offset stays so, and its extremes stay where they are."""
    model, _, tensors = network("swin_t_testing", input_size=(16, 32, 32))
    offsets = np.stack(np.meshgrid(np.arange(-3, 4), np.arange(-2, 3), np.arange(-2, 3), indexing="ij"), -1)
    slope = np.array([[0.3, -0.7], [0.2, 0.5], [-0.1, 0.4]], np.float32)  # [axis, head]
    name = "features.0.0.attn.relative_position_bias_table"
    tensors[name] = (offsets.reshape(-1, 3) @ slope).astype(np.float32)
    adaptation = Adaptation(resample=True, source_size=model.window)
    _, found, how = adapted("swin_t_testing", tensors, adaptation, input_size=(16, 32, 32), window=(4, 5, 2))
    table = found["params"]["stage0"]["block0"]["relative_bias"]["table"]
    new = np.stack(
        np.meshgrid(np.arange(-3, 4), np.linspace(-2, 2, 9), np.linspace(-2, 2, 3), indexing="ij"), -1
    ).reshape(-1, 3)
    np.testing.assert_allclose(table, new @ slope, atol=1e-6)
    assert how["params/stage0/block0/relative_bias/table"] == "resampled from the window (4, 3, 3) to (4, 5, 2)"
    assert len(how) == 4


def test_a_still_picture_gives_the_same_tokens_when_time_is_stretched():
    size = (16, 24, 24)
    model, variables, tensors = network("swin_t_testing", input_size=size)
    still = np.repeat(np.random.default_rng(1).normal(size=(1, 1, 24, 24, 1)), 16, axis=1).astype(np.float32)
    before = run(model, variables, still)[1]["patches"]
    stretched, found, how = adapted(
        "swin_t_testing", tensors, Adaptation(inflate=True), input_size=size, patch_size=(4, 4, 4)
    )
    after = run(stretched, found, still)[1]["patches"]
    assert after.shape[1] == before.shape[1] // 2
    np.testing.assert_allclose(after, before[:, ::2], rtol=1e-4, atol=1e-5)
    assert how == {"params/patch_embed/proj/kernel": "stretched 2 times along time, divided by 2"}


def test_positions_resampled_to_another_grid():
    """Positions that are linear in the place stay so inside, and the class token keeps its own."""
    more = {"epsilon": 1e-6}
    _, _, tensors = network("vit_b16_testing", input_size=(32, 32, 32), **more)
    places = np.stack(np.meshgrid(*[np.arange(4) + 0.5] * 3, indexing="ij"), -1).reshape(-1, 3) / 4
    slope = np.random.default_rng(0).normal(size=(3, 24))
    tensors["pos_embed"][0, 1:] = places @ slope
    model, found, how = adapted("vit_b16_testing", tensors, Adaptation(resample=True), input_size=(24, 32, 48), **more)
    grid = model.grid()
    new = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n for n in grid], indexing="ij"), -1)
    inside = np.clip(new, 0.125, 0.875).reshape(-1, 3)  # beyond the outer centres: their value
    np.testing.assert_allclose(found["params"]["positions"][0, 1:], inside @ slope, atol=1e-5)
    np.testing.assert_array_equal(found["params"]["positions"][0, 0], tensors["pos_embed"][0, 0])
    assert how == {"params/positions": "resampled from the grid (4, 4, 4) to (3, 4, 6)"}


def test_positions_of_a_grid_that_is_no_cube_need_its_size():
    more = {"epsilon": 1e-6}
    _, _, tensors = network("vit_b16_testing", input_size=(16, 24, 40), **more)
    with pytest.raises(ValueError, match=r"30 positions are not those of the grid \(3, 3, 3\); .*--source-size"):
        adapted("vit_b16_testing", tensors, Adaptation(resample=True), input_size=(32, 32, 32), **more)
    adaptation = Adaptation(resample=True, source_size=(2, 3, 5))
    _, _, how = adapted("vit_b16_testing", tensors, adaptation, input_size=(32, 32, 32), **more)
    assert how == {"params/positions": "resampled from the grid (2, 3, 5) to (4, 4, 4)"}


def test_block_embeddings_resampled_over_the_blocks():
    _, _, tensors = network("minit_testing", input_size=(32, 32, 32))
    model, found, how = adapted(
        "minit_testing",
        tensors,
        Adaptation(resample=True),
        fresh=["^params/head/"],
        input_size=(48, 32, 16),
    )
    old = tensors["block_embeddings"].reshape(2, 2, 2, 65, 16)
    axes = [np.clip((np.arange(n) + 0.5) * 2 / n - 0.5, 0, 1) for n in model.blocks()]
    expected = np.empty((3, 2, 1, 65, 16))
    for i, j, k in np.ndindex(3, 2, 1):
        weights = np.einsum("a,b,c->abc", *([1 - t, t] for t in (axes[0][i], axes[1][j], axes[2][k])))
        expected[i, j, k] = np.einsum("abc,abctw->tw", weights, old)
    np.testing.assert_allclose(found["params"]["block_embeddings"], expected.reshape(6, 65, 16), atol=1e-5)
    assert how == {"params/block_embeddings": "resampled from the grid (2, 2, 2) to (3, 2, 1)"}


GRIDS = {"vit_b16_testing": [(16, 24, 40), (40, 24, 16)], "minit_testing": [(32, 16, 48), (48, 32, 16)]}


@pytest.mark.parametrize(("name", "leaf"), [("vit_b16_testing", "positions"), ("minit_testing", "block_embeddings")])
def test_a_table_of_another_grid_of_as_many_cells_is_not_copied(name, leaf):
    (before, after), more = GRIDS[name], {"epsilon": 1e-6} if "vit" in name else {}
    old, _, tensors = network(name, input_size=before, **more)
    source = old.grid() if "vit" in name else old.blocks()
    new = models.build(name, input_size=after, **more)
    with pytest.raises(ValueError, match=rf"found a table over {re.escape(str(source))}; .*: --resample"):
        adapted(name, tensors, Adaptation(source_size=source), input_size=after, **more)
    _, found, how = adapted(name, tensors, Adaptation(resample=True, source_size=source), input_size=after, **more)
    table = tensors["pos_embed"][0, 1:] if "vit" in name else tensors["block_embeddings"]
    goal = new.grid() if "vit" in name else new.blocks()
    # SciPy's interpolation at the centres of the new cells.
    places = np.meshgrid(
        *((np.arange(m) + 0.5) * n / m - 0.5 for n, m in zip(source, goal, strict=True)), indexing="ij"
    )
    flat = table.reshape(*source, -1).astype(np.float64)
    expected = [ndimage.map_coordinates(flat[..., c], places, order=1, mode="nearest") for c in range(flat.shape[-1])]
    got = found["params"][leaf][0, 1:] if "vit" in name else found["params"][leaf]
    np.testing.assert_allclose(got.reshape(*goal, -1), np.stack(expected, -1), atol=1e-5)
    assert how == {f"params/{leaf}": f"resampled from the grid {source} to {goal}"}
    # The model's own grid, said, is copied.
    _, same, how = adapted(name, tensors, Adaptation(source_size=source), input_size=before, **more)
    assert how == {}
    assert (same["params"][leaf] == (tensors["pos_embed"] if "vit" in name else table)).all()


def test_a_source_size_that_no_table_takes_is_refused():
    for name, fresh in (("densenet121_testing", []), ("vit_b16_testing", ["positions"])):
        more = {"epsilon": 1e-6} if "vit" in name else {}
        _, _, tensors = network(name, input_size=(32, 32, 32), **more)
        with pytest.raises(ValueError, match=r"--source-size: found \(4, 4, 4\); expected none"):
            adapted(name, tensors, Adaptation(source_size=(4, 4, 4)), fresh=fresh, input_size=(32, 32, 32), **more)


def test_the_index_in_the_file_says_the_window_where_the_rows_do_not():
    """Windows (4, 3, 3) and (3, 4, 3) have tables of as many rows."""
    size, other = {"input_size": (16, 32, 32)}, {"window": (3, 4, 3)}
    _, _, tensors = network("swin_t_testing", **size)
    indices = [k for k in tensors if k.endswith("index")]
    assert len(indices) == 4
    with pytest.raises(ValueError, match=r"found a table over \(4, 3, 3\); to resample .* \(3, 4, 3\): --resample"):
        adapted("swin_t_testing", tensors, None, **size, **other)
    with pytest.raises(
        ValueError, match=r"--source-size: found \(3, 4, 3\); expected \(4, 3, 3\), the window of which"
    ):
        adapted("swin_t_testing", tensors, Adaptation(source_size=(3, 4, 3)), **size, **other)
    _, found, how = adapted("swin_t_testing", tensors, Adaptation(resample=True), **size, **other)
    assert set(how.values()) == {"resampled from the window (4, 3, 3) to (3, 4, 3)"}
    # Without the index nobody can tell but the user.
    bare = {k: v for k, v in tensors.items() if k not in indices}
    assert adapted("swin_t_testing", bare, None, **size, **other)[2] == {}
    said = adapted("swin_t_testing", bare, Adaptation(resample=True, source_size=(4, 3, 3)), **size, **other)
    assert said[2] == how
    for a, b in zip(jax.tree.leaves(said[1]), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)
    # Damaged, or of two windows.
    for key, message in ((indices[0], "is the index of no window"), (indices[2], f"another index than {indices[0]}")):
        with pytest.raises(ValueError, match=message):
            adapted("swin_t_testing", {**tensors, key: tensors[key][::-1]}, None, **size)


@pytest.mark.parametrize("window", [(4, 3, 3), (1, 1, 1), (2, 5, 3), (8, 7, 7), (3, 1, 2)])
def test_windows_are_told_from_their_index(window):
    """The index, worked out pair by pair."""
    tokens = list(np.ndindex(window))
    index = np.zeros((len(tokens), len(tokens)), np.int64)
    for i, a in enumerate(tokens):
        row = np.zeros(len(tokens), np.int64)
        for axis in range(3):
            row = row * (2 * window[axis] - 1) + np.array([a[axis] - b[axis] + window[axis] - 1 for b in tokens])
        index[i] = row
    assert window in windows_of(index)
    # More than one only where the index is the same.
    assert len(windows_of(index)) == (1 if min(window) > 1 else {(1, 1, 1): 1, (3, 1, 2): 3}[window])
    assert windows_of(index[:, :-1]) == windows_of(index[0]) == []


def test_a_larger_patch_is_not_taken_for_channels():
    """A flat kernel of 8^3 voxels has as many inputs as one of 4^3 with 8 channels."""
    _, _, tensors = network("minit_testing", input_size=(32, 32, 32), patch_size=(8, 8, 8))
    with pytest.raises(ValueError, match=r"to_patch_embedding.1.weight: found shape \[16, 512\]; expected \[16, 64\]"):
        adapted("minit_testing", tensors, Adaptation(channels="sum"), input_size=(32, 32, 32))


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64])
def test_numbers_of_another_kind_are_refused_by_name(dtype):
    _, _, tensors = network("nit_testing", input_size=(24, 24, 24))
    tensors["cls_token"] = tensors["cls_token"].astype(dtype)
    with pytest.raises(ValueError, match=rf"cls_token: found {np.dtype(dtype)} numbers; expected float32"):
        adapted("nit_testing", tensors, None, input_size=(24, 24, 24))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"in_channels": 3}, {}, "--channels sum"),
        ({}, {"in_channels": 3}, "to one channel only"),
        ({}, {"patch_size": (4, 4, 4)}, "stretch the kernel along time 2 times: --inflate-time"),
        ({}, {"patch_size": (3, 4, 4)}, "whole multiple of 2 only"),
        ({}, {"patch_size": (2, 2, 4)}, r"found shape \[12, 1, 2, 4, 4\]; expected \[12, 1, 2, 2, 4\]"),
        ({}, {"window": (4, 4, 4)}, r"resample the table to the window \(4, 4, 4\): --resample"),
        ({}, {"num_outputs": 3}, "--head fresh"),
        ({}, {"embed": 24}, r"found shape \[12\]; expected \[24\]"),
    ],
)
def test_nothing_is_adapted_unasked(before, after, message):
    _, _, tensors = network("swin_t_testing", input_size=(16, 32, 32), **before)
    with pytest.raises(ValueError, match=message):
        adapted("swin_t_testing", tensors, None, input_size=(16, 32, 32), **after)
