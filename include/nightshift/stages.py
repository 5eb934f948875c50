"""The loop, stage by stage: what each Airflow task does, callable without Airflow.

Every function takes a use case and days and returns a small JSON-able value. They stand in the order
of a night. Each may be called again for the same days and changes nothing then. With ``only_stale`` a stage
does of its days those that rest on older versions than those that count now (``monitoring.staleness``).

Rooms are imported inside the functions: Great Expectations, dbt, MLflow and Evidently take seconds to
import, and a task should pay only for the one it uses.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from nightshift.errors import DataError, TransientError
from nightshift.partition import days, spans
from nightshift.usage import count_rows, tell
from nightshift.usecase import UseCase

if TYPE_CHECKING:
    from nightshift.lake.raw import RawManifest
    from nightshift.lake.staging import Staged
    from nightshift.lake.tables import PartitionVersion
    from nightshift.monitoring.drift import DriftResult
    from nightshift.monitoring.requests import OutcomeKind
    from nightshift.monitoring.staleness import Stale
    from nightshift.registry.records import Candidate
    from nightshift.registry.states import Standing

log = logging.getLogger(__name__)

# A month is validated and published at once: few calls, and memory that does not grow with the range.
_MONTH = 31

_SECONDS_BETWEEN_LINES = 10.0


# Ingestion ------------------------------------------------------------------------------------------


def capture(uc: UseCase, source: str) -> dict[str, int]:
    """Keep in its journal what a source that forgets has said since the last time: changes, a table.

    Raises:
        DataError: What it says of a table is bad, or lost. Every other table was captured.
        TransientError: The source or the lake cannot be reached.
    """
    from nightshift.sources.captured import CapturedConnector
    from nightshift.sources.registry import open_connector

    connector = open_connector(uc, source)
    if not isinstance(connector, CapturedConnector):
        return {}
    captured: dict[str, int] = {}
    refused: list[DataError] = []
    for table in uc.sources[source].tables:
        try:
            captured[table] = connector.capture(table)
        except DataError as error:
            log.error("%s.%s was not captured: %s", source, table, error)
            refused.append(error)
        else:
            _say(f"captured {source}.{table}: {captured[table]} changes")
    if refused:
        raise refused[0]
    count_rows(sum(captured.values()))
    return captured


def land(
    uc: UseCase, source: str, start: date, end: date, refresh: Sequence[str] = ("slow", "daily")
) -> dict[str, Any]:
    """Extract, validate, quarantine and land what the nights ``start`` to ``end`` make known.

    Args:
        refresh: Which tables. Slow ones are landed only when they changed, so stretches of one range may
            land side by side for daily tables only.

    Returns:
        Per table: partitions landed and rows in, accepted and quarantined.

    Raises:
        DataError: A partition is bad. Of a range of nights every other one was landed, and the error names
            those that were not; of a single night no later table was, so that nothing is built on it.
        TransientError: The source or the lake cannot be reached.
    """
    from nightshift.ingestion import land_good, land_partitions, record_feedback

    began = datetime.now(UTC)
    if start < uc.history_start:
        raise DataError(
            f"there is nothing to ingest for {start}",
            rule=f"history_start: {uc.history_start} is the first partition that exists upstream",
            where=f"{uc.name}, {source}, {start} to {end}",
            cure="ask for later days, or correct history_start in usecase.yml",
        )
    landed: dict[str, Any] = {}
    refused: list[tuple[str, date, DataError]] = []
    # A night's own day lands last, so that a later night that finds it finds this night's corrections too.
    tables = sorted(
        uc.sources[source].tables.items(), key=lambda item: (item[1].refresh != "slow", -item[1].lag_days)
    )
    for name, table in tables:
        if table.refresh not in refresh:
            continue
        wanted: dict[date, datetime] = {}
        for night in days(start, end):
            # Later nights see more of the same partition, so the last one to ask wins.
            wanted |= dict.fromkeys(table.partitions_of_night(night, uc.history_start), uc.as_of(night))
        if start == end:
            manifests = land_partitions(uc, source, name, wanted)
        else:
            manifests, bad = land_good(uc, source, name, wanted)
            refused += [(name, day, error) for day, error in bad.items()]
        landed[name] = {
            "partitions": len(manifests),
            "rows_in": sum(m.rows_in for m in manifests),
            "rows_accepted": sum(m.rows_accepted for m in manifests),
            "rows_quarantined": sum(m.rows_quarantined for m in manifests),
        }
        count_rows(landed[name]["rows_in"])
        _look_for_personal(uc, source, name, [one for one in manifests if one.extracted_at >= began])
        _say(
            f"landed {source}.{name}, {_span(start, end)}: {landed[name]['rows_in']} rows in "
            f"{landed[name]['partitions']} partitions = {landed[name]['rows_accepted']} accepted + "
            f"{landed[name]['rows_quarantined']} quarantined"
        )
        if heard := record_feedback(uc, source, name, wanted):
            landed[name]["labels_recorded"] = heard.recorded
            _say(
                f"labels of {source}.{name}: {heard.recorded} recorded, {heard.waiting} wait for a "
                f"prediction, {heard.odd} are neither 0 nor 1"
            )
    if refused:
        raise _refused(uc, source, refused)
    return landed


def _look_for_personal(uc: UseCase, source: str, table: str, landed: Sequence[RawManifest]) -> None:
    """Alert, once each, of unclassed columns that look personal in the newest partition that was landed."""
    from nightshift.lake import raw
    from nightshift.monitoring.alerting import raise_alert
    from nightshift.quality.scan import scan

    if not landed:
        return
    newest = max(landed, key=lambda manifest: manifest.partition)
    for found in scan(uc.sources[source].tables[table], raw.read(newest)):
        subject = f"unclassed {source}.{table}.{found.column}"
        message = (
            f"{found}, and the catalogue does not call the column personal; if it is, say so under `pii` in "
            "sources.yml, and how it is protected"
        )
        raise_alert(uc.name, "data", subject, message, once=f"{subject} {found.kind}")


def _refused(uc: UseCase, source: str, refused: Sequence[tuple[str, date, DataError]]) -> DataError:
    """Return one error about all partitions of a range that could not be landed."""
    names = [f"{source}.{table} of {day}" for table, day, _ in refused]
    for (_, _, error), name in zip(refused, names, strict=True):
        log.error("%s was not landed: %s", name, error)
    shown = [f"{name}: {error.message}" for name, (_, _, error) in zip(names, refused, strict=True)]
    more = f"; and {len(shown) - 3} more, in the log" if len(shown) > 3 else ""
    first = refused[0][2]
    ordered = sorted({day for _, day, _ in refused})
    return DataError(
        f"not landed, while all else of the range was: {'; '.join(shown[:3])}{more}",
        rule=first.rule,
        where=f"{uc.name}, {', '.join(names)}",
        cure=f"{first.cure}. Then land {_span(ordered[0], ordered[-1])} again (rebuild, stage raw): what is "
        "landed is left as it is, and no features are built that look back on a missing day",
    )


def load(uc: UseCase, start: date, end: date) -> dict[str, int]:
    """Load the current raw objects of the nights ``start`` to ``end`` into the warehouse: rows per table."""
    from nightshift.warehouse.engine import engine
    from nightshift.warehouse.load import load as load_raw

    with engine().exclusive(uc.name):
        loaded = load_raw(uc, start, end)
    count_rows(sum(loaded.values()))
    changed = ", ".join(f"{table} {rows} rows" for table, rows in loaded.items() if rows)
    _say(f"loaded, {_span(start, end)}: {changed or 'nothing that was not there'}")
    return loaded


# Features -------------------------------------------------------------------------------------------


def build_features(uc: UseCase, start: date, end: date, *, only_stale: bool = False) -> list[dict[str, Any]]:
    """Build features of ``start`` to ``end``, and the labels known by then, and stage them for validation."""
    from nightshift.features.build import build

    if only_stale:
        from nightshift.monitoring.staleness import nights

        found = _stale(uc, start, end)
        stale = {(item.layer, item.partition) for item in found}
        staged = [
            item
            for first, last in spans(
                night for night in nights(uc, found)["features"] if start <= night <= end
            )
            for items in build(uc, first, last).values()
            for item in items
            if (item.layer, item.partition) in stale
        ]
    else:
        staged = [item for items in build(uc, start, end).values() for item in items]
    _tell_layers("built", staged)
    return [item.model_dump(mode="json") for item in staged]


def validate_features(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check staged features and labels, quarantine the rows that fail, and stage the accepted ones."""
    return _validate(uc, staged)


