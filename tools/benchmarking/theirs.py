"""The torch side: a reference with a training step and inference as one would write them, eager or compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from tests.torch_reference import torch
from tools.benchmarking import inputs, references

Run = Callable[[int], None]

#: The forms that are tried; the best of them is what we are compared with.
FORMS = ("eager", "compiled", "channels last")


class Network:
    """A reference with AdamW.

    Args:
      reference: as `references.describe` gives it.
      form: one of `FORMS`; "channels last" is eager, with the memory of convolutions in the order that suits them on
        some devices.
      batch: volumes a step.
      side: of a volume, in voxels.
      precision: "float32", or "bfloat16" by autocast, parameters staying float32, as ours do.
      device: "cpu" or "cuda".
      threads: of a CPU.
    """

    def __init__(
        self, reference: Mapping[str, Any], form: str, batch: int, side: int, precision: str, device: str, threads: int
    ) -> None:
        torch.set_num_threads(threads)
        # As jax does by default on accelerators: products of float32 are rounded to TF32.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.manual_seed(0)
        self.form, self.batch, self.side, self.precision, self.device = form, batch, side, precision, device
        self.model = references.build(**reference).to(device)
        if form == "channels last":
            self.model = self.model.to(memory_format=torch.channels_last_3d)

    def tasks(self) -> dict[str, Callable[[], Run]]:
        """Return what can be timed."""
        return {"step": self.step, "inference": self.inference, "occlusion": self.occlusion}

    def step(self) -> Run:
        """Return steps of training: forward, backward, update."""
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.05, fused=True)
        x = self._volumes(inputs.volumes(self.batch, self.side))
        y = torch.from_numpy((np.arange(self.batch) % 2).astype(np.float32)).to(self.device)

        def loss(x: Any, y: Any) -> Any:
            with self._cast():
                outputs = references.logits(self.model(x))
            return torch.nn.functional.binary_cross_entropy_with_logits(outputs.float(), y)

        loss = self._compiled(loss)

        def run(n: int) -> None:
            for _ in range(n):
                optimizer.zero_grad(set_to_none=True)
                loss(x, y).backward()
                optimizer.step()
            self._wait()

        return run

    def inference(self) -> Run:
        """Return predictions of one batch."""
        return self._evaluation(self._volumes(inputs.volumes(self.batch, self.side)), lambda x: x)

    def occlusion(self) -> Run:
        """Return predictions of a batch of copies of one volume, of each of which a cube is hidden."""
        starts, cube = inputs.corners(self.batch, self.side)
        s = torch.from_numpy(starts).to(self.device)
        place = torch.arange(self.side, device=self.device)

        def copies(volume: Any) -> Any:
            d, h, w = ((place >= s[:, i, None]) & (place < s[:, i, None] + cube) for i in range(3))
            hidden = d[:, :, None, None] & h[:, None, :, None] & w[:, None, None, :]
            return torch.where(hidden[:, None], torch.zeros((), device=self.device), volume)

        return self._evaluation(self._volumes(inputs.volumes(1, self.side)), copies)

    def device_memory(self) -> int | None:
        """Return the peak of the device's memory in bytes, None for CPUs."""
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else None

    def _evaluation(self, x: Any, change: Callable[[Any], Any]) -> Run:
        self.model.eval()

        def outputs(x: Any) -> Any:
            with self._cast():
                return torch.sigmoid(references.logits(self.model(change(x))).float())

        outputs = self._compiled(outputs)

        def run(n: int) -> None:
            with torch.inference_mode():
                for _ in range(n):
                    outputs(x)
            self._wait()

        return run

    def _compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False) if self.form == "compiled" else function

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _volumes(self, x: np.ndarray) -> Any:
        tensor = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).to(self.device)
        return tensor.to(memory_format=torch.channels_last_3d) if self.form == "channels last" else tensor

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()
