"""Occlusion maps of one volume beside MONAI's, and Captum's where it is installed: same network, same patches, in turn.

python tools/occlusion.py                              (80^3, densenet121; minutes on two cores)
python tools/occlusion.py --size 32 --patch 8 --stride 8 --model tiny_densenet_testing --rounds 1

ours    jaxneuro.evaluation.maps.hiding: copies made on the device in the one compiled program
monai   monai.visualize.OcclusionSensitivity
captum  captum.attr.Occlusion

The network is MONAI's DenseNet with random weights, in jax by jaxneuro.interop. The volume is a ball of noise on a
background of 0. `ours, every patch` tries patches on background, as the others do; `ours` leaves out those that change
nothing. One round times every side once; the first, which compiles, is not counted. The table has medians and ranges
over rounds, and the largest difference to MONAI's map over the largest value of it.
"""

from __future__ import annotations

import argparse
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

from jaxneuro.evaluation.maps import hiding
from jaxneuro.training import sharding
from tools.benchmarking import inputs, machine

Side = Callable[[], np.ndarray]


def ours(model: Any, variables: Any, volume: np.ndarray, where: hiding.Grid, batch: int, value: float) -> Side:
    """Return our map [d, h, w] of a volume [d, h, w]."""
    mesh = sharding.make_mesh({"data": -1})
    weights = jax.device_put(variables, sharding.replicated(mesh))
    program = hiding.program(lambda w, x, _: model.apply(w, x, train=False)[0][:, 0], mesh, where.patch)
    placed = jnp.asarray(volume[..., None])
    size = -(-batch // mesh.size) * mesh.size

    def run() -> np.ndarray:
        hidden = jnp.full(1, value, jnp.float32)
        found = hiding.differences(program, weights, placed, hidden, where, mesh=mesh, batch_size=size)
        return hiding.spread(where, found.values)

    return run


def monai(network: Any, volume: np.ndarray, where: hiding.Grid, batch: int, stride: int, device: str) -> Side:
    """Return MONAI's map: the network's output less the mean of outputs without the patch."""
    import torch
    from monai.visualize import OcclusionSensitivity

    x = torch.from_numpy(volume[None, None]).to(device)
    explain = OcclusionSensitivity(
        network, mask_size=where.patch, n_batch=batch, verbose=False, mode=0.0,
        overlap=1 - stride / where.patch[0], activate=False,
    )  # fmt: skip

    def run() -> np.ndarray:
        with torch.inference_mode():
            return (network(x)[0, 0] - explain(x)[0][0, 0]).cpu().numpy()

    return run


def captum(network: Any, volume: np.ndarray, where: hiding.Grid, batch: int, stride: int, device: str) -> Side:
    """Return Captum's map."""
    import torch
    from captum.attr import Occlusion

    x = torch.from_numpy(volume[None, None]).to(device)

    def run() -> np.ndarray:
        with torch.inference_mode():
            found = Occlusion(network).attribute(
                x, sliding_window_shapes=(1, *where.patch), strides=(1, stride, stride, stride), baselines=0.0,
                perturbations_per_eval=batch,
            )  # fmt: skip
        return found[0, 0].cpu().numpy()

    return run


def compare(
    name: str, size: int, patch: int, stride: int, batch: int, rounds: int, threads: int, device: str
) -> dict[str, Any]:
    """Return the times of each side in seconds, and how far its map is from MONAI's."""
    from tests.models.test_densenet_parity import pair
    from tests.torch_reference import torch

    torch.set_num_threads(threads)
    network, model, variables = pair(name, (size,) * 3)
    network = network.to(device)
    where = hiding.grid((size,) * 3, (patch,) * 3, (stride,) * 3)
    ball = inputs.brains(0, size)[..., 0] != 0
    volume = np.where(ball, inputs.volumes(1, size)[0, ..., 0], 0).astype(np.float32)
    sides: dict[str, Side] = {
        "ours": ours(model, variables, volume, where, batch, 0.0),
        # Another value than the background's, by less than any rounding.
        "ours, every patch": ours(model, variables, volume, where, batch, 1e-30),
        "monai": monai(network, volume, where, batch, stride, device),
    }
    if importlib.util.find_spec("captum") and (size - patch) % stride == 0:
        sides["captum"] = captum(network, volume, where, batch, stride, device)
    maps = {side: run() for side, run in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(rounds):
        for side in list(sides) if turn % 2 == 0 else list(sides)[::-1]:
            began = time.perf_counter()
            sides[side]()
            times[side].append(time.perf_counter() - began)
    scale = float(np.abs(maps["monai"]).max())
    return {
        "network": name, "size": size, "patch": patch, "stride": stride, "positions": int(np.prod(where.shape)),
        "batch": batch, "seconds": times,
        "difference": {side: float(np.abs(m - maps["monai"]).max()) / scale for side, m in maps.items()},
        "machine": machine.describe(), "devices": {"jax": str(jax.devices()[0].device_kind), "torch": device},
    }  # fmt: skip


def main() -> None:
    """Print the table; write it as JSON, too, where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="densenet121", help="a DenseNet of tests/models/test_densenet_parity.py")
    parser.add_argument("--size", type=int, default=80)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=machine.cores(), help="of torch")
    parser.add_argument("--device", default="cpu", help="of torch: cpu or cuda")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's
        found = compare(a.model, a.size, a.patch, a.stride, a.batch, a.rounds, a.threads, a.device)
    print(
        f"{found['network']}, {a.size}^3, patch {a.patch}, stride {a.stride}: {found['positions']} positions, "
        f"{a.batch} at once; {found['machine']['processor']}, {found['machine']['cores']} cores, "
        f"jax on {found['devices']['jax']}, torch on {a.device}, load {found['machine']['load']}\n"
    )
    print("| side | seconds a map | range | times monai's | largest difference |")
    print("|---|---|---|---|---|")
    reference = statistics.median(found["seconds"]["monai"])
    for side, seconds in found["seconds"].items():
        middle = statistics.median(seconds)
        print(
            f"| {side} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {middle / reference:.2f} | "
            f"{found['difference'][side]:.1e} |"
        )
    if a.json:
        a.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
