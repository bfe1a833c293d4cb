"""Folder to shards: good scans in, bad ones on record, the same bytes for any number of workers."""

import errno
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxneuro import manifest, records
from jaxneuro.errors import InputError, ScanError
from jaxneuro.prepare import parallel, recipes, run, scan, volumes

#: Boxes are no heads: they are put on the grid and no more.
QUICK = {"recipe": "quick40", "skip": recipes.STAGES}


def brain(seed):
    rng = np.random.default_rng(seed)
    voxels = np.zeros((24, 26, 22), np.int16)
    voxels[4:20, 4:22, 4:18] = rng.integers(100, 900, (16, 18, 14))
    return nib.Nifti1Image(voxels, np.diag([6.0, 6.0, 6.0, 1.0]))


@pytest.fixture
def bids(tmp_path):
    root = tmp_path / "bids"
    rows = ["participant_id\tsex\tsite\tdiagnosis\tage"]
    for i in range(12):
        rows.append(f"sub-{i:02d}\t{'FM'[i % 2]}\t{'ABD'[i % 3]}\t{('CN', 'AD')[i // 6]}\t{60 + i}")
        file = root / f"sub-{i:02d}" / "anat" / f"sub-{i:02d}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nib.save(brain(i), file)
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "A synthetic set", "BIDSVersion": "1.10.0", "GeneratedBy": [{"Name": "jaxneuro cohort"}]})
    )
    return root


def image(root, i):
    return root / f"sub-{i:02d}" / "anat" / f"sub-{i:02d}_T1w.nii.gz"


def test_dataset_holds_every_scan_with_its_row(bids, tmp_path):
    seen = []
    card = run.prepare(bids, tmp_path / "d", **QUICK, ood_sites=["D"], progress=lambda *a: seen.append(a))
    dataset = records.open_dataset(tmp_path / "d")
    reader = records.Reader(dataset)
    assert len(reader) == 12
    assert reader[5].shape == (40, 40, 40, 1)
    assert card["counts"] == {"scans": 12, "subjects": 12, "failures": 0, "mended": 0}
    assert (card["name"], card["synthetic"]) == ("A synthetic set", True)
    assert dataset.splits.subjects["ood"] == ["sub-02", "sub-05", "sub-08", "sub-11"]
    assert dataset.scans[7].age == 67
    assert all(len(s.content_hash) == 64 for s in dataset.scans)
    assert seen[-1] == ("writing shards", 12, 12)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bids", "d"]


def test_bytes_do_not_depend_on_the_workers(bids, tmp_path):
    cards = [run.prepare(bids, tmp_path / f"d{n}", **QUICK, workers=n) for n in (1, 2)]
    assert cards[0]["shards"] == cards[1]["shards"]
    assert cards[0]["manifest_sha256"] == cards[1]["manifest_sha256"]


def test_bad_scans_are_on_record_and_the_rest_goes_on(bids, tmp_path):
    image(bids, 0).write_bytes(image(bids, 0).read_bytes()[:2000])
    image(bids, 1).write_text("not an image")
    shutil.copy(image(bids, 3), image(bids, 4))
    image(bids, 5).unlink()
    card = run.prepare(bids, tmp_path / "d", **QUICK)
    assert card["counts"] == {"scans": 7, "subjects": 7, "failures": 5, "mended": 0}
    problems = {p.where: p for p in manifest.read_problems(tmp_path / "d" / "failures.csv")}
    assert "damaged" in problems[str(image(bids, 0))].found
    assert problems[str(image(bids, 1))].found.startswith("no NIfTI image")
    assert problems[str(image(bids, 3))].found == "the image of sub-03, the same image as sub-04"
    assert problems[str(image(bids, 4))].found == "the image of sub-04, the same image as sub-03"
    assert any(p.found == "a row with no file" for p in problems.values())


def test_prefix_and_name(bids, tmp_path):
    run.prepare(bids, tmp_path / "d", **QUICK, subject_prefix="adni-", name="N", synthetic=False)
    dataset = records.open_dataset(tmp_path / "d")
    assert dataset.scans[0].subject == "adni-sub-00"
    assert (dataset.card["name"], dataset.card["synthetic"]) == ("N", False)


