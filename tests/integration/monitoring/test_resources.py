"""What tasks used becomes tables and a bill, and a night that costs too much is told about once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests import synthetic

from nightshift import stages
from nightshift.lake import tables
from nightshift.lake.store import open_store
from nightshift.monitoring import resources
from nightshift.monitoring.alerting import read_alerts
from nightshift.monitoring.resources import COSTS, LAYER, Work
from nightshift.settings import settings
from nightshift.usage import Usage
from nightshift.usecase import Budget, UseCase

NIGHT = date(2020, 3, 10)
# Half a CPU-hour, and 1 GiB for a quarter of an hour.
USED = Usage(
    started_at=datetime(2020, 3, 10, 4, tzinfo=UTC),
    seconds=900,
    cpu_seconds=1800,
    peak_memory_mb=1024,
    rows=500,
)


@pytest.fixture
def uc(home: Path) -> UseCase:
    uc = synthetic.use_case()
    publish(uc, NIGHT - timedelta(days=60), NIGHT + timedelta(days=60))
    return uc


def publish(uc: UseCase, *days: date) -> None:
    contents = {day: pa.table({"order_id": ["a"]}) for day in days}
    tables.replace_partitions(uc, "features", contents, ["order_id"])


def work(
    night: date = NIGHT, dag: str = "score", task: str = "score", map_index: int = -1, days: int = 1
) -> Work:
    return Work("synthetic", night, dag, task, days=days, map_index=map_index, run=f"{dag} {night}")


def versions(uc: UseCase) -> dict[str, dict[date, tables.PartitionVersion]]:
    return {layer: tables.partition_versions(uc, layer) for layer in (LAYER, COSTS)}


def predict(uc: UseCase, night: date, rows: int) -> None:
    table = pa.table({"order_id": [f"{number}" for number in range(rows)]})
    tables.replace_partition(uc, "predictions", night, table, ["order_id"])


def test_the_bill_of_a_night_follows_from_known_figures(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "NIGHTSHIFT_PRICES", '{"unit": "EUR", "cpu_hour": 0.04, "gb_hour": 0.008, "gpu_hour": 2}'
    )
    settings.cache_clear()
    predict(uc, NIGHT, 250)
    resources.record(work(dag="ingest", task="land"), USED)
    resources.record(work(), USED)
    resources.record(
        work(dag="train", task="train_network"), replace(USED, gpu_seconds=900.0, gpu_memory_mb=1)
    )
    resources.record(work(dag="bootstrap", task="land_month", days=31), USED)

    (cost,) = resources.fold(uc, NIGHT)

    one = 0.5 * 0.04 + 0.25 * 0.008
    assert cost.night == pytest.approx(2 * one)
    assert cost.other == pytest.approx(one + 0.25 * 2)
    assert cost.ranges == pytest.approx(one)
    assert cost.per_thousand == pytest.approx(2 * one * 4)
    assert cost.by_dag["train"] == pytest.approx(one + 0.5)
    assert (cost.tasks, cost.predictions, cost.prices.unit) == (4, 250, "EUR")
    assert resources.costs(uc, NIGHT, NIGHT) == {NIGHT: cost}


def test_a_night_without_predictions_has_no_cost_of_one(uc: UseCase) -> None:
    resources.record(work(), USED)
    (cost,) = resources.fold(uc, NIGHT)
    assert cost.per_thousand is None
    assert resources.costs(uc, NIGHT, NIGHT)[NIGHT] == cost


def test_folding_again_changes_nothing_and_every_try_is_a_row(uc: UseCase) -> None:
    resources.record(replace(work(), attempt=1, state="failed"), USED)
    resources.record(replace(work(), attempt=2, state="success"), USED)
    for index in range(3):
        resources.record(work(dag="ingest", task="land", map_index=index), USED)
    resources.record(work(dag="ingest", task="land", map_index=2), USED)  # told twice
    resources.fold(uc, NIGHT)
    rows = tables.read_partitions(uc, LAYER, NIGHT, NIGHT).to_pylist()
    assert [(row["task"], row["map_index"], row["attempt"], row["state"]) for row in rows] == [
        ("land", 0, 1, "success"),
        ("land", 1, 1, "success"),
        ("land", 2, 1, "success"),
        ("score", -1, 1, "failed"),
        ("score", -1, 2, "success"),
    ]
    before = versions(uc)
    resources.fold(uc, NIGHT)
    assert versions(uc) == before


def test_what_ends_after_the_fold_is_in_the_next_one(uc: UseCase) -> None:
    resources.record(work(), USED)
    resources.fold(uc, NIGHT)
    resources.record(work(dag="monitor", task="account"), USED)
    resources.fold(uc, NIGHT + timedelta(days=1))
    assert tables.partition_versions(uc, LAYER)[NIGHT].rows == 2
    assert resources.costs(uc, NIGHT, NIGHT)[NIGHT].tasks == 2


def test_a_run_for_a_day_to_come_makes_no_table_hold_it(uc: UseCase) -> None:
    """Retention counts from the newest day: one that a typing error made would empty the lake."""
    resources.record(work(date(2050, 1, 1)), USED)
    resources.record(work(), USED)
    resources.fold(uc, NIGHT)
    assert list(tables.partition_versions(uc, LAYER)) == list(tables.partition_versions(uc, COSTS)) == [NIGHT]


def test_a_mistyped_day_empties_no_lake(home: Path) -> None:
    uc = synthetic.use_case()
    mistyped = NIGHT.replace(year=NIGHT.year + 5)
    publish(uc, NIGHT)
    resources.record(work(), USED)
    resources.record(replace(work(mistyped, dag="monitor", task="check_drift"), state="failed"), USED)
    stages.account(uc, mistyped)
    assert list(tables.partition_versions(uc, LAYER)) == list(tables.partition_versions(uc, COSTS)) == [NIGHT]
    # Some other table may hold such a day all the same.
    row = pa.table({"order_id": ["a"]})
    tables.replace_partition(uc, "monitoring", mistyped, row, ["order_id"])
    stages.sweep_lake(uc, mistyped + timedelta(days=30))
    assert [list(tables.partition_versions(uc, layer)) for layer in ("features", LAYER, COSTS)] == [
        [NIGHT]
    ] * 3


_RECORD = """
import sys
from datetime import UTC, date, datetime
from nightshift.monitoring.resources import Work, record
from nightshift.usage import Usage
for number in range(25):
    record(
        Work("synthetic", date(2020, 3, 10), "score", f"task {sys.argv[1]} {number}"),
        Usage(datetime.now(UTC), 1.0, 1.0, 1.0, 1),
    )
