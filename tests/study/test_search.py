"""Searches: trials drawn, stopped, shared, recorded. Training is a formula, but in two tests."""

import ast
import functools
import itertools
import json
import math
import os
import signal
import sys
import threading

import numpy as np
import pytest
from optuna.trial import TrialState

from jaxneuro import cli, configuration, lock
from jaxneuro.errors import InputError, Preempted
from jaxneuro.study import search, search_results, search_spec, trials
from jaxneuro.study.search_spec import Uniform
from jaxneuro.training import loop, stopping
from tests.conftest import CONFIGS, box_scans, write_dataset
from tests.study import searches
from tests.study.searches import SPACE, curve, facts, go, read_csv


@pytest.fixture
def asked(boxes):
    """A search on the boxes, with changes."""
    return functools.partial(searches.small, boxes)


@pytest.fixture
def formula(monkeypatch):
    """Put the formula in the place of training, and spare the disk, which takes most of the time."""
    instead = searches.Formula()
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(search.loop, "train", instead)
    return instead


def test_random_trials_are_ordinary_runs_with_what_was_drawn(asked, formula, tmp_path):
    wanted = {}
    formula.before = lambda name, epoch, config: wanted.setdefault(name, config)
    found = go(asked(trials=40), tmp_path / "s")
    assert formula.log == [(f"{n:04d}", e) for n in range(40) for e in range(1, 7)]
    assert {t.state for t in found.all()} == {TrialState.COMPLETE}
    rates = np.array([c.optimizer.learning_rate for c in wanted.values()])
    decays = np.array([c.optimizer.weight_decay for c in wanted.values()])
    assert len(set(rates)) == len(set(decays)) == 40
    assert min(rates) >= 1e-5
    assert max(rates) <= 2e-3
    # By powers of ten the median is the geometric mean of the ends, 1.4e-4; by plain numbers it were 1e-3, 0.85 decades
    # away. The median of 40 uniform draws has a standard error of range / (2 * sqrt(40)): 0.18 decades, and 0.016.
    assert abs(np.log10(np.median(rates)) - np.log10(np.sqrt(1e-5 * 2e-3))) < 0.5
    assert abs(np.median(decays) - 0.1) < 0.05
    assert {c.data.batch_size for c in wanted.values()} == {4, 8}
    assert {tuple(c.model.block_sizes) for c in wanted.values()} == {(1, 1), (1, 2)}
    # Nothing goes with anything else.
    assert abs(np.corrcoef(np.log(rates), decays)[0, 1]) < 0.4


