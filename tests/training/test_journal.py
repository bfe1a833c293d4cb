"""What a run writes down: lines that survive a kill, TensorBoard event files, and workdirs that have an owner."""

import json
import math
import struct

import pytest
from tensorboardX.proto import event_pb2

from jaxneuro.errors import InputError
from jaxneuro.training import journal


def events(folder):
    """Read event files by the published framing: length, its checksum, bytes, their checksum."""
    for file in sorted(folder.iterdir()):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            yield event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            place += 16 + length


def test_lines_and_events_hold_the_same_values(tmp_path):
    with journal.Journal(tmp_path) as log:
        log.write(1, 0.5, {"train/loss": 0.25, "bad": math.nan})
        # On disk at once: a kill loses nothing that was said.
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
            "step": 1, "epoch": 0.5, "train/loss": 0.25, "bad": None,
        }  # fmt: skip
        found = [(e.step, v.tag, v.simple_value) for e in events(tmp_path / "tensorboard") for v in e.summary.value]
    assert found[0] == (1, "train/loss", 0.25)
    assert math.isnan(found[1][2])


def test_a_resumed_journal_drops_later_lines_and_a_line_cut_short(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a": 3}\n{"st')
    with journal.Journal(tmp_path, resume_at=2) as log:
        log.write(3, 1.0, {"a": 4.0})
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["step"], x["a"]) for x in lines] == [(1, 1), (2, 2), (3, 4.0)]
    starts = [e.step for e in events(tmp_path / "tensorboard") if e.HasField("session_log")]
    assert starts == [3]


def test_a_folder_belongs_to_one_config(tmp_path):
    config = {"a": {"b": 1, "c": (1, 2)}, "data": {"threads": 4}}
    journal.claim(tmp_path / "r", config)
    journal.claim(tmp_path / "r", config)
    journal.claim(tmp_path / "r", {"a": {"b": 1, "c": (1, 2)}, "data": {"threads": 1}})
    with pytest.raises(InputError, match=r"a\.b: 1 there, 2 here; a\.d: None there, 3 here"):
        journal.claim(tmp_path / "r", {"a": {"b": 2, "c": (1, 2), "d": 3}, "data": {"threads": 4}})
