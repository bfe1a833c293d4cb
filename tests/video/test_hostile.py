"""Damaged videos by the hundred: each becomes clips or a row with its reason, in bounded time and memory."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxneuro import data, manifest, records
from jaxneuro.video import decode, sampling
from tests.video import hostile

#: Kinds that are read for what they are: what they lack or say wrong is not needed.
GOOD = {
    "untouched", "another ending", "noise behind it", "zeros behind it", "huge duration", "keyframes that are none",
    "no keyframes",
}  # fmt: skip
#: Kinds that never are. Others depend on what was hit: few codecs have checksums.
BAD = {
    *hostile.NONE, *hostile.HEADERS, "cut in the header", "inverted", "compressed", "boxes in boxes", "huge tables",
    "huge number of samples", "samples without sizes", "fragments without sizes", "fragments without end", "turned",
}  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return hostile.good(tmp_path_factory.mktemp("good"))


def prepare(folder, out, store):
    """Run it in a process of its own; returns the dataset and the process's peak memory in MiB."""
    code = (
        "import json, sys; from jaxneuro.prepare import run\n"
        "run.prepare(sys.argv[1], sys.argv[2], recipe='video80', validation=0, test=0, video=json.loads(sys.argv[3]))\n"
        # Not ru_maxrss of itself, which begins with that of the process it was forked from.
        "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) // 1024)"
    )
    arguments = [sys.executable, "-W", "ignore", "-c", code, folder, out, json.dumps({"store": store, "views": "1x1"})]
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    return records.open_dataset(out), int(done.stdout)


def outcome(dataset, files):
    """Return kind -> list of whether clips were made; every file has one outcome."""
    made = {s.path for s in dataset.scans}
    problems = manifest.read_problems(dataset.path / "failures.csv")
    told = [p.where for p in problems if p.dropped]
    assert sorted([*made, *told]) == sorted(str(f.path) for f in files)
    for problem in problems:
        assert problem.found
        assert problem.expected
        assert str(problem).isprintable()
    kinds = {}
    for file in files:
        kinds.setdefault(file.kind, []).append(str(file.path) in made)
    return kinds


def test_two_hundred_damaged_videos(tmp_path, sources):
    (tmp_path / "videos").mkdir()
    files = hostile.write(tmp_path / "videos", sources, 240)
    dataset, peak = prepare(tmp_path / "videos", tmp_path / "d", "clips")
    assert peak < 600  # MiB: gigabytes of declared samples or pictures are never believed
    kinds = outcome(dataset, files)
    assert set(kinds) >= GOOD | BAD
    assert {k for k in GOOD if not all(kinds[k])} == set()
    assert {k for k in BAD if any(kinds[k])} == set()
    assert len(dataset.scans) == sum(map(sum, kinds.values()))
    good = {str(f.path) for f in files if f.kind in GOOD}
    with data.open_reader(dataset) as reader:
        for i, scan in enumerate(dataset.scans):
            clip = reader[i]
            assert clip.shape == (80, 80, 80, 1)
            assert clip.dtype == np.uint8
            assert scan.path not in good or clip.std() > 30  # of the squares; grey where a decoder found nothing


def test_damaged_videos_that_stay_in_their_files(tmp_path, sources):
    (tmp_path / "videos").mkdir()
    files = hostile.write(tmp_path / "videos", sources, 140, seed=1)
    dataset, peak = prepare(tmp_path / "videos", tmp_path / "d", "files")
    assert peak < 600
    kinds = outcome(dataset, files)
    assert {k for k in GOOD if not all(kinds[k])} == set()
    assert {k for k in BAD if any(kinds.get(k, []))} == set()
    recipe, of_path, reader = sampling.RECIPES["video80"], {str(f.path): f for f in files}, data.open_reader(dataset)
    for i, scan in enumerate(dataset.scans):
        clip, file = reader[i], of_path[scan.path]
        assert clip.shape == (80, 80, 80, 1)
        if file.kind in GOOD:
            # All of it is there: the same pictures as of the file before it was damaged.
            video = decode.probe(str(file.source))
            views = sampling.test_views(recipe, video.frames, (video.height, video.width), 1, 1)
            np.testing.assert_array_equal(clip, decode.read(str(file.source), video, recipe, views)[0])
