"""What is found in a folder: in one order, within it, and DICOM with the command that converts it."""

import os
import re

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import tree

NIFTI = re.compile(tree.NIFTI)


def found(root, problems, **keywords):
    return [str(p.relative_to(root)) for p in tree.images(root, NIFTI, problems, **keywords)]


def test_images_come_in_the_order_of_names_at_any_depth_without_hidden_ones(place):
    root = place(
        "b/2.nii", "b/10.nii.gz", "a.nii", "c/d/é x.nii", "b/notes.txt", "b/._2.nii", ".git/1.nii", "b/x.nii.txt"
    )
    assert found(root, problems := []) == ["a.nii", "b/10.nii.gz", "b/2.nii", "c/d/é x.nii"]
    assert problems == []


def test_only_wanted_folders_are_visited_at_the_top(place):
    root = place("sub-1/sub-x/1.nii", "other/2.nii", "sub-2/other/3.nii")
    assert found(root, [], top=re.compile("^sub-")) == ["sub-1/sub-x/1.nii", "sub-2/other/3.nii"]


def test_links_are_followed_within_the_folder_alone(place, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (outside / "1.nii").write_text("")
    root = place("store/abc.nii", "people/s1/readme")
    (root / "people/s1/in.nii").symlink_to("../../store/abc.nii")
    (root / "people/s1/out.nii").symlink_to(outside / "1.nii")
    (root / "people/s1/out.txt").symlink_to(outside / "1.nii")  # nobody wants it
    (root / "people/s1/gone.nii").symlink_to("../../store/gone.nii")
    (root / "people/s2").symlink_to(outside)
    (root / "people/s3").symlink_to("s1", target_is_directory=True)
    problems = []
    assert found(root, problems) == ["people/s1/in.nii", "people/s3/in.nii", "store/abc.nii"]
    lines = [str(p) for p in problems]
    assert f"people/s1/out.nii: found a link out of {root}, to {outside / '1.nii'}; expected images" in lines[1]
    assert f"people/s1/gone.nii: found a link to {root / 'store/gone.nii'}, which is not there" in lines[0]
    assert f"people/s2: found a link out of {root}, to {outside}" in lines[2]
    assert [p.where for p in problems[3:]] == ["people/s3/gone.nii", "people/s3/out.nii"]


def test_links_that_run_in_circles_end(place):
    root = place("a/1.nii", "b/2.nii")
    (root / "a/up").symlink_to("..", target_is_directory=True)
    (root / "a/x").symlink_to("../b", target_is_directory=True)
    (root / "b/y").symlink_to("../a", target_is_directory=True)
    (root / "a/self.nii").symlink_to("self.nii")
    names = found(root, problems := [])
    assert {"a/1.nii", "a/x/2.nii", "b/2.nii", "b/y/1.nii"} <= set(names)
    assert len(names) < 20
    assert any(p.where == "a/up" and "which holds it" in p.found for p in problems)
    assert any(p.where == "a/self.nii" for p in problems)


def test_a_folder_that_cannot_be_read_is_told(place, monkeypatch):
    root = place("a/1.nii", "b/2.nii")
    scan = os.scandir

    def refuse(folder):
        if os.fspath(folder).endswith("/a"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert found(root, problems := []) == ["b/2.nii"]
    assert str(problems[0]).startswith("a: found a folder that cannot be read (Permission denied)")


def test_the_order_does_not_depend_on_the_file_system(place, monkeypatch):
    root = place("b/1.nii", "a/1.nii", "a/2.nii", "c/1.nii")
    straight = found(root, [])

    class Backwards:
        def __init__(self, folder):
            with scan(folder) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    scan = os.scandir
    monkeypatch.setattr(os, "scandir", Backwards)
    assert found(root, []) == straight


def test_dicom_alone_is_refused_with_the_command_that_converts_it(place):
    root = place("s1/a b/notes.txt", "s2/x.DCM")
    (root / "s1/a b/000001").write_bytes(bytes(128) + b"DICM" + bytes(10))
    (root / "s1/a b/notes.txt").unlink()
    with pytest.raises(InputError) as e:
        found(root, [])
    folder = root / "s1/a b"
    told = f"{folder}: found DICOM; expected NIfTI; convert it where it lies and prepare again: "
    assert str(e.value) == f"{told}dcm2niix -z y -b y -f %f_%s -o '{folder}' '{folder}', and so for 1 more folder"


def test_dicom_beside_nifti_is_told_once_and_converted_dicom_not_at_all(place):
    root = place("a/1.dcm", "a/1.nii.gz", "b/1.dcm", "c/d/1.dcm")
    assert found(root, problems := []) == ["a/1.nii.gz"]
    assert [(p.where, p.found) for p in problems] == [("b", "DICOM, as in 1 more folder")]
    assert f"dcm2niix -z y -b y -f %f_%s -o '{root / 'b'}'" in problems[0].hint


def test_first_dicom_gives_up_in_a_large_tree(place, monkeypatch):
    root = place(*(f"{i}/readme.txt" for i in range(9)), "z/1.dcm")
    assert tree.first_dicom(root) == root / "z"
    monkeypatch.setattr(tree, "_LOOKS", 5)
    assert tree.first_dicom(root) is None


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        tree.images(tmp_path / "x", NIFTI, [])
    assert tree.names(tmp_path / "x") == []
    assert tree.header(tmp_path / "x") == []
