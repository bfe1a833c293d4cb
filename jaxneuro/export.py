"""A trained run, or converted weights, to a file that others can use, with a card that says all about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from jaxneuro import augment, interop, models, records
from jaxneuro.errors import InputError
from jaxneuro.evaluation import evaluate
from jaxneuro.interop import files, folder, layouts
from jaxneuro.training import journal, sharding

#: StableHLO is written for all of these, and runs on whichever is there.
PLATFORMS = ("cpu", "cuda", "tpu")
_OURS, _THEIRS = "[batch, depth, height, width, channel]", "[batch, channel, depth, height, width]"
_NORMALISED = {
    "brain": "each a z-score over the voxels that are not 0, the others left at 0",
    "volume": "each a z-score over all voxels",
    "video": "values divided by 255, then a z-score by the mean and deviation of Kinetics' channels",
    "none": "not at all: cast alone",
}
_OUTPUT = {
    True: "[batch, columns]: the predictions that targets describe, in their order",
    False: "[batch, columns]: the network's outputs, from which targets tell how to predict, in their order",
}
_FILES = {"safetensors": folder.WEIGHTS, "torch": "model.pth", "stablehlo": "model.stablehlo"}


def export(source: str | Path, form: str, out: str | Path, *, layout: str | None = None) -> dict[str, Any]:
    """Write weights as `model.safetensors`, `model.pth` or `model.stablehlo`, with `card.json`, in a new folder.

    Args:
      source: folder of a run, whose best checkpoint is taken, or one that `interop` wrote.
      form: "safetensors", "torch" or "stablehlo" (the whole computation for any batch size, weights inside: volumes
        as they lie in the shards to predictions for a run; the bare network for converted weights).
      out: folder to make.
      layout: names and shapes of the tensors: a published layout, wrapped as its files are with "torch", or jaxneuro's.

    Returns:
      The card.

    Raises:
      InputError: the source is neither, or has no place in the layout; nothing is written.
    """
    source, out = Path(source), Path(out)
    if form not in _FILES:
        raise InputError(f"format: found '{form}'; expected one of {', '.join(_FILES)}")
    if form == "stablehlo" and layout is not None:
        raise InputError(f"--layout: found '{layout}' with stablehlo, which has no tensors by name; leave it out")
    layout = layout or "jaxneuro"
    if layout != "jaxneuro" and layout not in layouts.LAYOUTS:
        raise InputError(f"found the layout '{layout}'; expected jaxneuro or one of {', '.join(layouts.LAYOUTS)}")
    if (source / folder.CARD).is_file():
        model, variables, card = interop.load(source)
        predict, card = _network(model), _descent(card)
    else:
        model, variables, predict, card = _of_run(source, whole=form == "stablehlo")
    if layout != "jaxneuro" and "input" in card:
        card["input"] = card["input"].replace(_OURS, _THEIRS)
    with folder.new(out) as partial:
        path = partial / _FILES[form]
        if form == "stablehlo":
            path.write_bytes(_program(model, variables, predict))
            card |= {
                "layout": None,
                "platforms": list(PLATFORMS),
                "calling": "jax.export.deserialize(bytes).call(volumes)",
            }
        else:
            card |= {"layout": layout}
            tensors: dict[str, Any] = (
                folder.flat(variables) if layout == "jaxneuro" else interop.to_torch(model, variables, layout)
            )
            if form == "safetensors":
                files.write_safetensors(path, tensors)
            else:
                wrap = layouts.layout(model, layout).wrap if layout != "jaxneuro" else dict
                files.write_torch(path, wrap(tensors))
        folder.write(partial, path.name, card)
    return records.read_json(out / folder.CARD, expected="the card just written")


def _network(model: Any) -> Callable[[Any, jax.Array], jax.Array]:
    return lambda variables, x: model.apply(variables, x, train=False)[0]


def _descent(card: dict[str, Any]) -> dict[str, Any]:
    """Return what an export tells of the weights that it was made from."""
    own = ("format", "jaxneuro", "file", "sha256", "layout", "platforms", "calling")
    return {k: v for k, v in card.items() if k not in own} | {"from": {k: card[k] for k in ("jaxneuro", "sha256")}}


def _of_run(
    workdir: Path, *, whole: bool
) -> tuple[Any, dict[str, Any], Callable[[Any, jax.Array], jax.Array], dict[str, Any]]:
    """Return a run's network, best variables, predictions and card: of the `whole` computation, or of its weights."""
    config, parts = evaluate.open_run(workdir)
    step, weights, chosen = evaluate.best(parts, workdir, sharding.make_mesh({"data": -1}))
    variables = jax.tree.map(np.asarray, {k: v for k, v in weights.items() if v or k == "params"})
    variables.setdefault("batch_stats", {})
    normalised = config.data.normalise
    normalise = augment.normaliser(normalised)
    model, objective, dataset = parts.model, parts.objective, parts.dataset

    def predict(variables: Any, x: jax.Array) -> jax.Array:
        outputs = model.apply(variables, normalise(x), train=False)[0]
        return objective.predict(outputs) if objective.predict else outputs

    card = dataset.card
    return model, variables, predict, {
        "model": {k: _plain(v) for k, v in parts.described.items()},
        "input_size": list(dataset.shape[:3]),
        "in_channels": dataset.shape[3],
        "spacing_mm": card["spacing_mm"],
        "axes": card["axes"],
        "recipe": card["recipe"],
        "recipe_fingerprint": card["recipe_fingerprint"],
        "normalise": config.data.normalise,
        "input": f"volumes {_OURS} as prepared, "
        + ("before normalisation" if whole else f"and normalised ('{normalised}': {_NORMALISED[normalised]})"),
        "output": _OUTPUT[whole] if parts.targets else "the network's own",
        "objective": config.objective.name,
        "targets": [{**target, "output": _meaning(target, whole)} for target in parts.targets],
        "training": {
            "data": card["name"],
            "synthetic": card["synthetic"],
            "manifest_sha256": card["manifest_sha256"],
            "splits_sha256": card["splits_sha256"],
            "scans": len(parts.folds["train"]),
            "step": step,
            "chosen_by": chosen,
            "init": records.read_json(workdir / "run.json", expected="what a run wrote down").get("init"),
        },
        "config": config.to_dict(),
        "versions": journal.versions(),
    }  # fmt: skip


