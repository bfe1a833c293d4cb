"""Jobs are done once, in order, whoever comes and goes; no job here trains: what each leaves is written by hand."""

import dataclasses
import json
import threading

import pytest

from jaxneuro import cli, lock
from jaxneuro.errors import InputError, Preempted
from jaxneuro.study import costs, plan, progress, work
from jaxneuro.study.plan import Data, Job, Run, Training
from jaxneuro.study.spec import Sheet
from tests.study.studies import fake, small, write_config, write_probe

NAMES = [
    "data/people", "data/outside", "pretraining/sex",
    "runs/ad/scratch/1/seed-0", "runs/ad/sex/1/seed-0", "runs/age/scratch/1/seed-0", "runs/age/sex/1/seed-0",
    "runs/ad/scratch/1/seed-1", "runs/ad/sex/1/seed-1", "runs/age/scratch/1/seed-1", "runs/age/sex/1/seed-1",
]  # fmt: skip


@pytest.fixture
def done(monkeypatch):
    """Let jobs leave what they leave, without work; returns the names of those done, in order."""
    names = []
    lists = threading.Lock()

    def do(job, means):
        with lists:
            names.append(job.name)
        fake(job)

    for kind in (Data, Training, Run):
        monkeypatch.setitem(work.DO, kind, do)
    return names


def fails_at(monkeypatch, name, error):
    """Let one job raise before it leaves anything."""
    for kind, do in list(work.DO.items()):

        def instead(job, means, do=do):
            if job.name == name:
                raise error
            do(job, means)

        monkeypatch.setitem(work.DO, kind, instead)


def go(out, chosen=None):
    return work.work(chosen or plan.jobs(small(), out), out, work.Means(), poll=0.01)


def snapshot(folder):
    """Return bytes and time of change of every file."""
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", costs.FILE))
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in kept}


def test_every_job_is_done_once_in_order(done, tmp_path):
    outcome = go(tmp_path)
    assert done == outcome.done == NAMES
    assert outcome.failed == {}
    before = snapshot(tmp_path)
    assert go(tmp_path) == work.Outcome()
    assert done == NAMES
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt("at step 3"), Preempted("at step 3")], ids=type)
def test_a_stopped_study_goes_on(done, monkeypatch, tmp_path, error):
    with monkeypatch.context() as m:
        fails_at(m, NAMES[4], error)
        with pytest.raises(type(error), match="at step 3"):
            go(tmp_path)
    assert done == NAMES[:4]
    before = snapshot(tmp_path)
    assert not any(p.name == "failure.json" for p in before)
    go(tmp_path)
    assert done == NAMES
    after = snapshot(tmp_path)
    assert {p: after[p] for p in before} == before
    # Time that came to nothing is time, too.
    assert [len(costs.read(tmp_path / "jobs" / name)) for name in NAMES] == [2 if n == NAMES[4] else 1 for n in NAMES]


def test_a_failed_job_is_told_and_those_that_need_it_are_not_tried(done, monkeypatch, tmp_path):
    with monkeypatch.context() as m:
        fails_at(m, "pretraining/sex", InputError("data.batch_size: found 64"))
        outcome = go(tmp_path)
    with_it = [name for name in NAMES if "/sex/" in name]
    assert done == [name for name in NAMES if name not in ("pretraining/sex", *with_it)]
    told = {"pretraining/sex": "data.batch_size: found 64"}
    assert outcome.failed == told | dict.fromkeys(with_it, "needs pretraining/sex, which failed")
    left = json.loads((tmp_path / "jobs/pretraining/sex/failure.json").read_text())
    assert left["error"] == "data.batch_size: found 64"
    assert "traceback" not in left
    # The same call tries it again, and takes the failure back.
    outcome = go(tmp_path)
    assert outcome.done == ["pretraining/sex", *with_it]
    assert not (tmp_path / "jobs/pretraining/sex/failure.json").exists()


def test_an_error_that_nobody_foresaw_keeps_its_traceback(done, monkeypatch, tmp_path):
    fails_at(monkeypatch, NAMES[3], ZeroDivisionError("of nothing\nby nothing"))
    outcome = go(tmp_path)
    assert outcome.failed == {NAMES[3]: "ZeroDivisionError: of nothing"}
    left = json.loads((tmp_path / "jobs" / NAMES[3] / "failure.json").read_text())
    assert "fails_at" in "".join(left["traceback"]) or "instead" in "".join(left["traceback"])
    assert len(done) == len(NAMES) - 1


