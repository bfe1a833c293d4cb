"""Which network an objective trains, and what it takes from the labels: one function an objective."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import numpy as np

from jaxneuro import models
from jaxneuro.errors import InputError
from jaxneuro.manifest import MISSING, Scan
from jaxneuro.objectives import contrastive, masked, supervised
from jaxneuro.objectives.base import Objective
from jaxneuro.tasks import Task
from jaxneuro.training import targets

#: What a network is trained in; float16 is for use only, for gradients would need their loss scaled.
DTYPES = ("float32", "bfloat16")
#: The projection of contrastive pre-training (Dufumier et al. 2021): one hidden layer, then the embedding.
PROJECTION = {"head_hidden": (512,), "num_outputs": 128}


@dataclass(frozen=True)
class Material:
    """What a pair is made for.

    Attributes:
      shape: of a volume, (depth, height, width, channel).
      scans: every scan of the dataset.
      tasks: what is predicted; empty for objectives without a target.
      labels: label of every record by task, NaN where there is none.
      train: records of the training fold.
      kept: what the outputs mean, where that is settled (`targets`); None to work it out from the training labels.
    """

    shape: tuple[int, int, int, int]
    scans: list[Scan]
    tasks: tuple[Task, ...]
    labels: dict[str, np.ndarray]
    train: list[int]
    kept: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Pair:
    """A network, what it minimises, the label columns that this reads, and how the network is to be built again.

    Attributes:
      described: name and keywords of the network, for cards.
      targets: what its outputs mean, a description each; empty where there is no target.
    """

    model: nn.Module
    objective: Objective
    labels: dict[str, np.ndarray]
    described: dict[str, Any]
    targets: list[dict[str, Any]] = field(default_factory=list)


def pair(config: Any, material: Material) -> Pair:
    """Return the network and objective of a config.

    Raises:
      InputError: an unknown objective or keyword, or a network that the objective cannot train, with the reason.
    """
    settings = config.objective.to_dict()
    name = settings.pop("name")
    if name not in OBJECTIVES:
        raise InputError(f"objective.name: found '{name}'; expected one of {', '.join(OBJECTIVES)}")
    known = DEFAULTS[name]
    if unknown := sorted(set(settings) - set(known)):
        raise InputError(f"objective: found {', '.join(unknown)} for '{name}'; expected among {', '.join(known)}")
    for key, value in settings.items():
        if not _alike(value, known[key]):
            example = known[key] if known[key] is not None else "l1"
            raise InputError(f"objective.{key}: found {value!r}; expected something like {example!r}")
    return OBJECTIVES[name](config, {**known, **settings}, material)


def _alike(value: Any, default: Any) -> bool:
    """Say whether a value is of the kind of the default."""
    if isinstance(default, dict):
        return isinstance(value, dict) and all(_alike(v, 0.0) for v in value.values())
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, int):
        return isinstance(value, int) or (isinstance(value, tuple | list) and all(_alike(v, 0) for v in value))
    return isinstance(value, str) or value is default


def network(
    config: Any, material: Material, decided: dict[str, Any], name: str | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the network of a config, with what the objective and the data decide; returns it and its description."""
    keywords = config.model.to_dict()
    asked = keywords.pop("name")
    *size, channels = material.shape
    decided = {**decided, "input_size": tuple(size), "in_channels": channels}
    if fixed := sorted(set(decided) & set(keywords)):
        raise InputError(f"model: found {fixed}; expected none of them: objective and data decide; remove them")
    if (dtype := keywords.get("dtype", "float32")) not in DTYPES:
        raise InputError(f"model.dtype: found {dtype!r}; expected one of {', '.join(DTYPES)}")
    name, settings = name or asked, {**keywords, **decided}
    return models.build(name, **settings), {"name": name, "settings": settings}


#: Keyword of the supervised objective -> (whether a value fits, what is expected).
_SUPERVISED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "class_weights": (lambda v: v in ("none", "balanced"), "none or balanced"),
    "regression": (lambda v: v in ("l1", "l2", "soft"), "l1, l2 or soft"),
    "smoothing": (lambda v: 0 <= v < 1, "a share in [0, 1)"),
    "bin": (lambda v: v > 0, "a width above 0, in the target's unit"),
    "deviation": (lambda v: v > 0, "a standard deviation above 0, in the target's unit"),
}


