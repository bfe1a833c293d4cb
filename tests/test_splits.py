"""Folds: disjoint, stratified, nested, and the guard that names offenders."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import splits
from jaxneuro.errors import InputError, LeakageError
from jaxneuro.manifest import Scan


@st.composite
def cohorts(draw):
    subjects = draw(st.integers(1, 60))
    scans = []
    for i in range(subjects):
        site = draw(st.sampled_from("ABD"))
        diagnosis, sex = draw(st.sampled_from(["CN", "AD", "PD"])), draw(st.sampled_from("FM"))
        age = draw(st.one_of(st.just(math.nan), st.floats(20, 90)))
        for session in range(draw(st.integers(1, 3))):
            scans.append(Scan(f"s{i:03d}", f"ses-{session}", site, age + session, sex, diagnosis, "", f"{i}-{session}"))
    return scans


@settings(max_examples=60, deadline=None)
@given(cohorts(), st.integers(0, 5), st.sampled_from([(0.15, 0.25), (0.0, 0.5), (0.3, 0.0)]))
def test_every_subject_is_in_exactly_one_fold(scans, seed, shares):
    ood = ("D",) if any(s.site == "D" for s in scans) else ()
    made = splits.make(scans, validation=shares[0], test=shares[1], ood_sites=ood, seed=seed)
    counted = Counter(s for subjects in made.subjects.values() for s in subjects)
    assert counted == Counter({s.subject for s in scans})
    held = {s.subject for s in scans if s.site in ood}
    assert set(made.subjects["ood"]) == held
    inside = len(counted) - len(held)
    assert len(made.subjects["test"]) == round(shares[1] * inside)
    assert len(made.subjects["validation"]) == round(shares[0] * inside)
    chosen = {fold: [scans[i] for i in splits.select(scans, made, fold)] for fold in splits.FOLDS}
    splits.check_disjoint(chosen)
    assert len(chosen["train"]) == sum(s.subject in made.subjects["train"] for s in scans)
    for fold in ("validation", "test", "ood"):
        assert sorted(s.subject for s in chosen[fold]) == sorted(made.subjects[fold])
        assert all(s.session == "ses-0" for s in chosen[fold])


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.integers(0, 3))
def test_smaller_fractions_are_part_of_larger_ones(scans, seed):
    made = splits.make(scans, seed=seed)
    size = len(made.subjects["train"])
    previous: set[str] = set()
    for fraction in (0.1, 0.5, 1.0):
        subjects = {scans[i].subject for i in splits.select(scans, made, "train", fraction=fraction)}
        assert previous <= subjects
        assert len(subjects) == math.ceil(fraction * size)
        previous = subjects


def test_folds_keep_the_share_of_every_stratum():
    # 40 of each of six diagnosis x sex strata, one age bin: exactly a quarter of each in test, to within one.
    scans = [
        Scan(f"{d}{x}{i}", age=65.0, sex=x, diagnosis=d) for d in ("CN", "AD", "PD") for x in "FM" for i in range(40)
    ]
    made = splits.make(scans, validation=0.2, test=0.25, seed=3)
    for fold, share in (("test", 10), ("validation", 8), ("train", 22)):
        count = Counter(s[:3] for s in made.subjects[fold])
        assert len(count) == 6
        assert all(abs(n - share) <= 1 for n in count.values()), (fold, count)
    tenth = Counter(s[:3] for s in made.subjects["train"][: math.ceil(0.1 * 132)])
    assert len(tenth) == 6
    assert max(tenth.values()) - min(tenth.values()) <= 1


def test_same_seed_same_folds_whatever_the_order_of_rows():
    scans = [Scan(f"s{i}", sex="FM"[i % 2], age=50.0 + i % 30, diagnosis="CN") for i in range(50)]
    assert splits.make(scans, seed=1) == splits.make(scans[::-1], seed=1)
    assert splits.make(scans, seed=1) != splits.make(scans, seed=2)


def test_written_splits_are_read_back(tmp_path):
    made = splits.make([Scan(f"s{i}") for i in range(20)])
    made.write(tmp_path / "s.json")
    assert splits.Splits.read(tmp_path / "s.json") == made
    (tmp_path / "s.json").write_text('{"subjects": {"train": []}, "seed": 0, "ood_sites": []}')
    with pytest.raises(InputError, match="found no fold"):
        splits.Splits.read(tmp_path / "s.json")


def test_first_session_is_the_earliest_by_age():
    scans = [Scan("s", "ses-b", age=70.0), Scan("s", "ses-a", age=71.0)]
    made = splits.Splits({"train": [], "validation": [], "test": ["s"], "ood": []}, 0, [])
    assert splits.select(scans, made, "test") == [0]
    assert splits.select(scans, made, "test", sessions="all") == [0, 1]
    assert splits.select(scans, made, "all") == [0, 1]


def test_guard_names_subjects_and_images():
    groups = {
        "training": [Scan("a", content_hash="x"), Scan("b", content_hash="y" * 64)],
        "test": [Scan("a", content_hash="z"), Scan("c", content_hash="y" * 64)],
    }
    with pytest.raises(LeakageError) as caught:
        splits.check_disjoint(groups)
    text = str(caught.value)
    assert "1 subject is in training and in test: a" in text
    assert "1 image is in training and in test: b = c (yyyyyyyyyyyy)" in text
    splits.check_disjoint({"training": groups["training"], "test": [Scan("c", content_hash="z")]})


def test_the_guard_knows_a_person_in_another_spelling():
    groups = {"training": [Scan("sub-001", content_hash="x"), Scan("S2")], "test": [Scan("1.0", content_hash="x")]}
    with pytest.raises(LeakageError, match=r"^leakage: 1 subject is in training and in test: sub-001 = 1\.0; exp"):
        splits.check_disjoint(groups)
    # A prefix keeps two studies apart whatever follows it.
    splits.check_disjoint({"training": [Scan("1"), Scan("S2")], "test": [Scan("ldm-1"), Scan("ldm-sub-1"), Scan("12")]})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"validation": 0.6, "test": 0.4}, "sum below 1"),
        ({"ood_sites": ["Z"]}, "which no scan has"),
        ({"ood_sites": ["A"]}, "were seen at a held-out site and at another"),
    ],
)
def test_impossible_splits_are_refused(keywords, message):
    scans = [Scan("s1", "1", "A"), Scan("s1", "2", "B"), Scan("s2", "1", "B")]
    with pytest.raises(InputError, match=message):
        splits.make(scans, **keywords)


@pytest.mark.parametrize(
    ("fold", "keywords", "message"),
    [
        ("tset", {}, "expected one of"),
        ("test", {"fraction": 0.5}, "of train"),
        ("train", {"fraction": 0.0}, "a share in"),
        ("train", {"sessions": "last"}, "expected 'all' or 'first'"),
    ],
)
def test_impossible_selections_are_refused(fold, keywords, message):
    made = splits.make([Scan("s1"), Scan("s2")])
    with pytest.raises(InputError, match=message):
        splits.select([Scan("s1")], made, fold, **keywords)
    with pytest.raises(InputError, match="are in no fold"):
        splits.select([Scan("s3")], made, "train")


def test_first_session_without_ages_counts_numbers_as_numbers():
    made = splits.Splits({"train": [], "validation": [], "test": ["s"], "ood": []}, 0, [])
    scans = [Scan("s", "m12"), Scan("s", "m6")]
    assert splits.select(scans, made, "test") == [1]
    # An age that one session lacks says nothing about the order.
    assert splits.select([Scan("s", "bl"), Scan("s", "m12", age=71.0)], made, "test") == [0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([1, 1, 2, 5, 60]), min_size=1, max_size=40), st.integers(0, 1000))
def test_folds_keep_unequal_strata_to_the_bound_that_is_stated(sizes, seed):
    scans = [Scan(f"{k}-{i}", age=65.0, sex="F", diagnosis=f"d{k}") for k, n in enumerate(sizes) for i in range(n)]
    made = splits.make(scans, seed=seed)
    for fold in ("train", "validation", "test"):
        count = Counter(s.split("-")[0] for s in made.subjects[fold])
        for k, n in enumerate(sizes):
            share = n * len(made.subjects[fold]) / len(scans)
            assert abs(count[str(k)] - share) < 1 + n * len(sizes) / len(scans) + 1e-9


def test_folds_that_a_study_publishes_are_kept_and_the_order_of_training_is_stratified():
    scans = [Scan(f"s{i:02d}", diagnosis=("CN", "AD")[i % 2]) for i in range(40)]
    folds = {s.subject: "test" if i >= 32 else "validation" if i >= 24 else "train" for i, s in enumerate(scans)}
    made = splits.given(scans, folds, seed=3)
    assert made.subjects["validation"] == [f"s{i}" for i in range(24, 32)]
    assert made.subjects["test"] == [f"s{i}" for i in range(32, 40)]
    assert made.subjects["ood"] == []
    assert sorted(made.subjects["train"]) == [f"s{i:02d}" for i in range(24)]
    assert made.subjects["train"] != sorted(made.subjects["train"])
    assert sum(int(s[1:]) % 2 for s in made.subjects["train"][:12]) == 6
    assert splits.given(scans[::-1], folds, seed=3) == made


def test_a_subject_without_a_published_fold_is_named():
    scans = [Scan("a"), Scan("b"), Scan("c")]
    with pytest.raises(InputError, match=r"subject b has fold 'dev' \(2 such in all\)"):
        splits.given(scans, {"a": "train", "b": "dev"})
    with pytest.raises(InputError, match="no subject in 'train'"):
        splits.given(scans[:1], {"a": "test"})
