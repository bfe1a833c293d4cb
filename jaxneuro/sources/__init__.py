"""Folders and tables as studies hand them out, read into scans with labels. One file a layout, all of one signature."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxneuro.errors import InputError
from jaxneuro.manifest import check_spellings
from jaxneuro.sources import adni, bids, ldm100k, oasis1, oasis3, openbhb, ppmi, table, tree, ukb
from jaxneuro.sources.base import Layout, Source

__all__ = ["READERS", "Layout", "Source", "read"]

#: Every layout by the name that `--study` takes.
READERS = {
    "bids": Layout(bids.read, bids.looks_like, bids.MARKS),
    "table": Layout(table.read, table.looks_like, table.MARKS),
    "adni": Layout(adni.read, adni.looks_like, adni.MARKS),
    "oasis1": Layout(oasis1.read, oasis1.looks_like, oasis1.MARKS),
    "oasis3": Layout(oasis3.read, oasis3.looks_like, oasis3.MARKS),
    "ukb": Layout(ukb.read, ukb.looks_like, ukb.MARKS),
    "openbhb": Layout(openbhb.read, openbhb.looks_like, openbhb.MARKS),
    "ldm100k": Layout(ldm100k.read, ldm100k.looks_like, ldm100k.MARKS),
    "ppmi": Layout(ppmi.read, ppmi.looks_like, ppmi.MARKS),
}
#: What a reader is given by arguments of its own rather than as an option.
_OWN = ("path", "root", "columns", "table")


def read(
    path: Path,
    kind: str | None = None,
    columns: Mapping[str, str] | None = None,
    table: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Source:
    """Read a study's folder, or a table with one row a scan.

    Args:
      path: the folder or table.
      kind: which of `READERS` reads it; by default the one whose marks it bears.
      columns: what a table holds to the name of its column.
      table: the study's table, where it does not lie in the folder under its own name.
      options: keywords of the reader, such as days=90 for "adni".

    Raises:
      InputError: the source cannot be read, bears the marks of no layout or of several, or its layout takes no table
        or such a column or option; or one person has two spellings.
    """
    if kind is not None and kind not in READERS:
        raise InputError(f"--study: found '{kind}'; expected one of {list(READERS)}")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected a study's folder, or a CSV with one row a scan")
    kind = kind or _recognised(path)
    reader = READERS[kind].read
    known = inspect.signature(reader).parameters
    if table is not None and "table" not in known:
        raise InputError(f"--table: found with {path}, of layout '{kind}'; expected none; it has its own, or is one")
    options = options or {}
    if strange := sorted(set(options) - (set(known) - set(_OWN))):
        names = [name for name in known if name not in _OWN]
        raise InputError(f"--option: found {strange}; expected of layout '{kind}': {names or 'none'}")
    # A word may look like a number, such as a file's name.
    given: dict[str, Any] = {k: v if known[k].annotation == "int" else str(v) for k, v in options.items()}
    if columns:
        given["columns"] = columns
    if table is not None:
        given["table"] = table
    found = reader(path, **given)
    check_spellings(found.scans, str(path))
    return found


def _recognised(path: Path) -> str:
    """Return the one layout whose marks a folder or file bears."""
    marks = "; ".join(f"{name} ({layout.marks})" for name, layout in READERS.items())
    found = [name for name, layout in READERS.items() if layout.looks_like(path)]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{path}: found the marks of {' and '.join(found)}; expected one layout; say which with --study"
        )
    if (dicom := tree.first_dicom(path)) is not None:
        raise tree.dicom_refusal([dicom])
    raise InputError(f"{path}: found no layout that is known; expected one of: {marks}; or say which with --study")
