"""What is read from a BIDS tree, and that every oddity is on record."""

import math

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import bids as reader


def read_bids(root):
    found = reader.read(root)
    return found.scans, found.problems


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
    scans, _ = read_bids(bids)
    rows = [(s.subject, s.session, s.site, s.sex, s.diagnosis) for s in scans]
    assert rows == [
        ("sub-1", "ses-1", "A", "F", "CN"),
        ("sub-1", "ses-2", "A", "F", "AD"),
        ("sub-2", "", "B", "M", "AD"),
    ]
    assert [s.age for s in scans[:2]] == [70.5, 72.0]
    assert math.isnan(scans[2].age)


def test_bids_problems_name_the_row_and_tell_what_was_expected(bids):
    _, problems = read_bids(bids)
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
    scans, problems = read_bids(bids)
    assert len(scans) == 3
    text = "\n".join(map(str, problems))
    assert "sub-9/anat/sub-9_T1w.nii.gz: found a file with no row" in text
    assert "sub-1/anat/sub-2_T1w.nii.gz: found a name that does not fit its folder" in text


def test_bids_file_without_the_session_of_its_folder_is_told(bids):
    misfits = [
        "sub-1/ses-3/anat/sub-1_T1w.nii.gz",
        "sub-1/ses-3/anat/sub-1_ses-1_T1w.nii.gz",
        "sub-1/anat/sub-1_ses-4_T1w.nii.gz",
        "sub-2/sub-2_ses-1_T1w.nii.gz",
        "sub-2_T1w.nii.gz",
    ]
    for name in misfits:
        (bids / name).parent.mkdir(parents=True, exist_ok=True)
        (bids / name).write_bytes(b"")
    scans, problems = read_bids(bids)
    assert [s.name for s in scans] == ["sub-1 ses-1", "sub-1 ses-2", "sub-2"]
    assert {p.where for p in problems if p.found == "a name that does not fit its folder"} == set(misfits)


def test_bids_duplicate_participant_is_left_out_and_the_rest_goes_on(bids):
    with open(bids / "participants.tsv", "a") as f:
        f.write("sub-1\tM\tA\tAD\t50\n")
    scans, problems = read_bids(bids)
    assert {s.subject for s in scans} == {"sub-2"}
    assert any("sub-1: found 2 rows; expected one row a subject" in str(p) for p in problems)
    assert not any("a file with no row" in str(p) for p in problems)


def test_bids_second_image_of_a_session_is_reported(bids):
    (bids / "sub-1/ses-1/anat/sub-1_ses-1_run-2_T1w.nii.gz").write_bytes(b"")
    scans, problems = read_bids(bids)
    assert len(scans) == 3
    assert sum("a second T1w image of one session" in str(p) for p in problems) == 1


def test_the_age_of_the_subject_is_that_of_the_first_session_alone(bids):
    (bids / "sub-1/sub-1_sessions.tsv").write_text("session_id\tdiagnosis\nses-1\tCN\nses-2\tAD\n")
    for session in ("ses-10", "ses-9"):
        file = bids / f"sub-2/{session}/anat/sub-2_{session}_T1w.nii.gz"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"")
    (bids / "sub-2/anat/sub-2_T1w.nii.gz").unlink()
    text = (bids / "participants.tsv").read_text()
    (bids / "participants.tsv").write_text(text.replace("unknown", "80"))
    scans, problems = read_bids(bids)
    assert [(s.name, "" if math.isnan(s.age) else s.age, s.diagnosis) for s in scans] == [
        ("sub-1 ses-1", 70.5, "CN"),
        ("sub-1 ses-2", "", "AD"),
        ("sub-2 ses-10", "", "AD"),
        ("sub-2 ses-9", 80, "AD"),
    ]
    assert [(p.where, p.found, p.dropped) for p in problems[:2]] == [
        ("sub-1/ses-2/anat/sub-1_ses-2_T1w.nii.gz", "age 70.5 of participants.tsv, of the first session", False),
        ("sub-2/ses-10/anat/sub-2_ses-10_T1w.nii.gz", "age 80 of participants.tsv, of the first session", False),
    ]
    # A session without an image may have been the first, too.
    (bids / "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii.gz").unlink()
    scans, _ = read_bids(bids)
    assert (scans[0].session, math.isnan(scans[0].age)) == ("ses-2", True)