def test_a_full_disk_ends_the_work(done, monkeypatch, tmp_path):
    fails_at(monkeypatch, NAMES[3], OSError(28, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        go(tmp_path)
    assert done == NAMES[:3]


def test_several_workers_do_every_job_once(done, tmp_path):
    outcomes = []
    workers = [threading.Thread(target=lambda: outcomes.append(go(tmp_path))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(done) == sorted(NAMES)
    assert sorted(name for outcome in outcomes for name in outcome.done) == sorted(NAMES)
    assert all(not outcome.failed for outcome in outcomes)


def test_what_needs_a_job_of_another_waits_for_it(done, tmp_path):
    out, name = tmp_path, "pretraining/sex"
    free = [n for n in NAMES if "/sex" not in n]
    outcome = []
    with lock.hold(out / "jobs" / name):
        worker = threading.Thread(target=lambda: outcome.append(go(out)))
        worker.start()
        while len(done) < len(free):
            worker.join(0.01)
        worker.join(0.1)
        assert worker.is_alive()  # runs that begin with it are left, and it is in progress
        assert done == free
        fake(next(job for job in plan.jobs(small(), out) if job.name == name))
    worker.join()
    assert sorted(done) == sorted(n for n in NAMES if n != name)
    assert outcome[0].others == []


def test_a_dead_workers_job_is_taken_over(done, tmp_path):
    with lock.hold(tmp_path / "jobs" / NAMES[0]):
        pass  # as the kernel does when a process ends
    go(tmp_path)
    assert done == NAMES


def test_a_worker_leaves_when_others_do_all_that_is_left(done, tmp_path):
    with lock.hold(tmp_path / "jobs" / NAMES[-1]), lock.hold(tmp_path / "jobs" / NAMES[-2]):
        outcome = go(tmp_path)
    assert outcome.done == NAMES[:-2]
    assert outcome.others == NAMES[-2:]


def test_what_fails_at_another_worker_meanwhile_is_not_tried_again(done, monkeypatch, tmp_path):
    board, some = progress.Board(tmp_path), plan.jobs(small(), tmp_path)
    board.fail(some[3], InputError("before this call"))  # tried again

    def do(job, means):
        done.append(job.name)
        fake(job)
        if job.name == NAMES[0]:
            board.fail(some[4], InputError("since"))

    monkeypatch.setitem(work.DO, Data, do)
    outcome = go(tmp_path)
    assert outcome.failed == {NAMES[4]: "since"}
    assert done == [name for name in NAMES if name != NAMES[4]]


def test_a_run_of_other_settings_is_refused_before_anything_runs(done, tmp_path):
    some = plan.jobs(small(), tmp_path)
    fake(some[-1])
    other = plan.jobs(small(fractions={1.0: ("training.epochs=3",)}), tmp_path)
    told = r"seed-1: was made by another config \(training.epochs: 30 there, 3 here\); .*; choose another --out$"
    with pytest.raises(InputError, match=told):
        go(tmp_path, other)
    assert done == []
    # Begun and not finished: the same.
    begun = next(job for job in some if job.name == NAMES[3])
    write_config(begun)
    with pytest.raises(InputError, match=r"training.epochs: 30 there, 3 here"):
        go(tmp_path, [job for job in other if job.name in (*begun.needs, begun.name)])


def test_another_cohort_is_refused(done, tmp_path):
    some = plan.jobs(small(), tmp_path)
    some[0].folder.mkdir(parents=True)
    (some[0].folder / "asked.json").write_text(json.dumps(progress.asked(some[0].dataset)))
    progress.check(some[0])
    larger = dataclasses.replace(some[0].dataset, cohort={"subjects": 50})
    told = r"holds another cohort \(cohort.subjects: 40 there, 50 here\); expected the same; choose another --out"
    with pytest.raises(InputError, match=told):
        progress.check(dataclasses.replace(some[0], dataset=larger))


def test_a_dataset_that_was_made_anew_is_refused(done, tmp_path):
    some = plan.jobs(small(), tmp_path)
    for job in some[:4]:
        fake(job)
    card = {"manifest_sha256": "a", "splits_sha256": "a"}
    (some[3].folder / "run.json").write_text(json.dumps({"dataset": card}))
    progress.check(some[3])
    (some[3].folder / "run.json").write_text(json.dumps({"dataset": {**card, "splits_sha256": "c"}}))
    with pytest.raises(InputError, match="was made with another dataset"):
        progress.check(some[3])


def test_states_are_told(tmp_path):
    some = plan.jobs(small(), tmp_path)
    known = {job.name: job for job in some}
    board = progress.Board(tmp_path)
    fake(some[0])
    fake(some[1])
    board.fail(some[3], InputError("x: found 1; expected 2"))
    write_config(some[5])
    with lock.hold(board.folder(some[2])):
        states = {job.name: board.state(job, known) for job in some[:6]}
        table = progress.listing(some, tmp_path)
    assert states["data/people"] == ("finished", "")
    assert states["pretraining/sex"][0] == "running"
    assert states["pretraining/sex"][1].startswith("process ")
    assert states["runs/ad/scratch/1/seed-0"] == ("failed", "x: found 1; expected 2")
    assert states["runs/ad/sex/1/seed-0"] == ("waits", "for pretraining/sex")
    assert states["runs/age/scratch/1/seed-0"] == ("ready", "begun")
    assert table.notes == ("11 jobs: 2 finished, 1 running, 1 failed, 3 ready, 4 waits.",)


def test_a_run_of_a_sheet_of_probes_is_finished_when_it_was_probed(monkeypatch, tmp_path):
    sheets = {"probe": Sheet(title="Probe", kind="probe", tasks=("ad",), rows=("scratch",))}
    job = next(job for job in plan.jobs(small(sheets=sheets), tmp_path) if isinstance(job, Run))
    done = []

    def probe(run, config, out, resamples):
        done.append((run, config.task.target, config.seed, config.data.path, out, resamples))
        write_probe(job, [1, 1], 0.5, 0.5)

    monkeypatch.setattr(work.loop, "train", lambda config, folder: None)
    monkeypatch.setattr(work.evaluate, "evaluate", lambda run, **keywords: done.append(keywords["out"].name))
    monkeypatch.setattr(work.probe, "probe", probe)
    write_config(job)
    for folder, _ in progress.evaluations(job).values():
        folder.mkdir()
        (folder / "metrics.json").write_text("{}")
    # As of a study whose file had no such sheet when it ran: what is there is not made again.
    assert not progress.finished(job)
    work.DO[Run](job, work.Means(resamples=7))
    shards = str(tmp_path / "data/people/shards")
    assert done == [(job.folder, "site", 0, shards, job.folder / "probe-site", 7)]
    assert progress.finished(job)
    work.DO[Run](job, work.Means(resamples=7))
    assert len(done) == 1


def test_missing_data_are_told_before_anything_runs(done, tmp_path):
    job = Job(name="x", folder=tmp_path / "x", outside=((tmp_path / "no", "--data adni"),))
    with pytest.raises(InputError, match=f"--data adni: found no folder '{tmp_path / 'no'}'; expected one that"):
        go(tmp_path, [*plan.jobs(small(), tmp_path), job])
    assert done == []


def test_the_command_tells_failures_by_its_exit_status(done, monkeypatch, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("from tests.study.studies import small\ndef get_config():\n    return small()\n")
    monkeypatch.setattr("jaxneuro.study.publish.write", lambda study, out, source: [])
    command = ["study", "--config", str(tmp_path / "mine.py"), "--out", str(tmp_path / "s")]
    assert cli.main([*command, "--list"]) == 0
    assert "11 jobs: 2 ready, 9 waits." in capsys.readouterr().out
    assert cli.main([*command, "--job", "runs/age/scratch/1/seed-1"]) == 0
    assert done == ["data/people", "runs/age/scratch/1/seed-1"]
    with monkeypatch.context() as m:
        fails_at(m, NAMES[3], InputError("x: found 1; expected 2"))
        assert cli.main(command) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: 1 of 11 jobs failed, the first {NAMES[3]}: x: found 1; expected 2; ")
    assert cli.main([*command, "--jobs", "1/2"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*command, "--jobs", "3/2"])
    assert "expected I/N such as 1/8" in capsys.readouterr().err
