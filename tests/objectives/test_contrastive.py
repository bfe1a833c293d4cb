"""y-aware InfoNCE against published values and a statement of it in NumPy float64, and what a scan is compared with."""

import json
import os
import subprocess
import sys
import textwrap
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxneuro.errors import InputError
from jaxneuro.objectives import contrastive
from jaxneuro.objectives.contrastive import y_aware_loss

AGES = np.array([20.0, 22, 23, 40, 60, 61])
SEX = np.array([0.0, 1, 0, 1, 1, 0])


def torch_normal(bits, shape):
    """Draw what torch's randn draws in float64: Box and Muller's way, over the same bits, 16 numbers at a time."""
    high, low = bits.random_raw(2 * int(np.prod(shape))).astype(np.uint64).reshape(-1, 2).T
    uniform = ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)) / 2.0**53
    length, turn = uniform.reshape(-1, 2, 8).swapaxes(0, 1)
    length, turn = np.sqrt(-2 * np.log(1 - length)), 2 * np.pi * turn
    return np.stack([length * np.cos(turn), length * np.sin(turn)], axis=1).reshape(shape)


def embeddings(n=6, k=8, seed=0):
    return np.random.default_rng(seed).normal(size=(2, n, k))


def reference(z_i, z_j, kernel, temperature, form):
    """State the published loss pair by pair in float64; `kernel` says how alike the scans a and b are."""
    n = len(z_i)
    z = np.concatenate([z_i, z_j])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    weights = np.array([[kernel(a % n, b % n) * (a != b) for b in range(2 * n)] for a in range(2 * n)])
    total = 0.0
    for a in range(2 * n):
        others = [b for b in range(2 * n) if b != a]
        log_sum = np.log(sum(np.exp(z[a] @ z[b] / temperature) for b in others))
        for b in others:
            weight = weights[a, b] / (weights[:, b].sum() if form == "published" else weights[a].sum())
            total -= weight * (z[a] @ z[b] / temperature - log_sum)
    return total / n


def nearest(z_i, z_j):
    """Say in float64 for each scan how many of its views have each other as nearest, halved."""
    z = np.concatenate([z_i, z_j])
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n, cosines = len(z_i), z @ z.T - 9 * np.eye(len(z))
    return (cosines.argmax(1) == np.r_[n : 2 * n, 0:n]).reshape(2, n).mean(0)


def gauss(y, width):
    return lambda a, b: np.exp(-((y[a] - y[b]) ** 2) / (2 * width**2))


def ours(z, labels, proxies, form="published", temperature=0.1, valid=None):
    return y_aware_loss(*z, labels, temperature=temperature, proxies=proxies, form=form, valid=valid)


@pytest.mark.parametrize(
    ("width", "published", "formula"),
    [
        (0.1, 15.883650182211682, 15.883650182211682),
        (1, 13.378849122984336, 13.414288792350284),
        (5, 11.931682051611148, 11.937545833987976),
        (50, 11.337763422771426, 11.30561434259736),
    ],
)
def test_values_of_the_published_code(width, published, formula):
    bits = np.random.MT19937()
    bits._legacy_seeding(0)
    z = [torch_normal(bits, (6, 8)) for _ in range(2)]

    def both(z, ages):
        return [ours(z, {"age": ages}, {"age": width}, form) for form in contrastive.FORMS]

    single = jax.jit(both)([x.astype(np.float32) for x in z], AGES.astype(np.float32))
    with jax.enable_x64(True):
        double = [np.asarray(x) for x in jax.jit(both)(z, AGES)]
    for form, want, one, two in zip(contrastive.FORMS, (published, formula), single, double, strict=True):
        assert reference(*z, gauss(AGES, width), 0.1, form) == pytest.approx(want, rel=1e-12)
        assert one.shape == (6,)
        assert one.dtype == jnp.float32
        assert one.mean() == pytest.approx(want, rel=1e-6)
        assert two.mean() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("form", contrastive.FORMS)
def test_labels_multiply_and_names_are_equal_or_not(form):
    z, age, sex = embeddings(), gauss(AGES, 5), lambda a, b: 1.0 if SEX[a] == SEX[b] else np.exp(-0.5 / 0.7**2)
    want = reference(*z, lambda a, b: age(a, b) * sex(a, b), 0.2, form)
    for codes in (SEX, np.where(SEX == 1, 7.0, 2.0)):
        value = ours(z, {"age": AGES, "sex": codes}, {"age": 5.0, "sex": 0.7}, form, 0.2)
        assert value.mean() == pytest.approx(want, rel=1e-6)
    assert want != pytest.approx(reference(*z, age, 0.2, form), rel=1e-3)


