"""What is compared, at which size, and how large a batch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from jaxneuro import models

MODELS = ("swin_t", "vit_b16", "nit", "minit", "densenet121", "tiny_densenet")

#: Volumes a step at the full size, by platform: on CPUs so many that a step of every network takes seconds.
BATCHES: dict[str, dict[str, int]] = {
    "cpu": {"swin_t": 1, "vit_b16": 8, "nit": 4, "minit": 2, "densenet121": 2, "tiny_densenet": 2},
    "accelerator": {"swin_t": 8, "vit_b16": 64, "nit": 64, "minit": 16, "densenet121": 16, "tiny_densenet": 32},
}
#: Copies of a volume in a batch of occlusion.
COPIES = {"cpu": 16, "accelerator": 64}
#: Volumes a step of masked pre-training, which is cheap where most of a volume is hidden.
MASKED = {"cpu": 8, "accelerator": 64}
#: Rates of dropout of any kind, all switched off: the references have not all of them.
_RATES = ("drop_rate", "drop_path", "embed_drop_rate", "layer_drop")


@dataclass(frozen=True)
class Size:
    """How large things are: `full` as published, `testing` to see that the benchmark itself works."""

    side: int
    suffix: str
    volumes: int
    batch: int | None

    def name(self, model: str) -> str:
        """Return the preset of a model at this size."""
        return model + self.suffix


SIZES = {"full": Size(80, "", 256, None), "testing": Size(32, "_testing", 16, 2)}


def place(platform: str) -> str:
    """Return which of the tables above holds for a platform of jax."""
    return "cpu" if platform == "cpu" else "accelerator"


def config(name: str, precision: str, /, **objective: Any) -> dict[str, Any]:
    """Return keys of a config for a preset: its precision, no dropout, and its objective, by default supervised."""
    preset = models.MODELS[name]
    fields = {field.name for field in dataclasses.fields(preset.builder)}
    return {
        "model.name": name,
        "model.dtype": precision,
        **{f"model.{rate}": 0.0 for rate in _RATES if rate in fields},
        **{f"objective.{key}": value for key, value in objective.items()},
    }


def backbone(name: str, side: int) -> Any:
    """Return a backbone of ours for volumes of one channel, with one output."""
    return models.build(name, input_size=(side,) * 3, in_channels=1, num_outputs=1)
