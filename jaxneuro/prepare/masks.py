"""Masks of the brain that a study brings along, as BIDS derivatives."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import Scan

_MASK = re.compile(r"^(sub-[A-Za-z0-9]+)_(?:(ses-[A-Za-z0-9]+)_)?(?:[a-z]+-[A-Za-z0-9]+_)*desc-brain_mask\.nii(\.gz)?$")


def find(source: Path, scans: Iterable[Scan]) -> dict[str, str]:
    """Return the mask of each scan that has one: `derivatives/**/sub-X_[ses-Y_]*desc-brain_mask.nii.gz`.

    Masks in another space than the scan's (`space-...`) do not count.

    Raises:
      InputError: the source has none at all, or two for one session.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted((source / "derivatives").glob("**/*desc-brain_mask.nii*")):
        match = _MASK.match(path.name)
        if match is None or "_space-" in path.name:
            continue
        key = (match[1], match[2] or "")
        if key in found:
            raise InputError(f"{path}: found beside {found[key]}; expected one mask of a session; remove the other")
        found[key] = path
    if not found:
        raise InputError(
            f"{source / 'derivatives'}: found no *desc-brain_mask.nii.gz; expected masks for --strip mask; choose "
            "another way"
        )
    return {s.path: str(found[s.key]) for s in scans if s.key in found}
