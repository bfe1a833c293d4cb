"""Files that are either whole or not there, whatever stops the process that writes them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write text (UTF-8, line ends as they are) or bytes in the place of what may be there."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as JSON."""
    write(path, json.dumps(value, indent=1) + "\n")


def write_csv(path: str | os.PathLike[str], head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV, its columns' names first."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([head, *rows])
    write(path, text.getvalue())
