"""ADNI: the diagnosis nearest in time, ages at the scan, converters, and which of several images is taken."""

import math

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import adni

MERGE = """\
RID,PTID,VISCODE,SITE,EXAMDATE,DX_bl,AGE,PTGENDER,DX
295,002_S_0295,bl,2,2006-04-18,CN,84.8,Male,CN
295,002_S_0295,m06,2,2006-11-02,CN,84.8,Male,CN
295,002_S_0295,m12,2,2007-05-25,CN,84.8,Male,MCI
413,002_S_0413,bl,2,2006-05-02,CN,76.3,Female,CN
413,002_S_0413,m24,2,2008-05-10,CN,76.3,Female,NL to MCI
413,002_S_0413,m36,2,2009-05-10,CN,76.3,Female,MCI to Dementia
619,002_S_0619,bl,2,2006-06-01,AD,77.5,Male,Dementia
619,002_S_0619,m06,2,2006-12-01,AD,77.5,Male,
816,002_S_0816,m06,3,2007-01-10,MCI,60.0,Male,MCI
"""


def scan(subject, day, number, sequence="MPRAGE"):
    return f"ADNI/{subject}/{sequence}/{day}_08_20_30.0/I{number}/ADNI_{subject}_MR_I{number}.nii"


@pytest.fixture
def study(place):
    place("ADNIMERGE.csv", text=MERGE)
    return place(
        scan("002_S_0295", "2006-04-18", 45108),
        scan("002_S_0295", "2007-05-20", 60007),
        scan("002_S_0619", "2006-06-01", 48617),
        scan("002_S_0619", "2006-11-25", 50000),
    )


def test_a_scan_has_the_diagnosis_nearest_in_time_and_the_age_of_its_day(study):
    found = adni.read(study)
    assert found.problems == []
    assert [(s.subject, s.session, s.diagnosis, s.sex, s.site) for s in found.scans] == [
        ("002_S_0295", "2006-04-18", "CN", "M", "2"),
        ("002_S_0295", "2007-05-20", "MCI", "M", "2"),
        ("002_S_0619", "2006-06-01", "AD", "M", "2"),
        ("002_S_0619", "2006-11-25", "AD", "M", "2"),  # the visit nearest has no diagnosis
    ]
    assert [s.age for s in found.scans] == [84.8, 84.8 + 397 / 365.25, 77.5, 77.5 + 177 / 365.25]
    assert (found.name, found.synthetic, found.already) == ("ADNI", False, frozenset())
    assert "one T1-weighted scan a day (raw); the diagnosis" in found.rule
    assert "within 180 days" in found.rule


def test_a_visit_too_far_gives_no_diagnosis(study, place, told):
    place(scan("002_S_0295", "2007-11-22", 7))  # 181 days after the visit m12
    found = adni.read(study)
    assert [s.diagnosis for s in found.scans][:3] == ["CN", "MCI", "n/a"]
    where = scan("002_S_0295", "2007-11-22", 7)
    assert told(found.problems) == [(where, "no diagnosis within 180 days", False)]
    assert [s.diagnosis for s in adni.read(study, days=181).scans][:3] == ["CN", "MCI", "MCI"]
    assert [s.diagnosis for s in adni.read(study, days=4).scans] == ["CN", "n/a", "n/a", "AD", "n/a"]


def test_controls_who_are_ad_later_are_left_out_unless_kept(study, place, told):
    place(
        scan("002_S_0413", "2006-05-02", 8), scan("002_S_0413", "2008-05-10", 9), scan("002_S_0413", "2009-06-10", 10)
    )
    found = adni.read(study)
    theirs = [(s.session, s.diagnosis) for s in found.scans if s.subject == "002_S_0413"]
    assert theirs == [("2008-05-10", "MCI"), ("2009-06-10", "AD")]
    assert told(found.problems) == [(scan("002_S_0413", "2006-05-02", 8), "CN, and AD at a later visit", True)]
    assert "AD later are left out" in found.rule
    kept = adni.read(study, converters="keep")
    assert [s.diagnosis for s in kept.scans if s.subject == "002_S_0413"] == ["CN", "MCI", "AD"]
    assert kept.problems == []
    assert "left out" not in kept.rule


