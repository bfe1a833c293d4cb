"""Folder to shards: good scans in, bad ones on record, the same bytes for any number of workers."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from jaxneuro import manifest, records
from jaxneuro.errors import InputError
from jaxneuro.prepare import recipes, run, scan

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
