"""What a network costs, against counts by hand and against torch's own counter."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxneuro import models
from jaxneuro.models import cost, layers
from jaxneuro.models.convolution import conv3d


def shape(*size):
    return {"x": jax.ShapeDtypeStruct(size, jnp.float32)}


class Small(nn.Module):
    """A convolution, a hidden layer and an output, small enough to count by hand."""

    @nn.compact
    def __call__(self, x, train):
        x = layers.Conv(5, (3, 3, 3), padding=(1, 1, 1), name="conv")(x)
        x = jnp.sin(layers.global_mean_pool(x))
        x = jnp.tanh(layers.Dense(7, name="hidden")(x))
        return layers.Dense(2, name="out")(x), {}


def test_counts_by_hand():
    costs = cost.by_module(Small(), shape(4, 6, 6, 6, 3))
    assert list(costs) == [("conv",), (), ("hidden",), ("out",)]  # as they run
    # A multiply and an add for each weight, at each voxel of each volume.
    assert costs["conv",] == cost.Cost(parameters=27 * 3 * 5 + 5, flops=2 * 4 * 6**3 * 27 * 3 * 5)
    # The gradient of sin keeps its cosine [4, 5], that of tanh [4, 7] keeps what it made; each layer keeps its input.
    assert costs[()].flops == 0
    assert costs["hidden",].flops == 2 * 4 * 5 * 7
    assert costs["out",] == cost.Cost(parameters=7 * 2 + 2, flops=2 * 4 * 7 * 2)
    total = cost.total(costs)
    assert total.parameters == 410 + 42 + 16
    assert total.flops == 2 * 4 * (6**3 * 405 + 35 + 14)
    kept = {4 * 4 * 5, 4 * 4 * 7}
    assert sum(kept) <= total.kept <= 2 * sum(kept) + 64


@pytest.mark.parametrize("name", ["densenet121_testing", "tiny_densenet_testing"])
def test_depth_tells_more_apart_and_sums_to_the_same(name):
    model = models.build(name, input_size=(32, 32, 32))
    shallow, deep = (cost.by_module(model, shape(2, 32, 32, 32, 1), depth=d) for d in (1, 3))
    assert len(deep) > len(shallow)
    assert cost.total(shallow) == cost.total(deep)
    assert sum((c for p, c in deep.items() if p[:1] == ("denseblock1",)), cost.Cost()) == shallow["denseblock1",]


def test_twice_the_batch_does_twice_the_work_and_remat_keeps_less():
    model = models.build("tiny_densenet_testing", input_size=(32, 32, 32))
    one, two = (cost.total(cost.by_module(model, shape(b, 32, 32, 32, 1))) for b in (4, 8))
    assert two.flops == 2 * one.flops
    assert two.parameters == one.parameters
    assert 1.9 < two.kept / one.kept <= 2
    less = cost.total(cost.by_module(model.copy(remat=True), shape(4, 32, 32, 32, 1)))
    assert less.kept < 0.9 * one.kept
    assert less.flops == one.flops


def test_densenet_flops_equal_torchs_counter_but_for_the_pools():
    reference = pytest.importorskip("tests.torch_reference")
    from torch.utils.flop_counter import FlopCounterMode

    theirs = reference.monai_nets.DenseNet(3, 1, 1, init_features=8, growth_rate=4, block_config=(2, 1, 1, 1))
    with FlopCounterMode(display=False) as counter, reference.torch.no_grad():
        theirs.eval()(reference.torch.zeros(2, 1, 64, 64, 64))
    model = models.build("densenet121_testing", input_size=(64, 64, 64))
    costs = cost.by_module(model, shape(2, 64, 64, 64, 1))
    # Our transitions pool before their 1x1x1 convolution: the same function on an eighth of the voxels.
    pooled = sum(c.flops for path, c in costs.items() if path and path[0].startswith("transition"))
    assert cost.total(costs).flops + 7 * pooled == counter.get_total_flops()


def test_video_swin_t_costs_what_is_published():
    """Liu et al. 2022: 28.2 million parameters and 87.9 G multiply-adds for a clip of 32 x 224 x 224."""
    model = models.build("swin_t", input_size=(32, 224, 224), in_channels=3, num_outputs=400)
    total = cost.total(cost.by_module(model, models.inputs(model)))
    assert total.parameters == 28_158_070
    assert abs(total.flops / 2e9 - 87.9) < 0.3  # they count norms, too


def test_the_gradient_of_a_stride_does_as_much_as_the_convolution():
    x, kernel = jax.ShapeDtypeStruct((1, 8, 8, 8, 3), jnp.float32), jax.ShapeDtypeStruct((2, 2, 2, 3, 5), jnp.float32)

    def total(x, kernel):
        return conv3d(x, kernel, (2, 2, 2)).sum()

    once = 2 * 4**3 * 8 * 3 * 5
    assert cost.work(total, x, kernel).flops == {"float32": once}
    assert cost.work(jax.grad(total, argnums=(0, 1)), x, kernel).flops["float32"] == 3 * once


def test_operations_of_a_program_are_those_of_its_gradient_too():
    """Backward through a product is two products; the forms for accelerators are counted, not those for CPUs."""

    def loss(kernel, x):
        return jnp.sum(jnp.tanh(x @ kernel))

    kernel, x = jax.ShapeDtypeStruct((5, 7), jnp.float32), jax.ShapeDtypeStruct((4, 5), jnp.float32)
    forward = 2 * 4 * 5 * 7
    assert sum(cost.work(loss, kernel, x).flops.values()) == forward
    assert sum(cost.work(jax.jit(jax.grad(loss, argnums=(0, 1))), kernel, x).flops.values()) == 3 * forward

    conv = layers.Conv(5, (3, 3, 3), padding=(1, 1, 1))
    x = jax.ShapeDtypeStruct((4, 6, 6, 6, 3), jnp.float32)
    variables = nn.meta.unbox(jax.eval_shape(conv.init, jax.random.key(0), x))
    assert (
        sum(cost.work(jax.jit(lambda v, x: conv.apply(v, x)), variables, x).flops.values()) == 2 * 4 * 6**3 * 27 * 3 * 5
    )