def test_a_reversion_to_cn_after_ad_is_no_converter(place):
    rows = "PTID,VISCODE,EXAMDATE,AGE,DX\n1,bl,2006-01-01,70,x\n002_S_0001,bl,2006-01-01,70,Dementia\n"
    place("ADNIMERGE.csv", text=rows + "002_S_0001,m12,2007-01-01,70,Dementia to NL\n")
    root = place(scan("002_S_0001", "2007-01-01", 1))
    assert [s.diagnosis for s in adni.read(root).scans] == ["CN"]


def test_codes_are_known_in_any_case_and_others_are_told_once_for_the_table(study, place, told):
    place(scan("002_S_0413", "2006-05-02", 8))
    place("ADNIMERGE.csv", text=MERGE.replace("MCI to Dementia", "mci to dementia"))
    assert told(adni.read(study).problems) == [
        (scan("002_S_0413", "2006-05-02", 8), "CN, and AD at a later visit", True)
    ]
    place("ADNIMERGE.csv", text=MERGE.replace("MCI to Dementia", "Demented").replace("NL to MCI", "Demented"))
    assert told(adni.read(study).problems) == [(str(study / "ADNIMERGE.csv"), "diagnosis 'Demented' in 2 rows", False)]


def test_ad_at_a_visit_without_a_day_makes_no_controls(study, place, told):
    place(scan("002_S_0413", "2006-05-02", 8))
    place("ADNIMERGE.csv", text=MERGE.replace("2009-05-10", "10.05.2009"))
    found = adni.read(study)
    assert "002_S_0413" not in {s.subject for s in found.scans}
    assert told(found.problems) == [
        (f"{study / 'ADNIMERGE.csv'} line 7", "date '10.05.2009'", True),
        (scan("002_S_0413", "2006-05-02", 8), "CN, and AD at a visit without a day", True),
    ]
    kept = adni.read(study, converters="keep")
    assert [s.diagnosis for s in kept.scans if s.subject == "002_S_0413"] == ["CN"]


def test_an_unknown_code_and_a_missing_baseline_leave_values_missing(study, place, told):
    place("ADNIMERGE.csv", text=MERGE.replace("60.0,Male,MCI", "60.0,Male,LMCI"))
    place(scan("002_S_0816", "2007-01-10", 11))
    found = adni.read(study)
    last = found.scans[-1]
    assert (last.subject, last.diagnosis, last.site) == ("002_S_0816", "n/a", "3")
    assert math.isnan(last.age)
    where = scan("002_S_0816", "2007-01-10", 11)
    assert told(found.problems) == [
        (str(study / "ADNIMERGE.csv"), "diagnosis 'LMCI' in 1 row", False),
        (where, "diagnosis 'LMCI'", False),
        (where, "no dated row with VISCODE bl", False),
    ]


def test_people_without_a_row_and_rows_without_a_day_are_told(study, place, told):
    place(scan("099_S_0001", "2007-01-10", 12))
    place("ADNIMERGE.csv", text=MERGE + "7,002_S_0295,m18,2,soon,CN,84.8,Male,MCI\n")
    found = adni.read(study)
    assert len(found.scans) == 4
    assert told(found.problems) == [
        (f"{study / 'ADNIMERGE.csv'} line 11", "date 'soon'", True),
        (scan("099_S_0001", "2007-01-10", 12), "an image with no row", True),
    ]


