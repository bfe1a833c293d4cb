"""Small inputs that many tests share."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxneuro import configuration, records, splits
from jaxneuro.manifest import Scan

CONFIGS = Path(__file__).parents[1] / "configs"
#: Names of the files that `jaxneuro train` takes; the others are the defaults, studies and searches.
EXPERIMENTS = sorted(p.stem for p in CONFIGS.glob("*.py") if not p.stem.startswith(("common", "study_", "search_")))


def pytest_configure(config):
    """Compile as is quickest for tiny networks, most of what these tests do, unless slow tests are asked for too.

    The slow tests run the programs that users run. XLA reads its flags once, before a process's first array, and ends
    the process if it does not know one.
    """
    import jax

    if config.getoption("markexpr") == "not slow":
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of the processes that tests start
        if jax.__version_info__ < (0, 11):
            quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}".strip()


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile each tiny network once a session, not once a test."""
    import jax

    # Each worker its own: an entry that another is still writing is read as a damaged one.
    # In the environment too, for subprocesses and for the command line, which looks there.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("xla"))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def write_dataset(out, scans, *, folds=None, seed=0, ood_sites=("D",), shape=(16, 16, 16), **card):
    """Write a dataset whose volumes are noise plus a box that is brighter in AD and with age."""
    with records.Writer(out, shape=(*shape, 1), records=len(scans)) as w:
        for i, scan in enumerate(scans):
            rng = np.random.default_rng(i)
            volume = rng.uniform(0.5, 1.0, (*shape, 1))
            volume[4:10, 4:10, 4:10] += 1.5 * (scan.diagnosis == "AD") + (np.nan_to_num(scan.age, nan=60) - 60) / 20
            w.add(volume.astype(np.float16), scan)
        w.finish(
            splits=folds or splits.make(scans, ood_sites=ood_sites, seed=seed),
            **{
                "name": "boxes", "description": "synthetic boxes", "synthetic": True, "spacing_mm": [1, 1, 1],
                "axes": "RAS+", "recipe": {"name": "boxes", "shape": list(shape)}, **card,
            },
        )  # fmt: skip
    return Path(out)


def box_scans(n=48, prefix="s", diagnoses=("CN", "AD")):
    """Return the manifest of a small cohort: two sessions for every third subject, site D for every fourth."""
    scans = []
    for i in range(n):
        for session in range(2 if i % 3 == 0 else 1):
            site, sex, diagnosis = "ABCD"[i % 4], "FM"[i // 4 % 2], diagnoses[i // 8 % len(diagnoses)]
            age = 50.0 + (i * 7) % 30 + session
            subject, visit = f"{prefix}{i:03d}", f"ses-{session + 1}"
            scans.append(Scan(subject, visit, site, age, sex, diagnosis, "", f"{prefix}-{i}-{session}"))
    return scans


@pytest.fixture(scope="session")
def boxes(tmp_path_factory):
    """A dataset that a small network learns in seconds."""
    return write_dataset(tmp_path_factory.mktemp("boxes") / "d", box_scans())


def smoke_config(data, *overrides, name="smoke"):
    """Return a config on a dataset with overrides; the smoke config is of a network that is quick to compile."""
    if name == "smoke" and not any(o.startswith("model.name=") for o in overrides):
        overrides = ("model.block_sizes=(1,1)", *overrides)
    return configuration.read(str(CONFIGS / f"{name}.py"), [f"--config.{o}" for o in (f"data.path={data}", *overrides)])


@pytest.fixture
def smoke(boxes):
    """The smoke config on the boxes, with overrides."""

    def read(*overrides, data=boxes, name="smoke"):
        return smoke_config(data, *overrides, name=name)

    return read


@pytest.fixture
def log_lines():
    """Read a run's metrics."""

    def read(workdir):
        return [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]

    return read
