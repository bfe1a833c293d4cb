"""A study to jobs: counts worked out by hand, what needs what, and how a study may not hang together."""

import dataclasses
import re
import textwrap
from collections import Counter
from pathlib import Path

import pytest

from jaxneuro import cli, configuration, models
from jaxneuro.errors import InputError
from jaxneuro.prepare import recipes
from jaxneuro.study import declared, plan, published
from jaxneuro.study.plan import Data, Run, Training
from jaxneuro.study.spec import Dataset, Pretraining, Row, Sheet, Task
from tests.conftest import CONFIGS
from tests.study.studies import TINY, small

OUT = Path("/s")
ROW, PRE = small().rows


def jobs(name):
    return plan.jobs(declared.read(str(CONFIGS / f"{name}.py")), OUT)


def kinds(some):
    return Counter(type(job).__name__ for job in some)


def test_the_small_study_by_hand():
    names = [job.name for job in plan.jobs(small(), OUT)]
    # Table 3 shares the runs of AD with Table 2. The first seed comes first.
    assert names == [
        "data/people",
        "data/outside",
        "pretraining/sex",
        *(
            f"runs/{task}/{row}/1/seed-{seed}"
            for seed in (0, 1)
            for task in ("ad", "age")
            for row in ("scratch", "sex")
        ),
    ]


def test_the_papers_study_by_hand():
    some = jobs("study_paper")
    # 13 rows of AD, 6 of age, 6 of PD, 10 of AD with a tenth: 35, two seeds each. Kinetics is converted, not trained.
    assert kinds(some) == {"Training": 6, "Run": 70}
    assert kinds(job for job in some if isinstance(job, Run) and job.fraction == 0.1) == {"Run": 20}
    assert {job.row for job in some if isinstance(job, Run)} == set(published.ROWS)
    by_name = {job.name: job for job in some}
    vit = by_name["runs/ad/vit-masked/1/seed-1"]
    assert vit.data == Path("data/adni96")
    assert vit.others == (("oasis96", Path("data/oasis96")),)
    assert vit.needs == ("pretraining/ukb-masked",)
    assert by_name["pretraining/ukb-masked"].data == Path("data/ukb96")
    swin = by_name["runs/ad/swin-kinetics/0.1/seed-0"].wanted()
    assert (swin.init.path, swin.data.fraction, swin.seed, swin.model.name) == ("weights/swin", 0.1, 0, "swin_t")


def test_the_synthetic_studies_by_hand():
    # 12 rows of AD at both fractions, 6 of age and of PD, 2 without each of three sites; two seeds.
    assert kinds(jobs("study_embedded")) == {"Data": 4, "Training": 6, "Run": 2 * (12 + 12 + 6 + 6 + 2 * 3)}
    # 3 rows of AD at both fractions, 2 of age, 1 without each of two sites.
    assert kinds(jobs("study_tiny")) == {"Data": 3, "Training": 1, "Run": 2 * (3 + 3 + 2 + 2)}


@pytest.mark.parametrize("name", ["study_embedded", "study_tiny"])
def test_the_networks_of_the_synthetic_studies_fit_their_volumes(name):
    shape = recipes.RECIPES["quick40"].shape
    for job in jobs(name):
        if isinstance(job, Training):
            keywords = job.wanted().model.to_dict()
            models.build(keywords.pop("name"), input_size=shape, in_channels=1, **keywords)


def test_a_run_says_all_that_it_needs():
    run = next(job for job in plan.jobs(small(), OUT) if job.name == "runs/ad/sex/1/seed-1")
    assert run.folder == OUT / "runs/ad/sex/1/seed-1"
    assert run.needs == ("data/people", "data/outside", "pretraining/sex")
    config = run.wanted()
    assert config.data.path == "/s/data/people/shards"
    assert config.init.path == "/s/pretraining/sex"
    assert config.seed == 1
    assert config.model.block_sizes == (1, 1)
    assert run.others == (("outside", OUT / "data/outside/shards"),)


def leaving(**fields):
    """Return the small study with a sheet of two sites, each left out, whose networks begin on other people."""
    sheet = Sheet(title="Sites", kind="sites", tasks=("ad",), sites=("B", "C.2"))
    pretrainings = {"sex": dataclasses.replace(small().pretrainings["sex"], dataset="outside")}
    datasets = {**small().datasets, "people": Dataset(title="People", path="/d/people")}
    return small(pretrainings=pretrainings, datasets=datasets, sheets={"sites": dataclasses.replace(sheet, **fields)})