@pytest.mark.parametrize("form", contrastive.FORMS)
@pytest.mark.parametrize("proxies", [{}, {"age": 0.0}, {"age": 0, "sex": 1.0}])
def test_without_a_width_a_scan_matches_itself_alone(form, proxies):
    z = embeddings()
    same = np.full(6, 30.0)  # equal ages do not match either
    value = ours(z, {"age": same, "sex": same}, proxies, form)
    assert value.mean() == pytest.approx(reference(*z, lambda a, b: float(a == b), 0.1, form), rel=1e-6)


@pytest.mark.parametrize("form", contrastive.FORMS)
def test_a_scan_with_an_unknown_label_matches_itself_alone(form):
    z, age, sex = embeddings(), AGES.copy(), SEX.copy()
    age[1] = sex[4] = np.nan

    def kernel(a, b):
        return float(a == b) if {a, b} & {1, 4} else gauss(AGES, 5)(a, b) * (1 if sex[a] == sex[b] else np.exp(-0.5))

    value = ours(z, {"age": age, "sex": sex}, {"age": 5.0, "sex": 1.0}, form)
    assert value.mean() == pytest.approx(reference(*z, kernel, 0.1, form), rel=1e-6)


@pytest.mark.parametrize("form", contrastive.FORMS)
def test_padding_has_no_part(form):
    z, valid = embeddings(), np.array([True, False, True, True, False, True])
    padded = np.where(valid[None, :, None], z, 0)
    age = np.where(valid, AGES, np.nan)
    call = jax.jit(partial(ours, labels={"age": age}, proxies={"age": 5.0}, form=form))
    value = call(padded, valid=valid)
    # What stands in the padding does not matter, and the others are as in a batch of their own.
    np.testing.assert_array_equal(call(np.where(valid[None, :, None], z, 9.0), valid=valid), value)
    alone = jax.jit(lambda z, y: ours(z, {"age": y}, {"age": 5.0}, form))(z[:, valid], AGES[valid])
    np.testing.assert_allclose(value[valid], alone, rtol=1e-6)
    assert not value[~valid].any()
    assert np.isfinite(jax.jit(jax.grad(lambda z: call(z, valid=valid).sum()))(padded.astype(np.float32))).all()
    assert np.isfinite(call(padded, valid=np.zeros(6, bool))).all()


def test_the_gradient_is_that_of_fixed_weights():
    z = embeddings()
    run = jax.jit(jax.grad(lambda z, y: ours(z, {"age": y}, {"age": 5.0}).mean(), argnums=(0, 1)))
    gradients = run(z.astype(np.float32), AGES.astype(np.float32))
    for place in ((0, 1, 2), (1, 4, 7)):
        step = np.zeros_like(z)
        step[place] = 1e-5
        ends = [reference(*(z + s * step), gauss(AGES, 5), 0.1, "published") for s in (1, -1)]
        assert gradients[0][place] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)
    assert not gradients[1].any()


def test_half_precision_and_low_temperatures_stay_finite():
    z = jnp.asarray(embeddings(), jnp.bfloat16)
    value = ours(z, {"age": AGES}, {"age": 5.0}, temperature=1e-3)
    assert value.dtype == jnp.float32
    want = reference(*np.asarray(z, np.float64), gauss(AGES, 5), 0.1, "published")
    assert ours(z, {"age": AGES}, {"age": 5.0}).mean() == pytest.approx(want, rel=1e-6)
    assert np.isfinite(value).all()
    assert ours(z * 1e-6, {"age": AGES}, {"age": 5.0}).mean() == pytest.approx(want, rel=1e-2)  # bfloat16 rounds


@pytest.mark.parametrize("form", contrastive.FORMS)
@pytest.mark.parametrize("proxies", [{}, {"age": 5.0}])
def test_the_baseline_is_the_loss_of_an_embedding_that_tells_nothing(form, proxies):
    same = np.ones((2, 6, 3))
    assert contrastive.baseline(jnp.int32(6)) == pytest.approx(2 * np.log(11), rel=1e-6)
    assert ours(same, {"age": AGES}, proxies, form).mean() == pytest.approx(2 * np.log(11), rel=1e-6)


