"""States are read from the log alone, also from entries written before there were states."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from tests.deployed import BACK, FIRST, SECOND, deploy

from nightshift.errors import DataError
from nightshift.lake.append_log import append
from nightshift.registry import deployments, states
from nightshift.registry.states import Change
from nightshift.usecase import UseCase


def test_entries_without_states_still_tell_what_was_in_production(home: Path, flight_delays: UseCase) -> None:
    deploy(flight_delays, {}, SECOND, BACK)
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
    deploy(flight_delays, {}, SECOND, BACK, SECOND | {"version": "3", "previous_version": "1"})
    entries = states.read(flight_delays)
    for number in range(1, len(entries) + 1):
        standings = states.standings(entries[:number]).values()
        assert sum(standing.state == "champion" for standing in standings) == 1


def test_after_a_rollback_the_next_one_names_its_version(home: Path, flight_delays: UseCase) -> None:
    log, why = states.log_name(flight_delays), ["too many alarms"]
    third = SECOND | {"version": "3", "previous_version": "2", "effective_from": "2013-07-09"}
    for changed in ({}, SECOND, third):
        append(log, FIRST | changed)
    assert deployments.champion_before(flight_delays, "too many alarms") == "2"
    append(log, FIRST | SECOND | BACK | {"previous_version": "3", "reasons": why})
    # The same call again, killed after its entry: the same answer.
    assert deployments.champion_before(flight_delays, "too many alarms") == "2"
    with pytest.raises(DataError, match="version 2 is champion by a rollback already") as error:
        deployments.champion_before(flight_delays, "still too many")
    assert error.value.cure.endswith("1, 2, 3")
    # A rollback that named its version is not the same call as one that names none.
    append(log, FIRST | BACK | {"previous_version": "2", "reasons": why})
    with pytest.raises(DataError, match="version 1 is champion by a rollback already"):
        deployments.champion_before(flight_delays, "too many alarms")


def test_an_entry_that_comes_late_takes_nothing_back(home: Path, flight_delays: UseCase) -> None:
    step = {key: value for key, value in FIRST.items() if key not in ("previous_version", "effective_from")}
    register, challenge = step | {"action": "register"}, step | {"action": "challenge"}
    # Two processes propose the same version at once.
    for entry in (register, register, challenge, register, challenge, FIRST, challenge, register):
        append(states.log_name(flight_delays), entry)
    moved = [[change.after for change in changes] for changes in states.changes(states.read(flight_delays))]
    assert moved == [["candidate"], [], ["challenger"], [], [], ["champion"], [], []]


def test_challengers_do_not_outlast_a_no_or_another_promotion(home: Path, flight_delays: UseCase) -> None:
    step = {key: value for key, value in FIRST.items() if key not in ("previous_version", "effective_from")}
    no = {"decision": "rejected", "by": "ada", "at": FIRST["recorded_at"]}
    for version in ("1", "2", "3"):
        for action in ("register", "challenge"):
            append(states.log_name(flight_delays), step | {"action": action, "version": version})
    append(states.log_name(flight_delays), step | {"action": "reject", "version": "2", "approval": no})
    append(states.log_name(flight_delays), FIRST)
    standings = states.standings(states.read(flight_delays))
    assert {version: of.state for version, of in standings.items()} == {
        "1": "champion",
        "2": "archived",
        "3": "archived",
    }
    assert [(of.rejected, of.overtaken) for of in standings.values()] == [
        (False, False),
        (True, False),
        (False, True),
    ]


def test_an_approval_is_of_one_challenge_only(home: Path, flight_delays: UseCase) -> None:
    """The version that was approved against one champion is asked for anew when it challenges another."""
    step = {key: value for key, value in SECOND.items() if key not in ("previous_version", "effective_from")}
    candidate = {key: FIRST[key] for key in FIRST if key not in ("previous_version", "effective_from")} | step
    approval = {"decision": "approved", "by": "ada", "at": "2026-11-20T11:00:00Z", "comment": "fine"}
    log = states.log_name(flight_delays)
    approved = candidate | {"action": "approve", "approval": approval}
    for entry in (FIRST, candidate | {"action": "register"}, candidate | {"action": "challenge"}, approved):
        append(log, entry)
    assert states.standings(states.read(flight_delays))["2"].approval is not None
    append(log, candidate | {"action": "challenge"})
    assert states.standings(states.read(flight_delays))["2"].approval is not None, "the same challenge"
    append(log, FIRST | BACK | {"previous_version": "1", "version": "1"})
    append(log, candidate | {"action": "challenge"})
    again = states.standings(states.read(flight_delays))["2"]
    assert (again.state, again.approval) == ("challenger", None)
