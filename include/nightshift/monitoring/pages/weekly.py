"""The digest of an ISO week: its seven nights side by side, and what changed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from html import escape

from nightshift.monitoring.pages.drawing import Point, line
from nightshift.monitoring.pages.figures import say, score
from nightshift.monitoring.pages.nightly import STYLE, verdict_of
from nightshift.monitoring.pages.records import (
    COSTS,
    DRIFT,
    OBSERVED,
    PREDICTIONS,
    RESTATED,
    Records,
    past,
)
from nightshift.monitoring.pages.signals import SIGNS, Level, named, reasons_of, severity_of
from nightshift.page import NONE, document, html_table


def week_of(day: date) -> str:
    """Return the name of a day's ISO week, such as ``2013-W27``."""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


def nights_of(week: str) -> list[date]:
    """Return the seven days of an ISO week, Monday first."""
    return past(datetime.strptime(f"{week}-7", "%G-W%V-%u").date(), 7)


def weekly_page(records: Records, week: str, pages: Mapping[date, str]) -> str:
    """Return the digest of a week, a whole HTML document.

    Args:
        records: Of its nights.
        week: As ``week_of`` names it.
        pages: Address of the page of each night that has one.
    """
    uc, nights = records.uc, nights_of(week)
    done = [night for night in nights if night in records.predicted]
    levels = {night: verdict_of(records, night) for night in done}
    counts = ", ".join(
        f"{SIGNS[level]} {number} {level}"
        for level in SIGNS
        if (number := sum(found == level for found, _ in levels.values()))
    )
    changed = _changed(records, nights)
    return document(
        f"{uc.title}: week {week}",
        [
            f"<h1>{escape(uc.title)}</h1>",
            f"<p class='soft'>Week {week}: {nights[0]} to {nights[-1]}.</p>",
            f"<p><strong>{len(done)} of 7 nights</strong>{': ' if counts else ''}{counts}</p>",
            "<p class='soft'>Quality is of the predictions for a night, judged once its truth is known; "
            "below each figure its interval. A ring marks the first night of a new champion.</p>",
            f"<div class='pictures'>{_lines(records, nights)}</div>",
            _table(records, nights, pages, levels),
            "<h2>What changed</h2>",
            "<ul>" + "".join(f"<li>{item}</li>" for item in changed) + "</ul>"
            if changed
            else "<p class='none'>No request, no new champion, no restated figure.</p>",
        ],
        style=STYLE,
    )


def _lines(records: Records, nights: list[date]) -> str:
    began = {deployment.effective_from for deployment in records.deployed}

    def points(layer: str, metric: str) -> list[Point]:
        rows = {night: records.row(layer, night) for night in nights}
        return [
            Point(
                night.isoformat(),
                row.get(metric),
                row.get(f"{metric}_low"),
                row.get(f"{metric}_high"),
                night in began,
            )
            for night, row in rows.items()
        ]

    return "".join(
        line(points(layer, metric), label, decimals)
        for layer, metric, label, decimals in (
            (OBSERVED, "roc_auc", "ROC AUC", 3),
            (OBSERVED, "brier", "Brier score", 3),
            (PREDICTIONS, "mean", "mean score", 3),
            (COSTS, "night", "cost of a night", 4),
        )
    )


def _table(
    records: Records,
    nights: list[date],
    pages: Mapping[date, str],
    levels: Mapping[date, tuple[Level, str]],
) -> str:
    body = []
    for night in nights:
        name = f"{night:%a} {night}"
        linked = f"<a href='{escape(pages[night], quote=True)}'>{name}</a>" if night in pages else name
        level = levels.get(night)
        drift, observed, cost = (records.row(layer, night) for layer in (DRIFT, OBSERVED, COSTS))
        why = named(drift.get("columns") or ()) or drift.get("note")
        moved = f"<small>{escape(why)}</small>" if why else ""
        champion = records.champion(night)
        request = records.request_of(night)
        body.append(
            [
                linked,
                f"{SIGNS[level[0]]} {level[0]}" if level else "not scored",
                (f"<td class='text'>{say(drift['verdict'])}{moved}</td>" if moved else say(drift["verdict"]))
                if drift
                else NONE,
                say(records.predicted.get(night)),
                score(observed, "roc_auc") if observed else "not judged",
                score(observed, "brier"),
                say(sum(alert["count"] for alert in records.alerts_of(night))),
                f"{say(cost['night'])}<small>{say(cost.get('per_thousand'))} per 1,000</small>"
                if cost
                else NONE,
                say(request["state"]) if request else NONE,
                f"version {escape(champion.version)}" if champion else NONE,
            ]
        )
    head = [
        "night",
        "verdict",
        "drift",
        "predictions",
        "ROC AUC",
        "Brier",
        "alerts",
        "cost",
        "request",
        "champion",
    ]
    return html_table(head, body)


def _changed(records: Records, nights: list[date]) -> list[str]:
    """Return what happened in the week, in order of the nights, as HTML."""
    found = []
    for night in nights:
        said = []
        for deployment in records.deployed:
            if deployment.effective_from == night:
                verb = "promoted" if deployment.action == "promote" else "rolled back to"
                said.append(f"version {deployment.version} {verb}: {'; '.join(deployment.reasons[:1])}")
        request = records.request_of(night)
        if request is not None:
            said.append(f"a new model was asked for ({request['state']}): {'; '.join(reasons_of(request))}")
        said += [
            f"alert, {severity_of(alert)}: {alert.get('message', '')}" for alert in records.alerts_of(night)
        ]
        for row in records.rows(RESTATED, night):
            said.append(
                f"figures restated because of {row.get('cause')}: ROC AUC {_short(row.get('was_roc_auc'))} "
                f"became {_short(row.get('roc_auc'))}"
            )
        before = records.row(DRIFT, night - timedelta(days=1)).get("verdict")
        now = records.row(DRIFT, night).get("verdict")
        if before and now and before != now:
            said.append(f"drift verdict went from {before} to {now}")
        found += [f"{night}: {escape(item)}" for item in said]
    return found


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "undefined"
