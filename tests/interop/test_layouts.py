"""Files in each published layout: in by the command line, out by it, every bit the same, outputs equal."""

import argparse
import csv
import json
import re
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.torch import load_file

from jaxneuro import cli, interop, models
from jaxneuro.interop import files, weights
from tests.interop.published import FILES
from tests.models.every import abstract_init, random_variables
from tests.models.test_swin_parity import reference
from tests.models.test_vit_parity import draw, keeping
from tests.torch_reference import largest_difference, monai_nets, torch, volumes

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")


def convert(published, source, out, *more):
    settings = dict(published.settings)
    arguments = [f"--input-size={','.join(map(str, published.size))}"]
    for key in ("in_channels", "num_outputs"):
        if key in settings:
            arguments.append(f"--{key.replace('_', '-')}={settings.pop(key)}")
    arguments += [f"--set={key}={value}" for key, value in settings.items()]
    return cli.main(
        [
            "convert",
            str(source),
            f"--model={published.model}",
            f"--source={published.layout}",
            f"--out={out}",
            *arguments,
        ]
        + [str(m) for m in more]
    )


def export(source, form, layout, out):
    return cli.main(["export", str(source), f"--format={form}", f"--layout={layout}", f"--out={out}"])


def read(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        found = torch.load(path, weights_only=True)
    for wrapper in ("state_dict", "model_state_dict", "model"):
        found = found.get(wrapper, found)
    return {k: v.numpy() for k, v in found.items()}


@pytest.mark.parametrize("name", FILES)
def test_there_and_back(name, tmp_path, capsys):
    published = FILES[name]
    module = published.make().eval()
    source = published.save(module, tmp_path / "published.pth")
    assert convert(published, source, tmp_path / "ours") == 0, capsys.readouterr().err
    model, variables, card = interop.load(tmp_path / "ours")
    assert card["source"]["layout"] == published.layout

    # What goes in computes the same.
    x, tensor = volumes(2, *published.size, published.settings.get("in_channels", 1))
    inputs = {"x": x}
    if "mae" in name:
        inputs["keep"] = draw(2, 12, 3)
        keeping(getattr(module, "inner", module), inputs["keep"])
    with torch.no_grad():
        expected = module(tensor)
    expected = expected[0] if isinstance(expected, tuple) else expected
    run = jax.jit(partial(model.apply, train=False))
    outputs = run({k: v for k, v in variables.items() if k != "unused"}, **inputs)[0]
    assert largest_difference(outputs, expected) <= 1e-4

    # What comes out is what went in, bit for bit, in torch's form and in safetensors.
    assert export(tmp_path / "ours", "torch", published.layout, tmp_path / "torch") == 0
    before, after = read(source), read(tmp_path / "torch" / "model.pth")
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (after[key].dtype, after[key].shape) == (value.dtype, value.shape), key
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    assert export(tmp_path / "ours", "safetensors", published.layout, tmp_path / "safetensors") == 0
    exported = load_file(tmp_path / "safetensors" / "model.safetensors")
    renamed = {published.rename(k): k for k in module.state_dict()}
    shapes = {k: tuple(v.shape) for k, v in exported.items()}
    assert shapes == {published.rename(k): tuple(v.shape) for k, v in module.state_dict().items()}
    fresh = published.make()
    if name != "mae":
        with torch.no_grad():
            for value in fresh.state_dict().values():
                value.zero_()
        fresh.load_state_dict({renamed[k]: v for k, v in exported.items()}, strict=True)
        assert all(
            (a == b).all() for a, b in zip(fresh.state_dict().values(), module.state_dict().values(), strict=True)
        )

    # Our own form goes through, too; and the report names every tensor once.
    assert export(tmp_path / "ours", "safetensors", "jaxneuro", tmp_path / "again") == 0
    again = interop.load(tmp_path / "again")[1]
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(variables), strict=True))
    with open(tmp_path / "ours" / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    prefix = "backbone." if published.layout in ("video_swin", "mmaction2") else ""
    assert {r["tensor"] for r in rows} == {k.removeprefix(prefix) for k in before}
    assert {r["leaf"] for r in rows} - {""} == set(interop.abstract(model))


def test_the_published_sizes_are_accepted_by_name(tmp_path):
    """The real names, counts and shapes, from networks of the published size."""
    for network, layout, name, size, keys in (
        (reference("swin_t", 3, 400), "torchvision", "swin_t", (8, 28, 28), 185),
        (monai_nets.DenseNet121(3, 1, 1), "monai", "densenet121", (64, 64, 64), 727),
    ):
        tensors = {k: v.numpy() for k, v in network.state_dict().items()}
        assert len(tensors) == keys
        outputs, channels = (400, 3) if name == "swin_t" else (1, 1)
        model = models.build(name, num_outputs=outputs, in_channels=channels, input_size=size)
        back = interop.to_torch(model, interop.from_torch(model, tensors, layout), layout)
        assert back.keys() == tensors.keys()
        assert all((back[k] == tensors[k]).all() for k in tensors)


def test_y_aware_encoder_into_a_classifier_says_what_begins_afresh(tmp_path, capsys):
    """The published file: an encoder without norm5, with the two layers of its projection, saved by DataParallel."""
    published = FILES["yaware"]
    module = published.make()
    tensors = {k: v for k, v in published.tensors(module).items() if not k.startswith(("features.norm5", "classifier"))}
    tensors |= {
        "hidden_representation.weight": torch.randn(512, 9),
        "hidden_representation.bias": torch.randn(512),
        "head_projection.weight": torch.randn(128, 512),
        "head_projection.bias": torch.randn(128),
    }
    source = tmp_path / "bhb.pth"
    torch.save({"model": {f"module.{k}": v for k, v in tensors.items()}}, source)
    assert convert(published, source, tmp_path / "ours") == 1
    told = capsys.readouterr().err
    assert "4 tensors have no place in the model: hidden_representation.weight" in told
    assert "6 tensors that the model needs are not there" in told
    assert not (tmp_path / "ours").exists()
    assert convert(published, source, tmp_path / "ours", "--head=fresh", "--fresh=norm5") == 0
    assert "took the prefix 'module.'" in capsys.readouterr().err
    _, variables, card = interop.load(tmp_path / "ours")
    assert {f.split("/")[1] for f in card["fresh"]} == {"norm5", "head"}
    assert (variables["params"]["norm5"]["scale"] == 1).all()
    stem = module.features.conv0.weight.detach().numpy()
    np.testing.assert_array_equal(variables["params"]["conv0"]["kernel"][:, :, :, 0, 3], stem[3, 0])
    # As the encoder that it is, whole.
    encoder = models.build(
        "densenet121_testing", input_size=published.size, final_norm=False, head_hidden=(512,), num_outputs=128
    )
    arrays = {k: v.numpy() for k, v in tensors.items()}
    back = interop.to_torch(encoder, interop.from_torch(encoder, arrays, "yaware"), "yaware")
    assert back.keys() == arrays.keys()
    assert all((back[k] == arrays[k]).all() for k in arrays)


def test_export_of_a_card_that_lies_is_refused(tmp_path, capsys):
    published = FILES["nit"]
    source = published.save(published.make(), tmp_path / "nit.pth")
    assert convert(published, source, tmp_path / "ours") == 0
    capsys.readouterr()
    weights = tmp_path / "ours" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-4] + b"\0\0\0\0")
    assert export(tmp_path / "ours", "torch", "minit", tmp_path / "out") == 1
    assert "its card says" in capsys.readouterr().err
    weights.write_bytes(whole)
    card = json.loads((tmp_path / "ours" / "card.json").read_text())
    card["model"]["settings"]["depth"] = 3
    (tmp_path / "ours" / "card.json").write_text(json.dumps(card))
    assert export(tmp_path / "ours", "torch", "minit", tmp_path / "out") == 1
    assert "are not those of nit_testing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_stablehlo_runs_with_jax_alone(tmp_path):
    published = FILES["monai-vit"]
    module = published.make().eval()
    assert convert(published, published.save(module, tmp_path / "vit.pth"), tmp_path / "ours") == 0
    assert cli.main(["export", str(tmp_path / "ours"), "--format=stablehlo", f"--out={tmp_path / 'out'}"]) == 0
    x, tensor = volumes(3, *published.size, 1)
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys, jax, numpy as np
program = jax.export.deserialize(bytearray(open({str(tmp_path / "out" / "model.stablehlo")!r}, "rb").read()))
np.save({str(tmp_path / "y.npy")!r}, program.call(np.load({str(tmp_path / "x.npy")!r})))
assert not {{"flax", "jaxneuro", "torch"}} & set(sys.modules)
assert set(program.platforms) == {{"cpu", "cuda", "tpu"}}
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with torch.no_grad():
        assert largest_difference(np.load(tmp_path / "y.npy"), module(tensor)[0]) <= 1e-4


