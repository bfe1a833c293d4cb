"""Which frames and which part of the picture make a clip: the recipes, and the published rules of Kinetics-400.

The rules are those of mmaction2's `SampleFrames`, `RandomResizedCrop`, `CenterCrop` and `ThreeCrop`, with which the
Video Swin weights were trained and tested. Frames are counted on the grid of `decode.Video`, so a rule for frame
numbers holds for files of variable rate, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jaxneuro.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a video becomes a clip. Two recipes with equal fields have equal fingerprints.

    Attributes:
      name: name of the recipe.
      frames: of a clip, T.
      stride: from one frame of a clip to the next, in frames of the video.
      short_side: the shorter side of the picture before a crop is taken, pixels. Where three crops are taken along the
        longer side, the shorter one is `crop`, as published.
      crop: height and width of a clip, pixels.
      grey: one channel instead of red, green and blue.
      version: raised when the code changes what the same fields give.
    """

    name: str
    frames: int
    stride: int
    short_side: int
    crop: int
    grey: bool = False
    version: int = 1

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of a clip, (time, height, width, channel)."""
        return self.frames, self.crop, self.crop, 1 if self.grey else 3

    @property
    def span(self) -> int:
        """Frames of the video from the first of a clip to its last, both counted."""
        return (self.frames - 1) * self.stride + 1

    def describe(self) -> dict[str, Any]:
        """Return the recipe and its steps as plain values, for the dataset card."""
        return {
            **asdict(self),
            "steps": [
                "frames on an even grid at the mean rate of the file",
                f"{self.frames} frames at a stride of {self.stride}; a shorter video begins again",
                f"train: short side {self.short_side}, 8 to 100 % of the picture at 3:4 to 4:3, to {self.crop}",
                f"else: short side {self.short_side} and the centre, or {self.crop} and three along the longer side",
                "bilinear, averaging where it shrinks (libswscale)",
                "uint8",
            ],
        }


#: `clip32x2` is the input of Video Swin (Liu et al. 2022); `video80` has the shape of a scan of the recipe `paper80`.
RECIPES = {
    "clip32x2": Recipe("clip32x2", frames=32, stride=2, short_side=256, crop=224),
    "video80": Recipe("video80", frames=80, stride=1, short_side=92, crop=80, grey=True),
}


@dataclass(frozen=True)
class View:
    """One clip of a video.

    Attributes:
      start: number of its first frame.
      side: the shorter side of the picture is first resized to this, pixels.
      box: (top, left, height, width) of what is then cut out and, if need be, resized to the recipe's `crop`.
    """

    start: int
    side: int
    box: tuple[int, int, int, int]


def of_card(card: Any) -> Recipe:
    """Return the recipe that a dataset's card describes."""
    return Recipe(**{k: v for k, v in card["recipe"].items() if k != "steps"})


def parse_views(text: str) -> tuple[int, int]:
    """Return (clips, crops) of a text such as `4x3`.

    Raises:
      InputError: it is something else.
    """
    match = re.fullmatch(r"([1-9]\d?)x([13])", text)
    if match is None:
        raise InputError(
            f"--views: found '{text}'; expected clips x crops, such as 4x3 or 12x1; 1 crop is the centre, 3 lie along "
            "the longer side"
        )
    return int(match[1]), int(match[2])


def slots(recipe: Recipe, start: int, count: int) -> np.ndarray:
    """Return the frames [T] of a clip that begins at `start` of a video of `count`; a shorter one begins again."""
    return (start + np.arange(recipe.frames) * recipe.stride) % count


def test_starts(recipe: Recipe, count: int, clips: int) -> list[int]:
    """Return where `clips` test clips begin in a video of `count` frames: evenly from its first to its last."""
    last = max(count - recipe.span, 0)
    if clips == 1:
        return [last // 2]
    return [round(i * (last / (clips - 1))) for i in range(clips)]


def resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Return (height, width) of a picture whose shorter side becomes `side`, its shape kept."""
    short = min(height, width)
    tall, wide = (max(side, int(n * side / short + 0.5)) for n in (height, width))
    return tall, wide


def test_views(recipe: Recipe, count: int, size: tuple[int, int], clips: int, crops: int) -> list[View]:
    """Return the views that a video is tested on: `clips` in time, each with `crops` (1 or 3) in space.

    Args:
      recipe: the recipe.
      count: frames of the video.
      size: (height, width) of its picture.
      clips, crops: how many.
    """
    side = recipe.short_side if crops == 1 else recipe.crop
    tall, wide = resized(*size, side)
    middle = ((tall - recipe.crop) // 2, (wide - recipe.crop) // 2)
    # Twice the step to the middle, as published: one pixel short of the end where the rest is odd.
    corners = [middle] if crops == 1 else [(0, 0), middle, (2 * middle[0], 2 * middle[1])]
    return [
        View(start, side, (top, left, recipe.crop, recipe.crop))
        for start in test_starts(recipe, count, clips)
        for top, left in corners
    ]


def draw(recipe: Recipe, count: int, size: tuple[int, int], key: Sequence[int]) -> View:
    """Return a random clip of a video for training.

    Args:
      recipe: the recipe.
      count: frames of the video.
      size: (height, width) of its picture.
      key: whole numbers of at least 0; the same ones give the same clip.
    """
    rng = np.random.default_rng(list(key))
    start = int(rng.integers(max(count - recipe.frames * recipe.stride, 0) + 1))
    tall, wide = resized(*size, recipe.short_side)
    ratio = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), 10))
    area = rng.uniform(0.08, 1.0, 10) * tall * wide
    heights, widths = np.rint(np.sqrt(area / ratio)).astype(int), np.rint(np.sqrt(area * ratio)).astype(int)
    fitting = np.flatnonzero((heights <= tall) & (widths <= wide))
    if fitting.size:
        high, broad = int(heights[fitting[0]]), int(widths[fitting[0]])
        top, left = int(rng.integers(tall - high + 1)), int(rng.integers(wide - broad + 1))
    else:  # a very long picture: the square in its middle
        high = broad = min(tall, wide)
        top, left = (tall - high) // 2, (wide - broad) // 2
    return View(start, recipe.short_side, (top, left, high, broad))