def _supervised(config: Any, settings: dict[str, Any], material: Material) -> Pair:
    for key, (fits, expected) in _SUPERVISED.items():
        if not fits(settings[key]):
            raise InputError(f"objective.{key}: found {settings[key]!r}; expected {expected}")
    train = {task.name: material.labels[task.name][material.train] for task in material.tasks}
    described = material.kept
    if described is None:
        described = [targets.describe(task, train[task.name], settings) for task in material.tasks]
    else:
        targets.check_same(described, material.tasks, settings)
    heads = {}
    for task, meaning in zip(material.tasks, described, strict=True):
        share = config.task.weight if task is material.tasks[0] else config.also[task.name].get("weight", 1.0)
        heads[task.name] = targets.build(meaning, train[task.name], settings)._replace(share=share)
    model, network_described = network(config, material, {"num_outputs": sum(t.width for t in heads.values())})
    return Pair(model, supervised.build(heads), dict(material.labels), network_described, described)


def _contrastive(config: Any, settings: dict[str, Any], material: Material) -> Pair:
    proxies = dict(settings["proxies"])
    if wrong := sorted(set(proxies) - {"age", "sex", "site", "diagnosis"}):
        raise InputError(
            f"objective.proxies: found {wrong}; expected among age, sex, site, diagnosis, each with its sigma"
        )
    labels = {proxy: _codes(material.scans, proxy) for proxy in proxies}
    for proxy, values in labels.items():
        if proxies[proxy] and not np.isfinite(values[material.train]).any():
            raise InputError(
                f"objective.proxies: no training scan has a known {proxy}; expected some; leave it out or set its "
                "sigma to 0"
            )
    decided: dict[str, Any] = dict(PROJECTION)
    preset = models.MODELS.get(config.model.name)
    if preset and hasattr(preset.builder, "final_norm"):
        decided["final_norm"] = False  # the published encoder has no last norm
    model, described = network(config, material, decided)
    return Pair(model, contrastive.build(**settings), labels, described)


def _codes(scans: list[Scan], column: str) -> np.ndarray:
    """Return a number for each scan's value of a column: age itself, or the place of a label among all; NaN unknown."""
    values = [getattr(s, column) for s in scans]
    if column == "age":
        return np.asarray(values, np.float32)
    places = {v: i for i, v in enumerate(sorted(set(values) - {MISSING}))}
    return np.asarray([places.get(v, math.nan) for v in values], np.float32)


def _masked(config: Any, settings: dict[str, Any], material: Material) -> Pair:
    kind, name = settings["kind"], config.model.name
    if kind not in masked.KINDS:
        raise InputError(f"objective.kind: found '{kind}'; expected one of {', '.join(masked.KINDS)}")
    stem = name.removesuffix("_testing")
    full = f"{stem}_{kind}" + ("_testing" if name != stem else "")
    if name in models.MODELS and full not in models.MODELS:
        fit = [n for n in models.MODELS if f"{n}_{kind}" in models.MODELS]
        raise InputError(
            f"model.name: found '{name}' with masked modelling ({kind}), which needs a network of patches"
            f"{'' if kind == 'simmim' else ' that can leave some out'}; expected one of {', '.join(fit)}"
        )
    if settings["background"] == "skip" and config.data.normalise not in ("brain", "none"):
        raise InputError(
            f"objective.background: found 'skip' with data.normalise '{config.data.normalise}', which leaves no "
            "background of 0; expected --config.data.normalise=brain"
        )
    model, described = network(config, material, {}, full if name in models.MODELS else name)
    encoder = model.encoder
    objective = masked.build(**settings, grid=encoder.patches(), patch=encoder.patch())
    return Pair(model, objective, {}, described)


#: Objective to its keywords and their defaults.
DEFAULTS: dict[str, dict[str, Any]] = {
    "supervised": {"class_weights": "none", "smoothing": 0.0, "regression": "l1", "bin": 1.0, "deviation": 1.0},
    "contrastive": {"temperature": 0.1, "form": "published", "proxies": {"age": 5.0}},
    "masked": {
        "kind": "simmim", "ratio": 0.9, "mask_size": 0, "background": "keep", "loss": None, "normalise_patches": False,
    },
}  # fmt: skip
OBJECTIVES: dict[str, Callable[[Any, dict[str, Any], Material], Pair]] = {
    "supervised": _supervised,
    "contrastive": _contrastive,
    "masked": _masked,
}
