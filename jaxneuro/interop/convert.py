"""A published checkpoint to our own form, with a report of every tensor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxneuro import models, records, whole
from jaxneuro.errors import InputError
from jaxneuro.interop import files, folder, weights
from jaxneuro.interop.adapt import Adaptation
from jaxneuro.interop.weights import Row

REPORT = "report.csv"


def convert(
    source: Path,
    layout: str,
    name: str,
    settings: Mapping[str, Any],
    *,
    out: Path | None,
    adaptation: Adaptation | None = None,
    new_head: bool = False,
    fresh: Sequence[str] = (),
    ignore: Sequence[str] = (),
    allow_half: bool = False,
    seed: int = 0,
) -> tuple[list[Row], list[str]]:
    """Read a checkpoint into a model and write it in our own form; returns what became of each tensor, and notes.

    Args:
      source: the file.
      layout: its layout.
      name: of the model.
      settings: its keywords.
      out: folder to make; None makes none.
      adaptation: what may be adapted, and how.
      new_head: whether the head begins afresh.
      fresh: patterns of our paths that begin afresh.
      ignore: patterns of torch's names to leave out.
      allow_half: widen half-precision weights.
      seed: of what begins afresh.

    Raises:
      MisfitError: file and model do not go together; nothing is written.
      InputError: neither do layout and model, or the file cannot be read.
      CorruptDataError: a weight is NaN or infinite.
    """
    model = models.build(name, **settings)
    tensors, notes = files.read(source, allow_half=allow_half)
    try:
        variables, rows = weights.convert(
            model, tensors, layout, adaptation=adaptation, new_head=new_head, fresh=fresh, ignore=ignore, seed=seed
        )
    except weights.MisfitError as e:
        more = f"; all {len(e.faults)}, one a line: --dry-run" if out is not None and len(e.faults) > 1 else ""
        raise weights.MisfitError(f"{source}: {e}{more}", e.faults) from e
    except InputError as e:
        raise InputError(f"{source}: {e}") from e
    if out is None:
        return rows, notes
    card = {
        "model": {"name": name, "settings": dict(settings)},
        "layout": "jaxneuro",
        "source": {"file": Path(source).name, "sha256": records.file_sha256(Path(source)), "layout": layout},
        "notes": notes,
        "tensors": dict(Counter(row.what for row in rows)),
        "adapted": {row.ours: row.how for row in rows if row.what == "adapted"},
        "fresh": [row.ours for row in rows if row.what == "fresh"],
        "input": "normalised volumes [batch, depth, height, width, channel]; the source says how to normalise",
        "output": "the network's own",
    }
    with folder.new(out) as partial:
        files.write_safetensors(partial / folder.WEIGHTS, folder.flat(variables))
        write_report(partial / REPORT, rows)
        folder.write(partial, folder.WEIGHTS, card)
    return rows, notes


def write_report(path: Path, rows: Sequence[Row]) -> None:
    """Write one row a tensor or leaf."""
    shapes = [[" x ".join(map(str, s)) for s in (r.their_shape, r.our_shape)] for r in rows]
    whole.write_csv(
        path,
        ["tensor", "its_shape", "leaf", "its_shape_here", "what", "how"],
        [[r.theirs, theirs, r.ours, ours, r.what, r.how] for r, (theirs, ours) in zip(rows, shapes, strict=True)],
    )