def test_csv_source(bids, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("id,file,DX\n" + "".join(f"p{i},{image(bids, i)},CN\n" for i in range(4)))
    card = run.prepare(table, tmp_path / "d", **QUICK, columns={"subject": "id", "path": "file", "diagnosis": "DX"})
    assert card["counts"]["scans"] == 4
    assert card["synthetic"] is False


def test_a_table_may_bring_its_folds(bids, tmp_path):
    table = tmp_path / "t.csv"
    words = ["train", "val", "test", "train", "later"]
    rows = [f"p{i},{image(bids, i)},CN,{word}\n" for i, word in enumerate(words)]
    table.write_text("subject,path,diagnosis,split\n" + "".join(rows))
    run.prepare(table, tmp_path / "d", **QUICK)
    made = records.open_dataset(tmp_path / "d").splits
    assert {k: sorted(v) for k, v in made.subjects.items()} == {
        "train": ["p0", "p3"],
        "validation": ["p1"],
        "test": ["p2"],
        "ood": [],
    }
    assert "line 6,split 'later'" in (tmp_path / "d" / "failures.csv").read_text().replace('"', "")
    with pytest.raises(InputError, match="--test: found with the folds"):
        run.prepare(table, tmp_path / "e", **QUICK, test=0.5)


def test_nothing_usable_or_an_existing_folder_is_refused(bids, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match="already exists"):
        run.prepare(bids, tmp_path / "d")
    for i in range(12):
        image(bids, i).write_text("not an image")
    with pytest.raises(InputError, match=r"found no usable scan; expected at least one; the first problem: .*sub-00"):
        run.prepare(bids, tmp_path / "e")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bids", "d"]


def test_two_masks_of_one_scan_cost_that_scan_alone(bids, tmp_path):
    for i in range(12):
        for pipeline in ("a", "b") if i == 3 else ("a",):
            file = bids / "derivatives" / pipeline / f"sub-{i:02d}" / "anat" / f"sub-{i:02d}_desc-brain_mask.nii.gz"
            file.parent.mkdir(parents=True)
            inside = np.asarray(brain(i).dataobj) > 0
            inside[:8] = False
            nib.save(nib.Nifti1Image(inside.astype(np.uint8), brain(i).affine), file)
    card = run.prepare(bids, tmp_path / "d", recipe="quick40", skip=["bias", "register"], stripper="mask")
    assert card["counts"] == {"scans": 11, "subjects": 11, "failures": 1, "mended": 0}
    (problem,) = manifest.read_problems(tmp_path / "d" / "failures.csv")
    assert problem.where == str(image(bids, 3))
    assert problem.found.startswith("masks of the brain ")
    lines = [json.loads(line) for line in (tmp_path / "d" / "records.jsonl").read_text().splitlines()]
    assert lines[3]["stages"]["strip"]["mask"].endswith("derivatives/a/sub-04/anat/sub-04_desc-brain_mask.nii.gz")


def prepared_now(monkeypatch):
    """Return a list that grows by the name of every file that is prepared rather than found done."""
    seen = []
    real = scan.prepare

    def counted(path, *rest):
        seen.append(Path(path).name)
        return real(path, *rest)

    monkeypatch.setattr(scan, "prepare", counted)
    return seen


def test_a_stopped_run_goes_on_where_it_was(bids, tmp_path, monkeypatch):
    run.prepare(bids, tmp_path / "whole", **QUICK)
    seen = prepared_now(monkeypatch)

    def interrupt(what, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"after 5 scans, kept in .*\.d\.work; the same command goes on"):
        run.prepare(bids, tmp_path / "d", **QUICK, progress=interrupt)
    assert not (tmp_path / "d").exists()
    assert len(seen) == 5
    run.prepare(bids, tmp_path / "d", **QUICK)
    assert len(seen) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bids", "d", "whole"]
    for file in (tmp_path / "whole").rglob("*"):
        if file.is_file():
            assert (tmp_path / "d" / file.relative_to(tmp_path / "whole")).read_bytes() == file.read_bytes(), file


def test_only_changed_files_are_done_again(bids, tmp_path, monkeypatch):
    image(bids, 3).write_text("not an image")
    work = {**QUICK, "work": tmp_path / "work"}
    run.prepare(bids, tmp_path / "d", **work)
    seen = prepared_now(monkeypatch)
    run.prepare(bids, tmp_path / "e", **work)
    assert seen == []
    assert [p.where for p in manifest.read_problems(tmp_path / "e" / "failures.csv")] == [str(image(bids, 3))]
    shutil.copy(image(bids, 4), image(bids, 3))  # it is still wrong, in another way: the image of another person
    os.utime(image(bids, 5), ns=(0, 0))
    run.prepare(bids, tmp_path / "f", **work)
    assert seen == [image(bids, 3).name, image(bids, 5).name]
    found = {Path(p.where).name: p.found for p in manifest.read_problems(tmp_path / "f" / "failures.csv")}
    assert set(found) == {image(bids, 3).name, image(bids, 4).name}
    seen.clear()
    run.prepare(bids, tmp_path / "g", work=tmp_path / "work", **QUICK, already=["bias"])
    assert len(seen) == 12  # another recipe


def test_an_entry_cut_short_by_a_kill_is_done_again(bids, tmp_path, monkeypatch):
    work = {**QUICK, "work": tmp_path / "work"}
    run.prepare(bids, tmp_path / "d", **work)
    entries = sorted((tmp_path / "work").rglob("*.json"))
    entries[0].write_text(entries[0].read_text()[:-9])
    entries[1].with_suffix(".npy").unlink()
    seen = prepared_now(monkeypatch)
    run.prepare(bids, tmp_path / "e", **work)
    assert len(seen) == 2


def test_every_scan_has_a_record(bids, tmp_path):
    card = run.prepare(bids, tmp_path / "d", **QUICK)
    data = records.open_dataset(tmp_path / "d")
    lines = [json.loads(line) for line in (tmp_path / "d" / "records.jsonl").read_text().splitlines()]
    assert [(r["subject"], r["session"], r["content_hash"]) for r in lines] == [
        (s.subject, s.session, s.content_hash) for s in data.scans
    ]
    assert {r["recipe_fingerprint"] for r in lines} == {card["recipe_fingerprint"]}
    assert lines[0]["versions"]["SimpleITK"]
    volume = records.Reader(data)[7]
    assert hashlib.sha256(volume.tobytes()).hexdigest() == lines[7]["volume_sha256"]
    assert card["records_sha256"] == records.file_sha256(tmp_path / "d" / "records.jsonl")


def test_a_study_that_cites_synthetic_mri_is_no_synthetic_study(bids, tmp_path):
    description = {"Name": "N", "ReferencesAndLinks": ["Video and Synthetic MRI Pre-training"]}
    (bids / "dataset_description.json").write_text(json.dumps(description))
    assert run.prepare(bids, tmp_path / "d", **QUICK)["synthetic"] is False
    assert run.prepare(bids, tmp_path / "e", **QUICK, synthetic=True)["synthetic"] is True
    (bids / "dataset_description.json").write_text('{"GeneratedBy": null}')
    assert run.prepare(bids, tmp_path / "f", **QUICK)["synthetic"] is False


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"ood_sites": ["Z"]}, "which no scan has"),
        ({"validation": 0.9}, "sum below 1"),
        ({"seed": -1}, "0 or more"),
        ({"workers": 0}, "1 or more"),
    ],
)
def test_bad_folds_are_told_before_any_scan_is_prepared(bids, tmp_path, keywords, message):
    with pytest.raises(InputError, match=message):
        run.prepare(bids, tmp_path / "d", progress=lambda *a: pytest.fail("began"), **keywords)


