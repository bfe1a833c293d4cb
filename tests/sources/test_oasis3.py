"""OASIS-3: CDR and dx1 of the visit nearest in time, ages from entry, and the tables of both releases."""

import math

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import oasis3

CDR = """\
OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRTOT,dx1
OAS30001,OAS30001_UDSb4_d0000,0000,65.15,28,0,Cognitively normal
OAS30001,OAS30001_UDSb4_d0722,0722,67.13,28,0.5,AD Dementia
OAS30002,OAS30002_UDSb4_d0100,0100,67.53,29,1,AD dem w/depresss- contribut
OAS30003,OAS30003_UDSb4_d0000,0000,60.0,29,.,.
"""
PEOPLE = "OASISID,AgeatEntry,AgeatDeath,GENDER\nOAS30001,65.149895,,2\nOAS30002,67.25,,1\n"


def scan(session, run="run-01", folder="anat2/"):
    subject, _, day = session.split("_")
    return f"{session}/{folder}sub-{subject}_ses-{day}_{run}_T1w.nii.gz"


@pytest.fixture
def study(place):
    place("OASIS3_UDSb4_cdr.csv", text=CDR)
    place("OASIS3_demographics.csv", text=PEOPLE)
    place(scan("OAS30001_MR_d0361"), scan("OAS30001_MR_d0362", folder="anat3/NIFTI/"), scan("OAS30002_MR_d0653"))
    return place("OAS30001_MR_d0361/anat4/sub-OAS30001_ses-d0361_T2w.nii.gz", "OAS30001_MR_d0361/anat2/x.json")


def test_the_visit_nearest_in_time_within_a_year_gives_the_diagnosis(study, told):
    found = oasis3.read(study)
    assert [(s.subject, s.session, s.sex, s.diagnosis) for s in found.scans] == [
        ("OAS30001", "d0361", "F", "CN"),  # as far from either visit: the earlier counts
        ("OAS30001", "d0362", "F", "AD"),
        ("OAS30002", "d0653", "M", "n/a"),
    ]
    assert [s.age for s in found.scans] == [65.149895 + 361 / 365.25, 65.149895 + 362 / 365.25, 67.25 + 653 / 365.25]
    assert told(found.problems) == [(scan("OAS30002_MR_d0653"), "no clinical visit within 365 days", False)]
    assert (found.name, found.synthetic, found.already) == ("OASIS-3", False, frozenset())
    wide = oasis3.read(study, days=553)
    assert wide.problems == []
    assert wide.scans[2].diagnosis == "AD dem w/depresss- contribut"


@pytest.mark.parametrize(
    ("cdr", "words", "label"),
    [
        ("0", "Cognitively normal", "CN"),
        ("0.0", "No dementia", "CN"),
        ("0", ".", "CN"),
        ("1", "AD Dementia", "AD"),
        ("0.5", "DAT", "AD"),
        ("0.5", "uncertain dementia", "uncertain dementia"),
        ("0", "uncertain dementia", "uncertain dementia"),
        ("0.5", "Cognitively normal", None),
        ("0", "AD Dementia", None),
        ("0.5", "", None),
        ("", "AD Dementia", None),
        ("mild", "AD Dementia", None),
        ("1", "7", None),
    ],
)
def test_cdr_and_words_must_agree(place, told, cdr, words, label):
    place("t.csv", text=f"OASISID,days_to_visit,age at visit,CDRTOT,dx1,GENDER\nOAS30001,10,70,{cdr},{words},2\n")
    root = place(scan("OAS30001_MR_d0010"))
    found = oasis3.read(root, table=root / "t.csv")
    assert [s.diagnosis for s in found.scans] == [label or "n/a"]
    shown = "" if words == "." else words
    contradiction = [(scan("OAS30001_MR_d0010"), f"CDR '{cdr}' with dx1 '{shown}'", False)]
    assert told(found.problems) == ([] if label else contradiction)


def test_a_visit_without_either_is_no_visit(study, place, told):
    place(scan("OAS30003_MR_d0000"))
    found = oasis3.read(study)
    last = found.scans[-1]
    assert (last.subject, last.diagnosis, last.sex) == ("OAS30003", "n/a", "n/a")
    assert math.isnan(last.age)
    assert (scan("OAS30003_MR_d0000"), "no clinical visit within 365 days", False) in told(found.problems)


def test_the_older_table_has_all_in_one(place):
    root = place(scan("OAS30001_MR_d0400"))
    place(
        "adrc.csv",
        text="ADRC_ADRCCLINICALDATA ID,Subject,mmse,ageAtEntry,cdr,dx1,M/F\n"
        "OAS30001_ClinicalData_d0000,OAS30001,28,65.15,0,Cognitively normal,F\n"
        "OAS30001_ClinicalData_d0339,OAS30001,28,65.15,1,AD Dementia,F\n",
    )
    scan_ = oasis3.read(root, table=root / "adrc.csv").scans[0]
    assert (scan_.age, scan_.sex, scan_.diagnosis) == (65.15 + 400 / 365.25, "F", "AD")