def test_nearest_views():
    angle = np.radians([[0, 60, 100], [10, 95, 170]])
    z = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    # Nearest: 0 and 10 each other; 60 has 95, and 95 has 100; 100 has 95, and 170 has 100.
    np.testing.assert_array_equal(contrastive.found(*z), [1, 0.5, 0.5])
    # Without the second scan: 100 has 170.
    np.testing.assert_array_equal(contrastive.found(*z, np.array([True, False, True]))[jnp.array([0, 2])], [1, 1])


# --- The objective ------------------------------------------------------------------------------------------------


def batch(n=6, seed=0):
    first, second = np.random.default_rng(seed).normal(size=(2, n, 2, 2, 2, 1)).astype(np.float32)
    return {"volume": first, "second": second, "age": AGES[:n].astype(np.float32)}


class Network:
    """A linear network that records what it is called with; its statistics count the passes."""

    def __init__(self):
        self.calls = []

    def __call__(self, variables, x, *, train, mutable=(), rngs=None):
        self.calls.append((x, train, variables.get("batch_stats"), rngs))
        z = x.reshape(len(x), -1) @ variables["params"]
        return ((z, {}), {"batch_stats": {"passes": variables["batch_stats"]["passes"] + 1}}) if mutable else (z, {})


def test_views_are_two_passes_and_the_metrics_are_theirs():
    network, objective, data = Network(), contrastive.build(), batch()
    params = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    value, (metrics, stats) = objective.loss(network, params, {"passes": 0}, data, jax.random.key(0))
    (x, _, seen, key), (x2, _, seen2, key2) = network.calls
    np.testing.assert_array_equal([x, x2], [data["volume"], data["second"]])
    assert [train for _, train, _, _ in network.calls] == [True, True]
    assert [seen["passes"], seen2["passes"], stats["passes"]] == [0, 1, 2]
    assert (jax.random.key_data(key["dropout"]) != jax.random.key_data(key2["dropout"])).any()
    z = [data[name].reshape(6, 8).astype(np.float64) @ params for name in ("volume", "second")]
    assert float(value) == pytest.approx(reference(*z, gauss(AGES, 5), 0.1, "published"), rel=1e-5)
    assert metrics["loss"] == value
    assert metrics["baseline"] == pytest.approx(2 * np.log(11), rel=1e-6)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in z]
    assert metrics["alignment"] == pytest.approx((unit[0] * unit[1]).sum(1).mean(), rel=1e-5)
    assert metrics["top1"] == pytest.approx(nearest(*z).mean())


def test_evaluation_gives_loss_and_rank_of_each_scan():
    network, objective, data = Network(), contrastive.build(form="formula", temperature=0.5), batch()
    params = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    data["valid"] = np.arange(6) < 5
    values = np.asarray(objective.evaluate(network, {"params": params}, data, jax.random.key(0)))
    assert values.shape == (6, 3)
    assert values.dtype == np.float32
    assert [train for _, train, _, _ in network.calls] == [False, False]
    z = [data[name][:5].reshape(5, 8).astype(np.float64) @ params for name in ("volume", "second")]
    assert values[:5, 0].mean() == pytest.approx(reference(*z, gauss(AGES, 5), 0.5, "formula"), rel=1e-5)
    np.testing.assert_allclose(values[:5, 1], 2 * np.log(9), rtol=1e-6)  # each of 5 scans' two views among 9 others
    np.testing.assert_array_equal(values[:5, 2], nearest(*z))
    assert 0 < values[:5, 2].mean() < 1
    scores = objective.score(np.array([[2.0, 4, 1], [4, 5, 0.5]], np.float32), {})
    assert scores == {"loss": 3.0, "baseline": 4.5, "top1": 0.75}
    assert np.isnan(objective.score(np.array([[2.0, 4, 1], [np.nan, 4, 0]], np.float32), {})["loss"])
    assert np.isnan(objective.score(np.zeros((0, 3), np.float32), {})["loss"])
    assert (objective.metric, objective.mode, objective.views, objective.labels) == ("loss", "min", 2, ("age",))
    assert objective.whole_batch
    assert contrastive.build(proxies={"sex": 1.0, "age": 2.0}).labels == ("sex", "age")


def test_a_network_without_statistics_serves():
    def apply(variables, x, *, train, mutable, rngs):
        assert variables["batch_stats"] == {}
        return (x.reshape(len(x), -1), {}), {}

    _, (_, stats) = contrastive.build().loss(apply, {}, {}, batch(), jax.random.key(0))
    assert stats == {}


