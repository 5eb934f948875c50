"""The DAGs as Airflow parses them, without a database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from nightshift.settings import settings


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep Airflow's configuration out of the home folder. It is read once, at the first import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        yield


@pytest.fixture(scope="session")
def dagbag(airflow_home: None) -> Any:
    """Every DAG of the use case that comes with this repository, whichever others there are."""
    from airflow.dag_processing.dagbag import DagBag

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "flight_delays.any")
        return DagBag(settings().project / "dags")


@pytest.fixture
def parse(airflow_home: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parse the DAG folder again, for example with other use cases."""
    from airflow.dag_processing.dagbag import DagBag

    def parse() -> Any:
        settings.cache_clear()
        os.environ.pop("_AIRFLOW_PARSING_CONTEXT_DAG_ID", None)
        return DagBag(settings().project / "dags")

    yield parse
    settings.cache_clear()
