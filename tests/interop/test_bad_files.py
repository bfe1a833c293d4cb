"""What a file may hold instead of weights: one line each, nothing written, nothing executed."""

import json
import os
import pickle
import re
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest

from jaxneuro import cli, interop, models
from jaxneuro.errors import InputError
from jaxneuro.interop import files, folder
from tests.models.every import abstract_init, random_variables

torch = pytest.importorskip("torch", reason="the parity extra is not installed (Python 3.12 and later)")


@pytest.fixture
def tensors():
    """The tensors of a small NiT, as torch's."""
    model = models.build("nit_testing", input_size=(24, 24, 24))
    found = interop.to_torch(model, random_variables(abstract_init(model)), "minit")
    return {k: torch.from_numpy(v) for k, v in found.items()}


@pytest.fixture
def refused(tmp_path, capsys):
    """Return the one line with which a file is refused."""

    def run(path, *more, source="minit", model="nit_testing"):
        arguments = ["convert", str(path), f"--model={model}", f"--source={source}", "--input-size=24,24,24"]
        assert cli.main([*arguments, f"--out={tmp_path / 'out'}", *more]) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1, told
        assert told.startswith("error: ")
        assert not (tmp_path / "out").exists()
        assert not [p for p in tmp_path.iterdir() if "partial" in p.name]
        return told

    return run


@pytest.fixture
def saved(tmp_path):
    """Save something with torch and return the path."""

    def save(value):
        torch.save(value, tmp_path / "x.pth")
        return tmp_path / "x.pth"

    return save


class Bomb:
    def __reduce__(self):
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_executes(form, tensors, refused, tmp_path, monkeypatch):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "x.pth"
    if form == "torch":
        torch.save({"state_dict": tensors, "extra": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"state_dict": Bomb()}))
    told = refused(path)
    assert "nothing in a file is executed" in told
    # What was refused is named, and nobody is told to load it all the same.
    assert ("posix.mkdir" if form == "torch" else "operand") in told
    assert "weights_only" not in told
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_files(share, tensors, refused, saved, tmp_path):
    path = saved(tensors)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "expected a whole checkpoint" in refused(path)
    path = tmp_path / "x.safetensors"
    files.write_safetensors(path, {k: v.numpy() for k, v in tensors.items()})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "expected a whole file" in refused(path)


def test_a_flipped_bit_is_told_by_the_record(tensors, refused, saved):
    """torch itself loads it without a word."""
    path = saved(tensors)
    whole = bytearray(path.read_bytes())
    values = tensors["cls_token"].numpy().tobytes()
    whole[whole.index(values) + 9] ^= 1
    path.write_bytes(whole)
    assert (torch.load(path, weights_only=True)["cls_token"] != tensors["cls_token"]).any()
    with zipfile.ZipFile(path) as archive:
        record = archive.testzip()
    assert f"found the record {record} with another checksum" in refused(path)


