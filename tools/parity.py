"""Compare every backbone with its reference, and print the table of docs/models.md.

python tools/parity.py            (needs the test extra; some minutes on two cores)
python tools/parity.py swin_t     (one of them)
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from jaxneuro import models
from tests.models import test_densenet_parity, test_nit_parity, test_swin_parity, test_vit_parity
from tests.models.every import count

Size = tuple[int, int, int]
CUBES: list[Size] = [(80, 80, 80), (96, 96, 96)]
DENSE: list[Size] = [(64, 64, 64), *CUBES, (91, 109, 91)]
VIT: list[Size] = [*CUBES, (64, 96, 80)]


class Comparison(NamedTuple):
    """A reference, the sizes to compare at, how, and what is set for the count of parameters."""

    reference: str
    sizes: list[Size]
    compare: Callable[[str, Size], tuple[float, ...]]
    settings: Mapping[str, Any] = MappingProxyType({})


def singla(name: str, size: Size) -> tuple[float, ...]:
    """Compare with the plain torch statement, MiNiT with the published layer drop."""
    keywords = {"layer_drop": 0.25} if name == "minit" else {}
    return test_nit_parity.compare(name, size, outputs=1, **keywords)


COMPARISONS = {
    "swin_t": Comparison(
        "torchvision `swin3d_t`", [(8, 28, 28), (32, 56, 56), (79, 81, 83), *CUBES], test_swin_parity.compare
    ),
    "swin_s": Comparison("torchvision `swin3d_s`", [(16, 64, 64)], test_swin_parity.compare),
    "swin_b": Comparison("torchvision `swin3d_b`", [(16, 64, 64)], test_swin_parity.compare),
    "densenet121": Comparison("MONAI `DenseNet121`", DENSE, test_densenet_parity.compare),
    "tiny_densenet": Comparison("MONAI `DenseNet`", DENSE, test_densenet_parity.compare),
    "vit_b16": Comparison("MONAI `ViT`", VIT, test_vit_parity.compare_vit),
    "vit_b16_mae": Comparison(
        "MONAI `MaskedAutoEncoderViT`",
        VIT,
        lambda _, size: test_vit_parity.compare_mae("vit_b16", size),
        {"qkv_bias": False, "positions": "sincos"},
    ),
    "minit": Comparison("the torch statement in tests/", [(64, 64, 64), (80, 80, 80), (64, 80, 48)], singla),
    "nit": Comparison("the torch statement in tests/", [(64, 64, 64), (80, 80, 80), (64, 96, 72)], singla),
}


def main(names: list[str]) -> None:
    """Print a row for each model."""
    if unknown := [name for name in names if name not in COMPARISONS]:
        sys.exit(f"error: found {', '.join(unknown)}; expected some of {', '.join(COMPARISONS)}")
    print("| model | parameters | reference | sizes compared | largest difference at each |")
    print("|---|---|---|---|---|")
    for name in names or COMPARISONS:
        reference, sizes, compare, settings = COMPARISONS[name]
        differences = ", ".join(f"{max(compare(name, size)):.1e}" for size in sizes)
        shown = ", ".join(f"{s[0]}^3" if len(set(s)) == 1 else " x ".join(map(str, s)) for s in sizes)
        parameters = count(models.build(name, **settings))
        print(f"| `{name}` | {parameters:,} | {reference} | {shown} | {differences} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
