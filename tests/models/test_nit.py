"""NiT and MiNiT: counts, beginnings, blocks and their places, dropped layers, and what a user may get wrong."""

from functools import cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxneuro import models
from jaxneuro.models import layers
from tests.models.every import abstract_init, count, random_variables

CUBE = (80, 80, 80)
STILL = {"drop_rate": 0.0, "embed_drop_rate": 0.0}


@pytest.mark.parametrize(("name", "keywords", "expected"), [
    ("minit", {"input_size": (64, 64, 64)}, 3_632_962),
    ("minit", {}, 4_648_246),
    ("minit", {"depth": 3}, 3_381_655),
    ("minit", {"depth": 8}, 5_492_640),
    ("minit", {"heads": 12, "head_width": 21}, 4_623_670),
    ("minit", {"heads": 4, "head_width": 64}, 4_648_246),
    ("minit", {"patch_size": (8, 8, 8), "mlp_hidden": 256, "depth": 8}, 3_583_480),
    ("minit", {"block_size": (40, 40, 40), "patch_size": (5, 5, 5), "mlp_hidden": 256}, 3_585_572),
    ("minit_b20", {}, 3_648_578),
    ("minit_b20", {"mlp_hidden": 256}, 3_485_444),
    ("nit", {"input_size": (64, 64, 64)}, 1_800_108),
    ("nit", {"depth": 3}, 1_541_314),
    ("nit", {}, 1_925_036),
    ("nit", {"depth": 6}, 2_692_480),
    ("nit", {"depth": 8}, 3_459_924),
    ("nit", {"patch_size": (10, 10, 10)}, 1_925_036),
    ("nit", {"patch_size": (4, 4, 4)}, 3_602_348),
    ("nit", {"patch_size": (20, 20, 20)}, 3_602_348),
    ("nit", {"patch_size": (5, 5, 5)}, 2_618_540),
    ("nit", {"patch_size": (16, 16, 16)}, 2_618_540),
])  # fmt: skip
def test_published_counts(name, keywords, expected):
    """As the published networks, with two classes; those of NiT have its unused distillation parts in them."""
    assert count(models.build(name, **{"num_outputs": 2, "input_size": CUBE, **keywords})) == expected


def test_parameters_begin_as_published():
    """Tokens, positions and block embeddings N(0, 1), kernels and biases of linear layers uniform."""
    width, hidden, patch, outputs = 64, 100, 64, 50  # large enough for the spread of each leaf to be measured
    keywords = {"num_outputs": outputs, "width": width, "mlp_hidden": hidden, "patch_size": (4, 4, 4), "heads": 4}
    nit = models.build("nit_testing", input_size=(16, 16, 16), **keywords)
    minit = models.build("minit_testing", input_size=(32, 16, 16), **keywords)
    fan_in = {"patch_embed": patch, "qkv": width, "proj": 32, "fc1": width, "fc2": hidden, "block": width}
    for model in (nit, minit):
        fan_in["out"] = 2 * outputs if model is minit else width
        params = meta.unbox(jax.jit(partial(model.init, train=False))(jax.random.key(0), **zeros(model)))["params"]
        seen = set()
        for path, leaf in jax.tree.leaves_with_path(params):
            *modules, kind = (k.key for k in path)
            seen.add(kind)
            spread = 6 / np.sqrt(leaf.size)
            if kind in ("cls_token", "distill_token", "positions", "block_embeddings"):
                assert abs(float(leaf.mean())) < spread, path
                assert abs(float(leaf.std()) - 1) < spread, path
                assert float(jnp.abs(leaf).max()) > 1.8, path  # a uniform one of deviation 1 ends at 1.73
            elif modules[-1].startswith("norm"):
                np.testing.assert_array_equal(leaf, float(kind == "scale"), str(path))
            else:
                of = fan_in["patch_embed" if "patch_embed" in modules else modules[-1]]
                # A uniform one comes near its ends.
                assert (1 - spread) / np.sqrt(of) < float(jnp.abs(leaf).max()) <= 1 / np.sqrt(of), path
                assert abs(float(leaf.std()) * np.sqrt(3 * of) - 1) < spread, path
        kinds = {"scale", "bias", "kernel", "positions", "cls_token"}
        assert seen == kinds | {"block_embeddings" if model is minit else "distill_token"}


