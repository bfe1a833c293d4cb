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
    touch(tmp_path, "train/playing flute/aaaaaaaaaaa_000010_000020.mp4", "train/yoga/bbbbbbbbbbb_000000_000010.mp4")
    touch(tmp_path, "val/yoga/ccccccccccc_000001_000011.mp4", "val/yoga/notes.txt", "test/yoga/ddd.webm")
    source, found = read(tmp_path)
    assert found == [
        ("aaaaaaaaaaa", "", "playing flute", "train/playing flute/aaaaaaaaaaa_000010_000020.mp4"),
        ("bbbbbbbbbbb", "", "yoga", "train/yoga/bbbbbbbbbbb_000000_000010.mp4"),
        ("ccccccccccc", "", "yoga", "val/yoga/ccccccccccc_000001_000011.mp4"),
        ("ddd", "", "yoga", "test/yoga/ddd.webm"),
    ]
    assert source.folds == {"aaaaaaaaaaa": "train", "bbbbbbbbbbb": "train", "ccccccccccc": "validation", "ddd": "test"}
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
    touch(
        tmp_path,
        "yoga/aaaaaaaaaaa_000010_000020.mp4",
        "yoga/aaaaaaaaaaa_000030_000040.mp4",
        "yoga/bbbbbbbbbbb_000010_000020.mp4",
    )
    assert [f[:2] for f in read(tmp_path)[1]] == [
        ("aaaaaaaaaaa", "t10-20"),
        ("aaaaaaaaaaa", "t30-40"),
        ("bbbbbbbbbbb", ""),
    ]


def test_a_video_in_two_folds_is_left_out(tmp_path):
    touch(
        tmp_path, "train/yoga/aaaaaaaaaaa_000010_000020.mp4", "val/yoga/aaaaaaaaaaa_000030_000040.mp4", "val/yoga/b.mp4"
    )
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


# ---- folds -----------------------------------------------------------------------------------------------------------

HEADER = "youtube_id,time_start,time_end,label,split\n"


def told(source):
    return [(p.where.rsplit("/", 1)[-1], p.found) for p in source.problems]


def test_an_unknown_split_is_left_out(tmp_path):
    touch(tmp_path, *(f"{name}.mp4" for name in "ABCDE"))
    rows = "A,0,1,x,training\nB,0,1,x,val\nC,0,1,y,holdout\nD,0,1,y,valdation\nE,0,1,y,\n"
    (tmp_path / "k.csv").write_text(HEADER + rows)
    source, found = read(tmp_path)
    assert [f[0] for f in found] == ["A", "B"]
    assert source.folds == {"A": "train", "B": "validation"}
    assert told(source) == [
        ("k.csv line 4", "split 'holdout'"),
        ("k.csv line 5", "split 'valdation'"),
        ("k.csv line 6", "a row in no fold, beside others that are in some"),
    ]


def test_the_names_of_tables_name_folds(tmp_path):
    touch(tmp_path, *(f"{name}.mp4" for name in "ABCD"))
    for name, table in zip("ABCD", ("k400_train", "val_list", "testset", "more"), strict=True):
        (tmp_path / f"{table}.csv").write_text(f"youtube_id,time_start,time_end\n{name},0,1\n")
    source, _ = read(tmp_path)
    assert source.folds == {"A": "train", "B": "validation", "C": "test"}
    assert told(source) == [("more.csv line 2", "a row in no fold, beside others that are in some")]


def test_videos_outside_of_the_folders_of_folds_are_left_out(tmp_path):
    touch(tmp_path, "train/x/a.mp4", "validation_set/x/b.mp4", "holdout/x/c.mp4", "d.mp4")
    source, found = read(tmp_path)
    assert [f[:3] for f in found] == [("a", "", "x"), ("b", "", "x")]
    assert source.folds == {"a": "train", "b": "validation"}
    assert told(source) == [(name, "a video in no fold, beside folders of folds") for name in ("d.mp4", "c.mp4")]


def test_a_class_may_be_called_train(tmp_path):
    touch(tmp_path, "bus/a.mp4", "train/b.mp4", "training dog/c.mp4")
    source, found = read(tmp_path)
    assert [f[2] for f in found] == ["bus", "train", "training dog"]
    assert source.folds == {}
    assert [(p.where, p.found, p.dropped) for p in source.problems] == [
        ("train", "one fold's name among folders", False)
    ]


