"""What a study refuses: tests of other data, maps and reports of another declaration, fields of other types."""

import dataclasses
import json
from pathlib import Path

import pytest

from jaxneuro import cli, records, whole
from jaxneuro.errors import InputError
from jaxneuro.study import declared, maps, plan, progress, publish, sections, work
from jaxneuro.study.spec import Dataset, Sheet
from jaxneuro.study.tables import Table
from jaxneuro.training import journal
from tests.study.studies import small, write_config, write_tested

AD = {"name": "ad", "kind": "binary"}


def first_run(study, out):
    return next(job for job in plan.jobs(study, out) if isinstance(job, plan.Run) and job.task == "ad")


def write_run(job, *, resamples=2000):
    """Write a tested run: its config, and what it found on its own data and elsewhere, with the cards' hashes."""
    write_config(job)
    for name, (folder, shards) in progress.evaluations(job).items():
        write_tested(folder, "ood" if name else "test", AD, {"roc_auc": 1.0}, [1, 0], [0.7, 0.2])
        card = (shards or job.data) / "card.json"
        card.parent.mkdir(parents=True, exist_ok=True)
        if not card.is_file():
            whole.write_json(card, {"name": str(name)} | dict.fromkeys(journal.SEALS, "a"))
        told = json.loads((folder / "metrics.json").read_text())
        told["data"]["card_sha256"] = records.file_sha256(card)
        told["interval"]["resamples"] = resamples
        whole.write_json(folder / "metrics.json", told)


def test_a_test_of_another_dataset_is_refused(tmp_path):
    job = first_run(small(), tmp_path)
    write_run(job)
    progress.check(job)
    other = tmp_path / "data" / "outside" / "shards" / "card.json"
    whole.write_json(other, {"name": "made anew"} | dict.fromkeys(journal.SEALS, "b"))
    with pytest.raises(
        InputError, match=r"evaluation-outside/metrics\.json: tested another dataset than .*outside/shard"
    ):
        progress.check(job)


def test_another_number_of_resamples_is_refused(tmp_path):
    job = first_run(small(), tmp_path)
    write_run(job, resamples=500)
    with pytest.raises(InputError, match=r"has intervals of 500 resamples; expected 2000, as the study says; delete"):
        progress.check(job)


def test_a_report_of_another_declaration_is_refused(tmp_path):
    write_run(first_run(small(), tmp_path))
    changed = dataclasses.replace(small(), fractions={1.0: ("training.epochs=50",)})
    with pytest.raises(InputError, match=r"training\.epochs: 30 there, 50 here"):
        publish.write(changed, tmp_path)


def test_a_report_of_no_folder_is_refused(tmp_path, capsys):
    (tmp_path / "mine.py").write_text("from tests.study.studies import small\nget_config = small\n")
    command = ["study", "--config", str(tmp_path / "mine.py"), "--out", str(tmp_path / "typo"), "--report"]
    assert cli.main(command) == 1
    assert "typo: found no such folder; expected that of a study" in capsys.readouterr().err
    assert not (tmp_path / "typo").exists()


def test_maps_that_were_made_otherwise_are_not_those_that_are_asked_for(tmp_path):
    sheets = {"figure4": Sheet(title="Maps", kind="maps", tasks=("ad",))}
    job = first_run(small(sheets=sheets, maps={"patch": 4}), tmp_path)
    progress.maps(job).parent.mkdir(parents=True)
    whole.write_json(progress.maps(job), {})
    assert not progress.mapped(job)
    whole.write_json(progress.maps(job).with_name(progress.ASKED), job.maps)
    assert progress.mapped(job)
    assert not progress.mapped(first_run(small(sheets=sheets, maps={"patch": 5}), tmp_path))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"patch": 100}, "maps: patch: found"),
        ({"stride": 0}, "maps: stride: found"),
        ({"method": "occlusio"}, "maps: method: found 'occlusio'"),
        ({"scans": "two"}, "maps.scans: found 'two'; expected a whole number of at least 1"),
    ],
)
def test_maps_that_cannot_be_made_are_told_before_anything_runs(given, told):
    with pytest.raises(InputError) as e:
        maps.check(given, (40, 40, 40))
    assert str(e.value).startswith(told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seeds": 3}, "study.seeds: found 3; expected a tuple"),
        ({"resamples": "many"}, "study.resamples: found 'many'; expected a whole number"),
        ({"fractions": {1.0: "training.epochs=2"}}, "study.fractions.1.0: found 'training.epochs=2'; expected a tuple"),
        (
            {"sheets": {"t": Sheet(title="T", kind="metrics", tasks="ad")}},
            "study.sheets.t.tasks: found 'ad'; expected a tuple such as",
        ),
        ({"fractions": {0.5: (), 0.50000001: ()}}, "fractions: found [0.5, 0.50000001]; expected shares that differ"),
        (
            {"datasets": {n: Dataset(title="People", cohort={"subjects": 20}) for n in ("people", "outside")}},
            "datasets.outside.title: found 'People', that of people",
        ),
        (
            {
                "datasets": small().datasets
                | {"people": Dataset(title="People", cohort={"subjects": 40}, prepare={"recipe": "nope"})}
            },
            "datasets.people.prepare: ",
        ),
        (
            {
                "datasets": small().datasets
                | {"people": Dataset(title="People", cohort={"subjects": 40}, prepare={"skip": "bias"})}
            },
            "datasets.people.prepare: skip: found 'bias'; expected a tuple",
        ),
    ],
)
def test_fields_that_make_no_sense_are_named(tmp_path, monkeypatch, changes, told):
    (tmp_path / "mine.py").write_text("from tests.study.test_refusals import made\nget_config = made\n")
    monkeypatch.setattr("tests.study.test_refusals.made", lambda: small(**changes), raising=False)
    with pytest.raises(InputError) as e:
        declared.read(str(tmp_path / "mine.py"))
    assert str(e.value).startswith(told)