def zeros(model):
    return {k: jnp.zeros(x.shape, x.dtype) for k, x in models.inputs(model).items()}


@cache
def small(name, size=(32, 16, 32), **keywords):
    """Return a testing-size model of two outputs that draws nothing, random variables, and volumes [3, ...]."""
    model = models.build(name, num_outputs=2, input_size=size, **{**STILL, **keywords})
    x = np.random.default_rng(1).normal(size=(3, *size, model.in_channels)).astype(np.float32)
    return model, random_variables(abstract_init(model)), x


@cache
def compiled(model, train=False):
    if not train:
        return jax.jit(partial(model.apply, train=False))
    return jax.jit(lambda v, x, key: model.apply(v, x, train=True, rngs={"dropout": key}))


def test_a_block_is_seen_alone_and_lies_in_its_place():
    """A voxel moves the tokens of its own block and no other; blocks lie in the map as in the volume."""
    model, variables, x = small("minit_testing", size=(48, 16, 32))
    assert model.blocks() == (3, 1, 2)
    before = compiled(model)(variables, x)[1]
    assert before["map"].shape == (3, 12, 4, 8, 16)
    other = x.copy()
    other[1, 20, 5, 30] += 3  # block (1, 0, 1): number 3
    after = compiled(model)(variables, other)[1]
    moved = np.asarray(after["map"] != before["map"])
    assert not moved[[0, 2]].any()
    expected = np.zeros((12, 4, 8), bool)
    expected[4:8, :, 4:] = True
    np.testing.assert_array_equal(moved[1].any(-1), expected)
    np.testing.assert_array_equal((after["tokens"] != before["tokens"])[1].any((1, 2)), np.arange(6) == 3)
    # A patch stands first-axis first among the tokens of its block: (2, 1, 3) is number 2 * 16 + 1 * 4 + 3.
    np.testing.assert_array_equal(before["map"][:, 6, 1, 7], before["tokens"][:, 3, 1 + 39])


def test_blocks_are_told_apart_by_their_embeddings_alone():
    model, variables, x = small("minit_testing")
    x = np.tile(x[:, :16, :, :16], (1, 2, 1, 2, 1))  # the same block four times
    tokens = compiled(model)(variables, x)[1]["tokens"]
    assert (tokens[:, 0] != tokens[:, 1]).any()
    first = variables["params"]["block_embeddings"][:1]
    same = {"params": {**variables["params"], "block_embeddings": jnp.repeat(first, 4, axis=0)}}
    tokens = compiled(model)(same, x)[1]["tokens"]
    for block in range(4):
        np.testing.assert_allclose(tokens[:, block], tokens[:, 0], rtol=1e-5, atol=1e-6)


def test_without_outputs_minit_gives_the_mean_of_the_class_tokens():
    model, variables, x = small("minit_testing")
    kept = {"params": {k: v for k, v in variables["params"].items() if k != "head"}}
    outputs, features = compiled(model.copy(num_outputs=0))(kept, x)
    np.testing.assert_allclose(outputs, np.float64(features["tokens"][:, :, 0]).mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features["tokens"], compiled(model)(variables, x)[1]["tokens"], rtol=1e-5, atol=1e-6)


def test_nits_map_is_its_tokens_in_order_and_pooled_its_class_token():
    model, variables, x = small("nit_testing", size=(24, 32, 16))
    features = compiled(model)(variables, x)[1]
    np.testing.assert_array_equal(features["pooled"], features["tokens"][:, 0])
    # (2, 1, 1) of 3 x 4 x 2 is number 2 * 8 + 1 * 2 + 1.
    np.testing.assert_array_equal(features["map"][:, 2, 1, 1], features["tokens"][:, 1 + 19])


