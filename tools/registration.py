"""How well heads that were moved by a known amount are registered and stripped, and how long each stage takes.

python tools/registration.py --head ch2.nii.gz --brain ch2bet.nii.gz --moves 20

The head is resampled by random moves of 9 parameters about its brain's centre; each goes through N4, stripping, N4
again and registration, as in `jaxneuro prepare`. Target error: the distance, over the brain, between where the moved
head's pose puts the template and where the unmoved head's pose, moved alike, puts it. Dice: of the stripped brain and
the given one, moved alike. Colin27 (head `ch2`, brain `ch2bet`) is in Debian's package mricron-data: apt-get download
mricron-data, dpkg -x.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import SimpleITK as sitk
from rich.table import Table
from scipy import ndimage

from jaxneuro import terminal
from jaxneuro.prepare import bias, images, registration, stripping, template, volumes


def main() -> None:
    """Move, prepare, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", type=Path, required=True)
    parser.add_argument("--brain", type=Path, required=True, help="the same image without its skull, or a mask")
    parser.add_argument("--moves", type=int, default=20)
    parser.add_argument("--degrees", type=float, default=15.0)
    parser.add_argument("--mm", type=float, default=15.0)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--strip", choices=["template", *stripping.TOOLS], default="template")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures here (.json)")
    args = parser.parse_args()
    head, affine = volumes.read(args.head)
    brain, _ = volumes.read(args.brain)
    mask = ndimage.binary_fill_holes(brain > 0)
    centre = affine[:3, :3] @ np.array(ndimage.center_of_mass(mask)) + affine[:3, 3]
    moves = [np.eye(4), *(move(args, centre, i) for i in range(args.moves))]
    work = joblib.Parallel(n_jobs=args.workers, return_as="generator")
    found = []
    with terminal.progress("heads", len(moves)) as live:
        for result in work(joblib.delayed(prepared)(head, affine, mask, m, args.strip) for m in moves):
            found.append(result)
            live(len(found))
    still = np.array(found[0]["matrix"])
    for result, moved in zip(found, moves, strict=True):
        result["error_mm"] = dict(zip(("mean", "largest"), target_error(result["matrix"], moved @ still), strict=True))
    show(found)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


def move(args: argparse.Namespace, centre: np.ndarray, number: int) -> np.ndarray:
    """Return a random move [4, 4] of RAS+ mm: sizes, then a rotation, about the centre, then a shift."""
    rng = np.random.default_rng((args.seed, number))
    turned = registration.rotation(np.radians(rng.uniform(-args.degrees, args.degrees, 3)))
    matrix = np.eye(4)
    matrix[:3, :3] = turned * (1 + rng.uniform(-args.scale, args.scale, 3))
    matrix[:3, 3] = centre + rng.uniform(-args.mm, args.mm, 3) - matrix[:3, :3] @ centre
    return matrix


def prepared(
    head: np.ndarray, affine: np.ndarray, mask: np.ndarray, moved: np.ndarray, stripper: str
) -> dict[str, Any]:
    """Move a head and take it through the stages; returns pose, Dice, seconds of each stage and peak memory."""
    for mm in (1.0, 2.0, 4.0, 8.0):
        template.load(mm)  # made once a process
    if not np.array_equal(moved, np.eye(4)):
        head, affine, mask = resampled(head, affine, mask, moved)
    seconds: dict[str, float] = {}
    matrix, brain = through(images.to_sitk(head, affine), stripper, seconds)
    return {
        "matrix": matrix,
        "dice": float(2 * (brain & mask).sum() / (brain.sum() + mask.sum())),
        "seconds": seconds,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add what a stage takes."""
    began = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - began


def through(scan: sitk.Image, stripper: str, seconds: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """As `prepare.scan.prepare` does; returns the matrix and the brain."""
    first = None
    with timed(seconds, "bias"):
        even = bias.correct(scan)
    if stripper == "template":
        with timed(seconds, "find"):
            first = registration.of_head(even)
    with timed(seconds, "strip"):
        brain = stripping.by_template(even, first) if first else stripping.TOOLS[stripper](even)
    with timed(seconds, "bias again"):
        even = bias.of_brain(scan, images.to_sitk(brain, images.affine_of(scan)))
    with timed(seconds, "register"):
        only = images.to_sitk(images.to_voxels(even) * brain, images.affine_of(scan))
        pose = registration.of_brain(only, start=first)
    return pose.matrix, brain


def resampled(
    head: np.ndarray, affine: np.ndarray, mask: np.ndarray, moved: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the moved head and mask on a grid with 30 more voxels on each side, so that nothing is cut off."""
    shape = tuple(n + 60 for n in head.shape)
    there = affine.copy()
    there[:3, 3] -= affine[:3, :3] @ np.full(3, 30)
    back = np.linalg.inv(affine) @ np.linalg.inv(moved) @ there
    onto: dict[str, Any] = {"matrix": back[:3, :3], "offset": back[:3, 3], "output_shape": shape, "order": 1}
    return (
        ndimage.affine_transform(head, **onto),
        there,
        ndimage.affine_transform(mask.astype(np.float32), **onto) > 0.5,
    )


def target_error(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Return the mean and the largest distance, mm, between two matrices over the template's brain."""
    t = template.load()
    points = np.argwhere(images.to_voxels(t.mask) > 0.5)[::997]
    points = np.c_[points, np.ones(len(points))] @ images.affine_of(t.mask).T
    away = np.linalg.norm((points @ (np.asarray(found) - true).T)[:, :3], axis=1)
    return float(away.mean()), float(away.max())


def show(found: list[dict[str, Any]]) -> None:
    """Print what the moved heads gave; make matrices plain."""
    for result in found:
        result["matrix"] = np.asarray(result["matrix"]).tolist()
    moved = found[1:] or found
    table = Table("measure", "median", "mean", "worst")

    def row(name: str, values: list[float], worst: float, digits: int) -> None:
        table.add_row(name, *(f"{v:.{digits}f}" for v in (statistics.median(values), statistics.mean(values), worst)))

    means = [r["error_mm"]["mean"] for r in moved]
    row("target error, mean over the brain, mm", means, max(means), 2)
    largest = [r["error_mm"]["largest"] for r in moved]
    row("target error, largest in the brain, mm", largest, max(largest), 2)
    dice = [r["dice"] for r in moved]
    row("Dice of the stripped brain", dice, min(dice), 3)
    for stage in moved[0]["seconds"]:
        took = [r["seconds"][stage] for r in moved]
        row(f"{stage}, s", took, max(took), 1)
    total = [sum(r["seconds"].values()) for r in moved]
    row("all stages, s", total, max(total), 1)
    peak = [r["peak_mib"] for r in moved]
    row("peak memory of the process, MiB", peak, max(peak), 0)
    terminal.say(table)


if __name__ == "__main__":
    main()
