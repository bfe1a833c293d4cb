"""The tables of a run, as Markdown: what was measured, and a line for what was not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

TITLES = {
    "compile": "First step of training",
    "step": "A step of training",
    "inference": "Inference",
    "occlusion": "Inference as occlusion does it",
    "objectives": "A step of pre-training",
    "input": "Volumes into host batches",
}


def lines(found: dict[str, Any]) -> Iterable[str]:
    """Yield the lines of a report from what the JSON file holds."""
    yield machine(found)
    for case, title in TITLES.items():
        results = [r for r in found["results"] if r["case"] == case and r["sides"]]
        if results:
            yield f"\n{title}\n"
            yield from first_steps(results) if case == "compile" else times(results)
    if found["left_out"]:
        yield "\nNot measured\n"
        for gap in found["left_out"]:
            yield f"- {gap['case']} of {gap['of']}, {gap['side']}: {gap['why']}"


def machine(found: dict[str, Any]) -> str:
    """Return what the numbers were measured on, in one paragraph."""
    about, devices, settings = found["machine"], found["devices"], found["settings"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    ceiling = "".join(f"; {dtype} products {rate / 1e12:.0f} TFLOP/s" for dtype, rate in found["ceiling"].items())
    return (
        f"{devices['count']} x {devices['kind']} ({devices['platform']}){ceiling}; {about['processor']}, "
        f"{about['cores']} cores, {about['memory_gib']} GiB; {about['system']}; Python {about['python']}, {versions}; "
        f"{about['date']}; load {about['load']} before and {found['load_after']} after.\n"
        f"{settings['side']}^3 voxels, {settings['precision']}, {settings['rounds']} rounds, median (range); "
        f"ratios are of times unless it says speed, by medians (range over rounds).\n`{found['command']}`"
    )


def times(results: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Yield a table with a row for each side."""
    shown = [side for r in results for side in r["sides"].values()]
    memory = [k for k in ("running", "device") if any(k in side.get("memory", {}) for side in shown)]
    used = [k for k in ("of_measured_ceiling", "of_published_peak") if any(k in side for side in shown)]
    names = {"running": "peak memory, MiB", "device": "of the device, MiB"}
    yield from head(
        ["", "side", "volumes", "ms a call", "volumes/s", *(names[k] for k in memory), "ratio"]
        + [k.replace("_", " ") for k in used]
    )
    for r in results:
        ratios = r.get("ratios", [])
        for name, side in r["sides"].items():
            cells = [r["of"], name, str(r["volumes"]), milliseconds(side), f"{side['volumes_per_second']:,.1f}"]
            cells += [mebibytes(side.get("memory", {}).get(k)) for k in memory]
            cells += ["; ".join(compared(x, r["case"]) for x in ratios if x["of"] == name)]
            yield row(cells + [f"{side[k]:.1%}" if k in side else "" for k in used])


def first_steps(results: Sequence[dict[str, Any]]) -> Iterable[str]:
    """Yield a table of the first steps."""
    yield from head(
        ["", "side", "s with initial weights and compilation", "s since the process began", "peak memory, MiB"]
    )
    for r in results:
        for name, side in r["sides"].items():
            memory = mebibytes(side["memory"]["process"])
            yield row([r["of"], name, f"{side['first']:.1f}", f"{side['since_start']:.1f}", memory])


def compared(ratio: dict[str, Any], case: str) -> str:
    """Return a ratio in words: of times, or, where volumes a second are what matters, of speeds."""
    low, middle, high = (ratio[k] for k in ("low", "median", "high"))
    if case == "input":
        return f"{1 / middle:.2f} ({1 / high:.2f} to {1 / low:.2f}) of the speed of {ratio['to']}"
    return f"{middle:.2f} ({low:.2f} to {high:.2f}) of {ratio['to']}"


def milliseconds(side: dict[str, Any]) -> str:
    """Return median and range of the seconds of a call."""
    low, middle, high = (f"{1e3 * side[k]:,.{digits(side['median'])}f}" for k in ("low", "median", "high"))
    return f"{middle} ({low} to {high})"


def digits(seconds: float) -> int:
    """Return how many digits of milliseconds are worth showing after the point."""
    return 2 if seconds < 0.1 else 1 if seconds < 1 else 0


def mebibytes(count: int | None) -> str:
    """Return bytes in MiB, nothing for none."""
    return "" if count is None else f"{count / 2**20:,.0f}"


def head(cells: Sequence[str]) -> Iterable[str]:
    """Yield the two lines that a table begins with."""
    yield row(cells)
    yield "|" + "---|" * len(cells)


def row(cells: Sequence[str]) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |"
