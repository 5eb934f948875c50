"""What users say of predictions: the last word counts, and becomes a label that training learns from."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from event_logs import write_suite
from tests import synthetic
from tests.forked import start
from upstreams import Upstream, upstream_on

from nightshift import stages
from nightshift.errors import DataError
from nightshift.lake import append_log, raw, tables
from nightshift.lake.store import FileStore
from nightshift.sources.registry import open_connector
from nightshift.training import feedback
from nightshift.training.snapshot import load, snapshot
from nightshift.usecase import UseCase

ROWS = 40
DAY = timedelta(days=1)
# Labels are said and captured by now, and the night is still to come.
TODAY = datetime.now(UTC).date()
NIGHT = TODAY + DAY
START = TODAY - 24 * DAY
TRAINING = {
    "window_days": 60,
    "validation_days": 4,
    "holdout_days": 5,
    "seed": 1,
    "trainers": {"trees": {"kind": "xgboost"}},
}
_TYPES = {"order_id": "string", "kind": "string", "said_at": "timestamp", "good": "int64", "user": "string"}


def order(day: date, number: int = 5) -> str:
    """Return an order of a day; the pipeline never has a label of number 5."""
    return f"{day:%Y%m%d}-{number:04d}"


FIRST, SECOND = order(START), order(START + DAY)


def desk(prefix: str, **table: Any) -> UseCase:
    """Return a use case whose source ``desk`` has the table ``ratings`` in a log of feedback."""
    columns = {name: {"type": kind, "description": f"The rating's {name}."} for name, kind in _TYPES.items()}
    ratings = {
        "description": "Ratings.",
        "key": ["order_id", "kind"],
        "refresh": "daily",
        "lag_days": 1,
        "correction_days": 2,
        "allow_empty": True,
        "columns": columns,
    }
    chosen = {"files": "*.jsonl", "time": "said_at", "label": "good", "by": "user"} | table
    source = {
        "kind": "feedback",
        "description": "A desk.",
        "owner": "test",
        "access": "files",
        "sla": "none",
        "options": {"prefix": prefix, "tables": {"ratings": chosen}},
        "tables": {"ratings": ratings},
    }
    return synthetic.use_case(
        name="toy",
        history_start=START,
        training=TRAINING,
        labelling={"null_label": "unknown", "horizon_days": 20},
        sources={"desk": source},
    )


def predict(uc: UseCase, day: date) -> None:
    rows = synthetic.features_of(day, ROWS).select(["order_id", "partition", "ordered_at"])
    rows = rows.append_column("score", pa.array(np.full(ROWS, 0.5)))
    rows = rows.append_column("model_hash", pa.array(["m"] * ROWS))
    tables.replace_partition(uc, "predictions", day, rows, ["order_id"])


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """A log, and a lake with features, labels and the predictions of two days."""
    with upstream_on("file", tmp_path, "") as found:
        write_suite(tmp_path, monkeypatch, "raw_ratings")
        uc = desk(found.prefix)
        synthetic.publish(uc, START, TODAY, rows=ROWS)
        for day in (START, START + DAY):
            predict(uc, day)
        yield found


def rating(entity: str, good: int | None, at: str, days_ago: int = 1, **fields: Any) -> bytes:
    """Return a line of the log."""
    said = {"order_id": entity, "kind": "stars", "good": good, "user": "ann"}
    return json.dumps(said | {"said_at": f"{TODAY - days_ago * DAY}T{at}:00Z"} | fields).encode() + b"\n"


def land(uc: UseCase, night: date = NIGHT) -> int:
    """Land the night; return how many labels it recorded."""
    return int(stages.land(uc, "desk", night, night)["ratings"]["labels_recorded"])


def recorded(uc: UseCase) -> list[tuple[Any, ...]]:
    """Return what is recorded: entity, version, label, first night, who."""
    rows = tables.read_partitions(uc, "feedback", date.min, date.max)
    if not rows.num_rows:
        return []
    columns = ["order_id", "version", "returned", "label_available_on", "labelled_by"]
    return sorted(tuple(row[name] for name in columns) for row in rows.to_pylist())


def landed(uc: UseCase, days_ago: int) -> dict[str, int | None]:
    manifest = raw.current(uc, "desk", "ratings", TODAY - days_ago * DAY)
    assert manifest is not None
    return {row["order_id"]: row["good"] for row in raw.read(manifest).to_pylist()}


def test_the_last_word_by_the_moment_it_was_said_counts(upstream: Upstream) -> None:
    uc = desk(upstream.prefix)
    lines = [
        rating(FIRST, 1, "10:00"),
        rating(FIRST, 1, "10:00"),
        rating(FIRST, 0, "09:00"),  # said before, arrived after
        rating(SECOND, 1, "12:00"),  # corrects what was said the day before
        rating(SECOND, 0, "08:00", days_ago=2),
        rating("tie", 0, "08:00"),
        rating("tie", 1, "08:00"),
        rating("no label", None, "08:00"),
    ]
    upstream.append("a.jsonl", b"".join(lines))
    assert land(uc) == 2
    assert landed(uc, 1) == {FIRST: 1, SECOND: 1, "tie": 1, "no label": None}
    assert landed(uc, 2) == {SECOND: 0}, "a row is of the day on which it was said"
    assert recorded(uc) == [(FIRST, 1, 1, NIGHT, "ann"), (SECOND, 1, 1, NIGHT, "ann")]
    versions = tables.partition_versions(uc, "feedback")
    assert land(uc) == 0
    assert tables.partition_versions(uc, "feedback") == versions
    assert len(append_log.read_log("feedback/toy")) == 1


def test_the_last_word_counts_in_many_partitions_at_once_and_as_each_was_known(upstream: Upstream) -> None:
    uc = desk(upstream.prefix)
    connector = open_connector(uc, "desk")
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00") + rating(FIRST, 0, "09:00"))
    upstream.append("a.jsonl", rating(FIRST, 0, "10:00", days_ago=2) + rating(FIRST, 1, "09:00", days_ago=2))
    night = datetime.now(UTC)
    connector.capture("ratings", night)
    upstream.append("a.jsonl", rating(FIRST, 0, "11:00"))
    connector.capture("ratings")
    upstream.append("a.jsonl", rating(FIRST, 1, "10:30"))
    connector.capture("ratings")

    def words(moment: datetime) -> list[list[int]]:
        first, last = TODAY - 2 * DAY, TODAY - DAY
        found = connector.read_range("ratings", first, last, lambda _: moment)
        assert {day: one.table for day, one in found.items()} == {
            day: connector.read("ratings", day, moment).table for day in (first, last)
        }
        return [found[day].table["good"].to_pylist() for day in (first, last)]

    assert words(datetime.now(UTC)) == [[0], [0]]
    assert words(night) == [[0], [1]]


def test_what_arrives_late_counts_only_if_it_was_said_later(upstream: Upstream) -> None:
    uc = desk(upstream.prefix)
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00") + rating(SECOND, 1, "10:00"))
    assert land(uc) == 2
    upstream.append("b.jsonl", rating(FIRST, 0, "09:59") + rating(SECOND, 0, "10:01", user="bob"))
    assert land(uc) == 1
    assert recorded(uc) == [
        (FIRST, 1, 1, NIGHT, "ann"),
        (SECOND, 1, 1, NIGHT, "ann"),
        (SECOND, 2, 0, NIGHT, "bob"),
    ]
    # Said last of all, and the same as before: what was said in between can no more take its place.
    upstream.append("b.jsonl", rating(FIRST, 1, "12:00"))
    land(uc)
    upstream.append("c.jsonl", rating(FIRST, 0, "11:00", days_ago=1, kind="mail"))
    assert land(uc) == 0
    assert feedback.labelled(uc) == {FIRST: 1, SECOND: 0}


def test_a_person_who_imports_a_label_has_the_word_until_a_user_speaks_again(upstream: Upstream) -> None:
    uc = desk(upstream.prefix)
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00", days_ago=2))
    land(uc)
    label = feedback.Label(FIRST, START, 0, "row 2")
    at = datetime.combine(TODAY - DAY, datetime.min.time(), UTC)
    feedback.record(uc, [label], by="Eve", at=at, known_from=NIGHT, correct=True)
    assert land(uc) == 0
    assert feedback.labelled(uc) == {FIRST: 0}
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00"))
    assert land(uc) == 1
    assert feedback.labelled(uc) == {FIRST: 1}


def test_training_learns_from_it_where_the_pipeline_has_no_label(upstream: Upstream) -> None:
    uc = desk(upstream.prefix)
    before = {night: snapshot(uc, night).content_hash for night in (TODAY, NIGHT)}
    labels = tables.read_partitions(uc, "labels", START, START).to_pylist()
    other = next(row for row in labels if row["returned"] is not None)
    wrong = 1 - other["returned"]
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00") + rating(other["order_id"], wrong, "10:00"))
    assert land(uc) == 2
    taken = snapshot(uc, NIGHT)
    rows = load(taken, "train")
    of = {row["order_id"]: row["returned"] for row in rows.select(["order_id", "returned"]).to_pylist()}
    assert of[FIRST] == 1
    assert of[other["order_id"]] == other["returned"], "the pipeline's own label wins"
    assert taken.content_hash != before[NIGHT]
    assert snapshot(uc, TODAY).content_hash == before[TODAY], "a night before it does not know it"


def test_a_label_waits_for_its_prediction_and_odd_ones_are_told(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    uc = desk(upstream.prefix)
    waiting = order(START + 2 * DAY)
    upstream.append("a.jsonl", rating(waiting, 1, "10:00", days_ago=2) + rating(FIRST, 7, "10:00"))
    with caplog.at_level("INFO"):
        assert land(uc) == 0
    assert "0 recorded, 1 wait for a prediction, 1 are neither 0 nor 1" in caplog.text
    assert recorded(uc) == []
    predict(uc, START + 2 * DAY)
    assert land(uc, NIGHT + 9 * DAY) == 1, "a night that lands other days looks back"
    assert [row[:3] for row in recorded(uc)] == [(waiting, 1, 1)]


def test_a_row_in_quarantine_is_no_label(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule = {
        "type": "expect_column_values_to_be_in_set",
        "kwargs": {"column": "user", "value_set": ["ann"]},
        "meta": {"rule": "known_user", "severity": "quarantine", "reason": "Others are robots."},
    }
    write_suite(tmp_path / "other", monkeypatch, "raw_ratings", rule)
    uc = desk(upstream.prefix)
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00") + rating(SECOND, 1, "10:00", user="robot"))
    assert land(uc) == 1
    assert feedback.labelled(uc) == {FIRST: 1}


def _land_and_die(prefix: str, part_of_key: str, after: bool) -> None:
    write: Callable[..., bool] = FileStore.put_new

    def deadly(self: FileStore, key: str, content: bytes) -> bool:
        if part_of_key in key and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        done = write(self, key, content)
        if part_of_key in key:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    FileStore.put_new = deadly
    land(desk(prefix))


@pytest.mark.parametrize("part_of_key", ["raw/", "logs/feedback/"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_between_landing_and_recording_it_ends_as_if_undisturbed(
    upstream: Upstream, part_of_key: str, after: bool
) -> None:
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00") + rating(SECOND, 0, "11:00"))
    killed = start(_land_and_die, upstream.prefix, part_of_key, after)
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    uc = desk(upstream.prefix)
    land(uc)
    assert recorded(uc) == [(FIRST, 1, 1, NIGHT, "ann"), (SECOND, 1, 0, NIGHT, "ann")]
    assert len(append_log.read_log("feedback/toy")) == 1


def test_a_table_without_labels_is_only_landed(upstream: Upstream) -> None:
    uc = desk(upstream.prefix, label=None)
    upstream.append("a.jsonl", rating(FIRST, 1, "10:00"))
    assert "labels_recorded" not in stages.land(uc, "desk", NIGHT, NIGHT)["ratings"]
    assert landed(uc, 1) == {FIRST: 1}
    assert recorded(uc) == []


@pytest.mark.parametrize("wrong", [{"label": "kind"}, {"label": "stars"}, {"by": "good"}])
def test_labels_that_cannot_be_are_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(DataError, match="has no column") as error:
        open_connector(desk(f"{tmp_path.as_uri()}/", **wrong), "desk")
    assert error.value.where == "toy/sources.yml: sources.desk.tables.ratings.columns"
