"""Occlusion maps of one volume beside MONAI's, and Captum's where it is installed: same network, same patches, in turn.

python tools/occlusion.py                                        (80^3, densenet121; minutes on two cores)
python tools/occlusion.py --model swin_t --patch 20 --stride 20
PYTHONPATH=captum python tools/occlusion.py                      (after pip install --target captum --no-deps captum)

ours                what `jaxneuro occlusion` does: patches on background, which change nothing, are left out, and of
                    DenseNets the first layers are computed anew only around the patch
ours, every patch   patches on background are tried, as the others do
ours, all layers    they are, and of DenseNets all is computed anew
monai               monai.visualize.OcclusionSensitivity
captum              captum.attr.Occlusion
..., channels last  of DenseNets: with torch's other order of memory, in which its convolutions are quicker on CPUs

The network is a reference of the benchmark (tools/benchmarking/references.py) with random weights, in jax by
jaxneuro.interop. The volume is the MNI152 template's brain on the grid of the recipe paper80, normalised over the
brain; hidden voxels are 0. One round times every side once, in the opposite order every other round. What comes before
(a side's first map, which compiles) is told apart. The table has medians and ranges over rounds, and the largest
difference to MONAI's map over the largest value of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np

from jaxneuro import interop, models
from jaxneuro.evaluation.maps import hiding, making
from jaxneuro.prepare import recipes, template
from jaxneuro.training import sharding
from tools.benchmarking import machine, references

Side = Callable[[], np.ndarray]
#: The layout of weights by the kind of a reference.
_LAYOUTS = {"densenet": "monai", "vit": "monai", "swin": "torchvision"}


def brain(size: int) -> np.ndarray:
    """Return a brain [size, size, size] float32, its mean 0 and its deviation 1, on a background of 0."""
    values, mask = template.on_grid(dataclasses.replace(recipes.RECIPES["paper80"], shape=(size,) * 3))
    return np.where(mask, (values - values[mask].mean()) / values[mask].std(), 0).astype(np.float32)


def ours(network: making.Network, volume: np.ndarray, where: hiding.Grid, batch: int, value: float) -> Side:
    """Return our map [d, h, w] of a volume [d, h, w]."""
    mesh = sharding.make_mesh({"data": -1})
    whole = sharding.replicated(mesh)
    program = making.program(network, mesh, where.patch)
    weights, placed = jax.device_put((network.weights, volume[..., None]), whole)
    size = -(-batch // mesh.size) * mesh.size

    def run() -> np.ndarray:
        hidden = jnp.full(1, value, jnp.float32)
        found = hiding.differences(program, weights, placed, hidden, where, mesh=mesh, batch_size=size)
        return hiding.spread(where, found.values)

    return run


def monai(network: Any, x: Any, where: hiding.Grid, batch: int, stride: int) -> Side:
    """Return MONAI's map: the network's output less the mean of outputs without the patch."""
    import torch
    from monai.visualize import OcclusionSensitivity

    explain = OcclusionSensitivity(
        network, mask_size=where.patch, n_batch=batch, verbose=False, mode=0.0,
        overlap=1 - stride / where.patch[0], activate=False,
    )  # fmt: skip

    def run() -> np.ndarray:
        with torch.inference_mode():
            return (network(x)[0, 0] - explain(x)[0][0, 0]).cpu().numpy()

    return run


def captum(network: Any, x: Any, where: hiding.Grid, batch: int, stride: int) -> Side:
    """Return Captum's map."""
    import torch
    from captum.attr import Occlusion

    def run() -> np.ndarray:
        with torch.inference_mode():
            found = Occlusion(network).attribute(
                x, sliding_window_shapes=(1, *where.patch), strides=(1, stride, stride, stride), baselines=0.0,
                perturbations_per_eval=batch,
            )  # fmt: skip
        return found[0, 0].cpu().numpy()

    return run