def test_a_description_that_is_no_object_is_told(bids, tmp_path):
    (bids / "dataset_description.json").write_text("[]")
    with pytest.raises(InputError, match=r"dataset_description.json: found a JSON list"):
        run.prepare(bids, tmp_path / "d")


def test_a_study_is_read_with_its_table_and_options(tmp_path):
    root = tmp_path / "oasis"
    for i in range(4):
        file = root / f"OAS3000{i}_MR_d0100" / "anat1" / f"sub-OAS3000{i}_ses-d0100_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        nib.save(brain(i), file)
    rows = "\n".join(f"OAS3000{i},{i * 100},{70 + i},0,Cognitively normal" for i in range(4))
    (tmp_path / "cdr.csv").write_text(f"ID,days_to_visit,age at visit,CDRTOT,dx1\n{rows}\n")
    card = run.prepare(
        root,
        tmp_path / "d",
        **QUICK,
        study="oasis3",
        table=tmp_path / "cdr.csv",
        columns={"subject": "ID"},
        options={"days": 100},
    )
    dataset = records.open_dataset(tmp_path / "d")
    assert [(s.subject, s.session, s.diagnosis) for s in dataset.scans] == [
        ("OAS30000", "d0100", "CN"),
        ("OAS30001", "d0100", "CN"),
        ("OAS30002", "d0100", "CN"),
        ("OAS30003", "d0100", "n/a"),
    ]
    assert card["name"] == "OASIS-3"
    assert "within 100 days" in card["inclusion"]


