"""Raw columns reach the columns that a person finds by reading the SQL, those and no others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.errors import DataError
from nightshift.lineage.columns import lineage_of_column
from nightshift.lineage.graph import Graph
from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt

TRUTH: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("column_truth.yml").read_text())
KEPT = "compiled.json"


@pytest.fixture(scope="session")
def compiled_on(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What dbt has said of the project, by engine: it takes seconds to ask."""
    return {}


@pytest.fixture
def asked(compiled_on: dict[str, Path], home: Path, engine_name: str, flight_delays: UseCase,
          tmp_path_factory: pytest.TempPathFactory) -> UseCase:  # fmt: skip
    """The use case, whose project was compiled."""
    folder = home / "warehouse" / "dbt" / flight_delays.name
    if engine_name in compiled_on:
        folder.mkdir(parents=True)
        shutil.copy(compiled_on[engine_name], folder / KEPT)
    else:
        dbt.compiled(flight_delays)
        kept = tmp_path_factory.mktemp(f"compiled-{engine_name}")
        compiled_on[engine_name] = Path(shutil.copy(folder / KEPT, kept))
    return flight_delays


def _by_relation(graph: Graph, ids: set[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for node in graph.of_kind("column", "feature"):
        if node.id in ids:
            found.setdefault(node.group, set()).add(node.name)
    return found


@pytest.mark.parametrize("column", TRUTH)
def test_a_raw_column_reaches_what_a_person_finds_in_the_sql(asked: UseCase, column: str) -> None:
    (source,) = asked.sources
    found = lineage_of_column(asked, f"{source}.{column}")
    values = found.reached(found.about, down=True, how="value")
    others = found.reached(found.about, down=True) - values
    told = {"value": _by_relation(found, values), "rows": _by_relation(found, others)}
    true = {kind: {name: set(names) for name, names in TRUTH[column][kind].items()} for kind in TRUTH[column]}
    assert told == true


def test_nothing_of_the_project_is_beyond_reading(asked: UseCase) -> None:
    assert lineage_of_column(asked, asked.label.column).notes == ()


def test_a_feature_leads_back_to_its_sources(asked: UseCase) -> None:
    found = lineage_of_column(asked, "plane_age_years")
    values = _by_relation(found, found.reached(found.about, down=False, how="value"))
    # The year of the flight, less the year of the aircraft.
    assert values == {
        "nycflights13.planes": {"manufactured_year"},
        "nycflights13.schedules": {"partition"},
        "stg_planes": {"manufactured_year"},
        "stg_schedules": {"partition"},
        "dim_planes": {"manufactured_year"},
    }
    rows = _by_relation(found, found.reached(found.about, down=False))
    assert rows["nycflights13.planes"] == {"manufactured_year", "tail_number", "partition"}


def test_a_column_that_is_not_there_is_answered_with_those_like_it(asked: UseCase) -> None:
    with pytest.raises(DataError, match=r"no column 'flights\.arrival_delay_minute'") as raised:
        lineage_of_column(asked, "flights.arrival_delay_minute")
    assert "flights.arrival_delay_minutes" in raised.value.cure
    with pytest.raises(DataError) as raised:
        lineage_of_column(asked, "plane_seat")
    assert f"{asked.features.relation}.plane_seats" in raised.value.cure


def test_an_edited_model_is_compiled_again_and_only_then(
    asked: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(settings().dbt_project, project / "dbt_project")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
    settings.cache_clear()
    model = project / "dbt_project" / "models" / asked.name / "features" / f"{asked.label.relation}.sql"
    before = dbt.compiled(asked)
    model.write_text(
        model.read_text().replace("arrival_delay_minutes,", "air_time_minutes as arrival_delay_minutes,")
    )
    after = dbt.compiled(asked)
    assert [one.name for one in before.models] == [one.name for one in after.models]
    assert "air_time_minutes" in next(one.sql for one in after.models if one.name == asked.label.relation)

    def refuse(*_: object) -> None:
        raise AssertionError("dbt was asked again")

    monkeypatch.setattr(dbt, "_ask_child", refuse)
    assert dbt.compiled(asked) == after


def test_compiling_opens_no_warehouse(asked: UseCase, home: Path, engine_name: str) -> None:
    kept = home / "warehouse" / "dbt" / asked.name / KEPT
    kept.unlink()
    dbt.compiled(asked)
    assert kept.is_file()
    assert not (home / "warehouse" / "warehouse.duckdb").exists()


def test_a_model_that_cannot_be_compiled_is_named(
    asked: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(settings().dbt_project, project / "dbt_project")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
    settings.cache_clear()
    model = project / "dbt_project" / "models" / asked.name / "features" / f"{asked.label.relation}.sql"
    model.write_text("{{ no_such_macro() }} " + model.read_text())
    with pytest.raises(DataError, match="no_such_macro"):
        dbt.compiled(asked)
