"""OASIS-1: CDR, the young without one, second sessions, kinds of image, and Analyze images that are not guessed."""

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import oasis1

TABLE = """\
ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay
OAS1_0001_MR1,F,R,74,2,3,29,0,1344,0.743,1.306,N/A
OAS1_0003_MR1,F,R,73,4,3,27,0.5,1454,0.708,1.207,N/A
OAS1_0061_MR1,F,R,20,,,,,1538,0.837,1.142,N/A
OAS1_0061_MR2,F,R,N/A,,,,,1538,0.837,1.142,25
"""


def processed(session, ending="nii.gz", disc="disc1"):
    return f"{disc}/{session}/PROCESSED/MPRAGE/T88_111/{session}_mpr_n4_anon_111_t88_masked_gfc.{ending}"


def raw(session, n=1, ending="nii.gz"):
    return f"disc1/{session}/RAW/{session}_mpr-{n}_anon.{ending}"


ALL = ("OAS1_0001_MR1", "OAS1_0003_MR1", "OAS1_0061_MR1", "OAS1_0061_MR2")


@pytest.fixture
def study(place):
    place("oasis_cross-sectional.csv", text=TABLE)
    root = place(*(processed(s) for s in ALL))
    return place(f"disc1/{ALL[0]}/FSL_SEG/{ALL[0]}_mpr_n4_anon_111_t88_masked_gfc_fseg.nii.gz") and root


def test_cdr_gives_the_diagnosis_and_the_young_have_none(study):
    found = oasis1.read(study)
    assert found.problems == []
    assert [(s.subject, s.session, s.age, s.sex, s.diagnosis) for s in found.scans] == [
        ("OAS1_0001", "MR1", 74, "F", "CN"),
        ("OAS1_0003", "MR1", 73, "F", "AD"),
        ("OAS1_0061", "MR1", 20, "F", "n/a"),
        ("OAS1_0061", "MR2", 20 + 25 / 365.25, "F", "n/a"),
    ]
    assert found.already == {"bias", "strip", "register"}
    assert (found.name, found.synthetic) == ("OASIS-1", False)
    assert [s.diagnosis for s in oasis1.read(study, young="CN").scans] == ["CN", "AD", "CN", "CN"]


def test_the_old_without_cdr_are_no_controls(study, place):
    place(
        "oasis_cross-sectional.csv", text=TABLE.replace("74,2,3,29,0,", "60,2,3,29,,").replace("73,4,3,27,0.5", "x,,,,")
    )
    scans = oasis1.read(study, young="CN").scans
    assert [s.diagnosis for s in scans] == ["n/a", "n/a", "CN", "CN"]


@pytest.mark.parametrize("cdr", ["mild", "5", "-1"])
def test_a_cdr_that_is_none_leaves_the_diagnosis_missing(study, place, told, cdr):
    place("oasis_cross-sectional.csv", text=TABLE.replace("27,0.5", f"27,{cdr}"))
    found = oasis1.read(study)
    assert [s.diagnosis for s in found.scans] == ["CN", "n/a", "n/a", "n/a"]
    assert told(found.problems) == [(processed("OAS1_0003_MR1"), f"CDR '{cdr}'", False)]


def test_the_kind_that_most_sessions_have_is_taken_for_all(study, place, told):
    place(raw("OAS1_0001_MR1"), raw("OAS1_0001_MR1", 2), raw("OAS1_0002_MR1"))
    found = oasis1.read(study)
    assert len(found.scans) == 4
    assert told(found.problems) == [("OAS1_0002 MR1", "no image 'processed', only 'raw'", True)]
    other = oasis1.read(study, image="raw")
    assert [s.path for s in other.scans] == [str(study / raw("OAS1_0001_MR1"))]
    assert other.already == frozenset()
    assert "raw image of every session" in other.rule
    assert {(w, f) for w, f, _ in told(other.problems)} >= {
        (raw("OAS1_0001_MR1", 2), "a second T1w image of one session"),
        (raw("OAS1_0002_MR1"), "an image with no row"),
        ("OAS1_0003 MR1", "no image 'raw', only 'processed'"),
    }


def test_analyze_images_are_told_with_the_command_and_taken_once_converted(study, place):
    name = "OAS1_0003_MR1"
    place(processed(name, "img"), processed(name, "hdr"), processed("OAS1_0001_MR1", "img"))
    assert oasis1.read(study).problems == []
    (study / processed(name)).unlink()
    found = oasis1.read(study)
    assert [s.subject for s in found.scans] == ["OAS1_0001", "OAS1_0061", "OAS1_0061"]
    image, new = study / processed(name, "img"), study / processed(name)
    assert [str(p) for p in found.problems] == [
        f"{processed(name, 'img')}: found an Analyze image, which does not say which side is left; expected NIfTI "
        f"beside it; mri_convert '{image}' '{new}' (FreeSurfer), and look that left is left"
    ]


def test_rows_without_images_are_one_problem_and_repeated_rows_are_left_out(study, place, told):
    more = "OAS1_0007_MR1,M,R,21,,,,,1,1,1,N/A\nOAS1_0008_MR1,M,R,21,,,,,1,1,1,N/A\n"
    place("oasis_cross-sectional.csv", text=TABLE + more + "OAS1_0001_MR1,M,R,21,,,,,1,1,1,N/A\n")
    found = oasis1.read(study)
    table = study / "oasis_cross-sectional.csv"
    assert told(found.problems) == [
        (f"{table} OAS1_0001_MR1", "2 rows", True),
        (str(table), "2 rows with no image, such as OAS1_0007_MR1", True),
        (processed("OAS1_0001_MR1"), "an image with several rows", True),
    ]


def test_options_have_values_of_their_own(study):
    for options in ({"young": "AD"}, {"image": "T88"}):
        with pytest.raises(InputError, match=f"--option {next(iter(options))}: found"):
            oasis1.read(study, **options)


def test_its_marks(study):
    assert oasis1.looks_like(study)
    assert oasis1.looks_like(study / "disc1")
    assert not oasis1.looks_like(study / "disc1" / "OAS1_0001_MR1")