def test_what_is_written(asked, formula, tmp_path):
    out = tmp_path / "s"
    configs = {}

    def before(name, epoch, config):
        configs[name] = config
        if name == "0002" and epoch == 3:
            raise InputError("optimizer: the loss is not a number at step 7")
        if name == "0004":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\nwhile allocating")

    formula.before = before
    found = go(asked(trials=6), out)
    rows = read_csv(out)
    assert list(rows[0]) == ["trial", "state", "roc_auc", "epoch", "epochs", "seconds", *SPACE, "line"]
    assert [r["trial"] for r in rows] == [f"{n:04d}" for n in range(6)]
    assert [r["state"] for r in rows] == ["finished", "finished", "failed", "finished", "failed", "finished"]
    assert rows[2]["line"] == "optimizer: the loss is not a number at step 7"
    assert rows[4]["line"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert rows[4]["roc_auc"] == rows[4]["epoch"] == rows[4]["epochs"] == ""
    assert (rows[2]["epoch"], rows[2]["epochs"]) == ("2", "2")
    assert "while allocating" in "".join(json.loads((out / "jobs/0004/failure.json").read_text())["traceback"])
    for row in rows:
        config = configs[row["trial"]]
        assert float(row["optimizer.learning_rate"]) == config.optimizer.learning_rate
        assert ast.literal_eval(row["model.block_sizes"]) == tuple(config.model.block_sizes)
        if row["state"] == "finished":
            # The formula is highest in the middle of six epochs.
            assert (row["epoch"], row["epochs"], row["line"]) == ("3", "6", "")
            assert float(row["roc_auc"]) == curve(config, 3)
            assert float(row["seconds"]) >= 0
    first = max((r for r in rows if r["state"] == "finished"), key=lambda r: float(r["roc_auc"]))
    best = json.loads((out / "best.json").read_text())
    assert (best["trial"], best["folder"]) == (first["trial"], f"trials/{first['trial']}")
    assert (best["validation"], best["epoch"], best["metric"]) == (float(first["roc_auc"]), 3, "roc_auc")
    assert best["trials"] == {"finished": 4, "failed": 2}
    assert "optimistic" in best["note"]
    # What is said there makes the run again.
    again = configuration.read(best["config"], best["overrides"])
    assert again.to_dict() == configs[first["trial"]].to_dict()
    table = search_results.top(found)
    assert table.rows[0][0] == first["trial"]
    assert len(table.rows) == 4
    rate, decay = (float(f"{float(first[k]):.3g}") for k in list(SPACE)[:2])
    blocks, size = first["model.block_sizes"], first["data.batch_size"]
    assert table.rows[0][2:] == (
        "3",
        f"optimizer.learning_rate={rate:.3g}  optimizer.weight_decay={decay:.3g}  data.batch_size={size}  "
        f"model.block_sizes={blocks}",
    )
    assert "Of 6 trials: 4 finished, 2 failed." in table.notes
    assert search_results.importance(found) is None  # of four trials nothing is said


def test_less_is_better_where_the_metric_is_an_error(asked, formula, tmp_path):
    overrides = ("task.kind=regression", "task.target=age", "task.classes=()", "task.ignore=()")
    found = go(asked(trials=3, overrides=(*asked().overrides, *overrides)), tmp_path / "s")
    rows = read_csv(tmp_path / "s")
    assert "mae" in rows[0]
    # The ends of the formula are its lowest.
    assert {r["epoch"] for r in rows} == {"6"}
    lowest = min(rows, key=lambda r: float(r["mae"]))["trial"]
    assert json.loads((tmp_path / "s" / "best.json").read_text())["trial"] == lowest
    assert search_results.ranking(found)[0].number == int(lowest)


def test_a_key_that_matters_has_the_larger_share(asked, formula, tmp_path):
    # Of the formula's variance the decay has (0.1 * 0.2)^2 / 12 = 3.3e-5, the rate 0.2^2 times the variance of the
    # distance to its best, 0.16 decades^2: 0.995 of both.
    found = go(asked(trials=19), tmp_path / "s")
    assert search_results.importance(found) is None
    found = go(asked(trials=40), tmp_path / "s")
    shares = found.shares()
    assert shares["optimizer.learning_rate"] > 0.9
    assert sum(shares.values()) == pytest.approx(1)
    rows = search_results.importance(found).rows
    assert rows[0] == ("optimizer.learning_rate", f"{shares['optimizer.learning_rate']:.2f}")


# ---- stopped and gone on with -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", search_spec.METHODS)
def test_a_search_stopped_anywhere_goes_on_as_if_unbroken(asked, formula, tmp_path, method):
    wanted = asked(trials=22, method=method)
    whole = facts(go(wanted, tmp_path / "whole"))
    once, formula.log = formula.log, []
    count = itertools.count(1)

    def stops(name, epoch, config):
        if next(count) % 9 == 0:
            raise KeyboardInterrupt

    formula.before = stops
    stopped = 0
    while True:
        try:
            found = go(wanted, tmp_path / "parts")
            break
        except KeyboardInterrupt:
            stopped += 1
    assert 5 < stopped < 40
    assert facts(found) == whole
    # No epoch was trained twice: trials went on where they were.
    assert formula.log == once
    before = len(formula.log)
    assert facts(go(wanted, tmp_path / "parts")) == whole
    assert len(formula.log) == before


def test_a_verdict_that_its_process_did_not_live_to_carry_out(asked, formula, monkeypatch, tmp_path):
    wanted = asked(trials=22, method="pruned")
    whole = facts(go(wanted, tmp_path / "whole"))
    first = next(number for number, state, *_ in whole if state == TrialState.PRUNED)
    end = trials.Trials.end

    def killed(self, number, *, pruned=False):
        if pruned and number == first:
            raise KeyboardInterrupt
        end(self, number, pruned=pruned)

    with monkeypatch.context() as m:
        m.setattr(trials.Trials, "end", killed)
        with pytest.raises(KeyboardInterrupt):
            go(wanted, tmp_path / "killed")
    assert facts(go(wanted, tmp_path / "killed")) == whole


def test_more_trials_may_be_asked_for_later(asked, formula, tmp_path):
    go(asked(trials=3), tmp_path / "s")
    more = facts(go(asked(trials=5), tmp_path / "s"))
    assert more == facts(go(asked(trials=5), tmp_path / "at-once"))
    assert len(go(asked(trials=2), tmp_path / "s").all()) == 5


def test_other_seeds_draw_other_trials(asked, formula, tmp_path):
    one, other = (go(asked(trials=4, seed=s), tmp_path / str(s)) for s in (0, 1))
    assert not {t.params["optimizer.learning_rate"] for t in one.all()} & {
        t.params["optimizer.learning_rate"] for t in other.all()
    }


def test_a_signal_between_two_trials_ends_the_search(asked, formula, tmp_path):
    stop = stopping.Stop()

    def told(name, epoch, config):
        if (name, epoch) == ("0001", 6):
            stop.signal = signal.SIGTERM

    formula.before = told
    with pytest.raises(Preempted, match="with 2 of 8 trials ended; the same command goes on"):
        go(asked(), tmp_path / "s", stop)
    # One that comes during the last trial has nothing left to stop.
    formula.before = told
    stop.signal = 0
    assert len(go(asked(trials=2), tmp_path / "t", stop).all()) == 2


# ---- stopped by the method --------------------------------------------------------------------------------------


def test_poor_trials_are_stopped_and_good_ones_drawn_more_often(asked, formula, tmp_path):
    found = go(asked(trials=40, method="pruned"), tmp_path / "s")
    states = [t.state for t in found.all()]
    # Nothing is stopped before five came to their end, nor before a third of the epochs; the first ten are chance.
    assert states[:5] == [TrialState.COMPLETE] * 5
    pruned = [t for t in found.all() if t.state == TrialState.PRUNED]
    assert len(pruned) >= 8
    for t in pruned:
        assert 2 <= t.last_step < 6
        others = [
            o.intermediate_values[t.last_step]
            for o in found.all()[: t.number]
            if o.state == TrialState.COMPLETE
        ]  # fmt: skip
        assert max(t.intermediate_values.values()) < np.median(others)
    # The formula is best at 3e-4. Chance is 0.62 decades away on the mean: (1.48^2 + 0.82^2) / (2 * 2.3).
    miss = [abs(math.log10(t.params["optimizer.learning_rate"] / 3e-4)) for t in found.all()]
    assert np.mean(miss[20:]) < 0.5
    assert {r["state"] for r in read_csv(tmp_path / "s")} == {"finished", "pruned"}
    assert search_results.ranking(found)[0].state == TrialState.COMPLETE


# ---- failures ---------------------------------------------------------------------------------------------------


def test_a_machine_that_is_out_of_order_does_not_use_up_all_trials(asked, formula, tmp_path):
    broken = True

    def before(name, epoch, config):
        if broken and int(name) > 2:
            raise RuntimeError("no device")

    formula.before = before
    with pytest.raises(InputError, match="5 trials failed one after the other, the last with: RuntimeError: no device"):
        go(asked(trials=20), tmp_path / "s")
    assert [r["state"] for r in read_csv(tmp_path / "s")] == ["finished"] * 3 + ["failed"] * 5
    broken = False
    go(asked(trials=10), tmp_path / "s")
    assert [r["state"] for r in read_csv(tmp_path / "s")] == ["finished"] * 3 + ["failed"] * 5 + ["finished"] * 2


def test_a_full_disk_stops_the_search_and_fails_no_trial(asked, formula, tmp_path):
    def full(name, epoch, config):
        if (name, epoch) == ("0001", 4):
            raise OSError(28, "No space left on device")

    formula.before = full
    with pytest.raises(OSError, match="No space left"):
        go(asked(trials=3), tmp_path / "s")
    formula.before = lambda name, epoch, config: None
    assert facts(go(asked(trials=3), tmp_path / "s")) == facts(go(asked(trials=3), tmp_path / "whole"))


def test_no_value_at_all_is_a_failure(asked, formula, tmp_path):
    formula.curve = lambda config, epoch: math.nan
    go(asked(trials=2), tmp_path / "s")
    rows = read_csv(tmp_path / "s")
    assert [r["line"] for r in rows] == ["found no validation value that is a number; expected one"] * 2
    assert not (tmp_path / "s" / "best.json").exists()


def test_a_line_that_a_full_disk_cut_short_is_mended_a_damaged_one_told(asked, formula, tmp_path):
    out = tmp_path / "s"
    whole = facts(go(asked(trials=3), out))
    file = out / trials.JOURNAL
    text = file.read_bytes()
    file.write_bytes(text + b'{"op_code":7,"worker')
    assert facts(search.begin(asked(trials=3), out)) == whole
    assert file.read_bytes() == text
    lines = text.splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"\x00\x00\n", *lines[2:]]))
    with pytest.raises(InputError, match=r"journal\.jsonl: is damaged.*take the damaged line out"):
        search.begin(asked(trials=3), out)


