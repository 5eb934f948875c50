"""Observed quality for people and scripts: days, windows, slices, estimates, restatements, the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

from rich.table import Table

from nightshift.cli.output import console
from nightshift.lake import tables
from nightshift.monitoring import estimates, predictions, quality, truth, windows
from nightshift.registry import deployments
from nightshift.usecase import UseCase

_DAYS = 7
_SHOWN = ("roc_auc", "pr_auc", "brier", "ece", "cost")


def collect(uc: UseCase, day: date | None = None) -> dict[str, Any]:
    """Return what is known of the quality of predictions as JSON-able values, but for dates.

    Args:
        uc: The use case.
        day: The last judged day to show; the newest by default. The seven days up to it are shown, and those
            after it that are scored and not judged yet.

    Returns:
        ``days`` (``observed`` metrics with their ``intervals``, the ``estimate``, what the model said and how
        scoring went), ``windows`` and ``slices`` of the last judged day, ``restatements``, ``degradation``
        and ``baseline``, the champion's figures on its holdout.
    """
    judged = [found for found in tables.partition_versions(uc, truth.OBSERVED) if not day or found <= day]
    last = max(judged, default=day or date.max - timedelta(days=1))
    first = max(last - timedelta(days=_DAYS - 1), uc.history_start)
    end = day or date.max
    night = last + timedelta(days=uc.label.lag_days)
    champion = deployments.champion_at(uc, night)
    degraded = quality.degradation(uc, night)
    return {
        "usecase": uc.name,
        "last_judged": last if judged else None,
        "days": _days(uc, first, end),
        "windows": [_finite(row) for row in windows.read(uc, last, last)],
        "slices": [_finite(row) for row in windows.read_slices(uc, last, last)],
        "restatements": [asdict(found) for found in truth.restatements(uc, first, end)],
        "champion": champion.version if champion else None,
        "baseline": champion.metrics if champion else {},
        "degradation": asdict(degraded) if degraded else None,
    }


def print_quality(uc: UseCase, found: dict[str, Any]) -> None:
    """Print what ``collect`` returned: the verdict first."""
    if not found["days"]:
        console.print(f"{uc.name}: no prediction has been judged yet")
        return
    console.print(_verdict(uc, found), markup=False)
    console.print(_day_table(uc, found))
    if found["windows"]:
        console.print(_window_table(found))
    if found["slices"]:
        console.print(_slice_table(uc, found))
    for change in found["restatements"]:
        was, now = change["was"], change["now"]
        console.print(
            f"restated {change['partition']} ({change['cause']}): rows {was['rows']} to {now['rows']}, "
            + ", ".join(
                f"{name} {was[name]:.4f} to {now[name]:.4f}"
                for name in (uc.gate.primary, "brier")
                if name in was and name in now
            ),
            markup=False,
        )


def _days(uc: UseCase, first: date, end: date) -> list[dict[str, Any]]:
    observed = {day: found for day, (_, found) in truth.observed_models(uc, first, end).items()}
    intervals = truth.observed_intervals(uc, first, end)
    estimated = {item.partition: item.estimated for item in estimates.estimates(uc, first, end)}
    said = predictions.profiles(uc, first, end)
    scored = predictions.performance(uc, first, end)
    return [
        {
            "day": day,
            "observed": observed.get(day),
            "intervals": {name: item.model_dump() for name, item in intervals.get(day, {}).items()},
            "estimate": estimated.get(day),
            "predictions": said[day].model_dump(mode="json") if day in said else None,
            "performance": _finite(scored[day]) if day in scored else None,
        }
        for day in sorted({*observed, *estimated, *said})
    ]


def _verdict(uc: UseCase, found: dict[str, Any]) -> str:
    if found["degradation"]:
        return f"{uc.name}: degraded: {found['degradation']['message']}"
    if found["champion"] is None:
        return f"{uc.name}: no champion"
    baseline = ", ".join(
        f"{name} {found['baseline'][name]:.3f}" for name in _SHOWN if name in found["baseline"]
    )
    return f"{uc.name}: no sign that version {found['champion']} has become worse; on its holdout: {baseline}"


def _day_table(uc: UseCase, found: dict[str, Any]) -> Table:
    named = (uc.gate.primary, "brier", "cost")
    columns = [column for name in named for column in (name, "est.")]
    table = Table(
        *("day", "rows", *columns, "acts"),
        title="by day: observed, and as estimated before any label was known",
        title_justify="left",
    )
    for of_day in found["days"]:
        observed, estimate = of_day["observed"] or {}, of_day["estimate"] or {}
        figures: list[str] = []
        for name in named:
            figures.append(_with_ends(observed.get(name), of_day["intervals"].get(name)))
            figures.append(_plain(estimate.get(name)))
        said = of_day["predictions"]
        rows = str(observed["rows"]) if observed else "-"
        table.add_row(str(of_day["day"]), rows, *figures, f"{said['positive_rate']:.0%}" if said else "-")
    return table


def _window_table(found: dict[str, Any]) -> Table:
    rows = found["windows"]
    columns = [f"{row['window_days']} days: {row['days']} judged, {row['rows']} rows" for row in rows]
    table = Table(
        *("", *columns, "champion's holdout"),
        title=f"windows to {found['last_judged']}",
        title_justify="left",
    )
    for name in _SHOWN:
        of_windows = (
            _with_ends(row[name], {end: row[f"{name}_{end}"] for end in ("low", "high")}) for row in rows
        )
        table.add_row(name, *of_windows, _plain(found["baseline"].get(name)))
    return table


def _slice_table(uc: UseCase, found: dict[str, Any]) -> Table:
    primary, longest = uc.gate.primary, max(windows.WINDOW_DAYS)
    table = Table(
        *("slice", "rows", primary, "on holdout", "brier", "verdict"),
        title=f"slices, {longest} days to {found['last_judged']}",
        title_justify="left",
    )
    for row in found["slices"]:
        if row["window_days"] == longest:
            ends = {"low": row[f"{primary}_low"], "high": row[f"{primary}_high"]}
            table.add_row(
                f"{row['slice']} {row['value']}",
                str(row["rows"]),
                _with_ends(row[primary], ends),
                _plain(row["baseline"]),
                _plain(row["brier"]),
                row["verdict"] or "too few",
            )
    return table


def _with_ends(value: float | None, ends: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    between = f" ({ends['low']:.3f}-{ends['high']:.3f})" if ends and ends["low"] is not None else ""
    return f"{value:.3f}{between}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
