"""The report of a study: what it says is in its folder, the same in HTML, Markdown and CSV, whole in a browser."""

import base64
import csv
import io
import os
import re
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
from PIL import Image

from jaxneuro import whole
from jaxneuro.errors import InputError
from jaxneuro.study import checklist, costs, gather, maps, plan, progress, publish, published
from jaxneuro.study.spec import Dataset, Row, Sheet, Study, Task
from tests import browser
from tests.conftest import CONFIGS
from tests.study.studies import TINY, small, write_tested
from tests.study.test_results import FOUND, write_ad, write_age

#: Widths of a phone, a tablet and a desk, in pixels.
WIDTHS = (390, 820, 1440)


def write_by_hand(tmp_path):
    """Write the folder of a study: one run of age is missing, its job failed."""
    for row, seed in FOUND:
        write_ad(tmp_path, row, seed)
        if (row, seed) != ("sex", 1):
            write_age(tmp_path, row, seed)
    study = small()
    board = progress.Board(tmp_path)
    jobs = {job.name: job for job in plan.jobs(study, tmp_path)}
    board.fail(jobs[plan.run_name("age", "sex", 1.0, 1)], OSError("no <space> left"))
    costs.add(board.folder(jobs[plan.run_name("ad", "sex", 1.0, 0)]), 90.0, [SimpleNamespace(device_kind="cpu")])
    for name in ("ad", "age"):
        whole.write_json(
            jobs[plan.run_name(name, "scratch", 1.0, 0)].folder / "run.json",
            {
                "versions": {"jaxneuro": "0.1.0", "jax": "1.2.3"}, "parameters": 12_345, "devices": "1 x cpu",
                "folds": {"train": 20, "validation": 7, "test": 5},
                "excluded": [{"reason": "diagnosis is 'PD' & ignored", "scans": 3}],
            },
        )  # fmt: skip
    return tmp_path


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A study's folder with its report; nothing here changes it."""
    folder = write_by_hand(tmp_path_factory.mktemp("study"))
    publish.write(small(), folder, "configs/mine.py")
    return folder


def page_of(study, out):
    publish.write(study, out, "configs/mine.py")
    return (out / "report.html").read_text()


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_the_same_in_three_forms_and_again_the_same_bytes(out):
    before = {p: p.read_bytes() for p in out.rglob("*") if p.suffix in (".html", ".md", ".csv", ".svg", ".pdf")}
    tables = publish.write(small(), out, "configs/mine.py")
    assert {p: p.read_bytes() for p in before} == before
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert [t.title for t in tables] == [
        "AD by row", "AD by row: differences from scratch", "Tasks", "Tasks: differences from scratch",
    ]  # fmt: skip
    assert rows_of(out / "csv" / "table2.csv") == [list(tables[0].columns), *map(list, tables[0].rows)]
    assert {"values.csv", "comparisons.csv", "asked.csv", "checklist.csv", "time.csv", "paper.csv"} <= {
        p.name for p in (out / "csv").iterdir()
    }
    for cell in (cell for table in tables for row in table.rows for cell in row):
        assert f">{cell}<" in page.replace("&lt;", "<").replace("&#39;", "'")
        assert f" {cell.replace('<', '&lt;')} " in text
    for name in re.findall(r"csv/[\w-]+\.csv", page):
        assert (out / name).is_file()
    for name in re.findall(r"figures/[\w.-]+\.svg", text):
        ET.parse(out / name)
    assert f"jaxneuro study --config configs/mine.py --out {out}" in page
    assert text.count("\n# ") + text.startswith("# A small study") == 1


