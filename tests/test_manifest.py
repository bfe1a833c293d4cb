"""The manifest: what is read from BIDS and CSV, and that every oddity is on record."""

import math
import os

import pytest

from jaxneuro import manifest
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan


@pytest.fixture
def bids(tmp_path):
    """A tree of three subjects: two sessions, one session without a ses- folder, one row without a file."""
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tsex\tsite\tdiagnosis\tage\n"
        "sub-1\tF\tA\tCN\t70.5\n"
        "sub-2\tmale\tB\tAD\tunknown\n"
        "sub-3\tM\tB\tAD\t60\n"
    )
    for name in ("sub-1/ses-1/anat/sub-1_ses-1", "sub-1/ses-2/anat/sub-1_ses-2", "sub-2/anat/sub-2"):
        file = tmp_path / f"{name}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    (tmp_path / "sub-1" / "sub-1_sessions.tsv").write_text(
        "session_id\tage\tdiagnosis\nses-1\t70.5\tn/a\nses-2\t72.0\tAD\n"
    )
    return tmp_path


def test_bids_rows_take_session_values_over_participant_values(bids):
    scans, _ = manifest.read_bids(bids)
    rows = [(s.subject, s.session, s.site, s.sex, s.diagnosis) for s in scans]
    assert rows == [
        ("sub-1", "ses-1", "A", "F", "CN"),
        ("sub-1", "ses-2", "A", "F", "AD"),
        ("sub-2", "", "B", "M", "AD"),
    ]
    assert [s.age for s in scans[:2]] == [70.5, 72.0]
    assert math.isnan(scans[2].age)


def test_bids_problems_name_the_row_and_tell_what_was_expected(bids):
    _, problems = manifest.read_bids(bids)
    lines = [str(p) for p in problems]
    assert len(lines) == 2
    assert "sub-2_T1w.nii.gz: found age 'unknown'; expected years between 0 and 120" in lines[0]
    assert not problems[0].dropped
    assert "sub-3: found a row with no file; expected sub-3/**/sub-3_*T1w.nii.gz" in lines[1]
    assert problems[1].dropped


def test_bids_file_without_row_and_misplaced_file_are_left_out(bids):
    for name in ("sub-9/anat/sub-9_T1w.nii.gz", "sub-1/anat/sub-2_T1w.nii.gz"):
        file = bids / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
    scans, problems = manifest.read_bids(bids)
    assert len(scans) == 3
    text = "\n".join(map(str, problems))
    assert "sub-9/anat/sub-9_T1w.nii.gz: found a file with no row" in text
    assert "sub-1/anat/sub-2_T1w.nii.gz: found a name that does not fit its folder" in text


def test_bids_duplicate_participant_is_left_out_and_the_rest_goes_on(bids):
    with open(bids / "participants.tsv", "a") as f:
        f.write("sub-1\tM\tA\tAD\t50\n")
    scans, problems = manifest.read_bids(bids)
    assert {s.subject for s in scans} == {"sub-2"}
    assert any("sub-1: found 2 rows; expected one row a subject" in str(p) for p in problems)
    assert not any("a file with no row" in str(p) for p in problems)


def test_bids_second_image_of_a_session_is_reported(bids):
    (bids / "sub-1/ses-1/anat/sub-1_ses-1_run-2_T1w.nii.gz").write_bytes(b"")
    scans, problems = manifest.read_bids(bids)
    assert len(scans) == 3
    assert sum("a second T1w image of one session" in str(p) for p in problems) == 1


