"""Files in each published layout: in by the command line, out by it, every bit the same, outputs equal."""

import argparse
import csv
import json
import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest
from safetensors.torch import load_file

from jaxneuro import cli, interop, models
from tests.interop.published import FILES
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
        assert after[key].dtype == value.dtype
        np.testing.assert_array_equal(after[key], value, err_msg=key)
    assert export(tmp_path / "ours", "safetensors", published.layout, tmp_path / "safetensors") == 0
    exported = load_file(tmp_path / "safetensors" / "model.safetensors")
    renamed = {published.rename(k): k for k in module.state_dict()}
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