def _meaning(target: Mapping[str, Any], whole: bool) -> str:
    """Say what a target's columns are: its prediction, or the network's outputs and what makes a prediction of them."""
    prediction = {"binary": "probability of the second class", "multiclass": "probability of each class"}.get(
        target["kind"], f"{target['target']} in {target['unit'] or 'its own unit'}"
    )
    if whole:
        return prediction
    if target["kind"] == "binary":
        return f"a logit; its sigmoid is the {prediction}"
    if target["kind"] == "multiclass":
        return f"a logit for each class; their softmax is the {prediction}"
    if target["form"] == "soft":
        return (
            f"a logit for each bin of width `bin` from `low` to `high`; the bins' centres, weighted by the softmax and "
            f"summed, are the {prediction}"
        )
    return f"standardised; times `scale` plus `mean` it is the {prediction}"


def _plain(value: Any) -> Any:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()} if isinstance(value, dict) else value


def _program(model: Any, variables: Any, predict: Callable[[Any, jax.Array], jax.Array]) -> bytes:
    inputs = models.inputs(model)
    if set(inputs) != {"x"}:
        raise InputError(
            f"stablehlo: found a {type(model).__name__}, which takes masks; expected a backbone; export that"
        )
    weights = {k: v for k, v in variables.items() if k != "unused"}
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *inputs["x"].shape[1:]), np.float32)
    program = jax.export.export(jax.jit(lambda x: predict(weights, x)), platforms=PLATFORMS)(x)
    return bytes(program.serialize())
