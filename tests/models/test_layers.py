"""The layers against NumPy and SciPy in float64, and the CPU convolution forms against the native one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from scipy import ndimage, signal

from jaxneuro.errors import InputError
from jaxneuro.models import convolution, layers


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv_reference(x, kernel, strides, padding):
    """Correlate in float64, channel by channel, and keep every stride-th voxel."""
    x = np.pad(np.asarray(x, np.float64), [(0, 0), *((p, p) for p in padding), (0, 0)])
    rows = []
    for volume in x:
        maps = [
            sum(
                signal.correlate(volume[..., c], np.asarray(kernel[..., c, o], np.float64), "valid", "direct")
                for c in range(x.shape[-1])
            )
            for o in range(kernel.shape[-1])
        ]
        rows.append(np.stack(maps, -1)[:: strides[0], :: strides[1], :: strides[2]])
    return np.stack(rows)


# input size, kernel size, strides, padding, input channels, output channels
CONVOLUTIONS = [
    ((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), 4, 2),
    ((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), 2, 5),
    ((2, 2, 1), (3, 3, 3), (1, 1, 1), (1, 1, 1), 3, 3),
    ((9, 8, 11), (7, 7, 7), (2, 2, 2), (3, 3, 3), 1, 4),
    ((6, 5, 4), (3, 2, 1), (1, 2, 3), (2, 0, 1), 3, 2),
    ((5, 6, 7), (1, 1, 1), (1, 1, 1), (0, 0, 0), 3, 4),
    ((5, 6, 7), (1, 1, 1), (2, 2, 2), (0, 0, 0), 3, 4),
    ((5, 9, 8), (2, 4, 4), (2, 4, 4), (0, 0, 0), 2, 3),
]


@pytest.mark.parametrize(("size", "taps", "strides", "padding", "c", "o"), CONVOLUTIONS)
def test_conv_equals_float64_correlation(size, taps, strides, padding, c, o):
    x, kernel = normal(0, 2, *size, c), normal(1, *taps, c, o)
    expected = conv_reference(x, kernel, strides, padding)
    got = convolution.conv3d(jnp.asarray(x), jnp.asarray(kernel), strides, padding)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def forms_that_fit(strides, taps, padding):
    yield convolution.depth_taps_in
    if strides[0] == 1:
        yield convolution.depth_taps_out
    if strides == taps and not any(padding):
        yield convolution.patch_product


@pytest.mark.parametrize(("size", "taps", "strides", "padding", "c", "o"), CONVOLUTIONS)
def test_every_cpu_form_equals_the_native_one_with_gradients(size, taps, strides, padding, c, o):
    x, kernel = jnp.asarray(normal(0, 2, *size, c)), jnp.asarray(normal(1, *taps, c, o))

    def with_gradients(form):
        def run(x, kernel, weight):
            y, pull = jax.vjp(lambda x, kernel: form(x, kernel, strides, padding), x, kernel)
            return y, *pull(weight)

        shape = jax.eval_shape(lambda x, kernel: form(x, kernel, strides, padding), x, kernel).shape
        return jax.jit(run)(x, kernel, normal(2, *shape))

    expected = with_gradients(convolution.native)
    for form in (convolution.conv3d, *forms_that_fit(strides, taps, padding)):
        for got, want in zip(with_gradients(form), expected, strict=True):
            scale = float(jnp.abs(want).max())
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * scale, err_msg=form.__name__)


def test_conv_under_vmap_equals_a_loop():
    xs, kernel = jnp.asarray(normal(0, 3, 2, 5, 4, 6, 2)), jnp.asarray(normal(1, 3, 3, 3, 2, 3))

    def run(x):
        return convolution.conv3d(x, kernel, (1, 1, 1), (1, 1, 1))

    np.testing.assert_allclose(jax.vmap(run)(xs), jnp.stack([run(x) for x in xs]), rtol=1e-5, atol=1e-5)


def test_conv_picks_one_native_convolution_off_the_cpu():
    x, kernel = jnp.zeros((1, 6, 6, 6, 4)), jnp.zeros((3, 3, 3, 4, 2))
    text = {
        platform: jax.jit(lambda x, k: convolution.conv3d(x, k, (1, 1, 1), (1, 1, 1)))
        .trace(x, kernel)
        .lower(lowering_platforms=(platform,))
        .as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    for platform in ("cuda", "tpu"):
        assert "[b, 0, 1, 2, f]x[0, 1, 2, i, o]" in text[platform]
    assert "[b, 0, 1, f]x[0, 1, i, o]" in text["cpu"]
    assert "[b, 0, 1, 2, f]" not in text["cpu"]


@pytest.mark.parametrize(
    ("x", "kernel", "message"),
    [((1, 2, 2, 2, 1), (3, 3, 3, 1, 1), "smaller"), ((1, 4, 4, 4, 2), (3, 3, 3, 1, 1), "fit")],
)
def test_conv_names_what_does_not_fit(x, kernel, message):
    with pytest.raises(ValueError, match=message):
        convolution.conv3d(jnp.zeros(x), jnp.zeros(kernel))


def test_conv_layer_adds_its_bias_and_initialises_kaiming():
    layer = layers.Conv(64, (3, 3, 3), padding=(1, 1, 1))
    x = jnp.asarray(normal(0, 1, 3, 4, 5, 8))
    params = meta.unbox(layer.init(jax.random.key(0), x))["params"]
    assert params["kernel"].shape == (3, 3, 3, 8, 64)
    assert float(params["kernel"].std()) == pytest.approx(np.sqrt(2 / (27 * 8)), rel=0.03)
    params["bias"] = jnp.asarray(normal(1, 64))
    expected = conv_reference(x, params["kernel"], (1, 1, 1), (1, 1, 1)) + params["bias"]
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-4, atol=1e-4)


def test_dense_is_affine_and_initialises_as_torch_linear():
    layer = layers.Dense(300, layers.EMBED_TO_OUTPUTS)
    x = normal(0, 2, 7, 200)
    params = meta.unbox(layer.init(jax.random.key(0), jnp.asarray(x)))["params"]
    bound = 1 / np.sqrt(200)
    assert bound * 0.99 < float(jnp.abs(params["kernel"]).max()) <= bound
    assert not params["bias"].any()
    params["bias"] = jnp.asarray(normal(1, 300))
    expected = x.astype(np.float64) @ np.asarray(params["kernel"], np.float64) + np.asarray(params["bias"])
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-5)


def test_batch_norm_training_output_and_unbiased_running_variance():
    x = normal(0, 2, 2, 3, 2, 3) * np.array([1, 5, 0.1], np.float32) + np.array([0, 3, -2], np.float32)
    layer = layers.BatchNorm()
    scale, bias = normal(1, 3), normal(2, 3)
    variables = {
        "params": {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)},
        "batch_stats": {"mean": jnp.asarray([1.0, 2.0, 3.0]), "var": jnp.asarray([4.0, 5.0, 6.0])},
    }
    y, updates = layer.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    values = x.reshape(-1, 3).astype(np.float64)
    mean, biased = values.mean(0), values.var(0)
    unbiased = values.var(0, ddof=1)  # 24 values a channel, divided by 23
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(biased + 1e-5) * scale + bias, rtol=1e-4, atol=1e-5)
    moved = updates["batch_stats"]
    np.testing.assert_allclose(moved["mean"], 0.9 * np.array([1, 2, 3]) + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(moved["var"], 0.9 * np.array([4, 5, 6]) + 0.1 * unbiased, rtol=1e-5)


def test_batch_norm_by_hand_and_with_running_statistics():
    layer = layers.BatchNorm()
    x = jnp.asarray([1.0, 3.0]).reshape(2, 1, 1, 1, 1)
    variables = layer.init(jax.random.key(0), x, train=False)
    _, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    # mean 2, unbiased variance 2: 0.9 * 0 + 0.1 * 2 and 0.9 * 1 + 0.1 * 2
    np.testing.assert_allclose(updates["batch_stats"]["mean"], [0.2], rtol=1e-6)
    np.testing.assert_allclose(updates["batch_stats"]["var"], [1.1], rtol=1e-6)
    y = layer.apply({"params": variables["params"], **updates}, x, train=False)
    np.testing.assert_allclose(y.ravel(), (np.array([1.0, 3.0]) - 0.2) / np.sqrt(1.1 + 1e-5), rtol=1e-6)


def test_batch_norm_statistics_survive_a_large_mean():
    x = normal(0, 4000, 1) + 3000.0
    _, var = jax.jit(layers.moments)(jnp.asarray(x))
    np.testing.assert_allclose(var, x.astype(np.float64).var(0), rtol=1e-4)


def test_batch_norm_refuses_one_value_a_channel():
    layer, x = layers.BatchNorm(), jnp.ones((1, 1, 1, 1, 3))
    variables = layer.init(jax.random.key(0), x, train=False)
    with pytest.raises(InputError, match=r"found \(1, 1, 1, 1, 3\), one value a channel, .*take a larger batch"):
        layer.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("size", [(7, 8, 9), (2, 1, 5)])
def test_max_pool_equals_ndimage_with_the_gradient_on_the_maximum(size):
    x = normal(0, 2, *size, 2)
    filtered = ndimage.maximum_filter(x, size=(1, 3, 3, 3, 1), mode="constant", cval=-np.inf)
    expected = filtered[:, ::2, ::2, ::2]
    weight = normal(1, *expected.shape)

    @jax.jit
    def pool_and_gradient(x):
        y, pull = jax.vjp(lambda x: layers.max_pool(x, 3, 2, 1), x)
        return y, *pull(weight)

    y, got = pool_and_gradient(x)
    np.testing.assert_array_equal(y, expected)
    want = np.zeros_like(x)
    for place in itertools.product(*map(range, expected.shape)):
        want[x == expected[place]] += weight[place]  # all values differ, so each maximum is one voxel
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_max_pool_ties_and_nan():
    x = jnp.ones((1, 2, 2, 2, 1))
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(layers.max_pool(x, 2, 2, 0))))(x)
    np.testing.assert_array_equal(gradient.ravel(), [1, 0, 0, 0, 0, 0, 0, 0])
    for place in range(8):
        assert jnp.isnan(layers.max_pool(x.ravel().at[place].set(jnp.nan).reshape(x.shape), 2, 2, 0)).all()


def test_average_pool_drops_the_last_plane():
    x = normal(0, 2, 5, 4, 7, 3)
    expected = np.zeros((2, 2, 2, 3, 3))
    for i, j, k in itertools.product(range(2), repeat=3):
        expected += x[:, i:4:2, j:4:2, k:6:2].astype(np.float64) / 8
    np.testing.assert_allclose(layers.avg_pool(jnp.asarray(x), 2), expected, rtol=1e-5, atol=1e-6)


def test_global_mean_pool_is_float32():
    x = jnp.asarray(normal(0, 2, 3, 4, 5, 6), jnp.bfloat16)
    y = layers.global_mean_pool(x)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, np.asarray(x, np.float64).mean((1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_unknown_logical_axis_is_named():
    with pytest.raises(ValueError, match="'width'"):
        layers.annotate(layers.kaiming_normal, ("embed", "width"))
