"""What is read from a table of scans, and that every oddity is on record."""

import math

import pytest

from jaxneuro import manifest, sources
from jaxneuro.errors import InputError
from jaxneuro.sources import table


def read_csv(path, columns=None):
    found = table.read(path, columns)
    return found.scans, found.problems


def test_csv_with_named_columns(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(
        "PTID,AGE,DX,file\n002_S_1,71.25,MCI,a.nii\n003_S_2,300,CN,a.nii\n004,1,CN,b.nii\n,1,CN,a.nii\n"
    )
    scans, problems = read_csv(tmp_path / "t.csv", {"subject": "PTID", "age": "AGE", "diagnosis": "DX", "path": "file"})
    assert [(s.subject, s.diagnosis) for s in scans] == [("002_S_1", "MCI"), ("003_S_2", "CN")]
    assert scans[0].age == 71.25
    assert math.isnan(scans[1].age)
    text = [str(p) for p in problems]
    assert "line 3: found age '300'" in text[0]
    assert "line 4: found path 'b.nii'; expected an image file" in text[1]
    assert "line 5: found no subject" in text[2]


def test_labels_without_a_column_are_told_where_others_are_there(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text("subject,path,DX,gender,age\ns1,a.nii,CN,F,70\n")
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [(s.diagnosis, s.sex, s.age) for s in scans] == [("n/a", "n/a", 70)]
    assert [(str(p), p.dropped) for p in problems] == [
        (
            f"{tmp_path / 't.csv'}: found no column of diagnosis, sex among ['subject', 'path', 'DX', 'gender', "
            "'age']; expected one each; name yours with --columns diagnosis=NAME; kept with diagnosis, sex missing",
            False,
        )
    ]
    scans, problems = read_csv(tmp_path / "t.csv", {"diagnosis": "DX", "sex": "gender"})
    assert [(s.diagnosis, s.sex) for s in scans] == [("CN", "F")]
    assert problems == []


def test_csv_duplicate_rows_are_all_left_out(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text("subject,session,path\ns1,1,a.nii\ns1,1,a.nii\ns2,1,a.nii\n")
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [s.subject for s in scans] == ["s2"]
    assert len(problems) == 2
    assert "s1 1 in 2 rows" in str(problems[0])


def test_csv_missing_column_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("subject,file\ns1,a.nii\n")
    with pytest.raises(InputError, match=r"expected \['path'\] too"):
        read_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="expected names among"):
        read_csv(tmp_path / "t.csv", {"pth": "file"})


def test_spaces_and_case_make_no_second_person(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(" Subject,session, AGE ,path\ns0,1,70,a.nii\ns0 ,2, 71 ,a.nii\n")
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [(s.subject, s.session, s.age) for s in scans] == [("s0", "1", 70.0), ("s0", "2", 71.0)]
    assert problems == []


def test_a_ragged_row_and_an_endless_path_are_left_out(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(f"subject,path\ns0,a.nii,\ns1,a.nii\ns2,{'x' * 5000}\n")
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [s.subject for s in scans] == ["s1"]
    assert "line 2: found 3 columns; expected 2" in str(problems[0])
    assert len(problems) == 2


def test_control_characters_are_refused_in_identifiers_and_paths_and_blanks_in_labels(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    with open(tmp_path / "t.csv", "w", newline="") as f:
        f.write(
            'subject,session,site,path\n"s0\r",1,"A\rB",a.nii\n"s\r1",1,A,a.nii\ns2,"m\n6",A,a.nii\ns3,1,A,a\0.nii\n'
        )
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [(s.subject, s.site) for s in scans] == [("s0", "A B")]
    assert [p.found for p in problems] == [r"subject 's\r1'", r"session 'm\n6'", r"path 'a\x00.nii'"]
    manifest.write(tmp_path / "m.csv", scans)
    assert [s.subject for s in manifest.read(tmp_path / "m.csv")] == ["s0"]


def test_sessions_that_are_called_like_views_of_a_video_are_refused(tmp_path):
    """Else `view-01` of the table would be read as the second view of a video, and averaged with its neighbours."""
    for name in "abcd":
        (tmp_path / f"{name}.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text(
        "subject,session,path\ns0,view-01,a.nii\ns0,m12_view-7,b.nii\ns0,view,c.nii\ns1,review-01,d.nii\n"
    )
    scans, problems = read_csv(tmp_path / "t.csv")
    assert [s.session for s in scans] == ["view", "review-01"]
    assert [(p.where.rsplit(" ", 1)[1], p.found) for p in problems] == [
        ("2", "session 'view-01'"), ("3", "session 'm12_view-7'"),
    ]  # fmt: skip


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_csv(tmp_path)


def test_an_underscore_is_no_part_of_an_age(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text("subject,path,age\ns1,a.nii,7_0\n")
    scans, problems = read_csv(tmp_path / "t.csv")
    assert math.isnan(scans[0].age)
    assert [p.found for p in problems] == ["age '7_0'"]


def test_one_person_in_two_spellings_is_refused(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "t.csv").write_text("subject,session,path\n1,a,a.nii\nsub-001,b,a.nii\n")
    with pytest.raises(InputError, match=r"t\.csv: found subjects '1' and 'sub-001'; expected one spelling"):
        sources.read(tmp_path / "t.csv")
