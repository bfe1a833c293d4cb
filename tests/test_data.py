"""Batches: every scan counted as it should be, positions that can be saved, the same order for any process count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import data, records, splits
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan

N = 23


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """N volumes; every voxel of volume i is i."""
    out = tmp_path_factory.mktemp("data") / "d"
    scans = [Scan(f"s{i:02d}", content_hash=str(i)) for i in range(N)]
    with records.Writer(out, shape=(3, 4, 5, 1), records=N, shard_bytes=800) as w:
        for i, scan in enumerate(scans):
            w.add(np.full((3, 4, 5, 1), i, np.float16), scan)
        w.finish(splits=splits.make(scans))
    return records.Reader(records.open_dataset(out))


TARGETS = {"target": np.arange(N, dtype=np.float32) * 10}


def take(batches, n):
    return [next(batches) for _ in range(n)]


def test_a_batch_holds_its_volumes_and_targets(reader):
    batch = next(data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=0))
    assert batch["volume"].shape == (4, 3, 4, 5, 1)
    assert batch["volume"].dtype == np.float16
    np.testing.assert_array_equal(batch["volume"][:, 0, 0, 0, 0], batch["index"])
    np.testing.assert_array_equal(batch["target"], batch["index"] * 10)
    assert batch["valid"].all()


def test_an_epoch_takes_no_scan_twice_and_epochs_differ(reader):
    batches = data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=5)
    epochs = [np.concatenate([b["index"] for b in take(batches, 5)]) for _ in range(3)]
    for numbers in epochs:
        assert len(set(numbers.tolist())) == 20
    assert len({tuple(e) for e in epochs}) == 3


def test_only_the_given_records_are_read(reader):
    batches = data.training_batches(reader, [2, 3, 5, 7, 11], TARGETS, batch_size=2, seed=1)
    seen = {int(i) for b in take(batches, 20) for i in b["index"]}
    assert seen == {2, 3, 5, 7, 11}


@pytest.mark.parametrize("threads", [1, 4])
def test_same_seed_same_order_whatever_the_threads(reader, threads):
    a = data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=7, threads=threads)
    b = data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=7, threads=2)
    for x, y in zip(take(a, 12), take(b, 12), strict=True):
        np.testing.assert_array_equal(x["index"], y["index"])


@pytest.mark.parametrize("after", [0, 1, 5, 13])
def test_a_saved_position_goes_on_where_it_was(reader, after):
    whole = [b["index"] for b in take(data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=2), 20)]
    first = data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=2)
    take(first, after)
    second = data.training_batches(reader, range(N), TARGETS, batch_size=4, seed=2)
    second.set_state(first.get_state())
    np.testing.assert_array_equal([b["index"] for b in take(second, 20 - after)], whole[after:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_global_batch(reader, count):
    alone = data.training_batches(reader, range(N), TARGETS, batch_size=8, seed=3)
    parts = [
        data.training_batches(reader, range(N), TARGETS, batch_size=8, seed=3, process_index=p, process_count=count)
        for p in range(count)
    ]
    for _ in range(6):
        together = np.concatenate([next(p)["index"] for p in parts])
        np.testing.assert_array_equal(together, next(alone)["index"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, N), st.integers(1, 9), st.integers(1, 3))
def test_evaluation_counts_every_scan_once(reader, n, per_process, count):
    chosen = list(range(N))[-n:] if n else []
    parts = [
        list(
            data.evaluation_batches(
                reader, chosen, TARGETS, batch_size=per_process * count, process_index=p, process_count=count
            )
        )
        for p in range(count)
    ]
    # A process with fewer batches than another would leave the other waiting for ever.
    assert len({len(p) for p in parts}) == 1
    seen = Counter(int(i) for p in parts for b in p for i in b["index"][b["valid"]])
    assert seen == Counter(chosen)
    for batch in (b for p in parts for b in p):
        assert batch["volume"].shape[0] == per_process
        assert not batch["volume"][~batch["valid"]].any()
        assert not batch["target"][~batch["valid"]].any()


def test_too_few_scans_or_an_uneven_share_are_refused(reader):
    with pytest.raises(InputError, match=r"found 8 with 5 training scans"):
        data.training_batches(reader, range(5), TARGETS, batch_size=8, seed=0)
    with pytest.raises(InputError, match="expected a multiple of 3"):
        data.training_batches(reader, range(N), TARGETS, batch_size=8, seed=0, process_count=3)