def vit_in_monai(**keywords):
    """Return a ViT of ours and its tensors as MONAI's."""
    model = models.build("vit_b16_testing", input_size=(16, 24, 16), depth=1, **keywords)
    return model, interop.to_torch(model, random_variables(abstract_init(model)), "monai")


def test_monais_tanh_is_refused_unless_the_head_begins_afresh():
    model, tensors = vit_in_monai(num_outputs=2)
    with_tanh = {k.replace("classification_head", "classification_head.0"): v for k, v in tensors.items()}
    with pytest.raises(ValueError, match=r"ends in a Tanh.* post_activation=None, or begin a new head: --head fresh"):
        interop.from_torch(model, with_tanh, "monai")
    variables, rows = weights.convert(model, with_tanh, "monai", new_head=True)
    ignored = {"classification_head.0.weight", "classification_head.0.bias"}
    assert {r.theirs for r in rows if r.what == "ignored"} == ignored
    norm = variables["params"]["norm"]["scale"]
    np.testing.assert_array_equal(norm, tensors["norm.weight"])


def test_monais_autoencoder_into_a_vit_says_the_way():
    mae = models.build("vit_b16_mae_testing", input_size=(16, 24, 16), depth=1)
    tensors = interop.to_torch(mae, zero_decoder_position(mae), "monai")
    with pytest.raises(ValueError, match=r"convert it into the ViT's autoencoder \(vit_..._mae\)"):
        weights.convert(vit_in_monai()[0], tensors, "monai", new_head=True)


