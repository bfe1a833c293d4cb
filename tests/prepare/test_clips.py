"""A folder of videos to a dataset of clips, in both stores."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxneuro import cli, data, info, manifest, records
from jaxneuro.errors import CorruptDataError, InputError
from jaxneuro.prepare import clips, run
from jaxneuro.video import files, sampling
from jaxneuro.video.sampling import Recipe
from tests.conftest import CONFIGS
from tests.video import media

TINY = Recipe("tiny", frames=4, stride=2, short_side=20, crop=16)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(sampling.RECIPES, "tiny", TINY)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Nine training and three validation videos in two classes; two that need mending or leaving out."""
    root = tmp_path_factory.mktemp("videos")
    for i in range(12):
        fold, label = ("train" if i < 9 else "val"), ("yoga", "surfing")[i % 2]
        (root / fold / label).mkdir(parents=True, exist_ok=True)
        media.write(root / fold / label / f"v{i:02d}.mp4", 16 + i, size=(24, 32 + 4 * (i % 3)))
    media.write(root / "train" / "yoga" / "short.mp4", 3, size=(24, 32))
    (root / "val" / "yoga" / "broken.mp4").write_bytes(b"not a video" * 100)
    return root


def prepare(source, out, store, *, recipe="tiny", workers=1, **more):
    video = {"store": store, **{k: more.pop(k) for k in ("views", "clips") if k in more}}
    run.prepare(source, out, recipe=recipe, workers=workers, video=video, **more)
    return records.open_dataset(out)


