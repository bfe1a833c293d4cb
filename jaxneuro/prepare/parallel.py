"""One function over many things, in processes, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import joblib


def each(function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """Yield `function(*job)` of every job, in order, as they are done."""
    if workers == 1:
        return (function(*job) for job in jobs)
    return joblib.Parallel(n_jobs=workers, return_as="generator")(joblib.delayed(function)(*job) for job in jobs)
