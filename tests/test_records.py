"""Shards: what is written comes back, damage is found and named, and nothing half-written looks whole."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jaxneuro import records, splits
from jaxneuro.errors import CorruptDataError, InputError
from jaxneuro.manifest import Problem, Scan

SHAPE = (4, 5, 6, 1)


def volume(i):
    return np.random.default_rng(i).normal(size=SHAPE).astype(np.float16)


def write(out, n=10, shard_bytes=1000, problems=()):
    scans = [Scan(f"s{i}", "ses-1", "A", 50.0 + i, "F", "CN", f"{i}.nii", f"hash{i}") for i in range(n)]
    with records.Writer(out, shape=SHAPE, records=n, shard_bytes=shard_bytes) as w:
        for i, scan in enumerate(scans):
            w.add(volume(i), scan)
        w.finish(
            splits=splits.make(scans),
            problems=problems,
            name="t",
            synthetic=True,
            recipe={"name": "r", "shape": [4, 5, 6]},
        )
    return records.open_dataset(out)


def test_with_and_without_compression_volumes_are_the_same(tmp_path):
    scans = [Scan(f"s{i}", content_hash=str(i)) for i in range(3)]
    sizes = {}
    for name in records.COMPRESSIONS:
        with records.Writer(tmp_path / name, shape=(32, 32, 32, 1), records=3, compression=name) as w:
            for i, scan in enumerate(scans):
                w.add(np.full((32, 32, 32, 1), i, np.float16), scan)
            card = w.finish(splits=splits.make(scans), name="t", synthetic=True)
        assert card["compression"] == name
        sizes[name] = sum(shard["bytes"] for shard in card["shards"])
        with records.Reader(records.open_dataset(tmp_path / name)) as reader:
            assert [reader[i].mean() for i in range(3)] == [0, 1, 2]
    assert sizes["snappy"] < 0.5 * sizes["none"]
    with pytest.raises(InputError, match="--compression: found 'zip'; expected one of snappy, none"):
        records.Writer(tmp_path / "zip", shape=(8, 8, 8, 1), records=3, compression="zip")


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.uint8, np.float32]), hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)
    )
)
def test_record_round_trip(array):
    back, header = records.decode(records.encode(array, Scan("s", age=41.5, path="secret/place.nii")))
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert header["scan"]["age"] == 41.5
    assert "path" not in header["scan"]


def test_dataset_round_trip_over_several_shards(tmp_path):
    dataset = write(tmp_path / "d", n=10, problems=[Problem("x", "y", "z"), Problem("x", "y", "z", dropped=False)])
    assert [s["records"] for s in dataset.card["shards"]] == [4, 3, 3]  # 2,400 bytes of voxels at 1,000 a shard
    assert dataset.card["counts"] == {"scans": 10, "subjects": 10, "failures": 1, "mended": 1}
    assert dataset.card["synthetic"] is True
    reader = records.Reader(dataset)
    assert len(reader) == 10
    for i in (9, 0, 4, 3, 3):
        np.testing.assert_array_equal(reader[i], volume(i))
    with ThreadPoolExecutor(4) as pool:
        for i, found in enumerate(pool.map(lambda i: np.array(reader[i % 10]), range(200))):
            np.testing.assert_array_equal(found, volume(i % 10))
    assert records.verify(tmp_path / "d") == []


def test_any_flipped_byte_is_found_on_read_and_named(tmp_path):
    dataset = write(tmp_path / "d", n=3, shard_bytes=10**9)
    file = tmp_path / "d" / "shards" / dataset.card["shards"][0]["file"]
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    nonzero = np.flatnonzero(np.frombuffer(good, np.uint8))
    named = 0
    for place in rng.choice(nonzero, 150, replace=False):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        file.write_bytes(bytes(bad))
        try:
            reader = records.Reader(dataset)
            for i in range(3):
                # Never wrong data: what is returned is what was written.
                np.testing.assert_array_equal(reader[i], volume(i))
        except CorruptDataError as e:
            assert str(file) in str(e)  # noqa: PT017
            named += 1
        assert len(records.verify(tmp_path / "d")) == 1
    assert named > 100


def test_damage_message_names_the_scan(tmp_path):
    dataset = write(tmp_path / "d", n=3, shard_bytes=10**9)
    file = tmp_path / "d" / "shards" / dataset.card["shards"][0]["file"]
    good = file.read_bytes()
    told = set()
    for place in np.flatnonzero(np.frombuffer(good, np.uint8))[::5]:
        data = bytearray(good)
        data[place] ^= 255
        file.write_bytes(bytes(data))
        try:
            reader = records.Reader(dataset)
            [reader[i] for i in range(3)]
        except CorruptDataError as e:
            told.add(str(e).partition(" is damaged")[0])
    assert {f"{file}: record {i} (s{i} ses-1)" for i in range(3)} <= told


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_or_missing_shard_is_refused(tmp_path, share):
    dataset = write(tmp_path / "d")
    file = tmp_path / "d" / "shards" / dataset.card["shards"][1]["file"]
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(CorruptDataError, match=file.name):
        records.Reader(dataset)
    file.unlink()
    with pytest.raises(CorruptDataError, match="missing"):
        records.Reader(dataset)


def test_swapped_shards_are_found(tmp_path):
    dataset = write(tmp_path / "d", n=4, shard_bytes=500)
    a, b = (tmp_path / "d" / "shards" / s["file"] for s in dataset.card["shards"][:2])
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(CorruptDataError, match=r"holds image hash2; expected hash0"):
        records.Reader(dataset)[0]


def test_edited_manifest_or_splits_are_refused(tmp_path):
    write(tmp_path / "d")
    for name in ("manifest.csv", "splits.json"):
        file = tmp_path / "d" / name
        good = file.read_text()
        file.write_text(good.replace("s1", "s7"))
        with pytest.raises(CorruptDataError, match=name):
            records.open_dataset(tmp_path / "d")
        file.write_text(good)
    card = tmp_path / "d" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"format": "other/9"}))
    with pytest.raises(InputError, match="found format 'other/9'"):
        records.open_dataset(tmp_path / "d")
    card.write_text('{"format": "jaxneuro-shards/1", "shape": [1, 2, 3, 4]}')
    with pytest.raises(CorruptDataError, match=r"found no .*dtype"):
        records.open_dataset(tmp_path / "d")
    card.write_text("[]")
    with pytest.raises(CorruptDataError, match="found a JSON list"):
        records.open_dataset(tmp_path / "d")
    card.write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        records.open_dataset(tmp_path / "d")


def write_two(out):
    with records.Writer(out, shape=SHAPE, records=2) as w:
        w.add(volume(0), Scan("a"))
        w.add(np.full(SHAPE, np.nan, np.float16), Scan("b"))


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(InputError, match="not finite"):
        write_two(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 5, 7, 1), np.float16), r"found float16\[4, 5, 7, 1\]"),
        (np.zeros(SHAPE, np.float32), "found float32"),
        (np.full(SHAPE, np.inf, np.float16), "not finite"),
    ],
)
def test_wrong_volumes_are_refused(tmp_path, array, message):
    with records.Writer(tmp_path / "d", shape=SHAPE, records=1) as w, pytest.raises(InputError, match=message):
        w.add(array, Scan("a"))


def test_existing_folder_is_refused(tmp_path):
    write(tmp_path / "d")
    with pytest.raises(InputError, match="already exists"):
        records.Writer(tmp_path / "d", shape=SHAPE, records=1)


def test_no_dataset_there(tmp_path):
    with pytest.raises(InputError, match=r"found no card\.json"):
        records.open_dataset(tmp_path)


def script(body):
    return [
        sys.executable,
        "-c",
        "import numpy as np\nfrom jaxneuro import records\nfrom jaxneuro.manifest import Scan\n"
        + textwrap.dedent(body),
    ]


def test_killed_writer_leaves_nothing_that_looks_whole(tmp_path):
    body = f"""
        import os, signal
        with records.Writer(r"{tmp_path}/d", shape=(8, 8, 8, 1), records=9, shard_bytes=2000) as w:
            for i in range(5):
                w.add(np.ones((8, 8, 8, 1), np.float16), Scan(f"s{{i}}"))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(script(body), timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "d").exists()
    with pytest.raises(InputError):
        records.open_dataset(tmp_path / "d")


def test_full_disk_is_told_and_leaves_nothing(tmp_path):
    # A limit on file size stands for a full disk: the write fails in the same place.
    body = f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        rng = np.random.default_rng(0)
        try:
            with records.Writer(r"{tmp_path}/d", shape=(32, 32, 32, 1), records=9) as w:
                for i in range(9):
                    w.add(rng.normal(size=(32, 32, 32, 1)).astype(np.float16), Scan(f"s{{i}}"))
                w.finish(splits=None)
        except OSError as e:
            print("told:", e)
    """
    done = subprocess.run(script(body), timeout=60, check=True, capture_output=True, text=True)
    assert "told:" in done.stdout
    assert "cannot be written" in done.stdout
    assert os.listdir(tmp_path) == []


def test_fingerprint_follows_content_not_order():
    assert records.fingerprint({"a": 1, "b": [2]}) == records.fingerprint({"b": [2], "a": 1})
    assert records.fingerprint({"a": 1}) != records.fingerprint({"a": 2})
