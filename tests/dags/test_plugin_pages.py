"""What the plugin mounts answers users of Airflow's, and nobody else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from nightshift.settings import settings


@pytest.fixture
def plugin(airflow_home: None) -> Any:
    spec = importlib.util.spec_from_file_location(
        "nightshift_pages", settings().project / "plugins" / "nightshift_pages.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(plugin: Any, home: Path) -> Iterator[TestClient]:
    """The plugin's applications, mounted as Airflow mounts them, with Airflow's own way of telling users."""
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.models.revoked_token import RevokedToken
    from airflow.settings import engine

    RevokedToken.__table__.create(engine, checkfirst=True)
    create_auth_manager()
    root = FastAPI()
    for mounted in plugin.NightshiftPages.fastapi_apps:
        root.mount(mounted["url_prefix"], mounted["app"])
    with TestClient(root) as client:
        yield client


def login(role: str | None) -> dict[str, str]:
    from airflow.api_fastapi.app import create_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    token = create_auth_manager().generate_jwt(SimpleAuthManagerUser(username="somebody", role=role))
    return {"Authorization": f"Bearer {token}"}


def test_every_route_asks_who_it_is(plugin: Any, server: TestClient) -> None:
    routes = [
        f"{mounted['url_prefix']}{route.path}"
        for mounted in plugin.NightshiftPages.fastapi_apps
        for route in mounted["app"].routes
        if isinstance(route, APIRoute)
    ]
    assert "/nightshift/metrics" in routes
    assert len(routes) == sum(len(m["app"].routes) for m in plugin.NightshiftPages.fastapi_apps), "all asked"
    for route in routes:
        assert server.get(route).status_code == 401, route
        assert server.get(route, headers={"Authorization": "Bearer made.up.token"}).status_code == 403, route
        assert server.get(route, headers=login(role=None)).status_code == 403, route


@pytest.mark.parametrize("path", ["/nightshift/docs", "/nightshift/redoc", "/nightshift/openapi.json"])
def test_nothing_is_told_about_the_pages_to_strangers(server: TestClient, path: str) -> None:
    assert server.get(path).status_code == 404


def test_who_may_look_gets_what_prometheus_reads(server: TestClient) -> None:
    answer = server.get("/nightshift/metrics", headers=login(role="VIEWER"))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    (valid,) = [
        family
        for family in text_string_to_metric_families(answer.text)
        if family.name == "nightshift_usecase_valid"
    ]
    assert valid.samples[0].value == 1


def test_a_task_that_loads_plugins_imports_no_server(airflow_home: None) -> None:
    code = (
        "import airflow.sdk, runpy, sys; from airflow.plugins_manager import AirflowPlugin;"
        "before = set(sys.modules); runpy.run_path(sys.argv[1]); print(*(set(sys.modules) - before))"
    )
    file = settings().project / "plugins" / "nightshift_pages.py"
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert not {"fastapi", "prometheus_client"} & {name.split(".")[0] for name in done.stdout.split()}
