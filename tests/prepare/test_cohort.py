"""The synthetic cohort: who is in it, what the effects do, and the tree that is written."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from jaxneuro.errors import InputError
from jaxneuro.prepare import anatomy, cohort, truth
from jaxneuro.prepare.cohort import CohortSpec, Effects, sample_person, write_cohort
from jaxneuro.sources import bids

SMALL = CohortSpec(subjects=4, seed=3, voxel_size=6.0)
AVERAGE = cohort.contrasts(Effects())  # brains without individual variation


def files(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def table(path):
    with path.open(newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f, delimiter="\t"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort") / "bids"
    calls = []
    summary = write_cohort(out, SMALL, progress=lambda done, total: calls.append((done, total)))
    return out, summary, calls


@pytest.fixture(scope="module")
def template():
    return anatomy.load_anatomy(2.0)


def render(template, form, voxel_size=2.0):
    displacement = anatomy.person_displacement(template, form)
    points = anatomy.template_coordinates(template, displacement, voxel_size, form.head_scale)
    return (*anatomy.warp_template(template, form.loss, points), points)


def test_every_row_has_a_file_and_every_file_a_row(tree):
    out, summary, calls = tree
    rows = table(out / "participants.tsv")
    assert [row["participant_id"] for row in rows] == [f"sub-{i:04d}" for i in range(1, 5)]
    expected = set()
    for row in rows:
        label = row["participant_id"]
        sessions = table(out / label / f"{label}_sessions.tsv")
        assert 1 <= len(sessions) <= 3
        ages = [float(s["age"]) for s in sessions]
        assert ages[0] == float(row["age"])
        assert all(np.diff(ages) > 0.5)
        assert {s["diagnosis"] for s in sessions} == {row["diagnosis"]}
        expected |= {
            f"{label}/{s['session_id']}/anat/{label}_{s['session_id']}_T1w.{end}"
            for s in sessions
            for end in ("nii.gz", "json")
        }
    found = {str(p.relative_to(out)) for p in out.glob("sub-*/ses-*/anat/*")}
    assert found == expected
    assert summary["subjects"] == 4
    assert summary["scans"] == len(expected) // 2
    assert calls == [(i, 4) for i in range(1, 5)]


def test_the_bids_reader_finds_no_problem(tree):
    out, summary, _ = tree
    found = bids.read(out)
    scans, problems = found.scans, found.problems
    assert problems == []
    assert len(scans) == summary["scans"]
    assert {s.site for s in scans} == {"A", "B", "C", "D"}
    assert all(s.sex in "FM" and 50 <= s.age < 95 for s in scans)


def test_the_tree_says_synthetic(tree):
    out, _, _ = tree
    assert "synthetic" in json.loads((out / "dataset_description.json").read_text())["Name"].lower()
    assert "synthetic" in (out / "README").read_text().lower()
    columns = json.loads((out / "participants.json").read_text())
    assert list(columns) == list(table(out / "participants.tsv")[0])
    assert {p.name for p in out.iterdir() if p.is_file()} == {
        "dataset_description.json", "README", "participants.tsv", "participants.json"
    }  # fmt: skip


def test_images_are_what_a_scanner_would_store(tree):
    out, _, _ = tree
    orientations = set()
    for row in table(out / "participants.tsv"):
        image = nib.load(next(out.glob(f"{row['participant_id']}/ses-01/anat/*.nii.gz")))
        data = np.asanyarray(image.dataobj)
        scanner = anatomy.SCANNERS[row["site"]]
        assert data.dtype == np.int16
        assert (data[data > 0].size * np.prod(image.header.get_zooms())) == pytest.approx(1.88e6, rel=0.25)
        assert np.percentile(data, 98) == pytest.approx(scanner.gain, rel=0.5)
        assert image.header.get_zooms() == pytest.approx([6.0 * scanner.voxel_scale] * 3)
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
        assert "".join(nib.aff2axcodes(image.affine)) == scanner.orientation
        # Right in the world is right in the head, whatever the storage: the left putamen is on the left.
        centre = image.affine @ [*np.argwhere(data > 0).mean(axis=0), 1]
        np.testing.assert_allclose(centre[:3], [0, -18, 5], atol=9)
        orientations.add(scanner.orientation)
    assert orientations == {"RAS", "LAS"}


def test_storage_order_does_not_mirror_the_head(monkeypatch):
    spec = replace(SMALL, sites=("A",))
    person = sample_person(spec, 0)
    ras, affine = cohort.simulate_scan(spec, person, 0)
    monkeypatch.setitem(anatomy.SCANNERS, "A", replace(anatomy.SCANNERS["A"], orientation="LAS"))
    stored, las = cohort.simulate_scan(spec, person, 0)
    back = nib.as_closest_canonical(nib.Nifti1Image(stored, las))
    np.testing.assert_allclose(back.affine, affine)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), ras)


def test_same_seed_same_bytes_whatever_the_workers(tree, tmp_path):
    out, _, _ = tree
    write_cohort(tmp_path / "again", SMALL, workers=2)
    assert files(tmp_path / "again") == files(out)


def test_another_seed_gives_other_people_and_images(tree, tmp_path):
    out, _, _ = tree
    (tmp_path / "other").mkdir()  # an empty folder is no obstacle
    write_cohort(tmp_path / "other", replace(SMALL, seed=4, subjects=1))
    image = "sub-0001/ses-01/anat/sub-0001_ses-01_T1w.nii.gz"
    assert (tmp_path / "other" / image).read_bytes() != (out / image).read_bytes()
    people = [[sample_person(replace(SMALL, seed=s), i) for i in range(20)] for s in (3, 4)]
    assert all(a != b for a, b in zip(*people, strict=True))


def test_a_subject_does_not_depend_on_how_many_there_are(tree, tmp_path):
    out, _, _ = tree
    write_cohort(tmp_path / "fewer", replace(SMALL, subjects=2))
    for name, content in files(tmp_path / "fewer").items():
        if name.startswith("sub-"):
            assert content == (out / name).read_bytes(), name


@pytest.mark.parametrize("content", ["file", "folder"])
def test_what_exists_is_refused_and_kept(tmp_path, content):
    out = tmp_path / "out"
    if content == "folder":
        out.mkdir()
        (out / "precious").write_text("x")
    else:
        out.write_text("x")
    with pytest.raises(InputError, match=r"^[^\n]*out: found .*; expected a new or empty folder$"):
        write_cohort(out, SMALL)
    assert [p.read_text() for p in tmp_path.rglob("*") if p.is_file()] == ["x"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interruption_leaves_nothing(tmp_path, workers):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cohort(tmp_path / "out", SMALL, workers=workers, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": ("A", "Z")}, r"sites: found \['A', 'Z'\]; expected .*'A', 'B', 'C', 'D'"),
        ({"sites": ()}, "sites: found"),
        ({"diagnoses": {"CN": 0.5, "AD": 0.4}}, "diagnoses: found .* sum to 1"),
        ({"diagnoses": {"CN": 0.5, "MCI": 0.5}}, "diagnoses: found"),
        ({"subjects": 0}, "subjects: found 0; expected 1"),
        ({"voxel_size": 0.5}, "voxel_size: found 0.5"),
        ({"age_mean": {"CN": 60.0}}, "age_mean: found"),
    ],
)
def test_a_spec_that_makes_no_cohort_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        CohortSpec(**change)


@pytest.mark.parametrize("seed", range(10))
def test_forty_subjects_spread_evenly_over_sites(seed):
    spec = CohortSpec(subjects=40, seed=seed)
    people = [sample_person(spec, i) for i in range(spec.subjects)]
    for site in spec.sites:
        here = [p for p in people if p.site == site]
        assert len(here) == 10
        assert {p.diagnosis for p in here} == {"CN", "AD", "PD"}
        assert {p.sex for p in here} == {"F", "M"}
    share = {d: sum(p.diagnosis == d for p in people) / 40 for d in spec.diagnoses}
    assert share == pytest.approx(dict(spec.diagnoses), abs=0.11)


def test_age_and_sex_do_not_give_the_diagnosis_away():
    people = [sample_person(CohortSpec(), i) for i in range(2000)]
    ages = {d: np.array([p.ages[0] for p in people if p.diagnosis == d]) for d in cohort.DIAGNOSES}
    for ill in ("AD", "PD"):
        order = (ages[ill][:, None] > ages["CN"]).mean() + 0.5 * (ages[ill][:, None] == ages["CN"]).mean()
        assert 0.4 < order < 0.65
        assert np.mean([p.sex == "F" for p in people if p.diagnosis == ill]) == pytest.approx(0.5, abs=0.06)
    counts = np.bincount([len(p.ages) for p in people])
    assert counts / 2000 == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3], abs=0.05)
    assert min(a.min() for a in ages.values()) >= 50
    assert max(a.max() for a in ages.values()) <= 88


def test_no_default_brain_folds(template):
    spec = CohortSpec(subjects=20, seed=11)
    e = spec.effects
    for index in range(spec.subjects):
        person = sample_person(spec, index)
        form = cohort.morphology(e, person, person.ages[-1])
        rng = np.random.default_rng(index)
        velocity = anatomy.random_velocity(template, e.deformation_mm, e.deformation_smooth_mm, rng)
        displacement = anatomy.person_displacement(template, form, velocity)
        points = anatomy.template_coordinates(template, displacement, 3.0, form.head_scale)
        rows = [np.stack(np.gradient(part, 3.0), axis=-1) for part in points]
        assert np.linalg.det(np.stack(rows, axis=-2)).min() > 0, person


def test_average_effects_are_the_documented_sizes():
    e = Effects()
    young, old = AVERAGE["age"]
    widening = old.shift_mm["ventricles"] - young.shift_mm["ventricles"]
    assert widening == pytest.approx(e.ventricle_shift_per_decade)
    assert old.loss["cortex"] - young.loss["cortex"] == pytest.approx(e.cortex_loss_per_decade)
    female, male = AVERAGE["sex"]
    assert male.head_scale - female.head_scale == pytest.approx(e.head_scale_male)
    for name, region in (("AD", "medial_temporal"), ("PD", "basal_ganglia"), ("PD", "midbrain")):
        before, after = AVERAGE[name]
        key = f"{name.lower()}_{region}"
        assert after.shift_mm[region] - before.shift_mm[region] == pytest.approx(getattr(e, f"{key}_shift"))
        assert after.loss[region] - before.loss[region] == pytest.approx(getattr(e, f"{key}_loss"))
        others = set(before.shift_mm) - {"medial_temporal", "basal_ganglia", "midbrain"}
        assert all(before.shift_mm[k] == after.shift_mm[k] for k in others)


def test_heads_are_as_large_as_asked_for_on_average():
    people = [sample_person(CohortSpec(), i) for i in range(400)]
    scales = [cohort.morphology(Effects(head_scale_mean=0.92), p, p.ages[0]).head_scale for p in people]
    # 0.028 between people, so 0.0014 is a standard error.
    assert np.mean(scales) == pytest.approx(0.92, abs=0.006)
    assert cohort.morphology(Effects(), people[0], 70).head_scale == pytest.approx(scales[0] + 0.08)


def test_disease_progresses_between_visits():
    spec = CohortSpec()
    people = (sample_person(spec, i) for i in range(99))
    person = next(p for p in people if p.diagnosis == "AD" and len(p.ages) == 3)
    first, last = (cohort.morphology(spec.effects, person, person.ages[k]) for k in (0, 2))
    assert last.shift_mm["medial_temporal"] < first.shift_mm["medial_temporal"]
    assert last.shift_mm["ventricles"] > first.shift_mm["ventricles"]
    assert last.head_scale == first.head_scale


def test_age_widens_ventricles_and_darkens_cortex(template):
    (young, brain, at), (old, _, _) = (render(template, form) for form in AVERAGE["age"])
    x, y, z = at
    middle = (np.abs(x) < 40) & (y > -60) & (y < 45) & (z > -5) & (z < 35) & brain
    grown = (middle & (old < 0.4)).sum() / (middle & (young < 0.4)).sum()
    assert 1.1 < grown < 1.6
    outer = brain & (np.abs(x) > 45) & (z > 10)
    assert old[outer].mean() < young[outer].mean() - 0.005


def test_men_have_larger_heads(template):
    female, male = (render(template, form)[1].sum() for form in AVERAGE["sex"])
    assert male / female == pytest.approx((1.02 / 0.98) ** 3, rel=0.01)


@pytest.mark.parametrize("name", ["AD", "PD"])
def test_disease_acts_in_its_regions(template, name):
    (well, brain, _), (ill, brain_ill, _) = (render(template, form) for form in AVERAGE[name])
    regions = truth.region_masks(template)
    own = {"AD": ("medial_temporal",), "PD": ("basal_ganglia", "midbrain")}[name]
    carrier = np.logical_or.reduce([regions[key] for key in own])
    change = np.abs(ill - well)
    for key in own:
        assert ill[regions[key]].mean() < well[regions[key]].mean() - 0.01
    near = ndimage.binary_dilation(carrier, iterations=4)  # 8 mm
    assert change[near].sum() / change.sum() > 0.7
    assert change[near].mean() > 20 * change[brain & brain_ill & ~near].mean()


def test_individual_variation_hides_the_effects():
    spec = CohortSpec()
    people = [sample_person(spec, i) for i in range(1000)]
    for name, region in (("AD", "medial_temporal"), ("PD", "basal_ganglia")):
        forms = [(p.diagnosis, cohort.morphology(spec.effects, p, p.ages[0])) for p in people]
        ill, well = (np.array([f.shift_mm[region] for d, f in forms if d == who]) for who in (name, "CN"))
        assert 0.8 < (ill[:, None] < well).mean() < 0.98


def test_truth_is_saved_beside_the_data(tree):
    out, _, _ = tree
    folder = out / "derivatives" / "truth"
    spec = json.loads((folder / "truth.json").read_text())["spec"]
    assert spec["effects"]["ad_medial_temporal_shift"] == Effects().ad_medial_temporal_shift
    assert spec["seed"] == 3
    assert json.loads((folder / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    found = {p.name.split("_")[0].removeprefix("region-"): p for p in folder.glob("region-*")}
    regions = {name: nib.load(path).get_fdata() > 0 for name, path in found.items()}
    assert set(regions) == {"ventricles", "cortex", "medialtemporal", "basalganglia", "midbrain"}
    carriers = {
        "age": regions["ventricles"] | regions["cortex"],
        "AD": regions["medialtemporal"],
        "PD": regions["basalganglia"] | regions["midbrain"],
        "sex": None,
    }
    for name, carrier in carriers.items():
        image = nib.load(folder / f"effect-{name}_change.nii.gz")
        change = image.get_fdata()
        mask = nib.load(folder / f"effect-{name}_mask.nii.gz").get_fdata()
        assert change.min() == 0
        assert change.max() == pytest.approx(1)
        assert set(np.unique(mask)) == {0.0, 1.0}
        assert image.header.get_zooms() == pytest.approx((2, 2, 2))
        assert change[mask > 0].sum() / change.sum() > 0.4
        assert mask.mean() < 0.25
        if carrier is not None:
            assert ndimage.binary_dilation(carrier, iterations=4)[mask > 0].mean() > 0.9, name


def test_no_effect_gives_an_empty_map(template):
    healthy, _ = AVERAGE["AD"]
    change = truth.effect_change(template, healthy, healthy)
    assert not change.any()
    assert not truth.effect_mask(change).any()


def test_the_mask_is_the_smallest_that_holds_its_share():
    change = np.zeros((20, 20, 20), np.float32)
    change[4:8, 4:8, 4:8] = 1
    change[12:16, 12:16, 12:16] = 0.1  # a tenth of it: outside the half
    mask = truth.effect_mask(change)
    smooth = ndimage.gaussian_filter(change, 6 / 2.3548 / 2)
    assert mask[5, 5, 5]
    assert not mask[10:, 10:, 10:].any()
    assert smooth[mask].sum() >= smooth.sum() / 2 * (1 - 1e-6)
    assert smooth[mask].sum() - 48 * smooth[mask].min() < smooth.sum() / 2  # ties: 48 mirror images


def test_a_whole_head_has_bone_and_skin_around_the_same_brain():
    """The brain's own draws do not change with the head; what surrounds it is dark, then bright, then air."""
    spec = CohortSpec(
        subjects=2, seed=3, voxel_size=3.0, heads=True, effects=Effects(head_pose_mm=0, head_pose_degrees=0)
    )
    person = sample_person(spec, 0)
    head, affine = cohort.simulate_scan(spec, person, 0)
    plain = CohortSpec(subjects=2, seed=3, voxel_size=3.0, effects=spec.effects)
    brain, its = cohort.simulate_scan(plain, person, 0)
    # The same place in both: nearest voxel of the head's grid for each of the brain's.
    inside = np.argwhere(brain > 0)
    there = np.rint((inside @ its[:3, :3].T + its[:3, 3] - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T).astype(int)
    assert np.corrcoef(head[tuple(there.T)], brain[tuple(inside.T)])[0, 1] > 0.8
    whole = np.zeros(head.shape, bool)
    whole[tuple(there.T)] = True
    whole = ndimage.binary_closing(whole, iterations=2)
    away = 3.0 * ndimage.distance_transform_cdt(~whole, "taxicab")
    above = np.indices(head.shape)[2] > there[:, 2].mean() + 10  # neither face nor neck
    white = np.percentile(head[whole], 90)
    level = {d: np.median(head[above & (away == d)]) / white for d in (6, 9, 12, 15, 36)}
    assert min(level[6], level[9]) < 0.35
    assert max(level[12], level[15]) > 0.7
    assert level[36] < 0.1


def test_heads_are_tilted_as_nobody_has_aligned_them():
    spec = CohortSpec(subjects=6, seed=3, voxel_size=6.0, heads=True)
    upright = CohortSpec(
        subjects=6, seed=3, voxel_size=6.0, heads=True, effects=Effects(head_pose_mm=0, head_pose_degrees=0)
    )
    person = sample_person(spec, 1)
    one, other = (cohort.simulate_scan(s, person, 0)[0].astype(float) for s in (spec, upright))
    assert one.shape == other.shape
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.97
    again = cohort.simulate_scan(spec, person, 0)[0]
    np.testing.assert_array_equal(again, one)
