"""The layer of each parameter: worked out by hand for one model of each kind, and known for every one by name."""

import flax.linen as nn
import pytest
from flax.traverse_util import flatten_dict

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.models.order import layer_of, layers_in
from tests.models.every import abstract_init

# In the order in which they run: input, blocks, head.
BY_HAND = [
    ("vit_b16", 8, {
        "patch_embed/proj/kernel": 0, "positions": 0, "cls_token": 0, "block0/norm1/scale": 1,
        "block1/attn/qkv/kernel": 2, "block5/mlp/fc2/bias": 6, "norm/scale": 6, "head/out/kernel": 7,
    }),
    # Ten and more blocks: block1 is no beginning of block10.
    ("vit_b16_l12", 14, {"block1/attn/qkv/kernel": 2, "block10/attn/qkv/kernel": 11, "block11/norm2/bias": 12}),
    ("swin_t", 14, {  # depths 2, 2, 6, 2
        "patch_embed/proj/bias": 0, "patch_embed/norm/scale": 0, "stage0/block0/relative_bias/table": 1,
        "stage0/block1/norm1/bias": 2, "stage0/merge/reduction/kernel": 2, "stage1/block0/attn/qkv/kernel": 3,
        "stage1/merge/norm/scale": 4, "stage2/block0/norm1/scale": 5, "stage2/block5/mlp/fc1/kernel": 10,
        "stage2/merge/norm/bias": 10, "stage3/block0/mlp/fc1/kernel": 11, "stage3/block1/attn/proj/bias": 12,
        "norm/bias": 12, "head/out/bias": 13,
    }),
    ("nit", 6, {
        "patch_embed/proj/kernel": 0, "cls_token": 0, "distill_token": 0, "encoder/block0/norm1/scale": 1,
        "encoder/block3/mlp/fc2/kernel": 4, "head/norm/scale": 5, "head/out/kernel": 5, "distill/out/bias": 5,
    }),
    ("minit", 8, {
        "block_embeddings": 0, "positions": 0, "encoder/block5/attn/proj/kernel": 6, "head/block/kernel": 7,
    }),
    ("densenet121", 6, {
        "conv0/kernel": 0, "norm0/bias": 0, "denseblock1/denselayer6/conv2/kernel": 1, "transition1/conv/kernel": 1,
        "denseblock2/denselayer1/norm1/scale": 2, "transition3/norm/bias": 3,
        "denseblock4/denselayer16/conv1/kernel": 4, "norm5/scale": 4, "head/out/kernel": 5,
    }),
    ("tiny_densenet", 5, {"denseblock3/denselayer16/conv2/kernel": 3, "norm5/bias": 3, "head/out/bias": 4}),
    ("vit_b16_mae", 8, {
        "encoder/cls_token": 0, "encoder/block5/mlp/fc1/bias": 6, "encoder/norm/bias": 6, "decoder/positions": 7,
        "decoder/mask_token": 7, "decoder/block0/attn/qkv/kernel": 7, "decoder/pred/kernel": 7,
    }),
    ("swin_t_simmim", 14, {
        "mask_token": 13, "decoder/kernel": 13, "encoder/patch_embed/proj/kernel": 0,
        "encoder/stage1/merge/norm/bias": 4, "encoder/norm/scale": 12,
    }),
    ("nit_simmim", 6, {"encoder/positions": 0, "encoder/encoder/block2/norm2/bias": 3, "decoder/bias": 5}),
    ("minit_simmim", 8, {"encoder/block_embeddings": 0, "encoder/encoder/block0/norm2/bias": 1, "mask_token": 7}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "count", "expected"), BY_HAND, ids=[row[0] for row in BY_HAND])
def test_layers_by_hand(name, count, expected):
    model = models.build(name)
    known = flatten_dict(abstract_init(model)["params"], sep="/")
    assert set(expected) <= set(known)
    assert {path: layer_of(model, path) for path in expected} == expected
    assert layers_in(model) == count


@pytest.mark.parametrize("name", models.MODELS)
def test_every_parameter_has_a_layer_and_every_layer_a_parameter(name):
    model = models.build(name)
    paths = flatten_dict(abstract_init(model)["params"], sep="/")
    assert {layer_of(model, path) for path in paths} == set(range(layers_in(model)))


def test_hidden_layers_of_a_head_are_of_the_head():
    for name in ("densenet121_testing", "swin_t_testing", "vit_b16_testing", "nit_testing", "minit_testing"):
        model = models.build(name, head_hidden=(8,))
        paths = [p for p in flatten_dict(abstract_init(model)["params"], sep="/") if "hidden" in p]
        assert paths
        assert {layer_of(model, path) for path in paths} == {layers_in(model) - 1}


def test_a_stage_without_blocks_belongs_to_what_is_before_it():
    model = models.build("swin_t_testing", depths=(0, 1))
    assert layers_in(model) == 3
    assert layer_of(model, "stage0/merge/norm/scale") == 0
    assert layer_of(model, "stage1/block0/norm1/scale") == 1


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vit_b16", "block6/norm1/scale"),  # blocks are numbered from 0 to 5
        ("vit_b16", "params/norm/scale"),
        ("vit_b16", "encoder/norm/scale"),
        ("vit_b16", "normal/scale"),
        ("vit_b16_mae", "norm/scale"),
        ("vit_b16_mae", "encoder/decoder/pred/bias"),
        ("swin_t", "block0/norm1/scale"),
        ("nit", "block0/norm1/scale"),
        ("nit", ""),
    ],
)
def test_a_path_that_no_layer_has_is_told(name, path):
    with pytest.raises(InputError, match=rf"found the parameter '{path}'; expected one of \w+ below .*add its name"):
        layer_of(models.build(name), path)


def test_another_kind_of_network_is_told():
    with pytest.raises(InputError, match="found a model of kind Dense; expected DenseNet, Swin"):
        layers_in(nn.Dense(2))
