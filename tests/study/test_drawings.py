"""Figures of a study: what is drawn is what was found, on every canvas there is room, the same bytes each time."""

import dataclasses
import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score, roc_curve

from jaxneuro.study import compare, drawings, plan, results
from jaxneuro.study.compare import Estimate
from jaxneuro.study.figures import ages, bands, curves, panels, spider, style
from jaxneuro.study.gather import Found, Key
from jaxneuro.study.plan import Run
from jaxneuro.study.spec import Row, Sheet
from tests.study.studies import TINY, small

KINDS = {"ad": "binary", "age": "regression"}
WIDE = np.array([1.0] * 20 + [0.0] * 20)


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Draw few resamples: the figures under test need a band, not a smooth one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bands, "BAND_RESAMPLES", 40)
        patch.setattr(compare, "RESAMPLES", 40)
        yield


def binary(seed, better, *, seeds=2, target=WIDE):
    """Return what networks found that tell classes apart by so much."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(seeds, len(target))) + better * target
    predictions = 1 / (1 + np.exp(-scores + better / 2))
    metrics = {"roc_auc": np.array([roc_auc_score(target, p) for p in predictions])}
    scans = tuple((f"s{i}", "") for i in range(len(target)))
    return Found(tuple(range(seeds)), "binary", metrics, scans, target, predictions, True, 0.95)


def of_age(seed, error, *, seeds=2, n=30):
    """Return what networks found of ages, which are so many years off, and lean towards 70."""
    rng = np.random.default_rng(seed)
    target = np.linspace(55, 90, n)
    predictions = 70 + 0.7 * (target - 70) + error * rng.normal(size=(seeds, n))
    metrics = {"mae": np.abs(predictions - target).mean(1), "mae_of_mean": np.full(seeds, 8.75)}
    scans = tuple((f"s{i}", "") for i in range(n))
    return Found(tuple(range(seeds)), "regression", metrics, scans, target, predictions, False, 0.95)


FOUND = {
    Key("ad", "scratch", 1.0, "test"): binary(0, 1.0),
    Key("ad", "sex", 1.0, "test"): binary(1, 2.0),
    Key("ad", "scratch", 1.0, "outside"): binary(2, 0.8),
    Key("ad", "sex", 1.0, "outside"): binary(3, 1.5),
    Key("age", "scratch", 1.0, "test"): of_age(4, 6.0),
    Key("age", "sex", 1.0, "test"): of_age(5, 3.0),
}


def several(study, found):
    """Return the result of each sheet."""
    made = {}
    for name, sheet in study.sheets.items():
        columns = results.columns(study, sheet, KINDS)
        values = {
            (row.name, column): compare.estimate(found[column.of(row)], column.metric)
            for row in study.rows_of(sheet) for column in columns if column.of(row) in found
        }  # fmt: skip
        made[name] = results.Result(sheet, columns, values, {})  # comparisons are not drawn
    return made


def draw(out, study, found=FOUND, *, files=False):
    """Draw a study; returns its pictures and its figures by name. Without `files` nothing is rendered."""
    figures, to_svg, to_pdf = {}, style.to_svg, style.to_pdf

    def note(figure, key, described):
        figures[key.removeprefix("figure-")] = figure
        return to_svg(figure, key, described) if files else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "to_svg", note)
        patch.setattr(style, "to_pdf", to_pdf if files else lambda figure: b"")
        return {p.name: p for p in drawings.write(study, out, several(study, found), found)}, figures


@pytest.fixture(scope="module")
def plots(tmp_path_factory):
    """Draw the small study, for several tests to look at."""
    return draw(tmp_path_factory.mktemp("plots"), small(), files=True)


def fractions(**rows):
    """Return a study of one sheet of fractions."""
    sheet = Sheet(title="Shares", kind="fractions", tasks=("ad",), fractions=(1.0, 0.1))
    return small(fractions={1.0: (), 0.1: ()}, sheets={"table4": sheet}, **rows)


def with_aucs(found, values):
    return dataclasses.replace(found, metrics={"roc_auc": np.array(values)}, seeds=tuple(range(len(values))))


def test_a_spider_has_a_polygon_a_row_on_axes_of_their_own(plots):
    made, figures = plots
    [axes] = figures["table3-spider"].axes
    scratch, sex = axes.lines
    values = {
        row: [FOUND[Key(task, row, 1.0, name)].metrics[metric].mean() for task, name, metric in (
            ("ad", "test", "roc_auc"), ("ad", "outside", "roc_auc"), ("age", "test", "mae"),
        )]
        for row in ("scratch", "sex")
    }  # fmt: skip
    labels = [text.get_text() for text in axes.texts if text.get_text()]
    printed = [tuple(map(float, label.split("\n")[-1].split(" to "))) for label in labels]
    assert [label.split("\n")[-2] for label in labels] == ["ROC AUC", "ROC AUC", "MAE (years)"]
    assert printed[2][0] > printed[2][1]  # of errors, the smaller is at the rim
    assert printed[0][0] < printed[0][1]
    for line, row in ((scratch, "scratch"), (sex, "sex")):
        angles, reach = line.get_data()
        np.testing.assert_allclose(angles, [0, 2 * math.pi / 3, 4 * math.pi / 3, 0])
        expected = [(v - c) / (r - c) for v, (c, r) in zip(values[row], printed, strict=True)]
        np.testing.assert_allclose(reach, [*expected, expected[0]])
        assert 0 <= min(reach) <= max(reach) <= 1
    assert scratch.get_markerfacecolor() == "white"
    assert scratch.get_linestyle() == "--"
    assert sex.get_linestyle() == "-"
    assert "Each axis has a range of its own" in made["table3-spider"].caption


@pytest.mark.parametrize(
    ("values", "lower_is_better", "expected"),
    [
        ([0.849, 0.924], False, (0.82, 0.94)),  # steps of 0.02, a quarter of the spread below
        ([3.582, 16.37], True, (20.0, 0.0)),
        ([0.5, 0.9], False, (0.4, 0.9)),
        ([0.99, 1.0], False, (0.985, 1.0)),
        ([0.8], False, (0.78, 0.8)),  # one row: a tenth of it stands for the spread
    ],
)
def test_ranges_have_round_ends_that_hold_the_values(values, lower_is_better, expected):
    highest = math.inf if lower_is_better else 1.0
    found = spider.axis_range(values, lower_is_better=lower_is_better, highest=highest)
    assert found == pytest.approx(expected)
    assert all(0 <= found.of(value) <= 1 for value in values)


@pytest.mark.parametrize("count", range(3, 11))
def test_no_label_of_a_spider_lies_on_another_or_on_the_circle(count):
    row = Row(name="r", backbone="Net", initial="Scratch", overrides=TINY)
    titles = ("AD classification, Outside (0-shot)", "Brain age, Patients", "PD")
    parts = [
        panels.Slice(
            titles[i % 3],
            "roc_auc",
            "ROC AUC",
            (row,),
            {"r": binary(0, 1.0)},
            {"r": Estimate(0.5 + i / 50, 0.1, 2, 0.4, 0.9)},
        )
        for i in range(count)
    ]
    with style.page_style(**style.SMALL):
        figure = spider.spider(parts, [row], [False] * count).figure
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts if text.get_text()]
    assert len(boxes) == count
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    circle = figure.axes[0].get_window_extent()
    middle, radius = np.array([circle.x0 + circle.x1, circle.y0 + circle.y1]) / 2, circle.width / 2
    nearest = [np.clip(middle, box.min, box.max) for box in boxes]
    assert min(np.linalg.norm(at - middle) for at in nearest) > radius


def test_many_rows_have_a_panel_a_backbone_and_a_missing_one_a_gap(tmp_path):
    rows = tuple(
        Row(name=f"{b}-{i}", backbone=b, initial=i, pretraining="" if i == "Scratch" else "sex", overrides=TINY)
        for b in ("Swin-T", "3D DenseNet121", "MiNiT") for i in ("Scratch", "Sex")
    )  # fmt: skip
    study = small(rows=rows)
    found = {Key(*k[:1], row.name, *k[2:]): v for row in rows for k, v in FOUND.items() if k.row == "sex"}
    del found[Key("age", "MiNiT-Sex", 1.0, "test")]
    made, figures = draw(tmp_path, study, found)
    axes = figures["table3-spider"].axes
    assert [len(panel.lines) for panel in axes] == [2, 2, 2]
    assert np.isnan(axes[2].lines[1].get_ydata()).tolist() == [False, False, True, False]
    assert "A gap: no value (MiNiT, Sex)." in made["table3-spider"].caption
    # The legend has each start once.
    assert [text.get_text() for text in figures["table3-spider"].legends[0].get_texts()] == ["Scratch", "Sex"]


def test_fewer_than_three_axes_are_dots_with_intervals(tmp_path):
    study = small(sheets={"two": Sheet(title="Two", kind="tasks", tasks=("ad",))})
    made, figures = draw(tmp_path, study)
    caption = made["two-spider"].caption
    assert "2 axes make no polygon, so dots stand in for a spider plot" in caption
    first, _ = figures["two-spider"].axes
    of = several(study, FOUND)["two"].values
    estimates = [
        of[name, next(c for c in several(study, FOUND)["two"].columns if c.set == "test")]
        for name in ("scratch", "sex")
    ]
    ends = [line.get_xdata() for line in first.lines if len(line.get_xdata()) == 2]
    dots = [line.get_xdata()[0] for line in first.lines if len(line.get_xdata()) == 1]
    np.testing.assert_allclose(ends, [[e.low, e.high] for e in estimates])
    np.testing.assert_allclose(
        dots, [FOUND[Key("ad", n, 1.0, "test")].metrics["roc_auc"].mean() for n in ("scratch", "sex")]
    )


def test_bars_are_means_with_deviations_and_every_seed(tmp_path):
    aucs = {("scratch", 1.0): [0.8, 0.9], ("sex", 1.0): [0.9, 0.92], ("scratch", 0.1): [0.7, 0.6], ("sex", 0.1): [0.75]}
    found = {
        Key("ad", row, share, name): with_aucs(binary(0, 1.0, seeds=len(values)), values)
        for (row, share), values in aucs.items() for name in ("test", "outside")
    }  # fmt: skip
    made, figures = draw(tmp_path, fractions(), found)
    [axes] = figures["table4-bars-ad"].axes
    bars = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    np.testing.assert_allclose(bars, [(0.5, 0.85), (0.5, 0.91), (0.5, 0.65), (0.5, 0.75)])
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, False, True, True]
    sd = 0.1 / math.sqrt(2)  # of two values 0.1 apart
    deviations = [line.get_xdata() for line in axes.lines if line.get_marker() == "|"]
    expected = [(0.85 - sd, 0.85 + sd), (0.91 - sd / 5, 0.91 + sd / 5), (0.65 - sd, 0.65 + sd)]
    np.testing.assert_allclose(deviations, expected)
    seeds = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert seeds == [[0.8, 0.9], [0.9, 0.92], [0.7, 0.6], [0.75]]
    assert "AD, People: mean over 1 to 2 seeds by the share" in made["table4-bars-ad"].caption
    assert "Bars begin at 0.5, chance, for all values are above it" in made["table4-bars-ad"].caption
    # One seed below chance, though no mean is.
    key = Key("ad", "scratch", 0.1, "test")
    made, figures = draw(tmp_path, fractions(), found | {key: with_aucs(found[key], [0.49, 0.6])})
    [axes] = figures["table4-bars-ad"].axes
    assert {bar.get_x() for bar in axes.patches} == {0.0}
    assert axes.get_xlim()[0] == 0
    assert "Bars begin at 0, for some values are not above chance." in made["table4-bars-ad"].caption


def test_bars_of_one_seed_and_of_missing_rows(tmp_path):
    found = {Key("ad", "sex", 1.0, "test"): with_aucs(binary(0, 1.0, seeds=1), [0.8])}
    made, figures = draw(tmp_path, fractions(), found)
    [axes] = figures["table4-bars-ad"].axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.3])
    assert not [line for line in axes.lines if line.get_marker() == "|"]
    assert "One seed: no deviation" in made["table4-bars-ad"].caption
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Sex"]


def test_roc_curves_are_vertical_means_of_the_seeds(plots):
    made, figures = plots
    [axes] = figures["table2-roc-ad"].axes  # one backbone
    curve = next(line for line in axes.lines if line.get_label().startswith("Sex"))
    x, y = curve.get_data()
    of = FOUND[Key("ad", "sex", 1.0, "test")]
    expected = []
    for rate in x[1:]:
        tops = []
        for prediction in of.predictions:
            false_rate, true_rate, _ = roc_curve(of.target, prediction)
            tops.append(np.interp(rate, false_rate, true_rate))
        expected.append(np.mean(tops))
    np.testing.assert_allclose(y, [0, *expected], atol=1e-12)
    mean = np.mean([roc_auc_score(of.target, p) for p in of.predictions])
    assert curve.get_label().split("\n")[1].startswith(f"{mean:.3f} (")
    assert "the mean AUC of the seeds with DeLong's 95 % interval" in made["table2-roc-ad"].caption
    assert "40 bootstrap resamples of subjects" in made["table2-roc-ad"].caption
    # The zero-shot set has a figure of its own; nothing is drawn again for the second sheet.
    assert [name for name in made if "roc" in name] == ["table2-roc-ad", "table2-roc-ad-outside"]


def test_the_band_of_a_mean_is_narrower_than_that_of_one_seed():
    of = binary(0, 1.0, seeds=8)
    subjects = np.array(of.subjects)
    _, low, high = bands.roc_band(of.target, of.predictions, subjects, confidence=0.95)
    _, alone_low, alone_high = bands.roc_band(of.target, of.predictions[0], subjects, confidence=0.95)
    assert (high - low).mean() < (alone_high - alone_low).mean()
    grid = np.linspace(0, 1, 101)
    one = bands.mean_roc(of.target, of.predictions[0], np.ones(40), grid)
    np.testing.assert_array_equal(one, bands.weighted_roc(of.target, of.predictions[0], np.ones(40), grid))


def test_calibration_is_of_the_mean_probability(plots):
    made, figures = plots
    axes = figures["table2-calibration-ad"].axes[1]
    of = FOUND[Key("ad", "sex", 1.0, "test")]
    mean = (of.predictions[0] + of.predictions[1]) / 2
    order = np.argsort(mean)
    x, y = next(line for line in axes.lines if len(line.get_xdata()) == 10).get_data()
    np.testing.assert_allclose(x, mean[order].reshape(10, 4).mean(1))
    np.testing.assert_allclose(y, of.target[order].reshape(10, 4).mean(1))
    assert f"Brier {np.mean((mean - of.target) ** 2):.3f}" in axes.get_title(loc="left")
    assert (
        "the mean probability over 2 seeds, which is that of the seeds together"
        in made["table2-calibration-ad"].caption
    )
    assert "exact 95 % intervals" in made["table2-calibration-ad"].caption


def test_scans_of_one_subject_have_no_intervals_of_calibration():
    of = binary(0, 1.0)
    of = dataclasses.replace(of, scans=tuple((f"s{i // 2}", f"{i % 2}") for i in range(40)))
    row = small().rows[0]
    estimate = several(small(), {Key("ad", "scratch", 1.0, "test"): of})["table2"].values
    plot = curves.calibration(
        panels.Slice("AD", "roc_auc", "ROC AUC", (row,), {row.name: of}, {row.name: next(iter(estimate.values()))})
    )
    assert "(some subjects have several scans: no intervals)" in plot.caption
    assert "Wald" not in plot.caption
    assert [len(c.get_segments()) for c in plot.figure.axes[0].collections if hasattr(c, "get_segments")] == []


def test_ages_are_drawn_with_the_gap_and_its_correlation(plots):
    made, figures = plots
    above, below = figures["table3-scatter-age"].axes[2:]
    of = FOUND[Key("age", "sex", 1.0, "test")]
    mean = of.predictions.mean(0)
    np.testing.assert_allclose(above.lines[0].get_xydata(), np.stack([of.target, mean], 1))
    np.testing.assert_allclose(below.lines[0].get_xydata(), np.stack([of.target, mean - of.target], 1))
    rho = spearmanr(mean - of.target, of.target).statistic
    assert f"rho {rho:.2f}" in above.get_title(loc="left")
    assert rho < -0.5
    assert f"MAE {of.metrics['mae'].mean():.2f}" in above.get_title(loc="left")
    assert above.get_ylabel() == ""
    assert figures["table3-scatter-age"].axes[0].get_ylabel() == "Predicted (years)"
    assert "Not drawn" not in made["table3-scatter-age"].caption


def test_ages_of_more_than_six_rows_name_the_others():
    rows = tuple(Row(name=f"r{i}", backbone=f"Net {i}", initial="Scratch", overrides=TINY) for i in range(8))
    study = small(rows=rows, pretrainings={})
    found = {Key("age", row.name, 1.0, "test"): of_age(i, 4.0, n=400) for i, row in enumerate(rows)}
    of = several(study, found)["table3"]
    column = next(c for c in of.columns if c.task == "age")
    part = panels.Slice(
        "Age", "mae", "MAE (years)", rows, {r.name: found[column.of(r)] for r in rows},
        {r.name: of.values[r.name, column] for r in rows},
    )  # fmt: skip
    plot = ages.ages(part)
    assert len(plot.figure.axes) == 12
    assert "Not drawn: Net 6, Scratch; Net 7, Scratch." in plot.caption
    assert "300 scans of each are drawn, chosen at random." in plot.caption
    assert len(plot.figure.axes[0].lines[0].get_xdata()) == 300


def test_learning_curves_have_a_line_a_seed(tmp_path):
    for job in plan.jobs(small(), tmp_path):
        if isinstance(job, Run) and job.task == "ad" and (job.row, job.seed) != ("sex", 1):
            job.folder.mkdir(parents=True)
            lines = [{"step": 10 * i, "validation/roc_auc": 0.5 + 0.1 * i + job.seed / 100} for i in (1, 2, 3)]
            (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    only = small(sheets={"table2": small().sheets["table2"]})
    made, figures = draw(tmp_path, only)
    [axes] = figures["table2-learning-ad"].axes
    drawn = [line.get_xydata().tolist() for line in axes.lines]
    assert len(drawn) == 3
    assert drawn[1] == [[10, pytest.approx(0.61)], [20, pytest.approx(0.71)], [30, pytest.approx(0.81)]]
    assert "a line for each seed (1 to 2 a row)" in made["table2-learning-ad"].caption


def test_files_are_vectors_and_the_same_bytes_each_time(plots):
    made, _ = plots
    assert made
    before = {path: path.read_bytes() for picture in made.values() for path in picture.files}
    [folder] = {picture.files[0].parents[1] for picture in made.values()}
    again, _ = draw(folder, small(), files=True)
    assert {path: path.read_bytes() for picture in again.values() for path in picture.files} == before
    ids = []
    for picture in made.values():
        svg, pdf = picture.files
        assert svg.name == f"{picture.name}.svg"
        assert svg.parent.name == "figures"
        root = ET.parse(svg).getroot()
        assert ET.canonicalize(picture.svg) == ET.canonicalize(svg.read_text().strip())
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        assert not [element for element in root.iter() if element.tag.endswith("image")]
        content = pdf.read_bytes()
        assert content.startswith(b"%PDF-")
        assert b"/CIDFontType2" in content  # TrueType, which fonttype 42 embeds
        assert b"/Type3" not in content
        assert b"Date" not in content
    assert len(ids) == len(set(ids))
    for picture in made.values():
        references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', picture.svg)
        assert {a or b for a, b in references} <= set(ids)


LONG = "A backbone of an uncommonly long name and more"


FEW = ("Scratch", "Kinetics-400 + supervised", "UKB + masked image")
MANY = (
    "Scratch", "Healthy + supervised", "Healthy + masked image", "One scanner + supervised", "Healthy + contrastive",
    "Patients + contrastive", "One scanner + contrastive",
)  # fmt: skip


@pytest.mark.parametrize(
    ("backbones", "starts"),
    [(("Net",), FEW), ((LONG, "B", "C"), FEW), (("A", "B", "C", "D", "E"), FEW), (("Net", "B"), MANY)],
)
def test_nothing_leaves_the_canvas_and_no_text_is_small(backbones, starts, tmp_path):
    rows = tuple(
        Row(name=f"r{b}-{i}", backbone=backbone, initial=i, pretraining="" if i == "Scratch" else "sex", overrides=TINY)
        for b, backbone in enumerate(backbones) for i in starts
    )  # fmt: skip
    base = fractions()
    study = small(rows=rows, fractions=base.fractions, sheets={**small().sheets, **base.sheets})
    found = {Key(k.task, row.name, k.fraction, k.set): v for row in rows for k, v in FOUND.items() if k.row == "sex"}
    found |= {Key("ad", row.name, 0.1, "test"): binary(9, 1.0) for row in rows}
    for job in plan.jobs(study, tmp_path):
        if isinstance(job, Run):
            job.folder.mkdir(parents=True)
            (job.folder / "metrics.jsonl").write_text('{"step": 1000, "validation/roc_auc": 0.5, "validation/mae": 9}')
    _, figures = draw(tmp_path, study, found)
    assert {name.split("-")[1] for name in figures} == {"roc", "calibration", "learning", "spider", "scatter", "bars"}
    for name, figure in figures.items():
        with style.page_style(**style.SMALL):
            if "spider" not in name:
                figure.set_layout_engine("constrained")  # `write` takes it off when all has its place
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            box = figure.get_tightbbox(canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert width in (3.4, 6.8), name
        assert box.x0 > -0.02, name
        assert box.y0 > -0.02, name
        assert box.x1 < width + 0.02, name
        assert box.y1 < height + 0.02, name
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
        assert min(sizes) >= 7, name


def test_no_run_and_other_kinds_of_sheets_have_no_figure(tmp_path):
    assert drawings.write(small(), tmp_path, several(small(), {}), {}) == []
    assert not (tmp_path / "figures").exists()
    study = small(sheets={"later": Sheet(title="Later", kind="sites", tasks=("ad",))})
    of = several(small(), FOUND)["table2"]._replace(sheet=study.sheets["later"])
    assert drawings.write(study, tmp_path, {"later": of}, FOUND) == []


def test_one_class_has_no_roc_curve(tmp_path):
    of = binary(0, 1.0)
    one = dataclasses.replace(of, target=np.ones(40), metrics={"roc_auc": np.full(2, math.nan)})
    made, _ = draw(tmp_path, small(), {Key("ad", "scratch", 1.0, "test"): one})
    assert made == {}


def test_captions_name_task_and_set_though_one_begins_as_the_other(tmp_path):
    people = dataclasses.replace(small().datasets["people"], title="ADNI")
    made, _ = draw(tmp_path, small(datasets={**small().datasets, "people": people}))
    assert "AD, ADNI: ROC curves" in made["table2-roc-ad"].caption
    assert "Age, ADNI: above" in made["table3-scatter-age"].caption


def test_captions_say_that_scans_are_synthetic(plots, tmp_path):
    made, _ = plots
    assert made["table2-roc-ad"].caption.startswith("Synthetic scans: the machinery, not patients. AD, People: ROC")
    real = {key: dataclasses.replace(of, synthetic=False) for key, of in FOUND.items()}
    made, _ = draw(tmp_path, small(), real)
    assert made["table2-roc-ad"].caption.startswith(
        "AD, People: ROC curves, the mean (vertically) of 2 seeds on 40 scans."
    )