def zero_decoder_position(model):
    """Return random variables of an autoencoder whose decoder, as MONAI's, has no position for the class token."""
    variables = random_variables(abstract_init(model))
    decoder = variables["params"]["decoder"]
    decoder["positions"] = decoder["positions"].at[:, 0].set(0)
    return variables


@pytest.mark.parametrize("layout", ["monai", "mae"])
def test_a_head_on_the_mean_has_no_place_in_a_layout_whose_heads_read_the_class_token(layout):
    known = {"input_size": (16, 24, 16), "depth": 1, "epsilon": {"monai": 1e-5, "mae": 1e-6}[layout]}
    mean, by_class = (models.build("vit_b16_testing", pool=pool, **known) for pool in ("mean", "class"))
    variables = random_variables(abstract_init(mean))
    with pytest.raises(ValueError, match=r"found pool 'mean' in the model; expected 'class', .*--set pool=class"):
        interop.to_torch(mean, variables, layout)
    tensors = interop.to_torch(by_class, variables, layout)
    with pytest.raises(ValueError, match="found pool 'mean'"):
        interop.from_torch(mean, tensors, layout)
    # A new head reads what it likes; without a head there is nothing to read.
    weights.convert(mean, tensors, layout, new_head=True)
    bare = models.build("vit_b16_testing", pool="mean", num_outputs=0, **known)
    interop.to_torch(bare, random_variables(abstract_init(bare)), layout)


@pytest.mark.parametrize("layout", ["torchvision", "video_swin", "mmaction2"])
def test_another_axis_for_time_comes_in_and_does_not_go_out(layout):
    first, last = (models.build("swin_t_testing", input_size=(16, 24, 16), time_axis=axis) for axis in (0, 2))
    variables = random_variables(abstract_init(first))
    tensors = interop.to_torch(first, variables, layout)
    back = interop.from_torch(last, tensors, layout)
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(variables), strict=True))
    with pytest.raises(ValueError, match=r"found time_axis 2 in the model; expected 0, .*permute the axes"):
        interop.to_torch(last, back, layout)


