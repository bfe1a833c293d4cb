"""Volumes kept on the devices are those that the shards would have given; noise is noise; both say their limits."""

import os
from types import SimpleNamespace

import numpy as np
import pytest

from jaxneuro import data
from jaxneuro.errors import InputError
from jaxneuro.training import experiment, feed, loop, sharding
from tests.training import runs


def fed(config, steps):
    """Return so many batches as they come to the device, as NumPy arrays, and the position after them."""
    parts = experiment.build(config)
    mesh = sharding.make_mesh({})
    with data.open_reader(parts.dataset) as reader:
        batches, put = feed.build(parts, reader, mesh, loop.how_to_read(parts.config, mesh))
        found = [{k: np.asarray(v) for k, v in put(next(batches)).items()} for _ in range(steps)]
        return found, batches.get_state()


@pytest.mark.parametrize("source", ["device", "memory"])
def test_kept_or_read_batches_are_the_same(smoke, source):
    # Seven steps: over the end of an epoch of six, with an odd number of scans.
    read, position = fed(smoke("data.batch_size=4"), 8)
    kept, there = fed(smoke("data.batch_size=4", f"data.source={source}"), 8)
    assert position == there
    for a, b in zip(read, kept, strict=True):
        assert sorted(a) == sorted(b) == ["ad", "valid", "volume"]
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert len({batch["volume"].tobytes() for batch in read}) == 8


def test_a_run_learns_the_same_bits_from_each(smoke, tmp_path):
    for source in ("shards", "device", "memory"):
        loop.train(smoke("training.epochs=2", f"data.source={source}"), tmp_path / source)
    for source in ("device", "memory"):
        runs.assert_same_run(tmp_path / "shards", tmp_path / source)


def test_what_is_kept_in_memory_is_read_once():
    read = []

    class Reader:
        shape, dtype = (2, 2, 2, 1), np.dtype("float16")

        def __len__(self):
            return 5

        def __getitem__(self, index):
            read.append(index)
            return np.full(self.shape, index, self.dtype)

    kept = data.Kept(Reader(), [0, 1, 3, 4])
    batches = data.training_batches(kept, [0, 1, 3, 4], {}, batch_size=2, seed=0, threads=3)
    seen = [next(batches) for _ in range(10)]
    for batch in seen:
        np.testing.assert_array_equal(batch["volume"][:, 0, 0, 0, 0], batch["index"])
    assert sorted(read) == [0, 1, 3, 4]


def test_volumes_that_the_memory_has_no_room_for_are_refused(smoke, monkeypatch):
    config = smoke("data.batch_size=4", "data.source=memory")
    monkeypatch.setattr(feed, "_available", lambda: 1 << 10)
    with pytest.raises(InputError, match=r"data.source: found 'memory' with 0.0 GiB of volumes and 0.0 GiB available"):
        fed(config, 1)
    monkeypatch.setattr(feed, "_available", lambda: 0)  # nobody says
    assert len(fed(config, 1)[0]) == 1


def test_this_machine_says_how_much_memory_is_available():
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < feed._available() < total


def test_noise_has_the_shape_of_the_data_and_is_told(smoke, capsys):
    read, _ = fed(smoke("data.batch_size=4"), 2)
    noise, _ = fed(smoke("data.batch_size=4", "data.source=synthetic"), 2)
    assert "the network sees noise" in capsys.readouterr().err
    for a, b in zip(read, noise, strict=True):
        assert (a["volume"].shape, a["volume"].dtype) == (b["volume"].shape, b["volume"].dtype)
        assert not np.array_equal(a["volume"], b["volume"])
        np.testing.assert_array_equal(a["ad"], b["ad"])
    np.testing.assert_array_equal(noise[0]["volume"], noise[1]["volume"])


def test_another_source_is_refused(smoke):
    with pytest.raises(
        InputError, match=r"data.source: found 'disk'; expected one of shards, memory, device, synthetic"
    ):
        fed(smoke("data.source=disk"), 1)


def test_volumes_that_a_device_has_no_room_for_are_refused(smoke):
    parts = experiment.build(smoke())
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 4 << 30})
    mesh = SimpleNamespace(local_devices=[device])
    feed._check_memory(parts, mesh, 2 << 30)
    with pytest.raises(InputError, match=r"found 'device' with 3.0 GiB of volumes a device of 4.0 GiB; expected at"):
        feed._check_memory(parts, mesh, 3 << 30)
    silent = SimpleNamespace(local_devices=[SimpleNamespace(memory_stats=lambda: None)])
    feed._check_memory(parts, silent, 3 << 40)
