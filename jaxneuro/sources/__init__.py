"""Folders and tables as studies hand them out, read into scans with labels. One file a layout, all of one signature."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.sources import bids, table
from jaxneuro.sources.base import Source

__all__ = ["Source", "read"]


def read(path: Path, columns: Mapping[str, str] | None = None) -> Source:
    """Read a BIDS folder, or a CSV or TSV with one row a scan.

    Args:
      path: the folder or table.
      columns: for a table, our column name to theirs.

    Raises:
      InputError: the source cannot be read, or columns are named for a folder.
    """
    if path.is_file():
        return table.read(path, columns)
    if columns:
        raise InputError(f"--columns: found with the folder {path}; expected a CSV; BIDS names its own columns")
    return bids.read(path)
