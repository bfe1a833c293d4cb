"""What a reader returns of a folder as it came from a study."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jaxneuro.manifest import Problem, Scan


@dataclass(frozen=True)
class Source:
    """Scans, or clips of video, with what is known of them.

    A reader never stops at a bad row: it becomes a problem, which says where, what was found, what was expected and
    what to try. Only a table that cannot be read at all raises InputError.

    Attributes:
      name: of the dataset.
      scans: those that can be used, in an order that does not depend on the file system's.
      problems: what was left out or mended.
      rule: which scans the reader includes and how it picks their labels, in words, for the dataset's card.
      already: stages of preparation that the study's own images have been through: "bias", "strip", "register".
      synthetic: whether a program made the images; None when the source does not say.
      folds: subject to fold, where the study publishes its own folds; else empty.
    """

    name: str
    scans: list[Scan]
    problems: list[Problem]
    rule: str
    already: frozenset[str] = frozenset()
    synthetic: bool | None = None
    folds: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A layout that a reader knows.

    Attributes:
      read: from a folder or table to its scans.
      looks_like: whether a folder or table has the layout's marks; looks at names at its top only, and tables' headers.
      marks: what `looks_like` looks for, in words.
    """

    read: Callable[..., Source]
    looks_like: Callable[[Path], bool]
    marks: str
