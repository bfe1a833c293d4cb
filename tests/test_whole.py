import json

import pytest

from jaxneuro import whole


def test_text_bytes_values_and_tables_by_hand(tmp_path):
    whole.write(tmp_path / "text", "é\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\r\n"
    whole.write(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"
    whole.write_json(tmp_path / "value", {"a": [1, None]})
    assert json.loads((tmp_path / "value").read_text()) == {"a": [1, None]}
    whole.write_csv(tmp_path / "table", ["name", "n"], [('a "b", c', 1), ("", 0.5)])
    assert (tmp_path / "table").read_bytes() == b'name,n\n"a ""b"", c",1\n,0.5\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "table", "text", "value"]


def test_what_was_there_stays_until_all_is_written(tmp_path, monkeypatch):
    path = tmp_path / "value.json"
    whole.write_json(path, 1)
    with pytest.raises(TypeError):
        whole.write_json(path, object())
    monkeypatch.setattr("pathlib.Path.write_bytes", lambda self, content: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        whole.write_json(path, 2)
    assert json.loads(path.read_text()) == 1
