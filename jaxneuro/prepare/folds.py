"""Folds of what is prepared: those that the study publishes, or made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jaxneuro import manifest, splits
from jaxneuro.errors import InputError
from jaxneuro.manifest import Problem, Scan
from jaxneuro.sources import Source, kinetics


def maker(
    found: Source,
    *,
    subject_prefix: str,
    validation: float | None,
    test: float | None,
    ood_sites: Sequence[str],
    seed: int,
) -> Callable[[Sequence[Scan]], splits.Splits]:
    """Return what makes folds of scans.

    Args:
      found: what a reader found, with its folds if the study publishes some.
      subject_prefix: put before the subjects of the scans.
      validation, test, ood_sites, seed: see `splits.make`; None is its default.

    Raises:
      InputError: a negative seed, or shares or sites where the study publishes its folds.
    """
    if seed < 0:
        raise InputError(f"--seed: found {seed}; expected 0 or more")
    shares = {name: share for name, share in (("validation", validation), ("test", test)) if share is not None}
    if not found.folds:
        return lambda scans: splits.make(scans, **shares, ood_sites=ood_sites, seed=seed)
    if given := [*shares, *(["ood-site"] if ood_sites else [])]:
        raise InputError(
            f"--{given[0]}: found with the folds that {found.name} publishes; expected none; openbhb makes them anew "
            "with --option folds=own"
        )
    named = {subject_prefix + subject: name for subject, name in found.folds.items()}
    return lambda scans: splits.given(scans, named, seed=seed)


def of_column(found: Source, table: Path, columns: Mapping[str, str]) -> Source:
    """Return what was read of a person's table, with the folds of its column `split`, if it has one that is not empty.

    A row with another word, one without a word beside rows with one, and a subject in several folds are left out.

    Args:
      found: what the table was read into.
      table: the table.
      columns: our column name to theirs.
    """
    header, rows = manifest.read_table(table, [])
    column = next((name for name in header if name.lower() == "split"), None)
    if column is None or all(manifest.is_missing(row[column]) for _, row in rows):
        return found
    subject, session = (manifest.known_name(columns.get(name, name).strip()) for name in ("subject", "session"))
    words: dict[tuple[str, str], tuple[str, str]] = {}
    for line, row in rows:
        name = row.get(session, "")
        key = (row[subject], "" if manifest.is_missing(name) else name)
        words[key] = (f"{table} line {line}", row[column])
    problems, kept = list(found.problems), []
    folds: dict[str, set[str]] = {}
    for scan in found.scans:
        where, word = words[scan.key]
        if fold := kinetics.fold_of(word):
            folds.setdefault(scan.subject, set()).add(fold)
            kept.append(scan)
        else:
            hint = "correct it, or rename the column to draw folds"
            problems.append(Problem(where, f"split '{word}'", f"{kinetics.FOLD_WORDS}, as in other rows", hint))
    for scan in kept:
        if len(of := folds[scan.subject]) > 1:
            where = words[scan.key][0]
            problems.append(
                Problem(where, f"{scan.subject} in folds {', '.join(sorted(of))}", "one fold", "correct the column")
            )
    scans = [s for s in kept if len(folds[s.subject]) == 1]
    return replace(found, scans=scans, problems=problems, folds={s.subject: min(folds[s.subject]) for s in scans})
