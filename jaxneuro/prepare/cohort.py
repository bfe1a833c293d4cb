"""Write a synthetic cohort as a BIDS tree: real template anatomy, invented people, effects that are known.

`sample_person` draws who someone is, `morphology` says what that does to the brain at an age, `simulate_scan`
images it. Every random number is keyed by (seed, subject, session), so a scan does not depend on how many
others there are or on who writes them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.spatial.transform import Rotation

from jaxneuro.errors import InputError
from jaxneuro.prepare import anatomy, parallel, surroundings
from jaxneuro.prepare.anatomy import SCANNERS, Morphology
from jaxneuro.prepare.truth import write_truth

REFERENCE_AGE = 70.0  # years; at this age the ageing effects are nil
TRAITS = ("ventricles", "cortex", "head", "medial_temporal", "basal_ganglia", "midbrain")
DIAGNOSES = ("CN", "AD", "PD")
_PERSON, _DEFORMATION, _SCAN, _SITE, _HEAD = range(5)  # streams of random numbers
README = """Synthetic brain MRI cohort

No person was scanned. Every image is the ICBM 152 (MNI152) average brain, deformed and imaged by a simulation
in which age, sex, diagnosis and site act in known places and by known amounts. It serves to test software;
nothing about people or diseases can be learned from it.

derivatives/truth holds where each effect acts (effect-*), the regions (region-*) and, in truth.json, every
parameter.
"""


@dataclass(frozen=True)
class Effects:
    """Sizes of the effects, and of the variation between people that hides them.

    Shifts are how far a region's boundary moves outward where it moves most, in mm; losses are fractions of
    tissue that turn into CSF. `_sd` is the standard deviation between people of one age, sex and diagnosis.
    The defaults are stronger than in life, for cohorts of a few hundred: linear models on 4 mm voxels of 190
    people reach areas under the curve of about 0.9 for AD and 0.75 for PD, and half the mean's error of age.
    """

    ventricle_shift_per_decade: float = 1.4
    ventricle_shift_sd: float = 0.6
    cortex_loss_per_decade: float = 0.14
    cortex_loss_sd: float = 0.06
    head_scale_mean: float = 1.0  # linear, of people over the template, which is larger than most: 0.92 is as in life
    head_scale_male: float = 0.04  # linear, male over female; people differ by about 0.04 (12 % of volume)
    head_scale_sd: float = 0.02
    ad_medial_temporal_shift: float = -2.5
    ad_medial_temporal_loss: float = 0.28
    medial_temporal_shift_sd: float = 1.0
    medial_temporal_loss_sd: float = 0.1
    pd_basal_ganglia_shift: float = -1.7
    pd_basal_ganglia_loss: float = 0.18
    basal_ganglia_shift_sd: float = 1.0
    basal_ganglia_loss_sd: float = 0.1
    pd_midbrain_shift: float = -1.4
    pd_midbrain_loss: float = 0.18
    midbrain_shift_sd: float = 1.0
    midbrain_loss_sd: float = 0.1
    severity_sd: float = 0.25  # of the factor on the disease effects of one person
    progression_per_year: float = 0.1  # by which that factor grows after the first visit
    deformation_mm: float = 1.0  # standard deviation of a person's random deformation, each direction
    deformation_smooth_mm: float = 15.0  # standard deviation of the Gaussian that smooths it
    pose_mm: float = 0.7  # standard deviation of the head's position in a scan, each direction
    pose_degrees: float = 0.7  # standard deviation of its rotation about each axis
    head_pose_mm: float = 5.0  # the same two of whole heads, which nobody has aligned
    head_pose_degrees: float = 5.0


@dataclass(frozen=True)
class CohortSpec:
    """What to simulate. Raises InputError for values that make no cohort."""

    subjects: int = 320
    seed: int = 0
    sites: tuple[str, ...] = ("A", "B", "C", "D")  # keys of SCANNERS; D is meant to be held out
    diagnoses: Mapping[str, float] = field(default_factory=lambda: {"CN": 0.5, "AD": 0.3, "PD": 0.2})
    # Close to each other, or age would give the diagnosis away.
    age_mean: Mapping[str, float] = field(default_factory=lambda: {"CN": 69.0, "AD": 71.0, "PD": 69.0})
    age_sd: float = 8.0  # years
    age_range: tuple[float, float] = (50.0, 88.0)  # years at the first visit
    max_sessions: int = 3  # each number from one to this is equally likely
    interval_years: tuple[float, float] = (0.9, 2.1)  # between visits
    voxel_size: float = 2.0  # mm; sites scale it
    heads: bool = False  # whole heads rather than brains on a background of 0
    effects: Effects = field(default_factory=Effects)

    def __post_init__(self) -> None:
        unknown = [site for site in self.sites if site not in SCANNERS]
        if unknown or not self.sites or len(set(self.sites)) < len(self.sites):
            raise InputError(f"sites: found {list(self.sites)}; expected distinct names among {list(SCANNERS)}")
        shares = self.diagnoses.values()
        if not set(self.diagnoses) <= set(DIAGNOSES) or min(shares, default=-1) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise InputError(f"diagnoses: found {dict(self.diagnoses)}; expected shares of {DIAGNOSES} that sum to 1")
        if missing := [name for name in self.diagnoses if name not in self.age_mean]:
            raise InputError(f"age_mean: found {dict(self.age_mean)}; expected a mean age for {missing} too")
        for name, low, high in (
            ("subjects", 1, 99999),
            ("seed", 0, 2**63),
            ("max_sessions", 1, 9),
            ("voxel_size", 1, 8),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name}: found {getattr(self, name)}; expected {low} to {high}")


@dataclass(frozen=True)
class Person:
    """One subject; `ages` are those at the visits, in years to one decimal, `traits` standard normal."""

    index: int
    sex: str
    site: str
    diagnosis: str
    ages: tuple[float, ...]
    traits: Mapping[str, float]
    severity: float

    @property
    def label(self) -> str:
        """Return the BIDS label, such as `sub-0001`."""
        return f"sub-{self.index + 1:04d}"


def _rng(seed: int, stream: int, index: int, session: int = 0) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, index, session)))


def _normal(rng: np.random.Generator, size: int | None = None):
    """Draw standard normals clipped at 2.5, so that no one's brain folds."""
    return np.clip(rng.standard_normal(size), -2.5, 2.5)


