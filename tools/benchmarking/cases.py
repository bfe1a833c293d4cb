"""The cases: each starts its sides, lets them run in turn, and yields what it found as plain values.

A side that cannot be measured is left out with the reason; the others go on.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jaxneuro import terminal
from tools.benchmarking import feeding, machine, measure, references, settings
from tools.benchmarking.process import Failed, Side

Result = dict[str, Any]
OURS = "jaxneuro"
TORCH = ("torch eager", "torch compiled", "torch channels last")
MONAI = tuple(f"MONAI, {n} workers" for n in (0, 1, 2))


@dataclass
class Run:
    """What is asked for, where it runs, and what was left out on the way.

    Attributes:
      models: backbones, as `settings.MODELS` names them.
      size, precision, rounds, batch: as of the command line; batch None takes the table's.
      at_least: seconds of a round.
      limit: seconds of one call above which a side is left out.
      patience: seconds after which a side that does not answer is ended.
      folder: for caches and data.
      devices: platform, kind and number of devices (`machine.Devices`).
      torch_device: "cpu", "cuda", or "" where torch cannot take part, for the reason `without_torch`.
      ceiling: measured operations a second by precision; empty on CPUs.
      left_out: what was not measured, and why.
      seconds_per_volume: of inference by (model, side), where it was measured.
    """

    models: list[str]
    size: settings.Size
    precision: str
    rounds: int
    batch: int | None
    at_least: float
    limit: float
    patience: float
    folder: Path
    devices: dict[str, Any]
    torch_device: str = ""
    without_torch: str = ""
    forms: tuple[str, ...] = TORCH
    ceiling: dict[str, float] = field(default_factory=dict)
    left_out: list[dict[str, str]] = field(default_factory=list)
    seconds_per_volume: dict[tuple[str, str], float] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Return which tables of sizes hold."""
        return settings.place(self.devices["platform"])

    def batch_of(self, model: str) -> int:
        """Return how many volumes a step of a model takes."""
        return self.batch or self.size.batch or settings.BATCHES[self.place][model]

    def leave_out(self, case: str, of: str, side: str, why: str) -> None:
        """Write down, and say, what is not measured."""
        self.left_out.append({"case": case, "of": of, "side": side, "why": why})
        terminal.say(f"{case} of {of}: left out {side}: {why}")

    def start(self, stack: ExitStack, of: str, subject: str, spec: Mapping[str, Any]) -> Side:
        """Start a side; what compilers make is kept in a folder of this run and of what is measured."""
        caches = {"JAX_COMPILATION_CACHE_DIR": "xla", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
        # The sides share an accelerator's memory, which jax would take for itself.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        environment |= {variable: str(self.folder / of / name) for variable, name in caches.items()}
        return stack.enter_context(Side(subject, spec, environment, self.patience))

    def network(self, model: str, batch: int) -> dict[str, tuple[str, dict[str, Any]]]:
        """Return the sides of a backbone: its name to subject and spec."""
        preset, side = self.size.name(model), self.size.side
        sides: dict[str, tuple[str, dict[str, Any]]] = {
            OURS: ("jaxneuro", {"config": settings.config(preset, self.precision), "batch": batch, "side": side})
        }
        if not self.torch_device:
            return sides
        reference = references.describe(settings.backbone(preset, side))
        for name in self.forms:
            form = name.removeprefix("torch ")
            if form == "channels last" and reference["kind"] != "densenet":
                continue  # the order of memory is one for convolutions
            sides[name] = (
                "torch",
                {
                    "reference": reference, "form": form, "batch": batch, "side": side, "precision": self.precision,
                    "device": self.torch_device, "threads": machine.cores(),
                },
            )  # fmt: skip
        return sides


def timed(
    run: Run, case: str, of: str, task: str, sides: Mapping[str, tuple[str, dict[str, Any]]], volumes: int
) -> Result:
    """Time one task of several sides, in turn.

    Returns:
      `case`, `of`, `volumes` a call, and `sides`: name to `seconds` of a call in each round, their `median`, `low` and
      `high`, `volumes_per_second` by the median, `calls` a round, `first` and `since_start` (seconds), `memory`
      (bytes).
    """
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        ready: dict[str, Side] = {}
        for name, (subject, spec) in sides.items():
            side = run.start(stack, of, subject, spec)
            try:
                first = side.ask("first", task=task)
                warm = side.ask("warm", at_least=run.at_least)
            except Failed as e:
                run.leave_out(case, of, name, str(e))
                continue
            if warm["seconds"] > run.limit:
                run.leave_out(case, of, name, f"a call takes {warm['seconds']:.0f} s, more than {run.limit:.0f}")
                continue
            ready[name], found[name] = side, {**first, "calls": warm["repeats"]}
        lost: dict[str, str] = {}

        def once(name: str) -> float:
            try:
                return float("nan") if name in lost else ready[name].ask("measure")
            except Failed as e:
                lost[name] = str(e)
                return float("nan")

        samples = measure.alternate({name: partial(once, name) for name in ready}, run.rounds)
        for name in [name for name in ready if name not in lost]:
            found[name] |= {"seconds": samples[name], **measure.spread(samples[name])}
            found[name]["volumes_per_second"] = volumes / found[name]["median"]
            try:
                found[name]["memory"] = ready[name].ask("memory")
            except Failed as e:
                lost[name] = str(e)
    for name, why in lost.items():
        del found[name]
        run.leave_out(case, of, name, why)
    return {"case": case, "of": of, "volumes": volumes, "sides": found}


def against(result: Result, ours: str, others: tuple[str, ...]) -> Result:
    """Add the ratio of our time to that of the best of others, where both were measured."""
    samples = {name: side["seconds"] for name, side in result["sides"].items()}
    if ratio := measure.compare(samples, ours, others):
        result.setdefault("ratios", []).append(ratio)
    return result


def step(run: Run) -> Iterator[Result]:
    """A step of training of each backbone: forward, backward, update by AdamW."""
    for model in run.models:
        batch = run.batch_of(model)
        result = timed(run, "step", model, "step", run.network(model, batch), batch)
        if run.ceiling and OURS in result["sides"]:
            result["sides"][OURS] |= utilisation(run, model, batch, result["sides"][OURS]["median"])
        yield against(result, OURS, TORCH)


def utilisation(run: Run, model: str, batch: int, seconds: float) -> dict[str, float]:
    """Return the counted operations of a step, and their share of what the device could have done in its time."""
    with ExitStack() as stack:
        subject, spec = run.network(model, batch)[OURS]
        try:
            flops = run.start(stack, model, subject, spec).ask("call", name="flops")
        except Failed as e:
            run.leave_out("step", model, "utilisation", str(e))
            return {}
    found = {"flops": flops, "of_measured_ceiling": flops / seconds / run.ceiling[run.precision]}
    if peak := machine.published_peak(run.devices["kind"], run.precision):
        found["of_published_peak"] = flops / seconds / peak
    return found


def inference(run: Run) -> Iterator[Result]:
    """Predictions of one batch by each backbone."""
    for model in run.models:
        batch = run.batch_of(model)
        result = timed(run, "inference", model, "inference", run.network(model, batch), batch)
        for name, side in result["sides"].items():
            run.seconds_per_volume[model, name] = side["median"] / batch
        yield against(result, OURS, TORCH)


def occlusion(run: Run) -> Iterator[Result]:
    """Predictions of many copies of one volume, of each of which another cube is hidden."""
    for model in run.models:
        batch = run.batch or run.size.batch or settings.COPIES[run.place]
        sides = run.network(model, batch)
        if run.place == "cpu" and sides.pop("torch compiled", None):
            run.leave_out("occlusion", model, "torch compiled", "on a CPU compiling it takes minutes; see inference")
        for name in list(sides):
            if (expected := batch * run.seconds_per_volume.get((model, name), 0.0)) > run.limit:
                del sides[name]
                why = f"by its inference a call takes {expected:.0f} s, more than {run.limit:.0f}"
                run.leave_out("occlusion", model, name, why)
        yield against(timed(run, "occlusion", model, "occlusion", sides, batch), OURS, TORCH)


#: Case -> the objective, and of which backbones.
OBJECTIVES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "MAE, 0.75 hidden": ({"name": "masked", "kind": "mae", "ratio": 0.75}, ("vit_b16",)),
    "MAE, 0.9 hidden": ({"name": "masked", "kind": "mae", "ratio": 0.9}, ("vit_b16",)),
    "SimMIM, 0.9 hidden": ({"name": "masked", "kind": "simmim", "ratio": 0.9}, ("vit_b16",)),
    "y-aware": ({"name": "contrastive"}, ("densenet121", "tiny_densenet")),
}


