"""OpenBHB: healthy people, published folds, and arrays that have no affine."""

import pytest

from jaxneuro import splits
from jaxneuro.errors import InputError
from jaxneuro.sources import openbhb

PEOPLE = (
    "participant_id\tstudy\tsex\tage\tsite\tdiagnosis\tsiteXacq\tsplit\n"
    "100\t1\tmale\t20.5\t7\tcontrol\t3\ttrain\n"
    "101\t1\tfemale\t30\t7\tcontrol\t4\tinternal_test\n"
    "102\t1\tfemale\t40\t8\t\t5\texternal_test\n"
)


def scan(number, fold="train", ending="nii.gz", session=""):
    return f"{fold}/derivatives/sub-{number}/ses-1/sub-{number}_{session}preproc-quasiraw_T1w.{ending}"


@pytest.fixture
def study(place):
    place("participants.tsv", text=PEOPLE)
    place(scan(100), scan(101, "val"), scan(102, "val"))
    return place(scan(100).replace("quasiraw_T1w.nii.gz", "cat12vbm_desc-gm_T1w.npy"))


def test_all_are_healthy_with_the_published_folds(study):
    found = openbhb.read(study)
    assert found.problems == []
    assert [(s.subject, s.session, s.age, s.sex, s.site, s.diagnosis) for s in found.scans] == [
        ("100", "", 20.5, "M", "3", "CN"),
        ("101", "", 30, "F", "4", "CN"),
        ("102", "", 40, "F", "5", "CN"),
    ]
    assert found.folds == {"100": "train", "101": "validation", "102": "ood"}
    assert splits.given(found.scans, found.folds).subjects["ood"] == ["102"]
    assert found.already == {"bias", "strip", "register"}
    assert (found.name, found.synthetic) == ("OpenBHB", False)


def test_folds_are_made_anew_when_asked_or_when_none_are_published(study, place):
    own = openbhb.read(study, folds="own")
    assert own.folds == {}
    assert "folds made here" in own.rule
    place("participants.tsv", text="participant_id\tage\tsiteXacq\nsub-100\t20\t1\n")
    found = openbhb.read(study)
    assert found.folds == {}
    assert [(s.subject, s.diagnosis) for s in found.scans] == [("100", "CN")]
    with pytest.raises(InputError, match="--option folds: found 'mine'"):
        openbhb.read(study, folds="mine")


def test_a_split_of_another_name_is_refused(study, place):
    place("participants.tsv", text=PEOPLE.replace("internal_test", "private"))
    with pytest.raises(InputError, match=r"found split 'private'; expected one of \['train', .* --option folds=own"):
        openbhb.read(study)
    assert len(openbhb.read(study, folds="own").scans) == 3


def test_a_diagnosis_that_is_another_stays_as_it_is_written(study, place):
    place("participants.tsv", text=PEOPLE.replace("40\t8\t\t", "40\t8\tasthma\t"))
    assert [s.diagnosis for s in openbhb.read(study).scans] == ["CN", "CN", "asthma"]


def test_arrays_are_told_with_the_way_to_write_them(study, place, told):
    place(scan(103, ending="npy"), scan(100, ending="npy"))
    found = openbhb.read(study)
    assert told(found.problems) == [(scan(103, ending="npy"), "an array, which has no affine", True)]
    assert "quasiraw_space-MNI152_desc-brain_T1w.nii.gz" in found.problems[0].hint


def test_arrays_alone_are_refused(place):
    place("participants.tsv", text=PEOPLE)
    root = place(scan(100, ending="npy"), scan(101, ending="npy"))
    with pytest.raises(InputError, match=r"sub-100_preproc-quasiraw_T1w\.npy: found an array, as in 2 files; expected"):
        openbhb.read(root)


def test_rows_and_images_without_each_other_are_told_and_sessions_kept_apart(study, place, told):
    place("participants.tsv", text=PEOPLE + "200\t1\tmale\t20.5\t7\tcontrol\t3\ttrain\n")
    place(scan(100, session="ses-2_"), scan(300))
    found = openbhb.read(study)
    assert [(s.subject, s.session) for s in found.scans][:2] == [("100", ""), ("100", "2")]
    assert told(found.problems) == [
        (scan(300), "an image with no row", True),
        (str(study / "participants.tsv"), "1 rows with no image, such as 200", True),
    ]


def sessions_of_100(*rows):
    head = "participant_id\tsession\tage\tsex\tsiteXacq\tsplit\n"
    return head + "".join(f"100\t{session}\t{age}\tmale\t3\t{split}\n" for session, age, split in rows)


def test_a_table_with_a_row_a_session_gives_each_its_own(place, told):
    place("participants.tsv", text=sessions_of_100((1, 20, "train"), ("ses-2", 25, "train"), (3, 26, "train")))
    first, second = scan(100), scan(100, session="ses-2_").replace("/ses-1/", "/ses-2/")
    root = place(first, second, fourth := scan(100, session="ses-4_"))
    found = openbhb.read(root)
    assert [(s.subject, s.session, s.age, s.path) for s in found.scans] == [
        ("100", "1", 20, str(root / first)),
        ("100", "2", 25, str(root / second)),
    ]
    assert found.folds == {"100": "train"}
    assert told(found.problems) == [
        (fourth, "an image with no row", True),
        (str(root / "participants.tsv"), "1 rows with no image, such as 100 ses-3", True),
    ]


def test_an_image_without_a_session_has_the_only_row_of_its_subject(place):
    place("participants.tsv", text=sessions_of_100((1, 20, "train")))
    root = place("a/sub-100_preproc-quasiraw_T1w.nii.gz")
    assert [(s.subject, s.session, s.age) for s in openbhb.read(root).scans] == [("100", "", 20)]


def test_several_rows_of_a_session_and_a_subject_in_two_splits(place, told):
    place("participants.tsv", text=sessions_of_100((1, 20, "train"), (1, 21, "train"), (2, 25, "train")))
    root = place(scan(100), scan(100, session="ses-2_"))
    found = openbhb.read(root)
    assert [(s.session, s.age) for s in found.scans] == [("2", 25)]
    assert told(found.problems) == [
        (f"{root / 'participants.tsv'} 100 ses-1", "2 rows", True),
        (scan(100), "an image with several rows", True),
    ]
    place("participants.tsv", text=sessions_of_100((1, 20, "train"), (2, 25, "external_test")))
    with pytest.raises(InputError, match="found 100 in split 'train' and in 'external_test'; expected one for all"):
        openbhb.read(root)


def test_its_marks(study, place):
    assert openbhb.looks_like(study)
    place("participants.tsv", text="participant_id\tsite\n")
    assert not openbhb.looks_like(study)
