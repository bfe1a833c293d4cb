"""Maps survive a stop: those that were made are not made again, unless they would be others; several processes."""

import dataclasses
import json

import nibabel as nib
import numpy as np
import pytest

from jaxneuro.evaluation import occlusion
from jaxneuro.evaluation.maps import hiding, kept
from jaxneuro.evaluation.maps.making import One
from jaxneuro.evaluation.occlusion import Settings
from tests.training.test_hosts import done

QUICK = Settings(patch=(8,), stride=(8,))


@pytest.fixture
def counted(monkeypatch):
    """Count the scans that are gone through; an entry `stop` interrupts the one after so many."""
    seen = {"scans": 0}
    real = hiding.differences

    def differences(*arguments, **keywords):
        if seen["scans"] == seen.get("stop"):
            raise KeyboardInterrupt
        seen["scans"] += 1
        return real(*arguments, **keywords)

    monkeypatch.setattr(hiding, "differences", differences)
    return seen


def explain(run, out, settings=QUICK, **keywords):
    return occlusion.occlusion(run, settings, scans=2, draw=False, out=out, **keywords)


def files(out):
    return {p.name: nib.load(p).get_fdata() for p in sorted(out.glob("*.nii.gz"))}


def test_a_stopped_command_goes_on_with_the_scans_that_are_left(explained_run, tmp_path, counted):
    straight = explain(explained_run, tmp_path / "a", each=True)
    assert (counted["scans"], straight["kept_from_before"]) == (4, 0)
    counted |= {"scans": 0, "stop": 3}
    with pytest.raises(KeyboardInterrupt):
        explain(explained_run, tmp_path / "b", each=True)
    assert not list((tmp_path / "b").glob("*.nii.gz"))
    made = sorted((tmp_path / "b" / kept.FOLDER).rglob("*.npz"))
    assert len(made) == 3
    made[0].write_bytes(made[0].read_bytes()[:200])  # damaged: made again
    counted |= {"scans": 0, "stop": None}
    again = explain(explained_run, tmp_path / "b", each=True)
    assert (counted["scans"], again["kept_from_before"]) == (2, 2)
    assert again["passes"] == straight["passes"] == 4 * (2**3 + 1)
    assert again["groups"] == straight["groups"]
    assert [s["output"] for s in again["scans"]] == [s["output"] for s in straight["scans"]]
    a, b = files(tmp_path / "a"), files(tmp_path / "b")
    assert list(a) == list(b)
    assert len(a) == 8  # three groups, the mean, four scans
    for name, values in a.items():
        np.testing.assert_array_equal(b[name], values, err_msg=name)
    assert not (tmp_path / "b" / kept.FOLDER).exists()


def test_maps_of_other_settings_are_made_anew(explained_run, tmp_path, counted):
    counted["stop"] = 2
    with pytest.raises(KeyboardInterrupt):
        explain(explained_run, tmp_path)
    counted |= {"scans": 0, "stop": None}
    other = explain(explained_run, tmp_path, dataclasses.replace(QUICK, value=0.5))
    assert (counted["scans"], other["kept_from_before"]) == (4, 0)


def test_what_is_kept_is_what_was_set(tmp_path):
    what, one = {"patch": [4, 4, 4]}, One(np.arange(8, dtype=np.float32).reshape(2, 2, 2), -1.5, 9)
    maps = kept.Kept(tmp_path, what, ["3-1", "5-1"])
    assert dict(maps) == {}
    maps[1] = one
    there = kept.Kept(tmp_path, what, ["5-1", "6-1", "3-1"])
    assert (list(there), there.before) == ([0], 1)
    np.testing.assert_array_equal(there[0].values, one.values)
    assert there[0][1:] == one[1:]
    assert dict(kept.Kept(tmp_path, {"patch": [4, 4, 5]}, ["5-1"])) == {}
    assert dict(kept.Kept(tmp_path, what, ["5-0"])) == {}  # the same scan's other class
    kept.forget(tmp_path)
    assert dict(kept.Kept(tmp_path, what, ["5-1"])) == {}


def test_weights_are_told_apart_by_any_bit():
    weights = {"params": {"a": np.arange(4, dtype=np.float32), "b": np.zeros(2)}}
    other = {"params": {"a": np.nextafter(weights["params"]["a"], np.float32(9)), "b": np.zeros(2)}}
    named = {"params": {"a": weights["params"]["a"], "c": np.zeros(2)}}
    assert len({kept.digest(w) for w in (weights, other, named)}) == 3
    assert kept.digest(weights) == kept.digest({"params": dict(weights["params"])})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_two_processes_make_the_maps_of_one(explained_run, tmp_path, method):
    arguments = ["occlusion", explained_run, "--scans", "2", "--patch", "6", "--stride", "5", "--each", "--untrained"]
    arguments += ["--no-pictures", "--method", method, "--coarse", "1"]
    said = done(2, *arguments, "--out", tmp_path / "two", devices=2)
    done(1, *arguments, "--out", tmp_path / "one", devices=1)
    assert "maps of all" in said[0]
    assert "maps of all" not in said[1]  # one of them speaks
    two, one = files(tmp_path / "two"), files(tmp_path / "one")
    assert list(two) == list(one)
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, atol=1e-5 * np.abs(values).max(), err_msg=name)
    a, b = (json.loads((tmp_path / f"{n}/{method}.json").read_text()) for n in ("two", "one"))
    assert (a["devices"].split(" x ")[0], b["devices"].split(" x ")[0]) == ("4", "1")
    assert a["passes"] == b["passes"]