def test_labels_under_other_names_are_told_and_taken_where_they_are_named(bids):
    text = (bids / "participants.tsv").read_text()
    names = "participant_id\tGender\tsite\tgroup\tage_years\n"
    (bids / "participants.tsv").write_text(text.replace("participant_id\tsex\tsite\tdiagnosis\tage\n", names))
    (bids / "sub-1/sub-1_sessions.tsv").write_text("session_id\tgroup\nses-1\tn/a\nses-2\tAD\n")
    scans, problems = read_bids(bids)
    assert [(s.sex, s.diagnosis) for s in scans] == [("n/a", "n/a")] * 3
    columns = "['participant_id', 'Gender', 'site', 'group', 'age_years', 'session_id']"
    assert (problems[0].where, problems[0].found, problems[0].dropped) == (
        str(bids / "participants.tsv"),
        f"no column of diagnosis, sex, age among {columns}",
        False,
    )
    named = {"sex": "gender", "diagnosis": "group", "age": "age_years"}
    found = reader.read(bids, columns=named)
    assert [(s.sex, s.diagnosis) for s in found.scans] == [("F", "CN"), ("F", "AD"), ("M", "AD")]
    assert found.scans[0].age == 70.5
    assert not any("no column" in p.found for p in found.problems)
    with pytest.raises(InputError, match=r"found columns \['participant_id', .*; expected dx for diagnosis, here"):
        reader.read(bids, columns={"diagnosis": "dx"})
    with pytest.raises(InputError, match=r"--columns: found \['subject'\]; expected names among"):
        reader.read(bids, columns={"subject": "x"})


def test_bids_top_level_sessions_table(bids):
    (bids / "sessions.tsv").write_text("participant_id\tsession_id\tage\nsub-2\t\t81\n")
    scans, _ = read_bids(bids)
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
        read_bids(tmp_path)


def test_bids_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_bids(tmp_path / "nowhere")


def test_an_unbalanced_quote_swallows_no_row(bids):
    text = (bids / "participants.tsv").read_text().replace("\tCN\t", '\t"CN\t')
    (bids / "participants.tsv").write_text(text)
    scans, _ = read_bids(bids)
    assert [s.diagnosis for s in scans] == ['"CN', "AD", "AD"]


def test_a_sessions_row_that_matches_nothing_is_reported(bids):
    (bids / "sessions.tsv").write_text("participant_id\tsession_id\tdiagnosis\n1\tses-1\tAD\n")
    _, problems = read_bids(bids)
    assert any("sessions.tsv 1 ses-1: found a row with no file" in str(p) for p in problems)


def test_links_out_of_the_tree_and_dicom_are_told(bids, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.nii.gz"
    elsewhere.write_bytes(b"")
    (bids / "sub-3/anat").mkdir(parents=True)
    (bids / "sub-3/anat/sub-3_T1w.nii.gz").symlink_to(elsewhere)
    (bids / "sub-2/dicom").mkdir()
    (bids / "sub-2/dicom/1.dcm").write_bytes(b"")
    (bids / "sourcedata").mkdir()
    (bids / "sourcedata/1.dcm").write_bytes(b"")
    scans, problems = read_bids(bids)
    assert len(scans) == 3
    found = {p.where: p.found for p in problems}
    assert found["sub-3/anat/sub-3_T1w.nii.gz"] == f"a link out of {bids}, to {elsewhere}"
    assert found["sub-2/dicom"] == "DICOM"
    assert "sourcedata" not in found


def test_its_marks(bids):
    assert reader.looks_like(bids)
    assert not reader.looks_like(bids / "sub-1")
    (bids / "participants.tsv").rename(bids / "dataset_description.json")
    assert reader.looks_like(bids)
