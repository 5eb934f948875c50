"""The evaluation as one page: the verdict on top, then all that it rests on.

One HTML file without scripts or outside files, light and dark, for a phone too. Figures are drawn as SVG and
take the page's colours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from nightshift.evaluation.calibration import Bin
from nightshift.evaluation.evaluate import Challenge, Evaluation
from nightshift.evaluation.fairness import RATES
from nightshift.evaluation.intervals import Interval
from nightshift.evaluation.judging import Judged
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Decision
from nightshift.settings import settings
from nightshift.usecase import UseCase

_METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "precision", "recall", "cost", "base_rate")
_PAGE, _JSON = "evaluation_report.html", "evaluation_report.json"
_SERIES = 5
_NONE = "&ndash;"

_STYLE = """
:root { color-scheme: light dark; --ink: #16202c; --soft: #5b6675; --line: #dbe0e6; --paper: #fff;
  --good: #0b7a4b; --bad: #b42318;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #e69f00 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8edf2; --soft: #9aa7b5; --line: #33404d; --paper: #121920;
    --good: #4cc38a; --bad: #ff8f85;
    --s0: #56b4e9; --s1: #f0894d; --s2: #35c9a0; --s3: #e3a5cb; --s4: #f2c14e } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 64rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin: .5rem 0 }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p, li { max-width: 46rem }
.soft { color: var(--soft) }
.good { color: var(--good) }
.bad { color: var(--bad) }
.verdict { border-left: .35rem solid; padding: .3rem .9rem; margin: 1rem 0 }
.verdict strong { font-size: 1.15rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 100% }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { color: var(--soft); font-weight: 600 }
td small { color: var(--soft); display: block }
td.text { white-space: normal; text-align: left; min-width: 14rem }
svg { max-width: 100%; height: auto; display: block }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
.legend span { margin-right: 1rem; white-space: nowrap }
.legend i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .3rem;
  vertical-align: -.1rem }
