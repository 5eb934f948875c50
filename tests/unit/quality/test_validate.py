"""Validation: rows are conserved, days are judged alike alone and together, and errors say what to do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from nightshift.errors import DataError
from nightshift.lake.raw import check_conserved
from nightshift.quality.validate import Validated, by_size, validate
from nightshift.usecase import UseCase

WriteSuite = Callable[..., Path]
DAYS = [date(2013, 7, 1) + timedelta(days=offset) for offset in range(5)]


def rule(name: str, severity: str, kind: str, **kwargs: Any) -> dict[str, Any]:
    meta = {"rule": name, "severity": severity, "reason": f"because of {name}"}
    return {"type": f"expect_{kind}", "kwargs": kwargs, "meta": meta}


POSITIVE = rule("positive", "quarantine", "column_values_to_be_between", column="value", min_value=0)
NAMED = rule("named", "quarantine", "column_values_to_not_be_null", column="name")
VOLUME = rule("volume", "stop", "table_row_count_to_be_between", min_value=2, max_value=50)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema([("day", pa.date32()), ("name", pa.string()), ("value", pa.float64())])
    return pa.Table.from_pylist(rows, schema=schema)


def rows_of(day: date, *values: float | None) -> list[dict[str, Any]]:
    return [{"day": day, "name": f"{day}-{number}", "value": value} for number, value in enumerate(values)]


def judge(uc: UseCase, data: pa.Table, **options: Any) -> Validated:
    return validate(uc, "trial", data, **({"partition_column": "day", "where": "trial"} | options))


def page(uri: str) -> str:
    return Path(unquote(urlsplit(uri).path)).read_text(encoding="utf-8")


def test_bad_rows_are_kept_aside_with_rule_reasons_and_their_original_values(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    write_suite(NAMED, POSITIVE)
    rows = [*rows_of(DAYS[0], 1, -2), {"day": DAYS[0], "name": None, "value": -3}]
    result = judge(flight_delays, table(rows))
    assert result.accepted.to_pylist() == rows[:1]
    kept = result.quarantined.to_pylist()
    assert {(row["partition"], row["suite"], row["severity"]) for row in kept} == {
        ("2013-07-01", "trial", "quarantine")
    }
    assert [(row["rule"], json.loads(row["row"])) for row in kept] == [
        ("positive", {"name": "2013-07-01-1", "value": -2}),
        ("named", {"name": None, "value": -3}),
    ]
    assert "because of named" in kept[1]["reason"]
    assert "because of positive" in kept[1]["reason"]


def test_a_month_gives_the_same_rows_as_its_days_in_any_order(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    keys = rule(
        "key_unique", "quarantine", "compound_columns_to_be_unique", column_list=["partition", "name"]
    )
    share = rule("filled", "warn", "column_values_to_not_be_null", column="value", mostly=0.8)
    mean = rule("mean", "warn", "column_mean_to_be_between", column="value", min_value=0)
    write_suite(VOLUME, NAMED, POSITIVE, keys, share, mean)
    chance = random.Random(7)
    rows = [
        {
            "day": day,
            "name": chance.choice([None, *"abcdefghijklmnop"]),
            "value": chance.choice([None, 1.0, 2.0, 3.0, -4.0, float("inf")]),
        }
        for day in DAYS
        for _ in range(20)
    ]
    # Keys repeat across days, where that is fine, and within them, where it is not.
    alone = [judge(flight_delays, table([row for row in rows if row["day"] == day])) for day in DAYS]
    chance.shuffle(rows)
    together = judge(flight_delays, table(rows))
    assert 0 < together.quarantined.num_rows < len(rows)
    assert pa.concat_tables(part.quarantined for part in alone).equals(together.quarantined)
    ordered = together.accepted.sort_by([("day", "ascending"), ("name", "ascending")])
    assert (
        pa.concat_tables(part.accepted for part in alone).sort_by(
            [("day", "ascending"), ("name", "ascending")]
        )
    ).equals(ordered)
    assert together.warnings == [line for part in alone for line in part.warnings]
    assert together.warnings


@pytest.mark.parametrize("chunk", [1, 30, 45])
def test_chunks_of_whole_partitions_change_nothing(
    flight_delays: UseCase,
    write_suite: WriteSuite,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    chunk: int,
) -> None:
    first = {"type": "comparison", "column": {"name": "again"}, "operator": "==", "parameter": 0}
    columns = ["partition", "name"]
    write_suite(
        VOLUME,
        rule("repeated", "quarantine", "column_values_to_be_between", column="again", max_value=0),
        rule("key", "quarantine", "compound_columns_to_be_unique", column_list=columns, row_condition=first),
        POSITIVE,
        rule("filled", "warn", "column_values_to_not_be_null", column="value", mostly=0.9),
        rule("mean", "warn", "column_mean_to_be_between", column="value", min_value=1.4),
        again={"repeats": True},
    )
    chance = random.Random(3)
    rows = [
        {
            "day": day,
            "name": chance.choice("abcdefghij"),
            "value": chance.choice([None, 1.0, -0.0, 0.0, -4.0]),
        }
        for day in DAYS
        for _ in range(20)
    ]
    chance.shuffle(rows)

    def outcome() -> tuple[Validated, list[str]]:
        result = judge(flight_delays, table(rows))
        pages = sorted((home / "reports" / "flight_delays" / "trial").glob("*[0-9].json"))
        return result, [file.read_text(encoding="utf-8") for file in pages]

    whole, pages = outcome()
    assert 0 < whole.quarantined.num_rows < len(rows)
    assert whole.warnings
    assert len(pages) == len(DAYS)
    monkeypatch.setattr("nightshift.quality.validate._CHUNK_ROWS", chunk)
    in_chunks, chunked_pages = outcome()
    assert in_chunks == whole
    assert chunked_pages == pages
    # What stops one day stops them all, whichever chunk it is in.
    with pytest.raises(DataError, match="2013-07-05: volume: 0 rows"):
        judge(flight_delays, table([row for row in rows if row["day"] != DAYS[4]]), partitions=DAYS)


def test_partitions_are_grouped_up_to_the_bound_and_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nightshift.quality.validate._CHUNK_ROWS", 10)
    assert list(by_size({"a": 4, "b": 6, "c": 1, "d": 99, "e": 0, "f": 10})) == [
        ["a", "b"],
        ["c"],
        ["d"],
        ["e", "f"],
    ]
    assert list(by_size({})) == []


@pytest.mark.parametrize("values", [[], [1.0]], ids=["empty", "far fewer"])
def test_a_day_with_too_few_rows_stops_and_names_day_rule_and_report(
    flight_delays: UseCase, write_suite: WriteSuite, values: list[float]
) -> None:
    write_suite(VOLUME, POSITIVE)
    data = table([*rows_of(DAYS[0], 1, 2, 3), *rows_of(DAYS[1], *values)])
    with pytest.raises(DataError, match=f"2013-07-02: volume: {len(values)} rows") as error:
        judge(flight_delays, data, partitions=DAYS[:2])
    assert "because of volume" in error.value.rule
    assert "2013-07-02" in error.value.where
    report = error.value.cure.split()[1].rstrip(";")
    assert "stopped" in page(report)
    assert "trial.json" in error.value.cure


def test_an_empty_day_is_fine_where_the_catalogue_allows_it_and_is_warned_of(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    write_suite(VOLUME, POSITIVE)
    result = judge(flight_delays, table([]), partitions=DAYS[:1], allow_empty=True)
    assert result.accepted.num_rows == 0
    assert result.warnings == ["2013-07-01: rows_present: no rows"]


def test_too_many_bad_rows_are_a_bad_batch(flight_delays: UseCase, write_suite: WriteSuite) -> None:
    write_suite(POSITIVE, at_most=0.4)
    few = table([*rows_of(DAYS[0], 1, 2, 3, -4), *rows_of(DAYS[1], 1, 2, 3)])
    assert judge(flight_delays, few).quarantined.num_rows == 1
    # Two bad rows of seven are few, two of three on one day are not.
    many = table([*rows_of(DAYS[0], 1, 2, 3, 4), *rows_of(DAYS[1], 1, -2, -3)])
    with pytest.raises(DataError, match="2013-07-02: quarantine_at_most: 2 of 3 rows"):
        judge(flight_delays, many)


def test_a_stop_rule_about_rows_shows_the_rows(flight_delays: UseCase, write_suite: WriteSuite) -> None:
    write_suite(POSITIVE | {"meta": POSITIVE["meta"] | {"severity": "stop"}})
    with pytest.raises(DataError, match=r'positive: 1 of 2 rows.*"value": -7.0'):
        judge(flight_delays, table(rows_of(DAYS[0], 1, -7)))


def test_a_repeated_row_stays_once_and_contradicting_rows_not_at_all(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    first = {"type": "comparison", "column": {"name": "again"}, "operator": "==", "parameter": 0}
    write_suite(
        rule("repeated", "quarantine", "column_values_to_be_between", column="again", max_value=0),
        rule(
            "key",
            "quarantine",
            "compound_columns_to_be_unique",
            column_list=["partition", "name"],
            row_condition=first,
        ),
        again={"repeats": True},
    )
    data = table(
        [
            {"day": DAYS[0], "name": name, "value": value}
            for name, value in [("twice", 1), ("twice", 1), ("torn", 1), ("torn", 2), ("fine", 1)]
        ]
    )
    result = judge(flight_delays, data)
    assert result.accepted["name"].to_pylist() == ["twice", "fine"]
    assert [(row["rule"], json.loads(row["row"])["name"]) for row in result.quarantined.to_pylist()] == [
        ("key", "torn"),
        ("key", "torn"),
        ("repeated", "twice"),
    ]


def test_shares_are_taken_a_day(flight_delays: UseCase, write_suite: WriteSuite) -> None:
    write_suite(rule("filled", "warn", "column_values_to_not_be_null", column="value", mostly=0.75))
    data = table([*rows_of(DAYS[0], 1, 2, 3, 4, 5, 6, 7, 8), *rows_of(DAYS[1], 1, None)])
    result = judge(flight_delays, data)
    assert [line.split(":")[0] for line in result.warnings] == ["2013-07-02"]
    assert result.accepted.num_rows == data.num_rows


def test_derived_columns_know_local_days_durations_nulls_and_infinities(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    write_suite(
        rule("own_day", "quarantine", "column_pair_values_to_be_equal", column_A="on", column_B="partition"),
        rule("long", "quarantine", "column_values_to_be_between", column="took", max_value=60),
        rule("whole", "quarantine", "column_values_to_be_between", column="missing", max_value=0),
        rule("finite", "quarantine", "column_values_to_be_between", column="endless", max_value=0),
        on={"local_day": "left"},
        took={"minutes": ["left", "came"]},
        missing={"nulls": ["who"]},
        endless={"infinite": True},
    )
    # Half past three UTC on 2 July is still the evening of 1 July in New York.
    evening = datetime(2013, 7, 2, 3, 30, tzinfo=UTC)
    fine = {"day": "2013-07-01", "left": evening, "came": evening, "who": "a", "size": 1.0}
    rows = [
        fine,
        fine | {"left": evening.replace(year=1983), "came": evening.replace(year=1983)},
        fine | {"came": evening + timedelta(minutes=61)},
        fine | {"who": None},
        fine | {"size": float("inf")},
    ]
    result = judge(flight_delays, pa.Table.from_pylist(rows))
    assert result.accepted.to_pylist() == [fine]
    by_rule = {row["rule"]: json.loads(row["row"]) for row in result.quarantined.to_pylist()}
    assert set(by_rule) == {"own_day", "long", "whole", "finite"}
    assert by_rule["own_day"]["left"].startswith("1983-07-02 03:30")
    assert by_rule["finite"]["size"] == "inf"


def test_parameters_may_differ_by_day_and_a_missing_one_is_no_pass(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    known = {"$PARAMETER": "known"}
    complete = rule("complete", "stop", "column_distinct_values_to_equal_set", column="name", value_set=known)
    data = table([*rows_of(DAYS[0], 1), *rows_of(DAYS[1], 1)])
    context = {"known": {DAYS[0]: ["2013-07-01-0"], DAYS[1]: ["2013-07-02-0"]}}
    write_suite(complete)
    assert judge(flight_delays, data, context=context).accepted.num_rows == 2
    context["known"][DAYS[1]] = ["somebody"]
    with pytest.raises(DataError, match="1 missing: somebody; 1 unexpected: 2013-07-02-0"):
        judge(flight_delays, data, context=context)
    with pytest.raises(DataError, match="needs 'known'"):
        judge(flight_delays, data)
    write_suite(complete | {"meta": complete["meta"] | {"severity": "warn"}})
    result = judge(flight_delays, data)
    assert result.warnings == []
    assert "not judged" in page(result.reports["2013-07-01"])


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        (rule("typo", "quarantine", "column_values_to_not_be_null", column="vlaue"), "vlaue"),
        (rule("typo", "warn", "miracles", column="value"), "expect_miracles"),
        (rule("typo", "quarantine", "column_values_to_be_between", column="value", minimum=0), "typo"),
        (rule("typo", "quarantine", "column_mean_to_be_between", column="value"), "which rows"),
        (rule("typo", "warn", "column_values_to_be_between", column="name", min_value=0), "typo"),
    ],
    ids=["column", "expectation", "argument", "not by row", "type"],
)
def test_a_rule_that_cannot_be_judged_is_an_error_not_a_pass(
    flight_delays: UseCase, write_suite: WriteSuite, broken: dict[str, Any], named: str
) -> None:
    write_suite(broken)
    with pytest.raises(DataError, match=named) as error:
        judge(flight_delays, table(rows_of(DAYS[0], 1)))
    assert error.value.cure


def test_rows_of_a_partition_nobody_asked_for_are_an_error(
    flight_delays: UseCase, write_suite: WriteSuite
) -> None:
    write_suite(POSITIVE)
    with pytest.raises(DataError, match="2013-07-02"):
        judge(flight_delays, table([*rows_of(DAYS[0], 1), *rows_of(DAYS[1], 1)]), partitions=DAYS[:1])


def test_pages_name_every_rule_and_load_nothing_from_outside(
    flight_delays: UseCase, write_suite: WriteSuite, home: Path
) -> None:
    write_suite(POSITIVE, NAMED)
    result = judge(flight_delays, table([*rows_of(DAYS[0], 1), *rows_of(DAYS[1], 1, -666)]))
    assert set(result.reports) == {"2013-07-01", "2013-07-02"}
    text = page(result.reports["2013-07-02"])
    assert all(word in text for word in ("positive", "named", "because of positive", "-666", "quarantined"))
    assert "2 rows in = 1 accepted + 1 quarantined" in text
    docs = list(home.glob("reports/flight_delays/trial/*.datadocs.html"))
    assert [file.name for file in docs] == ["2013-07-01_2013-07-02.datadocs.html"]
    assert docs[0].name in text
    for content in (text, docs[0].read_text(encoding="utf-8")):
        assert not any(loader in content for loader in ("src=", "<link", "url(http", "@import"))


def test_no_page_and_no_error_shows_personal_values(
    flight_delays: UseCase, write_suite: WriteSuite, home: Path
) -> None:
    source, tables = next((name, source.tables) for name, source in flight_delays.sources.items())
    known = flight_delays.sources[source].tables["planes"].columns["tail_number"]
    assert known.pii != "none"
    held = tables["planes"].columns | {"name": known}
    planes = tables["planes"].model_copy(update={"columns": held})
    shop = flight_delays.sources[source].model_copy(update={"tables": tables | {"planes": planes}})
    uc = flight_delays.model_copy(update={"sources": flight_delays.sources | {source: shop}})
    listed = rule("listed", "quarantine", "column_values_to_be_in_set", column="name", value_set=["a"])
    whole = rule("whole", "warn", "column_distinct_values_to_equal_set", column="name", value_set=["a"])
    write_suite(POSITIVE, listed, whole)
    data = table([{"day": DAYS[0], "name": "Ada Lovelace", "value": -7}])
    result = judge(uc, data)
    assert "Ada" in result.quarantined["row"][0].as_py(), "what is kept is whole"
    for file in home.glob("reports/flight_delays/trial/*"):
        assert "Ada" not in file.read_text(encoding="utf-8"), file.name
    text = page(result.reports[f"{DAYS[0]}"])
    assert "hidden: personal data" in text
    assert "-7" in text, "the other values tell what is wrong"
    write_suite(rule("listed", "stop", "column_values_to_be_in_set", column="name", value_set=["a"]))
    with pytest.raises(DataError, match="hidden: personal data") as error:
        judge(uc, data)
    assert "Ada" not in f"{error.value}"


def test_data_docs_show_what_a_rule_about_a_batch_saw(
    flight_delays: UseCase, write_suite: WriteSuite, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_suite(rule("mean", "warn", "column_mean_to_be_between", column="value", min_value=5))
    judge(flight_delays, table(rows_of(DAYS[0], 1, 2, 2.75)))
    (docs,) = home.glob("reports/flight_delays/trial/*.datadocs.html")
    assert "1.9166666" in docs.read_text(encoding="utf-8")
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_the_sum_of_rows_is_checked(flight_delays: UseCase, write_suite: WriteSuite) -> None:
    write_suite(POSITIVE)
    data = table(rows_of(DAYS[0], 1, 2, -3, None))
    result = judge(flight_delays, data)
    assert result.accepted.num_rows + result.quarantined.num_rows == result.rows_in == 4
    assert pc.sum(result.accepted["value"]).as_py() == 3
    with pytest.raises(DataError, match=r"4 rows came in, but 3 accepted \+ 0 quarantined"):
        check_conserved(4, 3, 0, "somewhere")
    with pytest.raises(DataError, match="rows"):
        Validated(5, result.accepted, result.quarantined, [], result.reports)