def test_a_held_out_site_does_not_go_with_published_folds(tmp_path):
    image = tmp_path / "study" / "sub-1_preproc-quasiraw_T1w.nii.gz"
    image.parent.mkdir()
    image.write_bytes(b"")
    (image.parent / "participants.tsv").write_text("participant_id\tsiteXacq\tsplit\n1\t3\ttrain\n")
    for flag, argument in (
        ("ood-site", {"ood_sites": ["3"]}),
        ("validation", {"validation": 0.2}),
        ("test", {"test": 0.0}),
    ):
        with pytest.raises(InputError, match=rf"--{flag}: found with the folds that OpenBHB publishes; .*folds=own"):
            run.prepare(tmp_path / "study", tmp_path / "d", **argument)


# ---- scans that end their process ---------------------------------------------------------------------------------
@pytest.fixture
def killer(tmp_path, monkeypatch):
    """A study of four heads, stripped by a tool that ends the process that calls it at the third, the largest."""
    tool = tmp_path / "bin" / "mri_synthstrip"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\n[ "$(stat -c %s "$2")" -gt 120000 ] && kill -9 $PPID\ncp "$2" "$4"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    rows = ["subject,path,age"]
    for i in range(4):
        shape = (40, 40, 40) if i == 2 else (24, 26, 22)  # 256 kB of noise, or 55
        voxels = np.random.default_rng(i).uniform(1, 900, shape).astype(np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([6.0, 6.0, 6.0, 1.0])), tmp_path / f"{i}.nii.gz")
        rows.append(f"s{i},{i}.nii.gz,{50 + i}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


STRIPPED = {"recipe": "quick40", "skip": ("bias", "register"), "stripper": "synthstrip"}


def told(out):
    return {Path(p.where).name: p.found for p in manifest.read_problems(out / "failures.csv")}


ENDED = {"2.nii.gz": "a process that was ended (signal 9), though it had this scan alone"}


def test_a_scan_that_ends_its_process_is_named_and_tried_again_in_the_next_run(killer):
    work = {**STRIPPED, "work": killer / "work", "workers": 2}
    assert run.prepare(killer / "t.csv", killer / "d", **work)["counts"]["scans"] == 3
    assert told(killer / "d") == ENDED
    (killer / "bin" / "mri_synthstrip").write_text('#!/bin/sh\ncp "$2" "$4"\n')
    assert run.prepare(killer / "t.csv", killer / "e", **work)["counts"] == {
        "scans": 4, "subjects": 4, "failures": 0, "mended": 0,
    }  # fmt: skip


def command(*arguments):
    return [sys.executable, "-m", "jaxneuro.cli", "prepare", *map(str, arguments), "--recipe", "quick40"]


def test_a_scan_that_ended_the_only_process_is_tried_apart_by_the_next_run(killer):
    whole = command(
        killer / "t.csv", "--out", killer / "d", "--workers", 1, "--strip", "synthstrip", "--skip", "bias",
        "--skip", "register",
    )  # fmt: skip
    assert subprocess.run(whole, check=False).returncode == -signal.SIGKILL
    assert len(list((killer / ".d.work").rglob("*.npy"))) == 2
    assert len(list((killer / ".d.work").rglob("*.began"))) == 1
    subprocess.run(whole, check=True)
    assert told(killer / "d") == ENDED
    assert not (killer / ".d.work").exists()


# ---- what is kept, and what is not --------------------------------------------------------------------------------
def interrupt(what, done, total):
    if done == 5:
        raise KeyboardInterrupt


def test_a_wrong_option_deletes_nothing_of_a_stopped_run(bids, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run.prepare(bids, tmp_path / "d", **QUICK, progress=interrupt)

    def refuse(*_):
        raise ScanError("a head", "a brain")

    with monkeypatch.context() as patched:
        patched.setattr(scan, "prepare", refuse)
        with pytest.raises(InputError, match="no usable scan"):
            run.prepare(bids, tmp_path / "d", **QUICK, already=["bias"])
    # Nor does a source without a usable image, with the same recipe; only its failures go.
    (tmp_path / "x.nii.gz").write_text("no image")
    (tmp_path / "t.csv").write_text("subject,path\np,x.nii.gz\n")
    with pytest.raises(InputError, match="no usable scan"):
        run.prepare(tmp_path / "t.csv", tmp_path / "d", **QUICK)
    assert len(list((tmp_path / ".d.work").rglob("*.npy"))) == 5
    # What a stopped run with another recipe has done outlives the dataset.
    with pytest.raises(KeyboardInterrupt):
        run.prepare(bids, tmp_path / "d", **QUICK, already=["bias"], progress=interrupt)
    seen = prepared_now(monkeypatch)
    run.prepare(bids, tmp_path / "d", **QUICK)
    assert len(seen) == 7
    assert len(list((tmp_path / ".d.work").rglob("*.npy"))) == 5


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_a_file_that_the_system_does_not_hand_out_is_tried_again(bids, tmp_path, monkeypatch, number):
    work = {**QUICK, "work": tmp_path / "work"}

    def load(path, real=nib.load):
        if path == str(image(bids, 3)):
            raise OSError(number, os.strerror(number))
        return real(path)

    with monkeypatch.context() as patched:
        patched.setattr(volumes.nibabel, "load", load)
        run.prepare(bids, tmp_path / "d", **work)
    assert told(tmp_path / "d") == {image(bids, 3).name: f"a file that cannot be read ({os.strerror(number)})"}
    assert run.prepare(bids, tmp_path / "e", **work)["counts"]["scans"] == 12


def test_what_a_tool_fails_at_is_tried_again(killer):
    tool = killer / "bin" / "mri_synthstrip"
    tool.write_text("#!/bin/sh\necho no licence >&2\nexit 7\n")
    with pytest.raises(InputError, match="mri_synthstrip that ended with status 7 and said: no licence"):
        run.prepare(killer / "t.csv", killer / "d", **STRIPPED, work=killer / "work")
    tool.write_text('#!/bin/sh\ncp "$2" "$4"\n')
    assert run.prepare(killer / "t.csv", killer / "d", **STRIPPED, work=killer / "work")["counts"]["scans"] == 4


def test_what_is_no_longer_whole_in_the_spool_is_done_again(bids, tmp_path, monkeypatch):
    work = {**QUICK, "work": tmp_path / "work"}
    card = run.prepare(bids, tmp_path / "d", **work)
    entries = sorted((tmp_path / "work").rglob("*.json"))
    volumes_ = [e.with_suffix(".npy") for e in entries]
    size = volumes_[0].stat().st_size
    assert size == 128 + 2 * 40**3  # the header of a .npy, and half floats
    data = bytearray(volumes_[0].read_bytes())
    middle = 128 + 2 * (20 * 40**2 + 20 * 40 + 20)
    assert any(data[middle : middle + 8])
    data[middle : middle + 8] = bytes(8)
    volumes_[0].write_bytes(data)
    volumes_[1].write_bytes(volumes_[1].read_bytes()[:-100])
    volumes_[2].write_bytes(b"")
    volumes_[3].write_bytes(bytes(size))
    np.save(volumes_[4], np.zeros((40, 40, 40, 1), np.float32))
    shutil.copy(volumes_[6], volumes_[5])
    for entry, text in zip(entries[7:], ("null", '{"record": {}}', '{"problem": 3}', "[" * 100_000), strict=False):
        entry.write_text(text)
    seen = prepared_now(monkeypatch)
    again = run.prepare(bids, tmp_path / "e", **work)
    assert len(seen) == 10
    assert again["shards"] == card["shards"]


def test_an_image_in_two_files_is_done_again_when_either_changes(tmp_path, monkeypatch):
    for i in range(2):
        nib.save(nib.Nifti1Pair(brain(i).get_fdata(dtype=np.float32), brain(i).affine), tmp_path / f"{i}.img")
    (tmp_path / "t.csv").write_text("subject,path\np,0.hdr\nq,1.img\n")
    work = {**QUICK, "work": tmp_path / "work"}
    run.prepare(tmp_path / "t.csv", tmp_path / "d", **work)
    seen = prepared_now(monkeypatch)
    run.prepare(tmp_path / "t.csv", tmp_path / "e", **work)
    assert seen == []
    os.utime(tmp_path / "0.img", ns=(0, 0))
    os.utime(tmp_path / "1.hdr", ns=(0, 0))
    run.prepare(tmp_path / "t.csv", tmp_path / "f", **work)
    assert seen == ["0.hdr", "1.img"]


# ---- the places that it writes to ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("out", "work", "message"),
    [
        ("d", "d", r"--work: found .*/d, in --out .*/d; expected another folder"),
        ("d", "d/w", r"--work: found .*/d/w, in --out .*/d; expected another folder"),
        ("d", "file", r"/file: found a file or a link .*; expected a folder .*; choose another --work"),
        ("link", None, r"/link: a link to nowhere, which is not there; expected no such name; remove it"),
        ("file/d", "w", r"/file/d: found the file .*/file; expected a folder to make the dataset in"),
    ],
)
def test_places_that_will_not_do_are_told_before_any_scan_is_prepared(bids, tmp_path, out, work, message):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=message):
        run.prepare(bids, tmp_path / out, **QUICK, work=work and tmp_path / work,
                    progress=lambda *_: pytest.fail("began"))  # fmt: skip
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_told_before_any_scan_is_prepared(bids, tmp_path, monkeypatch):
    def refuse(path, *rest, real=Path.mkdir, **more):
        if ".partial-" in path.name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError):
        run.prepare(bids, tmp_path / "d", **QUICK, work=tmp_path / "w", progress=lambda *_: pytest.fail("began"))


