"""PPMI: cohorts by words and codes, from a row an image or a row a participant."""

import math

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import ppmi

IMAGES = (
    '"Image Data ID","Subject","Group","Sex","Age","Visit","Modality","Description","Type","Acq Date","Format"\n'
    '"I11","3102","PD","M","66.2","BL","MRI","MPRAGE GRAPPA","Original","5/10/2011","NiFTI"\n'
    '"12","3103","Control","F","60","BL","MRI","MPRAGE","Original","5/10/2011","NiFTI"\n'
    '"I13","3104","SWEDD","F","61","BL","MRI","MPRAGE","Original","5/10/2011","NiFTI"\n'
)
PEOPLE = (
    "PATNO,COHORT,COHORT_DEFINITION,ENROLL_DATE,ENROLL_AGE\n"
    "3102,1,Parkinson's Disease,05/2011,66.0\n3103,2,Healthy Control,,60\n3104,4,Prodromal,06/2011,61\n"
)


def scan(subject, number, day="2011-05-10", sequence="MPRAGE_GRAPPA"):
    return f"PPMI/{subject}/{sequence}/{day}_10_28_05.0/I{number}/PPMI_{subject}_MR_{sequence}_S1_I{number}.nii"


@pytest.fixture
def study(place):
    place("images.csv", text=IMAGES)
    place("Participant_Status.csv", text=PEOPLE)
    return place(scan(3102, 11), scan(3103, 12), scan(3104, 13), scan(3104, 14, sequence="DTI_gated"))


OTHERS = (f"{scan(3104, 14, sequence='DTI_gated')} and such", "1 images of other sequences (DTI_gated)", True)


def test_a_row_an_image(study, told):
    found = ppmi.read(study, table=study / "images.csv")
    assert [(s.subject, s.session, s.age, s.sex, s.diagnosis) for s in found.scans] == [
        ("3102", "2011-05-10", 66.2, "M", "PD"),
        ("3103", "2011-05-10", 60, "F", "CN"),
        ("3104", "2011-05-10", 61, "F", "SWEDD"),
    ]
    assert told(found.problems) == [OTHERS]
    assert (found.name, found.synthetic, found.already) == ("PPMI", False, frozenset())


def test_a_row_a_participant_gives_the_age_at_the_scan(study, told):
    found = ppmi.read(study)
    assert [(s.subject, s.sex, s.diagnosis) for s in found.scans] == [
        ("3102", "n/a", "PD"),
        ("3103", "n/a", "CN"),
        ("3104", "n/a", "Prodromal"),
    ]
    assert found.scans[0].age == 66 + 9 / 365.25
    assert math.isnan(found.scans[1].age)
    assert found.scans[2].age == 61 - 22 / 365.25
    columns = "['PATNO', 'COHORT', 'COHORT_DEFINITION', 'ENROLL_DATE', 'ENROLL_AGE']"
    assert told(found.problems) == [
        (str(study / "Participant_Status.csv"), f"no column of sex among {columns}", False),
        OTHERS,
        (scan(3103, 12), "age 60 of day ''", False),
    ]


@pytest.mark.parametrize(
    ("code", "label"),
    [("1", "PD"), ("2", "CN"), ("3", "SWEDD"), ("4", "Prodromal"), ("5", "GenCohort PD"), ("8", "GenRegistry Unaff")],
)
def test_codes_of_the_cohort(study, place, code, label):
    place("a.csv", text=f"PATNO,APPRDX\n3102,{code}\n")
    assert [s.diagnosis for s in ppmi.read(study, table=study / "a.csv").scans] == [label]


def test_days_before_months_are_refused(study, place):
    place("Participant_Status.csv", text=PEOPLE.replace("06/2011", "13/06/2011"))
    with pytest.raises(InputError, match="line 4: found the date 13/06/2011; expected month/day/year in ENROLL_DATE"):
        ppmi.read(study)


def test_numbers_of_sexes_and_unknown_cohorts_are_told(study, place, told):
    place("a.csv", text="PATNO,APPRDX,GENDER\n3102,9,2\n")
    found = ppmi.read(study, table=study / "a.csv")
    assert [(s.diagnosis, s.sex) for s in found.scans] == [("n/a", "n/a")]
    assert {t for t in told(found.problems) if not t[2]} == {
        (scan(3102, 11), "diagnosis '9'", False),
        (scan(3102, 11), "sex '2'", False),
        (str(study / "a.csv"), "no column of age among ['PATNO', 'APPRDX', 'GENDER']", False),
    }
    assert (scan(3103, 12), "an image with no row", True) in told(found.problems)


