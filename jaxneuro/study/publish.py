"""A study's results as one page of HTML without outside parts, the same in Markdown, its tables as CSV, its figures."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jaxneuro import pages, whole
from jaxneuro.study import drawings, facts, gather, plan, progress, results, sections
from jaxneuro.study.facts import Facts
from jaxneuro.study.sections import Section
from jaxneuro.study.spec import Study
from jaxneuro.study.tables import Table

TEMPLATE = Path(__file__).with_name("study.html.jinja")
SYNTHETIC = "These scans were made by a program. Their numbers say that the machinery works, nothing about patients."


def write(study: Study, out: Path, source: str = "") -> list[Table]:
    """Write what the finished runs of a study found: report.html, report.md, csv/ and figures/.

    Args:
      study: a checked one.
      out: its folder.
      source: the file that declares it, as the command named it.

    Returns:
      The tables of the sheets, for the terminal.

    Raises:
      InputError: a file in the folder is not what a study writes, runs were made otherwise than is declared, or seeds
        were tested on different scans.
    """
    for job in plan.jobs(study, out):
        progress.check(job)
    found, kinds = gather.gather(study, out), results.kinds_of(study)
    sheets = results.compute(study, found, kinds)
    known = facts.read(study, out, found, sheets, kinds)
    pictures = drawings.write(study, out, sheets, found)
    parts = sections.build(known, pictures)
    folder = out / "csv"
    folder.mkdir(parents=True, exist_ok=True)
    results.write_numbers(folder, sheets)
    for part in parts:
        for name, table in named(part).items():
            whole.write_csv(folder / f"{name}.csv", table.columns, table.rows)
    command = f"jaxneuro study --config {source or 'FILE'} --out {out}"
    page = {
        "title": study.title,
        "date": _date(known),
        "command": command,
        "synthetic": known.synthetic,
        "warning": SYNTHETIC,
        "sections": [_for_page(part) for part in parts],
        "declared": json.dumps(dataclasses.asdict(study), indent=1, ensure_ascii=False, default=str),
    }
    whole.write(out / "report.html", pages.render(TEMPLATE, **page))
    whole.write(out / "report.md", markdown(known, parts, command))
    return [table for part in parts if part.key in study.sheets for table in part.tables]


def named(part: Section) -> dict[str, Table]:
    """Return the tables of a part by the name of their files, without ending."""
    found: dict[str, Table] = {}
    for count, table in enumerate(part.tables):
        # A sheet's own table has the sheet's name.
        # Titles in other letters have none left.
        title = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")[:60] or str(count)
        name = part.key if count == 0 else f"{part.key}-{title}"
        found[name if name not in found else f"{name}-{count}"] = table
    return found


def markdown(known: Facts, parts: Sequence[Section], command: str) -> str:
    """Return the report in Markdown; pictures are files beside it."""
    lines = [f"# {results.plain(known.study.title)}", _date(known), f"    {command}"]
    if known.synthetic:
        lines.append(f"**SYNTHETIC DATA: {results.plain(', '.join(known.synthetic))}.** {SYNTHETIC}")
    for part in parts:
        lines += [f"## {results.plain(part.title)}", *(f"- {results.plain(line)}" for line in part.lines)]
        lines += [results.markdown(table) for table in _titled(part)]
        for picture in part.pictures:
            file = next((f for f in picture.files if f.suffix in (".svg", ".png")), None)
            if file is not None:
                lines.append(f"![{picture.name}]({file.relative_to(known.out)})")
            lines.append(f"*{results.plain(picture.caption)}*")
    return "\n\n".join(line.strip("\n") for line in lines).replace("\n\n- ", "\n- ") + "\n"


def _for_page(part: Section) -> dict[str, Any]:
    drawn = [{"svg": Markup(picture.svg), "caption": picture.caption} for picture in part.pictures]
    return {
        **part._asdict(),
        "tables": _titled(part),
        "pictures": drawn,
        "files": [f"csv/{name}.csv" for name in named(part)],
    }


def _titled(part: Section) -> list[Table]:
    """Return the tables of a part; one that has the part's own title is called its results."""
    return [table._replace(title="Results") if table.title == part.title else table for table in part.tables]


def _date(known: Facts) -> str:
    ended = [one.ended for told in known.spent.values() for one in told]
    return f"{max(ended)[:10]}" if ended else "date not recorded"
