"""What the numbers are measured on, in words and plain values."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: Most operations a second of dense matrix products, as their makers publish them, by a part of the device's name.
#: bfloat16; in float32 the same parts round to TF32, at half of it.
PUBLISHED = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}
_PACKAGES = ("jax", "jaxlib", "flax", "grain", "array_record", "numpy", "torch", "torchvision", "monai")


def describe() -> dict[str, Any]:
    """Return processor, cores that may be used, memory, system, versions, the load, and when this was."""
    return {
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
        "load": load(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def cores() -> int:
    """Return how many cores this process may use; both sides take as many threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load() -> float:
    """Return how many processes wanted to run in the last minute, on average."""
    return round(os.getloadavg()[0], 2)


class Devices:
    """The device that jax finds, its ceiling in matrix products, and whether torch has one of the kind."""

    def devices(self) -> dict[str, Any]:
        """Return platform, kind and number of the devices."""
        import jax

        found = jax.devices()
        return {"platform": found[0].platform, "kind": found[0].device_kind, "count": len(found)}

    def ceiling(self) -> dict[str, float]:
        """Return the measured ceiling of matrix products by precision, in operations a second."""
        from tools.benchmarking.ours import product_ceiling

        return {dtype: product_ceiling(dtype) for dtype in ("float32", "bfloat16")}

    def torch_cuda(self) -> bool:
        """Tell whether torch sees an accelerator."""
        import torch

        return torch.cuda.is_available()


def published_peak(kind: str, precision: str) -> float | None:
    """Return the published operations a second of a device, None where the table lacks it."""
    peak = next((value for name, value in PUBLISHED.items() if name in kind), None)
    return peak and peak / (1 if precision == "bfloat16" else 2)


def _line(path: str, key: str) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
