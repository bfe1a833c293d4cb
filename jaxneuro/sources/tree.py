"""What lies in a study's folder: images in a fixed order, links that lead out of it, DICOM still to be converted."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import Problem

NIFTI = r"\.nii(\.gz)?$"
_ANY = re.compile("")
#: Folders that `first_dicom` looks into before it gives up.
_LOOKS = 200


def names(folder: Path) -> list[str]:
    """Return the names in a folder in order; none where there is no such folder or it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def any_name(folder: Path, pattern: str) -> bool:
    """Whether a name in the folder matches as a whole; what a reader recognises its layout by."""
    return any(re.fullmatch(pattern, name) for name in names(folder))


def images(root: Path, wanted: re.Pattern[str], problems: list[Problem], *, top: re.Pattern[str] = _ANY) -> list[Path]:
    """Return the files under a folder whose name a pattern finds, in an order that is not the file system's.

    Names that begin with a dot are passed over. Links are followed within the folder; each folder is listed once.

    Args:
      root: the folder.
      wanted: searched in a file's name.
      problems: grows by folders that cannot be read, links that lead out of `root`, round in circles or nowhere, and
        DICOM in folders without a wanted file.
      top: searched in the names of the folders directly under `root`; others are not visited.

    Raises:
      InputError: there is no such folder, or it holds DICOM and nothing that is wanted.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such file or folder; expected a study's folder of images")
    walk = _Walk(root, wanted, problems)
    found = list(walk.visit(root, (), top))
    if walk.dicom and not found:
        raise dicom_refusal(walk.dicom)
    if walk.dicom:
        first = walk.dicom[0]
        problems.append(
            Problem(
                walk.shown(first), f"DICOM{_and_more(walk.dicom, 'as in')}", "NIfTI", f"convert it: {dcm2niix(first)}"
            )
        )
    return found


def files(root: Path, wanted: re.Pattern[str], problems: list[Problem], *, what: str) -> list[Path]:
    """Return the files that `images` would, of another kind than images: nothing is looked into for DICOM.

    Args:
      root, wanted, problems: as of `images`.
      what: what the files hold, for messages.
    """
    return list(_Walk(root, wanted, problems, what, dicom=False).visit(root, ()))


class _Walk:
    def __init__(
        self, root: Path, wanted: re.Pattern[str], problems: list[Problem], what: str = "images", dicom: bool = True
    ) -> None:
        self.root, self.real = root, os.path.realpath(root)
        self.wanted, self.problems = wanted, problems
        self.what, self.looks = what, dicom
        self.dicom: list[Path] = []

    def shown(self, path: Path) -> str:
        return str(path.relative_to(self.root))

    def visit(self, folder: Path, followed: tuple[str, ...], top: re.Pattern[str] = _ANY) -> Iterator[Path]:
        """Yield wanted files; `followed` holds the targets of the links on the way here."""
        try:
            with os.scandir(folder) as entries:
                here = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as e:
            self._tell(folder, f"a folder that cannot be read ({e.strerror})", "a readable one", "check permissions")
            return
        files = []
        wanted = False
        for entry in here:
            path = folder / entry.name
            inside = followed
            if _is_folder(entry):
                if not top.search(entry.name):
                    continue
                if entry.is_symlink():
                    if (target := self._target(path, followed)) is None:
                        continue
                    inside = (*followed, target)
                yield from self.visit(path, inside)
            elif self.wanted.search(entry.name):
                wanted = True
                if not entry.is_symlink() or self._target(path) is not None:
                    yield path
            else:
                files.append(path)
        if self.looks and files and not wanted and _holds_dicom(files):
            self.dicom.append(folder)

    def _target(self, link: Path, followed: tuple[str, ...] | None = None) -> str | None:
        """Return where a link leads, or None after telling why it is not followed."""
        target = os.path.realpath(link)
        if not Path(target).is_relative_to(self.real):
            expected = f"{self.what} in the folder"
            self._tell(link, f"a link out of {self.root}, to {target}", expected, "copy what it links to")
        elif not os.path.exists(target):
            self._tell(link, f"a link to {target}, which is not there", "a file", "fetch what it links to")
        elif followed is not None and (
            target in followed or Path(os.path.realpath(link.parent)).is_relative_to(target)
        ):
            self._tell(link, f"a link to {target}, which holds it", "a folder of its own", "remove the link")
        else:
            return target
        return None

    def _tell(self, path: Path, found: str, expected: str, hint: str) -> None:
        self.problems.append(Problem(self.shown(path), found, expected, hint))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _holds_dicom(files: list[Path]) -> bool:
    """Whether files in order are DICOM: by a name of theirs, or the first one's bytes."""
    if any(file.suffix.lower() == ".dcm" for file in files):
        return True
    try:
        with open(files[0], "rb") as f:
            return f.read(132)[128:] == b"DICM"
    except OSError:
        return False


def first_dicom(root: Path) -> Path | None:
    """Return a folder of DICOM at or under `root`, looking into some folders only."""
    for looked, (folder, inside, files) in enumerate(os.walk(root)):
        inside.sort()
        if files and _holds_dicom([Path(folder) / name for name in sorted(files)]):
            return Path(folder)
        if looked == _LOOKS:
            break
    return None


def dicom_refusal(folders: list[Path]) -> InputError:
    """Return the error that says how to convert folders of DICOM."""
    return InputError(
        f"{folders[0]}: found DICOM; expected NIfTI; convert it where it lies and prepare again: "
        f"{dcm2niix(folders[0])}{_and_more(folders, 'and so for')}"
    )


def _and_more(folders: list[Path], how: str) -> str:
    n = len(folders) - 1
    return "" if n == 0 else f", {how} {n} more {'folder' if n == 1 else 'folders'}"


def dcm2niix(folder: Path) -> str:
    """Return the command that converts a folder of DICOM into itself, so that a study keeps its layout."""
    where = shlex.quote(str(folder))
    return f"dcm2niix -z y -b y -f %f_%s -o {where} {where}"


def header(table: Path) -> list[str]:
    """Return the columns of a TSV; none where it cannot be read."""
    try:
        with open(table, encoding="utf-8-sig", errors="replace") as f:
            return [column.strip().strip('"') for column in f.readline().split("\t")]
    except OSError:
        return []
