"""Who was champion when, and two versions side by side, from the deployment log and kept evaluations."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.deployed import BACK, FIRST, SECOND, deploy

from nightshift.console.models import compare, models
from nightshift.errors import DataError
from nightshift.lake.append_log import append
from nightshift.registry import states
from nightshift.settings import settings
from nightshift.usecase import UseCase


def champions(uc: UseCase) -> list[tuple[str, date, date | None]]:
    return [(one.version, one.start, one.end) for one in models(uc).champions]


def test_a_champion_is_in_production_until_the_day_before_the_next(
    home: Path, flight_delays: UseCase
) -> None:
    deploy(flight_delays, {}, SECOND, BACK)
    assert champions(flight_delays) == [
        ("1", date(2013, 7, 1), date(2013, 7, 7)),
        ("2", date(2013, 7, 8), date(2013, 7, 9)),
        ("1", date(2013, 7, 10), None),
    ]


def test_a_rollback_that_reaches_back_takes_those_days_from_the_version(
    home: Path, flight_delays: UseCase
) -> None:
    deploy(flight_delays, {}, SECOND, BACK | {"effective_from": "2013-07-08"})
    assert champions(flight_delays) == [("1", date(2013, 7, 1), None)]


def test_versions_say_what_may_be_done_with_them(home: Path, flight_delays: UseCase) -> None:
    waiting = {
        name: value for name, value in FIRST.items() if name not in ("previous_version", "effective_from")
    }
    deploy(flight_delays, {}, SECOND)
    append(
        states.log_name(flight_delays),
        waiting | {"action": "challenge", "version": "3", "model_hash": "e" * 64},
    )
    newest, second, first = models(flight_delays).versions
    assert (newest.version, newest.state, newest.awaiting, newest.was_champion) == (
        "3",
        "challenger",
        True,
        False,
    )
    assert (second.state, second.was_champion) == ("champion", True)
    assert (first.state, first.was_champion) == ("archived", True)


def _judged(value: float) -> dict[str, Any]:
    return {
        "metrics": {"roc_auc": value, "rows": 100.0},
        "intervals": {"roc_auc": {"value": value, "low": value - 0.01, "high": value + 0.01}},
        "slices": {"origin": {"EWR": {"rows": 40.0, "roc_auc": value - 0.1}}},
        "slice_intervals": {},
    }


def _keep_evaluation(uc: UseCase, night: str, model_hash: str, champion: str | None) -> None:
    difference = {"value": 0.02, "low": 0.01, "high": 0.03}
    versus = {"metrics": {"roc_auc": difference}, "slices": {"origin": {"EWR": difference}}}
    evaluation = {
        "start": "2013-06-23",
        "end": "2013-07-06",
        "challenges": [
            {
                "candidate": {"content_hash": model_hash},
                "judged": _judged(0.72),
                "versus_champion": versus if champion else None,
            }
        ],
        "champion": {"version": champion} if champion else None,
        "champion_judged": _judged(0.7) if champion else None,
    }
    file = settings().home / "reports" / uc.name / "evaluation" / f"{night}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"evaluation": evaluation}))


def test_versions_that_met_are_compared_on_the_same_rows(home: Path, flight_delays: UseCase) -> None:
    deploy(flight_delays, {}, SECOND)
    _keep_evaluation(flight_delays, "2013-07-07", "d" * 64, "1")
    found = compare(flight_delays, "2", "1")
    assert found.same_rows
    line = found.metrics[0]
    assert line.left is not None
    assert line.right is not None
    assert line.difference is not None
    assert (line.name, line.left.value, line.right.value) == ("roc_auc", 0.72, 0.7)
    assert (line.difference.value, line.difference.low, line.difference.high) == (0.02, 0.01, 0.03)
    (of_slice,) = found.slices
    assert (of_slice.value, of_slice.rows) == ("EWR", 40)
    # From the other side the same figures change places, and the difference its sign.
    turned = compare(flight_delays, "1", "2").metrics[0]
    assert turned.left == line.right
    assert turned.difference is not None
    assert (turned.difference.value, turned.difference.low, turned.difference.high) == (-0.02, -0.03, -0.01)


def test_versions_that_never_met_say_so(home: Path, flight_delays: UseCase) -> None:
    deploy(flight_delays, {}, SECOND)
    _keep_evaluation(flight_delays, "2013-06-30", "a" * 64, None)
    found = compare(flight_delays, "2", "1")
    assert not found.same_rows
    assert "version 2" in found.note
    assert found.metrics[0].difference is None


def test_a_version_that_is_not_there_is_named_with_those_that_are(home: Path, flight_delays: UseCase) -> None:
    deploy(flight_delays, {})
    with pytest.raises(DataError, match="no version '7'; it has 1"):
        compare(flight_delays, "7", "1")