# ---- folders ----------------------------------------------------------------------------------------------------


def test_another_search_in_the_folder_is_refused_by_key(asked, formula, boxes, tmp_path):
    out = tmp_path / "s"
    go(asked(trials=1), out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"}
    space = SPACE | {"optimizer.weight_decay": Uniform(0.0, 0.3)}
    fewer = {k: v for k, v in SPACE.items() if k != "data.batch_size"}
    for changes, line in (
        ({"space": space}, r"\(space\.optimizer\.weight_decay\.high: 0\.2 there, 0\.3 here\); expected the same"),
        ({"space": fewer}, r"space\.data\.batch_size\.kind: 'Choice' there, None here"),
        ({"method": "pruned"}, "method: 'random' there, 'pruned' here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"overrides": (*asked().overrides, "training.patience=3")}, "training.patience: 30 there, 3 here"),
    ):
        with pytest.raises(InputError, match=line):
            search.begin(asked(**changes), out)
    with pytest.raises(InputError, match="seed: 0 there, 1 here"):
        search.there(asked(seed=1), out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != ".lock"} == before
    # Other people, whatever their folder; the same ones elsewhere are welcome.
    others = write_dataset(tmp_path / "others", box_scans(), seed=1)
    with pytest.raises(InputError, match=r"dataset\.splits_sha256"):
        search.begin(asked(overrides=(*asked().overrides[:-1], f"data.path={others}")), out)
    moved = write_dataset(tmp_path / "moved", box_scans())
    go(asked(trials=2, overrides=(*asked().overrides[:-1], f"data.path={moved}")), out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"holds files but no search\.json"):
        search.begin(asked(), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_two_processes_share_the_trials(asked, formula, tmp_path):
    out, wanted = tmp_path / "s", asked(trials=12)
    both, errors = threading.Barrier(2, timeout=30), []

    def together(name, epoch, config):
        if int(name) < 2 and epoch == 1:
            both.wait()  # passes only while two trials go on at once

    formula.before = together

    def work():
        try:
            go(wanted, out)
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not errors
    assert sorted(formula.log) == [(f"{n:04d}", e) for n in range(12) for e in range(1, 7)]
    # Chance asks nobody: the same trials as by one process.
    found = search.begin(wanted, out)
    formula.before = lambda name, epoch, config: None
    assert facts(found) == facts(go(wanted, tmp_path / "alone"))
    assert len(read_csv(out)) == 12


def test_a_trial_that_another_process_does_is_left_to_it_and_listed(asked, formula, tmp_path):
    out, wanted = tmp_path / "s", asked(trials=3)
    assert search.there(wanted, out) is None

    def stops(name, epoch, config):
        if name == "0001":
            raise KeyboardInterrupt

    formula.before = stops
    with pytest.raises(KeyboardInterrupt):
        go(wanted, out)
    formula.before = lambda name, epoch, config: None
    found = search.there(wanted, out)
    assert [(r[0], r[1]) for r in search_results.listing(found).rows] == [("0000", "finished"), ("0001", "stopped")]
    with lock.hold(out / "jobs" / "0001"):
        assert search.run(found, stopping.Stop()) == ["0001"]
        assert [r[1] for r in search_results.listing(found).rows] == ["finished", "running", "finished"]
    # Nor is a run that somebody trains by hand waited for.
    with lock.hold(out / "trials" / "0001"):
        assert search.run(found, stopping.Stop()) == ["0001"]
    assert search.run(found, stopping.Stop()) == []
    assert [r["state"] for r in read_csv(out)] == ["finished"] * 3


# ---- as a user types it -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_search_by_the_command_line(boxes, tmp_path, capsys, monkeypatch):
    out = tmp_path / "s"
    command = ["search", "--config", str(CONFIGS / "search_tiny.py"), "--data", str(boxes), "--out", str(out)]
    real, calls = loop.evaluate_fold, []

    def stopped(*args, **keywords):
        calls.append(args[4])
        if len(calls) == 9:  # three epochs into the second trial
            raise KeyboardInterrupt
        return real(*args, **keywords)

    monkeypatch.setattr(loop, "evaluate_fold", stopped)
    assert cli.main([*command, "--trials", "3"]) == 130
    assert cli.main([*command, "--trials", "3", "--list"]) == 0
    assert "stopped" in capsys.readouterr().err
    assert cli.main([*command, "--trials", "3"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    assert "resuming at step" in said
    assert "optimistic" in " ".join(said.split())
    # Validation alone was looked at: six epochs of three trials, and the one that the stop came in.
    assert calls == ["validation"] * 19
    rows = read_csv(out)
    assert [r["state"] for r in rows] == ["finished"] * 3
    best = json.loads((out / "best.json").read_text())
    for row in rows:
        lines = [json.loads(x) for x in (out / "trials" / row["trial"] / "metrics.jsonl").read_text().splitlines()]
        scores = {round(x["epoch"]): x["validation/roc_auc"] for x in lines if "validation/roc_auc" in x}
        assert list(scores) == [1, 2, 3, 4, 5, 6]
        assert float(row["roc_auc"]) == max(scores.values()) == scores[int(row["epoch"])]
    assert best["validation"] == max(float(r["roc_auc"]) for r in rows)
    # The best is trained anew, with another seed, and tested, by what is said.
    run = tmp_path / "anew"
    again = ["train", "--config", best["config"], "--workdir", str(run), *best["overrides"], "--config.seed=1"]
    assert cli.main([*again, "--config.training.epochs=1"]) == 0
    assert cli.main(["search", "--config", str(CONFIGS / "smoke.py"), "--out", str(out)]) == 1
    assert "expected a file whose get_config() returns a Search" in capsys.readouterr().err


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    for module in (search, search_results, trials):
        monkeypatch.delitem(sys.modules, module.__name__)
        monkeypatch.delattr(module.__name__)
    for name in [n for n in sys.modules if n.split(".")[0] == "optuna"]:
        monkeypatch.delitem(sys.modules, name)

    class Gone:
        """Find no optuna, as where it is not installed."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "optuna":
                raise ModuleNotFoundError("No module named 'optuna'", name="optuna")

    monkeypatch.setattr(sys, "meta_path", [Gone, *sys.meta_path])
    assert cli.main(["search", "--config", str(CONFIGS / "search_tiny.py"), "--out", str(tmp_path / "s")]) == 1
    assert "pip install 'jaxneuro[search]'" in capsys.readouterr().err