def test_bids_top_level_sessions_table(bids):
    (bids / "sessions.tsv").write_text("participant_id\tsession_id\tage\nsub-2\t\t81\n")
    scans, _ = manifest.read_bids(bids)
    assert scans[2].age == 81


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "the table is empty"),
        ("id\tage\n", "expected participant_id"),
        ("participant_id\tage\tage\n", "more than once"),
    ],
)
def test_bids_unusable_participants_table(tmp_path, text, message):
    if text is not None:
        (tmp_path / "participants.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        manifest.read_bids(tmp_path)


def test_bids_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        manifest.read_bids(tmp_path / "nowhere")


def test_csv_with_named_columns(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(
        "PTID,AGE,DX,file\n002_S_1,71.25,MCI,a.nii\n003_S_2,300,CN,a.nii\n004,1,CN,b.nii\n,1,CN,a.nii\n"
    )
    scans, problems = manifest.read_csv(
        tmp_path / "t.csv", {"subject": "PTID", "age": "AGE", "diagnosis": "DX", "path": "file"}
    )
    assert [(s.subject, s.diagnosis) for s in scans] == [("002_S_1", "MCI"), ("003_S_2", "CN")]
    assert scans[0].age == 71.25
    assert math.isnan(scans[1].age)
    text = [str(p) for p in problems]
    assert "line 3: found age '300'" in text[0]
    assert "line 4: found path 'b.nii'; expected an image file" in text[1]
    assert "line 5: found no subject" in text[2]


def test_csv_duplicate_rows_are_all_left_out(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text("subject,session,path\ns1,1,a.nii\ns1,1,a.nii\ns2,1,a.nii\n")
    scans, problems = manifest.read_csv(tmp_path / "t.csv")
    assert [s.subject for s in scans] == ["s2"]
    assert len(problems) == 2
    assert "s1 1 in 2 rows" in str(problems[0])


def test_csv_missing_column_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("subject,file\ns1,a.nii\n")
    with pytest.raises(InputError, match=r"expected \['path'\] too"):
        manifest.read_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="expected names among"):
        manifest.read_csv(tmp_path / "t.csv", {"pth": "file"})


def test_written_manifest_is_read_back_exactly(tmp_path):
    scans = [
        Scan("sub-1", "ses-1", "A", 70.1, "F", "CN", "a b/ü.nii.gz", "00ff"),
        Scan("s,2", "", "n/a", math.nan, "n/a", "n/a", "x.nii", ""),
    ]
    manifest.write(tmp_path / "m.csv", scans)
    back = manifest.read(tmp_path / "m.csv")
    assert back[0] == scans[0]
    assert back[1].subject == "s,2"
    assert math.isnan(back[1].age)


def test_problems_are_read_back_exactly(tmp_path):
    problems = [manifest.Problem("a, b", "x", "y", "z", False), manifest.Problem("c", "d", "e")]
    manifest.write_problems(tmp_path / "p.csv", problems)
    assert manifest.read_problems(tmp_path / "p.csv") == problems


def test_one_image_under_two_subjects_loses_both():
    scans = [
        Scan("a", path="1", content_hash="h1"),
        Scan("b", path="2", content_hash="h1"),
        Scan("c", path="3", content_hash="h2"),
        Scan("d", path="4", content_hash=""),
        Scan("e", path="5", content_hash=""),
    ]
    kept, problems = manifest.drop_shared_images(scans)
    assert [s.subject for s in kept] == ["c", "d", "e"]
    assert [p.where for p in problems] == ["1", "2"]
    assert "the same image as b" in problems[0].found


def test_spaces_and_case_make_no_second_person(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(" Subject,session, AGE ,path\ns0,1,70,a.nii\ns0 ,2, 71 ,a.nii\n")
    scans, problems = manifest.read_csv(tmp_path / "t.csv")
    assert [(s.subject, s.session, s.age) for s in scans] == [("s0", "1", 70.0), ("s0", "2", 71.0)]
    assert problems == []


def test_a_ragged_row_and_an_endless_path_are_left_out(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(f"subject,path\ns0,a.nii,\ns1,a.nii\ns2,{'x' * 5000}\n")
    scans, problems = manifest.read_csv(tmp_path / "t.csv")
    assert [s.subject for s in scans] == ["s1"]
    assert "line 2: found 3 columns; expected 2" in str(problems[0])
    assert len(problems) == 2


def test_an_unbalanced_quote_swallows_no_row(bids):
    text = (bids / "participants.tsv").read_text().replace("\tCN\t", '\t"CN\t')
    (bids / "participants.tsv").write_text(text)
    scans, _ = manifest.read_bids(bids)
    assert [s.diagnosis for s in scans] == ['"CN', "AD", "AD"]


def test_a_sessions_row_that_matches_nothing_is_reported(bids):
    (bids / "sessions.tsv").write_text("participant_id\tsession_id\tdiagnosis\n1\tses-1\tAD\n")
    _, problems = manifest.read_bids(bids)
    assert any("sessions.tsv 1 ses-1: found a row with no file" in str(p) for p in problems)


def test_control_characters_are_refused_in_identifiers_and_paths_and_blanks_in_labels(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    with open(tmp_path / "t.csv", "w", newline="") as f:
        f.write(
            'subject,session,site,path\n"s0\r",1,"A\rB",a.nii\n"s\r1",1,A,a.nii\ns2,"m\n6",A,a.nii\ns3,1,A,a\0.nii\n'
        )
    scans, problems = manifest.read_csv(tmp_path / "t.csv")
    assert [(s.subject, s.site) for s in scans] == [("s0", "A B")]
    assert [p.found for p in problems] == [r"subject 's\r1'", r"session 'm\n6'", r"path 'a\x00.nii'"]
    manifest.write(tmp_path / "m.csv", scans)
    assert [s.subject for s in manifest.read(tmp_path / "m.csv")] == ["s0"]


def test_file_names_that_are_not_utf8_are_read_back_exactly_and_can_be_printed(tmp_path):
    path = os.fsdecode(b"d\xff/a.nii")
    manifest.write(tmp_path / "m.csv", [Scan("s", path=path)])
    assert manifest.read(tmp_path / "m.csv")[0].path == path
    problems = [manifest.Problem(path, "x", "y")]
    manifest.write_problems(tmp_path / "p.csv", problems)
    assert manifest.read_problems(tmp_path / "p.csv") == problems
    assert str(problems[0]) == r"d\udcff/a.nii: found x; expected y"


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        manifest.read_csv(tmp_path)
