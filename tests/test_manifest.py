"""The manifest: what is written is read back exactly, and no image stands under two subjects."""

import math
import os

import pytest

from jaxneuro import manifest
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan


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


def test_file_names_that_are_not_utf8_are_read_back_exactly_and_can_be_printed(tmp_path):
    path = os.fsdecode(b"d\xff/a.nii")
    manifest.write(tmp_path / "m.csv", [Scan("s", path=path)])
    assert manifest.read(tmp_path / "m.csv")[0].path == path
    problems = [manifest.Problem(path, "x", "y")]
    manifest.write_problems(tmp_path / "p.csv", problems)
    assert manifest.read_problems(tmp_path / "p.csv") == problems
    assert str(problems[0]) == r"d\udcff/a.nii: found x; expected y"


@pytest.mark.parametrize(
    ("spellings", "plain"),
    [
        (("1", "001", "sub-001", "1.0", "SUB-1", "sub-1.00"), "1"),
        (("S1", "s1", "sub-s1"), "s1"),
        (("0", "000", "sub-0"), "0"),
        (("002_S_0295", "2_s_0295"), "2_s_0295"),
        (("v1.0",), "v1.0"),
        (("10", "010"), "10"),
        (("ldm-sub-001",), "ldm-sub-001"),
    ],
)
def test_a_person_is_one_in_every_spelling(spellings, plain):
    assert {manifest.person(s) for s in spellings} == {plain}


def test_two_spellings_of_one_person_are_refused_by_name():
    manifest.check_spellings([Scan("1", "a"), Scan("1", "b"), Scan("2"), Scan("S1"), Scan("10")], "t.csv")
    with pytest.raises(InputError, match=r"^t\.csv: found subjects '001' and '1'; expected one spelling"):
        manifest.check_spellings([Scan("1"), Scan("2"), Scan("001")], "t.csv")
    with pytest.raises(InputError, match=r"subjects '7' and 'sub-7' \(and 1 more such people\)"):
        manifest.check_spellings([Scan(s) for s in ("S1", "7", "s1", "sub-7")], "t.csv")


def test_rows_between_two_stray_quotes_are_told(tmp_path):
    t = tmp_path / "t.csv"
    t.write_text('subject,path,diagnosis\nA,a,"CN\nB,b,AD\nC,c,CN"\nD,d,"a note\nof two lines"\nE,e,MCI\n')
    _, rows = manifest.read_table(t, problems := [])
    assert [(row["subject"], row["diagnosis"]) for _, row in rows] == [("D", "a note\nof two lines"), ("E", "MCI")]
    assert [(p.where, p.found, p.dropped) for p in problems] == [
        (f"{t} line 4", "a cell with a line break and whole rows in it", True)
    ]
    t.write_text('subject,path,diagnosis\nA,"a,CN\nB,b",AD\nC,c,CN\n')
    _, rows = manifest.read_table(t, problems := [])
    assert [row["subject"] for _, row in rows] == ["C"]
    assert [p.where for p in problems] == [f"{t} line 3"]


def test_the_quotes_that_r_writes_into_a_tsv_are_no_part_of_its_cells(tmp_path):
    t = tmp_path / "t.tsv"
    t.write_text('"participant_id"\t"Age"\t"group"\n"sub-1"\t70\t"CN"\n"sub-2"\t""\t"CN\n"\t71\t5"\n')
    header, rows = manifest.read_table(t, problems := [])
    assert header == ["participant_id", "age", "group"]
    assert [list(row.values()) for _, row in rows] == [["sub-1", "70", "CN"], ["sub-2", "", '"CN'], ['"', "71", '5"']]
    assert problems == []


def test_a_number_has_no_underscore():
    assert manifest.from_missing(" 70.5 ") == 70.5
    assert math.isnan(manifest.from_missing("n/a"))
    with pytest.raises(ValueError, match="'7_0' is no number"):
        manifest.from_missing("7_0")


@pytest.mark.parametrize("prefix", ["a,b", "a\nb", "\x1b[1m", "sub-", "0", "00", "Sub-"])
def test_a_prefix_that_would_break_a_line_or_tell_nobody_apart_is_refused(prefix):
    with pytest.raises(InputError, match=r"^--subject-prefix: found .* expected letters, digits and signs[^\n]*$"):
        manifest.rename([Scan("1")], prefix)


def test_a_prefix_stands_before_every_subject():
    assert [s.subject for s in manifest.rename([Scan("1"), Scan("sub-1")], "ldm-")] == ["ldm-1", "ldm-sub-1"]
    assert manifest.rename([Scan("1")], "") == [Scan("1")]