def test_an_image_of_another_participant_than_its_row_says_is_left_out(study, place, told):
    place("images.csv", text=IMAGES.replace("3103", "3199"))
    found = ppmi.read(study, table=study / "images.csv")
    assert [s.subject for s in found.scans] == ["3102", "3104"]
    assert told(found.problems) == [OTHERS, (scan(3103, 12), "an image with no row", True)]


def test_images_with_several_rows_are_told_as_such(study, place, told):
    place("images.csv", text=IMAGES + '"I11","3102","PD","M","66.2","BL","MRI","x","Original","5/10/2011","NiFTI"\n')
    place("Participant_Status.csv", text=PEOPLE + "3102,2,Healthy Control,05/2011,66.0\n")
    for found in (ppmi.read(study), ppmi.read(study, table=study / "images.csv")):
        assert [s.subject for s in found.scans] == ["3103", "3104"]
        assert (scan(3102, 11), "an image with several rows", True) in told(found.problems)


def test_of_two_images_of_a_day_one_with_a_row_is_kept(study, place, told):
    place(scan(3102, 10, sequence="MPRAGE"))
    found = ppmi.read(study, table=study / "images.csv")
    assert found.scans[0].path == str(study / scan(3102, 11))
    assert (scan(3102, 10, sequence="MPRAGE"), "an image with no row", True) in told(found.problems)


def test_of_a_day_mprage_then_spgr_then_another_t1_is_kept_whatever_their_names_begin_with(study, place, told):
    day = "2012-01-01"
    names = [
        scan(3104, number, day, sequence)
        for number, sequence in (
            (40, "Sag_MPRAGE_repeat"),
            (100, "SAG_MPRAGE"),
            (31, "MPRAGE_GRAPPA"),
            (30, "AX_FSPGR_3D"),
            (29, "3D_T1-weighted"),
        )
    ]
    place(*names)
    kept = []
    while names:
        found = ppmi.read(study)
        kept.append(next(s.path for s in found.scans if s.session == day))
        seconds = [w for w, what, _ in told(found.problems) if what == "a second T1w image of one session"]
        assert len(seconds) == len(names) - 1
        (study / names.pop(names.index(kept[-1].removeprefix(f"{study}/")))).unlink()
    assert [p.rsplit("_I", 1)[1] for p in kept] == ["31.nii", "100.nii", "40.nii", "30.nii", "29.nii"]


def test_flat_scans_and_other_contrasts_are_no_t1_scan_unless_asked_for(study, place, told):
    others = ["AX_T1", "Axial_T1_SE", "T1-FLAIR", "T1W_TSE_GD", "COR_T1", "MPRAGE_POST_GAD"]
    place(*(scan(3104, 20 + i, "2012-01-01", s) for i, s in enumerate(others)))
    place(flat := scan(3103, 50, "2011-05-10", "AX_T1"))
    found = ppmi.read(study)
    assert [s.path for s in found.scans] == [str(study / scan(p, n)) for p, n in ((3102, 11), (3103, 12), (3104, 13))]
    assert [what for _, what, _ in told(found.problems) if "other seq" in what] == [
        "8 images of other sequences (AX_T1, Axial_T1_SE, COR_T1, DTI_gated, MPRAGE_POST_GAD, T1-FLAIR, T1W_TSE_GD)"
    ]
    asked = ppmi.read(study, sequence="AX_T1")
    assert [s.path for s in asked.scans][:1] == [str(study / flat)]


def test_other_sequences_are_taken_by_a_pattern_and_columns_by_name(study, place):
    place("a.csv", text="nr,cohort\n3104,4\n")
    taken = ppmi.read(study, table=study / "a.csv", columns={"subject": "nr"}, sequence="DTI")
    assert [s.path for s in taken.scans] == [str(study / scan(3104, 14, sequence="DTI_gated"))]
    with pytest.raises(InputError, match="--option sequence"):
        ppmi.read(study, sequence="(")


def test_its_marks(study, place):
    assert ppmi.looks_like(study)
    assert ppmi.looks_like(study / "PPMI")
    assert not ppmi.looks_like(study / "PPMI" / "3102")
    place("numbers/1000/a/b.txt")
    assert not ppmi.looks_like(study / "numbers")
