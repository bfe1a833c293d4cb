"""What a search for hyper-parameters is made of, as a file in configs/ declares it: read, and checked."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jaxneuro import configuration
from jaxneuro.errors import InputError

#: "random": drawn alike everywhere, every trial to its end, as in the paper. "pruned": drawn where trials did well
#: (tree-structured Parzen estimator), and stopped when poorer than the median trial.
METHODS = ("random", "pruned")
#: Keys that decide what is measured, on whom: two values of them cannot be compared by the metric.
_NOT_SEARCHED = ("objective.name", "data.path", "data.leave_out", "task.", "also.")
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


@dataclass(frozen=True)
class Uniform:
    """A number, every one from `low` to `high` alike."""

    low: float
    high: float


@dataclass(frozen=True)
class LogUniform:
    """A number above 0, every power of ten from `low` to `high` alike."""

    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One of a few values, all alike: numbers, words, tuples."""

    values: tuple[Any, ...]

    def texts(self) -> tuple[str, ...]:
        """Return the values as the command line has them."""
        return tuple(text(value) for value in self.values)


Distribution = Uniform | LogUniform | Choice


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: runs of one experiment that differ in some keys of its config, compared on validation.

    Attributes:
      title: of its tables.
      config: the experiment, a file in configs/.
      space: name of a key of that config to what its values are drawn from.
      trials: how many runs.
      method: one of `METHODS`.
      overrides: `KEY=VALUE` of the config, the same in every trial.
      seed: of the draws; that of the training is the config's.
    """

    title: str
    config: str
    space: Mapping[str, Distribution]
    trials: int
    method: str = "pruned"
    overrides: tuple[str, ...] = ()
    seed: int = 0

    def settings(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Return the overrides of a trial, `KEY=VALUE`, from the values of its keys."""
        return (*self.overrides, *(f"{key}={value}" for key, value in values.items()))

    def corners(self) -> Iterator[dict[str, str]]:
        """Yield settings with each choice and each end of a range once, the other keys at their first."""
        ends = {
            key: of.texts() if isinstance(of, Choice) else (text(float(of.low)), text(float(of.high)))
            for key, of in self.space.items()
        }
        first = {key: values[0] for key, values in ends.items()}
        yield first
        for key, values in ends.items():
            yield from (first | {key: value} for value in values[1:])


def text(value: Any) -> str:
    """Return a value as the command line has it; a tuple without spaces, for shells break words at them."""
    return value if isinstance(value, str) else _literal(value)


def _literal(value: Any) -> str:
    if not isinstance(value, tuple | list):
        return repr(value)
    inner = ",".join(_literal(v) for v in value)
    return f"({inner},)" if len(value) == 1 else f"({inner})"


def read(path: str, *, data: str = "", trials: int = 0) -> Search:
    """Return the search that a file declares, checked.

    Args:
      path: the file, with a `get_config()` that returns a `Search`.
      data: folder of the shards, in place of what the file or its experiment says; "" leaves it.
      trials: how many runs, in place of what the file says; 0 leaves it.

    Raises:
      InputError: no such file, it declares no search, or one that no run can be made of.
    """
    search = configuration.load(path)
    if not isinstance(search, Search):
        raise InputError(
            f"{path}: found a {type(search).__name__}; expected a file whose get_config() returns a Search, such as "
            "configs/search_tiny.py; an experiment is for jaxneuro train, a Study for jaxneuro study"
        )
    if data:
        others = (o for o in search.overrides if not o.startswith("data.path="))
        search = dataclasses.replace(search, overrides=(*others, f"data.path={data}"))
    search = dataclasses.replace(search, trials=trials or search.trials)
    try:
        check(search)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e
    return search


def check(search: Search) -> None:
    """Refuse a search that no run can be made of: every value of a choice and both ends of each range are tried.

    Raises:
      InputError: names the key, what was found, and what is expected.
    """
    if type(search.trials) is not int or search.trials < 1:
        raise InputError(f"trials: found {search.trials!r}; expected a whole number of at least 1")
    if search.method not in METHODS:
        raise InputError(f"method: found {search.method!r}; expected one of {list(METHODS)}")
    if type(search.seed) is not int or not 0 <= search.seed < 2**32:
        raise InputError(f"seed: found {search.seed!r}; expected a whole number from 0 to 4294967295")
    if isinstance(search.overrides, str) or not all("=" in str(o) for o in search.overrides):
        raise InputError(f"overrides: found {search.overrides!r}; expected a tuple of 'KEY=VALUE'")
    if not search.space:
        raise InputError("space: found no key; expected at least one, such as optimizer.learning_rate")
    fixed = {o.partition("=")[0] for o in search.overrides}
    for key, of in search.space.items():
        if not _KEY.fullmatch(str(key)):
            raise InputError(
                f"space: found the key {key!r}; expected one of the config, such as optimizer.learning_rate"
            )
        if key in fixed:
            raise InputError(f"space.{key}: found in overrides, too; expected it in one of the two")
        if key.startswith(_NOT_SEARCHED):
            raise InputError(
                f"space.{key}: decides what is measured; expected a key that leaves trials comparable; make a search "
                "for each value"
            )
        _check_distribution(f"space.{key}", of)
    for values in search.corners():
        configuration.read(search.config, [f"--config.{setting}" for setting in search.settings(values)])


def _check_distribution(where: str, of: Any) -> None:
    if isinstance(of, Choice):
        if isinstance(of.values, str) or not of.values or len(set(of.texts())) < len(of.values):
            raise InputError(f"{where}: found {of}; expected values, each once, such as Choice((1, 4, 8, 16))")
        return
    if not isinstance(of, Uniform | LogUniform):
        raise InputError(f"{where}: found {of!r}; expected Uniform(low, high), LogUniform(low, high) or Choice(values)")
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (of.low, of.high))
    if not numbers or not -math.inf < of.low < of.high < math.inf:
        raise InputError(f"{where}: found {of}; expected two numbers, the lower first")
    if isinstance(of, LogUniform) and of.low <= 0:
        raise InputError(f"{where}: found {of}; expected numbers above 0; try Uniform")
