"""Recipes: what becomes of a scan, by name. Two recipes with equal fields have equal fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxneuro.errors import InputError

#: What can be done to a scan before it is put on the grid, in this order.
STAGES = ("bias", "strip", "register")
#: How the skull can be stripped (`stripping`), by masks of the study's own, or not at all.
STRIPPERS = ("template", "deepbet", "synthstrip", "hd-bet", "mask", "none")


@dataclass(frozen=True)
class Recipe:
    """How a scan becomes a volume.

    Attributes:
      name: name of the recipe.
      shape: voxels along left-right, posterior-anterior, inferior-superior: (depth, height, width).
      fov_mm: extent of the grid along the same axes, in mm; a voxel is fov_mm / shape. (182, 218, 182) is the box of
        the 2 mm MNI template that the paper resizes to a cube.
      centre_mm: its centre in the template's RAS+ mm, for scans that are registered; the centre of that same box. For
        others the brain's centre of mass is the centre.
      stages: those of `STAGES` that are done here.
      already: those that the scans have been through before.
      stripper: how the skull is stripped: "template", a name in `stripping.TOOLS`, or "mask" for the study's own
        masks.
      bias_mm: voxel of the grid that N4 fits the brain's bias on; the head's, before it, on one of 8 mm or this.
      finest_mm: voxel of the registration's last grid.
      scale_percentile: this percentile of the foreground becomes 1.
      version: raised when the code changes what the same fields give.
    """

    name: str
    shape: tuple[int, int, int]
    fov_mm: tuple[float, float, float] = (182.0, 218.0, 182.0)
    centre_mm: tuple[float, float, float] = (0.0, -18.0, 18.0)
    stages: tuple[str, ...] = ()
    already: tuple[str, ...] = ()
    stripper: str = "template"
    bias_mm: float = 6.0
    finest_mm: float = 2.0
    scale_percentile: float = 99.0
    version: int = 5

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size in mm."""
        a, b, c = (f / s for f, s in zip(self.fov_mm, self.shape, strict=True))
        return a, b, c

    @property
    def registered(self) -> bool:
        """Whether volumes lie in the template's space."""
        return "register" in (*self.stages, *self.already)

    @property
    def stripped(self) -> bool:
        """Whether volumes are of brains on a background of 0."""
        return "strip" in (*self.stages, *self.already)

    def describe(self) -> dict[str, Any]:
        """Return the recipe and its steps as plain values, for the dataset card."""
        done = [_STEPS[stage].format(self) for stage in STAGES if stage in self.stages]
        centre = "the template's box" if self.registered else "the brain's centre of mass"
        return {
            **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()},
            "steps": [
                "orient to RAS+",
                *done,
                "smooth along axes that become coarser (Gaussian, full width at half maximum = new voxel)",
                f"resample linearly, once, to the grid centred on {centre}",
                f"divide by the {self.scale_percentile:g}th percentile of the foreground",
                "float16",
            ],
        }


_STEPS = {
    "bias": "correct bias (N4), over the head and again over the brain",
    "strip": "strip the skull ({0.stripper})",
    "register": "register to MNI152 (9 degrees of freedom, mutual information)",
}
#: `paper80` and `paper96` are the cube sizes of the paper (section 3.1); `quick40` is for demonstrations.
RECIPES = {
    "paper80": Recipe("paper80", (80, 80, 80), stages=STAGES),
    "paper96": Recipe("paper96", (96, 96, 96), stages=STAGES),
    "quick40": Recipe("quick40", (40, 40, 40), (168.0, 212.0, 180.0), stages=STAGES, bias_mm=12.0, finest_mm=4.0),
}


def recipe(name: str, *, skip: Sequence[str] = (), already: Sequence[str] = (), stripper: str | None = None) -> Recipe:
    """Return a recipe by name, changed as the arguments say.

    Args:
      name: of the recipe.
      skip: stages that are left out.
      already: stages that the scans have been through, which are left out and checked.
      stripper: how the skull is stripped; "none" for scans without one.

    Raises:
      InputError: there is no such recipe, stage or way of stripping.
    """
    if name not in RECIPES:
        raise InputError(
            f"recipe: found '{name}'; expected one of {sorted(RECIPES)}, or for videos those of docs/data.md"
        )
    for flag, stages in (("skip", skip), ("already", already)):
        if unknown := [s for s in stages if s not in STAGES]:
            raise InputError(f"--{flag}: found {unknown[0]}; expected one of {', '.join(STAGES)}")
    if stripper not in (None, *STRIPPERS):
        raise InputError(f"--strip: found {stripper}; expected one of {', '.join(STRIPPERS)}")
    chosen = RECIPES[name]
    if stripper == "none":
        already, stripper = (*already, "strip"), None
    left = tuple(s for s in chosen.stages if s not in (*skip, *already))
    if stripper is not None:
        if "strip" not in left:
            raise InputError(f"--strip: found {stripper} without the stage strip; expected one or the other")
        chosen = replace(chosen, stripper=stripper)
    return replace(chosen, stages=left, already=tuple(s for s in STAGES if s in already))
