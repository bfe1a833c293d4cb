"""Maps laid over the mean image of their dataset, as PNG."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np

#: Of the largest absolute value in a picture, what lies below is not drawn.
_LEAST = 0.25


def check() -> None:
    """Make sure that pictures can be drawn.

    Raises:
      ModuleNotFoundError: nilearn or matplotlib is not installed, which are extras.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, at import
        import matplotlib.figure  # noqa: F401
        import nilearn.plotting  # noqa: F401


def overlay(
    path: Path, values: nib.Nifti1Image, behind: nib.Nifti1Image, brain: np.ndarray, title: str, *, signed: bool
) -> None:
    """Draw three cuts through the largest value of a map in the brain, and below them seven from above.

    Args:
      path: a PNG file to write.
      values: the map [d, h, w]; what is below a quarter of its largest absolute value is not drawn.
      behind: the image to draw it on.
      brain: bool [d, h, w]; outside of it nothing is drawn.
      title: of the picture.
      signed: whether values below 0 mean something.
    """
    import matplotlib

    data = np.where(brain, np.asarray(values.dataobj), 0)
    largest = float(np.abs(data).max())
    peak = np.unravel_index(np.where(brain, data, -np.inf).argmax(), data.shape)
    at = nib.affines.apply_affine(values.affine, peak)
    inside = np.flatnonzero(brain.any((0, 1)))
    heights = values.affine[2, 3] + values.affine[2, 2] * np.quantile(inside, np.linspace(0.1, 0.9, 7))
    values = nib.Nifti1Image(data.astype(np.float32), values.affine)
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.simplefilter("ignore")  # nilearn's, about empty maps and thresholds
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from nilearn import plotting

        matplotlib.rcdefaults()
        matplotlib.rcParams["text.parse_math"] = False  # a class may be called "$5"
        figure = Figure(figsize=(9, 5.2), facecolor="white")
        FigureCanvasAgg(figure)
        bounds = {"vmin": -largest if signed else 0.0, "vmax": largest} if largest else {}
        look = {
            "bg_img": behind, "threshold": _LEAST * largest, "cmap": "cold_hot" if signed else "inferno",
            "black_bg": False, "figure": figure, "draw_cross": False, **bounds,
        }  # fmt: skip
        plotting.plot_stat_map(
            values, cut_coords=tuple(at), display_mode="ortho", axes=(0.0, 0.42, 1.0, 0.5), colorbar=True, **look
        )
        plotting.plot_stat_map(
            values,
            cut_coords=heights.tolist(),
            display_mode="z",
            axes=(0.0, 0.02, 1.0, 0.36),
            colorbar=False,
            **look,
        )
        figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=110)
