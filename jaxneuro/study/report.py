"""One self-contained HTML page from evaluated runs: what they scored, on whom, and how it was computed."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxneuro import pages, records
from jaxneuro.errors import InputError
from jaxneuro.study import detail_tables, run_tables, tables
from jaxneuro.study.figures import learning
from jaxneuro.study.figures import runs as drawings_of
from jaxneuro.study.figures.style import Drawing
from jaxneuro.study.tables import Fold, Table

TEMPLATE = Path(__file__).with_name("report.html.jinja")
COLUMNS = ("fold", "subject", "site", "age", "sex", "target", "prediction")


def write(out: Path, runs: Sequence[Path], *, title: str, notes: Sequence[str] = ()) -> Path:
    """Write the report of evaluated runs and return the path of the page.

    `out` is an .html file, or a folder in which `report.html` is written. Each run is a training workdir that
    holds an `evaluation` folder. The same inputs give the same bytes. Raises InputError when there is no
    run, when one was not evaluated, or when a file cannot be read as what it should be.
    """
    if not runs:
        raise InputError("found no run; expected at least one workdir that holds an evaluation folder")
    if twice := [run for i, run in enumerate(runs) if Path(run).resolve() in {Path(r).resolve() for r in runs[:i]}]:
        raise InputError(f"{twice[0]}: found it twice; expected each run once")
    out = Path(out)
    path = out if out.suffix in (".html", ".htm") else out / "report.html"
    gathered = [gather(Path(run)) for run in runs]
    named = list(zip(_names([Path(run) for run in runs]), gathered, strict=True))
    page = {
        "title": title,
        "notes": list(notes),
        "date": max(str(run["metrics"].get("created") or "") for run in gathered)[:10] or "date not recorded",
        "synthetic": synthetic_datasets(gathered),
        "summary": tables.summary_of_runs([(name, run["metrics"]) for name, run in named]),
        "runs": [_section(f"run-{index}", name, run) for index, (name, run) in enumerate(named, start=1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(pages.render(TEMPLATE, **page), encoding="utf-8")
    return path


def _names(runs: Sequence[Path]) -> list[str]:
    """Name runs by their folder, with as many parents as it takes to tell them apart."""
    parts = [run.resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run) for run in runs]


def gather(workdir: Path) -> dict[str, Any]:
    """Read all that one run left: metrics, predictions, log, config, and its dataset's card and failures.

    Optional files that are missing are None. Raises InputError when there is no such run, or it was not evaluated.
    """
    evaluation = workdir / "evaluation"
    if not workdir.is_dir():
        raise InputError(f"{workdir}: no such folder; expected that of a training run")
    for name in ("metrics.json", "predictions.csv"):
        if not (evaluation / name).is_file():
            raise InputError(
                f"{workdir}: found no evaluation/{name}; expected a tested run; run jaxneuro evaluate {workdir} "
                "first (a pre-training without a target has nothing to report: jaxneuro probe)"
            )
    keys = ("task", "model", "interval", "folds", "data")
    again = f"what evaluation writes; run `jaxneuro evaluate {workdir}` again"
    metrics = records.read_json(evaluation / "metrics.json", keys, expected=again)
    folds, dropped = read_predictions(evaluation / "predictions.csv")
    log, unreadable = read_log(workdir / "metrics.jsonl")
    dataset = Path(metrics["data"].get("path") or "")
    card, failures = dataset / "card.json", dataset / "failures.csv"
    checks = _checks(metrics, folds, card)
    if dropped:
        checks.append(f"Rows of predictions.csv without a finite target or prediction, not drawn: {dropped}.")
    if unreadable:
        checks.append(f"Lines of metrics.jsonl that are not JSON, skipped: {unreadable}.")
    return {
        "metrics": metrics,
        "folds": folds,
        "log": log,
        "config": _read_optional(workdir / "config.json", "the config of a run"),
        "card": _read_optional(card, "the card of a dataset"),
        "failures": _read_rows(failures) if failures.is_file() else None,
        "checks": checks,
        "hashes": {"predictions.csv, SHA-256": records.file_sha256(evaluation / "predictions.csv")},
    }


def _read_optional(path: Path, expected: str) -> dict[str, Any] | None:
    return records.read_json(path, expected=expected) if path.is_file() else None


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def read_predictions(path: Path) -> tuple[dict[str, Fold], int]:
    """Read predictions.csv as fold -> column -> array [scans], and the count of rows without finite numbers.

    `target` and `prediction` are float64, the rest text. Raises InputError on a missing column or a
    cell that is not a number, naming the row.
    """
    rows: list[dict[str, Any]] = _read_rows(path)
    missing = [name for name in COLUMNS if rows and name not in rows[0]]
    if missing:
        found = ", ".join(map(str, rows[0]))
        raise InputError(f"{path}: found the columns {found}; expected {', '.join(missing)} too")
    folds: dict[str, list[dict[str, Any]]] = {}
    dropped = 0
    for line, row in enumerate(rows, start=2):
        for name in ("target", "prediction"):
            try:
                row[name] = float("nan" if row[name] in (None, "", "n/a") else row[name])
            except ValueError as error:
                raise InputError(f"{path} line {line}: found {name} {row[name]!r}; expected a number") from error
        if np.isfinite([row["target"], row["prediction"]]).all():
            folds.setdefault(row["fold"], []).append(row)
        else:
            dropped += 1
    return {
        fold: {name: np.array([row[name] for row in kept]) for name in COLUMNS} for fold, kept in folds.items()
    }, dropped


def read_log(path: Path) -> tuple[list[dict[str, Any]] | None, int]:
    """Read metrics.jsonl as a list of lines, None when it is missing, and the count of unreadable lines."""
    if not path.is_file():
        return None, 0
    lines, unreadable = [], 0
    for text in path.read_text(encoding="utf-8").splitlines():
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:  # a run that was killed while it wrote leaves half a line
            line = None
        if isinstance(line, dict):
            lines.append(line)
        else:
            unreadable += 1
    return lines, unreadable


def _checks(metrics: Mapping[str, Any], folds: Mapping[str, Fold], card: Path) -> list[str]:
    """Say where the files of a run contradict each other."""
    said = []
    for fold in tables.fold_order(set(folds) | set(metrics["folds"])):
        scans = metrics["folds"].get(fold, {}).get("scans", 0)
        found = len(folds[fold]["target"]) if fold in folds else 0
        if scans != found:
            said.append(
                f"metrics.json counts {scans:,} scans of {tables.fold_name(fold)} and predictions.csv holds "
                f"{found:,} usable rows: they may come from different evaluations."
            )
    recorded = metrics["data"].get("card_sha256")
    if recorded and card.is_file() and records.file_sha256(card) != recorded:
        said.append("The dataset's card.json has changed since this evaluation: its facts may not apply.")
    return said


def synthetic_datasets(gathered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the datasets that call themselves synthetic, each once."""
    names = [
        str(run["metrics"]["data"].get("name") or run["metrics"]["data"].get("path") or "unnamed")
        for run in gathered
        if run_tables.is_synthetic(run["metrics"]["data"], run["card"])
    ]
    return list(dict.fromkeys(names))


