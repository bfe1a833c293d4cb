"""HTML pages from the templates that lie beside the code that fills them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2


def render(template: Path, /, **values: Any) -> str:
    """Return the page of a template; every value is escaped, and one that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template.name).render(values)