def test_it_says_what_is_missing_what_failed_and_what_is_synthetic(tmp_path, out):
    page = (out / "report.html").read_text()
    assert "Not finished: 1 of 8 runs" in page
    assert "no &lt;space&gt; left" in page
    assert "<space>" not in page
    assert "SYNTHETIC DATA: People, Outside." in page
    assert "Not comparable" in page
    for row, seed in FOUND:
        write_ad(tmp_path, row, seed, synthetic=False)
    page = page_of(small(title="A <b>bold</b> | study", sheets={"table2": small().sheets["table2"]}), tmp_path)
    assert "<b>" not in page
    assert "A &lt;b&gt;bold&lt;/b&gt; | study" in page
    assert "SYNTHETIC" not in page
    assert "synthetic" not in page
    assert "Not finished" not in page
    assert "Comparable as far as the scans are" in page
    head, *rows = rows_of(tmp_path / "csv" / "paper.csv")
    assert head[-1] == "Here less paper"
    assert ["Net", "Scratch", "scratch", "People: ROC AUC", "0.833 (0.000)", "0.901 (0.030)", "-0.068"] in rows


def test_the_papers_numbers_stand_beside_those_of_the_row_that_names_them(out):
    head, *rows = rows_of(out / "csv" / "paper.csv")
    assert head == ["Backbone", "Initial", "In the paper", "What", "Here: mean (SD)", "Paper: mean (SD)"]
    assert ["Net", "Scratch", "scratch", "People: ROC AUC", "0.833 (0.000)", "0.901 (0.030)"] in rows
    assert ["Net", "Scratch", "scratch", "Age, People: MAE (years)", "3.000 (1.414)", "4.837"] in rows
    assert {row[1] for row in rows} == {"Scratch"}
    assert set(published.STARTS) == set(published.ROWS)


def test_the_hours_the_checklist_and_who_took_part(out):
    hours = {row[0]: row for row in rows_of(out / "csv" / "time.csv")}
    assert hours["Runs of sex"] == ["Runs of sex", "1 of 4", "0.03", "0.03"]
    items = {row[0]: row[3] for row in rows_of(out / "csv" / "checklist.csv")[1:]}
    assert len(items) == len(checklist.ITEMS)
    assert "AD 3, Age 3" in items["11"]
    assert "tests of as few as 4 scans" in items["26"]
    assert items["18a"] == checklist.AUTHORS
    # The datasets of this folder are not there, so nobody says that all is synthetic.
    assert items["17"] == checklist.AUTHORS
    counts = rows_of(out / "csv" / "data.csv")
    assert ["AD", "training, 100%", "20", ""] in counts
    assert ["Age", "validation", "7", ""] in counts


def test_views_that_change_nothing_are_not_called_views(tmp_path):
    for overrides, views in (
        ((), "flip, shift"),
        (("augment.shift.voxels=0",), "flip"),
        (("augment.flip.probability=0.0",), "shift"),
    ):
        rows = (Row(name="scratch", backbone="Net", initial="Scratch", overrides=(*TINY, *overrides)),)
        folder = write_by_hand(tmp_path / views)
        publish.write(small(rows=rows), folder, "configs/mine.py")
        items = {row[0]: row[3] for row in rows_of(folder / "csv" / "checklist.csv")[1:]}
        assert items["12b"].endswith(f"Views in training: {views}.")


def test_a_dataset_that_is_there_is_described(boxes, tmp_path):
    study = Study(
        title="Boxes", datasets={"boxes": Dataset(title="Boxes", path=str(boxes))},
        rows=(Row(name="one", backbone="Net", initial="Scratch", overrides=TINY),),
        tasks={"ad": Task(title="AD", config=str(CONFIGS / "finetune_ad.py"), dataset="boxes")},
        sheets={"t": Sheet(title="AD", kind="metrics", tasks=("ad",))},
    )  # fmt: skip
    page = page_of(study, tmp_path)
    assert "Boxes: who is in each fold" in page
    first = rows_of(tmp_path / "csv" / "data.csv")
    assert first[1][0] == "Boxes"
    [folds] = [p for p in (tmp_path / "csv").glob("data-*.csv") if "who-is-in-each-fold" in p.name]
    listed = {row[0]: int(row[1]) for row in rows_of(folds)[1:]}
    assert sum(listed.values()) == int(first[1][3])
    assert "SYNTHETIC" in page