def test_a_folder_without_a_card_is_no_dataset(tmp_path):
    job = plan.Job(name="x", folder=tmp_path / "x", outside=((tmp_path, "--data adni"),))
    assert plan.missing([job]) == [f"--data adni: found no card.json in '{tmp_path}'"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda f: (f / "predictions.csv").write_text("fold,subject,session,target,prediction\n"), "found 2 scans of"),
        (lambda f: cut(f / "metrics.json", lambda told: told["folds"].pop("test")), "found no scans of 'test'"),
    ],
)
def test_results_that_contradict_each_other_are_named(tmp_path, damage, told):
    study = small(sheets={"t": Sheet(title="T", kind="metrics", tasks=("ad",))})
    job = first_run(study, tmp_path)
    write_run(job)
    for folder, _ in progress.evaluations(job).values():
        cut(folder / "metrics.json", lambda told: [fold.update(scans=2) for fold in told["folds"].values()])
    damage(job.folder / "evaluation")
    with pytest.raises(InputError, match=told):
        publish.write(study, tmp_path)


def cut(path, change):
    told = json.loads(path.read_text())
    change(told)
    whole.write_json(path, told)


def test_every_table_has_a_file_of_its_own():
    same = [Table(title, ("a",), (("1",),)) for title in ("First", "患者", "健康", "People", "People")]
    found = publish.named(sections.Section("data", "Data", tables=tuple(same)))
    assert list(found) == ["data", "data-1", "data-2", "data-people", "data-people-4"]
    assert list(found.values()) == same


def test_a_named_job_that_is_no_run_stays_in_every_part():
    every = plan.jobs(small(), Path("study"))
    names = ["data/outside", plan.run_name("age", "scratch", 1.0, 0), plan.run_name("age", "scratch", 1.0, 1)]
    first, second = (plan.part(every, names, (i, 2)) for i in (1, 2))
    assert [job.name for job in first] == ["data/people", "data/outside", names[1]]
    assert [job.name for job in second] == ["data/people", "data/outside", names[2]]


def test_maps_are_made_anew_where_they_are_of_other_settings(tmp_path, monkeypatch):
    sheets = {"figure4": Sheet(title="Maps", kind="maps", tasks=("ad",))}
    job = first_run(small(sheets=sheets, maps={"patch": 4, "scans": 2}), tmp_path)
    write_run(job)
    folder, asked = progress.maps(job).parent, []

    def explain(workdir, settings, *, out, **others):
        asked.append((workdir, settings.patch, others))
        assert [p.name for p in out.iterdir()] == [progress.ASKED]
        whole.write_json(out / "occlusion.json", {})

    monkeypatch.setattr(work.loop, "train", lambda config, workdir: None)
    monkeypatch.setattr(work.occlusion, "occlusion", explain)
    work._run(job, work.Means())
    work._run(job, work.Means())
    assert asked == [(job.folder, (4,), {"scans": 2})]
    (folder / "untrained-all.png").write_text("of before")
    again = first_run(small(sheets=sheets, maps={"patch": 5, "scans": 2}), tmp_path)
    work._run(again, work.Means())
    assert asked[1:] == [(job.folder, (5,), {"scans": 2})]
    assert not (folder / "untrained-all.png").exists()


def test_maps_that_somebody_made_by_hand_are_not_deleted(tmp_path, monkeypatch):
    job = first_run(small(sheets={"f": Sheet(title="Maps", kind="maps", tasks=("ad",))}, maps={"patch": 4}), tmp_path)
    write_run(job)
    progress.maps(job).parent.mkdir()
    whole.write_json(progress.maps(job), {"patch": [3, 3, 3]})
    monkeypatch.setattr(work.loop, "train", lambda config, workdir: None)
    with pytest.raises(InputError, match=r"occlusion-ad/occlusion\.json: found maps that somebody made by hand"):
        work._run(job, work.Means())
    assert json.loads(progress.maps(job).read_text()) == {"patch": [3, 3, 3]}


def test_what_fails_after_the_test_says_what_it_was(tmp_path, monkeypatch):
    sheets = {"probe": Sheet(title="Site", kind="probe", tasks=("ad",))}
    job = first_run(small(sheets=sheets), tmp_path)
    write_run(job)

    def fail(*_, **__):
        raise InputError("task.classes: found ['C']; expected 2 or more")

    monkeypatch.setattr(work.loop, "train", lambda config, workdir: None)
    monkeypatch.setattr(work.probe, "probe", fail)
    with pytest.raises(InputError, match=r"probe for the site: task\.classes: found \['C'\]"):
        work._run(job, work.Means())
    assert progress.tested(job)
    assert not progress.finished(job)