@pytest.mark.parametrize("name", ["nit_testing", "minit_testing"])
def test_only_the_distillation_parts_take_no_part(name):
    """No gradient reaches them, one reaches each other parameter, and no value of theirs moves an output."""
    model, variables, x = small(name)
    gradients = jax.jit(jax.grad(lambda v: jnp.sum(jnp.square(model.apply(v, x, train=True)[0]))))(variables)["params"]
    zero = {"/".join(k.key for k in path) for path, g in jax.tree.leaves_with_path(gradients) if not np.any(g)}
    ours = {"distill_token", *(f"distill/{leaf}" for leaf in ("norm/scale", "norm/bias", "out/kernel", "out/bias"))}
    assert zero == (ours if name == "nit_testing" else set())
    if zero:
        wild = {k: jax.tree.map(lambda v: v + 9, v) if "distill" in k else v for k, v in variables["params"].items()}
        np.testing.assert_array_equal(compiled(model)({"params": wild}, x)[0], compiled(model)(variables, x)[0])


def test_nits_head_may_have_hidden_layers():
    model, variables, x = small("nit_testing", head_hidden=(6, 5))
    outputs, features = compiled(model)(variables, x)
    p, y = jax.tree.map(np.float64, variables["params"]["head"]), np.float64(features["pooled"])
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5) * p["norm"]["scale"]
    y = y + p["norm"]["bias"]
    for name in ("hidden0", "hidden1"):
        y = np.maximum(y @ p[name]["kernel"] + p[name]["bias"], 0)
    np.testing.assert_allclose(outputs, y @ p["out"]["kernel"] + p["out"]["bias"], rtol=1e-4, atol=1e-5)


def test_minits_head_with_hidden_layers_is_of_the_mean_class_token():
    model, variables, x = small("minit_testing", head_hidden=(6, 5))
    outputs, features = compiled(model)(variables, x)
    p, y = jax.tree.map(np.float64, variables["params"]["head"]), np.float64(features["tokens"][:, :, 0]).mean(1)
    assert p.keys() == {"norm", "hidden0", "hidden1", "out"}
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5) * p["norm"]["scale"]
    y = y + p["norm"]["bias"]
    for name in ("hidden0", "hidden1"):
        y = np.maximum(y @ p[name]["kernel"] + p[name]["bias"], 0)
    np.testing.assert_allclose(outputs, y @ p["out"]["kernel"] + p["out"]["bias"], rtol=1e-4, atol=1e-5)


def test_block_embeddings_and_positions_are_annotated():
    variables = jax.eval_shape(lambda: models.build("minit").init(jax.random.key(0), jnp.zeros((1, *CUBE, 1)), False))
    for name, shape in (("block_embeddings", (125, 65, 256)), ("positions", (1, 65, 256)), ("cls_token", (1, 1, 256))):
        leaf = variables["params"][name]
        assert leaf.names == layers.POSITION_TABLE
        assert leaf.unbox().shape == shape


# --- layers dropped ---------------------------------------------------------------------------------------------------


def with_blocks(variables, numbers):
    """Return the variables of a network that has these blocks alone, numbered anew."""
    blocks = variables["params"]["encoder"]
    return {
        "params": {**variables["params"], "encoder": {f"block{i}": blocks[f"block{n}"] for i, n in enumerate(numbers)}}
    }


