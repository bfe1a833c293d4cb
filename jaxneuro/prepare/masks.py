"""Masks of the brain that a study brings along, as BIDS derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import Problem, Scan

_MASK = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?(?:[a-z]+-[A-Za-z0-9]+_)*desc-brain_mask\.nii(\.gz)?$")
_ENTITY = re.compile(r"([a-z]+)-([A-Za-z0-9]+)_")
#: Entities that say who and when, which are compared apart, or how a derivative was stored.
_NOT_OF_IMAGES = {"sub", "ses", "desc", "res", "den", "label"}
#: Entities that count: 1 and 01 are one number.
_NUMBERS = {"run", "echo", "inv", "chunk"}


def find(source: Path, scans: Iterable[Scan]) -> tuple[dict[str, str], list[Problem]]:
    """Return the mask of each scan that has one, and the scans that have several.

    A mask is `derivatives/**/anat/sub-X_[ses-Y_]*desc-brain_mask.nii.gz`. It is a scan's if subject and session are the
    scan's, and so is every further entity in its name (run, acq, rec, ...). Of several the one that names most is the
    scan's. Masks in another space (`space-...`) and of tasks (`task-...`) do not count.

    Returns:
      path of a scan -> path of its mask, and a problem for each scan that several masks fit equally.

    Raises:
      InputError: the source has none at all.
    """
    found: dict[tuple[str, str], list[Path]] = {}
    for path in sorted((source / "derivatives").glob("**/anat/*desc-brain_mask.nii*")):
        match = _MASK.match(path.name)
        if match is not None and not {"space", "task"} & set(_entities(path.name)):
            found.setdefault((match[1], match[2] or ""), []).append(path)
    if not found:
        raise InputError(
            f"{source / 'derivatives'}: found no *desc-brain_mask.nii.gz in a folder anat; expected masks for --strip "
            "mask; choose another way"
        )
    masks: dict[str, str] = {}
    problems = []
    for scan in scans:
        fits = [mask for mask in found.get(scan.key, []) if _fits(mask.name, Path(scan.path).name)]
        most = max((len(_entities(mask.name)) for mask in fits), default=0)
        best = [mask for mask in fits if len(_entities(mask.name)) == most]
        if len(best) > 1:
            problems.append(
                Problem(
                    scan.path, f"masks of the brain {best[0]} and {best[1]}", "one of this scan", "remove the other"
                )
            )
        elif best:
            masks[scan.path] = str(best[0])
    return masks, problems


def _fits(mask: str, scan: str) -> bool:
    """Whether a mask can be of a scan of the same session, by their names; one that is not BIDS's says nothing."""
    theirs = _entities(scan)
    return not scan.startswith("sub-") or all(theirs.get(k) == v for k, v in _entities(mask).items())


def _entities(name: str) -> dict[str, str]:
    """Return what a name says of the image beyond subject and session."""
    pairs = (match.groups() for match in _ENTITY.finditer(name))
    return {k: v.lstrip("0") if k in _NUMBERS else v for k, v in pairs if k not in _NOT_OF_IMAGES}