def sample_person(spec: CohortSpec, index: int) -> Person:
    """Draw subject `index`; depends on the seed and the index, never on how many subjects there are.

    Sites come in shuffled blocks. Within a site, diagnosis and sex follow golden-ratio and square-root-of-two
    sequences, so that ten people of a site already hold every diagnosis and both sexes in about their shares.
    """
    block, place = divmod(index, len(spec.sites))
    order = _rng(spec.seed, _SITE, 2 * block).permutation(len(spec.sites))
    number = int(order[place])
    start = _rng(spec.seed, _SITE, 2 * number + 1).random(2)
    even = (start + block * np.array([(5**0.5 - 1) / 2, 2**0.5])) % 1
    limits = np.cumsum(list(spec.diagnoses.values()))
    diagnosis = list(spec.diagnoses)[min(int(np.searchsorted(limits, even[0], side="right")), len(limits) - 1)]
    rng = _rng(spec.seed, _PERSON, index)
    traits = dict(zip(TRAITS, _normal(rng, len(TRAITS)).tolist(), strict=True))
    severity = max(1 + spec.effects.severity_sd * float(_normal(rng)), 0.1)
    age = float(np.clip(spec.age_mean[diagnosis] + spec.age_sd * rng.standard_normal(), *spec.age_range))
    intervals = rng.uniform(*spec.interval_years, rng.integers(spec.max_sessions))
    ages = tuple(round(float(a), 1) for a in age + np.concatenate([[0.0], np.cumsum(intervals)]))
    sex = "F" if even[1] < 0.5 else "M"
    return Person(index, sex, spec.sites[number], diagnosis, ages, traits, severity)