def _section(key: str, name: str, run: Mapping[str, Any]) -> dict[str, Any]:
    """Draw and tabulate what the page says of one run."""
    metrics, folds, card = run["metrics"], run["folds"], run["card"]
    task, data = metrics["task"], metrics["data"]
    parameters = metrics["model"].get("parameters")
    steps = data.get("recipe") or (card or {}).get("recipe")
    result_tables = [run_tables.all_metrics(metrics), run_tables.who(metrics, folds)]
    if task["kind"] == "binary" and folds:
        result_tables.insert(1, run_tables.confusion(metrics, folds))
    details = detail_tables.every(metrics)
    if not detail_tables.groups(metrics) and (by_site := run_tables.sites(metrics, folds)).rows:
        details.append(tables.cut(by_site, rest="predictions.csv"))  # of an evaluation by an older version
    result_tables += [tables.cut(table, rest="metrics.json") for table in details]
    hashes = {
        "Dataset card, SHA-256": data.get("card_sha256"),
        "Manifest, SHA-256": (card or {}).get("manifest_sha256"),
        "Recipe fingerprint": data.get("recipe_fingerprint"),
        **run["hashes"],
    }
    return {
        "id": key,
        "name": name,
        "what": f"Task {task['name']}: {_question(task)}. "
        f"Model {metrics['model']['name']}{f', {parameters:,} parameters' if parameters else ''}.",
        "checks": run["checks"],
        "drawings": [{"svg": Markup(drawn.svg), "caption": drawn.caption} for drawn in _drawings(key, run)],
        "results": result_tables,
        "data": [table for table in (run_tables.dataset(data, card), run_tables.recipe(steps)) if table.rows],
        "losses": _losses(run),
        "gaps": _gaps(run, steps),
        "how": how(metrics, folds),
        "config": run["config"] and json.dumps(run["config"], indent=2, ensure_ascii=False),
        "versions": run_tables.versions(metrics, hashes),
    }


def _question(task: Mapping[str, Any]) -> str:
    """Say in words what a task predicts."""
    classes = task.get("classes") or ["0", "1"]
    if task["kind"] == "binary":
        return f"{classes[1]} against {classes[0]} (target: {task['target']})"
    if task["kind"] == "multiclass":
        return f"which of {', '.join(classes)} (target: {task['target']})"
    return f"{task['target']} in {task['unit']}" if task.get("unit") else str(task["target"])


