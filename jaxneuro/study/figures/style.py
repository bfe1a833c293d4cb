"""How all figures look, and how they become SVG and PDF.

What is compared differs by line style, marker or hatch as well as by colour, so that a grey print stays readable.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH = 4.6  # inches; a column of the page, so that 9 point text stays 9 point
COLUMN = 3.4  # inches; a column of a journal
INK, PALE = "#333333", "#8a8a8a"
# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, YELLOW = "#E69F00", "#56B4E9", "#F0E442"
LOOKS: dict[str, dict[str, Any]] = {
    "test": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "ood": {"color": VERMILION, "linestyle": "--", "marker": "^"},
    "validation": {"color": GREEN, "linestyle": "-.", "marker": "s"},
}
OTHER_LOOK: dict[str, Any] = {"color": PURPLE, "linestyle": ":", "marker": "D"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "jaxneuro",
    "font.size": 9,
    "axes.labelsize": 9,
    "legend.fontsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "text.parse_math": False,  # a class may be called "$5"
}
#: Of a figure one column wide: no text is below 7 points.
SMALL: dict[str, Any] = {
    "font.size": 7,
    "axes.labelsize": 7.5,
    "axes.titlesize": 7.5,
    "legend.fontsize": 7,
    "hatch.linewidth": 0.7,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
}


class Drawing(NamedTuple):
    """Hold one figure: its SVG ("" when there is nothing to draw) and the caption, a sentence or two."""

    svg: str
    caption: str


class Plot(NamedTuple):
    """Hold one figure of a study, what it shows in a line for who cannot see it, and its caption."""

    figure: Figure
    description: str
    caption: str


@contextmanager
def page_style(**changes: Any) -> Iterator[None]:
    """Draw with the style of the report, and `changes` to it, whatever the reader's own matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE | changes)
        yield


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """Return an empty figure of a height and width in inches."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def look(fold: str) -> dict[str, Any]:
    """Return colour, line style and marker of a fold."""
    return LOOKS.get(fold, OTHER_LOOK)


def legend(figure: Figure, axes: Axes, **options: Any) -> None:
    """Put the legend of some axes below them, where it cannot cover data however many entries there are."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", handlelength=3.2, **options)


def to_svg(figure: Figure, key: str, description: str) -> str:
    """Render a figure as one `<svg>` element for a page; `key` makes its ids unique on that page."""
    FigureCanvasSVG(figure)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    # A <style> inside one svg applies to the whole page: the root carries the same two properties instead.
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{key}-', svg)
    svg = re.sub(r'href="#', f'href="#{key}-', svg)
    svg = re.sub(r"url\(#", f"url(#{key}-", svg)
    svg = re.sub(r"\n\s*\n", "\n", svg)
    head, body = svg.split(">", 1)
    box = " ".join(re.findall(r'(?:width|height|viewBox)="[^"]*"', head))
    label = html.escape(description, quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box} '
        f'role="img" aria-label="{label}" style="stroke-linejoin:round;stroke-linecap:butt">{body}'
    )


def to_pdf(figure: Figure) -> bytes:
    """Render a figure as a PDF of vectors, the same bytes each time."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="pdf", metadata=dict.fromkeys(("CreationDate", "Creator", "Producer")))
    return drawn.getvalue()
