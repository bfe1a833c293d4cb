"""Sites that are left out: nobody seen there is learnt from, and they alone are the fold `ood`."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneuro import cli, manifest, records, splits
from jaxneuro.errors import InputError, LeakageError
from jaxneuro.evaluation import evaluate
from jaxneuro.manifest import Scan
from jaxneuro.training import experiment, journal, loop
from tests.conftest import box_scans, smoke_config, write_dataset

CARD = {"shape": [16, 16, 16, 1], "dtype": "float16"}
OTHER = "at another site, of a subject who was seen at a site that is left out, too"
OWN = "in the dataset's own fold 'ood', and not seen at a site that is left out"


def dataset(scans, folds):
    """Return a dataset of scans and {subject: fold} that is in memory alone."""
    return records.Dataset(Path("d"), CARD, scans, splits.given(scans, folds))


def sites(*names):
    return f"data.leave_out={names!r}"


@st.composite
def studies(draw):
    """Draw scans, of which some have no label and some people move between sites, and a fold for each subject."""
    scans, folds = [], {}
    for i in range(draw(st.integers(8, 40))):
        subject = f"s{i:02d}"
        # The first of each keep train and validation from being empty, and from having one class.
        held = i >= 8 and draw(st.booleans())
        folds[subject] = draw(st.sampled_from(splits.FOLDS)) if held else ("train", "validation")[i // 2 % 2]
        for visit in range(draw(st.integers(1, 3)) if held else 1):
            site = draw(st.sampled_from("ABCD")) if held else "A"
            diagnosis = draw(st.sampled_from(["CN", "AD", "PD", "n/a"])) if held else ("CN", "AD")[i % 2]
            scans.append(Scan(subject, f"ses-{visit}", site, 60.0 + visit, "F", diagnosis, "", f"{i}-{visit}"))
    return scans, folds


@settings(max_examples=60, deadline=None)
@given(studies(), st.sets(st.sampled_from("BCD"), min_size=1), st.sampled_from([1.0, 0.5]))
def test_nobody_of_a_left_out_site_is_learnt_from_and_they_alone_are_ood(study, left, fraction):
    scans, folds = study
    left &= {s.site for s in scans}
    if not left:
        return
    whole = experiment.on(smoke_config("d", f"data.fraction={fraction}"), dataset(scans, folds))
    parts = experiment.on(smoke_config("d", sites(*left), f"data.fraction={fraction}"), dataset(scans, folds))
    there = {s.subject for s in scans if s.site in left}
    for fold in ("train", "validation", "test"):
        inside = parts.scans(fold)
        assert not {s.subject for s in inside} & there
        assert all(folds[s.subject] == fold for s in inside)
        if fold != "train":  # of which a share is taken of those who are left
            assert inside == [s for s in whole.scans(fold) if s.subject not in there]
    # Of each of them the first scan there that has a label.
    first = {}
    for scan in scans:
        if scan.site in left and scan.diagnosis in ("CN", "AD"):
            first.setdefault(scan.subject, scan)
    assert parts.scans("ood") == list(first.values())
    # Every scan with a label is somewhere, or was counted.
    labelled = [s for s in scans if s.diagnosis in ("CN", "AD")]
    elsewhere = [s for s in labelled if s.subject in there and s.site not in left]
    own = [s for s in labelled if folds[s.subject] == "ood" and s.subject not in there]
    assert (parts.excluded[OTHER], parts.excluded[OWN]) == (len(elsewhere), len(own))
    assert sum(parts.excluded.values()) == len(scans) - len(labelled) + len(elsewhere) + len(own)


def test_a_subject_at_two_sites_by_hand():
    scans = [Scan(f"{fold}{i}", "1", "A", 60.0, "F", ("CN", "AD")[i % 2], "", f"{fold}{i}")
             for fold in ("train", "validation") for i in range(4)]  # fmt: skip
    scans += [
        Scan("moved", "1", "A", 60.0, "F", "CN", "", "m1"), Scan("moved", "2", "B", 61.0, "F", "CN", "", "m2"),
        Scan("moved", "3", "B", 62.0, "F", "AD", "", "m3"), Scan("held", "1", "C", 60.0, "F", "AD", "", "h"),
    ]  # fmt: skip
    folds = {s.subject: s.subject.rstrip("0123456789") for s in scans} | {"moved": "train", "held": "ood"}
    made = dataset(scans, folds)
    parts = experiment.on(smoke_config("d"), made)
    assert [len(parts.folds[f]) for f in splits.FOLDS] == [7, 4, 0, 1]
    parts = experiment.on(smoke_config("d", sites("B")), made)
    assert {fold: len(numbers) for fold, numbers in parts.folds.items()} == {
        "train": 4, "validation": 4, "test": 0, "ood": 1,
    }  # fmt: skip
    assert [(s.subject, s.session) for s in parts.scans("ood")] == [("moved", "2")]
    assert parts.excluded == {OTHER: 1, OWN: 1}


def test_sites_that_cannot_be_left_out_are_told():
    scans = [Scan(f"s{i}", "", "12" if i % 2 else "A", diagnosis="CN" if i % 4 < 2 else "AD", content_hash=str(i))
             for i in range(16)]  # fmt: skip
    made = dataset(scans, {s.subject: ("train", "validation")[i // 8] for i, s in enumerate(scans)})
    with pytest.raises(InputError, match=r"^data.leave_out: found Z, which no scan has; expected among 12, A$"):
        experiment.on(smoke_config("d", sites("A", "Z")), made)
    told = r"^d: fold 'train' is empty for task 'ad'; expected scans .*; left out: \{\}; leave out fewer sites$"
    with pytest.raises(InputError, match=told):
        experiment.on(smoke_config("d", sites("A", "12")), made)
    # As one types it; a number is a site's name, too.
    assert len(experiment.on(smoke_config("d", "data.leave_out=12"), made).scans("ood")) == 8
    assert len(experiment.on(smoke_config("d", "data.leave_out=A"), made).scans("ood")) == 8
    nowhere = dataset([dataclasses.replace(s, site="n/a") for s in scans], {s.subject: "train" for s in scans})
    with pytest.raises(InputError, match=r"found A, which no scan has; expected none, for no scan has a site$"):
        experiment.on(smoke_config("d", sites("A")), nowhere)


def test_classes_of_a_left_out_site_are_not_learnt():
    of_site = ("task.kind=multiclass", "task.target=site", "task.classes=('*',)", "task.ignore=()")
    scans = [Scan(f"s{i}", "", "ABC"[i % 3], content_hash=str(i)) for i in range(12)]
    made = dataset(scans, {s.subject: ("train", "validation")[i // 6] for i, s in enumerate(scans)})
    parts = experiment.on(smoke_config("d", *of_site, sites("B")), made)
    assert parts.tasks[0].classes == ("A", "C")
    assert parts.folds["ood"] == []


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run without site B, on a dataset whose own `ood` is site D."""
    folder = tmp_path_factory.mktemp("left")
    data = write_dataset(folder / "d", box_scans())
    loop.train(smoke_config(data, sites("B")), folder / "run")
    return folder / "run", data


