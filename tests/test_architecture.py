"""The house rules that code can check: who imports whom, and what never imports jax."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxneuro"
FILES = sorted(ROOT.rglob("*.py"))

#: Room to the rooms it may import. `errors`, `pages`, `terminal`, `whole` and the package itself are open to all.
MAY = {
    "errors": set(),
    "lock": set(),
    "pages": set(),
    "terminal": set(),
    "whole": set(),
    "manifest": set(),
    "sources": {"manifest"},
    "splits": {"manifest"},
    "tasks": {"manifest"},
    "records": {"manifest", "splits"},
    "video": {"manifest", "records"},
    "data": {"records", "video"},
    "prepare": {"lock", "records", "manifest", "sources", "splits", "video"},
    "augment": set(),
    "patches": set(),
    "models": {"patches"},
    "objectives": {"patches"},
    "training": {
        "augment",
        "data",
        "interop",
        "lock",
        "manifest",
        "models",
        "objectives",
        "records",
        "splits",
        "tasks",
    },
    "evaluation": {"augment", "data", "interop", "manifest", "models", "records", "splits", "tasks", "training"},
    "configuration": set(),
    "info": {"models", "records", "video"},
    "interop": {"models", "records"},
    "export": {"augment", "evaluation", "interop", "models", "records", "tasks", "training"},
    "study": {"configuration", "evaluation", "lock", "manifest", "prepare", "records", "splits", "training"},
    "verbs": {"configuration", "evaluation", "export", "info", "interop", "manifest", "prepare", "study", "training"},
    "cli": {"training", "verbs"},
    "__main__": {"cli"},
}
OPEN = {"errors", "pages", "terminal", "whole", "__init__"}
#: Files that worker processes import: they must start fast and need no device.
WITHOUT_JAX = ("manifest", "sources", "splits", "tasks", "records", "video", "data", "prepare")


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Yield the dotted names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{a.name}" for a in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    if room(path) == "__init__":
        return
    for name in imports(path):
        if name.startswith("jaxneuro."):
            target = name.split(".")[1]
            if (
                target in OPEN
                or target == room(path)
                or (not (ROOT / target).is_dir() and not (ROOT / f"{target}.py").is_file())
            ):
                continue
            assert target in MAY[room(path)], f"{path.name} imports {name}; allowed: {sorted(MAY[room(path)])}"


def test_the_rule_table_has_no_cycle():
    done: set[str] = set()
    while len(done) < len(MAY):
        ready = {r for r in MAY if r not in done and MAY[r] <= done}
        assert ready, f"a cycle among {set(MAY) - done}"
        done |= ready


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_some_rooms_know_some_libraries(path):
    names = {n.split(".")[0] for n in imports(path)}
    if room(path) in WITHOUT_JAX:
        assert not names & {"jax", "flax", "optax", "orbax"}
    where = str(path.relative_to(ROOT))
    if room(path) != "models" and where not in ("training/state.py", "training/sharding.py"):
        # Type annotations of the network are the one other use.
        uses = [n for n in imports(path) if n.split(".")[0] == "flax"]
        assert uses in ([], ["flax.linen"]), uses
    text = path.read_text()
    assert "PartitionSpec" not in text or where == "training/sharding.py"
    assert "with_logical_partitioning" not in text or where == "models/layers.py"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is_for_and_public_functions_have_docstrings(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path.name}:{node.lineno} {node.name}"


def test_every_room_is_in_the_table_and_none_is_called_utils():
    assert {room(p) for p in FILES} - {"__init__"} == set(MAY)
    assert not list(ROOT.rglob("*util*"))


def test_workers_start_without_jax():
    code = "import sys, jaxneuro.prepare.run, jaxneuro.prepare.cohort; sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_help_starts_without_jax():
    code = (
        "import sys, jaxneuro.cli\n"
        "try: jaxneuro.cli.main(['--help'])\n"
        "except SystemExit: sys.exit('jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)
