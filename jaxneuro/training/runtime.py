"""What is set once a process, before the first computation."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax

from jaxneuro.training import hosts


def start(distributed: bool = False) -> None:
    """Turn the compilation cache on, so that a network compiles once a machine, and quieten library chatter.

    Args:
      distributed: whether this is one of several processes, to be joined (`hosts.join`).

    Raises:
      InputError: the others cannot be joined.

    The cache lies in JAX_COMPILATION_CACHE_DIR, by default `~/.cache/jaxneuro/xla`.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxneuro" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    logger = logging.getLogger("absl")
    logger.setLevel(logging.WARNING)
    if os.environ.get("JAXNEURO_DEBUG") != "1":
        logger.addFilter(_one_line)
    if distributed:
        hosts.join()


_NO_NEWS = ("read_only=True", "read only=", "Metadata file does not exist")


def _one_line(record: logging.LogRecord) -> bool:
    """Cut a library's message to its first line: Orbax logs an error with every traceback on its way, and raises it.

    That a folder is opened for reading only, as was asked, or that it lacks a file that we do not write, is no news.
    """
    if any(known in str(record.msg) for known in _NO_NEWS):
        return False
    record.exc_info = record.exc_text = None
    record.msg, record.args = (record.getMessage().splitlines() or [""])[0][:300], ()
    return True
