"""Batches beyond the bound: every bad row is found, a mostly bad batch stops, and memory stays small."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nightshift.errors import DataError
from nightshift.quality.validate import Validated, validate
from nightshift.usecase import UseCase

WriteSuite = Callable[..., Path]
ROWS = 450_000
FIRST = date(2013, 7, 1)


def rule(name: str, severity: str, kind: str, **kwargs: Any) -> dict[str, Any]:
    meta = {"rule": name, "severity": severity, "reason": f"because of {name}"}
    return {"type": f"expect_{kind}", "kwargs": kwargs, "meta": meta}


POSITIVE = rule("positive", "quarantine", "column_values_to_be_between", column="value", min_value=0)
KEY = rule("key", "quarantine", "compound_columns_to_be_unique", column_list=["partition", "id"])
AGREES = rule("agrees", "quarantine", "column_pair_values_to_be_equal", column_A="value", column_B="again")


def table(rows: int, days: int, bad: list[int]) -> pa.Table:
    """Return rows numbered in ``id``, spread over days in order, of which the bad ones are below zero."""
    value = np.ones(rows)
    value[bad] = -1
    day = np.arange(rows) * days // rows
    labels = pa.array([FIRST + timedelta(days=offset) for offset in range(days)], pa.date32())
    return pa.table(
        {"day": labels.take(pa.array(day)), "id": np.arange(rows), "value": value, "again": np.ones(rows)}
    )


def judge(uc: UseCase, data: pa.Table) -> Validated:
    return validate(uc, "trial", data, partition_column="day", where="trial")


@pytest.mark.parametrize("days", [5, 1], ids=["whole days at once", "one day in parts"])
@pytest.mark.parametrize("mixed", [False, True], ids=["in order", "mixed"])
def test_every_bad_row_is_found_wherever_it_lies(
    flight_delays: UseCase, write_suite: WriteSuite, days: int, mixed: bool
) -> None:
    write_suite(KEY, POSITIVE, AGREES)
    chance = np.random.default_rng(4)
    # Beside chance: the first and last rows of all, and those on both sides of every cut.
    planted = {0, ROWS - 1, *(edge + side for edge in (90_000, 200_000, 400_000) for side in (-1, 0))}
    planted |= {int(number) for number in chance.choice(ROWS, 3000, replace=False)}
    data = table(ROWS, days, sorted(planted))
    # Two rows of a day that share a key lie in different parts of it.
    last = ROWS // days - 1
    ids = data["id"].to_numpy().copy()
    ids[last] = ids[1]
    data = data.set_column(1, "id", pa.array(ids))
    if mixed:
        data = data.take(pa.array(chance.permutation(ROWS)))
    result = judge(flight_delays, data)

    kept = [(row["rule"], json.loads(row["row"])["id"]) for row in result.quarantined.to_pylist()]
    doubled = {1, last} - planted
    assert sorted(number for name, number in kept if name == "key") == [1, 1]
    assert {number for name, number in kept if name == "positive"} == planted - {1, last}
    assert len(kept) == len(planted | doubled) == result.quarantined.num_rows
    assert result.accepted.num_rows == ROWS - len(kept)
    good = data.filter(pa.array(~np.isin(data["id"].to_numpy(), [number for _, number in kept])))
    assert result.accepted.equals(good)


def test_exactly_as_many_as_may_be_quarantined_are_and_one_more_stops(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    write_suite(POSITIVE, at_most=0.1)
    limit = ROWS // 10
    result = judge(flight_delays, table(ROWS, 1, list(range(ROWS - limit, ROWS))))
    assert result.quarantined.num_rows == limit
    assert result.accepted["id"].to_pylist() == list(range(ROWS - limit))
    with pytest.raises(DataError, match=f"quarantine_at_most: {limit + 1} of {ROWS} rows"):
        judge(flight_delays, table(ROWS, 1, list(range(ROWS - limit - 1, ROWS))))


def test_a_mostly_bad_batch_stops_and_its_report_counts_every_row(
    flight_delays: UseCase, write_suite: WriteSuite, home: Path
) -> None:
    write_suite(POSITIVE, AGREES, at_most=0.1)
    with pytest.raises(DataError, match=f"quarantine_at_most: 405000 of {ROWS} rows") as error:
        judge(flight_delays, table(ROWS, 1, list(range(0, 405_000))))
    assert "when many are bad" in error.value.rule
    assert "2013-07-01.html" in error.value.cure
    report = json.loads((home / "reports" / "flight_delays" / "trial" / "2013-07-01.json").read_text())
    assert (report["verdict"], report["rows_in"], report["quarantined"]) == ("stopped", ROWS, 405_000)
    assert {(outcome["rule"], outcome["broken"]) for outcome in report["outcomes"]} == {
        ("positive", 405_000),
        ("agrees", 405_000),
        ("quarantine_at_most", 0),
    }
    (docs,) = home.glob("reports/flight_delays/trial/*.datadocs.html")
    text = docs.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert "405000 unexpected values found" in text.replace(",", "")


def test_a_bad_row_takes_a_few_bytes_a_rule_beside_the_rows(
    flight_delays: UseCase, write_suite: WriteSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nightshift.quality.validate._CHUNK_ROWS", 40_000)
    rows, rules = 160_000, 4
    write_suite(
        *(POSITIVE | {"meta": POSITIVE["meta"] | {"rule": f"rule_{number}"}} for number in range(rules)),
        at_most=0,
    )
    with pytest.raises(DataError):
        judge(flight_delays, table(10, 1, [0]))  # imports and templates, which are paid once
    data = table(rows, 1, list(range(rows)))
    tracemalloc.start()
    with pytest.raises(DataError, match=f"{rows} of {rows} rows"):
        judge(flight_delays, data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What Python and NumPy held, the frame included; all at once, four rules took 150 bytes a row.
    assert most / rows < 100