def everything(path):
    """Return the bytes of all files but the card, whose list of shards names nothing else."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("store", ["files", "clips"])
def test_what_is_in_it(videos, tmp_path, store):
    d = prepare(videos, tmp_path / "d", store, views="2x3", **({"clips": 2} if store == "clips" else {}))
    assert [d.card[k] for k in ("shape", "dtype", "store", "views")] == [[4, 16, 16, 3], "uint8", store, "2x3"]
    assert d.card["counts"] == {
        "scans": (20 if store == "clips" else 10) + 3 * 6, "subjects": 13, "failures": 1, "mended": 1,
    }  # fmt: skip
    assert d.splits.subjects["validation"] == ["v09", "v10", "v11"]
    assert sorted(d.splits.subjects["train"]) == ["short", *(f"v{i:02d}" for i in range(9))]
    sessions = [s.session for s in d.scans if s.subject == "v10"]
    assert sessions == [f"view-{i:02d}" for i in range(6)]
    assert [s.session for s in d.scans if s.subject == "v00"] == (["clip-00", "clip-01"] if store == "clips" else [""])
    assert {s.label for s in d.scans} == {"yoga", "surfing"}
    problems = {p.where.rsplit("/", 1)[-1]: p for p in manifest.read_problems(tmp_path / "d" / "failures.csv")}
    assert problems["broken.mp4"].dropped
    assert not problems["short.mp4"].dropped
    assert problems["short.mp4"].found == "3 frames"
    with data.open_reader(d) as reader:
        assert len(reader) == len(d.scans)
        assert reader.shape == d.shape
        assert reader[0].dtype == reader.dtype == np.uint8


def test_both_stores_give_the_same_views_bit_for_bit(videos, tmp_path):
    stores = [prepare(videos, tmp_path / s, s, views="3x3") for s in ("files", "clips")]
    first, second = (
        {(s.subject, s.session): r[i] for i, s in enumerate(d.scans) if "view" in s.session}
        for d, r in ((d, data.open_reader(d)) for d in stores)
    )
    assert len(first) == 27
    assert set(first) == set(second)
    for key, clip in first.items():
        np.testing.assert_array_equal(clip, second[key])
    # Frames by hand: v10 has 26, a clip spans 7, 19 are free: 0, 9.5 (to the even 10), 19.
    starts = [media.index(first["v10", f"view-{i:02d}"])[0] for i in (0, 3, 6)]
    assert starts == [0, 10, 19]


@pytest.mark.parametrize("store", ["files", "clips"])
def test_bytes_do_not_depend_on_the_workers(videos, tmp_path, store):
    prepare(videos, tmp_path / "a", store, workers=1)
    prepare(videos, tmp_path / "b", store, workers=2)
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_training_clips_in_shards_follow_the_seed(videos, tmp_path):
    def clips(name, seed):
        d = prepare(videos, tmp_path / name, "clips", clips=3, seed=seed)
        reader = data.open_reader(d)
        return {s.key: reader[i] for i, s in enumerate(d.scans) if "clip" in s.session}

    a, b, c = clips("a", 0), clips("b", 0), clips("c", 1)
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert any(not np.array_equal(a[k], c[k]) for k in a)
    assert (
        len({media.index(a["v08", f"clip-0{i}"]).tobytes() + a["v08", f"clip-0{i}"].tobytes() for i in range(3)}) == 3
    )


# ---- training from files ---------------------------------------------------------------------------------------------


def batches(dataset, reader, **keywords):
    train = [i for i, s in enumerate(dataset.scans) if s.subject in set(dataset.splits.subjects["train"])]
    return data.training_batches(reader, train, {}, batch_size=4, seed=3, **keywords)


def test_training_draws_anew_in_each_epoch_and_a_resumed_run_sees_the_same(videos, tmp_path):
    d = prepare(videos, tmp_path / "d", "files")
    reader = data.open_reader(d)
    whole = batches(d, reader)
    seen = []
    for step in range(8):  # four epochs of two batches
        seen.append(next(whole))
        if step == 2:
            state = whole.get_state()
    resumed = batches(d, reader, threads=1, prefetch=1)
    resumed.set_state(state)
    for expected in seen[3:]:
        found = next(resumed)
        np.testing.assert_array_equal(found["index"], expected["index"])
        np.testing.assert_array_equal(found["volume"], expected["volume"])
    # What is drawn follows from seed, epoch and record alone.
    for step, batch in enumerate(seen):
        for number, clip in zip(batch["index"], batch["volume"], strict=True):
            np.testing.assert_array_equal(clip, reader.draw(int(number), (3, step // 2, int(number))))
    clips = {(int(n), v.tobytes()) for b in seen for n, v in zip(b["index"], b["volume"], strict=True)}
    assert len(clips) > 2 * len({n for n, _ in clips})


def test_processes_share_a_batch_of_drawn_clips(videos, tmp_path):
    d = prepare(videos, tmp_path / "d", "files")
    reader = data.open_reader(d)
    whole = batches(d, reader)
    parts = [batches(d, reader, process_index=i, process_count=2) for i in range(2)]
    for _ in range(3):
        together = np.concatenate([next(p)["volume"] for p in parts])
        np.testing.assert_array_equal(together, next(whole)["volume"])


def test_moved_and_changed_files_are_named(videos, tmp_path, capsys):
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    d = prepare(root, tmp_path / "d", "files")
    assert files.verify(d) == []
    info.dataset(tmp_path / "d")
    assert "videos: 13, as prepared" in capsys.readouterr().out
    number = {s.subject: i for i, s in enumerate(d.scans)}
    reader = data.open_reader(d)
    (root / "train/yoga/v00.mp4").rename(tmp_path / "elsewhere.mp4")
    with pytest.raises(CorruptDataError, match=r"v00.mp4: cannot be read .*put it back"):
        reader[number["v00"]]
    with open(root / "train/yoga/v02.mp4", "ab") as f:
        f.write(b"x")
    with pytest.raises(CorruptDataError, match=r"v02.mp4: found \d+ bytes; expected \d+"):
        reader.draw(number["v02"], (0,))
    whole = (root / "train/yoga/v04.mp4").read_bytes()
    (root / "train/yoga/v04.mp4").write_bytes(bytes(len(whole)))
    with pytest.raises(CorruptDataError, match=r"v04.mp4: found no video that decodes"):
        reader[number["v04"]]
    assert [f.split(": ")[0].rsplit("/", 1)[-1] for f in files.verify(d)] == ["v00.mp4", "v02.mp4", "v04.mp4"]
    with pytest.raises(CorruptDataError, match=r"v04.mp4: found SHA-256"):
        info.dataset(tmp_path / "d")
    (tmp_path / "d" / "files.csv").write_text("path\n")
    with pytest.raises(CorruptDataError, match=r"files.csv: not the file that card.json names"):
        data.open_reader(d)


# ---- sources and arguments -------------------------------------------------------------------------------------------


def test_parts_of_whole_downloads(tmp_path):
    media.write(tmp_path / "aaa.mp4", 32, size=(24, 32))
    media.write(tmp_path / "bbb.mp4", 30, size=(24, 32))
    table = tmp_path / "all.csv"
    table.write_text(
        "label,youtube_id,time_start,time_end\nyoga,aaa,0.2,0.6\nsurfing,aaa,0.6,1.2\nyoga,bbb,0,1\nyoga,bbb,50,60\n"
    )
    d = prepare(table, tmp_path / "d", "files", validation=0, test=0)
    assert [(s.subject, s.session, s.label) for s in d.scans] == [
        ("aaa", "t0.2-0.6", "yoga"), ("aaa", "t0.6-1.2", "surfing"), ("bbb", "t0-1", "yoga"),
    ]  # fmt: skip
    reader = data.open_reader(d)
    # The middle of 10 frames from the 5th: 3 free, 1 before. Of 15 from the 15th: 8 free, 4 before.
    assert list(media.index(reader[0])) == [6, 8, 10, 12]
    assert list(media.index(reader[1])) == [19, 21, 23, 25]
    (problem,) = manifest.read_problems(tmp_path / "d" / "failures.csv")
    assert problem.found == "no frame between 50 and 60 s"


def test_a_table_of_ones_own(videos, tmp_path):
    table = tmp_path / "t.csv"
    names = [f"train/{('yoga', 'surfing')[i % 2]}/v{i:02d}.mp4" for i in range(4)]
    table.write_text("id,file,label\n" + "".join(f"p{i},{videos / n},x\n" for i, n in enumerate(names)))
    d = prepare(table, tmp_path / "d", "files", columns={"subject": "id", "path": "file"}, validation=0.25)
    assert {s.subject for s in d.scans} == {"p0", "p1", "p2", "p3"}
    assert {s.label for s in d.scans} == {"x"}
    with pytest.raises(InputError, match="--columns: found with"):
        prepare(videos, tmp_path / "e", "files", columns={"subject": "id"})


def test_one_file_under_two_names_is_left_out(videos, tmp_path):
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    shutil.copy(root / "train/yoga/v00.mp4", root / "val/yoga/copy.mp4")
    d = prepare(root, tmp_path / "d", "files")
    assert not {"v00", "copy"} & {s.subject for s in d.scans}
    assert sum("the same file as" in p.found for p in manifest.read_problems(tmp_path / "d" / "failures.csv")) == 2


def problems_of(folder):
    return [(p.where.rsplit("/", 1)[-1], p.found, p.dropped) for p in manifest.read_problems(folder / "failures.csv")]


def test_every_part_of_a_file_under_two_names_is_told(tmp_path):
    for name, frames in (("a", 30), ("b", 31)):
        media.write(tmp_path / f"{name}.mp4", frames, size=(24, 32))
    shutil.copy(tmp_path / "a.mp4", tmp_path / "copy.mp4")
    rows = "a,0,0.4\na,0.4,0.8\na,0.8,1.2\ncopy,0,0.4\ncopy,0.8,1.2\nb,0,1.2\n"
    (tmp_path / "k.csv").write_text("youtube_id,time_start,time_end\n" + rows)
    d = prepare(tmp_path, tmp_path / "d", "files", validation=0, test=0)
    assert [s.subject for s in d.scans] == ["b"]
    assert [(where, dropped) for where, _, dropped in problems_of(tmp_path / "d")] == [
        ("a.mp4#t=0,0.4", True), ("a.mp4#t=0.4,0.8", True), ("a.mp4#t=0.8,1.2", True),
        ("copy.mp4#t=0,0.4", True), ("copy.mp4#t=0.8,1.2", True),
    ]  # fmt: skip


def test_parts_beyond_the_end_are_told(tmp_path):
    media.write(tmp_path / "a.mp4", 50, size=(24, 32))  # 2 s
    # Half a second and a frame may lack.
    (tmp_path / "k.csv").write_text("youtube_id,time_start,time_end\na,0,2.5\na,1,3\na,0,2\n")
    prepare(tmp_path, tmp_path / "d", "files", validation=0, test=0)
    assert problems_of(tmp_path / "d") == [("a.mp4#t=1,3", "1.0 s, where the file ends", False)]


def test_a_table_in_annotations(tmp_path):
    (tmp_path / "k" / "annotations").mkdir(parents=True)
    media.write(tmp_path / "k" / "a.mp4", 20, size=(24, 32))
    table = tmp_path / "k" / "annotations" / "train.csv"
    table.write_text("youtube_id,time_start,time_end\na,0,0.8\n")
    assert len(prepare(table, tmp_path / "d", "files", validation=0, test=0).scans) == 1
    (tmp_path / "k" / "lists").mkdir()
    elsewhere = table.rename(tmp_path / "k" / "lists" / "train.csv")
    with pytest.raises(InputError, match=r"no usable video; .* prepare FOLDER --table .*lists/train.csv"):
        prepare(elsewhere, tmp_path / "e", "files")


def test_the_folds_of_a_table_of_ones_own(videos, tmp_path, capsys):
    table = tmp_path / "t.csv"
    names = [str(videos / f"train/{('yoga', 'surfing')[i % 2]}/v{i:02d}.mp4") for i in range(6)]
    words = ["train", "val", "TEST", "fold1", "", "train"]
    people = ["p0", "p1", "p2", "p3", "p4", "p1"]
    rows = [f"{p},{i},{n},{w}\n" for i, (p, n, w) in enumerate(zip(people, names, words, strict=True))]
    table.write_text("id,session,path,Split\n" + "".join(rows) + "p6,6,gone.mp4,train\n")
    d = prepare(table, tmp_path / "d", "files", columns={"subject": "id"})
    assert {k: v for k, v in d.splits.subjects.items() if v} == {"train": ["p0"], "test": ["p2"]}
    assert "fold validation: found no subject among 2" in capsys.readouterr().err
    assert d.card["inclusion"] == "every row whose subject and video are there"
    assert problems_of(tmp_path / "d") == [
        ("t.csv line 8", "path 'gone.mp4'", True),
        ("t.csv line 5", "split 'fold1'", True),
        ("t.csv line 6", "split ''", True),
        ("t.csv line 3", "p1 in folds train, validation", True),
        ("t.csv line 7", "p1 in folds train, validation", True),
    ]
    assert "image" not in (tmp_path / "d" / "failures.csv").read_text()


def test_many_clips_are_written_a_few_at_a_time(videos, tmp_path, monkeypatch):
    prepare(videos, tmp_path / "a", "clips", clips=5, views="3x3")
    counts = []
    read = clips.decode.read
    monkeypatch.setattr(clips, "_AT_ONCE", 2 * 4 * 16 * 16 * 3)  # two clips
    monkeypatch.setattr(
        clips.decode, "read", lambda p, v, r, views: (counts.append(len(views)), read(p, v, r, views))[1]
    )
    prepare(videos, tmp_path / "b", "clips", clips=5, views="3x3")
    assert max(counts) == 2
    assert everything(tmp_path / "a") == everything(tmp_path / "b")


def test_sources_that_are_none(videos, tmp_path):
    with pytest.raises(InputError, match=r"v00.mp4: found a video; expected the folder that it lies in"):
        prepare(videos / "train/yoga/v00.mp4", tmp_path / "d", "files")
    table = tmp_path / "k.csv"
    table.write_text("youtube_id,time_start,time_ende\na,0,1\n")
    with pytest.raises(InputError, match=r"expected \['time_end'\] too, as tables of Kinetics have"):
        prepare(table, tmp_path / "d", "files")
    with pytest.raises(InputError, match="--seed: found -1; expected 0 or more"):
        prepare(videos, tmp_path / "d", "files", seed=-1)


def test_arguments_out_of_range(videos, tmp_path):
    for video, message in [
        ({"store": "disk"}, "--store: found 'disk'"),
        ({"store": "files", "clips": 2}, "--clips: found 2 with --store files"),
        ({"views": "4x2"}, "--views: found '4x2'"),
    ]:
        with pytest.raises(InputError, match=message):
            run.prepare(videos, tmp_path / "d", recipe="tiny", video=video)
    with pytest.raises(InputError, match="--study: found with recipe 'clip32x2'"):
        run.prepare(videos, tmp_path / "d", recipe="clip32x2", study="adni")
    with pytest.raises(InputError, match="--option: found with recipe 'clip32x2'"):
        run.prepare(videos, tmp_path / "d", recipe="clip32x2", options={"days": 9})
    with pytest.raises(InputError, match="--views: found with recipe 'paper80'"):
        run.prepare(videos, tmp_path / "d", video={"views": "4x3"})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.mp4").touch()
    with pytest.raises(InputError, match=r"found no usable video; .*a.mp4: found an empty file"):
        run.prepare(tmp_path / "bad", tmp_path / "d", recipe="tiny")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad"]


def test_the_command(videos, tmp_path, capsys):
    command = ["prepare", str(videos), "--out", str(tmp_path / "d"), "--recipe", "tiny", "--workers", "1"]
    assert cli.main([*command, "--store", "clips", "--views", "2x1", "--clips", "2"]) == 0
    said = capsys.readouterr().err
    assert "26 clips of 13 subjects as [4, 16, 16, 3] uint8, shards: 1" in said
    assert "label: 2 different, missing for 0" in said
    assert "1 left out, 1 kept all the same" in said
    assert cli.main(["info", str(tmp_path / "d")]) == 0
    assert "clips [4, 16, 16, 3] uint8, time, height top to bottom" in capsys.readouterr().out
    assert cli.main([*command[:3], str(tmp_path / "e"), "--clips", "2"]) == 1
    assert "--clips: found with recipe 'paper80'" in capsys.readouterr().err


def test_without_pyav_the_extra_is_named(videos, tmp_path):
    code = (
        "import sys; sys.modules['av'] = None; from jaxneuro import cli\n"
        f"sys.exit(cli.main(['prepare', {str(videos)!r}, '--out', {str(tmp_path / 'd')!r}, '--recipe', 'clip32x2']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "found no package av; expected the extra: pip install 'jaxneuro[video]'" in done.stderr.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "last"), [("files", "val"), ("clips", "test")]
)  # Kinetics may come without a test fold
def test_from_videos_to_predictions(store, last, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sampling.RECIPES, "e2e", Recipe("e2e", frames=8, stride=1, short_side=36, crop=32))
    for i in range(16):
        fold, label = ("train", "train", "val", last)[i % 4], ("yoga", "surfing")[i // 4 % 2]
        (tmp_path / "v" / fold / label).mkdir(parents=True, exist_ok=True)
        media.write(tmp_path / "v" / fold / label / f"v{i:02d}.mp4", 12 + i, size=(36, 48))
    run.prepare(tmp_path / "v", tmp_path / "d", recipe="e2e", video={"store": store, "views": "2x3"})
    settings = [
        f"data.path={tmp_path / 'd'}", "data.batch_size=4", "model.name=swin_t_testing", "training.epochs=2",
        "optimizer.warmup_epochs=0.5",
    ]  # fmt: skip
    command = ["train", f"--config={CONFIGS / 'pretrain_video.py'}", "--workdir", str(tmp_path / "run")]
    assert cli.main([*command, *(f"--config.{s}" for s in settings)]) == 0, capsys.readouterr().err
    assert cli.main(["evaluate", str(tmp_path / "run"), "--resamples", "20"]) == 0, capsys.readouterr().err
    with open(tmp_path / "run" / "evaluation" / "predictions.csv", newline="") as f:
        rows = list(csv.DictReader(f))
    assert sorted((r["fold"], r["subject"]) for r in rows) == sorted(
        ("test" if i % 4 == 3 and last == "test" else "validation", f"v{i:02d}") for i in range(16) if i % 4 > 1
    )
    for row in rows:
        assert float(row["probability_yoga"]) + float(row["probability_surfing"]) == pytest.approx(1, abs=1e-5)
    assert {s.session for s in manifest.read(tmp_path / "run" / "scans.csv")} == (
        {""} if store == "files" else {"clip-00"}
    )
