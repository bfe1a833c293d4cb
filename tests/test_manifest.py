"""The manifest: what is written is read back exactly, and no image stands under two subjects."""

import math
import os

from jaxneuro import manifest
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
