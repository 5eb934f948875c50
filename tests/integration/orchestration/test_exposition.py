"""What Prometheus reads is what the lake holds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests import synthetic
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.inference import performance
from nightshift.lake import append_log, tables
from nightshift.lake.store import FileStore
from nightshift.monitoring import resources
from nightshift.monitoring.alerting import raise_alert
from nightshift.orchestration import exposition
from nightshift.settings import settings
from nightshift.usage import Usage
from nightshift.usecase import UseCase

NIGHT = date(2020, 3, 10)

Metrics = dict[str, dict[tuple[str, ...], float]]


@pytest.fixture
def uc(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """A checkout with the made-up use case alone, and some nights in its lake."""
    uc = synthetic.use_case(timezone="America/New_York")
    synthetic.write_use_case(tmp_path / "project", uc)
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()
    synthetic.publish(uc, NIGHT - timedelta(days=2), NIGHT, rows=40)
    return uc


def parsed() -> Metrics:
    """Return what is told, by metric and the values of its labels but the use case."""
    found: Metrics = {}
    for family in text_string_to_metric_families(exposition.page()):
        assert family.type == "gauge"
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["usecase"] == "synthetic"
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "usecase")
            found.setdefault(sample.name.removeprefix("nightshift_"), {})[labels] = sample.value
    return found


def account(night: date, task: str, cpu_seconds: float, state: resources.State = "success") -> None:
    used = Usage(datetime.now(UTC), 900.0, cpu_seconds, 1024.0, 500)
    resources.record(resources.Work("synthetic", night, "score", task, run=str(night), state=state), used)


def test_partitions_are_told_with_their_newest_day(uc: UseCase) -> None:
    found = parsed()
    assert found["partitions"] == {("features",): 3, ("labels",): 3}
    assert found["newest_partition_rows"][("features",)] == 40
    begins = datetime(2020, 3, 10, 4, tzinfo=UTC).timestamp()  # midnight in New York
    assert found["newest_partition_timestamp_seconds"][("features",)] == begins
    assert found["newest_partition_age_seconds"][("features",)] == pytest.approx(
        time.time() - begins, abs=600
    )
    assert found["usecase_valid"] == found["usecase_readable"] == found["up"] == {(): 1}
    assert "night_cost" not in found, "what is not there is not told"


def test_costs_and_tasks_of_the_newest_night_are_told(uc: UseCase) -> None:
    predictions = pa.table({"order_id": [f"{number}" for number in range(250)]})
    tables.replace_partition(uc, "predictions", NIGHT, predictions, ["order_id"])
    account(NIGHT - timedelta(days=1), "score", 7200)
    account(NIGHT, "score", 1800, state="failed")
    account(NIGHT, "publish", 900)
    resources.fold(uc, NIGHT)
    found = parsed()
    assert found["night_cost"][("night", "CPU-hours")] == pytest.approx(0.75 + 2 * 0.025)
    assert found["cost_per_1000_predictions"][("CPU-hours",)] == pytest.approx(3.2)
    assert found["task_cpu_seconds"] == {("score", "score"): 1800, ("score", "publish"): 900}
    assert found["task_peak_memory_bytes"][("score", "score")] == 1024**3
    assert found["task_failures"] == {("score", "score"): 1, ("score", "publish"): 0}
    assert "task_gpu_seconds" not in found


def test_observed_quality_is_told(uc: UseCase) -> None:
    row = {"partition": NIGHT, "roc_auc": 0.71, "rows": 40, "model_hash": "a", "labels_hash": "b"}
    tables.replace_partition(uc, "monitoring_observed", NIGHT, pa.Table.from_pylist([row]), ["partition"])
    assert parsed()["quality"] == {("roc_auc",): 0.71, ("rows",): 40}


def test_predictions_scoring_and_estimates_are_told(uc: UseCase) -> None:
    performance.failed(uc, NIGHT, "m")
    found = parsed()
    assert found["scoring_failed_attempts"] == {(): 1}
    assert "scoring_latency_seconds" not in found, "nothing was scored yet"
    performance.scored(uc, NIGHT, "p", "m", 100, [0.5, 0.5])
    profile = dict.fromkeys(exposition._FIGURES, 0.25) | {"rows": 40, "model_hash": "m", "inputs": "p"}
    texts = {"deciles": "[]", "missing": '{"demand": 0.25}', "outside": "{}"}
    _put(uc, "monitoring_predictions", **profile, **texts)
    _put(uc, "monitoring_estimates", rows=40, inputs="p", roc_auc=0.75, brier=0.125, cost=None)
    found = parsed()
    assert found["scoring_failed_attempts"] == {(): 1}
    assert found["scoring_rows_per_second"] == {(): 100}
    assert found["scoring_latency_seconds"] == {("0.5",): 0.5, ("0.95",): 0.5, ("0.99",): 0.5}
    assert set(found["predictions"]) >= {("mean",), ("positive_rate",), ("margin",), ("rows_missing",)}
    assert set(found["predictions"].values()) == {0.25}
    assert found["estimated_quality"] == {("roc_auc",): 0.75, ("brier",): 0.125}


def test_a_night_that_could_not_be_judged_is_told(uc: UseCase) -> None:
    row = {"verdict": "watch", "columns": "[]", "windows": "[]", "findings": "[]", "signal": False, "rows": 1}
    hashes = dict.fromkeys(("model_hash", "features_hash", "predictions_hash", "inputs"), "a")
    for note, judged in (("not judged: too few days", 0), ("", 1)):
        _put(uc, "monitoring", **row, **hashes, note=note)
        assert parsed()["drift_judged"] == {(): judged}


def _put(uc: UseCase, layer: str, **row: Any) -> None:
    table = pa.Table.from_pylist([row | {"partition": NIGHT}])
    tables.replace_partition(uc, layer, NIGHT, table, ["partition"])


def test_alerts_of_the_last_week_are_counted(uc: UseCase) -> None:
    raise_alert(uc.name, "cost", "2020-03-10", "too much")
    raise_alert(uc.name, "night_late", "2020-03-10", "late")
    raise_alert(uc.name, "night_late", "2020-03-11", "late")
    assert parsed()["alerts"] == {("cost",): 1, ("night_late",): 2}


def test_what_changed_is_read_and_nothing_else(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    before = parsed()
    read = []
    whole = tables.partition_versions

    def counted(uc: UseCase, layer: str, at: int | datetime | None = None) -> object:
        read.append(layer)
        return whole(uc, layer, at)

    monkeypatch.setattr(tables, "partition_versions", counted)
    assert parsed()["partitions"] == before["partitions"]
    assert read == []
    synthetic.publish(uc, NIGHT + timedelta(days=1), NIGHT + timedelta(days=1))
    tables.delete_partition(uc, "labels", NIGHT + timedelta(days=1))
    read.clear()
    assert parsed()["partitions"] == {("features",): 4, ("labels",): 3}
    assert set(read) == {"features", "labels"}


@pytest.fixture
def broken(uc: UseCase) -> Iterator[str]:
    folder = settings().usecases / "broken"
    folder.mkdir()
    (folder / "usecase.yml").write_text("name: [", encoding="utf-8")
    yield "broken"
    shutil.rmtree(folder)


def test_a_broken_use_case_is_told_and_hides_no_other(uc: UseCase, broken: str) -> None:
    text = exposition.page()
    assert 'nightshift_usecase_valid{usecase="broken"} 0.0' in text
    assert 'nightshift_up{usecase="broken"} 0.0' in text
    assert 'nightshift_usecase_valid{usecase="synthetic"} 1.0' in text
    assert 'nightshift_partitions{layer="features",usecase="synthetic"} 3.0' in text


def test_a_table_that_cannot_be_read_is_told(uc: UseCase) -> None:
    log = Path(settings().home) / "lake" / "tables" / uc.name / "labels" / "_delta_log"
    for file in log.glob("*.json"):
        file.write_text("no commit")
    text = exposition.page()
    assert 'nightshift_usecase_readable{usecase="synthetic"} 0.0' in text


def test_what_nobody_thought_of_in_one_use_case_hides_no_other(uc: UseCase) -> None:
    other = uc.model_copy(update={"name": "other"})
    synthetic.write_use_case(settings().project, other)
    append_log.append("alerts/other", {"at": "yesterday"})
    text = exposition.page()
    assert 'nightshift_up{usecase="other"} 0.0' in text
    assert 'nightshift_up{usecase="synthetic"} 1.0' in text
    assert 'nightshift_partitions{layer="features",usecase="synthetic"} 3.0' in text


def test_the_files_of_the_tables_are_not_listed(uc: UseCase, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = []
    whole = FileStore.list

    def counted(store: FileStore, prefix: str) -> list[str]:
        found = whole(store, prefix)
        listed.extend(found)
        return found

    monkeypatch.setattr(FileStore, "list", counted)
    assert parsed()["partitions"] == {("features",): 3, ("labels",): 3}
    assert not [key for key in listed if key.endswith(".parquet")]


def test_the_command_prints_the_same(uc: UseCase) -> None:
    result = CliRunner().invoke(app, ["metrics"])
    assert result.exit_code == 0, result.output
    samples = [line for line in result.output.splitlines() if "_age_" not in line]
    assert samples == [line for line in exposition.page().splitlines() if "_age_" not in line]