"""


def write_report(uc: UseCase, evaluation: Evaluation, decision: Decision) -> Path:
    """Write the page and the evaluation behind it as JSON, log both to MLflow, and return the page's path.

    They lie under ``<home>/reports/<use case>/evaluation/``, named by the night. A report by which the same
    evaluation passed stays as it is: a later run of the gate adds nothing but that its model is champion
    already, or was one.
    """
    page = report(uc, evaluation, decision)
    whole = {"decision": decision.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}
    content = json.dumps(whole, indent=2)
    file = settings().home / "reports" / uc.name / "evaluation" / f"{decision.candidate.trained_night}.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    kept = file.with_suffix(".json")
    if not (file.exists() and kept.exists() and _passed(kept.read_text(encoding="utf-8"), evaluation)):
        for path, text in ((file, page), (kept, content)):
            scratch = path.with_name(f".{path.name}.{os.getpid()}")
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
    for challenge in evaluation.challenges:
        _log(uc, challenge.candidate.run_id, evaluation, page, content)
    return file


def _log(uc: UseCase, run_id: str, evaluation: Evaluation, page: str, content: str) -> None:
    client = tracking.client(uc)
    # The JSON is logged last: where it is, the page is, too.
    if _JSON in {item.path for item in client.list_artifacts(run_id)}:
        logged = Path(client.download_artifacts(run_id, _JSON))
        if _passed(logged.read_text(encoding="utf-8"), evaluation):
            return
    client.log_text(run_id, page, _PAGE)
    client.log_text(run_id, content, _JSON)


def _passed(content: str, evaluation: Evaluation) -> bool:
    """Return whether ``content`` is a whole report by which ``evaluation`` passed the gate."""
    try:
        reported = json.loads(content)
    except ValueError:
        return False
    # As text: an undefined metric is equal to nothing, itself included.
    same = json.dumps(reported["evaluation"]) == json.dumps(evaluation.model_dump(mode="json"))
    return same and bool(reported["decision"]["promote"])


def report(uc: UseCase, evaluation: Evaluation, decision: Decision) -> str:
    """Return the page, a whole HTML document, about an evaluation and what the gate made of it."""
    chosen = next(item for item in evaluation.challenges if item.candidate == decision.candidate)
    models = _models(evaluation, chosen)
    rows = f"{chosen.judged.metrics['rows']:,.0f}"
    parts = [
        f"<h1>{escape(uc.title)}</h1>",
        f"<p class='soft'>Evaluation of snapshot {evaluation.snapshot_hash[:12]} on {rows} rows of "
        f"{evaluation.start} to {evaluation.end}, which no compared model was trained on.</p>",
        _verdict(evaluation, decision),
        _legend(models),
        "<h2>Metrics</h2>",
        f"<p class='soft'>Below each figure its {uc.gate.confidence:.0%} interval, by bootstrap of days.</p>",
        _metrics(models),
        _differences(uc, evaluation, chosen),
        "<h2>Slices</h2>",
        _slices(uc, models, chosen),
        "<h2>Calibration</h2>",
        _calibration(models),
        "<h2>Fairness</h2>",
        _fairness(chosen.judged),
        "<h2>Robustness</h2>",
        _robustness(models),
        "<h2>Stress set</h2>",
        _stress(models),
        "<h2>Latency</h2>",
        _latency(models),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(uc.title)}: evaluation</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>"
    )


def _models(evaluation: Evaluation, chosen: Challenge) -> dict[str, Judged]:
    """Return the compared models by the name they go by, the one put forward first."""
    ordered = sorted(evaluation.challenges, key=lambda item: item is not chosen)
    found = {
        item.candidate.trainer
        + (" (baseline)" if item.candidate.trainer == evaluation.baseline else ""): item.judged
        for item in ordered
    }
    if evaluation.champion is not None and evaluation.champion_judged is not None:
        found[f"champion, version {evaluation.champion.version}"] = evaluation.champion_judged
    return found


def _verdict(evaluation: Evaluation, decision: Decision) -> str:
    mood, word = ("good", "passes the gate") if decision.promote else ("bad", "does not pass the gate")
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in decision.reasons)
    note = f"<p>{escape(evaluation.champion_note)}</p>" if evaluation.champion_note else ""
    name = escape(decision.candidate.trainer)
    return f"<div class='verdict {mood}'><strong>{name} {word}</strong></div>{note}<ul>{reasons}</ul>"


def _legend(models: Mapping[str, Judged]) -> str:
    marks = "".join(
        f"<span><i style='background:var(--s{number % _SERIES})'></i>{escape(name)}</span>"
        for number, name in enumerate(models)
    )
    return f"<p class='legend'>{marks}</p>"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """Return a table; cells are HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    rows = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in body
    )
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{rows}</tbody></table></div>"


def _figure(value: float | None, found: Interval | None = None, sign: str = "") -> str:
    if value is None:
        return _NONE
    below = f"<small>{found.low:{sign}.4f} to {found.high:{sign}.4f}</small>" if found else ""
    return f"{value:{sign}.4f}{below}"


def _metrics(models: Mapping[str, Judged]) -> str:
    names = [name for name in _METRICS if any(name in judged.metrics for judged in models.values())]
    return _table(
        ["", *(escape(name) for name in models)],
        [
            [
                name.replace("_", " "),
                *(
                    _figure(judged.metrics.get(name), judged.intervals.get(name))
                    for judged in models.values()
                ),
            ]
            for name in names
        ],
    )


def _differences(uc: UseCase, evaluation: Evaluation, chosen: Challenge) -> str:
    pairs = []
    if chosen.versus_champion is not None and evaluation.champion is not None:
        pairs.append((f"champion, version {evaluation.champion.version}", chosen.versus_champion.metrics))
    if chosen.versus_baseline is not None:
        pairs.append((f"baseline, {evaluation.baseline}", chosen.versus_baseline.metrics))
    if not pairs:
        return ""
    table = _table(
        [f"{escape(chosen.candidate.trainer)} less", *(escape(name) for name, _ in pairs)],
        [
            [
                name.replace("_", " "),
                *(
                    _figure(found[name].value, found[name], "+") if name in found else _NONE
                    for _, found in pairs
                ),
            ]
            for name in _METRICS
            if name != "base_rate"
        ],
    )
    primary = [
        (name, found[uc.gate.primary], number)
        for number, (name, found) in enumerate(pairs)
        if uc.gate.primary in found
    ]
    return f"<h2>Differences on the same draws</h2>{table}{_ranges(primary, uc.gate.primary)}"