def test_a_cluster_that_does_not_answer_leaves_nothing_behind(bids, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(parallel, "_ANSWER_S", 1)
    with pytest.raises(InputError, match="no Dask scheduler"):
        run.prepare(bids, tmp_path / "d", **QUICK, cluster="tcp://127.0.0.1:9")
    assert [p.name for p in tmp_path.iterdir()] == ["bids"]


def test_a_second_preparation_of_one_dataset_is_refused(bids, tmp_path):
    told = []

    def second(what, done, total):
        if done == 1 and not told:
            with pytest.raises(
                InputError, match=rf"\.d\.work: is being filled by process {os.getpid()} on .*--out"
            ) as e:
                run.prepare(bids, tmp_path / "d", **QUICK)
            told.append(str(e.value))

    run.prepare(bids, tmp_path / "d", **QUICK, progress=second)
    assert "\n" not in told[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bids", "d"]


def test_sigterm_while_shards_are_written_leaves_what_is_done_and_a_kill_no_litter(bids, tmp_path):
    # A process that pauses as it writes the shards; it is told to end, then one is killed there.
    pausing = (
        "import sys, time; from jaxneuro import cli, records; add = records.Writer.add\n"
        "def paused(*a): add(*a); print('writing', flush=True); time.sleep(100)\n"
        "records.Writer.add = paused; sys.exit(cli.main(sys.argv[1:]))"
    )
    arguments = [
        "prepare", str(bids), "--out", str(tmp_path / "d"), "--recipe", "quick40", "--workers", "1",
        *(word for stage in recipes.STAGES for word in ("--skip", stage)),
    ]  # fmt: skip
    for number, code in ((signal.SIGTERM, os.EX_TEMPFAIL), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen(
            [sys.executable, "-c", pausing, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == code
        if number == signal.SIGTERM:
            assert err == (
                f"error: told to end while shards were written; the scans are kept in {tmp_path / '.d.work'}; the same "
                "command goes on\n"
            )
            assert sorted(p.name for p in tmp_path.iterdir()) == [".d.work", "bids"]
    mine = tmp_path / f".d.partial-{socket.gethostname()}-{process.pid}"
    assert mine.is_dir()
    others = [tmp_path / f".d.partial-elsewhere-{process.pid}", tmp_path / f".d.partial-{socket.gethostname()}-1"]
    for other in others:
        other.mkdir()  # of another machine, and of a process that runs
    run.prepare(bids, tmp_path / "d", **QUICK)
    assert sorted(tmp_path.iterdir()) == sorted([*others, bids, tmp_path / "d"])
