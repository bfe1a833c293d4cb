"""Small trees of the shape that studies have: readers read no images, so empty files will do."""

import pytest


@pytest.fixture
def place(tmp_path):
    """Return a function that makes empty files under `study`, a folder with a space and an umlaut in its name."""
    root = tmp_path / "Stüdy one"
    root.mkdir()

    def make(*names, text=None):
        for name in names:
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text or "")
        return root

    return make


@pytest.fixture
def told():
    """Return a function that gives problems as (where, found, dropped)."""
    return lambda problems: [(p.where, p.found, p.dropped) for p in problems]