def test_a_run_without_a_site_is_tested_on_it_and_goes_on(trained, capsys):
    run, data = trained
    # box_scans: every fourth subject is at B and one at D; a third of all have two sessions.
    seen = manifest.read(run / "scans.csv")
    assert {s.site for s in seen} == {"A", "C"}
    told = evaluate.evaluate(run, resamples=5)
    assert told["folds"]["ood"]["sites"] == ["B"]
    assert told["folds"]["ood"]["scans"] == told["folds"]["ood"]["subjects"] == 12
    assert told["folds"]["test"]["sites"] == ["A", "C"]
    assert {"reason": OWN, "scans": 16} in told["excluded"]
    # The same command finds it finished; another site is another run.
    assert loop.train(smoke_config(data, sites("B")), run)["step"]
    with pytest.raises(InputError, match=r"data.leave_out: \['B'\] there, \['C'\] here"):
        loop.train(smoke_config(data, sites("C")), run)
    command = ["evaluate", str(run), "--resamples", "5"]
    assert cli.main(command) == 0, capsys.readouterr().err


def test_who_was_pre_trained_on_is_refused_in_the_test_of_a_site(trained, tmp_path):
    run, data = trained
    with pytest.raises(LeakageError, match=r"and in ood"):
        loop.train(smoke_config(data, sites("A"), f"init.path={run}"), tmp_path / "next")
    # Who learnt without the site may be tested on it.
    loop.train(smoke_config(data, sites("B"), f"init.path={run}"), tmp_path / "next")


def test_a_run_of_before_there_was_the_key_goes_on_and_is_tested(boxes, tmp_path):
    config = smoke_config(boxes)
    old = config.to_dict()
    assert old["data"].pop("leave_out") == ()
    journal.claim(tmp_path / "run", old)
    parts = experiment.build(evaluate.read_config(tmp_path / "run"))
    assert parts.folds == experiment.build(config).folds
    assert {s.site for s in parts.scans("ood")} == {"D"}
    journal.check_config(tmp_path / "run", config.to_dict())
    with pytest.raises(InputError, match=r"data.leave_out: \[\] there, \['B'\] here"):
        journal.check_config(tmp_path / "run", smoke_config(boxes, sites("B")).to_dict())