def objectives(run: Run) -> Iterator[Result]:
    """Steps of our pre-training objectives, and how much MAE saves over SimMIM."""
    for model in run.models:
        sides: dict[str, tuple[str, dict[str, Any]]] = {}
        for name, (objective, fitting) in OBJECTIVES.items():
            if model not in fitting:
                continue
            masked = objective["name"] == "masked"
            batch = run.batch or run.size.batch or (settings.MASKED[run.place] if masked else run.batch_of(model))
            config = settings.config(run.size.name(model), run.precision, **objective)
            sides[name] = ("jaxneuro", {"config": config, "batch": max(batch, 2), "side": run.size.side})
        if sides:
            volumes = next(iter(sides.values()))[1]["batch"]
            result = timed(run, "objectives", model, "step", sides, volumes)
            yield against(result, "MAE, 0.9 hidden", ("SimMIM, 0.9 hidden",))


#: How our shards are read.
FEEDS: dict[str, dict[str, Any]] = {
    "jaxneuro, Snappy": {"compression": "snappy"},
    "jaxneuro, no compression": {"compression": "none"},
    "jaxneuro, kept in memory": {"compression": "snappy", "kept": True},
}


def feed(run: Run) -> Iterator[Result]:
    """Volumes into host batches; a call is an epoch."""
    batch, cores = min(16, run.size.volumes), machine.cores()
    with tempfile.TemporaryDirectory(dir=run.folder) as folder:
        feeding.make(Path(folder), run.size.volumes, run.size.side)
        same = {"folder": folder, "batch": batch}
        sides: dict[str, tuple[str, dict[str, Any]]] = {
            name: ("shards", {**same, "threads": 4, **how})  # as a config has by default
            for name, how in FEEDS.items()
        }
        sides |= {
            "records read and copied": ("records", {**same, "threads": cores}),
            "plain bytes read and copied": ("bytes", {**same, "threads": cores}),
        }
        if importlib.util.find_spec("monai"):
            for workers, name in enumerate(MONAI):
                sides[name] = ("monai", {**same, "threads": 1, "workers": workers})
        else:
            run.leave_out("input", "volumes", "MONAI", "it is not installed")
        volumes = run.size.volumes // batch * batch
        result = timed(run, "input", f"{run.size.volumes} volumes", "input", sides, volumes)
    for side in result["sides"].values():
        side.pop("memory")  # that of the processes of a DataLoader is not in it
    for ours in FEEDS:
        for others in (("plain bytes read and copied",), MONAI):
            against(result, ours, others)
    yield result


def compiling(run: Run) -> Iterator[Result]:
    """The first step of training of each backbone, with nothing compiled yet, and once more from the cache.

    It comes before the other cases, which then find compiled what it compiled.
    """
    for model in run.models:
        batch, found = run.batch_of(model), {}
        for name, (subject, spec) in run.network(model, batch).items():
            if name == "torch channels last":
                continue
            for when in ("cold", "from cache"):
                with ExitStack() as stack:
                    try:
                        side = run.start(stack, model, subject, spec)
                        found[f"{name}, {when}"] = side.ask("first", task="step")
                        found[f"{name}, {when}"]["memory"] = side.ask("memory")
                    except Failed as e:
                        run.leave_out("compile", model, f"{name}, {when}", str(e))
                        break
        yield {"case": "compile", "of": model, "volumes": batch, "sides": found}


CASES: dict[str, Callable[[Run], Iterator[Result]]] = {
    "compile": compiling,
    "step": step,
    "inference": inference,
    "occlusion": occlusion,
    "objectives": objectives,
    "input": feed,
}
