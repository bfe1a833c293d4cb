"""The page to look at after a preparation: every scan's cuts with the template's outline, worst first."""

from __future__ import annotations

import base64
import heapq
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from jaxneuro.manifest import Problem, Scan
from jaxneuro.prepare.recipes import Recipe

TEMPLATE = Path(__file__).with_name("quality.html.jinja")
#: Pictures on a page: more, and a browser gives up; the others are in records.jsonl.
_PICTURES = 300
#: Pixels of the longer side of a cut.
_SIDE = 160


@dataclass
class Page:
    """Gathers scans one by one and keeps the pictures of the worst, so that any number of scans can be added.

    Attributes:
      recipe: what made the volumes.
      pictures: at most so many scans are shown.
      flagged: how many scans have something that a person should look at.
    """

    recipe: Recipe
    pictures: int = _PICTURES
    flagged: int = 0
    _worst: list[tuple[tuple[float, ...], int, dict[str, Any]]] = field(default_factory=list)
    _added: int = 0

    def add(self, scan: Scan, volume: np.ndarray, record: dict[str, Any]) -> None:
        """Add a scan: volume [d, h, w, 1] and its record."""
        from jaxneuro.prepare import checks  # needs SimpleITK, which is an extra

        measures, flags = record["measures"], record["flags"]
        self.flagged += bool(flags)
        badness = (float(bool(flags)), *checks.severity(measures, self.recipe))
        # The number makes ties fall the same way each time, and keeps dicts from being compared.
        entry = (badness, -self._added, {"scan": scan, "record": record})
        self._added += 1
        if len(self._worst) == self.pictures and entry[:2] < self._worst[0][:2]:
            return
        entry[2]["picture"] = _cuts(volume[..., 0], self.recipe)
        push = heapq.heappushpop if len(self._worst) == self.pictures else heapq.heappush
        push(self._worst, entry)

    def write(self, path: Path, *, title: str, problems: Sequence[Problem]) -> None:
        """Write the page.

        Raises:
          OSError: it cannot be written.
        """
        from jaxneuro import pages  # needs jinja2, which is an extra

        shown = [entry for *_, entry in sorted(self._worst, key=lambda e: e[:2], reverse=True)]
        page = pages.render(
            TEMPLATE,
            title=title,
            recipe=self.recipe.describe(),
            scans=self._added,
            flagged=self.flagged,
            shown=shown,
            problems=[p for p in problems if p.dropped],
            mended=sum(not p.dropped for p in problems),
            outlined=self.recipe.registered,
        )
        path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _cuts(volume: np.ndarray, recipe: Recipe) -> str:
    """Return three cuts through the middle side by side, the template's outline on them, as a data URL."""
    from PIL import Image

    outline = np.zeros(volume.shape, bool)
    if recipe.registered:
        from jaxneuro.prepare import template

        outline = template.on_grid(recipe)[1]
    grey = 255 * np.clip(np.nan_to_num(volume.astype(np.float32)) / 1.2, 0, 1)
    parts = []
    for axis in (2, 1, 0):  # from above, from behind, from the side
        across, up = (round(_SIDE * f / max(recipe.fov_mm)) for i, f in enumerate(recipe.fov_mm) if i != axis)
        cut, mask = (
            np.asarray(
                Image.fromarray(_middle(a, axis).astype(np.uint8)).resize((across, up), Image.Resampling.BILINEAR)
            )
            for a in (grey, 255 * outline)
        )
        inside = mask > 127
        part = np.repeat(cut[..., None], 3, axis=2)
        part[inside & ~ndimage.binary_erosion(inside)] = (230, 80, 60)
        parts.append(np.pad(part, ((0, _SIDE - up), (0, 4), (0, 0))))
    buffer = io.BytesIO()
    # Few colours: a page of 300 pictures stays at some 5 MB.
    Image.fromarray(np.concatenate(parts, axis=1)).quantize(64).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _middle(volume: np.ndarray, axis: int) -> np.ndarray:
    """Return the cut through the middle, its second axis upwards."""
    return volume.take(volume.shape[axis] // 2, axis).T[::-1]
