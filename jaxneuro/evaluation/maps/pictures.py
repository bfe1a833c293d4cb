"""Maps laid over the mean image of their dataset, as PNG, and what a folder of maps holds to be shown."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np

from jaxneuro import records

#: Of the largest absolute value in a picture, what lies below is not drawn.
_LEAST = 0.25
#: Inches; a page's column is as wide.
_WIDTH = 6.5


def check() -> None:
    """Make sure that pictures can be drawn.

    Raises:
      ModuleNotFoundError: nilearn or matplotlib is not installed, which are extras.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, at import
        import matplotlib.figure  # noqa: F401
        import nilearn.plotting  # noqa: F401


@dataclass(frozen=True)
class Drawing:
    """A map in three cuts through its largest value in the brain, and below them in six from above.

    In grey, too, one can tell values above 0, which are filled, the darker the larger, from those below it, within
    dotted lines, and from the place of the effect, within a white one.

    Attributes:
      values: the map [d, h, w]; what is below a quarter of its largest absolute value is not drawn.
      behind: the image to draw it on.
      brain: bool [d, h, w]; outside of it nothing is drawn.
      title: of the picture.
      signed: whether values below 0 mean something.
      place: where the effect is, bool [d, h, w]; None where nobody knows.
    """

    values: nib.Nifti1Image
    behind: nib.Nifti1Image
    brain: np.ndarray
    title: str
    signed: bool
    place: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """Write it as a PNG."""
        import matplotlib

        affine = self.values.affine
        data = np.where(self.brain, np.asarray(self.values.dataobj), 0).astype(np.float32)
        peak = np.unravel_index(np.where(self.brain, data, -np.inf).argmax(), data.shape)
        at = nib.affines.apply_affine(affine, peak)
        inside = np.flatnonzero(self.brain.any((0, 1)))
        heights = affine[2, 3] + affine[2, 2] * np.quantile(inside, np.linspace(0.15, 0.85, 6))
        with warnings.catch_warnings(), matplotlib.rc_context():
            warnings.simplefilter("ignore")  # nilearn's, about empty maps and thresholds
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            matplotlib.rcdefaults()
            matplotlib.rcParams["text.parse_math"] = False  # a class may be called "$5"
            figure = Figure(figsize=(_WIDTH, 4.6), facecolor="white")
            FigureCanvasAgg(figure)
            self._cuts(figure, data, tuple(at), "ortho", (0.0, 0.42, 1.0, 0.48), colorbar=True)
            self._cuts(figure, data, heights.tolist(), "z", (0.0, 0.0, 1.0, 0.4), colorbar=False)
            figure.suptitle(self.title, fontsize=11)
            figure.savefig(path, dpi=150)

    def _cuts(self, figure: Any, data: np.ndarray, where: Any, mode: str, axes: Any, *, colorbar: bool) -> None:
        from nilearn import plotting

        affine = self.values.affine
        largest = float(np.abs(data).max())
        above = nib.Nifti1Image(np.maximum(data, 0), affine)
        display = plotting.plot_stat_map(
            above, cut_coords=where, display_mode=mode, axes=axes, colorbar=colorbar, figure=figure,
            bg_img=self.behind, threshold=_LEAST * largest, cmap="YlOrRd", black_bg=False, draw_cross=False,
            symmetric_cbar=False, **({"vmin": 0.0, "vmax": largest} if largest else {}),
        )  # fmt: skip
        if self.signed and data.min() < -_LEAST * largest:
            below = nib.Nifti1Image(-data, affine)
            display.add_contours(below, levels=[_LEAST * largest], colors="navy", linestyles=":", linewidths=1.6)
        if self.place is not None:
            place = nib.Nifti1Image(self.place.astype(np.float32), affine)
            for colour, width in (("black", 3.0), ("white", 1.2)):
                display.add_contours(place, levels=[0.5], colors=colour, linewidths=width)


class Picture(NamedTuple):
    """A picture for a report: its title, its PNG, and a sentence or two of what it shows and how the map scored."""

    title: str
    path: Path
    caption: str


def gallery(run: Path) -> list[Picture]:
    """Return the pictures in the folders of maps of a run (`occlusion-TASK` and the like), or in one such folder.

    Maps of the trained network come before those of an untrained one, each of all scans before those of a class.
    Without `--no-pictures` there is one for each group. A run without maps has none.

    Raises:
      InputError: METHOD.json in such a folder is damaged.
    """
    found = []
    for file in sorted([*run.glob("*.json"), *run.glob("*-*/*.json")]):
        method = file.stem
        if method not in ("occlusion", "gradient", "rollout"):
            continue
        told = records.read_json(file, ("method", "explains", "groups", "fold"), expected="what occlusion writes")
        for network in ("trained", "untrained"):
            for group in told["groups"]:
                path = file.parent / f"{file_name(group, network)}.png"
                if path.is_file():
                    found.append(Picture(title(told, group, network), path, _caption(told, group, network)))
    return found


def file_name(group: str, network: str = "trained") -> str:
    """Return what the files of a group's map are called, without their suffix."""
    return re.sub(r"[^\w.-]", "_", group if network == "trained" else f"{network}-{group}")


def title(told: Mapping[str, Any], group: str, network: str) -> str:
    """Return the title of a group's map from what METHOD.json holds."""
    of = "all scans" if group == "all" else f"scans of {group.removeprefix('class-')}"
    said = f"{told['method'].capitalize()}, {told['explains']}: {of} (n = {told['groups'][group]['scans']})"
    return said if network == "trained" else f"{said}, {network} network"


def _caption(told: Mapping[str, Any], group: str, network: str) -> str:
    of = told["groups"][group]
    where = f"the fold {told['fold']}" if told["fold"] != "ood" else "scans from elsewhere"
    said = [f"Mean map over {of['scans']} scans of {where}, on their mean image; dark: {_MEANS[told['method']]}."]
    if told["method"] == "occlusion":
        said.append(
            "Within dotted lines hiding raises the output. "
            f"Patches of {' x '.join(map(str, told['patch']))} voxels, {' x '.join(map(str, told['stride']))} apart."
        )
    scored = of.get("truth", {}).get(network, {}).get("group_map")
    if scored:
        random = of["truth"]["random"]["percentile_95"]
        share = "none" if scored["share"] is None else f"{scored['share']:.0%}"
        said.append(
            f"Within the white line is the effect: there lie {share} of the map's positive values (by chance "
            f"{of['truth']['chance']['share']:.0%}), and values tell it from the rest of the brain with an AUC of "
            f"{scored['auc']:.2f} (95 % of random maps: below {random['auc']:.2f})."
        )
    elif network == "trained":
        said.append(f"Its largest value lies at {', '.join(f'{v:.0f}' for v in of['peak_mm'])} mm.")
    return " ".join(said)


#: What a filled, dark spot of a map of each method says.
_MEANS = {
    "occlusion": "the output falls when it is hidden",
    "gradient": "the output depends on it steeply",
    "rollout": "it is attended to",
}