def test_a_site_is_left_out_of_an_ordinary_run_and_tested_alone():
    study = leaving()
    declared.check(study)
    runs = [job for job in plan.jobs(study, OUT) if isinstance(job, Run)]
    assert [job.name for job in runs] == [
        f"runs/ad/{row}/without-{site}/seed-{seed}"
        for seed in (0, 1)
        for row in ("scratch", "sex")
        for site in ("B", "C.2")
    ]
    run = runs[-1]
    assert (run.folder, run.without, run.fraction, run.seed) == (OUT / run.name, "C.2", 1.0, 1)
    config = run.wanted()
    assert (config.data.leave_out, config.data.fraction) == (("C.2",), 1.0)
    assert run.others == ()  # no other dataset is tested on
    assert run.needs == ("pretraining/sex",)
    # Beside ordinary runs, which leave out nobody.
    both = dataclasses.replace(study, sheets={**study.sheets, "table2": small().sheets["table2"]})
    ordinary = [job for job in plan.jobs(both, OUT) if isinstance(job, Run) and not job.without]
    assert [job.wanted().data.leave_out for job in ordinary] == [()] * 4


def test_the_runs_of_a_sheet_of_probes_are_those_of_other_sheets_with_a_probe():
    probe = Sheet(title="Probe", kind="probe", tasks=("ad",), rows=("scratch",))
    sheets = {**small().sheets, "probe": probe, "sites": Sheet(title="", kind="sites", tasks=("ad",), sites=("B",))}
    study = small(sheets=sheets, fractions={1.0: (), 0.1: ()}, rows=(dataclasses.replace(ROW, overrides=TINY),))
    study = dataclasses.replace(study, sheets={**sheets, "t": dataclasses.replace(sheets["table2"], fractions=(0.1,))})
    declared.check(study)
    runs = [job for job in plan.jobs(study, OUT) if isinstance(job, Run) and job.seed == 1]
    assert {job.name.removeprefix("runs/").removesuffix("/seed-1"): job.probed for job in runs} == {
        "ad/scratch/1": True, "age/scratch/1": False, "ad/scratch/0.1": False, "ad/scratch/without-B": False,
    }  # fmt: skip
    config = runs[0].probe()
    assert (config.task.target, config.task.classes, config.seed) == ("site", ("*",), 1)
    assert config.data == runs[0].wanted().data


def test_jobs_come_after_what_they_need():
    for name in ("study_paper", "study_embedded", "study_tiny"):
        seen = set()
        for job in jobs(name):
            assert set(job.needs) <= seen
            assert job.name not in seen
            seen.add(job.name)


def test_the_last_of_several_overrides_counts():
    assert plan.merged(["a=1", "b=2", "a=3"]) == ("a=3", "b=2")
    fractions = {1.0: (), 0.5: ("data.batch_size=2",)}
    sheets = {"t": Sheet(title="", kind="fractions", tasks=("ad",), fractions=(1.0, 0.5))}
    study = small(fractions=fractions, sheets=sheets)
    sizes = {job.fraction: job.wanted().data.batch_size for job in plan.jobs(study, OUT) if isinstance(job, Run)}
    assert sizes == {1.0: 8, 0.5: 2}


def test_parts_of_the_runs_share_them_out_with_what_they_need():
    every = plan.jobs(small(), OUT)
    parts = [plan.part(every, share=(i, 3)) for i in (1, 2, 3)]
    runs = [[job.name for job in part if isinstance(job, Run)] for part in parts]
    assert [len(names) for names in runs] == [3, 3, 2]
    assert sorted(name for names in runs for name in names) == sorted(job.name for job in every if isinstance(job, Run))
    for part in parts:
        assert set().union(*(job.needs for job in part)) <= {job.name for job in part}
    assert [job.name for job in plan.part(every, ["runs/age/scratch/1/seed-0"])] == [
        "data/people",
        "runs/age/scratch/1/seed-0",
    ]
    with pytest.raises(InputError, match="--job: found 'runs/x'; expected one of data/people, data/outside, "):
        plan.part(every, ["runs/x"])


def test_what_no_row_begins_with_is_not_trained():
    rows = small().rows[:1]
    names = [job.name for job in plan.jobs(small(rows=rows), OUT)]
    assert not any(name.startswith("pretraining/") for name in names)


def changed(part, name, **fields):
    """Return the small study with one thing in a part of it changed."""
    of = getattr(small(), part)
    return small(**{part: {**of, name: dataclasses.replace(of[name], **fields)}})