def theirs(kind: str, network: Any, volume: np.ndarray, device: str, *more: Any) -> dict[str, Side]:
    """Return the sides of a torch network: MONAI's and Captum's, of DenseNets in both orders of memory."""
    import copy

    import torch

    class Logits(torch.nn.Module):
        """MONAI's ViT gives its hidden states besides."""

        def __init__(self, form: Any) -> None:
            super().__init__()
            self.network = copy.deepcopy(network).to(device, memory_format=form)

        def forward(self, x: Any) -> Any:
            return references.logits(self.network(x))[:, None]

    where, _, stride = more
    sides: dict[str, Side] = {}
    forms = {"": torch.preserve_format, ", channels last": torch.channels_last_3d}
    for name, form in forms.items() if kind == "densenet" else [("", forms[""])]:
        x = torch.from_numpy(volume[None, None]).to(device, memory_format=form)
        sides[f"monai{name}"] = monai(Logits(form).eval(), x, *more)
        if importlib.util.find_spec("captum") and (where.size[0] - where.patch[0]) % stride == 0:
            sides[f"captum{name}"] = captum(Logits(form).eval(), x, *more)
    return sides


def compare(
    name: str, size: int, patch: int, stride: int, batch: int, rounds: int, threads: int, device: str
) -> dict[str, Any]:
    """Return the times of each side in seconds, of its first map and of those after it, and how far it is from MONAI's.

    Args:
      name: of a DenseNet, ViT or Swin.
      size, patch, stride: of the volume and the patches along each axis, in voxels.
      batch: copies at once.
      rounds: how often each side is timed.
      threads: of torch.
      device: of torch, "cpu" or "cuda".
    """
    from tests.torch_reference import randomised, state_dict, torch

    torch.set_num_threads(threads)
    model = models.build(name, num_outputs=1, input_size=(size,) * 3, in_channels=1)
    described = references.describe(model)
    torch.manual_seed(0)
    reference = randomised(references.build(**described))
    weights = interop.from_torch(model, state_dict(reference), source=_LAYOUTS[described["kind"]])
    where, volume = hiding.grid((size,) * 3, (patch,) * 3, (stride,) * 3), brain(size)

    def output(weights: Any, x: jax.Array, which: jax.Array) -> jax.Array:
        return model.apply(weights, x, train=False)[0][:, 0]

    network = making.Network(output, weights, "none", model)
    # Another value than the background's, by less than any rounding.
    every = 1e-30
    sides: dict[str, Side] = {
        "ours": ours(network, volume, where, batch, 0.0),
        "ours, every patch": ours(network, volume, where, batch, every),
    }
    if described["kind"] == "densenet":
        sides["ours, all layers"] = ours(network._replace(model=None), volume, where, batch, every)
    sides |= theirs(described["kind"], reference, volume, device, where, batch, stride)
    maps, first = {}, {}
    for side, run in sides.items():
        began = time.perf_counter()
        maps[side] = run()
        first[side] = time.perf_counter() - began
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[side]()
            times[side].append(time.perf_counter() - began)
    scale = float(np.abs(maps["monai"]).max())
    changing = int(
        sum((volume[tuple(slice(a, a + patch) for a in c)] != 0).any() for c in where.corners().reshape(-1, 3))
    )
    return {
        "network": name, "size": size, "patch": patch, "stride": stride, "positions": int(np.prod(where.shape)),
        "changing": changing, "batch": batch, "first": first, "seconds": times, "scale": scale,
        "difference": {side: float(np.abs(m - maps["monai"]).max()) / scale for side, m in maps.items()},
        "machine": machine.describe(), "devices": {"jax": str(jax.devices()[0].device_kind), "torch": device},
    }  # fmt: skip


def main() -> None:
    """Print the table; write it as JSON, too, where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="densenet121", help="a DenseNet, ViT or Swin")
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of torch")
    parser.add_argument("--device", default="cpu", help="of torch: cpu or cuda")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    before = machine.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's
        found = compare(a.model, a.size, a.patch, a.stride, a.batch, a.rounds, a.threads, a.device)
    print(
        f"{found['network']}, {a.size}^3, patch {a.patch}, stride {a.stride}: {found['positions']} positions, "
        f"{found['changing']} of them on the brain, {a.batch} at once; {found['machine']['processor']}, "
        f"{found['machine']['cores']} cores, jax on {found['devices']['jax']}, torch on {a.device}, "
        f"load {before} before and {found['machine']['load']} after, {found['machine']['date']}\n"
    )
    print("| side | seconds a map | range | times monai's | the first map, s | largest difference |")
    print("|---|---|---|---|---|---|")
    reference = statistics.median(found["seconds"]["monai"])
    for side, seconds in found["seconds"].items():
        middle = statistics.median(seconds)
        print(
            f"| {side} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {middle / reference:.2f} | "
            f"{found['first'][side]:.1f} | {found['difference'][side]:.1e} |"
        )
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
