"""UK Biobank: both imaging visits, the kinds of image, and participants who have withdrawn."""

from pathlib import Path

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import ukb

FIELDS = """\
eid,31-0.0,21003-0.0,21003-2.0,21003-3.0,54-2.0,54-3.0,G30
1000223,0,55,63,66,11025,11027,CN
1000334,1,50,58,,11026,,AD
-1,1,50,58,,11026,,
"""
BRAIN, HEAD = "T1_unbiased_brain.nii.gz", "T1.nii.gz"


def scan(eid, visit=2, name=BRAIN):
    return f"{eid}_20252_{visit}_0/T1/{name}"


@pytest.fixture
def study(place):
    place("ukb.csv", text=FIELDS)
    place(scan(1000223), scan(1000223, 3), scan(1000334), scan(1000223, name="T1_fast/T1_brain_pve_0.nii.gz"))
    return place(scan(1000223, name="T1_brain_mask.nii.gz"))


def test_each_imaging_visit_has_its_age_and_centre(study, told):
    found = ukb.read(study)
    assert [(s.subject, s.session, s.age, s.sex, s.site, s.diagnosis) for s in found.scans] == [
        ("1000223", "2", 63, "F", "11025", "n/a"),
        ("1000223", "3", 66, "F", "11027", "n/a"),
        ("1000334", "2", 58, "M", "11026", "n/a"),
    ]
    assert told(found.problems) == [(str(study / "ukb.csv"), "1 rows with a negative eid", True)]
    assert (found.name, found.synthetic, found.already) == ("UK Biobank", False, {"bias", "strip"})


def test_the_names_of_the_research_analysis_platform_are_known(study, place):
    place(
        "rap.csv",
        text="participant.eid,participant.p31,participant.p21003_i2,participant.p54_i2\n1000334,Male,58,Reading\n",
    )
    scans = ukb.read(study, table=study / "rap.csv").scans
    assert [(s.subject, s.age, s.sex, s.site) for s in scans] == [("1000334", 58, "M", "Reading")]


def test_columns_that_the_table_lacks_are_told_for_the_visits_that_have_images(study, place, told):
    place("few.csv", text="eid,31-0.0,21003-2.0,54-2.0\n1000223,0,63,11025\n1000334,1,58,11026\n")
    columns = "['eid', '31-0.0', '21003-2.0', '54-2.0']"
    assert told(ukb.read(study, table=study / "few.csv").problems) == [
        (str(study / "few.csv"), f"no column of age_3, site_3 among {columns}", False)
    ]
    (study / scan(1000223, 3)).unlink()
    assert ukb.read(study, table=study / "few.csv").problems == []


def test_a_diagnosis_is_taken_where_a_column_of_it_is_named(study):
    scans = ukb.read(study, columns={"diagnosis": "G30"}).scans
    assert [s.diagnosis for s in scans] == ["CN", "CN", "AD"]


@pytest.mark.parametrize(
    ("image", "name", "already"),
    [
        ("brain", "T1_brain.nii.gz", {"strip"}),
        ("head", "T1.nii.gz", set()),
        ("mni", "T1_brain_to_MNI.nii.gz", {"strip", "register"}),
    ],
)
def test_another_kind_of_image(study, place, told, image, name, already):
    place(scan(1000223, name=name))
    found = ukb.read(study, image=image)
    assert [s.path for s in found.scans] == [str(study / scan(1000223, name=name))]
    assert found.already == already
    assert found.rule.startswith(name)
    assert ("1000334 2", f"no image '{image}', only 'unbiased_brain'", True) in told(found.problems)


def test_participants_who_have_withdrawn_are_left_out(study, place, told):
    for text in ("1000223\n\n", "eid\n1000223,\n"):
        place("w1.csv", text=text)
        found = ukb.read(study, withdrawn=str(study / "w1.csv"))
        assert [s.subject for s in found.scans] == ["1000334"]
        assert told(found.problems)[1:] == [
            (scan(1000223), "a participant who has withdrawn", True),
            (scan(1000223, 3), "a participant who has withdrawn", True),
        ]
    place("w1.csv", text="1000223\nsome text\n")
    with pytest.raises(InputError, match=r"w1\.csv: found 'some text'; expected EIDs, one a line"):
        ukb.read(study, withdrawn=str(study / "w1.csv"))
    with pytest.raises(InputError, match="--option withdrawn: nothing cannot be read"):
        ukb.read(study, withdrawn="nothing")


def test_a_list_of_withdrawn_people_who_are_nowhere_is_told(study, place, told):
    place("w1.csv", text="1000001\n1000002\n")
    file = str(study / "w1.csv")
    found = ukb.read(study, withdrawn=file)
    assert len(found.scans) == 3
    assert told(found.problems)[1:] == [(file, "2 eids, none of them here", False)]


def test_zeros_before_an_eid_are_none_of_it(study, place):
    place("w1.csv", text="01000334\n")
    assert [s.subject for s in ukb.read(study, withdrawn=str(study / "w1.csv")).scans] == ["1000223"] * 2
    place("ukb.csv", text=FIELDS.replace("1000334", "0001000334"))
    assert [(s.subject, s.age) for s in ukb.read(study).scans][2:] == [("1000334", 58)]


def test_what_cannot_be_used_is_told(study, place, told):
    place(scan(1000999), "T1/T1_unbiased_brain.nii.gz", scan(1000334).replace("2_0", "2_1"))
    assert told(ukb.read(study).problems)[1:] == [
        ("T1/T1_unbiased_brain.nii.gz", "an image in another place", True),
        (scan(1000334).replace("2_0", "2_1"), "a second T1w image of one session", True),
        (scan(1000999), "an image with no row", True),
    ]


def test_an_image_with_several_rows_is_told_as_such(study, place, told):
    place("ukb.csv", text=FIELDS + "1000334,1,50,59,,11026,,\n")
    found = ukb.read(study)
    assert {s.subject for s in found.scans} == {"1000223"}
    assert (scan(1000334), "an image with several rows", True) in told(found.problems)


def test_the_folder_in_which_the_command_runs_will_do(study, monkeypatch):
    straight = [(s.subject, s.session) for s in ukb.read(study).scans]
    monkeypatch.chdir(study)
    assert [(s.subject, s.session) for s in ukb.read(Path(".")).scans] == straight
    table = study / "ukb.csv"
    monkeypatch.chdir(study / "1000223_20252_3_0" / "T1")
    assert [(s.subject, s.session) for s in ukb.read(Path("."), table=table).scans] == [("1000223", "3")]


def test_packed_archives_are_refused_with_the_command(place):
    place("ukb.csv", text=FIELDS)
    root = place("1000223_20252_2_0.zip", "1000334_20252_2_0.zip")
    assert ukb.looks_like(root)
    with pytest.raises(InputError, match=r"found 2 archives such as 1000223_20252_2_0\.zip; .* unzip -q"):
        ukb.read(root)


def test_the_table_must_be_named_and_options_have_values_of_their_own(study):
    with pytest.raises(InputError, match="--option image: found 'T1'"):
        ukb.read(study, image="T1")
    (study / "ukb.csv").unlink()
    with pytest.raises(InputError, match="--table FILE"):
        ukb.read(study)


def test_its_marks(study):
    assert ukb.looks_like(study)
    assert not ukb.looks_like(study / "1000223_20252_2_0")