def _drawings(key: str, run: Mapping[str, Any]) -> list[Drawing]:
    metrics, folds = run["metrics"], run["folds"]
    kind = metrics["task"]["kind"]
    if kind == "multiclass":
        wanted = drawings_of.drawn_folds(folds)
        drawn = [
            drawings_of.confusion(f"{key}-confusion-{index}", metrics, fold, folds[fold])
            for index, fold in enumerate(wanted, start=1)
        ]
    elif kind == "regression":
        drawn = [drawings_of.regression(f"{key}-scatter", metrics, folds)]
    else:
        calibration = drawings_of.calibration(f"{key}-calibration", metrics, folds)
        drawn = [drawings_of.roc(f"{key}-roc", metrics, folds), *([calibration] if calibration else [])]
    if run["log"] is None:
        return [*drawn, Drawing("", "There is no learning curve: this run has no metrics.jsonl.")]
    return [*drawn, learning.learning_curve(f"{key}-learning", metrics, run["log"])]


def _losses(run: Mapping[str, Any]) -> list[Table]:
    """Tabulate the scans that never reached the metrics: failures of preparation, and exclusions."""
    found = []
    if run["failures"]:
        found.append(run_tables.failures(run["failures"]))
    if run["metrics"].get("excluded"):
        found.append(run_tables.excluded(run["metrics"]["excluded"]))
    return found


def _gaps(run: Mapping[str, Any], steps: Any) -> list[str]:
    """Say what about the data is missing or empty, so that silence is never read as zero."""
    said = []
    if run["card"] is None:
        said.append("The dataset's card.json was not found: shape, spacing and counts are not shown.")
    if not steps:
        said.append("No preparation recipe was recorded.")
    if run["failures"] is None:
        count = ((run["card"] or {}).get("counts") or {}).get("failures")
        known = f" (the card counts {count:,})" if count else ""
        said.append(f"The dataset's failures.csv was not found: the failed scans{known} are not listed.")
    elif not run["failures"]:
        said.append("No scan failed in preparation: failures.csv is empty.")
    if not run["metrics"].get("excluded"):
        said.append("No scan was left out of the evaluation.")
    return said


def how(metrics: Mapping[str, Any], folds: Mapping[str, Fold]) -> list[str]:
    """Explain in sentences how the numbers of a run were computed."""
    said = []
    checkpoint, threshold, interval = metrics.get("checkpoint"), metrics.get("threshold"), metrics["interval"]
    if checkpoint:
        chosen = checkpoint.get("chosen_by")
        said.append(f"Checkpoint: step {checkpoint['step']:,}, chosen by {chosen or 'no recorded rule'}.")
    if threshold:
        chosen_on = f" on {threshold['chosen_on']}" if threshold.get("chosen_on") else ""
        said.append(
            f"Threshold: {tables.number(threshold['value'], 3)}, by the rule: {threshold['rule']}{chosen_on}"
            "; applied unchanged to every fold; a probability at or above it is called "
            f" {(metrics['task']['classes'] or ('0', '1'))[1]}."
        )
    others = tables.other_intervals(metrics)
    said.append(
        f"Intervals: {tables.level(metrics)}, {interval['method']}, {interval['resamples']:,} resamples. "
        f"{f'In folds of one scan a subject, some metrics have others ({others}). ' if others else ''}"
        "They cover the choice of scans, not the noise of training again with another seed."
    )
    said.append(sessions(metrics))
    if metrics["task"]["kind"] == "regression":
        said.append(
            "The results are not corrected for the bias towards the mean. MAE depends on the age range: "
            "compare it with the error of predicting the training mean on the same fold, not across studies."
        )
    if metrics["task"]["kind"] == "multiclass":
        said.append("ROC AUC (macro) is the plain mean over the classes of one class against the rest.")
    if folds:
        said.append("The figures and the tables by fold and site come from evaluation/predictions.csv.")
    if metrics.get("created"):
        wall = metrics.get("wall_seconds")
        took = f", in {tables.number(wall, 1)} seconds" if tables.defined(wall) else ""
        said.append(f"Evaluated at {metrics['created']}{took}.")
    return said


def sessions(metrics: Mapping[str, Any]) -> str:
    """Say whether every fold holds one session per subject, from the counts themselves."""
    folds, many = metrics["folds"], []
    for fold in tables.fold_order(folds):
        scans, subjects = folds[fold]["scans"], folds[fold]["subjects"]
        if scans != subjects:
            many.append(f"{tables.fold_name(fold)} ({scans:,} scans of {subjects:,} subjects)")
    if not many:
        return f"One session per subject in {', '.join(map(tables.fold_name, tables.fold_order(folds)))}."
    return f"Some subjects have several scans in {', '.join(many)}: those scans are not independent."
