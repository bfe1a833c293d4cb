"""LDM-100k: what the model was asked for, and that the scans count as synthetic."""

import pytest

from jaxneuro.errors import InputError
from jaxneuro.sources import ldm100k

ROWS = "participant_id\tage\tsex\tventricular\tbrain\nsub-000001\t60.5\t0\t1\t2\nsub-000002\t70\tM\t1\t2\n"


def scan(subject):
    return f"rawdata/{subject}/anat/{subject}_T1w.nii.gz"


@pytest.fixture
def study(place):
    place("participants.tsv", text=ROWS)
    return place(scan("sub-000001"), scan("sub-000002"), "rawdata/sub-000001/anat/sub-000001_synthseg.nii.gz")


def test_every_scan_has_the_age_and_sex_that_were_asked_for(study):
    found = ldm100k.read(study)
    assert found.problems == []
    assert [(s.subject, s.session, s.age, s.sex, s.diagnosis) for s in found.scans] == [
        ("sub-000001", "", 60.5, "F", "n/a"),
        ("sub-000002", "", 70, "M", "n/a"),
    ]
    assert (found.name, found.synthetic, found.already) == ("LDM-100k", True, frozenset())


def test_columns_can_be_named(study, place):
    place("participants.tsv", text=ROWS.replace("age", "prompt_age").replace("sex", "S"))
    assert [(s.age, s.sex) for s in ldm100k.read(study, columns={"sex": "s"}).scans] == [(60.5, "F"), (70, "M")]


def test_rows_and_images_without_each_other_are_told(study, place, told):
    place(scan("sub-000009"))
    place("participants.tsv", text=ROWS + "sub-000005\t1\t1\t1\t1\nsub-000006\t1\t1\t1\t1\n")
    table = study / "participants.tsv"
    assert told(ldm100k.read(study).problems) == [
        (str(table), "2 rows with no image, such as sub-000005", True),
        (scan("sub-000009"), "an image with no row", True),
    ]


def test_without_images_or_table_it_is_refused(study, place):
    (study / "participants.tsv").unlink()
    with pytest.raises(InputError, match=r"expected participants\.tsv in it"):
        ldm100k.read(study)
    assert not ldm100k.looks_like(study)


def test_its_marks(study):
    assert ldm100k.looks_like(study)
    assert not ldm100k.looks_like(study / "rawdata")