def _slices(uc: UseCase, models: Mapping[str, Judged], chosen: Challenge) -> str:
    primary, parts = uc.gate.primary, []
    for column, values in chosen.judged.slices.items():
        body = []
        for value, found in values.items():
            cells = [
                _figure(
                    judged.slices.get(column, {}).get(value, {}).get(primary),
                    judged.slice_intervals.get(column, {}).get(value, {}).get(primary),
                )
                for judged in models.values()
            ]
            body.append([escape(value), f"{found['rows']:,.0f}", *cells])
        head = [f"{escape(column)}: {primary}", "rows", *(escape(name) for name in models)]
        parts.append(_table(head, body))
        if chosen.versus_champion is not None:
            less = chosen.versus_champion.slices.get(column, {})
            parts.append(
                _ranges([(name, found, 0) for name, found in less.items()], f"{primary} less champion's")
            )
    return "".join(parts) or "<p>None is declared.</p>"


def _ranges(items: Sequence[tuple[str, Interval, int]], title: str) -> str:
    """Draw intervals below each other around zero."""
    if not items:
        return ""
    ends = [0.0, *(end for _, found, _ in items for end in (found.low, found.high))]
    low, high = min(ends), max(ends)
    span = high - low or 1.0
    left, width, step = 150, 470, 20

    def x(value: float) -> float:
        return left + width * (value - low) / span

    height = step * len(items) + 34
    drawn = [
        f"<line x1='{x(0):.1f}' x2='{x(0):.1f}' y1='18' y2='{height - 12}' stroke='var(--soft)' "
        "stroke-dasharray='3 3'/>",
        f"<text x='{left}' y='12'>{escape(title)}</text>",
        f"<text x='{x(0):.1f}' y='{height}' text-anchor='middle'>0</text>",
    ]
    if low < 0:
        drawn.append(f"<text x='{left}' y='{height}'>{low:+.3f}</text>")
    if high > 0:
        drawn.append(f"<text x='{left + width}' y='{height}' text-anchor='end'>{high:+.3f}</text>")
    for number, (name, found, series) in enumerate(items):
        y = 28 + step * number
        colour = f"var(--s{series % _SERIES})"
        drawn.append(
            f"<text x='{left - 8}' y='{y + 4}' text-anchor='end'>{escape(name)}</text>"
            f"<line x1='{x(found.low):.1f}' x2='{x(found.high):.1f}' y1='{y}' y2='{y}' stroke='{colour}' "
            f"stroke-width='2'/><circle cx='{x(found.value):.1f}' cy='{y}' r='4' fill='{colour}'/>"
        )
    return f"<svg viewBox='0 0 640 {height + 6}' width='640' role='img'>{''.join(drawn)}</svg>"


def _calibration(models: Mapping[str, Judged]) -> str:
    found = {name: judged.calibration for name, judged in models.items() if judged.calibration is not None}
    if not found:
        return "<p>Not examined.</p>"
    names = ("ece", "log_loss", "brier", "mean_score")
    table = _table(
        ["recalibration, fitted on validation rows", *(f"{name.replace('_', ' ')}" for name in names)],
        [
            [
                f"{escape(model)}, {when}",
                *(_figure(figures.get(name)) for name in names),
            ]
            for model, item in found.items()
            for when, figures in (("before", item.before), ("after", item.after))
        ],
    )
    return table + _reliability({name: item.curve for name, item in found.items()})