def morphology(effects: Effects, person: Person, age: float) -> Morphology:
    """Return what age, sex, diagnosis and chance do to a person's brain at `age` years."""
    e, z = effects, person.traits
    decades = (age - REFERENCE_AGE) / 10
    severity = person.severity * (1 + e.progression_per_year * (age - person.ages[0]))
    ad, pd = (severity * (person.diagnosis == name) for name in ("AD", "PD"))
    return Morphology(
        head_scale=e.head_scale_mean
        + e.head_scale_male * (0.5 if person.sex == "M" else -0.5)
        + e.head_scale_sd * z["head"],
        shift_mm={
            "ventricles": e.ventricle_shift_per_decade * decades + e.ventricle_shift_sd * z["ventricles"],
            "medial_temporal": e.ad_medial_temporal_shift * ad - e.medial_temporal_shift_sd * z["medial_temporal"],
            "basal_ganglia": e.pd_basal_ganglia_shift * pd - e.basal_ganglia_shift_sd * z["basal_ganglia"],
            "midbrain": e.pd_midbrain_shift * pd - e.midbrain_shift_sd * z["midbrain"],
        },
        loss={
            "cortex": e.cortex_loss_per_decade * decades + e.cortex_loss_sd * z["cortex"],
            "medial_temporal": e.ad_medial_temporal_loss * ad + e.medial_temporal_loss_sd * z["medial_temporal"],
            "basal_ganglia": e.pd_basal_ganglia_loss * pd + e.basal_ganglia_loss_sd * z["basal_ganglia"],
            "midbrain": e.pd_midbrain_loss * pd + e.midbrain_loss_sd * z["midbrain"],
        },
    )


def contrasts(effects: Effects) -> dict[str, tuple[Morphology, Morphology]]:
    """Return the average brains without and with each effect: a decade, F and M, CN and AD, CN and PD."""

    def average(diagnosis: str = "CN", age: float = REFERENCE_AGE, sex: str = "F") -> Morphology:
        person = Person(0, sex, "", diagnosis, (age,), dict.fromkeys(TRAITS, 0.0), 1.0)
        return morphology(effects, person, age)

    return {
        "age": (average(age=REFERENCE_AGE - 5), average(age=REFERENCE_AGE + 5)),
        "sex": (average(sex="F"), average(sex="M")),
        "AD": (average(), average("AD")),
        "PD": (average(), average("PD")),
    }