def test_tensors_that_are_no_plain_numbers_are_named(tensors, refused, saved, tmp_path):
    from safetensors.torch import save_file

    odd = {
        "sparse_coo": lambda t: t.reshape(-1, 16).to_sparse(),
        "sparse_csr": lambda t: t.reshape(-1, 16).to_sparse_csr(),
        "meta": lambda t: t.to("meta"),
        "float8_e4m3fn": lambda t: t.to(torch.float8_e4m3fn),
        "qint8": lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
    }
    for what, made in odd.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's: of sparse layouts and of quantisation
            path = saved({**tensors, "cls_token": made(tensors["cls_token"])})
        told = refused(path)
        assert re.search(rf"found cls_token \(.*{what}.*\); expected real numbers; save it as a plain float32", told), (
            told
        )
    save_file({**tensors, "cls_token": tensors["cls_token"].to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    assert "found cls_token (" in refused(tmp_path / "x.safetensors")


def test_parameters_that_want_gradients_and_views_are_read(tensors, saved, tmp_path):
    """A conjugated view has its sign as a flag, a parameter its gradient."""
    parameters = {k: torch.nn.Parameter(v) for k, v in tensors.items()}
    parameters["cls_token"] = torch.complex(torch.zeros_like(tensors["cls_token"]), tensors["cls_token"]).conj().imag
    found, _ = files.read(saved(parameters))
    np.testing.assert_array_equal(found.pop("cls_token"), -tensors["cls_token"].numpy())
    assert all((found[k] == tensors[k].numpy()).all() for k in found)


def test_a_checkpoint_that_holds_itself(refused, saved):
    itself = {"epoch": 3}
    itself["state_dict"] = itself
    assert "found more than 4 wrappers" in refused(saved(itself))


def test_arrays_without_axes_keep_none(tmp_path):
    values = {"count": np.array(3, np.int64), "flat": np.zeros(1, np.float32), "turned": np.arange(6.0).reshape(2, 3).T}
    files.write_safetensors(tmp_path / "x.safetensors", values)
    found = files._read_safetensors(tmp_path / "x.safetensors")
    assert {k: v.shape for k, v in found.items()} == {"count": (), "flat": (1,), "turned": (3, 2)}
    assert all((found[k] == v).all() for k, v in values.items())


def test_files_that_are_no_checkpoint(refused, saved, tmp_path):
    (tmp_path / "x.pth").write_text("<html>Quota exceeded</html>")
    assert "begins with b'<html>Quota" in refused(tmp_path / "x.pth")
    (tmp_path / "x.safetensors").write_text("<html>Quota exceeded</html>")
    assert "cannot be read as safetensors" in refused(tmp_path / "x.safetensors")
    assert "found no file" in refused(tmp_path / "none.pth")
    assert "found no file" in refused(tmp_path)
    assert "found a list" in refused(saved([1, 2]))
    assert "found a Tensor" in refused(saved(torch.zeros(3)))
    assert "found no tensors" in refused(saved({"state_dict": {"epoch": 3}}))


def test_another_architecture(tensors, refused, saved):
    told = refused(saved(tensors), "--input-size=32,32,32", source="yaware", model="densenet121_testing")
    assert "no tensor fits" in told
    assert "transformer" in told
    told = refused(saved(tensors), source="torchvision")
    assert "layout 'torchvision': found a model of kind NiT; expected Swin; layouts of NiT: minit" in told
    told = refused(saved(tensors), source="timm")
    assert "expected one of mae, minit, mmaction2, monai" in told


def test_missing_extra_and_reshaped_tensors_in_one_message(tensors, refused, saved):
    del tensors["cls_token"]
    tensors["vit.cls_token"] = torch.zeros(1, 1, 16)
    tensors["pos_embedding"] = torch.zeros(1, 9, 16)
    tensors["mlp_head.1.weight"] = torch.zeros(5, 16)
    told = refused(saved(tensors))
    assert "1 tensors have no place in the model: vit.cls_token [1, 1, 16]" in told
    assert "1 tensors that the model needs are not there: cls_token (params/cls_token)" in told
    assert "pos_embedding: found shape [1, 9, 16]; expected [1, 28, 16]" in told
    assert "mlp_head.1.weight: found shape [5, 16]; expected [1, 16]; for a new head: --head fresh" in told


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_half_precision_is_refused_or_widened_as_asked(dtype, form, tensors, refused, saved, tmp_path, capsys):
    from safetensors.torch import save_file

    tensors = {k: v.to(getattr(torch, dtype)) if "mlp_head" in k else v for k, v in tensors.items()}
    path = saved(tensors)
    if form == "safetensors":
        path = tmp_path / "x.safetensors"
        save_file(tensors, path)
    told = refused(path)
    assert re.search(rf"found 4 tensors of {dtype} .*expected float32; .*--allow-half", told)
    arguments = [str(path), "--model=nit_testing", "--source=minit", "--input-size=24,24,24", "--allow-half"]
    assert cli.main(["convert", *arguments, f"--out={tmp_path / 'out'}"]) == 0
    assert f"widened 4 tensors of {dtype} to float32" in capsys.readouterr().err
    model, variables, _ = interop.load(tmp_path / "out")
    back = interop.to_torch(model, variables, "minit")
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value.float().numpy())


def test_nan_and_infinity(tensors, refused, saved):
    tensors["cls_token"][0, 0, 3] = float("nan")
    tensors["pos_embedding"][0, 5, 1] = float("inf")
    assert "found NaN or infinity in cls_token, pos_embedding" in refused(saved(tensors))


def test_float64_and_numbers_that_are_none(tensors, refused, saved, tmp_path, capsys):
    tensors["cls_token"] = tensors["cls_token"].to(torch.complex64)
    assert "found cls_token (complex64); expected real numbers" in refused(saved(tensors))
    tensors["cls_token"] = tensors["cls_token"].real.double()
    arguments = [str(saved(tensors)), "--model=nit_testing", "--source=minit", "--input-size=24,24,24"]
    assert cli.main(["convert", *arguments, "--dry-run"]) == 0
    assert "rounded 1 tensors of float64 to float32" in capsys.readouterr().err


def test_a_prefix_on_half_the_names(tensors, refused, saved):
    half = {f"module.{k}" if i % 2 else k: v for i, (k, v) in enumerate(tensors.items())}
    told = refused(saved({"model": half}))
    assert "found the prefix 'module.' on 17 of 35 names" in told
    assert "expected it on all or none" in told


def test_names_that_lack_a_prefix_or_have_one_more(tensors, refused, saved):
    short = {k.removeprefix("transformer."): v for k, v in tensors.items()}
    assert len(short.keys() - tensors.keys()) > 20
    assert "the file's names lack 'transformer.'; rename them and convert again" in refused(saved(short))
    long = {k if k == "cls_token" else f"net.{k}": v for k, v in tensors.items()}
    assert "the file's names begin with 'net.'; rename them and convert again" in refused(saved(long))


def test_many_misfits_are_told_in_few_words(tensors, refused, saved):
    told = refused(saved(tensors), "--set=depth=5")
    assert "is it a network of another size or depth?" in told
    assert len(told) < 1000


def test_a_dry_run_tells_every_fault(tensors, refused, saved, capsys):
    for i in range(20):
        tensors[f"wing{i}"] = torch.zeros(2, 3)
    gone = [k for k in tensors if "layers.1" in k]
    assert len(gone) > 8
    path = saved({k: v for k, v in tensors.items() if k not in gone})
    told = refused(path)
    assert "wing12" not in told
    count = 20 + len(gone)
    assert told.endswith(f"; all {count}, one a line: --dry-run\n")
    arguments = ["convert", str(path), "--model=nit_testing", "--source=minit", "--input-size=24,24,24", "--dry-run"]
    assert cli.main(arguments) == 1
    *lines, last = capsys.readouterr().err.splitlines()
    assert len(lines) == count
    assert lines[12] == "wing12 [2, 3]: has no place"
    assert [line.split(" ")[0] for line in lines[20:]] == gone
    assert last.startswith("error: ")
    assert "--dry-run" not in last


def test_flags_that_set_a_keyword_are_not_set_twice(tensors, refused, saved):
    for key, flag in (
        ("input_size", "--input-size"),
        ("in_channels", "--in-channels"),
        ("num_outputs", "--num-outputs"),
    ):
        assert f"--set: found {key}; expected {flag}" in refused(saved(tensors), f"--set={key}=3")
    assert "unknown keyword name for 'nit_testing'" in refused(saved(tensors), "--set=name=x")


def converted(tensors, saved, out):
    arguments = ["convert", str(saved(tensors)), "--model=nit_testing", "--source=minit", "--input-size=24,24,24"]
    return cli.main([*arguments, f"--out={out}"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "1"}, "found format '1'; expected a whole number"),
        ({"file": 3}, "found file 3; expected a text"),
        ({"sha256": None}, "found sha256 None; expected a text"),
        ({"model": "nit"}, "found model 'nit'; expected an object"),
        ({"model": {"settings": {}}}, "found model.name None; expected a text"),
        ({"model": {"name": "nit", "settings": [1]}}, r"found model.settings \[1\]; expected an object"),
        ({"file": "../x.safetensors"}, "x.safetensors: found no file"),
        ({"model": {"name": "nut", "settings": {}}}, "card.json: unknown model 'nut'"),
        ({"model": {"name": "nit", "settings": {"depth": {}}}}, "card.json: nit: found depth="),
    ],
)
def test_a_damaged_card_is_one_line(change, message, tensors, saved, tmp_path):
    assert converted(tensors, saved, tmp_path / "out") == 0
    (tmp_path / "x.safetensors").write_bytes(b"beside")
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (tmp_path / "out" / "card.json").write_text(json.dumps(card | change))
    with pytest.raises(InputError, match=message) as caught:
        interop.load(tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_the_folder_one_is_in_will_do(tensors, saved, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert converted(tensors, saved, ".") == 0
    assert sorted(p.name for p in (tmp_path / "here").iterdir()) == ["card.json", "model.safetensors", "report.csv"]


def test_what_fails_leaves_no_parent_folder(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(KeyError), folder.new(tmp_path / "a" / "b" / "c" / "out"):
        raise KeyError
    assert list((tmp_path / "a").iterdir()) == []
    with folder.new(tmp_path / "a" / "b" / "c" / "out") as partial:
        (partial / "x").touch()
    assert (tmp_path / "a" / "b" / "c" / "out" / "x").exists()


def test_a_dry_run_names_every_tensor_and_writes_nothing(tensors, saved, tmp_path, capsys):
    arguments = ["convert", str(saved(tensors)), "--model=nit_testing", "--source=minit", "--input-size=24,24,24"]
    assert cli.main([*arguments, "--dry-run", f"--out={tmp_path / 'out'}"]) == 0
    told = capsys.readouterr().err
    assert "35 copied; nothing was written" in told
    assert not (tmp_path / "out").exists()
    assert cli.main(arguments) == 1
    assert "--out: found none" in capsys.readouterr().err


def test_a_folder_that_is_there_is_left_alone(tensors, saved, tmp_path, capsys):
    arguments = ["convert", str(saved(tensors)), "--model=nit_testing", "--source=minit", "--input-size=24,24,24"]
    (tmp_path / "out").mkdir()
    assert cli.main([*arguments, f"--out={tmp_path / 'out'}"]) == 0  # an empty one will do
    before = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    assert cli.main([*arguments, f"--out={tmp_path / 'out'}"]) == 1
    assert "is there already" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_what_no_weight_shows_must_be_said(tensors):
    model = models.build("vit_b16_testing", input_size=(16, 16, 16))
    with pytest.raises(ValueError, match=r"found epsilon 1e-05 in the model; expected 1e-06, .*--set epsilon=1e-06"):
        interop.to_torch(model, random_variables(abstract_init(model)), "mae")


def test_geometric_biases_are_not_exported_where_they_differ():
    small = models.build("swin_t_testing", input_size=(8, 16, 16), bias_index="geometric")
    with pytest.raises(ValueError, match="clips windows; expected 'published'"):
        interop.to_torch(small, random_variables(abstract_init(small)), "torchvision")
    large = models.build("swin_t_testing", input_size=(16, 32, 32), bias_index="geometric")
    interop.to_torch(large, random_variables(abstract_init(large)), "torchvision")


def test_safetensors_need_no_torch(tensors, tmp_path):
    files.write_safetensors(tmp_path / "x.safetensors", {k: v.numpy() for k, v in tensors.items()})
    arguments = ["convert", str(tmp_path / "x.safetensors"), "--model=nit_testing", "--source=minit"]
    arguments += ["--input-size=24,24,24", f"--out={tmp_path / 'out'}"]
    export = ["export", str(tmp_path / "out"), "--format=safetensors", "--layout=minit", f"--out={tmp_path / 'back'}"]
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("blocked", name=name)
sys.meta_path.insert(0, Blocked())
from jaxneuro import cli
sys.exit(cli.main({arguments!r}) or cli.main({export!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    back, _ = files.read(tmp_path / "back" / "model.safetensors")
    assert back.keys() == tensors.keys()
    assert all((back[k] == tensors[k].numpy()).all() for k in back)


def test_a_torch_file_without_torch_names_the_extra(tensors, saved, tmp_path, capsys, monkeypatch):
    path = saved(tensors)
    monkeypatch.setitem(sys.modules, "torch", None)
    arguments = ["convert", str(path), "--model=nit_testing", "--source=minit", f"--out={tmp_path / 'out'}"]
    assert cli.main(arguments) == 1
    assert "pip install 'jaxneuro[torch]'" in capsys.readouterr().err
