"""Where a new run's weights come from: a run of ours, or converted weights; loaded strictly, told leaf by leaf."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import flax.linen as nn

from jaxneuro import manifest, records, splits, terminal
from jaxneuro.errors import InputError
from jaxneuro.interop import Adaptation, Row, convert, folder, transfer
from jaxneuro.manifest import Scan
from jaxneuro.training import checkpoint

#: In a run's folder: what became of every leaf, and the scans that its first weights were trained on.
REPORT, SEEN = "init.csv", "pretrained_on.csv"
#: Keywords that a network computes with and no weight shows.
_UNSEEN = ("bias_index", "epsilon", "layer_drop", "time_axis")
#: What a card and a run say of the volumes that a network is used to.
_SEEN_AS = ("normalise", "recipe_fingerprint")
#: Where an error of `interop` names a flag of `jaxneuro convert`, what a run has instead.
_FLAGS = {
    "--channels sum": "--config.init.channels=sum",
    "--resample": "--config.init.resample=True",
    "--head fresh": "--config.init.head=fresh",
    "--fresh": "--config.init.fresh",
    "--ignore": "--config.init.ignore",
    "say its own: --source-size": "begin them afresh: --config.init.fresh",
    "--inflate-time": "jaxneuro convert --inflate-time, for published weights only",
}


@dataclass(frozen=True)
class Start:
    """Weights to begin with.

    Attributes:
      variables: parameters and batch statistics.
      rows: what became of each leaf.
      origin: where they come from, for run.json; `known` tells whether `seen` is all that they were ever trained on.
      seen: the scans that they were trained on, by themselves or before; None where nobody knows.
    """

    variables: dict[str, Any]
    rows: list[Row]
    origin: dict[str, Any]
    seen: list[Scan] | None


def load(
    path: str | Path,
    model: nn.Module,
    settings: Mapping[str, Any],
    *,
    seed: int,
    input_: Mapping[str, Any] = MappingProxyType({}),
) -> Start:
    """Return the weights in `path` as those of a model.

    Args:
      path: folder of a run, whose best checkpoint is taken, or one that `jaxneuro convert` or `export` wrote.
      model: the network.
      settings: `init` of the config: `head` "fresh" or "keep", patterns `fresh` and `ignore`, `channels`, `resample`.
      seed: of what begins afresh.
      input_: how volumes will reach the network, `normalise` and `recipe_fingerprint`, to compare with what it is used
        to; by default nothing is compared.

    Raises:
      InputError: there are no such weights, or leaves that neither fit nor are named; all in one message.
    """
    path = Path(path)
    if settings["head"] not in ("fresh", "keep"):
        raise InputError(f"init.head: found '{settings['head']}'; expected fresh or keep")
    if (path / folder.CARD).is_file():
        card, leaves = folder.read(path)
        leaves = {k: v for k, v in leaves.items() if not k.startswith("unused/")}
        described, seen = card["model"], None
        origin = {"path": str(path), "model": described["name"], "sha256": card["sha256"], "known": False}
        seen_as = {k: card.get(k) for k in _SEEN_AS}
    elif (path / "config.json").is_file():
        step, weights, _ = checkpoint.load_best(path)
        leaves = folder.flat(weights)
        run = records.read_json(path / "run.json", ["model"], expected="a run that began to train")
        described, before = run["model"], run.get("init")
        seen = manifest.read(path / "scans.csv") + (manifest.read(path / SEEN) if (path / SEEN).is_file() else [])
        known = before is None or before.get("known", False)
        origin = {"path": str(path), "model": described["name"], "step": step, "known": known}
        seen_as = {k: {**run.get("dataset", {}), **run}.get(k) for k in _SEEN_AS}
    else:
        raise InputError(f"init.path: found nothing to start from in {path}; expected a run, or what convert wrote")
    _check_input(path, seen_as, input_, whole=settings["head"] == "keep")
    source = None
    try:
        source = folder.build(described)
        _check_computation(model, source, whole=settings["head"] == "keep")
        variables, rows = transfer(
            model,
            leaves,
            source=source,
            new_head=settings["head"] == "fresh",
            fresh=settings["fresh"],
            ignore=settings["ignore"],
            adaptation=Adaptation(channels=settings["channels"] or None, resample=settings["resample"]),
            seed=seed,
        )
    except InputError as e:
        ours, theirs = (type(getattr(m, "encoder", m)).__name__ for m in (model, source))
        if source is not None and ours != theirs:
            raise InputError(
                f"init.path: {path}: found weights of '{described['name']}' ({theirs}); expected some of the config's "
                f"network ({ours}); take another --config.model.name, or leave init.path empty"
            ) from e
        raise InputError(f"init.path: {path}: {_in_a_config(str(e))}") from e
    return Start(variables, rows, origin, seen)


def _check_input(path: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any], *, whole: bool) -> None:
    """Say that volumes come otherwise than in the training of the weights; refuse other values where the head is kept.

    Raises:
      InputError: names the key to set.
    """
    for key in ours.keys() & theirs.keys():
        if theirs[key] is None or theirs[key] == ours[key]:
            continue
        line = f"data.{key}: found '{ours[key]}'; expected '{theirs[key]}', as in the training of {path}"
        if whole and key == "normalise":
            raise InputError(f"{line}; --config.data.normalise={theirs[key]}")
        terminal.say(f"warning: {line}")


def _check_computation(model: Any, source: Any, *, whole: bool) -> None:
    """Say that the network computes otherwise than the one that the weights are of; refuse it where it keeps the head.

    Raises:
      InputError: names the keywords to set.
    """
    ours, theirs = (getattr(m, "encoder", m) for m in (model, source))
    if type(ours) is not type(theirs):
        return
    differ = [
        f"model.{k}: found {getattr(ours, k)!r}; expected {getattr(theirs, k)!r} as in the network that these weights "
        f"are of, for no weight shows it: --config.model.{k}={getattr(theirs, k)}"
        for k in (*_UNSEEN, *(["pool"] if whole else []))
        if getattr(ours, k, None) != getattr(theirs, k, None)
    ]
    if differ and whole:
        raise InputError("; ".join(differ))
    for line in differ:
        terminal.say(f"warning: {line}")


def _in_a_config(message: str) -> str:
    for flag, key in _FLAGS.items():
        message = re.sub(rf"(?<![\w.-]){re.escape(flag)}(?![\w-])", key, message)
    return message


def check_unseen(start: Start, folds: Mapping[str, Sequence[Scan]]) -> None:
    """Refuse weights that were trained on a scan or subject that is to validate or test them.

    Raises:
      LeakageError: names the offenders.
    """
    for fold, scans in folds.items():
        if fold != "train" and start.seen:
            splits.check_disjoint({"the training of init.path": start.seen, fold: scans})


def write(workdir: Path, start: Start) -> None:
    """Write what became of each leaf, and what the weights were trained on, into a run's folder."""
    convert.write_report(workdir / REPORT, start.rows)
    if start.seen is not None:
        manifest.write(workdir / SEEN, unique(start.seen))


def unique(scans: Sequence[Scan]) -> list[Scan]:
    """Return each scan once."""
    return list({(s.subject, s.session, s.content_hash): s for s in scans}.values())
