"""The evaluation as one page: the verdict on top, then all that it rests on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from nightshift.evaluation.calibration import Bin
from nightshift.evaluation.evaluate import Challenge, Evaluation
from nightshift.evaluation.fairness import RATES
from nightshift.evaluation.judging import Judged
from nightshift.intervals import Interval
from nightshift.page import NONE, SERIES, document, figure, html_table, legend, write_files
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Decision
from nightshift.settings import settings
from nightshift.usecase import UseCase

_METRICS = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "precision", "recall", "cost", "base_rate")
_FEATURES = 15
_PAGE, _JSON = "evaluation_report.html", "evaluation_report.json"


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
    kept = file.with_suffix(".json")
    if not (file.exists() and kept.exists() and _passed(kept.read_text(encoding="utf-8"), evaluation)):
        write_files({file: page, kept: content})
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
        legend(models),
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
        "<h2>Explanation</h2>",
        _explanation(models),
        "<h2>Latency</h2>",
        _latency(models),
    ]
    return document(f"{uc.title}: evaluation", parts)


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


def _metrics(models: Mapping[str, Judged]) -> str:
    names = [name for name in _METRICS if any(name in judged.metrics for judged in models.values())]
    return html_table(
        ["", *(escape(name) for name in models)],
        [
            [
                name.replace("_", " "),
                *(figure(judged.metrics.get(name), judged.intervals.get(name)) for judged in models.values()),
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
    table = html_table(
        [f"{escape(chosen.candidate.trainer)} less", *(escape(name) for name, _ in pairs)],
        [
            [
                name.replace("_", " "),
                *(
                    figure(found[name].value, found[name], "+") if name in found else NONE
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
                figure(
                    judged.slices.get(column, {}).get(value, {}).get(primary),
                    judged.slice_intervals.get(column, {}).get(value, {}).get(primary),
                )
                for judged in models.values()
            ]
            body.append([escape(value), f"{found['rows']:,.0f}", *cells])
        head = [f"{escape(column)}: {primary}", "rows", *(escape(name) for name in models)]
        parts.append(html_table(head, body))
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
        colour = f"var(--s{series % SERIES})"
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
    table = html_table(
        ["recalibration, fitted on validation rows", *(f"{name.replace('_', ' ')}" for name in names)],
        [
            [
                f"{escape(model)}, {when}",
                *(figure(figures.get(name)) for name in names),
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
        colour = f"var(--s{number % SERIES})"
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
                figure(group.base_rate),
                *(figure(group.rates.get(name)) for name in RATES),
            ]
            for value, group in parity.groups.items()
        ]
        body.append(["largest difference", "", "", *(figure(parity.differences.get(name)) for name in RATES)])
        eased = parity.mitigation
        if eased is not None:
            after = (figure(eased.differences.get(name)) for name in RATES)
            body.append(["with thresholds per group", "", "", *after])
        head = [escape(parity.column), "rows", "base rate", *(name.replace("_", " ") for name in RATES)]
        parts.append(html_table(head, body))
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
            figures = [figure(item.roc_auc_loss, sign="+"), figure(item.log_loss_rise, sign="+")]
            flipped = NONE if item.flipped is None else f"{item.flipped:.1%}"
            failure = f"<td class='text bad'>{escape(item.failure)}</td>"
            body.append([escape(name), item.scenario, *figures, flipped, failure])
    head = ["model", "rows are", "fall of ROC AUC", "rise of log loss", "decisions flipped", "failure"]
    return html_table(head, body) if body else "<p>Not examined.</p>"


def _stress(models: Mapping[str, Judged]) -> str:
    body = []
    for name, judged in models.items():
        for item in judged.stress:
            verdict = "<td class='good'>holds</td>"
            if not item.passed:
                verdict = f"<td class='bad'>{'stops' if item.case.severity == 'stop' else 'warns'}</td>"
            share = NONE if item.share is None else f"{item.share:.1%} of {item.rows:,}"
            why = f"<td class='text'>{escape(item.note or item.case.why.strip())}</td>"
            least = f"{item.case.min_share:.0%}"
            body.append([escape(name), item.case.name, verdict, share, least, f"{item.worst:.3f}", why])
    head = ["model", "case", "", "rows that behave", "must", "worst", "why"]
    return html_table(head, body) if body else "<p>The use case has no stress.yml.</p>"


def _explanation(models: Mapping[str, Judged]) -> str:
    """Return what moves the scores of the model put forward most, and how far it moves those of others."""
    strongest = next((judged.importance for judged in models.values() if judged.importance), {})
    table = html_table(
        ["mean absolute SHAP value, log-odds before calibration", *(escape(name) for name in models)],
        [
            [escape(feature), *(figure(judged.importance.get(feature)) for judged in models.values())]
            for feature in list(strongest)[:_FEATURES]
        ],
    )
    return table if strongest else "<p>Not examined.</p>"


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
    return html_table(head, body) if body else "<p>Not measured.</p>"
