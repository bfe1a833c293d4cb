"""The whole road on synthetic scans: cohort, shards, two networks, tests on held-out subjects and an unseen site."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from jaxneuro import configuration, terminal
from jaxneuro.evaluation import evaluate
from jaxneuro.prepare import cohort
from jaxneuro.prepare import run as preparing
from jaxneuro.study import report, tables
from jaxneuro.training import loop

#: The site that no network sees before the test.
UNSEEN_SITE = "D"
CONFIGS = {"ad": "configs/demo_ad.py", "age": "configs/demo_age.py"}


def run(out: Path, *, seed: int = 0, workers: int = 1, subjects: int = 200, overrides: Sequence[str] = ()) -> Path:
    """Make a cohort, prepare it, train and test two networks on it, and write the report.

    What is finished is not done again, so a stopped demo goes on.

    Args:
      out: folder for everything.
      seed: of the cohort, the folds and the training.
      workers: processes for making and preparing scans.
      subjects: size of the cohort.
      overrides: further `--config.KEY=VALUE` for both networks.

    Returns:
      The report, an HTML file.

    Raises:
      InputError: `out` holds a demo of another seed or size.
    """
    scans, shards = out / "cohort", out / "shards"
    runs = {name: out / name for name in CONFIGS}

    if not scans.exists():
        with (
            _step(f"1/4 a synthetic cohort of {subjects} whole heads"),
            terminal.progress("making heads") as live,
        ):
            cohort.write_cohort(scans, _people(subjects, seed), workers=workers, progress=live)
    if not shards.exists():
        with (
            _step("2/4 heads to shards: N4, skull stripping, registration"),
            terminal.progress("preparing scans") as live,
        ):
            card = preparing.prepare(
                scans, shards, recipe="quick40", ood_sites=(UNSEEN_SITE,), seed=seed,
                workers=workers, progress=lambda what, done, total: live(done, total, what),
            )  # fmt: skip
            terminal.say(f"{card['counts']['scans']} scans of {card['counts']['subjects']} subjects")
    for name, config in CONFIGS.items():
        with _step(f"3/4 training: {name}"):
            settings = [f"--config.data.path={shards}", f"--config.seed={seed}", *overrides]
            loop.train(configuration.read(config, settings), runs[name])
    with _step("4/4 testing"):
        for workdir in runs.values():
            terminal.say(tables.to_rich(tables.summary(evaluate.evaluate(workdir))))
    return report.write(
        out / "report.html",
        list(runs.values()),
        title="jaxneuro demo: Alzheimer's disease and brain age on a synthetic cohort",
        notes=[
            f"Site {UNSEEN_SITE} was held out whole; no network saw a scan of it before the test (fold ood).",
            "The true places of every effect are in cohort/derivatives/truth.",
        ],
    )


def _people(subjects: int, seed: int) -> cohort.CohortSpec:
    """Return a cohort that takes minutes: large voxels, one scan a person, and nobody whom neither network uses."""
    return cohort.CohortSpec(
        subjects=subjects,
        seed=seed,
        diagnoses={"CN": 0.55, "AD": 0.45},
        max_sessions=1,
        voxel_size=3.0,  # mm, before each site's own factor: the grid of quick40 is coarser still
        heads=True,
        effects=cohort.Effects(head_scale_mean=0.92),
    )


@contextmanager
def _step(title: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    terminal.say(f"\n== {title}")
    began = time.perf_counter()
    yield
    terminal.say(f"   {time.perf_counter() - began:.0f} s")