def test_a_few_steps_learn():
    """Views share a pattern of their scan beside voxels of louder noise."""
    rng = np.random.default_rng(0)
    scan = rng.normal(size=(6, 8)) * ([1.0] * 4 + [0.0] * 4)
    views = [scan + rng.normal(size=(6, 8)) * ([0.1] * 4 + [4.0] * 4) for _ in range(2)]
    data = {k: jnp.asarray(x.reshape(6, 2, 2, 2, 1)) for k, x in zip(("volume", "second"), views, strict=True)}
    objective = contrastive.build(proxies={})

    @jax.jit
    def step(params):
        (_, (metrics, _)), gradient = jax.value_and_grad(
            lambda p: objective.loss(Network(), p, {"passes": 0}, data, jax.random.key(0)), has_aux=True
        )(params)
        return params - 0.1 * gradient, metrics

    params = jnp.eye(8)
    params, before = step(params)
    for _ in range(60):
        params, after = step(params)
    assert before["loss"] > before["baseline"]
    assert after["loss"] < 0.2 * after["baseline"]
    assert before["top1"] < 0.5
    assert after["top1"] == 1
    assert before["alignment"] < 0.5 < 0.8 < after["alignment"]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"form": "paper"}, "objective.form: found 'paper'; expected one of published, formula"),
        ({"temperature": 0.0}, "objective.temperature: found 0.0; expected a number above 0"),
        ({"temperature": float("nan")}, "objective.temperature: found nan"),
        ({"proxies": {"age": -1.0}}, "objective.proxies.age: found -1.0; expected a width of 0 or more"),
        ({"proxies": {"age": 5.0, "sex": float("inf")}}, "objective.proxies.sex: found inf"),
    ],
)
def test_what_cannot_be_is_told(keywords, message):
    with pytest.raises(InputError, match=message):
        contrastive.build(**keywords)


SCRIPT = """
    import json
    import jax, jax.numpy as jnp, numpy as np
    from jaxneuro.objectives import contrastive, masked
    from jaxneuro.training import sharding

    rng = np.random.default_rng(0)
    batch = {k: rng.normal(size=(16, 4, 4, 4, 1)).astype(np.float32) for k in ("volume", "second")}
    batch["age"] = rng.uniform(20, 60, 16).astype(np.float32)
    mesh = sharding.make_mesh({"data": -1})
    params = {"w": jnp.asarray(rng.normal(size=(64, 8)), jnp.float32), "v": jnp.ones((64, 8), jnp.float32)}

    def embed(variables, x, *, train, mutable, rngs):
        return (jnp.tanh(x.reshape(len(x), -1) @ variables["params"]["w"]), {}), {}

    def rebuild(variables, x, *, train, mutable, rngs, mask):
        seen = jnp.repeat(jnp.repeat(jnp.repeat(1 - mask, 2, 1), 2, 2), 2, 3)[..., None] * x
        p = variables["params"]
        return ((seen.reshape(len(x), -1) @ p["w"] @ p["v"].T).reshape(x.shape), {}), {}

    masking = masked.build(kind="simmim", grid=(2, 2, 2), patch=(2, 2, 2), ratio=0.6)
    found = {}
    for name, objective, apply in (("contrastive", contrastive.build(), embed), ("masked", masking, rebuild)):
        def step(params, batch):
            (value, _), gradients = jax.value_and_grad(
                lambda p: objective.loss(apply, p, {}, batch, jax.random.key(0)), has_aux=True
            )(params)
            return value, gradients["w"]
        many = jax.jit(step)(params, sharding.put(mesh, batch))
        one = jax.jit(step)(*jax.device_put((params, batch), jax.devices()[0]))
        found[name] = [[float(v), np.asarray(g).tolist()] for v, g in (one, many)]
    split = sharding.put(mesh, batch)["volume"].sharding.shard_shape((16, 4, 4, 4, 1))[0]
    print(json.dumps([split, found]))
"""


@pytest.mark.slow
def test_a_batch_over_eight_devices_is_one_batch():
    """Negatives come from all devices, masks are drawn and losses pooled over the whole batch, and so are gradients."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True, text=True, timeout=120, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    split, values = json.loads(done.stdout.splitlines()[-1])
    assert split == 2
    for name, (one, many) in values.items():
        assert many[0] == pytest.approx(one[0], rel=1e-6), name
        np.testing.assert_allclose(many[1], one[1], rtol=1e-4, atol=1e-6, err_msg=name)