def test_a_new_head_for_nit_takes_its_distillation_along(tmp_path, capsys):
    model = models.build("nit_testing", input_size=(24, 24, 24), num_outputs=3)
    tensors = interop.to_torch(model, random_variables(abstract_init(model)), "minit")
    files.write_safetensors(tmp_path / "x.safetensors", tensors)
    arguments = ["--model=nit_testing", "--source=minit", "--input-size=24,24,24", "--head=fresh"]
    arguments += ["--num-outputs=1", f"--out={tmp_path / 'out'}"]
    assert cli.main(["convert", str(tmp_path / "x.safetensors"), *arguments]) == 0, capsys.readouterr().err
    card = interop.load(tmp_path / "out")[2]
    parts = {"head/norm", "head/out", "distill/norm", "distill/out"}
    assert {f.removeprefix("params/").rpartition("/")[0] for f in card["fresh"]} == {*parts, ""}
    assert "params/distill_token" in card["fresh"]
    # Without a head the tensors of the file's are left out by name.
    bare = models.build("nit_testing", input_size=(24, 24, 24), num_outputs=0)
    _, rows = weights.convert(bare, tensors, "minit", new_head=True)
    assert {r.theirs.split(".")[0] for r in rows if r.what == "ignored"} == {"mlp_head", "distill", "distill_token"}


def test_counts_are_kept_only_beside_a_norm_that_is_there():
    model = models.build("tiny_densenet_testing", input_size=(16, 16, 16))
    tensors = interop.to_torch(model, random_variables(abstract_init(model)), "monai")
    stray = "features.norm9.num_batches_tracked"
    with pytest.raises(ValueError, match=rf"1 tensors have no place in the model: {stray} \[\]"):
        interop.from_torch(model, {**tensors, stray: np.array(3)}, "monai")
    # A norm that begins afresh does not keep its old count.
    _, rows = weights.convert(model, tensors, "monai", fresh=["/norm5/"])
    kept = {r.theirs for r in rows if r.what == "beside"}
    assert kept == {k for k in tensors if k.endswith("num_batches_tracked") and "norm5" not in k}
    assert "features.norm5.num_batches_tracked" in {r.theirs for r in rows if r.what == "ignored"}


@pytest.mark.parametrize("name", ["fresh", "ignore"])
@pytest.mark.parametrize(("pattern", "message"), [("^params/nrom", "which is in no path"), ("(", "regular expression")])
def test_a_pattern_that_finds_nothing_is_refused(name, pattern, message):
    model, tensors = vit_in_monai()
    with pytest.raises(ValueError, match=rf"{name}: found '{re.escape(pattern)}'.*{message}"):
        weights.convert(model, tensors, "monai", **{name: [pattern]})


def test_a_pretrained_autoencoder_becomes_a_vit_to_fine_tune(tmp_path, capsys):
    published = FILES["mae"]
    module = published.make().eval()
    source = published.save(module, tmp_path / "mae.pth")
    arguments = [
        str(source),
        "--model=vit_b16_testing",
        "--source=mae",
        "--input-size=16,24,16",
        "--set=qkv_bias=False",
    ]
    arguments += ["--set=epsilon=1e-6", "--head=fresh", f"--out={tmp_path / 'out'}"]
    assert cli.main(["convert", *arguments]) == 0, capsys.readouterr().err
    model, variables, card = interop.load(tmp_path / "out")
    assert card["fresh"] == ["params/head/out/bias", "params/head/out/kernel"]
    with open(tmp_path / "out" / "report.csv", newline="") as file:
        ignored = {r["tensor"] for r in csv.DictReader(file) if r["what"] == "ignored"}
    assert ignored == {k for k in published.tensors(module) if k.startswith("decoder") or k == "mask_token"}
    # All patches kept, the reference's encoder gives our tokens.
    x, tensor = volumes(1, 16, 24, 16, 1)
    keeping(module.inner, np.arange(12)[None])
    tokens = {}
    module.inner.blocks.register_forward_hook(lambda _, __, out: tokens.update(tokens=out))
    with torch.no_grad():
        module(tensor)
    features = jax.jit(partial(model.apply, train=False))(variables, x)[1]
    assert largest_difference(features["tokens"], tokens["tokens"]) <= 1e-4
