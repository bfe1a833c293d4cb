"""Folds of what is prepared: those that the study publishes, or made anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaxneuro import splits
from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan
from jaxneuro.sources import Source


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
      InputError: shares or sites where the study publishes its folds.
    """
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