def test_of_one_day_the_corrected_the_first_the_slower_and_the_latest_is_kept(study, place, told):
    n3, day = "MPR__GradWarp__B1_Correction__N3__Scaled", "2006-04-18"
    names = [scan("002_S_0295", day, i, s) for i, s in ((5, n3), (6, n3), (7, n3.replace("MPR", "MPR-R")))]
    place(*names)
    found = adni.read(study, image="any")
    assert found.scans[0].path == str(study / names[1])
    assert [w for w, what, _ in told(found.problems) if what == "a second T1w image of one session"] == [
        names[0],
        names[2],
        scan("002_S_0295", day, 45108),
    ]
    assert found.already == frozenset()
    only = adni.read(study, image="n3")
    assert [s.path for s in only.scans] == [str(study / names[1])]
    assert only.already == {"bias"}
    assert [w for w, what, _ in told(only.problems) if what == "no image 'n3', only 'raw'"] == [
        "002_S_0295 2007-05-20",
        "002_S_0619 2006-06-01",
        "002_S_0619 2006-11-25",
    ]
    raw = adni.read(study, image="raw")
    assert (len(raw.scans), raw.problems, raw.already) == (4, [], frozenset())
    assert adni.read(study).scans == raw.scans  # one session of four has the other kind
    place(fast := scan("002_S_0619", "2006-06-01", 1, "Accelerated_SAG_IR-SPGR"))
    assert [p.where for p in adni.read(study, image="raw").problems] == [fast]


def test_other_sequences_and_places_are_told_and_a_pattern_takes_them(study, place, told):
    flair, mask = (scan("002_S_0619", "2008-01-01", 20 + i, s) for i, s in enumerate(("Sag_FLAIR", "MPR_Mask")))
    place(flair, mask, "ADNI/readme.nii")
    found = adni.read(study)
    assert told(found.problems) == [
        ("ADNI/readme.nii", "an image in another place", True),
        (f"{mask} and such", "2 images of other sequences (MPR_Mask, Sag_FLAIR)", True),
    ]
    taken = adni.read(study, sequence="flair", days=3000)
    assert [s.path for s in taken.scans] == [str(study / flair)]


def test_the_folder_of_subjects_or_of_one_subject_will_do(study):
    merge = study / "ADNIMERGE.csv"
    assert len(adni.read(study / "ADNI", table=merge).scans) == 4
    assert len(adni.read(study / "ADNI" / "002_S_0295", table=merge).scans) == 2


def test_columns_can_be_named(study, place):
    place("ADNIMERGE.csv", text=MERGE.replace("EXAMDATE", "EXAMDATE_x"))
    with pytest.raises(InputError, match="expected EXAMDATE for date; name yours with --columns date=NAME"):
        adni.read(study)
    assert len(adni.read(study, columns={"date": "EXAMDATE_x"}).scans) == 4


def test_days_before_months_are_refused(study, place):
    place("ADNIMERGE.csv", text=MERGE.replace("2006-05-02", "5/2/2006").replace("2006-06-01", "13/6/2006"))
    with pytest.raises(InputError, match="line 8: found the date 13/6/2006; expected month/day/year in EXAMDATE"):
        adni.read(study)


def test_options_have_values_of_their_own(study):
    for options in ({"days": -1}, {"converters": "both"}, {"image": "N3"}, {"sequence": "("}):
        with pytest.raises(InputError, match=f"--option {next(iter(options))}: found"):
            adni.read(study, **options)
    with pytest.raises(InputError, match=r"expected ADNIMERGE\.csv in it"):
        adni.read(study / "ADNI")


def test_dicom_is_refused_with_the_command(place):
    place("ADNIMERGE.csv", text=MERGE)
    root = place("ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I45108/1.dcm")
    with pytest.raises(InputError, match=r"I45108: found DICOM; .* dcm2niix -z y -b y -f %f_%s -o"):
        adni.read(root)
    # What the command writes is then found by the number of its folder.
    place("ADNI/002_S_0295/MPRAGE/2006-04-18_08_20_30.0/I45108/I45108_2.nii.gz")
    assert [s.session for s in adni.read(root).scans] == ["2006-04-18"]


def test_its_marks(study, place):
    assert adni.looks_like(study)
    assert adni.looks_like(study / "ADNI")
    assert not adni.looks_like(study / "ADNI" / "002_S_0295")
    assert not adni.looks_like(study / "ADNIMERGE.csv")