def test_a_folder_around_everything(tmp_path):
    touch(tmp_path, "w/k400/train/run/a.mp4", "w/k400/val/jump/b.mp4", "w/k400/val/c.mp4")
    source, found = read(tmp_path / "w")
    assert [f[::2] for f in found] == [("a", "run"), ("b", "jump"), ("c", MISSING)]
    assert source.folds == {"a": "train", "b": "validation", "c": "validation"}
    touch(tmp_path, "v/videos/run/a.mp4", "v/videos/jump/b.mp4")
    assert [f[2] for f in read(tmp_path / "v")[1]] == ["run", "jump"]
    touch(tmp_path, "c/run/train/a.mp4", "c/jump/test/b.mp4")
    source, found = read(tmp_path / "c")
    assert [f[2] for f in found] == ["run", "jump"]
    assert source.folds == {"a": "train", "b": "test"}


def test_one_name_in_two_folds(tmp_path):
    """An identifier is one video; a number may be another one in each folder."""
    touch(tmp_path, "train/x/1.mp4", "val/x/1.mp4", "train/x/abcdefghijk.mp4", "val/x/abcdefghijk.mp4")
    source, found = read(tmp_path)
    assert [f[0] for f in found] == ["train/x/1.mp4", "val/x/1.mp4"]
    assert [(p.found, p.dropped) for p in source.problems] == [("the name 1 in folds train, validation", False)] * 2 + [
        ("a video in folds train, validation", True)
    ] * 2


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["k.csv", "annotations/k.CSV"])
def test_a_table_that_cannot_be_read_is_no_folder_without_one(tmp_path, where):
    touch(tmp_path, "x/A.mp4", where, "._k.csv")
    (tmp_path / "._k.csv").write_bytes(b"\xff")
    (tmp_path / where).write_text("youtube_id,time_start,time_ende\nA,0,1\n")
    with pytest.raises(InputError, match=r"\['youtube_id', 'time_start', 'time_ende'\]; expected \['time_end'\] too"):
        read(tmp_path)
    (tmp_path / where).write_bytes(b"youtube_id,time_start,time_end,label\nA,0,1,caf\xe9\n")
    with pytest.raises(InputError, match=r"k\.(csv|CSV): not a text table .*; expected UTF-8"):
        read(tmp_path)


def test_a_row_takes_the_file_of_its_own_fold(tmp_path):
    touch(tmp_path, "train/A.mp4", "val/A.mp4", "train/B.mkv", "train/B.mp4")
    (tmp_path / "train.csv").write_text("youtube_id,time_start,time_end\nA,0,1\nB,0,1\n")
    source, found = read(tmp_path)
    assert [f[3] for f in found] == ["train/A.mp4#t=0,1", "train/B.mkv#t=0,1"]
    assert [str(p) for p in source.problems] == [
        "train/B.mp4: found a second file of B's row; expected one; train/B.mkv was kept",
        "val/A.mp4: found a second file of A's row; expected one; train/A.mp4 was kept",
    ]


def test_a_row_without_a_fold_and_files_in_two(tmp_path):
    touch(tmp_path, "train/A.mp4", "val/A.mp4", "val/B.mp4")
    (tmp_path / "all.csv").write_text("youtube_id,time_start,time_end\nA,0,1\nB,0,1\n")
    source, found = read(tmp_path)
    assert [f[0] for f in found] == ["B"]
    assert ("all.csv line 2", "files in several folds: train/A.mp4 and val/A.mp4") in told(source)


def test_times_keep_all_their_digits(tmp_path):
    touch(tmp_path, "A.mp4")
    rows = "A,0.00001,3,x\nA,12345.2,12345.4,x\nA,12345.23,12345.41,x\nA,123456.1,1.3e5,y\n"
    (tmp_path / "k.csv").write_text("youtube_id,time_start,time_end,label\n" + rows)
    assert [f[3] for f in read(tmp_path)[1]] == [
        "A.mp4#t=0.00001,3", "A.mp4#t=12345.2,12345.4", "A.mp4#t=12345.23,12345.41", "A.mp4#t=123456.1,130000",
    ]  # fmt: skip


def test_a_row_of_a_file_that_has_been_cut_cuts_it_again(tmp_path):
    touch(tmp_path, "X_000010_000020.mp4")
    (tmp_path / "k.csv").write_text("youtube_id,time_start,time_end\nX_000010_000020,2,5\n")
    assert [f[3] for f in read(tmp_path)[1]] == ["X_000010_000020.mp4#t=2,5"]