def test_maps_are_scored_and_shown(tmp_path):
    study = small(sheets={"figure4": Sheet(title="Maps", kind="maps", tasks=("ad",))}, maps={"patch": 4, "scans": 2})
    of = {"share": 0.4, "auc": 0.9, "size_share": 0.3, "size_auc": 0.8, "distance_mm": 2.0}
    for job in (j for j in plan.jobs(study, tmp_path) if isinstance(j, plan.Run)):
        assert (job.maps is not None) == (job.seed == 0)
        write_tested(job.folder / "evaluation", "test", {"name": "ad", "kind": "binary"}, {}, [1, 0], [0.7, 0.2])
        write_tested(job.folder / "evaluation-outside", "ood", {"name": "ad", "kind": "binary"}, {}, [1, 0], [0.7, 0.2])
        if job.maps is None:
            continue
        # What it was tested for counts before its maps are there.
        assert not progress.finished(job)
        assert gather.Key(job.task, job.row, 1.0, "test") in gather.gather(study, tmp_path)
        truth = {
            "trained": {"group_map": of, "mean_of_scans": {"hit": 0.5}},
            "random": {"mean": {**of, "share": 0.1}, "percentile_95": {"auc": 0.6}},
            "chance": {"hit": 0.05, "share": 0.1},
        }
        told = {
            "method": "occlusion", "explains": "logit of AD", "task": {"name": "ad"}, "fold": "test",
            "groups": {"all": {"scans": 4, "truth": truth, "peak_mm": [1.0, 2.0, 3.0]}}, "tolerance_mm": 5.0,
            "patch": [4, 4, 4], "stride": [2, 2, 2], "data": {"synthetic": True},
        }  # fmt: skip
        progress.maps(job).parent.mkdir()
        whole.write_json(progress.maps(job), told)
        assert not progress.finished(job)
        whole.write_json(progress.maps(job).with_name(progress.ASKED), job.maps)
        Image.new("RGB", (30, 10), "red").save(progress.maps(job).parent / "all.png")
        assert progress.finished(job)
    page = page_of(study, tmp_path)
    assert rows_of(tmp_path / "csv" / "figure4.csv")[1][:5] == ["Net", "Scratch", "4", "trained", "0.40"]
    assert [row[1] for row in rows_of(tmp_path / "csv" / "figure4.csv")[1:]] == ["Scratch", "Scratch", "Sex", "Sex"]
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="Net, (Scratch|Sex)\.', page)
    assert [name for _, name in images] == ["Scratch", "Sex"]
    for content, _ in images:
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (30, 10)
    assert "](runs/ad/scratch/1/seed-0/occlusion-ad/all.png)" in (tmp_path / "report.md").read_text()


def test_a_misspelt_key_of_maps_is_told():
    with pytest.raises(InputError, match="maps: found pach; expected among method, patch, stride"):
        maps.keywords({"pach": 3})
    settings, others = maps.keywords({"patch": 8, "stride": (4, 4, 2), "scans": 3, "untrained": True})
    assert (settings.patch, settings.stride, others) == ((8,), (4, 4, 2), {"scans": 3, "untrained": True})


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser_nothing_sticks_out_and_nothing_is_fetched(out, tmp_path_factory, width):
    if not browser.find() and os.environ.get("CI") != "true":
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("browser")
    seen = browser.look((out / "report.html").read_text(), folder, width, picture=folder / "page.png")
    assert seen["scrolls_to"] == seen["width"]
    assert seen["wide"] == []
    assert seen["fetched"] == []
    assert seen["text"] >= 12
    assert seen["headings"][:2] == ["What was asked", "Data and folds"]
    assert seen["svg"]
    assert all(box[0] > 250 and box[1] > 150 for box in seen["svg"])
    assert (folder / "page.png").stat().st_size > 10_000
