"""The page of one night: a verdict in a sentence, five blocks, and below them the tables they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from html import escape
from typing import Any

from nightshift.monitoring.pages.drawing import Point, line
from nightshift.monitoring.pages.figures import (
    details,
    facts,
    nothing,
    rows_table,
    say,
    score,
    share,
    text_cell,
    words,
)
from nightshift.monitoring.pages.records import (
    COSTS,
    DRIFT,
    ESTIMATES,
    OBSERVED,
    PERFORMANCE,
    PREDICTIONS,
    RESOURCES,
    RESTATED,
    SHADOW,
    SLICES,
    WINDOWS,
    Records,
    Row,
    past,
)
from nightshift.monitoring.pages.signals import (
    SIGNS,
    Level,
    Signal,
    findings_of,
    level_of,
    reasons_of,
    severity_of,
    signals,
)
from nightshift.page import document, html_table

HISTORY = 14
"""Days of a line."""

_SENTENCES: dict[Level, str] = {"quiet": "Quiet", "watch": "Watch", "act": "Act"}
_KEPT_OUT = (
    "inputs",
    "model_hash",
    "champion_hash",
    "challenger_hash",
    "shadow_hash",
    "predictions_hash",
    "features_hash",
    "labels_hash",
    "was_labels_hash",
    "outcomes_hash",
)

STYLE = """
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; break-inside: avoid }
.card h2 { font-size: 1rem; margin: 0; display: flex; justify-content: space-between; gap: .5rem }
.card p { margin: .3rem 0 } .big { font-size: 1.35rem; font-variant-numeric: tabular-nums }
.big small { font-size: .85rem; color: var(--soft); display: block }
.none { color: var(--soft) }
.level { font-weight: 600; white-space: nowrap; font-size: .9rem }
.level.quiet, .verdict.quiet { color: var(--good) } .level.act, .verdict.act { color: var(--bad) }
.level.watch, .verdict.watch { color: var(--warn) }
:root { --warn: #8a5a00 } @media (prefers-color-scheme: dark) { :root { --warn: #f2c14e } }
.verdict strong { color: var(--ink) } .verdict .sign { margin-right: .4rem }
dl { display: grid; grid-template-columns: auto auto; gap: .1rem .8rem; margin: .3rem 0 }
dt { color: var(--soft) } dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums }
dd small { color: var(--soft); display: block }
details { border-top: 1px solid var(--line); padding: .5rem 0 }
summary { cursor: pointer; font-weight: 600 }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: .5rem 0 }
figcaption { color: var(--soft); font-size: .85rem; max-width: 250px; overflow-wrap: anywhere }
nav a { margin-right: 1rem } a { color: var(--s0) } td a { white-space: nowrap }
ul { padding-left: 1.2rem; margin: .4rem 0 } h3 { font-size: 1rem; margin: 1rem 0 .3rem }
@media print { body { max-width: none; font-size: 12px } .wide { overflow: visible }
  details::details-content { content-visibility: visible; block-size: auto } th, td { white-space: normal } }