def publish_features(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Publish validated labels, then features; each layer changes in one commit a month.

    Whoever finds the features of a day, after a kill too, finds the labels that came with them.
    """
    from nightshift.features.publish import publish

    ordered = sorted(staged, key=lambda item: str(item["layer"]) == "features")
    before = _before(uc, staged)
    published = [version for chunk in _by_layer(ordered) for version in publish(uc, chunk)]
    _tell_layers("published", published, before)
    return [version.model_dump(mode="json") for version in published]


# Inference ------------------------------------------------------------------------------------------


def score(
    uc: UseCase, start: date, end: date, run_id: str = "", *, only_stale: bool = False
) -> list[dict[str, Any]]:
    """Score each day with the champion in force on it, and stage the predictions for validation."""
    from nightshift.inference.score import score as score_partition
    from nightshift.registry.deployments import history

    nights = _nights(uc, "predictions", start, end, only_stale=only_stale)
    deployed = history(uc)
    staged = [score_partition(uc, day, run_id, deployed) for day in _each(nights, "scored")]
    _tell_layers("scored", staged)
    return [item.model_dump(mode="json") for item in staged]


def first_scored(uc: UseCase) -> date | None:
    """Return the first day that a champion was in force on; None while there is no champion."""
    from nightshift.registry.deployments import history

    return min((deployment.effective_from for deployment in history(uc)), default=None)


def validate_predictions(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check that each entity is scored exactly once, within range, and as the model scores its features."""
    from nightshift.inference.verify import verify

    accepted = _validate(uc, staged)
    for item in (item for chunk in _by_layer(accepted) for item in chunk):
        _say(f"scored again {item.partition}: {verify(uc, item)} scores are the same")
    return accepted


def publish_predictions(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Publish validated predictions to the lake, then to the table that applications read."""
    from nightshift.databases import url
    from nightshift.inference.publish import publish_predictions as publish
    from nightshift.inference.serving import serve
    from nightshift.lake.staging import Staged

    before = _before(uc, staged)
    published = []
    for item in staged:
        version = publish(uc, Staged.model_validate(item))
        serve(uc, version.partition, url("serving"))
        published.append(version)
    _tell_layers("published", published, before)
    return [version.model_dump(mode="json") for version in published]


def score_shadow(uc: UseCase, night: date) -> str | None:
    """Score a night with the challenger that awaits a decision, beside the champion: its version, if any.

    A challenger that fails is logged and scores nothing: nobody relies on it yet, so it stops nothing. Bad
    luck is raised: another try scores the night.

    Raises:
        TransientError: The storage failed; try again.
    """
    from nightshift.inference.shadow import challenger
    from nightshift.inference.shadow import score_shadow as score_challenger

    try:
        standing = challenger(uc)
        scored = standing is not None and score_challenger(uc, night) is not None
    except TransientError:
        raise
    except Exception:
        log.exception("the challenger could not score %s; score it again to try that again", night)
        return None
    return standing.version if standing is not None and scored else None


def serve_again(uc: UseCase) -> dict[str, str]:
    """Copy again what applications read in another content than the lake has: how it differed, a day.

    A run that failed between lake and database, a partition rolled back, deleted, or swept by retention: what
    is served follows the lake. A partition that cannot be read does not keep the others from being served.
    """
    from nightshift.databases import url
    from nightshift.errors import DataError
    from nightshift.inference.serving import differences, serve

    different = differences(uc, url("serving"))
    broken: list[DataError] = []
    # The newest first: of an entity that several nights scored, it is the one that is served.
    for day in sorted(different, reverse=True):
        log.warning("%s: predictions of %s: %s", uc.name, day, different[day])
        try:
            serve(uc, day, url("serving"))
        except DataError as error:
            broken.append(error)
    if broken:
        raise broken[0]
    return {day.isoformat(): how for day, how in different.items()}


# Monitoring -----------------------------------------------------------------------------------------


def check_drift(uc: UseCase, start: date, end: date, *, only_stale: bool = False) -> dict[str, str]:
    """Compare each day's features and scores with the champion's training data: a verdict a day."""
    verdicts: dict[str, str] = {}
    for result in _check_drift(uc, start, end, only_stale=only_stale):
        _alert_of_drift(uc, result)
        if start <= result.partition <= end:
            verdicts[result.partition.isoformat()] = result.verdict
            _say(f"drift on {result.partition}: {', '.join(filter(None, (result.verdict, result.reason)))}")
    return verdicts


def check_drift_quietly(uc: UseCase, start: date, end: date, *, only_stale: bool = False) -> dict[str, str]:
    """Do what ``check_drift`` does for one chunk of a range, and leave its alerts to ``alert_of_range``."""
    checked = list(_check_drift(uc, start, end, only_stale=only_stale))
    return {one.partition.isoformat(): one.verdict for one in checked if start <= one.partition <= end}


def alert_of_range(uc: UseCase, start: date, end: date) -> list[str]:
    """Alert of what the chunks of a range found, day after day: the days with an alarm.

    A chunk that is checked beside the one before it does not know of a drift that lasts since then, and would
    tell people of it as of a new one. What they were told of before they are not told again.
    """
    from nightshift.monitoring.drift import results
    from nightshift.monitoring.quality import alert_when_degraded

    # A day changes verdicts of later ones that look back on it.
    reach = timedelta(days=max(uc.drift.windows) + uc.drift.confirm.of)
    kept = results(uc, start, end + reach)
    alarming = [kept[day] for day in sorted(kept) if _alarms(kept[day])]
    for result in alarming:
        _alert_of_drift(uc, result)
    alert_when_degraded(uc, end)
    return [result.partition.isoformat() for result in alarming]


def _check_drift(uc: UseCase, start: date, end: date, *, only_stale: bool) -> Iterator[DriftResult]:
    """Yield the result of each day, and of later days that it changes; then draw it as a report."""
    from nightshift.monitoring.drift import check_through
    from nightshift.monitoring.reports import draw
    from nightshift.registry.deployments import history

    nights = _nights(uc, "drift", start, end, only_stale=only_stale)
    deployed = history(uc)
    for day in _each(nights, "compared"):
        for result in check_through(uc, day, deployed):
            yield result
            try:
                draw(uc, result, deployed)
            except Exception:
                # The verdict stands without its picture; checked again, the day is drawn again.
                log.exception("the drift report of %s %s could not be drawn", uc.name, result.partition)


def _alert_of_drift(uc: UseCase, result: DriftResult) -> None:
    """Tell people of confirmed drift, and of each thing that is wrong with the data, once while it lasts."""
    from nightshift.monitoring.alerting import raise_alert

    alarms = _alarms(result)
    for alarm, first in _since(uc, result.partition, alarms).items():
        kind: Literal["drift", "data"] = "drift" if alarm == "drift" else "data"
        subject = f"{result.partition}" if kind == "drift" else f"{alarm} {result.partition}"
        raise_alert(uc.name, kind, subject, alarms[alarm], once=f"{alarm} {first}")


def _alarms(result: DriftResult) -> dict[str, str]:
    """Return what people are to know of a day, such as ``outage temperature``, with its message."""
    found = {f"{one.kind} {one.column}".rstrip(): one.message for one in result.findings}
    return {"drift": result.reason, **found} if result.verdict == "drift" else found


def _since(uc: UseCase, day: date, alarms: Iterable[str]) -> dict[str, date]:
    """Return since when each alarm of ``day`` has been there day after day, by the kept results."""
    from nightshift.monitoring.drift import results

    since = dict.fromkeys(alarms, day)
    lasting, read = set(since), day
    kept: dict[date, DriftResult] = {}
    while lasting:
        day -= timedelta(days=1)
        if day < read:
            read = day - timedelta(days=_MONTH)
            kept = results(uc, read, day)
        lasting &= set(_alarms(kept[day])) if day in kept else set()
        since |= dict.fromkeys(lasting, day)
    return since


def judge(uc: UseCase, start: date, end: date, *, only_stale: bool = False) -> dict[str, Any]:
    """Join earlier predictions with the truth known by now: observed metrics a day, windows and slices.

    A champion that has become worse than its baseline raises an alert. Each night's own predictions are
    described and their quality estimated; what fails of that is logged, for the truth is judged by then.
    """
    from nightshift.monitoring import windows
    from nightshift.monitoring.quality import alert_when_degraded
    from nightshift.monitoring.truth import days_of

    nights = _nights(uc, "truth", start, end, only_stale=only_stale)
    judged = _judge_days(uc, nights)
    for first, last in spans(nights):
        windows.update(uc, days_of(uc, first)[0], last)
        alert_when_degraded(uc, last)
    _describe(uc, start, end)
    return judged


def judge_days(uc: UseCase, start: date, end: date, *, only_stale: bool = False) -> dict[str, Any]:
    """Do of ``judge`` what each day of a chunk of a range needs for itself.

    Windows reach over the edges of chunks: ``judge_windows`` makes them, once all days are judged. Whether
    the champion has become worse is asked once, by ``alert_of_range``.
    """
    judged = _judge_days(uc, _nights(uc, "truth", start, end, only_stale=only_stale))
    _describe(uc, start, end)
    return judged


def judge_windows(uc: UseCase, start: date, end: date, whole: tuple[date, date]) -> list[str]:
    """Make the windows that end in one chunk of a range follow the judged days: which changed.

    Args:
        uc: The use case.
        start: First day of the chunk.
        end: Last day of the chunk.
        whole: First and last day of the range. To its first chunk belong the windows of the earlier days that
            its nights brought truth of, and to its last chunk those that end later.
    """
    from nightshift.monitoring import windows
    from nightshift.monitoring.truth import days_of

    first = days_of(uc, start)[0] if start == whole[0] else start
    last = end + windows.LONGEST if end == whole[1] else end
    changed = windows.update_ending(uc, first, last)
    _say(f"windows that end on {_span(first, last)}: {len(changed)} have changed")
    return [day.isoformat() for day in changed]


def _judge_days(uc: UseCase, nights: Sequence[date]) -> dict[str, Any]:
    from nightshift.monitoring.truth import judge

    judged: dict[str, Any] = {}
    for night in _each(nights, "judged"):
        judged |= judge(uc, night)
    for day, found in judged.items():
        if found["status"] == "judged":
            count_rows(int(found["rows"]))
            metrics = {name: found[name] for name in ("roc_auc", "pr_auc", "brier", "ece") if name in found}
            figures = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
            _say(f"judged predictions {day}: {found['rows']} rows, {figures}")
    return judged


def _describe(uc: UseCase, start: date, end: date) -> None:
    """Describe each night's own predictions, and estimate their quality; what fails of that is logged."""
    from nightshift.monitoring.estimates import estimate
    from nightshift.monitoring.predictions import profile

    for night in _each(list(days(start, end)), "described"):
        try:
            if profile(uc, night) is None or estimate(uc, night) is None:
                log.warning("%s %s has no predictions to describe", uc.name, night)
        except TransientError:
            raise  # bad luck is tried again, like that of judging
        except Exception:
            log.exception("the predictions of %s could not be described; judge it again to try that", night)


def judge_shadow(uc: UseCase, judged: Mapping[str, Any]) -> dict[str, int]:
    """Judge the shadow scores of the days that ``judge`` judged, beside the champion's: rows a day.

    A day that fails is logged and left out: nobody relies on a challenger yet, so it stops nothing. Bad luck
    is raised: another try judges the day.

    Args:
        uc: The use case.
        judged: What ``judge`` returned.

    Raises:
        TransientError: The storage failed; try again.
    """
    from nightshift.monitoring.shadow import judge

    rows: dict[str, int] = {}
    for day, found in judged.items():
        if found["status"] != "judged":
            continue
        try:
            row = judge(uc, date.fromisoformat(day))
        except TransientError:
            raise
        except Exception:
            log.exception("the challenger could not be judged on %s", day)
            continue
        if row is not None:
            rows[day] = row["rows"]
    return rows


def account(uc: UseCase, night: date) -> dict[str, float]:
    """Put what tasks used for ``night`` and before into tables, price it, and alert where a budget is broken.

    Returns:
        By night (``YYYY-MM-DD``), what its chain has cost so far.
    """
    from nightshift.monitoring import resources
    from nightshift.monitoring.alerting import raise_alert

    found = resources.fold(uc, night)
    # The night so far, and the one before, whose last tasks have ended by now.
    for cost in found:
        if cost.partition < night - timedelta(days=1):
            continue
        if broken := resources.over_budget(uc, cost):
            raise_alert(uc.name, "cost", f"{cost.partition}", broken, once=f"cost/{uc.name}/{cost.partition}")
    for cost in found[-1:]:
        each = "" if cost.per_thousand is None else f", {cost.per_thousand:.4g} for 1,000 predictions"
        _say(f"{cost.partition} cost {cost.night:.4g} {cost.prices.unit} so far{each}")
    return {cost.partition.isoformat(): cost.night for cost in found}


def decide_retrain(uc: UseCase, night: date) -> list[str]:
    """Return the reasons to train a new model tonight; none means the champion stays."""
    from nightshift.monitoring.alerting import raise_alert
    from nightshift.monitoring.retrain import decide, request

    decision = decide(uc, night)
    if decision.requested:
        request(uc, decision)
    reasons = list(decision.reasons) if decision.requested else []
    why = "; ".join((*decision.reasons, decision.held)) if decision.held else "; ".join(reasons)
    _say(f"new model on {night}: " + (f"{'wanted' if reasons else 'held back'}: {why}" if why else "no"))
    if decision.exhausted:
        # As long as the same requests have spent it, it is the same news.
        raise_alert(uc.name, "retrain", "budget", f"no new model on {night}: {why}", once=decision.held)
    return reasons


def queue_labels(uc: UseCase, start: date, end: date) -> dict[str, Any]:
    """Queue each night's most informative predictions for people to label: how many, a night."""
    from nightshift.monitoring.labelling import queue

    queued = {night.isoformat(): queue(uc, night) for night in days(start, end)}
    for night, found in queued.items():
        _say(f"labelling {night}: {found['status']}, {found['queued']} of {found['candidates']}")
    return queued


def write_pages(uc: UseCase, start: date, end: date) -> list[str]:
    """Write the page of each night, the digests of the weeks they add to and the index: their paths."""
    from nightshift.monitoring.pages.write import write_pages as write

    written = [str(file) for file in write(uc, start, end)]
    log.info("pages: %s", ", ".join(written))
    _say(f"wrote {len(written)} pages of {_span(start, end)}")
    return written


# Training -------------------------------------------------------------------------------------------


def plan_backtest(
    uc: UseCase, night: date | None = None, folds: int | None = None
) -> list[dict[str, dict[str, Any]]]:
    """Freeze what is known by ``night``, by default the newest one that labels came with, and cut it.

    Returns:
        A ``snapshot`` and a ``fold`` for each cut-off, the oldest first.
    """
    from nightshift.evaluation.backtest import folds_of, newest_night
    from nightshift.training.snapshot import Snapshot

    taken = take_snapshot(uc, night or newest_night(uc))
    cut = folds_of(uc, Snapshot.model_validate(taken), folds)
    return [{"snapshot": taken, "fold": fold.model_dump(mode="json")} for fold in cut]


def evaluate_fold(
    uc: UseCase, snapshot: dict[str, Any], fold: dict[str, Any], trainer: str
) -> dict[str, Any]:
    """Train one trainer at one cut-off, and judge it on the days that follow."""
    from nightshift.evaluation.backtest import Fold
    from nightshift.evaluation.backtest import evaluate_fold as evaluate
    from nightshift.training.snapshot import Snapshot

    frozen, cut = Snapshot.model_validate(snapshot), Fold.model_validate(fold)
    return evaluate(uc, frozen, cut, trainer).model_dump(mode="json")


def conclude_backtest(
    uc: UseCase, plan: Sequence[dict[str, dict[str, Any]]], outcomes: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Record what came of all folds of a plan, and write the page about it.

    Args:
        uc: The use case.
        plan: What ``plan_backtest`` returned.
        outcomes: What ``evaluate_fold`` returned for each of its folds, trainer by trainer.
    """
    from nightshift.evaluation.backtest import Fold, Outcome, conclude
    from nightshift.evaluation.backtest_report import write_backtest
    from nightshift.training.snapshot import Snapshot

    folds = [Fold.model_validate(item["fold"]) for item in plan]
    reached = [Outcome.model_validate(outcome) for outcome in outcomes]
    found = conclude(uc, Snapshot.model_validate(plan[0]["snapshot"]), folds, reached)
    primary = uc.gate.primary
    for name in found.trainers:
        spread = found.spreads[name].get(primary)
        if spread is not None:
            _say(
                f"{name}: {primary} {spread.mean:.4f} over {spread.folds} cut-offs, "
                f"{spread.low:.4f} to {spread.high:.4f}"
            )
    log.info("report: %s", write_backtest(uc, found))
    return found.model_dump(mode="json")


def begin_training(
    uc: UseCase, night: date, run_id: str, *, by_hand: bool = False, by: str = "operator"
) -> bool:
    """Note that a run trains for the night's request; False when nothing asks for that any more."""
    from nightshift.monitoring.requests import begin

    life = begin(uc, night, run_id=run_id, by_hand=by_hand, by=by)
    _say(f"trains for: {'; '.join(life.request.reasons) if life else 'nothing, the request is closed'}")
    return life is not None


def outcome_of(uc: UseCase, night: date) -> OutcomeKind | None:
    """Return how the night's newest request ended; None while it is open, or without one."""
    from nightshift.monitoring.requests import lives

    newest = next((life for life in reversed(lives(uc)) if life.request.night == night), None)
    return newest.outcome.kind if newest and newest.outcome else None


def training_failed(uc: UseCase, run_id: str, reason: str) -> None:
    """Close the request that a failed run had taken up."""
    from nightshift.monitoring.requests import close_failed

    close_failed(uc, run_id, reason)


def superseded(uc: UseCase, night: date) -> bool:
    """Return whether the champion already knows all that a training of ``night`` would.

    That closes the request for it.
    """
    from nightshift.monitoring.requests import close
    from nightshift.registry.deployments import mirror, newest

    deployment = newest(uc)
    if deployment is None or deployment.trained_night < night:
        return False
    # A promotion that was killed after its log entry ends here when it is run again.
    mirror(uc)
    known = f"version {deployment.version} knows what was known on {deployment.trained_night}"
    close(uc, night, "superseded", [known], version=deployment.version)
    return True


def take_snapshot(uc: UseCase, night: date) -> dict[str, Any]:
    """Freeze what is known by ``night`` as the data of one training, and judge it first."""
    from nightshift.evaluation.leakage import refuse_leaks
    from nightshift.quality.reference import remember
    from nightshift.quality.snapshot import validate_snapshot
    from nightshift.training.snapshot import load, snapshot

    frozen = snapshot(uc, night, check=lambda parts: validate_snapshot(uc, night, parts))
    train = load(frozen, "train")
    refuse_leaks(uc, night, train)
    # The suites of later nights compare their features with what training saw.
    remember(uc, frozen.content_hash, train)
    count_rows(frozen.train.rows + frozen.validation.rows + frozen.holdout.rows)
    parts = (("train", frozen.train), ("validation", frozen.validation), ("holdout", frozen.holdout))
    described = (f"{name} {part.rows} rows ({part.start} to {part.end})" for name, part in parts)
    _say(f"snapshot {frozen.content_hash[:12]} of night {night}: {', '.join(described)}")
    return frozen.model_dump(mode="json")


def train_candidate(uc: UseCase, snapshot: dict[str, Any], trainer: str) -> dict[str, Any]:
    """Train one candidate on the snapshot and log it to MLflow."""
    from nightshift.training.snapshot import Snapshot
    from nightshift.training.train import train

    candidate = train(uc, Snapshot.model_validate(snapshot), trainer)
    _say(f"trained {trainer}, MLflow run {candidate.run_id}")
    return candidate.model_dump(mode="json")


def open_search(
    uc: UseCase,
    snapshot: dict[str, Any],
    trainer: str,
    trials: int | None = None,
    minutes: float | None = None,
) -> list[dict[str, Any]]:
    """Begin a search for better parameters: the search and the number of each of its trials."""
    from nightshift.training import search
    from nightshift.training.snapshot import Snapshot

    opened = search.open_search(
        uc, Snapshot.model_validate(snapshot), trainer, trials=trials, minutes=minutes
    )
    return [{"search": opened.model_dump(mode="json"), "index": index} for index in range(opened.trials)]


def run_trial(uc: UseCase, search: dict[str, Any], index: int) -> dict[str, Any]:
    """Train with the parameters of one trial of a search, and log it to MLflow."""
    from nightshift.training import search as searching

    return searching.run_trial(uc, searching.Search.model_validate(search), index).model_dump(mode="json")


def conclude_search(uc: UseCase, search: dict[str, Any]) -> dict[str, Any]:
    """Say which trial of a search did best, and how to take its parameters over."""
    from nightshift.training import search as searching

    return searching.conclude(uc, searching.Search.model_validate(search)).model_dump(mode="json")


def evaluate(
    uc: UseCase,
    snapshot: dict[str, Any],
    candidates: Sequence[dict[str, Any]],
    *,
    by: str = "train",
    override: str = "",
) -> dict[str, Any]:
    """Judge candidates and champion on the same holdout rows, which ``override`` says why to open again."""
    from nightshift.evaluation.evaluate import evaluate as evaluate_candidates
    from nightshift.registry.records import Candidate
    from nightshift.training.snapshot import Snapshot

    frozen = Snapshot.model_validate(snapshot)
    trained = [Candidate.model_validate(item) for item in candidates]
    evaluation = evaluate_candidates(uc, frozen, trained, by=by, override=override)
    judged = [(challenge.candidate.trainer, challenge.judged) for challenge in evaluation.challenges]
    if evaluation.champion_judged:
        judged.append(("champion", evaluation.champion_judged))
    primary = uc.gate.primary
    figures = (f"{name} {primary} {model.metrics.get(primary, math.nan):.4f}" for name, model in judged)
    _say(f"night {frozen.night}, holdout {_span(evaluation.start, evaluation.end)}: {'; '.join(figures)}")
    return evaluation.model_dump(mode="json")


def gate(uc: UseCase, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Decide whether the best candidate may become champion, with reasons."""
    from nightshift.evaluation.evaluate import Evaluation
    from nightshift.evaluation.gate import gate as decide
    from nightshift.evaluation.report import write_report

    judged = Evaluation.model_validate(evaluation)
    decision = decide(uc, judged)
    log.info("report: %s", write_report(uc, judged, decision))
    passes = "passes" if decision.promote else "does not pass"
    _say(f"gate: {decision.candidate.trainer} {passes}: {'; '.join(decision.reasons)}")
    return decision.model_dump(mode="json")


def propose(uc: UseCase, decision: dict[str, Any]) -> dict[str, Any]:
    """Register what the gate judged, with its model card; what was rejected before is refused.

    What is refused closes the request for it.

    Returns:
        The decision, with ``promote`` false and a reason when it was rejected.
    """
    from nightshift.monitoring.requests import close
    from nightshift.registry.deployments import propose as register
    from nightshift.registry.records import Decision

    judged = Decision.model_validate(decision)
    standing = register(uc, judged)
    _say(f"version {standing.version}: {standing.state}")
    _keep_baseline(uc, standing.version, judged.candidate)
    if judged.promote and standing.approval is not None and standing.rejected:
        reason = f"version {standing.version} was rejected by {standing.approval.by}"
        _say(reason)
        judged = judged.model_copy(update={"promote": False, "reasons": [*judged.reasons, reason]})
    if not judged.promote:
        ended: Literal["rejected", "refused"] = "rejected" if standing.rejected else "refused"
        close(uc, judged.candidate.trained_night, ended, judged.reasons, version=standing.version)
    return judged.model_dump(mode="json")


def _keep_baseline(uc: UseCase, version: str, candidate: Candidate) -> None:
    """Learn what is ordinary for a version now, so that no night has to; without it, it is still usable."""
    from nightshift.monitoring.baseline import of_model

    try:
        of_model(uc, version, candidate.content_hash, candidate.snapshot_hash)
    except DataError as error:
        log.warning("no baseline of version %s: %s", version, error)


def open_question(uc: UseCase, decision: dict[str, Any]) -> bool:
    """Return whether what the gate let pass is a challenger still, so that a person may decide about it."""
    return _standing(uc, decision).state == "challenger"


def approval_of(uc: UseCase, decision: dict[str, Any]) -> dict[str, Any] | None:
    """Return what was decided about a proposed challenger; None when nobody has decided yet."""
    standing = _standing(uc, decision)
    return standing.approval.model_dump(mode="json") if standing.approval else None


def ask(uc: UseCase, decision: dict[str, Any]) -> tuple[str, str]:
    """Return the question that a person has to answer about a proposed challenger: subject, and Markdown."""
    from nightshift.monitoring.shadow import compare, in_words
    from nightshift.registry.card import summary
    from nightshift.registry.records import Decision
    from nightshift.services import mlflow

    version = _standing(uc, decision).version
    body = summary(uc, version, Decision.model_validate(decision), mlflow.address())
    body += f"\n\n{in_words(compare(uc, version), version)}\n"
    return f"{uc.title}: make version {version} champion?", body


def decide(uc: UseCase, decision: dict[str, Any], approval: dict[str, Any]) -> dict[str, Any]:
    """Record what a person decided about a proposed challenger; a no closes the request for it."""
    from nightshift.monitoring.requests import close
    from nightshift.registry.deployments import decide as record
    from nightshift.registry.records import Approval

    standing = record(uc, _standing(uc, decision).version, Approval.model_validate(approval))
    recorded = standing.approval
    if recorded is not None:
        _say(f"version {standing.version}: {recorded.decision} by {recorded.by}")
        if standing.rejected:
            why = f"by {recorded.by}: {recorded.comment}" if recorded.comment else f"by {recorded.by}"
            night = standing.entries[0].trained_night
            close(uc, night, "rejected", [why], version=standing.version)
    return recorded.model_dump(mode="json") if recorded else {}


def promote(
    uc: UseCase,
    night: date,
    decision: dict[str, Any],
    *,
    policy: Literal["manual"] | None = None,
) -> dict[str, Any]:
    """Put the gate's choice in force from the day after ``night``; that closes the request for it."""
    from nightshift.monitoring.requests import close
    from nightshift.registry.deployments import contradicted
    from nightshift.registry.deployments import promote as deploy
    from nightshift.registry.records import Decision

    deployment = deploy(
        uc, Decision.model_validate(decision), effective_from=night + timedelta(days=1), policy=policy
    )
    _say(f"champion from {deployment.effective_from} on: version {deployment.version}")
    close(uc, deployment.trained_night, "promoted", deployment.reasons, version=deployment.version)
    for first, last in spans(contradicted(uc, deployment.effective_from)):
        log.warning("to be rebuilt, for another version scored it: %s", _span(first, last))
    return deployment.model_dump(mode="json")


def roll_back(
    uc: UseCase, version: str | None, effective_from: date | None, reason: str, by: str = "operator"
) -> dict[str, Any]:
    """Put an earlier champion in force again, by default from the first unscored night on.

    Without a version it is the one that the last promotion replaced; after a rollback it has to be named.
    """
    from nightshift.registry.deployments import contradicted, rollback

    deployment = rollback(uc, version, effective_from=effective_from, reason=reason, by=by)
    _say(f"champion from {deployment.effective_from} on: version {deployment.version} again")
    for first, last in spans(contradicted(uc)):
        _say(f"to be rebuilt, for another version scored it: {_span(first, last)}")
    return deployment.model_dump(mode="json")


# Keeping --------------------------------------------------------------------------------------------


def find_gaps(uc: UseCase, grace_minutes: int) -> dict[str, list[str]]:
    """Return the nights to announce again, by asset; those it did not help (``stuck``); ``late`` ones.

    The latter two are alerted about, and so is a request for a new model that is open for too long.
    """
    from nightshift.monitoring import requests
    from nightshift.monitoring.alerting import raise_alert
    from nightshift.monitoring.gaps import claim
    from nightshift.monitoring.gaps import find_gaps as find

    gaps = find(uc, grace=timedelta(minutes=grace_minutes))
    found = {asset: claim(uc, asset, nights) for asset, nights in gaps.again.items()}
    # A request that nobody takes up stops no night; it is alerted about below.
    stopping = {
        night for asset, nights in gaps.again.items() if asset != "retrain_request" for night in nights
    }
    stuck = sorted(stopping - set().union(*found.values()))
    found |= {"stuck": stuck, "late": gaps.late}
    named = {name: [night.isoformat() for night in nights] for name, nights in found.items()}
    stopped = "; ".join(f"{name} {', '.join(nights)}" for name, nights in named.items() if nights)
    _say(f"nights that stopped: {stopped or 'none'}")
    for night in named["late"]:
        raise_alert(uc.name, "night_late", night, f"{night} is past its SLA and has no predictions")
    for night in named["stuck"]:
        message = f"{night} stops halfway however often it is sent; see its failed run"
        raise_alert(uc.name, "night_stuck", night, message)
    for life in requests.stuck(uc, now=datetime.now(UTC)):
        asked = life.request
        at = f"{asked.requested_at:%Y-%m-%d %H:%M} UTC"
        message = f"request {asked.id} is still in state {life.state}; it was made on {at}"
        raise_alert(uc.name, "retrain", f"request {asked.id}", message, once=f"stuck request {asked.id}")
    return named


def fix_rows(
    uc: UseCase, fixes: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]], reason: str, by: str
) -> int:
    """Record what people decided that rows in quarantine should say; a replay lands them: number of rows.

    Args:
        uc: The use case.
        fixes: By suite, partition (``YYYY-MM-DD``) and row id, the new values by column.
        reason: Why, for whoever asks later.
        by: Who decided.

    Raises:
        DataError: It is not built so, or a fix is refused (``ingestion.fixes.record_fixes``). Those of other
            partitions may have been recorded: recorded again, they change nothing.
    """
    from pydantic import TypeAdapter, ValidationError

    from nightshift.ingestion.fixes import record_fixes

    try:
        checked = TypeAdapter(dict[str, dict[date, dict[str, dict[str, Any]]]]).validate_python(fixes)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"the fixes cannot be read: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            rule="fixes are values by suite, partition, row id and column",
            where=f"{uc.name}, parameter fixes",
            cure='write {"raw_<table>": {"2013-02-12": {"<row id>": {"<column>": 10.4}}}}',
        ) from error
    named = {
        column
        for parts in checked.values()
        for rows in parts.values()
        for row in rows.values()
        for column in row
    }
    if personal := sorted(uc.hidden_columns & named):
        raise DataError(
            f"fixes name the personal columns {', '.join(personal)}",
            rule="what a run is given can be read by everybody who may read the DAG",
            where=f"{uc.name}, parameter fixes",
            cure="fix them with `nightshift quarantine fix`, replay without them, and delete this run, which "
            "Airflow keeps with the values it was given",
        )
    recorded = [
        fix
        for suite, partitions in checked.items()
        for partition, changes in partitions.items()
        for fix in record_fixes(uc, suite, partition, changes, reason=reason, by=by)
    ]
    _say(f"fixes recorded: {len(recorded)} rows" if recorded else "no row is to be fixed")
    return len(recorded)


def begin_rebuild(uc: UseCase, start: date, end: date, stages: Sequence[str], by: str, run_id: str) -> None:
    """Record who has which stages of a range built again."""
    from nightshift.lake import audit

    audit.record(
        "rebuild",
        usecase=uc.name,
        subject=_span(start, end),
        who=by,
        details={"stages": list(stages), "run_id": run_id},
        identity=[run_id],
    )


def replay_quarantine(uc: UseCase, night: date, by: str = "operator") -> dict[str, Any]:
    """Judge the quarantined rows of a night's partitions again by today's rules; land those that pass."""
    from nightshift.ingestion import replay

    replayed, landed = {}, False
    for source, name, table in uc.tables():
        for partition in table.partitions_of_night(night, uc.history_start):
            counts = replay(uc, source, name, partition, by=by)
            # Of a slow table there is always a snapshot in force.
            landed = landed or (table.refresh == "daily" and any(counts.values()))
            replayed[f"{name} {partition}"] = counts
            if counts["replayed"]:
                _say(
                    f"replayed {name} {partition}: {counts['replayed']} rows were in quarantine, "
                    f"{counts['quarantined']} are now"
                )
    if not landed:
        raise DataError(
            f"nothing was landed for the night of {night}",
            rule="a partition is replayed from what was landed",
            where=f"{uc.name}, night {night}",
            cure="`nightshift partitions --layer raw` lists what was; ingest the night first",
        )
    _say(f"replayed night {night}: {sum(counts['replayed'] for counts in replayed.values())} rows")
    return replayed


def sweep_lake(uc: UseCase, today: date, by: str = "schedule") -> dict[str, int]:
    """Delete what the use case's retention no longer keeps: number of things deleted, by kind.

    It says the head of the audit log, too: whoever has the task's log can prove later that nothing is gone.
    """
    from nightshift.lake import audit
    from nightshift.lake.retention import oldest_kept, sweep
    from nightshift.monitoring import baseline, resources
    from nightshift.monitoring.pages import write

    deleted = sweep(uc, today, by=by) | {
        "usage_records": resources.sweep(uc),
        "baselines": baseline.sweep(uc, older_than_days=uc.retention.staging_days),
        "pages": write.sweep(uc, oldest_kept(uc, today)),
    }
    _say(f"swept as of {today}: {', '.join(f'{kind} {number}' for kind, number in deleted.items())}")
    _say(f"head of the audit log: {audit.head()}")
    return deleted


def describe_models(uc: UseCase) -> str:
    """Write dbt's own documentation of the use case's models, with lineage and columns: the page's path."""
    from nightshift.page import write_files
    from nightshift.settings import settings
    from nightshift.warehouse.dbt import DOCS, docs
    from nightshift.warehouse.engine import engine

    with engine().exclusive(uc.name):
        written = docs(uc)
    page = settings().home / "reports" / uc.name / DOCS
    write_files({page: written.read_text(encoding="utf-8")})
    _say(f"dbt's documentation of {uc.name}: {page}")
    return str(page)


def clean_airflow_database(keep_days: int, by: str) -> None:
    """Delete what Airflow's own database holds of runs older than ``keep_days``."""
    from nightshift.services.airflow import clean_database

    clean_database(keep_days, by=by)


def _nights(uc: UseCase, stage: str, start: date, end: date, *, only_stale: bool) -> list[date]:
    if not only_stale:
        return list(days(start, end))
    from nightshift.monitoring.staleness import nights

    return [night for night in nights(uc, _stale(uc, start, end))[stage] if start <= night <= end]


def _standing(uc: UseCase, decision: dict[str, Any]) -> Standing:
    from nightshift.registry.deployments import standing_of
    from nightshift.registry.records import Decision

    return standing_of(uc, Decision.model_validate(decision).candidate)


def _stale(uc: UseCase, start: date, end: date) -> list[Stale]:
    from nightshift.monitoring.staleness import find_stale

    # A night also brings the labels of earlier days, and judges them.
    return find_stale(uc, start - timedelta(days=uc.label.lag_days), end)


def _validate(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    from nightshift.quality.staged import validate_staged
    from nightshift.registry.deployments import champion_at, history

    deployed = history(uc)

    def snapshot_behind(day: date) -> str | None:
        deployment = champion_at(uc, day, deployed)
        return deployment.snapshot_hash if deployment else None

    validated = [
        accepted
        for chunk in _by_layer(staged)
        for accepted in validate_staged(uc, chunk, snapshot_of=snapshot_behind)
    ]
    rows = {(item["layer"], item["partition"]): item["rows"] for item in staged}
    bad = sum(rows[item.layer, item.partition.isoformat()] - item.rows for item in validated)
    _tell_layers("accepted", validated)
    _say(f"quarantined {bad} rows")
    return [accepted.model_dump(mode="json") for accepted in validated]


def _by_layer(staged: Sequence[dict[str, Any]]) -> Iterator[list[Staged]]:
    """Yield staged partitions layer by layer, a month at a time."""
    from nightshift.lake.staging import Staged

    items = [Staged.model_validate(item) for item in staged]
    for layer in dict.fromkeys(item.layer for item in items):
        of_layer = [item for item in items if item.layer == layer]
        for first in range(0, len(of_layer), _MONTH):
            yield of_layer[first : first + _MONTH]


def _tell_layers(
    what: str, items: Sequence[Staged | PartitionVersion], before: Sequence[PartitionVersion] = ()
) -> None:
    """Say a line a layer: its days and rows and, of what was published, whether it differs from before.

    The rows count as those that the task handled.
    """
    count_rows(sum(item.rows for item in items))
    for layer in dict.fromkeys(item.layer for item in items):
        of_layer = [item for item in items if item.layer == layer]
        start, end = min(item.partition for item in of_layer), max(item.partition for item in of_layer)
        line = f"{what} {layer} {_span(start, end)}: {sum(item.rows for item in of_layer)} rows"
        if len(of_layer) > 1:
            line += f" in {len(of_layer)} partitions"
        if what == "published":
            new = sum(item not in before for item in of_layer)
            several = f"{new} with a new version" if len(of_layer) > 1 else "new version"
            line += f", {several}" if new else ", unchanged"
        _say(line)


def _before(uc: UseCase, staged: Sequence[dict[str, Any]]) -> list[PartitionVersion]:
    """Return what is published now of the staged partitions."""
    from nightshift.lake.tables import partition_versions

    wanted = {(item["layer"], item["partition"]) for item in staged}
    return [
        version
        for layer in {layer for layer, _ in wanted}
        for version in partition_versions(uc, layer).values()
        if (layer, version.partition.isoformat()) in wanted
    ]


def _each(nights: Sequence[date], done: str) -> Iterator[date]:
    """Yield each night, and log every few seconds how far a range is: ``done`` is what the caller does."""
    began = logged = time.monotonic()
    for number, night in enumerate(nights):
        now = time.monotonic()
        if number and now - logged >= _SECONDS_BETWEEN_LINES:
            logged = now
            left = (now - began) / number * (len(nights) - number)
            log.info("%s %d of %d nights, about %.0f s to go", done, number, len(nights), left)
        yield night


def _say(line: str) -> None:
    """Log what came of a stage, and keep it for the notes that Airflow shows."""
    log.info(line)
    tell(line)


def _span(start: date, end: date) -> str:
    return f"{start}" if start == end else f"{start} to {end}"