@pytest.mark.parametrize(
    ("depth", "layer_drop", "left"),
    [(6, 0.25, (0, 2, 3, 4)), (4, 0.5, (0, 2)), (3, 0.25, (0, 2)), (3, 0.9, (0,)), (1, 0.5, (0,)), (3, 0.0, (0, 1, 2))],
)
def test_evaluation_leaves_out_the_published_layers(depth, layer_drop, left):
    """Layers 1, 1 + 1/p, 1 + 2/p, ... are not there: the outputs are those of the network without them, bit for bit."""
    model, variables, x = small("minit_testing", depth=depth, layer_drop=layer_drop)
    shorter = model.copy(depth=len(left), layer_drop=0.0)
    (y, features), (want, wanted) = (
        compiled(m)(v, x) for m, v in ((model, variables), (shorter, with_blocks(variables, left)))
    )
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(features["map"], wanted["map"])
    if layer_drop and depth > 1:
        whole = compiled(model.copy(layer_drop=0.0))(variables, x)[0]
        assert float(jnp.abs(y - whole).max()) > 1e-3


def test_training_skips_each_layer_by_chance_for_the_whole_batch():
    """Each draw is one of the eight networks that lack some layers, with the chances of three coins."""
    rate, draws = 0.25, 400
    model, variables, x = small("minit_testing", depth=3, layer_drop=rate, size=(16, 16, 16))
    subsets = [tuple(np.flatnonzero(kept)) for kept in product((0, 1), repeat=3)]
    shorter = [compiled(model.copy(depth=len(s), layer_drop=0.0))(with_blocks(variables, s), x)[0] for s in subsets]
    shorter = np.stack(shorter)  # [8, b, k]
    keys = jax.random.split(jax.random.key(0), draws)
    y = np.asarray(jax.jit(jax.vmap(lambda key: compiled(model, train=True)(variables, x, key)[0]))(keys))
    distance = np.abs(y[:, None] - shorter).max((2, 3))  # over the batch: one network for all of it
    found, scale = distance.argmin(1), np.abs(shorter).max()
    assert distance.min(1).max() < 1e-4 * scale
    assert np.sort(distance, axis=1)[:, 1].min() > 1e-3 * scale
    for i, s in enumerate(subsets):
        chance = (1 - rate) ** len(s) * rate ** (3 - len(s))
        assert abs((found == i).mean() - chance) < 5 * np.sqrt(chance * (1 - chance) / draws), s
    again = compiled(model, train=True)(variables, x, keys[0])[0]
    np.testing.assert_array_equal(again, compiled(model, train=True)(variables, x, keys[0])[0])


def test_no_gradient_reaches_a_skipped_layer():
    model, variables, x = small("minit_testing", depth=2, layer_drop=0.5, size=(16, 16, 16))

    def loss(v, key):
        return jnp.sum(jnp.square(model.apply(v, x, train=True, rngs={"dropout": key})[0]))

    step = jax.jit(jax.grad(loss))
    seen = set()
    for seed in range(12):
        blocks = step(variables, jax.random.key(seed))["params"]["encoder"]
        reached = [[bool(np.any(g)) for g in jax.tree.leaves(blocks[f"block{i}"])] for i in range(2)]
        assert all(all(r) or not any(r) for r in reached)
        seen.add(tuple(any(r) for r in reached))
    assert len(seen) > 2


@pytest.mark.parametrize("name", ["nit_testing", "minit_testing"])
def test_remat_draws_the_same_again(name):
    """What the backward pass computes anew must drop what the forward pass dropped."""
    drops = {"drop_rate": 0.3, "embed_drop_rate": 0.2} | ({"layer_drop": 0.3} if name == "minit_testing" else {})
    model, variables, x = small(name, **drops)

    def gradients(model):
        def loss(v):
            return jnp.sum(jnp.square(model.apply(v, x, train=True, rngs={"dropout": jax.random.key(5)})[0]))

        return jax.jit(jax.value_and_grad(loss))(variables)

    plain, again = gradients(model), gradients(model.copy(remat=True))
    scale = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain[1]))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["nit_testing", "minit_testing"])