# ---- files -----------------------------------------------------------------------------------------------------------


def test_dates_and_times_of_day_are_no_parts(tmp_path):
    names = ["frontcamera_240110_123010", "frontcamera_240111_123011", "frontcamera_000010_000200"]
    names += ["door_000010_000020", "door_000030_000040"]
    touch(tmp_path, *(f"a/{name}.mp4" for name in names))
    assert [f[:2] for f in read(tmp_path)[1]] == [(name, "") for name in sorted(names)]


def test_a_whole_video_beside_a_part_of_it(tmp_path):
    touch(tmp_path, "a/aaaaaaaaaaa_000010_000020.mp4", "a/aaaaaaaaaaa.mp4")
    assert [f[:2] for f in read(tmp_path)[1]] == [("aaaaaaaaaaa", ""), ("aaaaaaaaaaa", "t10-20")]


def test_replacements_without_a_table(tmp_path):
    touch(tmp_path, "train/x/aaaaaaaaaaa_000010_000020.mp4", "val/y/b.mp4", "replacement/r/b.mp4")
    touch(tmp_path, "replacement/r/aaaaaaaaaaa_000010_000020.mp4", "replacement/r/gone.mp4", "replacement/s/b.mp4")
    source, found = read(tmp_path)
    assert found == [
        ("aaaaaaaaaaa", "", "x", "replacement/r/aaaaaaaaaaa_000010_000020.mp4"),
        ("b", "", "y", "replacement/r/b.mp4"),
    ]
    assert source.folds == {"aaaaaaaaaaa": "train", "b": "validation"}
    assert told(source) == [("b.mp4", "a second replacement of b"), ("gone.mp4", "a replacement of no file")]


def test_two_files_of_one_video(tmp_path):
    touch(tmp_path, "x/a.mkv", "x/a.mp4", "x/aaaaaaaaaaa_000010_000020.mp4", "y/aaaaaaaaaaa_000010_000020.mp4")
    source, found = read(tmp_path)
    assert [f[3] for f in found] == ["x/a.mkv", "x/aaaaaaaaaaa_000010_000020.mp4"]
    assert [str(p) for p in source.problems] == [
        "x/a.mp4: found a second file of a; expected one; x/a.mkv was kept",
        "y/aaaaaaaaaaa_000010_000020.mp4: found a second file of aaaaaaaaaaa_000010_000020; expected one; "
        "x/aaaaaaaaaaa_000010_000020.mp4 was kept",
    ]


def test_links(tmp_path):
    touch(tmp_path, "k/x/a.mp4", "k/more/b.mp4", "elsewhere/c.mp4", "elsewhere/d/e.mp4")
    (tmp_path / "k/x/in.mp4").symlink_to(tmp_path / "k/more/b.mp4")
    (tmp_path / "k/y").symlink_to(tmp_path / "k/more")
    (tmp_path / "k/x/out.mp4").symlink_to(tmp_path / "elsewhere/c.mp4")
    (tmp_path / "k/z").symlink_to(tmp_path / "elsewhere/d")
    (tmp_path / "k/x/dead.mp4").symlink_to(tmp_path / "k/nowhere.mp4")
    source = kinetics.read(tmp_path / "k")
    assert [s.path.removeprefix(f"{tmp_path}/k/") for s in source.scans] == [
        "x/a.mp4", "x/in.mp4", "more/b.mp4", "y/b.mp4",
    ]  # fmt: skip
    assert [(p.where, p.found) for p in source.problems] == [
        ("x/dead.mp4", f"a link to {tmp_path}/k/nowhere.mp4, which is not there"),
        ("x/out.mp4", f"a link out of {tmp_path}/k, to {tmp_path}/elsewhere/c.mp4"),
        ("z", f"a link out of {tmp_path}/k, to {tmp_path}/elsewhere/d"),
    ]
    assert source.problems[1].expected == "videos in the folder"


def test_endings(tmp_path):
    names = ["a.m2ts", "b.MTS", "c.vob", "d.ogg", "e.asf", "f.3g2", "g.f4v"]
    touch(tmp_path, *(f"x/{name}" for name in [*names, "h.rmvb", "i.txt"]))
    source, found = read(tmp_path)
    assert [f[3] for f in found] == [f"x/{name}" for name in names]
    assert told(source) == [("h.rmvb", "a video that is not read (.rmvb)")]
