"""What a source has sent is there once and in its order, whoever else wrote, and stays readable."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from lake_writer import toy

from nightshift.errors import DataError
from nightshift.lake import journal
from nightshift.lake.store import Store
from nightshift.usecase import UseCase

DAY = date(2024, 3, 1)
NOON = datetime(2024, 3, 1, 12, tzinfo=UTC)
TABLE = ("src", "events")


def change(key: str | None, value: float, hours: int = 0, **also: Any) -> dict[str, Any]:
    return {
        "id": key,
        "value": value,
        journal.KIND: journal.UPSERT,
        journal.KNOWN_AT: NOON + timedelta(hours=hours),
        journal.DAY: DAY,
        journal.UNIT: None,
    } | also


def append(uc: UseCase, after: int, *changes: dict[str, Any]) -> journal.Batch | None:
    table = pa.Table.from_pylist(list(changes), schema=journal.schema(uc, *TABLE))
    return journal.append(uc, *TABLE, after, table, position=str(after + 1), query="all")


def rows(uc: UseCase, hours: int = 24, day: date | None = DAY) -> list[tuple[Any, ...]]:
    changes, _ = journal.changes_of(uc, *TABLE, day)
    found = journal.known(changes, ("id",), NOON + timedelta(hours=hours))
    return [tuple(row.values()) for row in found.to_pylist()]


@pytest.fixture
def uc(store: Store) -> UseCase:
    assert store.list("") == []
    return toy()


def test_the_last_that_was_known_of_each_key_counts(uc: UseCase) -> None:
    assert journal.last(uc, *TABLE) is None
    assert rows(uc) == []
    append(uc, 0, change("a", 1), change("b", 1), change("a", 2, hours=1))
    append(uc, 1, change("b", 0, hours=2, **{journal.KIND: journal.DELETE}), change("c", 3, hours=2))
    assert rows(uc, 0) == [("a", 1), ("b", 1)]
    assert rows(uc, 1) == [("b", 1), ("a", 2)]
    assert rows(uc, 2) == [("a", 2), ("c", 3)]
    assert [batch.rows for batch in journal.batches(uc, *TABLE)] == [3, 2]


def test_days_are_apart_and_so_is_what_has_none(uc: UseCase) -> None:
    other = DAY + timedelta(days=1)
    append(
        uc, 0, change("a", 1), change("a", 2, **{journal.DAY: other}), change("a", 3, **{journal.DAY: None})
    )
    assert [rows(uc, day=day) for day in (DAY, other, None)] == [[("a", 1)], [("a", 2)], [("a", 3)]]
    assert journal.days(uc, *TABLE) == [DAY, other, None]
    assert journal.present(uc, *TABLE, other) == [{"id": "a", "value": 2}]


def test_of_two_that_read_the_same_one_counts(uc: UseCase) -> None:
    assert append(uc, 0, change("a", 1)) is not None
    assert append(uc, 0, change("a", 2), change("b", 2)) is None
    assert rows(uc) == [("a", 1)]
    newest = journal.last(uc, *TABLE)
    assert newest is not None
    assert (newest.number, newest.position) == (1, "1")


def test_what_a_batch_says_of_a_unit_takes_the_place_of_all_before(uc: UseCase) -> None:
    of_file = {journal.UNIT: "file"}
    append(
        uc, 0, change("a", 1, **of_file), change("a", 1, **of_file), change("b", 1, **of_file), change("a", 9)
    )
    assert rows(uc) == [("a", 1), ("a", 1), ("b", 1), ("a", 9)], "rows of a file need no key"
    append(uc, 1, change("c", 2, hours=1, **of_file))
    assert rows(uc) == [("a", 9), ("c", 2)]
    append(uc, 2, change(None, 0, hours=2, **of_file, **{journal.KIND: journal.DELETE}))
    assert rows(uc) == [("a", 9)]


def test_what_comes_after_a_night_is_not_known_to_it(uc: UseCase) -> None:
    append(uc, 0, change("a", 1))
    journal.note_night(uc, *TABLE, NOON + timedelta(hours=3))
    journal.note_night(uc, *TABLE, NOON + timedelta(hours=2))
    assert journal.last_night(uc, *TABLE) == NOON + timedelta(hours=3), "an older night changes nothing"
    append(uc, 1, change("a", 2, hours=1), change("b", 1, hours=5))
    assert rows(uc, 3) == [("a", 1)]
    assert rows(uc, 4) == [("a", 2)]
    assert rows(uc, 5) == [("a", 2), ("b", 1)]


def test_rows_without_a_key_all_stay(uc: UseCase) -> None:
    append(uc, 0, change(None, 1), change(None, 2), change("a", 3))
    assert rows(uc) == [(None, 1), (None, 2), ("a", 3)]


def test_a_catalogue_may_gain_and_lose_columns_but_not_change_them(uc: UseCase) -> None:
    append(uc, 0, change("a", 1))

    def with_columns(**types: str) -> UseCase:
        content = uc.model_dump()
        content["sources"]["src"]["tables"]["events"]["columns"] = {
            name: {"type": kind, "description": "A column."} for name, kind in types.items()
        }
        return UseCase.model_validate(content)

    assert rows(with_columns(id="string", more="int64")) == [("a", None)]
    with pytest.raises(DataError, match="'value' was captured as double, the catalogue has string"):
        rows(with_columns(id="string", value="string"))


def test_changes_of_other_columns_are_refused(uc: UseCase) -> None:
    with pytest.raises(DataError, match="the changes have the columns id"):
        journal.append(uc, *TABLE, 0, pa.table({"id": ["a"]}), position="", query="")


def test_an_object_that_was_changed_is_an_error(uc: UseCase, store: Store) -> None:
    append(uc, 0, change("a", 1))
    (key,) = store.list("journal/")
    store.put(key, store.get(key)[:-10])
    with pytest.raises(DataError, match="changed or damaged"):
        rows(uc)


def test_retention_removes_whole_days_and_what_is_said_of_them_later(uc: UseCase) -> None:
    old = DAY - timedelta(days=1)
    append(uc, 0, change("a", 1, **{journal.DAY: old}), change("b", 1), change("c", 1, **{journal.DAY: None}))
    assert journal.expire(uc, *TABLE, DAY) == 1
    assert journal.expire(uc, *TABLE, DAY) == 0
    append(uc, 1, change("a", 2, **{journal.DAY: old}), change("b", 2), change("c", 2, **{journal.DAY: None}))
    assert (rows(uc), rows(uc, day=None)) == ([("b", 2)], [("c", 2)])
    assert journal.days(uc, *TABLE) == [DAY, None]
    with pytest.raises(DataError, match=f"what was captured of {old} has been removed"):
        rows(uc, day=old)
    journal.expire(uc, *TABLE, old)
    assert journal.kept_from(uc, *TABLE) == DAY, "what is gone does not come back"


def test_what_overtaken_processes_left_is_swept_and_nothing_that_counts(uc: UseCase, store: Store) -> None:
    append(uc, 0, change("a", 1))
    assert append(uc, 0, change("a", 9)) is None
    folder = journal.memory_folder(uc, *TABLE)
    for name in ("000000001-old", "000000001-known", "000000002-next"):
        store.put(f"{folder}{name}", b"{}")
    append(uc, 1, change("b", 1))
    of_killed = pa.Table.from_pylist([change("c", 1)], schema=journal.schema(uc, *TABLE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.append_log, "append_next", lambda *_: False)
        journal.append(uc, *TABLE, 2, of_killed, position=f"{folder}000000001-known", query="all")
    journal.append(uc, *TABLE, 2, of_killed, position=f"{folder}000000001-known", query="all")
    assert journal.sweep(uc, *TABLE, older_than_days=1) == 0
    assert journal.sweep(uc, *TABLE, older_than_days=0) == 3
    assert journal.sweep(uc, *TABLE, older_than_days=0) == 0
    assert rows(uc) == [("a", 1), ("b", 1), ("c", 1)]
    assert [key.rpartition("/")[2] for key in store.list(folder)] == ["000000001-known"]