def test_embeddings_are_dropped_in_training_class_token_and_all(name):
    """Without layers the tokens are the embeddings: each value is zero, or as in evaluation and scaled up."""
    rate = 0.25
    model, variables, x = small(name, depth=0, embed_drop_rate=rate)
    still = np.asarray(compiled(model)(variables, x)[1]["tokens"])
    tokens = np.asarray(compiled(model, train=True)(variables, x, jax.random.key(0))[1]["tokens"])
    dropped = tokens == 0
    np.testing.assert_allclose(tokens[~dropped], still[~dropped] / (1 - rate), rtol=1e-5, atol=1e-6)
    assert abs(dropped.mean() - rate) < 5 * np.sqrt(rate * (1 - rate) / dropped.size)
    class_tokens = dropped[..., 0, :]
    assert class_tokens.any()
    assert not class_tokens.all()


# --- hidden patches ---------------------------------------------------------------------------------------------------


def simmim(name, **keywords):
    """Return a network for masked modelling of volumes that are not cubes, and random variables."""
    model = models.build(f"{name}_simmim_testing", input_size=(48, 16, 32), in_channels=2, **{**STILL, **keywords})
    return model, random_variables(abstract_init(model))


@pytest.mark.parametrize(("name", "grid"), [("nit", (6, 2, 4)), ("minit", (12, 4, 8))])
def test_masks_lie_on_the_patches_of_the_whole_volume(name, grid):
    """Of MiNiT's three blocks by one by two together; and hiding has no parameter but the token."""
    model, variables = simmim(name)
    assert model.encoder.patches() == grid
    assert models.inputs(model, 2)["mask"].shape == (2, *grid)
    assert model.encoder.stride() == model.encoder.patch() == {"nit": (8, 8, 8), "minit": (4, 4, 4)}[name]
    bare = models.build(f"{name}_testing", input_size=(48, 16, 32), in_channels=2, num_outputs=0)
    own = abstract_init(bare)["params"]
    assert jax.tree.structure(variables["params"]["encoder"]) == jax.tree.structure(own)
    assert variables["params"].keys() == {"encoder", "mask_token", "decoder"}
    assert not any("distill" in key for key in own)


@pytest.mark.parametrize(("name", "heads", "decoder"), [
    # A norm and two outputs (256 to 2), twice and a token; of MiNiT a norm, 256 to 2 and 125 times 2 to 2.
    ("nit", 256 + 2 * (512 + 514), 257 * 8**3), ("minit", 512 + 514 + 502, 257 * 4**3),
])  # fmt: skip
def test_counts_with_a_linear_decoder_and_a_token_for_heads(name, heads, decoder):
    whole = {"nit": 1_925_036, "minit": 4_648_246}[name]  # published, with two classes
    assert count(models.build(f"{name}_simmim", input_size=CUBE)) == whole - heads + 256 + decoder


@pytest.mark.parametrize("name", ["nit", "minit"])
def test_a_hidden_patch_is_the_token_in_its_place(name):
    """Hiding patches behind the embedding of a constant patch is the same as filling their voxels with the constant."""
    model, variables = simmim(name)
    params, side = variables["params"], model.encoder.patch_size[0]
    proj = jax.tree.map(np.float64, params["encoder"]["patch_embed"]["proj"])
    token = 0.7 * proj["kernel"].sum((0, 1, 2, 3)) + proj["bias"]
    variables = {"params": {**params, "mask_token": jnp.asarray(token, jnp.float32)}}
    rng = np.random.default_rng(0)
    mask = (rng.uniform(size=(2, *model.encoder.patches())) < 0.4).astype(np.float32)
    x = rng.normal(size=(2, 48, 16, 32, 2)).astype(np.float32)
    hidden = np.kron(mask[..., None], np.ones((1, side, side, side, 1))) == 1
    run = jax.jit(partial(model.apply, train=False))
    found, features = run(variables, x, mask=mask)
    want, wanted = run(variables, np.where(hidden, np.float32(0.7), x), mask=0 * mask)
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))
    np.testing.assert_allclose(features["tokens"], wanted["tokens"], rtol=1e-4, atol=1e-4)
    # What is under a hidden patch has no influence at all; what is not hidden has.
    other = np.where(hidden, np.float32(9), x)
    np.testing.assert_array_equal(run(variables, other, mask=mask)[0], found)
    assert (run(variables, other, mask=0 * mask)[0] != found).any()


