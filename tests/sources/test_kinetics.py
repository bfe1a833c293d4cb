"""Layouts of Kinetics and other folders of videos; the files are empty, for nothing here opens them."""

import os

import pytest

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING
from jaxneuro.sources import kinetics


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root, **keywords):
    source = kinetics.read(root, **keywords)
    found = [(s.subject, s.session, s.label, s.path.removeprefix(f"{root}/")) for s in source.scans]
    return source, found


def test_class_folders_in_folds(tmp_path):
    touch(tmp_path, "train/playing flute/aaa_000010_000020.mp4", "train/yoga/bbb_000000_000010.mp4")
    touch(tmp_path, "val/yoga/ccc_000001_000011.mp4", "val/yoga/notes.txt", "test/yoga/ddd.webm")
    source, found = read(tmp_path)
    assert found == [
        ("aaa", "", "playing flute", "train/playing flute/aaa_000010_000020.mp4"),
        ("bbb", "", "yoga", "train/yoga/bbb_000000_000010.mp4"),
        ("ccc", "", "yoga", "val/yoga/ccc_000001_000011.mp4"),
        ("ddd", "", "yoga", "test/yoga/ddd.webm"),
    ]
    assert source.folds == {"aaa": "train", "bbb": "train", "ccc": "validation", "ddd": "test"}
    assert (source.problems, source.name) == ([], tmp_path.name)


def test_class_folders_and_plain_folders_have_no_folds(tmp_path):
    touch(tmp_path, "yoga/a.mp4", "yoga/deep/er/b.AVI", "c.mp4")
    source, found = read(tmp_path)
    assert found == [
        ("a", "", "yoga", "yoga/a.mp4"),
        ("b", "", "yoga", "yoga/deep/er/b.AVI"),
        ("c", "", MISSING, "c.mp4"),
    ]
    assert source.folds == {}


def test_hidden_files_and_names_that_cannot_be_printed(tmp_path):
    touch(tmp_path, "yoga/a.mp4", "yoga/._a.mp4", ".trash/b.mp4", "yo\nga/c.mp4", os.fsdecode(b"yoga/\xff.mp4"))
    source, found = read(tmp_path)
    assert [f[0] for f in found] == ["a"]
    assert [p.where for p in source.problems] == ["'yo\\nga/c.mp4'", "'yoga/\\udcff.mp4'"]


def test_one_fold_alone_is_no_split(tmp_path):
    touch(tmp_path, "train/yoga/a.mp4", "train/yoga/b.mp4")
    assert read(tmp_path)[0].folds == {}


def test_equal_names_in_two_folders_are_two_videos(tmp_path):
    touch(tmp_path, "yoga/1.mp4", "surfing/1.mp4", "surfing/2.mp4")
    assert [f[0] for f in read(tmp_path)[1]] == ["2", "surfing/1.mp4", "yoga/1.mp4"]


def test_parts_of_one_video_are_one_subject(tmp_path):
    touch(tmp_path, "yoga/aaa_000010_000020.mp4", "yoga/aaa_000030_000040.mp4", "yoga/bbb_000010_000020.mp4")
    assert [f[:2] for f in read(tmp_path)[1]] == [("aaa", "t10-20"), ("aaa", "t30-40"), ("bbb", "")]


def test_a_video_in_two_folds_is_left_out(tmp_path):
    touch(tmp_path, "train/yoga/aaa_000010_000020.mp4", "val/yoga/aaa_000030_000040.mp4", "val/yoga/b.mp4")
    touch(tmp_path, "train/yoga/c.mp4")
    source, found = read(tmp_path)
    assert [f[0] for f in found] == ["b", "c"]
    assert [p.found for p in source.problems] == ["a video in folds train, validation"] * 2


def test_tables_of_the_distribution(tmp_path):
    """As the Common Visual Data Foundation lays it out, with a damaged file that has a replacement."""
    touch(tmp_path, "train/aaa_000010_000020.mp4", "train/bbb_000000_000010.mp4", "val/ccc_000001_000011.mp4")
    touch(tmp_path, "replacement/replacement_for_corrupted_k400/bbb_000000_000010.mp4", "train/zzz_000000_000010.mp4")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        '"playing, flute",aaa,10,20,train\nyoga,bbb,0,10,train\nyoga,gone,5,15,train\nyoga,aaa,20,10,train\n'
    )
    (tmp_path / "annotations" / "val.csv").write_text(
        "label,youtube_id,time_start,time_end,split,is_cc\nyoga,ccc,1,11,val,0\n"
    )
    source, found = read(tmp_path)
    assert found == [
        ("aaa", "", "playing, flute", "train/aaa_000010_000020.mp4"),
        ("bbb", "", "yoga", "replacement/replacement_for_corrupted_k400/bbb_000000_000010.mp4"),
        ("ccc", "", "yoga", "val/ccc_000001_000011.mp4"),
    ]
    assert source.folds == {"aaa": "train", "bbb": "train", "ccc": "validation"}
    assert sorted((p.where.rsplit("/", 1)[-1], p.found) for p in source.problems) == [
        ("train.csv line 4", "a row with no file"),
        ("train.csv line 5", "times '20' to '10'"),
        ("zzz_000000_000010.mp4", "a file with no row"),
    ]
    assert any("gone_000005_000015.mp4 or gone.mp4" in str(p) for p in source.problems)


def test_whole_downloads_are_cut_by_the_table(tmp_path):
    touch(tmp_path, "videos/aaa.mkv", "videos/bbb.mp4")
    table = tmp_path / "kinetics_train.csv"
    table.write_text("label,youtube_id,time_start,time_end\nyoga,aaa,10,20\nyoga,aaa,30.5,40\nsurfing,bbb,0,10\n")
    source, found = read(tmp_path, table=table)
    assert found == [
        ("aaa", "t10-20", "yoga", "videos/aaa.mkv#t=10,20"),
        ("aaa", "t30.5-40", "yoga", "videos/aaa.mkv#t=30.5,40"),
        ("bbb", "", "surfing", "videos/bbb.mp4#t=0,10"),
    ]
    assert source.folds == {}


def test_a_table_without_labels_takes_the_folders(tmp_path):
    touch(tmp_path, "test/yoga/aaa_000010_000020.mp4", "test/bbb_000010_000020.mp4")
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end\naaa,10,20\nbbb,10,20\n")
    assert [f[2] for f in read(tmp_path)[1]] == ["yoga", MISSING]


def test_a_row_given_twice_with_two_labels_is_told(tmp_path):
    touch(tmp_path, "aaa.mp4")
    (tmp_path / "t.csv").write_text(
        "label,youtube_id,time_start,time_end\n" + "yoga,aaa,0,9\n" * 2 + "surfing,aaa,0,9\n"
    )
    source, found = read(tmp_path)
    assert [f[2] for f in found] == ["yoga"]
    assert [p.found for p in source.problems] == ["aaa t0-9 again, with another label"]


def test_another_table_beside_the_files_is_no_table_of_kinetics(tmp_path):
    touch(tmp_path, "yoga/a.mp4")
    (tmp_path / "notes.csv").write_text("name,remark\na,good\n")
    assert [f[0] for f in read(tmp_path)[1]] == ["a"]
    with pytest.raises(InputError, match=r"notes.csv: found no table with youtube_id, time_start, time_end"):
        kinetics.read(tmp_path, table=tmp_path / "notes.csv")
    with pytest.raises(InputError, match="no such folder"):
        kinetics.read(tmp_path / "none")