"""


def nightly_page(
    records: Records, day: date, links: Mapping[str, str], pictures: Mapping[str, str], note: str = ""
) -> str:
    """Return the page of the night of ``day``, a whole HTML document.

    Args:
        records: Of the night and the days before it.
        day: The night.
        links: Address by title of what else there is to read about the night.
        pictures: How the columns responsible for the verdict moved, by column, as SVG.
        note: Why there is no picture where one would be expected.
    """
    uc, found = records.uc, signals(records, day)
    champion = records.champion(day)
    model = f"champion version {champion.version}" if champion else "no champion in force"
    return document(
        f"{uc.title}: night of {day}",
        [
            f"<h1>{escape(uc.title)}</h1>",
            f"<p class='soft'>Night of {day:%A} {day}, {escape(model)}. "
            f"{say(records.predicted.get(day, 0))} predictions.</p>",
            _verdict(found),
            "<div class='cards'>",
            _input(records, day, found),
            _predictions(records, day, found),
            _performance(records, day),
            _quality(records, day, found),
            _resources(records, day),
            "</div>",
            f"<h2 id='alerts'>Alerts</h2>{_alerts(records.alerts_of(day), links)}",
            f"<h2 id='request'>New model</h2>{_request(records, day)}",
            f"<h2>More</h2>{_links(links)}",
            "<h2>Details</h2>",
            details("How the responsible columns moved", _pictures(day, pictures, note)),
            details("Findings", _findings(findings_of(records.row(DRIFT, day)))),
            *(_drift_tables(records.row(DRIFT, day))),
            *_truth_tables(records, day),
            details("Predictions", _all_facts(records.row(PREDICTIONS, day))),
            details("Scoring", _all_facts(records.row(PERFORMANCE, day))),
            details("Tasks", _tasks(records.rows(RESOURCES, day))),
            details("Cost", _all_facts(records.row(COSTS, day))),
        ],
        style=STYLE,
    )


def _verdict(found: Sequence[Signal]) -> str:
    level = level_of(found)
    urgent = [signal for signal in found if signal.level != "quiet"]
    said = urgent[0].text if urgent else "nothing needs you tonight"
    rest = [signal for signal in found if signal is not (urgent[0] if urgent else None)]
    listed = "".join(f"<li>{_marked(signal)}</li>" for signal in rest)
    return (
        f"<div class='verdict {level}'><strong><span class='sign'>{SIGNS[level]}</span>"
        f"{_SENTENCES[level]}: {escape(said)}</strong></div>" + (f"<ul>{listed}</ul>" if listed else "")
    )


def _marked(signal: Signal) -> str:
    return f"{SIGNS[signal.level]} {signal.level}: <a href='#{signal.block}'>{escape(signal.text)}</a>"


def _card(title: str, block: str, level: Level | None, body: str) -> str:
    mark = f"<span class='level {level}'>{SIGNS[level]} {level}</span>" if level else ""
    return f"<section class='card' id='{block}'><h2>{title}{mark}</h2>{body}</section>"


def _big(value: str, what: str) -> str:
    return f"<p><span class='big'>{value}</span> <span class='soft'>{what}</span></p>"


def _input(records: Records, day: date, found: Sequence[Signal]) -> str:
    drift = records.row(DRIFT, day)
    if not drift:
        why = "the task check_drift has not judged this night"
        return _card("Input", "input", level_of(found, "input"), nothing(DRIFT, why))
    columns, compared = drift.get("columns") or [], _windows(drift)
    number = max((len(window["limits"]) for window in compared), default=0)
    named = ", ".join(escape(str(name)) for name in columns[:5])
    note = escape(str(drift.get("note") or ""))
    body = [
        f"<p>{note}</p>"
        if note
        else _big(str(len(columns)), f"of {number} columns moved beyond their limit"),
        f"<p>{named}</p>" if named else "",
        facts([("drift verdict", say(drift.get("verdict"))), ("findings", say(len(findings_of(drift))))]),
        f"<p class='soft'>{_sequence(records, day)}</p>",
    ]
    return _card("Input", "input", level_of(found, "input"), "".join(body))


def _sequence(records: Records, day: date) -> str:
    marks = []
    signs: dict[str, Level] = {"quiet": "quiet", "watch": "watch", "drift": "act"}
    for earlier in past(day, HISTORY):
        verdict = str(records.row(DRIFT, earlier).get("verdict", ""))
        sign = SIGNS[signs[verdict]] if verdict in signs else "&middot;"
        marks.append(f"<span title='{earlier} {escape(verdict or 'not checked')}'>{sign}</span>")
    return f"last {HISTORY} days {' '.join(marks)}"


def _predictions(records: Records, day: date, found: Sequence[Signal]) -> str:
    row, level = records.row(PREDICTIONS, day), level_of(found, "predictions")
    if not row:
        rows = records.predicted.get(day)
        why = "the scores of this night were not described" if rows else "the night was not scored"
        count = _big(say(rows), "rows scored") if rows else ""
        return _card("Predictions", "predictions", level, count + nothing(PREDICTIONS, why))
    points = [Point(day.isoformat(), records.row(PREDICTIONS, day).get("mean")) for day in past(day, HISTORY)]
    body = [
        _big(share(row.get("positive_rate")), f"of {say(row.get('rows'))} rows are acted on"),
        facts(
            [
                ("mean score", score(row, "mean")),
                ("confidence, mean distance from 0.5", say(row.get("margin"))),
                ("rows with missing features", share(row.get("rows_missing"))),
                ("rows beyond the training range", share(row.get("rows_outside"))),
            ]
        ),
        line(points, "mean score"),
    ]
    return _card("Predictions", "predictions", level, "".join(body))


def _performance(records: Records, day: date) -> str:
    row = records.row(PERFORMANCE, day)
    if not row:
        return _card(
            "Performance",
            "performance",
            None,
            nothing(PERFORMANCE, "this night was scored before scoring was timed, or not at all"),
        )
    body = [
        _big(say(row.get("rows_per_second")), "rows a second"),
        facts(
            [
                ("P50, P95, P99 of a chunk", _percentiles(row)),
                ("seconds in the model", say(row.get("seconds"))),
                ("failed attempts", say(row.get("attempts_failed"))),
            ]
        ),
    ]
    return _card("Performance", "performance", None, "".join(body))


def _percentiles(row: Row) -> str:
    return ", ".join(say(row.get(name)) for name in ("p50_ms", "p95_ms", "p99_ms")) + " ms"


def _quality(records: Records, day: date, found: Sequence[Signal]) -> str:
    uc, level = records.uc, level_of(found, "quality")
    due = day - timedelta(days=uc.label.lag_days)
    observed, estimate = records.row(OBSERVED, due), records.row(ESTIMATES, due)
    tonight = records.row(ESTIMATES, day)
    parts = []
    if observed:
        parts = [
            _big(score(observed, uc.gate.primary), f"{words(uc.gate.primary)} observed on {due}"),
            facts(
                [
                    ("Brier score observed", score(observed, "brier")),
                    ("estimated before", f"{score(estimate, 'roc_auc')}, {score(estimate, 'brier')}"),
                    ("labelled rows", say(observed.get("rows"))),
                ]
            ),
        ]
    else:
        late = due in records.predicted
        why = f"the truth about {due} has not arrived" if late else f"{due} was not predicted"
        parts = [nothing(OBSERVED, why)]
    if tonight:
        guess = f"ROC AUC {score(tonight, 'roc_auc')}, Brier {score(tonight, 'brier')}"
        parts.append(f"<p>Estimate for tonight, before labels: {guess}</p>")
    else:
        parts.append(nothing(ESTIMATES, "tonight's predictions were not estimated"))
    points = [_point(records.row(OBSERVED, one), one, uc.gate.primary) for one in past(due, HISTORY)]
    parts.append(line(points, uc.gate.primary.replace("_", " ")))
    return _card("Quality", "quality", level, "".join(parts))


def _point(row: Row, day: date, metric: str) -> Point:
    return Point(day.isoformat(), row.get(metric), row.get(f"{metric}_low"), row.get(f"{metric}_high"))


def _resources(records: Records, day: date) -> str:
    row, tasks = records.row(COSTS, day), records.rows(RESOURCES, day)
    if not row and not tasks:
        why = "no task of this night was metered, or its records are not folded yet"
        return _card("Resources and cost", "resources", None, nothing(COSTS, why))
    prices = row.get("prices")
    unit = escape(str(prices.get("unit", ""))) if isinstance(prices, dict) else ""
    peak = max((task["peak_memory_mb"] for task in tasks if task.get("peak_memory_mb")), default=None)
    points = [Point(one.isoformat(), records.row(COSTS, one).get("night")) for one in past(day, HISTORY)]
    body = [
        _big(say(row.get("night")), f"{unit} for the nightly chain"),
        facts(
            [
                ("for 1,000 predictions", say(row.get("per_thousand"))),
                ("other work for the night", say(row.get("other"))),
                ("processor seconds", say(row.get("cpu_seconds"))),
                ("peak memory of a task, MB", say(peak)),
                ("GPU seconds", say(row.get("gpu_seconds"))),
            ]
        ),
        line(points, "cost of a night", decimals=4),
    ]
    return _card("Resources and cost", "resources", None, "".join(body))


def _alerts(alerts: Sequence[Row], links: Mapping[str, str]) -> str:
    if not alerts:
        return "<p class='none'>None about this night.</p>"
    body = []
    for alert in alerts:
        kind = str(alert.get("kind", ""))
        runbook = links.get(f"Runbook: {kind}")
        name = escape(kind.replace("_", " "))
        linked = f"<a href='{escape(runbook, quote=True)}'>{name}</a>" if runbook else name
        silenced = f", silenced {alert['silenced']}" if alert.get("silenced") else ""
        body.append(
            [
                linked,
                escape(severity_of(alert)),
                f"<td class='text'>{escape(str(alert.get('message', '')) + silenced)}</td>",
                say(alert.get("count")),
                escape(str(alert.get("at", ""))[:16].replace("T", " ")),
            ]
        )
    return html_table(["kind, with its runbook", "severity", "message", "times", "first at (UTC)"], body)


def _request(records: Records, day: date) -> str:
    request = records.request_of(day)
    if request is None:
        waiting = [entry for entry in records.requests if _open_at(entry, day)]
        if not waiting:
            return "<p class='none'>None was asked for this night.</p>"
        return (
            f"<p>None was asked for this night; the request of {say(waiting[-1].get('night'))} is open.</p>"
        )
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in reasons_of(request))
    outcome = request.get("outcome") or {}
    why = "; ".join(str(reason) for reason in outcome.get("reasons") or ())
    version = f", version {escape(str(outcome['version']))}" if outcome.get("version") else ""
    because = f": {escape(why)}" if why else ""
    return (
        f"<p>A new model was asked for. State: <strong>{say(request['state'])}</strong>{version}{because}</p>"
        f"<ul>{reasons}</ul>"
    )


def _open_at(entry: Row, day: date) -> bool:
    return str(entry.get("night", "")) < day.isoformat() and entry["state"] in ("requested", "training")


def _links(links: Mapping[str, str]) -> str:
    items = "".join(
        f"<li><a href='{escape(address, quote=True)}'>{escape(title)}</a></li>"
        for title, address in links.items()
    )
    return f"<ul>{items}</ul>"


def _pictures(day: date, pictures: Mapping[str, str], note: str) -> str:
    drawn = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in pictures.items()
    )
    if drawn:
        return (
            "<p class='soft'>Grey: the sample that the champion learned from; in colour, as a line or the "
            f"lower bar: {day}.</p><div class='pictures'>{drawn}</div>"
        )
    return f"<p class='none'>{escape(note)}</p>" if note else ""


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    body = [
        [say(item.get("kind")), say(item.get("column") or None), text_cell(item.get("message"))]
        for item in findings
    ]
    return html_table(["kind", "column", "what was found"], body) if body else ""


def _windows(drift: Row) -> list[dict[str, Any]]:
    """Return what was compared, a window each: ``length``, ``distances``, ``limits`` and ``signals``."""
    windows = drift.get("windows")
    if isinstance(windows, dict):
        windows = list(windows.values())
    if not windows:
        windows = [{"length": 1, "rows": drift.get("rows"), **drift}]
    return [
        {
            **window,
            "distances": window.get("distances") or {},
            "limits": window.get("limits") or {},
            "signals": window.get("signals") or [],
        }
        for window in windows
        if isinstance(window, dict)
    ]


def _drift_tables(drift: Row) -> list[str]:
    if not drift:
        return []
    found = []
    for window in _windows(drift):
        length = window.get("length", 1)
        title = f"Drift by column, {length} day{'s' if length != 1 else ''}"
        note = f"{say(window.get('rows'))} rows"
        if window.get("compared_with"):
            note += f", compared with {say(window['compared_with'])} days of the reference"
        found.append(details(title, _signals(window) + _columns(window), f"{note}."))
    return found


def _signals(window: Mapping[str, Any]) -> str:
    body = [
        [
            escape(str(item.get("column", "")) + (f" with {item['other']}" if item.get("other") else "")),
            words(str(item.get("statistic", ""))),
            say(item.get("value")),
            say(item.get("limit")),
            say(item.get("effect")),
        ]
        for item in window["signals"]
    ]
    head = ["beyond its limit", "statistic", "distance", "limit", "effect"]
    return html_table(head, body) if body else ""


def _columns(window: Mapping[str, Any]) -> str:
    """Return the distance of every column that was compared, the nearest to its limit first."""
    distances, limits = window["distances"], window["limits"]

    def ratio(name: str) -> float:
        limit = limits.get(name)
        return float(distances[name]) / limit if limit else 0.0

    body = [
        [
            escape(name),
            say(distances[name]),
            say(limits.get(name)),
            f"{ratio(name):.2f}",
            f"{SIGNS['act']} beyond" if ratio(name) > 1 else "within",
        ]
        for name in sorted(distances, key=lambda name: (-ratio(name), name))
    ]
    head = ["column", "distance", "limit", "distance / limit", ""]
    return html_table(head, body) if body else ""


def _truth_tables(records: Records, day: date) -> list[str]:
    """Return what is known of earlier predictions by the night of ``day``."""
    uc = records.uc
    due = day - timedelta(days=uc.label.lag_days)
    metrics = ("roc_auc", "pr_auc", "brier", "log_loss", "ece", "cost")
    known = [one for one in reversed(past(due, HISTORY)) if records.row(OBSERVED, one)]
    observed = html_table(
        ["predicted for", "rows", *(words(name) for name in metrics), "ROC AUC estimated", "Brier estimated"],
        [
            [
                one.isoformat(),
                say(records.row(OBSERVED, one).get("rows")),
                *(score(records.row(OBSERVED, one), name) for name in metrics),
                *(score(records.row(ESTIMATES, one), name) for name in ("roc_auc", "brier")),
            ]
            for one in known
        ],
    )
    windows = html_table(
        ["window", "days", "rows", *(words(name) for name in metrics)],
        [
            [
                f"{say(row.get('window_days'))} days to {due}",
                say(row.get("days")),
                say(row.get("rows")),
                *(score(row, name) for name in metrics),
            ]
            for row in records.rows(WINDOWS, due)
        ],
    )
    restated = [row for one in past(due, HISTORY) for row in _restatements(records, one)]
    shadow = [
        {"predicted for": one, **row} for one in past(due, HISTORY) for row in records.rows(SHADOW, one)
    ]
    return [
        details("Observed quality by day", observed if known else "", "Each figure with its interval."),
        details("Windows", windows if records.rows(WINDOWS, due) else ""),
        details("Slices", _slices(records, due)),
        details("Restated figures", rows_table(restated), "Labels that arrived late changed these figures."),
        details("Challenger in shadow", rows_table(shadow, _KEPT_OUT)),
    ]


def _restatements(records: Records, day: date) -> list[Row]:
    return [
        {
            "predicted for": day,
            "restatement": row.get("number"),
            "because of": row.get("cause"),
            "rows before": row.get("was_rows"),
            "rows now": row.get("rows"),
            **{
                f"{name.replace('_', ' ')} {when}": row.get(f"{prefix}{name}")
                for name in ("roc_auc", "brier")
                for when, prefix in (("before", "was_"), ("now", ""))
            },
        }
        for row in records.rows(RESTATED, day)
    ]


def _slices(records: Records, due: date) -> str:
    rows, primary = records.rows(SLICES, due), records.uc.gate.primary
    parts = []
    for length in sorted({row.get("window_days", 1) for row in rows}):
        body = [
            [
                f"{say(row.get('slice'))}: {say(row.get('value'))}",
                say(row.get("rows")),
                score(row, primary),
                score(row, "brier"),
                score(row, "baseline"),
                f"{SIGNS['act']} worse" if row.get("verdict") == "worse" else say(row.get("verdict") or None),
            ]
            for row in rows
            if row.get("window_days", 1) == length
        ]
        head = ["slice", "rows", words(primary), "brier", f"{words(primary)} on the holdout", "verdict"]
        parts.append(f"<h3>{length} day{'s' if length != 1 else ''} to {due}</h3>{html_table(head, body)}")
    return "".join(parts)


def _tasks(rows: Sequence[Row]) -> str:
    names = ("seconds", "cpu_seconds", "peak_memory_mb", "rows", "gpu_seconds", "attempt", "state")
    body = [
        [
            f"{say(row.get('dag'))}.{say(row.get('task'))}"
            + (
                f" [{row['map_index']}]"
                if isinstance(row.get("map_index"), int) and row["map_index"] >= 0
                else ""
            ),
            *(say(row.get(name)) for name in names),
        ]
        for row in sorted(rows, key=lambda row: -float(row.get("seconds") or 0))
    ]
    return html_table(["task", *(words(name) for name in names)], body) if body else ""


def _all_facts(row: Row) -> str:
    body = [
        [words(name), text_cell(value)]
        for name, value in row.items()
        if name not in _KEPT_OUT and value not in (None, {}, [])
    ]
    return html_table(["figure", "value"], body) if body else ""


def verdict_of(records: Records, day: date) -> tuple[Level, str]:
    """Return the verdict of a night and, in words, what it rests on."""
    found = signals(records, day)
    return level_of(found), next((signal.text for signal in found if signal.level != "quiet"), "")
