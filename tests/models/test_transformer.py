"""The parts of transformers against NumPy and SciPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from scipy import special

from jaxneuro.models import layers, transformer


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def filled(module, *inputs):
    """Return variables of a module with every leaf random."""
    abstract = meta.unbox(jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs)))
    leaves, tree = jax.tree.flatten(abstract)
    return jax.tree.unflatten(tree, [normal(i, *leaf.shape) for i, leaf in enumerate(leaves)])


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def layer_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attention(x, p, bias=0.0):
    """Attend in float64, head by head, from torch's flat layout of queries, keys and values."""
    width, _, heads, size = p["qkv"]["kernel"].shape
    flat = x @ p["qkv"]["kernel"].reshape(width, -1) + p["qkv"]["bias"].reshape(-1)
    out = np.zeros((*x.shape[:-1], heads * size))
    for h in range(heads):
        q, k, v = (flat[..., i * heads * size + h * size :][..., :size] for i in range(3))
        scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(size) + (bias[..., h, :, :] if np.ndim(bias) else bias)
        out[..., h * size : (h + 1) * size] = special.softmax(scores, axis=-1) @ v
    return out @ p["proj"]["kernel"].reshape(heads * size, -1) + p["proj"]["bias"]


def mlp(x, p):
    x = x @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    x = x * 0.5 * (1 + special.erf(x / np.sqrt(2)))
    return x @ p["fc2"]["kernel"] + p["fc2"]["bias"]


def test_layer_norm_with_a_large_mean():
    module, x = layers.LayerNorm(), normal(9, 3, 5, 16) + 1000
    variables = filled(module, x)
    np.testing.assert_allclose(
        module.apply(variables, x), layer_norm(np.asarray(x, np.float64), double(variables)["params"]), atol=2e-3
    )


@pytest.mark.parametrize("shape", [(2, 7, 12), (2, 3, 7, 12)])
def test_attention(shape):
    module, x = transformer.Attention(3, 5), normal(9, *shape)
    variables = filled(module, x, False)
    close(module.apply(variables, x, False), attention(np.float64(x), double(variables)["params"]))


def test_attention_with_a_bias_and_regions_of_each_window():
    module, x, bias = transformer.Attention(3, 4), normal(9, 2, 5, 7, 12), normal(8, 3, 7, 7)
    region = np.random.default_rng(7).integers(0, 3, (5, 7))
    variables = filled(module, x, False)
    apart = np.where(region[:, :, None] == region[:, None], 0.0, -100.0)
    expected = attention(np.float64(x), double(variables)["params"], bias + apart[:, None])
    close(module.apply(variables, x, False, bias, region), expected)


def test_attention_without_qkv_bias_has_none():
    module, x = transformer.Attention(2, 4, qkv_bias=False), normal(9, 2, 5, 8)
    variables = filled(module, x, False)
    assert set(variables["params"]["qkv"]) == {"kernel"}
    params = double(variables)["params"]
    close(
        module.apply(variables, x, False),
        attention(np.float64(x), {**params, "qkv": {**params["qkv"], "bias": np.zeros(1)}}),
    )


def test_block_is_prenorm_attention_then_mlp():
    module, x = transformer.Block(2, 4, 20), normal(9, 2, 5, 8)
    variables = filled(module, x, False)
    p, y = double(variables)["params"], np.float64(x)
    y = y + attention(layer_norm(y, p["norm1"]), p["attn"])
    close(module.apply(variables, x, False), y + mlp(layer_norm(y, p["norm2"]), p["mlp"]))


def test_patches_are_cut_in_order_and_the_end_is_padded_with_zeros():
    module, x = transformer.PatchEmbed(3, (2, 4, 3)), normal(9, 2, 5, 7, 6, 2)
    variables = filled(module, x)
    kernel, bias = (np.float64(variables["params"]["proj"][k]) for k in ("kernel", "bias"))
    padded = np.pad(np.float64(x), [(0, 0), (0, 1), (0, 1), (0, 0), (0, 0)])
    expected = np.zeros((2, 3, 2, 2, 3))
    for d, h, w in np.ndindex(3, 2, 2):
        patch = padded[:, 2 * d : 2 * d + 2, 4 * h : 4 * h + 4, 3 * w : 3 * w + 3]
        expected[:, d, h, w] = np.einsum("bdhwc,dhwco->bo", patch, kernel) + bias
    close(module.apply(variables, x), expected)


def test_head_with_hidden_layers():
    module, x = layers.Head(3, hidden=(6, 4)), normal(9, 5, 7)
    variables = filled(module, x)
    p, y = double(variables)["params"], np.float64(x)
    for name in ("hidden0", "hidden1"):
        y = np.maximum(y @ p[name]["kernel"] + p[name]["bias"], 0)
    close(module.apply(variables, x), y @ p["out"]["kernel"] + p["out"]["bias"])


def test_torch_default_is_uniform_up_to_one_over_root_fan_in():
    module = layers.Dense(64, contract=2, axes=layers.HEADS_TO_EMBED, initial=layers.TORCH_DEFAULT)
    params = meta.unbox(module.init(jax.random.key(0), jnp.zeros((1, 10, 10))))["params"]
    for leaf in (params["kernel"], params["bias"]):
        assert float(jnp.abs(leaf).max()) <= 0.1
        assert abs(float(jnp.std(leaf)) - 0.1 / np.sqrt(3)) < 0.01


@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_drop_path_drops_whole_samples_in_training_only(rate):
    import flax.linen as nn

    class Drops(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return transformer.drop_path(self, x, rate, train)

    x = jnp.ones((4000, 3))
    rngs = {"dropout": jax.random.key(0)}
    np.testing.assert_array_equal(Drops().apply({}, x, False, rngs=rngs), x)
    y = np.asarray(Drops().apply({}, x, True, rngs=rngs))
    assert set(np.unique(y)) <= {0.0, np.float32(1 / (1 - rate))}
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).mean() - rate) < 0.03


def test_sincos_positions_by_hand():
    table = np.asarray(transformer.sincos_positions((2, 3, 4), 12, class_token=True))
    assert table.shape == (1, 25, 12)
    assert not table[0, 0].any()
    # Token (1, 2, 3) is the last; width 12 has two frequencies an axis: 1 and 1/100.
    height, depth, last = ([n, n / 100] for n in (2, 1, 3))
    waves = [f(a) for axis in (height, depth, last) for f in (np.sin, np.cos) for a in axis]
    np.testing.assert_allclose(table[0, -1], waves, atol=1e-6)
    with pytest.raises(ValueError, match="width 16 is not a multiple of 6"):
        transformer.sincos_positions((2, 2, 2), 16, class_token=False)
