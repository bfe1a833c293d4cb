"""What is set once a process, before the first computation."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import jax


def start() -> None:
    """Turn the compilation cache on, so that a network compiles once a machine, and quieten library chatter.

    The cache lies in JAX_COMPILATION_CACHE_DIR, by default `~/.cache/jaxneuro/xla`.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxneuro" / "xla"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    logging.getLogger("absl").setLevel(logging.WARNING)