@pytest.mark.parametrize(("study", "told"), [
    (changed("tasks", "ad", dataset="adni"), "tasks.ad.dataset: found 'adni'; expected one of people, outside"),
    (changed("tasks", "ad", zero_shot=("people",)), "tasks.ad.zero_shot: found 'people'; expected one of outside, ood"),
    (changed("tasks", "ad", config="configs/pretrain_masked.py"),
     "runs/ad/scratch/1/seed-0: found objective 'masked'; expected 'supervised'"),
    (changed("tasks", "ad", config="configs/finetune_x.py"), "found no file configs/finetune_x.py"),
    (changed("tasks", "ad", overrides=("training.epoch=1",)), "runs/ad/scratch/1/seed-0: --config.training.epoch"),
    (changed("tasks", "ad", overrides=("training.epochs",)), "found 'training.epochs'; expected KEY=VALUE"),
    (changed("pretrainings", "sex", dataset="ukb"), "pretrainings.sex.dataset: found 'ukb'; expected one of people"),
    (changed("pretrainings", "sex", weights="w"), "pretrainings.sex: found both; expected a config or weights"),
    (changed("pretrainings", "sex", overrides=("model.name=nit",)),
     "found the network tiny_densenet_testing on weights of nit (pretraining/sex); expected the same network"),
    (changed("datasets", "people", path="data/people"), "datasets.people: found both; expected a path or a cohort"),
    (changed("datasets", "people", cohort={"subject": 3}), "datasets.people.cohort: "),
    (changed("datasets", "people", prepare={"recipes": "quick40"}),
     "datasets.people.prepare: found recipes; expected among recipe, "),
    (small(datasets={**small().datasets, "ood": Dataset(title="", path="d")}), "datasets: found the name 'ood'"),
    (small(datasets={}), "datasets: found none"),
    (small(rows=(ROW, ROW)), "rows.scratch: found the name of a row before it"),
    (small(rows=(ROW, dataclasses.replace(ROW, name="b"))), "rows.b: found backbone and initial of a row before it"),
    (small(rows=(ROW, dataclasses.replace(ROW, name="b", initial="Anew"))), "rows.b: found a second row of Net from"),
    (small(rows=(ROW, dataclasses.replace(PRE, pretraining="mae"))), "rows.sex.pretraining: found 'mae'; expected one"),
    (small(rows=(dataclasses.replace(ROW, published="swin"),)), "rows.scratch.published: found 'swin'; expected one"),
    (small(rows=(dataclasses.replace(ROW, instead={"people": "x"}),)), "rows.scratch.instead: found 'x'"),
    (small(rows=(dataclasses.replace(ROW, name="a/b"),)), "rows: found the name 'a/b'; expected letters"),
    (changed("sheets", "table2", kind="table"), "sheets.table2.kind: found 'table'; expected one of metrics, tasks, "),
    (changed("sheets", "table2", tasks=("ad", "age")), "sheets.table2: found 2 tasks; expected one task"),
    (changed("sheets", "table2", tasks=("pd",)), "sheets.table2.tasks: found 'pd'; expected one of ad, age"),
    (changed("sheets", "table3", rows=("vit",)), "sheets.table3.rows: found 'vit'; expected one of scratch, sex"),
    (changed("sheets", "table3", fractions=(0.1,)), "sheets.table3.fractions: found '0.1'; expected one of 1.0"),
    (small(fractions={1.0: (), 1.5: ()}), "fractions: found 1.5; expected shares in (0, 1]"),
    (small(seeds=(0, 0)), "seeds: found [0, 0]; expected one or more, each once"),
    (small(resamples=0), "resamples: found 0"),
    (small(sheets={"values": small().sheets["table2"]}), "sheets: found the name 'values'; expected another"),
    (small(datasets={**small().datasets, "without-A": Dataset(title="", path="d")}),
     "datasets: found the name 'without-A'; expected another"),
    (changed("sheets", "table2", sites=("A",)), "sheets.table2.sites: found some; expected none in a sheet of metrics"),
    (leaving(sites=()), "sheets.sites.sites: found none; expected those to leave out"),
    (leaving(sites=("A/B",)), "sheets.sites.sites: found 'A/B'; expected letters, digits, '.', '_' and '-'"),
    (leaving(sites=("A", "A")), "sheets.sites.sites: found 'A'; expected letters, digits, '.', '_' and '-'"),
    (leaving(tasks=("ad", "age")), "sheets.sites: found 2 tasks; expected one task"),
    (changed("sheets", "table2", kind="sites", sites=("A", "Z"), rows=("scratch",)),
     "sheets.table2.sites: found 'Z'; expected one of A, B, C, D"),
    (changed("sheets", "table2", kind="sites", sites=("A",)),
     "sheets.table2.rows: found 'sex', whose first weights saw people of these sites (pretraining sex, on people)"),
    (small(fractions={1.0: (), 0.5: ()}, sheets={
        "p": Sheet(title="", kind="probe", tasks=("ad",), fractions=(0.5,))}),
     "sheets.p.fractions: found 0.5; expected 1.0 in a sheet of probe"),
], ids=lambda value: value[:40] if isinstance(value, str) else "")  # fmt: skip
def test_a_study_that_does_not_hang_together_is_refused(study, told):
    with pytest.raises(InputError) as error:
        declared.check(study)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_the_small_study_hangs_together():
    declared.check(small())