"""


def test_tasks_that_end_at_the_same_time_all_count(uc: UseCase) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", _RECORD, str(number)]) for number in range(4)]
    # While they write, others fold.
    while any(writer.poll() is None for writer in writers):
        resources.fold(uc, NIGHT)
    assert [writer.returncode for writer in writers] == [0] * 4
    (cost,) = resources.fold(uc, NIGHT)
    assert cost.tasks == tables.partition_versions(uc, LAYER)[NIGHT].rows == 100


def test_the_order_of_nights_does_not_matter(uc: UseCase) -> None:
    nights = [NIGHT + timedelta(days=offset) for offset in range(3)]
    for night in nights:
        resources.record(work(night), USED)
        resources.fold(uc, night)
    forward = {layer: {d: v.content_hash for d, v in found.items()} for layer, found in versions(uc).items()}
    for layer in (LAYER, COSTS):
        for night in nights:
            tables.delete_partition(uc, layer, night)
    for night in reversed(nights):
        resources.fold(uc, night)
    assert forward == {
        layer: {d: v.content_hash for d, v in found.items()} for layer, found in versions(uc).items()
    }


def test_swept_records_stay_in_the_table(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    resources.record(work(), USED)
    resources.fold(uc, NIGHT)
    resources.record(work(dag="monitor", task="account"), USED)
    assert resources.sweep(uc) == 0, "young ones stay"
    monkeypatch.setattr(resources, "_KEPT", timedelta(seconds=-5))
    assert resources.sweep(uc) == 1, "what no table has is kept"
    resources.fold(uc, NIGHT)
    assert tables.partition_versions(uc, LAYER)[NIGHT].rows == 2
    assert resources.sweep(uc) == 1
    assert open_store().list("usage/") == []
    before = versions(uc)
    assert resources.fold(uc, NIGHT) == []
    assert versions(uc) == before


def history(nights: int, seconds: float = 1800) -> None:
    for back in range(1, nights + 1):
        resources.record(work(NIGHT - timedelta(days=back)), replace(USED, cpu_seconds=seconds))


def alerts(uc: UseCase) -> list[tuple[str, str]]:
    return [(alert.kind, alert.message) for alert in read_alerts(uc.name)]


def test_a_night_of_several_times_the_usual_cost_is_told_about_once(uc: UseCase) -> None:
    history(8)
    resources.record(work(), replace(USED, cpu_seconds=9 * 1800))
    stages.account(uc, NIGHT)
    stages.account(uc, NIGHT)
    ((kind, message),) = alerts(uc)
    assert kind == "cost"
    assert f"{NIGHT} cost 4.525 CPU-hours, 8.6 times the median of the 8 nights before (0.525" in message
    assert "score 4.525" in message


@pytest.mark.parametrize(
    ("nights", "usual", "spent"),
    [
        pytest.param(6, 1800, 9 * 1800, id="too few nights to compare with"),
        pytest.param(8, 1800, 2 * 1800, id="within the ratio"),
        pytest.param(8, 2, 200, id="a small sum"),
    ],
)
def test_nobody_is_woken_for_nothing(uc: UseCase, nights: int, usual: float, spent: float) -> None:
    history(nights, usual)
    resources.record(work(), replace(USED, cpu_seconds=spent))
    stages.account(uc, NIGHT)
    assert alerts(uc) == []


def test_a_training_night_is_not_compared_with_nights_without_one(uc: UseCase) -> None:
    history(8)
    resources.record(work(), USED)
    resources.record(work(dag="train", task="train_trees"), replace(USED, cpu_seconds=50 * 1800))
    stages.account(uc, NIGHT)
    assert alerts(uc) == []


def test_other_prices_are_no_other_night(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    history(8)
    resources.fold(uc, NIGHT - timedelta(days=1))
    for key in open_store().list("usage/"):
        open_store().delete(key)
    monkeypatch.setenv("NIGHTSHIFT_PRICES", '{"unit": "cents", "cpu_hour": 100}')
    settings.cache_clear()
    resources.record(work(), USED)
    stages.account(uc, NIGHT)
    assert alerts(uc) == []


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        (Budget(night=1.0), "cost 1.05 CPU-hours, more than the budget of 1"),
        (Budget(per_thousand=2.0), "1,000 predictions of 2020-03-10 cost 2.1 CPU-hours"),
        (Budget(night=1.1, per_thousand=2.2), None),
    ],
)
def test_a_budget_in_figures_needs_no_history(uc: UseCase, budget: Budget, says: str | None) -> None:
    uc = uc.model_copy(update={"budget": budget})
    predict(uc, NIGHT, 250)
    resources.record(work(), USED)
    resources.record(work(dag="train", task="train_trees"), USED)
    stages.account(uc, NIGHT)
    found = [message for _, message in alerts(uc)]
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_prices_that_are_none_say_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nightshift.errors import DataError

    for value, why in (("{oops", "no JSON"), ('{"cpu_hour": -1}', "greater than or equal to 0")):
        monkeypatch.setenv("NIGHTSHIFT_PRICES", value)
        settings.cache_clear()
        with pytest.raises(DataError, match=f"NIGHTSHIFT_PRICES: .*{why}"):
            settings()
