"""Volumes kept on the devices are those that the shards would have given; noise is noise; both say their limits."""

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


def test_kept_on_the_device_or_read_batches_are_the_same(smoke):
    # Seven steps: over the end of an epoch of six, with an odd number of scans.
    read, position = fed(smoke("data.batch_size=4"), 8)
    kept, there = fed(smoke("data.batch_size=4", "data.source=device"), 8)
    assert position == there
    for a, b in zip(read, kept, strict=True):
        assert sorted(a) == sorted(b) == ["ad", "valid", "volume"]
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
    assert len({batch["volume"].tobytes() for batch in read}) == 8


def test_a_run_learns_the_same_bits_from_either(smoke, tmp_path):
    for source in ("shards", "device"):
        loop.train(smoke("training.epochs=2", f"data.source={source}"), tmp_path / source)
    runs.assert_same_run(tmp_path / "shards", tmp_path / "device")


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
    with pytest.raises(InputError, match=r"data.source: found 'disk'; expected one of shards, device, synthetic"):
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