def test_files_that_declare_something_else_are_told_apart(tmp_path, capsys):
    assert cli.main(["study", "--config", str(CONFIGS / "smoke.py"), "--out", str(tmp_path)]) == 1
    assert "found a ConfigDict; expected a file whose get_config() returns a Study" in capsys.readouterr().err
    with pytest.raises(InputError, match="found a Study; expected the config of a run; a Study is for jaxneuro study"):
        configuration.read(str(CONFIGS / "study_tiny.py"))
    (tmp_path / "mine.py").write_text(
        "from jaxneuro.study.spec import Study\ndef get_config():\n    return Study(titel='x')\n"
    )
    with pytest.raises(InputError, match="titel"):
        declared.read(str(tmp_path / "mine.py"))


def test_shards_can_be_said_to_lie_elsewhere():
    study = declared.read(str(CONFIGS / "study_paper.py"), {"adni": "/data/adni"})
    run = next(job for job in plan.jobs(study, OUT) if job.name == "runs/ad/nit-scratch/1/seed-0")
    assert run.data == Path("/data/adni")
    with pytest.raises(InputError, match="--data: found 'oasis3'; expected one of ukb, "):
        declared.read(str(CONFIGS / "study_paper.py"), {"oasis3": "x"})


def test_a_file_of_ones_own_adds_a_sheet_to_the_papers_study(tmp_path):
    # As docs/study.md has it, word by word.
    text = (CONFIGS.parent / "docs" / "study.md").read_text().split("in a file of your own:\n\n")[1].split("\n\n**")[0]
    (tmp_path / "mine.py").write_text(textwrap.dedent(text))
    some = plan.jobs(declared.read(str(tmp_path / "mine.py")), OUT)
    left = [job for job in some if isinstance(job, Run) and job.without]
    assert len(left) == 2 * 3 * 2
    assert {job.wanted().data.leave_out for job in left} == {("127",), ("27",), ("13",)}


def test_folders_that_are_not_there_are_named(tmp_path):
    datasets = {**small().datasets, "outside": Dataset(title="Outside", path=str(tmp_path / "none"))}
    pretrainings = {"sex": Pretraining(weights=str(tmp_path))}
    told = plan.missing(plan.jobs(small(datasets=datasets, pretrainings=pretrainings), OUT))
    assert told == [f"--data outside: found no folder '{tmp_path / 'none'}'"]


def test_the_numbers_of_the_paper_are_those_of_its_tables():
    # Read off Tables 2, 3 and 4 again, apart from the file.
    for key, number in {
        ("densenet-ukb", "ad", 1.0, "test", "roc_auc"): (0.912, 0.005),
        ("densenet-ukb", "ad", 1.0, "zero-shot", "roc_auc"): (0.841, 0.006),
        ("densenet-bhb", "ad", 1.0, "test", "specificity"): (0.910, 0.002),
        ("swin-kinetics", "ad", 0.1, "test", "roc_auc"): (0.759, None),
        ("densenet-adni", "ad", 0.1, "test", "roc_auc"): (0.744, 0.084),
        ("swin-scratch", "age", 1.0, "test", "mae"): (16.37, None),
        ("densenet-ukb", "pd", 1.0, "zero-shot", "roc_auc"): (0.5205, None),
    }.items():
        assert published.NUMBERS[key] == number
    # 13 rows of five numbers, 6 of four more, 10 of one.
    assert len(published.NUMBERS) == 13 * 5 + 6 * 4 + 10


def test_a_task_may_be_tested_on_the_sites_that_its_own_data_hold_out():
    study = changed("tasks", "ad", zero_shot=("ood", "outside"))
    declared.check(study)
    run = next(job for job in plan.jobs(study, OUT) if isinstance(job, Run))
    assert run.others == (("outside", OUT / "data/outside/shards"),)  # the held-out sites come with the run's own test
    assert re.fullmatch(r"runs/ad/scratch/1/seed-0", run.name)


def test_a_network_of_another_size_takes_other_data():
    datasets = {**small().datasets, "large": Dataset(title="People", cohort={"subjects": 40})}
    row = Row(name="vit", backbone="ViT", initial="Scratch", overrides=TINY, instead={"people": "large"})
    task = Task(title="AD", config="configs/finetune_ad.py", dataset="people")
    sheets = {"t": Sheet(title="", kind="metrics", tasks=("ad",))}
    some = plan.jobs(small(datasets=datasets, rows=(row,), tasks={"ad": task}, sheets=sheets), OUT)
    assert [job.name for job in some if isinstance(job, Data)] == ["data/large"]
    assert some[-1].data == OUT / "data/large/shards"