def _reliability(curves: Mapping[str, Sequence[Bin]]) -> str:
    """Draw observed rate against mean score, equally many rows a point."""
    top = max(
        [0.05, *(value for curve in curves.values() for item in curve for value in (item.score, item.rate))]
    )
    left, size = 40, 300

    def x(value: float) -> float:
        return left + size * value / top

    def y(value: float) -> float:
        return 10 + size * (1 - value / top)

    drawn = [
        f"<path d='M{left} 10V{10 + size}H{left + size}' fill='none' stroke='var(--line)'/>",
        f"<line x1='{x(0)}' y1='{y(0)}' x2='{x(top)}' y2='{y(top)}' stroke='var(--soft)' "
        "stroke-dasharray='3 3'/>",
        f"<text x='{left + size}' y='{size + 26}' text-anchor='end'>mean score, to {top:.2f}</text>",
        f"<text x='{left + 6}' y='20'>observed rate</text>",
    ]
    for number, curve in enumerate(curves.values()):
        colour = f"var(--s{number % _SERIES})"
        points = " ".join(f"{x(item.score):.1f},{y(item.rate):.1f}" for item in curve)
        drawn.append(f"<polyline points='{points}' fill='none' stroke='{colour}' stroke-width='1.6'/>")
        drawn += [
            f"<circle cx='{x(item.score):.1f}' cy='{y(item.rate):.1f}' r='3' fill='{colour}'/>"
            for item in curve
        ]
    return f"<svg viewBox='0 0 360 340' width='360' role='img'>{''.join(drawn)}</svg>"


def _fairness(judged: Judged) -> str:
    parts = []
    for parity in judged.fairness:
        body = [
            [
                escape(value) + ("" if group.rows >= parity.min_rows else " (too few)"),
                f"{group.rows:,}",
                _figure(group.base_rate),
                *(_figure(group.rates.get(name)) for name in RATES),
            ]
            for value, group in parity.groups.items()
        ]
        body.append(
            ["largest difference", "", "", *(_figure(parity.differences.get(name)) for name in RATES)]
        )
        eased = parity.mitigation
        if eased is not None:
            after = (_figure(eased.differences.get(name)) for name in RATES)
            body.append(["with thresholds per group", "", "", *after])
        head = [escape(parity.column), "rows", "base rate", *(name.replace("_", " ") for name in RATES)]
        parts.append(_table(head, body))
        if eased is not None:
            parts.append(
                f"<p class='soft'>Thresholds per {escape(parity.column)}, fitted on validation rows for "
                f"equal false positive rates, would move the cost of a row from {eased.cost_before:.4f} to "
                f"{eased.cost_after:.4f}. They are not applied.</p>"
            )
    return "".join(parts) or "<p>No groups are declared.</p>"


def _robustness(models: Mapping[str, Judged]) -> str:
    body = []
    for name, judged in models.items():
        for item in judged.robustness:
            figures = [_figure(item.roc_auc_loss, sign="+"), _figure(item.log_loss_rise, sign="+")]
            flipped = _NONE if item.flipped is None else f"{item.flipped:.1%}"
            failure = f"<td class='text bad'>{escape(item.failure)}</td>"
            body.append([escape(name), item.scenario, *figures, flipped, failure])
    head = ["model", "rows are", "fall of ROC AUC", "rise of log loss", "decisions flipped", "failure"]
    return _table(head, body) if body else "<p>Not examined.</p>"


def _stress(models: Mapping[str, Judged]) -> str:
    body = []
    for name, judged in models.items():
        for item in judged.stress:
            verdict = "<td class='good'>holds</td>"
            if not item.passed:
                verdict = f"<td class='bad'>{'stops' if item.case.severity == 'stop' else 'warns'}</td>"
            share = _NONE if item.share is None else f"{item.share:.1%} of {item.rows:,}"
            why = f"<td class='text'>{escape(item.note or item.case.why.strip())}</td>"
            least = f"{item.case.min_share:.0%}"
            body.append([escape(name), item.case.name, verdict, share, least, f"{item.worst:.3f}", why])
    head = ["model", "case", "", "rows that behave", "must", "worst", "why"]
    return _table(head, body) if body else "<p>The use case has no stress.yml.</p>"


def _latency(models: Mapping[str, Judged]) -> str:
    body = [
        [
            escape(name),
            *(f"{value:.1f}" for value in (found.p50_ms, found.p95_ms, found.p99_ms)),
            f"{found.rows_per_second:,.0f}",
            f"{found.size_mb:.1f}",
        ]
        for name, judged in models.items()
        if (found := judged.latency) is not None
    ]
    head = ["model", "P50 ms a row", "P95 ms", "P99 ms", "rows/s in batches", "MB on disk"]
    return _table(head, body) if body else "<p>Not measured.</p>"