def simulate_scan(spec: CohortSpec, person: Person, session: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one visit's scan, int16 [x, y, z], and its affine [4, 4] in mm; a brain has 0 around it.

    Raises InputError when the effects are so strong that the anatomy folds.
    """
    template = anatomy.load_anatomy(spec.voxel_size)
    scanner = SCANNERS[person.site]
    voxel_size = spec.voxel_size * scanner.voxel_scale
    e = spec.effects
    form = morphology(e, person, person.ages[session])
    # The person's own deformation is the same at every visit, the pose is not.
    own = _rng(spec.seed, _DEFORMATION, person.index)
    velocity = anatomy.random_velocity(template, e.deformation_mm, e.deformation_smooth_mm, own)
    rng = _rng(spec.seed, _SCAN, person.index, session)
    velocity += anatomy.rotation_velocity(template, np.deg2rad(e.pose_degrees * _normal(rng, 3)))
    shift = e.pose_mm * _normal(rng, 3)
    displacement = anatomy.person_displacement(template, form, velocity)
    if spec.heads:
        # Further draws come after those of a brain, which is the same with and without its head.
        drawn = _rng(spec.seed, _HEAD, person.index, session)
        shift = shift + e.head_pose_mm * _normal(drawn, 3)
        turned = np.deg2rad(e.head_pose_degrees * _normal(drawn, 3))
        rotation = Rotation.from_euler("xyz", turned).as_matrix()
        points = anatomy.template_coordinates_of_head(
            template, displacement, voxel_size, form.head_scale, shift, rotation
        )
        image, brain = anatomy.warp_template(template, form.loss, points)
        shell = surroundings.Shell.draw(_rng(spec.seed, _HEAD, person.index))
        image = surroundings.surround(image, brain, points, voxel_size, shell, drawn)
        brain = np.ones(image.shape, bool)  # noise is everywhere
    else:
        points = anatomy.template_coordinates(template, displacement, voxel_size, form.head_scale, shift)
        image, brain = anatomy.warp_template(template, form.loss, points)
    stored = anatomy.acquire(image, brain, scanner, voxel_size, rng)
    _, affine = anatomy.output_grid(voxel_size, spec.heads)
    if scanner.orientation == "LAS":
        stored = stored[::-1]
        affine[0, 3] += affine[0, 0] * (stored.shape[0] - 1)
        affine[0, 0] *= -1
    return stored, affine


def write_cohort(
    out: str | os.PathLike[str],
    spec: CohortSpec,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Write the cohort as a BIDS tree with the true effect maps under `derivatives/truth`; return its counts.

    The same spec gives the same bytes whatever `workers`. `progress` is called with (subjects done, all).
    The tree is made beside `out` and renamed when it is whole, so an interruption leaves nothing at `out`.

    Raises InputError when `out` exists and is not an empty folder.
    """
    out = Path(out).absolute()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: found a file or a folder with content; expected a new or empty folder")
    people = [sample_person(spec, index) for index in range(spec.subjects)]
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        _write_tables(partial, spec, people)
        jobs = [(partial, spec, person) for person in people]
        with contextlib.closing(parallel.each(_write_person, jobs, workers)) as written:
            for done, _ in enumerate(written, 1):
                if progress is not None:
                    progress(done, len(people))
        write_truth(partial / "derivatives" / "truth", contrasts(spec.effects), {"spec": asdict(spec)})
        partial.replace(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return {
        "path": str(out),
        "subjects": len(people),
        "scans": sum(len(p.ages) for p in people),
        "diagnosis": dict(sorted(Counter(p.diagnosis for p in people).items())),
        "sex": dict(sorted(Counter(p.sex for p in people).items())),
        "site": dict(sorted(Counter(p.site for p in people).items())),
    }


def _write_person(root: Path, spec: CohortSpec, person: Person) -> None:
    """Write one subject's folder: its table of sessions, its images and their sidecars."""
    rows = []
    for session, age in enumerate(person.ages):
        name = f"ses-{session + 1:02d}"
        folder = root / person.label / name / "anat"
        folder.mkdir(parents=True)
        stored, affine = simulate_scan(spec, person, session)
        image = nib.Nifti1Image(stored, affine)
        image.set_sform(affine, code="scanner")
        image.set_qform(affine, code="scanner")
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = b"synthetic"
        nib.save(image, folder / f"{person.label}_{name}_T1w.nii.gz")  # nibabel's gzip holds no time or file name
        sidecar = {"Modality": "MR", "Manufacturer": "synthetic", "StationName": person.site}
        _write_json(folder / f"{person.label}_{name}_T1w.json", sidecar)
        rows.append((name, f"{age:.1f}", person.diagnosis))
    _write_tsv(root / person.label / f"{person.label}_sessions.tsv", ("session_id", "age", "diagnosis"), rows)


def _write_tables(root: Path, spec: CohortSpec, people: list[Person]) -> None:
    """Write what a BIDS tree has at its top: description, README and the table of participants."""
    description = {
        "Name": "Synthetic brain MRI cohort (template anatomy, invented people)",
        "BIDSVersion": "1.9.0",
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "jaxneuro cohort"}],
        "ReferencesAndLinks": ["ICBM 152 template: Fonov et al. 2011, NeuroImage 54, 313-327"],
    }
    _write_json(root / "dataset_description.json", description)
    (root / "README").write_text(README, encoding="utf-8")
    columns = {
        "participant_id": {"Description": "label of the synthetic subject"},
        "sex": {"Description": "simulated sex", "Levels": {"F": "female", "M": "male"}},
        "site": {
            "Description": "simulated scanner",
            "Levels": {name: f"scanner {name}" for name in spec.sites},
        },
        "diagnosis": {
            "Description": "simulated diagnosis",
            "Levels": {"CN": "cognitively normal", "AD": "Alzheimer's disease", "PD": "Parkinson's disease"},
        },
        "age": {"Description": "age at the first session", "Units": "years"},
    }
    _write_json(root / "participants.json", columns)
    rows = ((p.label, p.sex, p.site, p.diagnosis, f"{p.ages[0]:.1f}") for p in people)
    _write_tsv(root / "participants.tsv", tuple(columns), rows)


def _write_json(path: Path, content: Mapping) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_tsv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in (header, *rows)), encoding="utf-8")
