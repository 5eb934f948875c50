"""The dbt project itself: unit tests of its SQL, documentation, and rules each model keeps."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from nights import FIRST, LAST

from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.engine import engine


def test_unit_tests_pass(built: Path, flight_delays: UseCase) -> None:
    outcome = dbt.run(flight_delays, ["test", "--select", "test_type:unit"])
    results = {result.node.name: str(result.status) for result in outcome.result}
    assert len(results) >= 7
    assert set(results.values()) == {"pass"}, results


def test_docs_describe_every_model_and_column(built: Path, flight_delays: UseCase) -> None:
    page = dbt.docs(flight_delays)
    assert page.stat().st_size > 1_000_000
    manifest = json.loads((page.parent / "manifest.json").read_text())
    models = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert len(models) >= 16
    for model in models:
        assert model["description"], model["name"]
        assert model["config"]["contract"]["enforced"], model["name"]
        assert all(column["description"] for column in model["columns"].values()), model["name"]
        beside = settings().dbt_project / Path(model["original_file_path"]).with_suffix(".yml")
        assert beside.is_file(), f"{model['name']} has no YAML beside it"
        if model["config"]["materialized"] == "incremental":
            assert model["config"]["meta"]["window"] in ("nights", "facts"), model["name"]


def test_features_rest_on_tested_ground(built: Path, flight_delays: UseCase) -> None:
    """Whatever features read, other than the schedule, carries a data test that it predates the night."""
    page = dbt.docs(flight_delays)
    manifest = json.loads((page.parent / "manifest.json").read_text())
    (features,) = (n for n in manifest["nodes"].values() if n["name"] == flight_delays.features.relation)
    inputs = {node.rpartition(".")[2] for node in features["depends_on"]["nodes"]}
    of_the_schedule = {"stg_schedules", "int_schedule_context"}
    of_validity = {"dim_planes"}
    before = {
        test["attached_node"].rpartition(".")[2]
        for test in manifest["nodes"].values()
        if test["resource_type"] == "test" and test["test_metadata"]["name"] == "before_partition"
    }
    known = {
        test["attached_node"].rpartition(".")[2]
        for test in manifest["nodes"].values()
        if test["resource_type"] == "test" and test["test_metadata"]["name"] == "known_by_partition"
    }
    assert inputs - of_the_schedule - of_validity == before == known
    assert len(before) == 2
    (context,) = (n for n in manifest["nodes"].values() if n["name"] == "int_schedule_context")
    assert [node.rpartition(".")[2] for node in context["depends_on"]["nodes"]] == ["stg_schedules"]


def test_a_night_leaves_other_partitions_alone(
    built: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    def rows() -> list[tuple[object, ...]]:
        with engine().connect(read_only=True) as connection:
            return connection.execute(
                "select partition, count(*) from flight_delays.features_flight_delays group by 1 order by 1"
            )

    before = rows()
    assert (before[0][0], before[-1][0]) == (FIRST, LAST)
    with caplog.at_level(logging.INFO, "nightshift.warehouse.dbt"):
        took = dbt.build(flight_delays, LAST, LAST)
    assert rows() == before
    told = [message.split(" in ")[0] for message in caplog.messages]
    assert f"success {flight_delays.features.relation}" in told
    assert len(told) == len(took), "each model and test is told of as it ends"


def test_a_changed_column_rebuilds_instead_of_mixing_old_and_new(
    built: Path, flight_delays: UseCase, caplog: pytest.LogCaptureFixture
) -> None:
    with engine().connect() as connection:
        connection.execute("alter table flight_delays.int_weather_eve drop column day_max_gust_mph")
    dbt.build(flight_delays, LAST, LAST)
    assert "the columns of a model changed" in caplog.text
