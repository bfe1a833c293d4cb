"""A small search, and training by formula, for the tests of searches."""

import csv
import math
import threading

from jaxneuro import lock
from jaxneuro.study import search, search_results
from jaxneuro.study.search_spec import Choice, LogUniform, Search, Uniform
from jaxneuro.training import stopping

SPACE = {
    "optimizer.learning_rate": LogUniform(1e-5, 2e-3),
    "optimizer.weight_decay": Uniform(0.0, 0.2),
    "data.batch_size": Choice((4, 8)),
    "model.block_sizes": Choice(((1, 1), (1, 2))),
}


def small(data, **changes):
    """Return a search on a dataset, with changes."""
    parts = {
        "title": "A small search",
        "config": "configs/finetune_ad.py",
        "overrides": ("model.name=tiny_densenet_testing", "training.epochs=6", f"data.path={data}"),
        "space": SPACE,
        "trials": 8,
        "method": "random",
    }
    return Search(**(parts | changes))


def curve(config, epoch):
    """The value that the formula gives: best near a rate of 3e-4, slowly up, down at the end."""
    miss = abs(math.log10(config.optimizer.learning_rate) - math.log10(3e-4))
    return 0.9 - 0.2 * miss - 0.1 * config.optimizer.weight_decay + 0.02 * min(epoch, config.training.epochs - epoch)


class Formula:
    """Training by formula: each epoch is told to the judge, what was reached is kept, as checkpoints are.

    Attributes:
      log: (name of the folder, epoch) of each epoch, in order.
      curve: the formula, (config, epoch) to a value.
      before: called with (name, epoch, config) before an epoch; may raise.
    """

    def __init__(self):
        self.log, self.curve, self.lists = [], curve, threading.Lock()
        self.before = lambda name, epoch, config: None

    def __call__(self, config, workdir, stop=None, judge=None):
        workdir.mkdir(parents=True, exist_ok=True)
        file = workdir / "reached"
        with lock.hold(workdir):
            for epoch in range(int(file.read_text()) + 1 if file.is_file() else 1, config.training.epochs + 1):
                self.before(workdir.name, epoch, config)
                with self.lists:
                    self.log.append((workdir.name, epoch))
                ends = judge(epoch, self.curve(config, epoch))
                file.write_text(str(epoch))
                if ends:
                    break


def go(asked, out, stop=None):
    """Do a search; returns its trials."""
    found = search.begin(asked, out)
    search.run(found, stop or stopping.Stop())
    return found


def facts(found):
    """Return what is on record of each trial, but for times."""
    return [(t.number, t.state, t.value, t.params, t.intermediate_values) for t in found.all()]


def read_csv(out):
    with open(out / search_results.TRIALS, newline="") as file:
        return list(csv.DictReader(file))
