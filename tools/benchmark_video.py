"""Time the two stores of video, in turn: clips decoded beforehand into shards, and decoded from files when asked for.

python tools/benchmark_video.py                                       (some minutes on one core)
python tools/benchmark_video.py --videos 4 --rounds 3 --json out.json (about a minute on two cores)

It makes videos like those of Kinetics-400 (340 x 256, 10 s at 30 frames a second, h264) twice: with one keyframe, at
the start, as an interval of 12 s gives, and with one a second. Both are prepared with both stores. One round draws a
training clip of every video from every side, in one thread; the files have been read before, so that the disk plays no
part. The table has the median over rounds and the range, in clips a second for one core, and the disk that a video
takes.

A busy machine gives other numbers: run it alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import av
import numpy as np

from jaxneuro import data, records
from jaxneuro.prepare import run
from jaxneuro.video import sampling

WIDTH, HEIGHT, RATE, SECONDS = 340, 256, 30, 10
#: Frames from one keyframe to the next.
KEYFRAMES = {"one keyframe": 360, "a keyframe a second": 30}


def texture(rng: np.random.Generator) -> np.ndarray:
    """Return a picture [2h, 2w, 3] uint8 with structure at all scales, as photographs have."""
    total = np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.float32)
    for size in (4, 16, 64, 256):
        coarse = rng.integers(0, 256, (size * HEIGHT // 256 + 2, size * WIDTH // 256 + 2, 3)).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray(coarse, format="rgb24")
        big = frame.reformat(width=2 * WIDTH, height=2 * HEIGHT, interpolation="BICUBIC")
        total += big.to_ndarray() / size**0.5
    return (255 * (total - total.min()) / np.ptp(total)).astype(np.uint8)


def write_video(path: Path, seed: int, keyframes: int) -> None:
    """Write a camera's way over a texture, with some noise, as h264 at its default quality."""
    rng = np.random.default_rng(seed)
    scene = texture(rng)
    way = np.cumsum(rng.normal(0, 1.5, (RATE * SECONDS, 2)), 0)
    way = np.clip(way + np.array([HEIGHT, WIDTH]) / 2, 0, (HEIGHT, WIDTH)).astype(int)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", keyframes
        for top, left in way:
            seen = scene[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
            seen = np.clip(seen + rng.integers(-12, 13, seen.shape), 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(seen, format="rgb24")))
        out.mux(stream.encode(None))


def measure(folder: Path, recipe: str, videos: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Return side to clips a second in each round, and to its bytes on disk for each video."""
    readers: dict[str, data.Volumes] = {}
    found: dict[str, dict[str, Any]] = {}
    for number, (name, keyframes) in enumerate(KEYFRAMES.items()):
        source = folder / f"videos-{number}"
        source.mkdir()
        for i in range(videos):
            write_video(source / f"{i:03d}.mp4", i, keyframes)
        for store in ("files", "clips"):
            out = folder / f"{store}-{number}"
            run.prepare(source, out, recipe=recipe, validation=0, test=0, video={"store": store})
            side = f"{store}, {name}"
            readers[side] = data.open_reader(records.open_dataset(out))
            paths = source.iterdir() if store == "files" else (out / "shards").iterdir()
            found[side] = {"bytes": sum(p.stat().st_size for p in paths) / videos, "clips_per_second": []}
    for i in range(rounds + 1):
        for side in list(readers)[:: 1 if i % 2 else -1]:  # nobody always goes first
            start = time.perf_counter()
            for number in range(videos):
                readers[side].draw(number, (0, i, number))
            if i:  # the first round warms the cache
                found[side]["clips_per_second"].append(videos / (time.perf_counter() - start))
    return found


def machine() -> str:
    """Return what the numbers were measured on, in one line."""
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"host of {os.cpu_count()} cores ({platform.machine()}), {load}, Python {platform.python_version()}, "
        f"PyAV {av.__version__}, NumPy {np.__version__}, {date.today()}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time clips from shards and from video files.")
    parser.add_argument("--recipe", default="clip32x2", choices=sorted(sampling.RECIPES))
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the numbers of every round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.recipe, options.videos, options.rounds)
    print(machine())
    print(f"{options.recipe}, {options.videos} videos of {SECONDS} s, {options.rounds} rounds, one thread, warm cache")
    print("\n| | clips a second and core | range | KiB on disk a video, one clip each |\n|---|---|---|---|")
    for side, values in found.items():
        low, middle, high = (f(values["clips_per_second"]) for f in (min, statistics.median, max))
        print(f"| {side} | {middle:.1f} | {low:.1f} to {high:.1f} | {values['bytes'] / 1024:,.0f} |")
    if options.json:
        settings = {k: getattr(options, k) for k in ("recipe", "videos", "rounds")}
        options.json.write_text(json.dumps({"machine": machine(), **settings, "sides": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
