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
    with pytest.raises(InputError, match=r"^t\.csv: found subjects '001' and '1'; expected one spelling of one person;"):
        manifest.check_spellings([Scan("1"), Scan("2"), Scan("001")], "t.csv")
    with pytest.raises(InputError, match=r"subjects '7' and 'sub-7' \(and 1 more such people\)"):
        manifest.check_spellings([Scan(s) for s in ("S1", "7", "s1", "sub-7")], "t.csv")
