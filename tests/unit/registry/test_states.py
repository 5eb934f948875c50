"""States are read from the log alone, also from entries written before there were states."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from nightshift.lake.append_log import append
from nightshift.registry import deployments, states
from nightshift.registry.states import Change
from nightshift.usecase import UseCase

# As version 0.1.0 wrote it.
OLD: dict[str, Any] = {
    "usecase": "flight_delays",
    "action": "promote",
    "version": "1",
    "previous_version": None,
    "model_hash": "a" * 64,
    "snapshot_hash": "b" * 64,
    "run_id": "c" * 32,
    "trainer": "xgboost",
    "trained_night": "2013-06-30",
    "trained_through": "2013-06-15",
    "effective_from": "2013-07-01",
    "metrics": {"roc_auc": 0.7},
    "reasons": ["there is no champion to beat"],
    "by": "gate",
    "recorded_at": "2026-11-20T10:00:00Z",
}
SECOND = {"version": "2", "previous_version": "1", "model_hash": "d" * 64, "effective_from": "2013-07-08"}
BACK = {"action": "rollback", "previous_version": "2", "effective_from": "2013-07-10", "by": "operator"}


def test_entries_without_states_still_tell_what_was_in_production(home: Path, flight_delays: UseCase) -> None:
    for changed in ({}, SECOND, BACK):
        append(states.log_name(flight_delays), OLD | changed)
    for day, version in ((1, "1"), (7, "1"), (8, "2"), (9, "2"), (10, "1")):
        in_force = deployments.champion_at(flight_delays, date(2013, 7, day))
        assert in_force is not None
        assert in_force.version == version
    entries = states.read(flight_delays)
    assert [entry.evaluation_hash for entry in entries] == [""] * 3
    assert states.changes(entries) == [
        [Change("1", None, "champion")],
        [Change("2", None, "champion"), Change("1", "champion", "archived")],
        [Change("1", "archived", "champion"), Change("2", "champion", "archived")],
    ]
    standings = states.standings(entries)
    assert {version: of.state for version, of in standings.items()} == {"1": "champion", "2": "archived"}
    assert standings["1"].since == datetime(2026, 11, 20, 10, tzinfo=UTC)


def test_after_every_entry_there_is_one_champion_at_most(home: Path, flight_delays: UseCase) -> None:
    for changed in ({}, SECOND, BACK, SECOND | {"version": "3", "previous_version": "1"}):
        append(states.log_name(flight_delays), OLD | changed)
    entries = states.read(flight_delays)
    for number in range(1, len(entries) + 1):
        standings = states.standings(entries[:number]).values()
        assert sum(standing.state == "champion" for standing in standings) == 1


def test_the_default_of_a_rollback_does_not_go_back_twice(home: Path, flight_delays: UseCase) -> None:
    for changed in ({}, SECOND):
        append(states.log_name(flight_delays), OLD | changed)
    assert deployments.champion_before(flight_delays) == "1"
    append(states.log_name(flight_delays), OLD | BACK)
    assert deployments.champion_before(flight_delays) == "1"