@pytest.mark.parametrize("name", ["nit", "minit"])
def test_a_token_is_decoded_into_the_voxels_of_its_patch(name):
    """A feature of the last map, copied to one voxel of each patch and channel, stands there in the map's order."""
    model, variables = simmim(name)
    side = model.encoder.patch_size[0]
    decoder = jax.tree.map(jnp.zeros_like, variables["params"]["decoder"])
    column = 1 * side**3 + (1 * side + 3) * side + 2  # channel 1, voxel (1, 3, 2)
    decoder = {**decoder, "kernel": decoder["kernel"].at[5, column].set(1.0)}
    x = np.random.default_rng(0).normal(size=(1, 48, 16, 32, 2)).astype(np.float32)
    run = jax.jit(partial(model.apply, train=False))
    mask = np.zeros((1, *model.encoder.patches()), np.float32)
    volume, features = run({"params": {**variables["params"], "decoder": decoder}}, x, mask=mask)
    expected = np.zeros(x.shape)
    expected[:, 1::side, 3::side, 2::side, 1] = features["map"][..., 5]
    np.testing.assert_allclose(volume, expected, rtol=1e-5, atol=1e-6)
    assert np.count_nonzero(volume) == mask.size


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        ("minit", {"input_size": (80, 70, 96)}, r"multiples of \(16, 16, 16\), such as \(80, 64, 96\)"),
        ("minit", {"patch_size": (4, 5, 4)}, r"\(4, 5, 4\) in block_size \(16, 16, 16\);.*\[1, 2, 4, 8, 16\]"),
        ("minit", {"block_size": (16, 16)}, r"expected three whole numbers of 1 or more, such as \(16, 16, 16\)"),
        ("minit_b20", {"input_size": (96, 96, 96)}, r"multiples of \(20, 20, 20\), such as \(100, 100, 100\)"),
        ("minit", {"layer_drop": 1.0}, "found layer_drop=1.0; expected at least 0 and less than 1"),
        ("minit", {"layer_drop": -0.1}, "found layer_drop=-0.1"),
        ("nit", {"input_size": (80, 81, 80)}, r"multiples of \(8, 8, 8\), such as \(80, 80, 80\)"),
        ("nit", {"input_size": (16, 32, 16)}, r"16 patches of \(8, 8, 8\); expected more than 16"),
        ("nit", {"layer_drop": 0.25}, "unknown keyword layer_drop"),
        ("nit_simmim", {"input_size": (16, 32, 16)}, "expected more than 16"),
        ("minit_simmim", {"input_size": (80, 70, 96)}, r"multiples of \(16, 16, 16\)"),
        ("minit_simmim", {"head_hidden": 5}, r"minit_simmim: found head_hidden=5; expected whole numbers .* or \(\)"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(name, keywords, message):
    with pytest.raises(ValueError, match=message) as e:
        models.build(name, **keywords)
    assert "\n" not in str(e.value)


def test_the_smallest_nit_has_more_than_sixteen_patches():
    assert models.build("nit", input_size=(24, 24, 16)).grid() == (3, 3, 2)


@pytest.mark.parametrize("name", ["nit_testing", "minit_testing"])
def test_other_volumes_than_the_positions_are_for_are_refused(name):
    model, variables, _ = small(name)
    for shape in ((1, 32, 32, 32, 1), (1, 32, 16, 32, 2), (32, 16, 32, 1)):
        with pytest.raises(ValueError, match=r"expected volumes \[b, 32, 16, 32, 1\], found"):
            jax.eval_shape(partial(model.apply, train=False), variables, jnp.zeros(shape))
