"""Kinetics as it is distributed (tables with start and end times, class folders), and any folder of videos.

The tables have the columns `youtube_id, time_start, time_end` and perhaps `label` and `split` (seconds; one more,
`is_cc`, in some); they lie beside the files or in `annotations/`. A file is named after its video, `ID.mp4`, a whole
download that is cut by the times, or `ID_000010_000020.mp4`, which has been cut. The Common Visual Data Foundation
hands out `train/`, `val/`, `test/` and `replacement/`, whose files stand in for damaged ones. Class folders are
`train/CLASS/*.mp4` and so on, or `CLASS/*.mp4`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Problem, Scan, is_missing, read_table
from jaxneuro.sources.base import Source

#: Endings of the files that are taken for videos.
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".ogv", ".3gp")
_NEEDED = ("youtube_id", "time_start", "time_end")
_NAMES = "(train|val|valid|validate|validation|test)"
_FOLDER, _TABLE = re.compile(f"(?:videos_)?{_NAMES}(?:_256)?"), re.compile(f"(?:.*[_-])?{_NAMES}")
_FOLDS = {"train": "train", "test": "test"}
_CUT = re.compile(r"(.+)_(\d{6})_(\d{6})")


@dataclass(frozen=True)
class _File:
    path: Path
    where: str  # relative to the root
    video: str  # the stem, without times
    times: tuple[int, int] | None  # seconds, of a file that has been cut
    fold: str  # "" for none
    label: str  # the folder of its class, or ""
    instead: bool  # of a damaged file


def is_table(path: Path) -> bool:
    """Whether a file is a table of Kinetics."""
    try:
        return set(_NEEDED) <= set(read_table(path, [])[0])
    except InputError:
        return False


def read(root: Path, *, table: Path | None = None) -> Source:
    """Read videos with their labels and, where they are given, times and folds.

    The subject is the video, so that parts of one video stay in one fold. With a table (one given, or all that lie in
    `root` or `root/annotations`) the rows decide; else every file is taken, labelled by the folder that it lies in.

    Args:
      root: the folder.
      table: the one table to read.

    Returns:
      The videos, sorted; a part of a file has a path such as `a.mp4#t=10,20`. A row without a file, a file without a
      row and a video in two folds are problems. `folds` is empty unless there are several.

    Raises:
      InputError: no such folder, or the table given has other columns.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; expected one of videos, such as train/CLASS/*.mp4, or a table of Kinetics"
        )
    if table is not None and not is_table(table):
        raise InputError(f"{table}: found no table with {', '.join(_NEEDED)}; expected one as Kinetics has")
    tables = (
        [table] if table else [p for p in sorted([*root.glob("*.csv"), *root.glob("annotations/*.csv")]) if is_table(p)]
    )
    problems: list[Problem] = []
    files = [_file(p, root) for p in _videos(root, problems)]
    if tables:
        scans, folds = _of_rows(tables, files, problems)
        rule = "every row of the tables with a file; parts of a file by the start and end of its row"
    else:
        scans, folds = _of_files(files)
        rule = "every video of the folder; its label is the folder that it lies in"
    scans, folds = _in_one_fold(scans, folds, problems)
    several = len({f for names in folds.values() for f in names}) > 1
    return Source(
        name=root.resolve().name,
        scans=sorted(scans, key=lambda s: s.key),
        problems=problems,
        rule=rule,
        synthetic=False,
        folds={subject: next(iter(names)) for subject, names in folds.items()} if several else {},
    )


def _videos(root: Path, problems: list[Problem]) -> list[Path]:
    found = []
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        # Hidden ones are unfinished downloads, or what macOS puts beside each file of an archive.
        if path.suffix.lower() not in SUFFIXES or any(p.startswith(".") for p in relative.parts) or not path.is_file():
            continue
        if not str(relative).isprintable():
            problems.append(
                Problem(repr(str(relative)), "a name with signs that cannot be printed", "letters, digits, signs")
            )
            continue
        found.append(path)
    return found


def _file(path: Path, root: Path) -> _File:
    relative = path.relative_to(root)
    folders = list(relative.parts[:-1])
    fold = _fold(folders[0]) if folders else ""
    if fold:
        folders = folders[1:]
    match = _CUT.fullmatch(path.stem)
    times = (int(match[2]), int(match[3])) if match else None
    instead = relative.parts[0] == "replacement"
    label = folders[0] if folders and not instead else ""
    return _File(path, str(relative), match[1] if match else path.stem, times, fold, label, instead)


def _fold(name: str, pattern: re.Pattern[str] = _FOLDER) -> str:
    match = pattern.fullmatch(name.lower())
    return _FOLDS.get(match[1], "validation") if match else ""


def _of_files(files: list[_File]) -> tuple[list[Scan], dict[str, set[str]]]:
    """Return a scan of every file, and the folds that each subject is in."""
    # Cut parts of one video are told apart by their times; other files of one name are different videos.
    count = Counter((f.video, f.times, f.fold) if f.times else f.video for f in files)
    scans: list[Scan] = []
    folds: dict[str, set[str]] = {}
    for f in files:
        own = count[(f.video, f.times, f.fold) if f.times else f.video] == 1
        subject = f.video if own else f.where
        parts = sum(n for key, n in count.items() if isinstance(key, tuple) and key[0] == f.video) if f.times else 1
        session = "t{}-{}".format(*f.times) if f.times and own and parts > 1 else ""
        scans.append(Scan(subject, session, path=str(f.path), label=f.label or MISSING))
        folds.setdefault(subject, set()).add(f.fold or "train")
    return scans, folds


def _of_rows(tables: list[Path], files: list[_File], problems: list[Problem]) -> tuple[list[Scan], dict[str, set[str]]]:
    """Return a scan of every row that has a file, and the folds that each subject is in."""
    # Those of `replacement/` come last, and take the place of others.
    cut: dict[tuple[str, int, int], _File] = {}
    whole: dict[str, _File] = {}
    for f in sorted(files, key=lambda f: f.instead):
        if f.times:
            cut[(f.video, *f.times)] = f
        whole[f.path.stem] = f
    used: set[Path] = set()
    rows: dict[tuple[str, str], tuple[Scan, str]] = {}
    folds: dict[str, set[str]] = {}
    for table in tables:
        for line, row in read_table(table, problems)[1]:
            where, video = f"{table} line {line}", row["youtube_id"]
            try:
                start, end = float(row["time_start"]), float(row["time_end"])
                if not 0 <= start < end < 1e6:
                    raise ValueError
            except ValueError:
                found = f"times '{row['time_start']}' to '{row['time_end']}'"
                problems.append(Problem(where, found, "seconds, the end after the start"))
                continue
            file = cut.get((video, int(start), int(end))) or whole.get(video)
            if file is None:
                expected = f"{video}_{int(start):06d}_{int(end):06d}.mp4 or {video}.mp4"
                problems.append(Problem(where, "a row with no file", expected, "check the download"))
                continue
            used.add(file.path)
            label = " ".join(row.get("label", "").split())
            scan = Scan(
                video,
                f"t{start:g}-{end:g}",
                path=str(file.path) + ("" if file.times else f"#t={start:g},{end:g}"),
                label=(file.label or MISSING) if is_missing(label) else label,
            )
            fold = _fold(row.get("split", "")) or _fold(table.stem, _TABLE) or file.fold or "train"
            folds.setdefault(video, set()).add(fold)
            if scan.key in rows:
                if rows[scan.key][0] != scan:
                    problems.append(
                        Problem(where, f"{scan.name} again, with another label", "one row a part", "the first was kept")
                    )
                continue
            rows[scan.key] = (scan, where)
    replaced = {f.video for f in files if f.instead}
    problems += [
        Problem(f.where, "a file with no row", f"{f.video} in {', '.join(t.name for t in tables)}", "add the row")
        for f in files
        if f.path not in used and not (f.video in replaced and f.video in folds)
    ]
    parts = Counter(subject for subject, _ in rows)
    # Most videos have one part, which needs no name.
    return [s if parts[s.subject] > 1 else Scan(s.subject, path=s.path, label=s.label) for s, _ in rows.values()], folds


def _in_one_fold(
    scans: list[Scan], folds: dict[str, set[str]], problems: list[Problem]
) -> tuple[list[Scan], dict[str, set[str]]]:
    """Leave out videos that stand in two folds."""
    for scan in scans:
        if len(folds[scan.subject]) > 1:
            problems.append(
                Problem(
                    scan.path,
                    f"a video in folds {', '.join(sorted(folds[scan.subject]))}",
                    "one fold",
                    "remove the others",
                )
            )
    kept = [s for s in scans if len(folds[s.subject]) == 1]
    return kept, {s.subject: folds[s.subject] for s in kept}
