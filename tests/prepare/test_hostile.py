"""Damaged and odd files by the hundred: each becomes a volume or a row with its reason, in bounded time and memory."""

import json
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest

from jaxneuro import manifest, records
from jaxneuro.prepare import recipes
from tests.prepare import hostile
from tests.prepare.heads import head, pose

#: Kinds that are read for what they are.
GOOD = {
    "one volume of a series", "big-endian", "right to left", "as i1", "as u1", "as i4", "as i8", "as u2", "as f4",
    "as f8",
}  # fmt: skip
#: Kinds that never are. Others depend on what was hit: a flipped bit in a voxel is another voxel.
BAD = {
    "nan", "infinite", "constant", "empty", "negative", "series", "flat", "complex", "sheared", "spike",
    "cut in the header", "huge", "negative size", "no axes", "spacing of zero", "spacing that is no number",
    "singular affine", "metres", "no affine", "offset beyond the end", "text", "zeros", "nothing",
}  # fmt: skip


def brain(i):
    rng = np.random.default_rng(i)
    voxels = np.zeros((24, 26, 22), np.int16)
    voxels[4:20, 4:22, 4:18] = rng.integers(20, 120, (16, 18, 14))
    return nib.Nifti1Image(voxels, np.diag([6.0, 6.0, 6.0, 1.0]))


def table(folder, paths):
    rows = [f"s{i:03d},{p.name},{60 + i % 20}" for i, p in enumerate(paths)]
    (folder / "scans.csv").write_text("subject,path,age\n" + "\n".join(rows) + "\n")
    return folder / "scans.csv"


def outcome(out, paths):
    """Return kind -> list of whether a volume was made; every file has one outcome."""
    made = {s.path for s in records.open_dataset(out).scans}
    told = {p.where: p for p in manifest.read_problems(out / "failures.csv")}
    assert made | set(told) == {str(p) for p in paths}
    assert not made & set(told)
    for problem in told.values():
        assert problem.found
        assert problem.expected
        assert "\n" not in str(problem)
    kinds = {}
    for path in paths:
        kind = path.name.split(" ", 1)[1].removesuffix(".gz").removesuffix(".nii")
        kinds.setdefault(kind, []).append(str(path) in made)
    return kinds


def prepare(tmp_path, paths, **arguments):
    """Run it in a process of its own; returns the folder made and the process's peak memory in MiB, or its workers'."""
    code = (
        "import json, resource, sys; from jaxneuro.prepare import run\n"
        "run.prepare(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))\n"
        # Not ru_maxrss of itself, which begins with that of the process it was forked from.
        "own = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) // 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, table(tmp_path, paths), tmp_path / "d", json.dumps(arguments)],
        check=True, capture_output=True, text=True, timeout=1200,
    )  # fmt: skip
    return tmp_path / "d", int(done.stdout)


def test_two_hundred_damaged_files(tmp_path):
    paths = hostile.write(tmp_path, brain, 220)
    out, peak = prepare(tmp_path, paths, recipe="quick40", skip=recipes.STAGES)
    assert peak < 1500  # MiB: declared sizes of terabytes are never believed
    kinds = outcome(out, paths)
    assert {k for k in GOOD if not all(kinds[k])} == set()
    assert {k for k in BAD if any(kinds[k])} == set()


@pytest.mark.slow
def test_two_hundred_damaged_heads_through_all_stages(tmp_path):
    def image(i):
        voxels, affine, _ = head(pose((i % 9 - 4, i % 5 - 2, 0), (i % 7 - 3, 0, 0)), voxel_mm=5.0, seed=i)
        return nib.Nifti1Image(np.round(voxels / 8).astype(np.int16), affine)

    paths = hostile.write(tmp_path, image, 205)
    out, peak = prepare(tmp_path, paths, recipe="quick40", workers=2)
    assert peak < 3000
    kinds = outcome(out, paths)
    assert {k for k in GOOD if not all(kinds[k])} == set()
    assert {k for k in BAD if any(kinds[k])} == set()
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    plain = [r for r in lines if r["path"].split(" ", 1)[1].startswith("as ")]
    assert min(r["measures"]["overlap"] for r in plain) > 0.9
