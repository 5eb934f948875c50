"""A whole Nightshift of the tests' own: a copy of the project, empty state, free ports, real services."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from nightshift.lake import tables
from nightshift.services import processes, stack
from nightshift.services.airflow_api import AirflowApi
from nightshift.settings import settings
from nightshift.usecase import load_usecase
from tests.servers import Hook, serving
from tests.stacks import CHAIN, Stack, copy_project

HISTORY = (date(2013, 1, 1), date(2013, 3, 10))
NIGHT = HISTORY[1] + timedelta(days=2)


@pytest.fixture(scope="package")
def hook() -> Iterator[Hook]:
    """A web server that all alerts of ``running`` are posted to."""
    with serving(Hook()) as server:
        yield server


@pytest.fixture(scope="package")
def running(hook: Hook) -> Iterator[Stack]:
    """Start everything once for all end-to-end tests, and stop it after the last: others use the checkout.

    The retrain policy is off, so that results depend on the data alone. The gate asks less: what is learned
    from ten weeks of winter does not beat the baseline, and takes a carrier for late as such. A run is late
    after a minute. Secrets are files, so that a test can bring its own. The state is not under pytest's own
    folder: as root, PostgreSQL runs as another user, who may not enter it.
    """
    project = settings().project
    with (
        tempfile.TemporaryDirectory(prefix="nightshift-e2e-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        copy, home = Path(folder) / "project", Path(folder) / "state"
        copy_project(project, copy, _made_for_tests)
        secrets = Path(folder) / "secrets"
        secrets.mkdir()
        patch.setenv("NIGHTSHIFT_SECRETS", str(secrets))
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets / "aws"))
        patch.setenv("NIGHTSHIFT_HOME", str(home))
        patch.setenv("NIGHTSHIFT_PROJECT", str(copy))
        patch.setenv("NIGHTSHIFT_RETRY_SECONDS", "3")
        patch.setenv("AIRFLOW_CONN_TICKETS", json.dumps({"conn_type": "http", "host": hook.url}))
        for name in ("AIRFLOW", "MLFLOW", "POSTGRES"):
            patch.setenv(f"NIGHTSHIFT_{name}_PORT", str(processes.free_port()))
        settings.cache_clear()
        try:
            stack.up()
            uc = load_usecase("flight_delays")
            with AirflowApi() as api:
                api.wait_for_dags(f"{uc.name}.{name}" for name in (*CHAIN, "bootstrap", "watch", "maintain"))
                yield Stack(api, uc, home)
        finally:
            stack.down()
            settings.cache_clear()


def _made_for_tests(usecase: dict[str, Any]) -> None:
    usecase["retrain"]["enabled"] = False
    usecase["training"]["baseline"] = None
    usecase["gate"]["fairness"] = {}
    usecase["schedule"]["sla_minutes"] = 1
    usecase["alerts"] = {
        "notifiers": {"tickets": {"kind": "webhook", "connection": "tickets"}},
        "routes": [{"to": ["log", "tickets"]}],
    }


@pytest.fixture(scope="package")
def bootstrapped(running: Stack) -> Stack:
    """The stack with ten weeks of history and a first champion."""
    running.run("bootstrap", {"start": HISTORY[0].isoformat(), "end": HISTORY[1].isoformat()})
    return running


@pytest.fixture(scope="package")
def two_nights(bootstrapped: Stack) -> Stack:
    """The stack with two nights, the second of which (``NIGHT``) brings the truth about the first."""
    wanted = [NIGHT - timedelta(days=1), NIGHT]
    if tables.partition_version(bootstrapped.uc, "monitoring", NIGHT) is None:
        since = bootstrapped.ingest(wanted)
        for night in wanted:
            bootstrapped.finish(night, since)
    return bootstrapped