def test_without_an_age_at_entry_that_of_the_visit_counts(place):
    place("OASIS3_UDSb4_cdr.csv", text=CDR)
    root = place(scan("OAS30001_MR_d0010"))
    assert oasis3.read(root).scans[0].age == 65.15 + 10 / 365.25


def test_labels_that_neither_table_has_are_told(place, told):
    place("OASIS3_UDSb4_cdr.csv", text="OASISID,days_to_visit,CDRTOT,dx1\nOAS30001,10,0,Cognitively normal\n")
    root = place(scan("OAS30001_MR_d0010"))
    columns = "['OASISID', 'days_to_visit', 'CDRTOT', 'dx1']"
    table = str(root / "OASIS3_UDSb4_cdr.csv")
    assert told(oasis3.read(root).problems) == [(table, f"no column of age_at_entry, sex among {columns}", False)]
    place("OASIS3_demographics.csv", text=PEOPLE)
    assert oasis3.read(root).problems == []


def test_the_folder_of_tables_and_a_table_of_people_elsewhere_will_do(study, place):
    for name, text in (("UDSb4/csv/OASIS3_UDSb4_cdr.csv", CDR), ("demo/csv/OASIS3_demographics.csv", PEOPLE)):
        place(f"data files/{name}", text=text)
    straight = oasis3.read(study).scans
    assert oasis3.read(study, table=study / "data files").scans == straight
    (study / "OASIS3_demographics.csv").rename(study / "people.csv")
    assert oasis3.read(study).scans != straight
    assert oasis3.read(study, demographics=str(study / "people.csv")).scans == straight
    with pytest.raises(InputError, match=r"found no OASIS3_UDSb4_cdr\.csv in it"):
        oasis3.read(study, table=study / "OAS30001_MR_d0361")


def test_a_plain_image_of_the_lowest_run_is_kept(place):
    place("OASIS3_UDSb4_cdr.csv", text=CDR)
    session = "OAS30001_MR_d0010"
    order = ["run-2", "run-10", "acq-TSE", "acq-TSE_run-2"]
    root = place(*(scan(session, run, f"anat{i}/") for i, run in enumerate(reversed(order))))
    kept = []
    for _ in order:
        kept.append(oasis3.read(root).scans[0].path)
        (root / kept[-1].removeprefix(f"{root}/")).unlink()
    assert [p.split("d0010_")[1].removesuffix("_T1w.nii.gz") for p in kept] == order


def test_columns_are_shared_out_to_the_table_that_has_them(study, place):
    straight = oasis3.read(study).scans
    place("OASIS3_demographics.csv", text=PEOPLE.replace("AgeatEntry", "age0").replace("OASISID", "who"))
    place("OASIS3_UDSb4_cdr.csv", text=CDR.replace("CDRTOT", "CDR_"))
    named = {"age_at_entry": "age0", "cdr": "cdr_"}
    with pytest.raises(InputError, match="expected OASISID or Subject for subject"):
        oasis3.read(study, columns=named)
    place("OASIS3_demographics.csv", text=PEOPLE.replace("AgeatEntry", "age0"))
    assert oasis3.read(study, columns=named).scans == straight
    with pytest.raises(InputError, match="expected nowhere for sex"):
        oasis3.read(study, columns=named | {"sex": "nowhere"})


def test_what_cannot_be_used_is_told(study, place, told):
    place(scan("OAS30001_MR_d0361", "run-02"), scan("OAS30099_MR_d0001"), "extra/brain_T1w.nii.gz")
    place(second := scan("OAS30001_MR_d0362", "run-02", "anat1/"))
    place("OASIS3_UDSb4_cdr.csv", text=CDR + "OAS30001,x,later,70,28,0,Cognitively normal\n")
    table = study / "OASIS3_UDSb4_cdr.csv"
    assert told(oasis3.read(study, days=600).problems) == [
        (f"{table} line 6", "days 'later'", True),
        ("extra/brain_T1w.nii.gz", "an image in another place", True),
        (scan("OAS30001_MR_d0361", "run-02"), "a second T1w image of one session", True),
        (second, "a second T1w image of one session", True),
        (scan("OAS30099_MR_d0001"), "an image with no row", True),
    ]


def test_columns_can_be_named_and_a_table_without_days_is_refused(place):
    place("t.csv", text="OASISID,day,CDRTOT,diag\nOAS30001,10,0,Cognitively normal\n")
    root = place(scan("OAS30001_MR_d0010"))
    with pytest.raises(InputError, match="expected dx1 for diagnosis"):
        oasis3.read(root, table=root / "t.csv")
    with pytest.raises(InputError, match="found no column of days; expected days_to_visit"):
        oasis3.read(root, table=root / "t.csv", columns={"diagnosis": "diag"})
    assert (
        oasis3.read(root, table=root / "t.csv", columns={"diagnosis": "diag", "days": "day"}).scans[0].diagnosis == "CN"
    )
    with pytest.raises(InputError, match="--option days: found"):
        oasis3.read(root, table=root / "t.csv", days=-1)


def test_its_marks(study):
    assert oasis3.looks_like(study)
    assert not oasis3.looks_like(study / "OAS30001_MR_d0361")
