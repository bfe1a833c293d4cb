"""Kinetics as it is distributed (tables with start and end times, class folders), and any folder of videos.

The tables have the columns `youtube_id, time_start, time_end` and perhaps `label` and `split` (seconds; one more,
`is_cc`, in some); they lie beside the files or in `annotations/`. A file is named after its video, `ID.mp4`, a whole
download that is cut by the times, or `ID_000010_000020.mp4`, which has been cut. The Common Visual Data Foundation
hands out `train/`, `val/`, `test/` and `replacement/`, whose files stand in for damaged ones. Class folders are
`train/CLASS/*.mp4` and so on, or `CLASS/*.mp4`; a folder around all of them does not matter.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Problem, Scan, is_missing, read_table
from jaxneuro.sources import tree
from jaxneuro.sources.base import Source

#: Endings of the files that are taken for videos: those of the containers that `video.decode` opens.
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".f4v", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".flv", ".wmv", ".asf", ".ogv", ".ogg"),
    *(".mpg", ".mpeg", ".vob", ".ts", ".mts", ".m2ts"),
)
#: Endings of videos in other containers.
_OTHERS = (".rm", ".rmvb", ".mxf", ".dv", ".y4m", ".ivf", ".nut", ".wtv", ".swf", ".amv")
_VIDEO = re.compile(rf"({'|'.join(map(re.escape, (*SUFFIXES, *_OTHERS)))})$", re.IGNORECASE)
_NEEDED = ("youtube_id", "time_start", "time_end")
_FOLDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: Words for folds, for messages.
FOLD_WORDS = "train, val or test"
#: What may stand beside a fold in a folder's name: `videos_val_256`. Others make a class of it, such as `training dog`.
_BESIDE = {"", "videos", "video", "clips", "data", "split", "kinetics", "k"}
#: An identifier of YouTube and two times: `YYMMDD_HHMMSS` is how cameras name files.
_CUT = re.compile(r"([A-Za-z0-9_-]{11})_(\d{6})_(\d{6})")
_ID = re.compile(r"[A-Za-z0-9_-]{11}")
#: Longest part that a file's name may tell of, seconds. Those of Kinetics have 10; a date and a time of day rarely lie
#: so close together.
_LONGEST = 60


@dataclass(frozen=True)
class _File:
    path: Path
    where: str  # relative to the root; of a damaged file its own, while `path` is that of its replacement
    fold: str  # "" for none
    label: str  # the folder of its class, or ""
    instead: bool  # of a damaged file

    @property
    def stem(self) -> str:
        return self.path.stem


def fold_of(word: str) -> str:
    """Return the fold that a word names, "" for none."""
    return _FOLDS.get(word.strip().lower(), "")


def is_table(path: Path, *, whole: bool = True) -> bool:
    """Whether a file is a table of Kinetics.

    Args:
      path: the file.
      whole: whether a table with some of the columns only is refused, for one of them may be misspelt.

    Raises:
      InputError: it is no table, or not a whole one.
    """
    header = read_table(path, [])[0]
    absent = [c for c in _NEEDED if c not in header]
    if whole and 0 < len(absent) < len(_NEEDED):
        raise InputError(
            f"{path}: found columns {header}; expected {absent} too, as tables of Kinetics have; correct its header or "
            "move it elsewhere"
        )
    return not absent


def read(root: Path, *, table: Path | None = None) -> Source:
    """Read videos with their labels and, where they are given, times and folds.

    The subject is the video, so that parts of one video stay in one fold. With a table (one given, or all that lie in
    `root` or `root/annotations`) the rows decide; else every file is taken, labelled by the folder that it lies in.

    Args:
      root: the folder.
      table: the one table to read.

    Returns:
      The videos, sorted; a part of a file has a path such as `a.mp4#t=10,20`. A row without a file, a file without a
      row, a video in two folds and one in no fold beside others that are in some are problems. `folds` is empty unless
      there are several.

    Raises:
      InputError: no such folder, the table given has other columns, or one in the folder cannot be read.
    """
    if not root.is_dir():
        raise InputError(
            f"{root}: no such folder; expected one of videos, such as train/CLASS/*.mp4, or a table of Kinetics"
        )
    if table is not None and not is_table(table):
        raise InputError(f"{table}: found no table with {', '.join(_NEEDED)}; expected one as Kinetics has")
    tables = [table] if table else [p for p in _csv(root) if is_table(p)]
    problems: list[Problem] = []
    files = _replaced(_files(_videos(root, problems), root, problems), problems)
    if tables:
        scans, folds = _of_rows(tables, files, problems)
        rule = "every row of the tables with a file; parts of a file by the start and end of its row"
    else:
        scans, folds = _of_files(files, problems)
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


def _csv(root: Path) -> list[Path]:
    folders = (root, root / "annotations")
    found = [f / n for f in folders for n in tree.names(f) if n.lower().endswith(".csv") and not n.startswith(".")]
    return [path for path in found if path.is_file()]


def _videos(root: Path, problems: list[Problem]) -> list[Path]:
    found = []
    # Hidden ones are unfinished downloads, or what macOS puts beside each file of an archive.
    for path in sorted(tree.files(root, _VIDEO, problems, what="videos")):
        where = str(path.relative_to(root))
        if not where.isprintable():
            problems.append(
                Problem(repr(where), "a name with signs that cannot be printed", "letters, digits, signs", "rename it")
            )
        elif path.suffix.lower() in _OTHERS:
            problems.append(
                Problem(where, f"a video that is not read ({path.suffix})", ", ".join(SUFFIXES), "convert it")
            )
        else:
            found.append(path)
    return found


# ---- what folders say ------------------------------------------------------------------------------------------------


def _files(paths: list[Path], root: Path, problems: list[Problem]) -> list[_File]:
    """Return the files with the fold and label that the folders they lie in name."""
    inside = {path: path.relative_to(root).parts[:-1] for path in paths}
    top, depth = _levels([folders for folders in inside.values() if not _is_instead(folders)], problems)
    around = len({folders[top] for folders in inside.values() if len(folders) > top})
    files = []
    for path, folders in inside.items():
        instead = _is_instead(folders)
        fold, rest = "", folders[top:]
        if depth is not None:
            fold = _fold_of_folder(folders[depth]) if len(folders) > depth else ""
            if fold:  # CLASS/train/*.mp4 is labelled by what is around it
                rest = folders[depth + 1 :] or (folders[top:depth] if around > 1 else ())
        label = rest[0] if rest and not instead else ""
        files.append(_File(path, str(path.relative_to(root)), "" if instead else fold, label, instead))
    return files


def _levels(inside: list[tuple[str, ...]], problems: list[Problem]) -> tuple[int, int | None]:
    """Return at which level the folders of classes begin, and at which those of folds are (None: nowhere).

    Args:
      inside: the folders of each file, from the outermost.
      problems: grows by a class that is named as a fold.
    """
    top = 0
    while inside and all(len(f) > top + 1 for f in inside) and len({f[top] for f in inside}) == 1:
        if _fold_of_folder(inside[0][top]):
            break
        top += 1  # a folder around everything
    for depth in (top, top + 1):
        here = {f[depth] for f in inside if len(f) > depth}
        named = {name for name in here if _fold_of_folder(name)}
        if len({_fold_of_folder(name) for name in named}) > 1:
            return top, depth
        if not named or depth > top:
            continue
        if named == here or any(len(f) > depth + 1 for f in inside if len(f) > depth and f[depth] in named):
            return top, depth
        # train/*.mp4 beside bus/*.mp4 and car/*.mp4
        expected = "two folds or more, or none"
        problems.append(
            Problem(", ".join(sorted(named)), "one fold's name among folders", expected, "taken for a class", False)
        )
    # One class alone keeps its name.
    return (top if len({f[top] for f in inside}) > 1 else 0) if top else 0, None


def _fold_of_folder(name: str) -> str:
    """Return the fold that a folder such as `val`, `videos_val_256` or `validation_set` is named after, "" for none."""
    words = {word.removesuffix("set") for word in re.split("[^a-z]+", name.lower())} - _BESIDE
    return fold_of(words.pop()) if len(words) == 1 else ""


def _fold_of_table(name: str) -> str:
    """Return the fold that a table such as `val_list` or `kinetics_train` is named after, "" for none or several."""
    named = {fold for word in re.split("[^a-z]+", name.lower()) if (fold := fold_of(word.removesuffix("set")))}
    return named.pop() if len(named) == 1 else ""


def _is_instead(folders: tuple[str, ...]) -> bool:
    """Whether files stand in for damaged ones; a class in a fold may have that name, too."""
    return folders[:1] == ("replacement",) or (folders[1:2] == ("replacement",) and not _fold_of_folder(folders[0]))


def _replaced(files: list[_File], problems: list[Problem]) -> list[_File]:
    """Return the files, those of `replacement/` in the place of damaged ones of the same name."""
    instead: dict[str, _File] = {}
    for f in files:
        if f.instead and (first := instead.setdefault(f.stem, f)) is not f:
            problems.append(Problem(f.where, f"a second replacement of {f.stem}", "one", f"{first.where} was kept"))
    named = {f.stem for f in files if not f.instead}
    return [
        *(replace(f, path=instead[f.stem].path) if f.stem in instead else f for f in files if not f.instead),
        *(f for stem, f in instead.items() if stem not in named),
    ]


# ---- without a table -------------------------------------------------------------------------------------------------


def _of_files(files: list[_File], problems: list[Problem]) -> tuple[list[Scan], dict[str, set[str]]]:
    """Return a scan of every file, and the folds that each subject is in."""
    published = any(f.fold for f in files)
    kept: dict[tuple[str, ...], _File] = {}
    for f in files:
        if f.instead:
            problems.append(Problem(f.where, "a replacement of no file", f"{f.stem} elsewhere, or a row for it"))
        elif published and not f.fold:
            problems.append(
                Problem(f.where, "a video in no fold, beside folders of folds", FOLD_WORDS, "move it into one")
            )
        else:
            # Cut parts of one video are told apart by their times; other files of one name are different videos, unless
            # they lie side by side.
            key = (f.fold if _cut(f.stem) else str(Path(f.where).parent), f.stem)
            if (first := kept.setdefault(key, f)) is not f:
                problems.append(Problem(f.where, f"a second file of {f.stem}", "one", f"{first.where} was kept"))
    subjects = _subjects(list(kept.values()), problems)
    parts = Counter(subjects.values())
    scans: list[Scan] = []
    folds: dict[str, set[str]] = {}
    for f in kept.values():
        subject, cut = subjects[f.where], _cut(f.stem)
        session = f"t{cut[1]}-{cut[2]}" if cut and parts[subject] > 1 else ""
        scans.append(Scan(subject, session, path=str(f.path), label=f.label or MISSING))
        folds.setdefault(subject, set()).add(f.fold or "train")
    return scans, folds


def _cut(stem: str) -> tuple[str, int, int] | None:
    """Return identifier, start and end of a file that has been cut out of a video of Kinetics."""
    match = _CUT.fullmatch(stem)
    start, end = (int(match[2]), int(match[3])) if match else (0, 0)
    return (match[1], start, end) if match and 0 < end - start <= _LONGEST else None


def _subjects(files: list[_File], problems: list[Problem]) -> dict[str, str]:
    """Return the subject of each file by its place."""
    of_name: dict[str, list[_File]] = {}
    for f in files:
        of_name.setdefault(f.stem, []).append(f)
    subjects = {}
    for stem, group in of_name.items():
        cut = _cut(stem)
        folds = sorted({f.fold for f in group})
        # An identifier is that of one video wherever it stands; numbers may be given in each folder anew.
        one = cut is not None or len(group) == 1 or (len(folds) > 1 and _ID.fullmatch(stem) is not None)
        for f in group:
            subjects[f.where] = (cut[0] if cut else stem) if one else f.where
            if not one and len(folds) > 1:
                problems.append(
                    Problem(
                        f.where,
                        f"the name {stem} in folds {', '.join(folds)}",
                        "a name of its own for each video",
                        "kept as different videos; remove copies",
                        dropped=False,
                    )
                )
    return subjects


# ---- with tables -----------------------------------------------------------------------------------------------------


def _of_rows(tables: list[Path], files: list[_File], problems: list[Problem]) -> tuple[list[Scan], dict[str, set[str]]]:
    """Return a scan of every row that has a file, and the folds that each subject is in."""
    named: dict[str, list[_File]] = {}
    for f in files:
        named.setdefault(f.stem, []).append(f)
    used: dict[str, _File] = {}
    found: list[tuple[str, Scan, str]] = []
    for table in tables:
        for line, row in read_table(table, problems)[1]:
            where = f"{table} line {line}"
            if (one := _of_row(where, row, _fold_of_table(table.stem), named, used, problems)) is not None:
                found.append((where, *one))
    published = any(fold for _, _, fold in found)
    rows: dict[tuple[str, str], Scan] = {}
    folds: dict[str, set[str]] = {}
    for where, scan, fold in found:
        if published and not fold:
            hint = f"add {FOLD_WORDS} in a column split"
            problems.append(Problem(where, "a row in no fold, beside others that are in some", "a fold", hint))
            continue
        folds.setdefault(scan.subject, set()).add(fold or "train")
        if rows.setdefault(scan.key, scan) != scan:
            problems.append(
                Problem(where, f"{scan.name} again, with another label", "one row a part", "the first was kept")
            )
    kept = {f.stem: f for f in used.values()}
    for f in files:
        if f.where in used:
            continue
        if f.stem in kept:
            problems.append(
                Problem(f.where, f"a second file of {f.stem}'s row", "one", f"{kept[f.stem].where} was kept")
            )
        else:
            names = ", ".join(t.name for t in tables)
            problems.append(Problem(f.where, "a file with no row", f"{_name(f.stem)} in {names}", "add the row"))
    parts = Counter(subject for subject, _ in rows)
    # Most videos have one part, which needs no name.
    return [s if parts[s.subject] > 1 else Scan(s.subject, path=s.path, label=s.label) for s in rows.values()], folds


def _of_row(
    where: str,
    row: dict[str, str],
    of_table: str,
    named: dict[str, list[_File]],
    used: dict[str, _File],
    problems: list[Problem],
) -> tuple[Scan, str] | None:
    """Return the scan of a row and its fold, or None after telling why there is none.

    Args:
      where: names the row in problems.
      row: its cells.
      of_table: the fold of the table.
      named: the files by their stems.
      used: grows by the file of the row, by its place.
      problems: grows.
    """
    video, word = row["youtube_id"], row.get("split", "")
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
        if not 0 <= start < end < 1e6:
            raise ValueError
    except ValueError:
        times = f"times '{row['time_start']}' to '{row['time_end']}'"
        problems.append(Problem(where, times, "seconds, the end after the start"))
        return None
    fold = fold_of(word) or of_table
    cut = f"{video}_{int(start):06d}_{int(end):06d}"
    candidates = named.get(cut) or named.get(video)
    if not candidates:
        problems.append(Problem(where, "a row with no file", f"{cut}.mp4 or {video}.mp4", "check the download"))
        return None
    own = [f for f in candidates if f.fold == fold] if fold else []
    file, *others = own or candidates
    if not fold and any(f.fold != file.fold for f in others):
        names = " and ".join(f.where for f in candidates)
        problems.append(Problem(where, f"files in several folds: {names}", "one", "add a column split"))
        return None
    used[file.where] = file
    if not is_missing(word) and not fold_of(word):
        problems.append(Problem(where, f"split '{word}'", FOLD_WORDS, "correct it, or leave it empty in every row"))
        return None
    label = " ".join(row.get("label", "").split())
    part = f"{_decimal(start)}-{_decimal(end)}"
    scan = Scan(
        video,
        f"t{part}",
        path=str(file.path) + ("" if file.stem == cut else f"#t={part.replace('-', ',')}"),
        label=(file.label or MISSING) if is_missing(label) else label,
    )
    return scan, fold or file.fold


def _decimal(seconds: float) -> str:
    """Return a number as its shortest exact decimal, without an exponent."""
    return f"{Decimal(repr(seconds)).normalize():f}"


def _name(stem: str) -> str:
    cut = _cut(stem)
    return cut[0] if cut else stem


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
