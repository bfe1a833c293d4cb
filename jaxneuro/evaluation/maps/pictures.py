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


def overlay(path: Path, values: nib.Nifti1Image, behind: nib.Nifti1Image, title: str, *, signed: bool) -> None:
    """Draw three cuts through the largest value of a map, and below them seven from above, over the mean image.

    Args:
      path: a PNG file to write.
      values: the map; below a quarter of its largest absolute value it is not drawn.
      behind: the image to draw it on.
      title: of the picture.
      signed: whether values below 0 mean something.
    """
    import matplotlib

    data = np.asarray(values.dataobj)
    largest = float(np.abs(data).max())
    peak = np.unravel_index(np.abs(data).argmax() if signed else data.argmax(), data.shape)
    at = nib.affines.apply_affine(values.affine, peak)
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
        low, high = (
            values.affine[2, 3] + values.affine[2, 2] * n for n in (0.15 * data.shape[2], 0.85 * data.shape[2])
        )
        plotting.plot_stat_map(
            values,
            cut_coords=np.linspace(low, high, 7).tolist(),
            display_mode="z",
            axes=(0.0, 0.02, 1.0, 0.36),
            colorbar=False,
            **look,
        )
        figure.suptitle(title, fontsize=11)
        figure.savefig(path, dpi=110)
