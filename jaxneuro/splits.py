"""Subject-disjoint folds, nested fractions, and the guard against leakage.

Folds are made of subjects, never of scans: a longitudinal subject split over folds inflates accuracy by about 30
points on ADNI, OASIS and PPMI (Yagis et al. 2021). Validation and test take one session a subject by default
(the rule of ClinicaDL); training takes all.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jaxneuro.errors import InputError, LeakageError
from jaxneuro.manifest import MISSING, Scan, natural, person

FOLDS = ("train", "validation", "test", "ood")


@dataclass(frozen=True)
class Splits:
    """Subjects of each fold.

    Attributes:
      subjects: fold to subjects. The order within `train` is the order in which fractions take them, so that a
        smaller fraction is part of every larger one.
      seed: seed of the shuffle.
      ood_sites: sites held out whole as the `ood` fold.
    """

    subjects: dict[str, list[str]]
    seed: int
    ood_sites: list[str]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Splits:
        """Read what `write` wrote.

        Raises:
          InputError: the file is missing or is not such JSON.
        """
        try:
            splits = cls(**json.loads(Path(path).read_text()))
        except (OSError, ValueError, TypeError) as e:
            raise InputError(f"{path}: cannot be read as splits ({e}); expected the JSON that prepare writes") from e
        if missing := [f for f in FOLDS if f not in splits.subjects]:
            raise InputError(f"{path}: found no fold {missing}; expected {list(FOLDS)}")
        return splits


def make(
    scans: Sequence[Scan],
    *,
    validation: float = 0.15,
    test: float = 0.25,
    ood_sites: Sequence[str] = (),
    age_bin: float = 10.0,
    seed: int = 0,
) -> Splits:
    """Split subjects into train, validation, test and out-of-distribution folds.

    Strata are diagnosis x age bin x sex at a subject's first scan. Within a stratum the order is random; a subject's
    place in it, as a share of the stratum, is its rank among all subjects, and folds are cut from that ranking. Totals
    are exact and any prefix of `train` is stratified too. Of n among N subjects in K strata, a fold of F subjects holds
    n F / N to within 1 + n K / N: two for strata of one size, more for a large one among many small. Strata of one
    will do (scikit-learn's stratified splitters refuse them).

    Args:
      scans: the manifest.
      validation, test: shares of the subjects that are not held out, each in [0, 1) with a sum below 1.
      ood_sites: sites whose subjects all go to `ood`.
      age_bin: width of an age bin, years.
      seed: seed of the shuffle.

    Raises:
      InputError: shares out of range, a negative seed, a held-out site that no scan has, or a subject seen at a
        held-out site and at another one.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise InputError(
            f"splits: found validation={validation}, test={test}; expected shares of at least 0, sum below 1"
        )
    if seed < 0:
        raise InputError(f"splits: found seed {seed}; expected 0 or more")
    sites = {s.site for s in scans}
    if absent := [s for s in ood_sites if s not in sites]:
        raise InputError(f"ood_sites: found {absent}, which no scan has; expected among {sorted(sites)}")
    first: dict[str, Scan] = {}
    seen_at: dict[str, set[str]] = {}
    for scan in sorted((scans[i] for i in _first_sessions(scans, range(len(scans)))), key=lambda s: s.subject):
        first[scan.subject] = scan
    for scan in scans:
        seen_at.setdefault(scan.subject, set()).add(scan.site)
    held = {s for s in first if seen_at[s] & set(ood_sites)}
    if straddling := sorted(s for s in held if not seen_at[s] <= set(ood_sites)):
        raise InputError(
            f"ood_sites: subjects {straddling[:5]} ({len(straddling)} in all) were seen at a held-out site and at "
            "another; expected each at one side; leave these subjects out or hold out their other site too"
        )

    rng = np.random.default_rng(seed)
    strata: dict[tuple, list[str]] = {}
    for subject, scan in first.items():
        if subject not in held:
            age = MISSING if math.isnan(scan.age) else str(math.floor(scan.age / age_bin))
            strata.setdefault((scan.diagnosis, age, scan.sex), []).append(subject)
    ranked: list[tuple[float, str]] = []
    for key in sorted(strata):
        members, offset = strata[key], rng.uniform()
        order = rng.permutation(len(members))
        ranked += [((place + offset) / len(members), members[i]) for place, i in enumerate(order)]
    inside = [subject for _, subject in sorted(ranked)]
    n_test, n_validation = round(test * len(inside)), round(validation * len(inside))
    train = inside[n_test + n_validation :]
    return Splits(
        subjects={
            "train": _stratified_order(train, first, rng),
            "validation": sorted(inside[n_test : n_test + n_validation]),
            "test": sorted(inside[:n_test]),
            "ood": sorted(held),
        },
        seed=seed,
        ood_sites=list(ood_sites),
    )


def given(scans: Sequence[Scan], folds: Mapping[str, str], *, seed: int = 0) -> Splits:
    """Return the folds that a study publishes, `train` in a random order that keeps shares of diagnosis and sex.

    Args:
      scans: the manifest.
      folds: subject to fold.
      seed: of the order of `train`, from which fractions take a prefix.

    Raises:
      InputError: a subject has no fold or one of another name, or `train` is empty.
    """
    first = {scans[i].subject: scans[i] for i in _first_sessions(scans, range(len(scans)))}
    if homeless := sorted(s for s in first if folds.get(s) not in FOLDS):
        raise InputError(
            f"folds: subject {homeless[0]} has fold {folds.get(homeless[0])!r} ({len(homeless)} such in all); expected "
            f"one of {list(FOLDS)} for every subject"
        )
    subjects = {fold: sorted(s for s in first if folds[s] == fold) for fold in FOLDS}
    if not subjects["train"]:
        raise InputError(f"folds: found no subject in 'train' among {len(first)}; expected some to learn from")
    subjects["train"] = _stratified_order(subjects["train"], first, np.random.default_rng(seed))
    return Splits(subjects=subjects, seed=seed, ood_sites=[])


def without(scans: Sequence[Scan], splits: Splits, sites: Sequence[str]) -> tuple[Splits, dict[int, str]]:
    """Return folds that leave sites out: whoever was seen there is in `ood`, which holds nobody else.

    Args:
      scans: all of the manifest, for a scan without a label tells of a subject's site, too.
      splits: the folds of the dataset.
      sites: those to leave out.

    Returns:
      The folds, and for the number of each scan that is in none of them why that is so: it is of a subject whom the
      dataset itself holds out, or is a scan elsewhere of someone seen at one of the sites.

    Raises:
      InputError: a site that no scan has.
    """
    there = sorted({s.site for s in scans} - {MISSING}, key=natural)
    if absent := [site for site in sites if site not in there]:
        known = f"among {_few(there, 20)}" if there else "none, for no scan has a site"
        raise InputError(f"data.leave_out: found {', '.join(absent)}, which no scan has; expected {known}")
    held = {s.subject for s in scans if s.site in sites}
    folds = {fold: [s for s in subjects if s not in held] for fold, subjects in splits.subjects.items()}
    own = set(folds["ood"])
    apart = {}
    for i, scan in enumerate(scans):
        if scan.subject in own:
            apart[i] = "in the dataset's own fold 'ood', and not seen at a site that is left out"
        elif scan.subject in held and scan.site not in sites:
            apart[i] = "at another site, of a subject who was seen at a site that is left out, too"
    return Splits({**folds, "ood": sorted(held)}, splits.seed, list(sites)), apart


def select(
    scans: Sequence[Scan],
    splits: Splits,
    fold: str,
    *,
    fraction: float = 1.0,
    sessions: str | None = None,
) -> list[int]:
    """Return the positions in `scans` of one fold's scans, in manifest order.

    Args:
      scans: the manifest, or the part of it that has a label.
      splits: the folds.
      fold: "train", "validation", "test", "ood", or "all" for every scan.
      fraction: share of the fold's subjects in (0, 1]; smaller ones nest in larger ones; for `train` only.
      sessions: "all" or "first" (a subject's earliest session that `scans` holds); by default all in training,
        first elsewhere.

    Raises:
      InputError: unknown fold or sessions, a fraction out of range or not of `train`, or a subject in no fold.
    """
    if fold not in (*FOLDS, "all"):
        raise InputError(f"fold: found '{fold}'; expected one of {[*FOLDS, 'all']}")
    if not 0 < fraction <= 1 or (fraction < 1 and fold != "train"):
        raise InputError(f"fraction: found {fraction} of fold '{fold}'; expected a share in (0, 1], of train")
    sessions = sessions or ("all" if fold in ("train", "all") else "first")
    if sessions not in ("all", "first"):
        raise InputError(f"sessions: found '{sessions}'; expected 'all' or 'first'")
    known = {s for subjects in splits.subjects.values() for s in subjects}
    if strangers := sorted({s.subject for s in scans} - known):
        raise InputError(
            f"splits: subjects {strangers[:5]} ({len(strangers)} in all) are in no fold; make the splits again"
        )
    members = known if fold == "all" else splits.subjects[fold]
    if fold == "train":
        # Counted among the subjects that have a scan here, so that 10 % of a task's subjects is 10 % of them.
        present = {s.subject for s in scans}
        members = [s for s in members if s in present]
        members = members[: math.ceil(fraction * len(members))]
    inside = set(members)
    chosen = [i for i, s in enumerate(scans) if s.subject in inside]
    if sessions == "all":
        return chosen
    return _first_sessions(scans, chosen)


def check_disjoint(groups: Mapping[str, Iterable[Scan]]) -> None:
    """Refuse a subject, or an image, that stands in more than one group.

    Subjects are compared by identifier whatever the dataset, in any spelling (`manifest.person`), images by content
    hash: two preparations of one study must not meet unseen.

    Raises:
      LeakageError: names the groups and the offenders (the first ten of each kind, and how many there are).
    """
    seen = {name: list(scans) for name, scans in groups.items()}
    names = list(seen)
    found = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            here, there = _people(seen[a]), _people(seen[b])
            subjects = here.keys() & there.keys()
            if subjects:
                names_of = sorted(" = ".join(dict.fromkeys((here[p], there[p]))) for p in subjects)
                found.append(f"{_are(len(subjects), 'subject')} in {a} and in {b}: {_few(names_of)}")
            hashes = {s.content_hash: s for s in seen[a] if s.content_hash}
            images = sorted(
                f"{hashes[s.content_hash].name} = {s.name} ({s.content_hash[:12]})"
                for s in seen[b]
                if s.content_hash in hashes and person(s.subject) not in subjects
            )
            if images:
                found.append(f"{_are(len(images), 'image')} in {a} and in {b}: {_few(images)}")
    if found:
        raise LeakageError(
            "leakage: "
            + "; ".join(found)
            + "; expected none; remove them from one side, or if equal names are different people, prepare one "
            "dataset again with --subject-prefix"
        )


def _people(scans: Iterable[Scan]) -> dict[str, str]:
    """Return who is there, by `person`, as the first of each one's scans spells it."""
    people: dict[str, str] = {}
    for scan in scans:
        people.setdefault(person(scan.subject), scan.subject)
    return people


def _are(n: int, what: str) -> str:
    return f"1 {what} is" if n == 1 else f"{n} {what}s are"


def _stratified_order(subjects: list[str], first: Mapping[str, Scan], rng: np.random.Generator) -> list[str]:
    """Order training subjects so that every prefix keeps the share of each diagnosis and sex."""
    strata: dict[tuple[str, str], list[str]] = {}
    for subject in sorted(subjects):
        strata.setdefault((first[subject].diagnosis, first[subject].sex), []).append(subject)
    ranked: list[tuple[float, str]] = []
    for key in sorted(strata):
        members = strata[key]
        order = rng.permutation(len(members))
        ranked += [((place + 0.5) / len(members), members[i]) for place, i in enumerate(order)]
    return [subject for _, subject in sorted(ranked)]


def _first_sessions(scans: Sequence[Scan], chosen: Iterable[int]) -> list[int]:
    """Return the position of each subject's first session, in order: by age where all of its sessions have one, else by
    name, numbers in it counting as numbers (m6 before m12)."""
    of: dict[str, list[int]] = {}
    for i in chosen:
        of.setdefault(scans[i].subject, []).append(i)

    def first(positions: list[int]) -> int:
        aged = not any(math.isnan(scans[i].age) for i in positions)
        return min(positions, key=lambda i: (scans[i].age if aged else 0.0, natural(scans[i].session)))

    return sorted(first(positions) for positions in of.values())


def _few(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
