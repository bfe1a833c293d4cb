"""Searches: what a file declares, and what is refused before anything runs."""

import ast
import dataclasses
import functools
import math

import pytest

from jaxneuro import configuration
from jaxneuro.errors import InputError
from jaxneuro.study import search_spec
from jaxneuro.study.search_spec import Choice, LogUniform, Uniform
from tests.conftest import CONFIGS
from tests.study import searches


@pytest.fixture
def asked(boxes):
    """A search on the boxes, with changes."""
    return functools.partial(searches.small, boxes)


def test_the_papers_ranges_are_in_its_file():
    found = search_spec.read(str(CONFIGS / "search_paper.py"))
    assert found.method == "random"
    assert found.space == {
        "optimizer.learning_rate": LogUniform(1e-5, 2e-3),
        "optimizer.name": Choice(("sgd", "adam", "adamw")),
        "optimizer.weight_decay": Uniform(0, 0.2),
        "data.batch_size": Choice((1, 4, 8, 16)),
        "model.heads": Choice((4, 8, 12)),
        "model.depth": Choice((3, 6, 8)),
    }


def test_a_file_is_read_with_what_the_command_line_says(tmp_path):
    found = search_spec.read(str(CONFIGS / "search_tiny.py"), data="/data/a=b", trials=3)
    assert (found.trials, found.overrides[-1]) == (3, "data.path=/data/a=b")
    again = dataclasses.replace(found, overrides=("data.path=x", "training.epochs=2"))
    (tmp_path / "s.py").write_text(
        "from jaxneuro.study.search_spec import *\n"
        f"def get_config(): return {again!r}\n"
    )  # fmt: skip
    assert search_spec.read(str(tmp_path / "s.py"), data="y").overrides == ("training.epochs=2", "data.path=y")
    with pytest.raises(InputError, match=r"found a ConfigDict; expected a file whose get_config\(\) returns a Search"):
        search_spec.read(str(CONFIGS / "smoke.py"))
    with pytest.raises(InputError, match="found a Search; expected the config of a run"):
        configuration.read(str(CONFIGS / "search_tiny.py"))


def test_values_are_written_as_a_shell_takes_them():
    of = Choice((0.1, "adamw", (1, 2), ("^head",), ((1,), "a, b"), ()))
    assert of.texts() == ("0.1", "adamw", "(1,2)", "('^head',)", "((1,),'a, b')", "()")
    assert [ast.literal_eval(t) for t in of.texts()[2:]] == list(of.values[2:])


def test_every_end_and_choice_is_a_corner_once(asked):
    lists = {
        "optimizer.learning_rate": ["1e-05", "0.002"],
        "optimizer.weight_decay": ["0.0", "0.2"],
        "data.batch_size": ["4", "8"],
        "model.block_sizes": ["(1,1)", "(1,2)"],
    }
    first = {k: v[0] for k, v in lists.items()}
    assert list(asked().corners()) == [first, *(first | {k: v[1]} for k, v in lists.items())]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"trials": 0}, "trials: found 0; expected a whole number"),
        ({"method": "grid"}, "method: found 'grid'; expected one of ['random', 'pruned']"),
        ({"seed": -1}, "seed: found -1"),
        ({"overrides": "training.epochs=3"}, "overrides: found 'training.epochs=3'; expected a tuple"),
        ({"space": {}}, "space: found no key"),
        ({"space": {"epochs": Choice((1, 2))}}, "space: found the key 'epochs'"),
        ({"space": {"training.epochs": Choice((1, 2))}}, "space.training.epochs: found in overrides, too"),
        ({"space": {"task.target": Choice(("age", "sex"))}}, "space.task.target: decides what is measured"),
        ({"space": {"optimizer.name": Choice(())}}, "expected values, each once"),
        ({"space": {"optimizer.name": Choice(("adam", "adam"))}}, "expected values, each once"),
        ({"space": {"optimizer.name": ["adam"]}}, "space.optimizer.name: found ['adam']; expected Uniform"),
        ({"space": {"optimizer.clip": Uniform(1, 1)}}, "expected two numbers, the lower first"),
        ({"space": {"optimizer.clip": Uniform(0, math.inf)}}, "expected two numbers"),
        ({"space": {"optimizer.learning_rate": LogUniform(0, 1)}}, "expected numbers above 0; try Uniform"),
        # The experiment's own words: a key that it has not, and both ends and every choice tried.
        ({"space": {"optimizer.rate": Uniform(0, 1)}}, "--config.optimizer.rate: found no such key"),
        ({"space": {"optimizer.weight_decay": Uniform(-0.1, 0.1)}}, "optimizer.weight_decay: found -0.1"),
        ({"space": {"optimizer.beta1": Uniform(0.5, 1.0)}}, "optimizer.beta1: found 1.0"),
        ({"space": {"data.batch_size": Choice((1, 4, 0))}}, "data.batch_size: found 0"),
        ({"space": {"data.batch_size": Uniform(1, 4)}}, "--config.data.batch_size: found '1.0'; expected a whole"),
        ({"config": "configs/none.py"}, "found no file configs/none.py"),
    ],
)  # fmt: skip
def test_a_search_that_no_run_can_be_made_of_is_refused_in_one_line(asked, changes, line):
    with pytest.raises(InputError) as e:
        search_spec.check(asked(**changes))
    assert line in str(e.value)
    assert "\n" not in str(e.value)
