"""Which layout a folder has, by its marks alone, and what is said when none or several fit."""

import inspect
import os
from pathlib import Path

import pytest

from jaxneuro import sources
from jaxneuro.errors import InputError
from jaxneuro.verbs import scans

MARKS = {
    "bids": ["participants.tsv", "sub-01/anat/sub-01_T1w.nii.gz"],
    "adni": ["ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I1/1.nii"],
    "oasis1": ["disc1/OAS1_0001_MR1/RAW/1.hdr"],
    "oasis3": ["OAS30001_MR_d0129/anat2/1.nii.gz"],
    "ukb": ["1000223_20252_2_0/T1/T1.nii.gz"],
    "ldm100k": ["participants.tsv", "rawdata/sub-000001/anat/sub-000001_T1w.nii.gz"],
    "ppmi": ["3102/MPRAGE/2011-05-10_10_28_05.0/I1/1.nii"],
}


def layouts_of(path):
    return [name for name, layout in sources.READERS.items() if layout.looks_like(path)]


@pytest.mark.parametrize("name", MARKS)
def test_each_layout_bears_its_own_marks_alone(place, name):
    assert layouts_of(place(*MARKS[name])) == [name]


def test_openbhb_is_told_from_bids_by_its_table(place):
    root = place("sub-100/ses-1/sub-100_preproc-quasiraw_T1w.nii.gz")
    place("participants.tsv", text="participant_id\tsite\tsiteXacq\n100\t1\t1\n")
    assert layouts_of(root) == ["openbhb"]
    place("participants.tsv", text='"participant_id"\t"site"\t"siteXacq"\n"100"\t1\t1\n')
    assert layouts_of(root) == ["openbhb"]


def test_a_file_is_a_table(place):
    assert layouts_of(place("t.csv") / "t.csv") == ["table"]


def test_every_layout_is_covered_here():
    assert set(sources.READERS) == {*MARKS, "openbhb", "table"}


def test_detection_looks_at_no_more_than_names_at_the_top(place, monkeypatch):
    root = place(*(f"{100 + i}_S_{i:04}/MPRAGE/x/y/1.nii" for i in range(20)))
    listed = []
    real = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or real(path))
    monkeypatch.setattr(os, "scandir", lambda path: pytest.fail("walked"))
    assert layouts_of(root) == ["adni"]
    assert len(listed) < 15


def test_none_that_fits_lists_them_all(place):
    root = place("brains/1.nii", "readme.txt")
    with pytest.raises(InputError) as e:
        sources.read(root)
    line = str(e.value)
    assert line.startswith(f"{root}: found no layout that is known; expected one of: bids (")
    assert line.endswith("; or say which with --study")
    assert all(f"{name} ({layout.marks})" in line for name, layout in sources.READERS.items())
    assert "\n" not in line


def test_several_that_fit_ask_for_the_name(place):
    root = place(*MARKS["oasis3"], *MARKS["ukb"])
    with pytest.raises(InputError, match=r"found the marks of oasis3 and ukb; expected one layout; .* --study"):
        sources.read(root)
    place("OASIS3_UDSb4_cdr.csv", text="OASISID,days_to_visit,CDRTOT,dx1\nOAS30001,129,0,Cognitively normal\n")
    place("OAS30001_MR_d0129/anat2/sub-OAS30001_ses-d0129_T1w.nii.gz")
    assert [s.diagnosis for s in sources.read(root, "oasis3").scans] == ["CN"]


def test_dicom_of_no_layout_is_refused_with_the_command(place):
    root = place("patient/series/IM001")
    (root / "patient/series/IM001").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(InputError, match=r"series: found DICOM; .*; .* dcm2niix -z y -b y"):
        sources.read(root)


def test_what_a_layout_does_not_take_is_refused_as_it_is_typed(place):
    bids = place(*MARKS["bids"], "t.csv")
    for keywords, told in (
        ({"kind": "adnii"}, r"--study: found 'adnii'; expected one of \['bids', 'table', 'adni'"),
        ({"columns": {"group": "AGE"}}, r"--columns: found \['group'\]; expected names among \['age', 'sex', 'site'"),
        ({"table": bids / "t.csv"}, "--table: found with .*, of layout 'bids'"),
        ({"options": {"days": 3}}, r"--option: found \['days'\]; expected of layout 'bids': none"),
        ({"kind": "adni", "options": {"day": 3}}, r"expected of layout 'adni': \['days', 'converters', 'image', 'seq"),
        ({"kind": "adni", "options": {"table": "x"}}, r"--option: found \['table'\]"),
        ({"kind": "oasis3", "options": {"days": "x"}, "table": bids / "t.csv"}, "--option days: found 'x'"),
    ):
        with pytest.raises(InputError, match=told):
            sources.read(bids, **keywords)
    with pytest.raises(InputError, match="no such file or folder"):
        sources.read(bids / "nowhere")


def test_an_option_that_looks_like_a_number_may_be_a_word(place):
    place("ukb.csv", text="eid,31-0.0\n1000223,0\n")
    root = place("1000223_20252_2_0/T1/T1.nii.gz")
    with pytest.raises(InputError, match="--option withdrawn: 5 cannot be read"):
        sources.read(root, options={"withdrawn": 5})


def test_the_documentation_has_every_layout_and_option():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for name, layout in sources.READERS.items():
        assert text.count(f"`{name}`") >= 2, name
        for option in set(inspect.signature(layout.read).parameters) - {"root", "path", "table", "columns"}:
            assert f"{option}=" in text, option


def test_the_command_line_names_every_layout():
    assert scans.STUDIES.split(", ") == list(sources.READERS)
