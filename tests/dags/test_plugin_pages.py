"""What the plugin mounts answers users of Airflow's, and nobody else."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from nightshift.lake import tables
from nightshift.settings import settings
from nightshift.usecase import UseCase


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
    from airflow.models import import_all_models
    from airflow.models.base import Base
    from airflow.settings import engine

    import_all_models()
    Base.metadata.create_all(engine)
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
    assert {"/nightshift/metrics", "/nightshift/api/tonight", "/nightshift/openapi.json"} <= set(routes)
    assert len(routes) == sum(len(m["app"].routes) for m in plugin.NightshiftPages.fastapi_apps), "all asked"
    for route in routes:
        assert server.get(route).status_code == 401, route
        assert server.get(route, headers={"Authorization": "Bearer made.up.token"}).status_code == 403, route
        assert server.get(route, headers=login(role=None)).status_code == 403, route


def test_nothing_is_told_about_the_pages_to_strangers(server: TestClient) -> None:
    assert server.get("/nightshift/docs").status_code == 401
    assert server.get("/nightshift/redoc").status_code == 404


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


API = "/nightshift/api/usecases/flight_delays"


def ours(told: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what is told of the use case that comes with this repository."""
    (found,) = (one for one in told if one["name"] == "flight_delays")
    return found


def test_before_the_first_night_the_page_says_what_to_do(server: TestClient) -> None:
    night = ours(server.get("/nightshift/api/tonight", headers=login(role="VIEWER")).json())
    assert night["night"] is None
    assert "bootstrap" in night["sentence"]
    assert night["error"] == ""


@pytest.mark.parametrize(
    ("role", "may"), [("VIEWER", []), ("OP", ["ingest", "rebuild"]), ("ADMIN", ["train"])]
)
def test_the_pages_know_which_dags_a_user_may_trigger(server: TestClient, role: str, may: list[str]) -> None:
    known = ours(server.get("/nightshift/api/usecases", headers=login(role=role)).json())
    assert set(may) <= set(known["may"])
    assert may or not known["may"]


def test_the_pages_lead_to_dbts_documentation_once_it_is_written(server: TestClient, home: Path) -> None:
    viewer = login(role="VIEWER")
    assert ours(server.get("/nightshift/api/usecases", headers=viewer).json())["dbt_docs"] == ""
    page = home / "reports" / "flight_delays" / "dbt" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("models")
    name = ours(server.get("/nightshift/api/usecases", headers=viewer).json())["dbt_docs"]
    assert server.get(f"/nightshift/reports/flight_delays/{name}", headers=viewer).text == "models"


def test_a_calendar_longer_than_a_page_can_show_is_refused_with_a_cure(server: TestClient) -> None:
    answer = server.get(f"{API}/partitions?start=2013-01-01&end=2023-01-01", headers=login(role="VIEWER"))
    assert answer.status_code == 409
    assert answer.json()["rule"] == "a calendar shows 1 to 366 days"
    assert "shorter" in answer.json()["cure"]


def test_another_use_case_is_not_there(server: TestClient) -> None:
    path = API.replace("flight_delays", "no_such")
    answer = server.get(f"{path}/partitions/2013-01-01", headers=login(role="VIEWER"))
    assert answer.status_code == 404
    assert "no_such" in answer.json()["detail"]


def test_reports_are_served_and_nothing_beside_them(server: TestClient, home: Path) -> None:
    folder = home / "reports" / "flight_delays" / "nightly"
    folder.mkdir(parents=True)
    (folder / "2013-07-01.html").write_text("<script>a report</script>")
    (home / "secret.html").write_text("not for readers")
    reports, viewer = "/nightshift/reports/flight_delays", login(role="VIEWER")
    answer = server.get(f"{reports}/nightly/2013-07-01.html", headers=viewer)
    assert answer.text == "<script>a report</script>"
    # Without its own origin a script in a report cannot act as the user.
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox")
    assert "allow-same-origin" not in policy
    for path in ("../../secret.html", "%2e%2e/%2e%2e/secret.html", "nightly", str(home / "secret.html")):
        assert server.get(f"{reports}/{path}", headers=viewer).status_code == 404, path


def test_the_docs_are_served_and_so_is_all_that_they_link_to(server: TestClient) -> None:
    from nightshift.monitoring.alerting import KINDS

    viewer, docs = login(role="VIEWER"), settings().project / "docs"
    waiting = [f"/nightshift/docs/{page.relative_to(docs)}" for page in docs.rglob("*.md")]
    assert {f"/nightshift/docs/runbooks/{kind}.md" for kind in KINDS} <= set(waiting)
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        answer = server.get(path, headers=viewer)
        assert answer.status_code == 200, path
        if answer.headers["content-type"].startswith("text/html"):
            assert "<h1" in answer.text, path
            # The page may ask for nothing, not even for a picture.
            assert all(src.startswith("data:image/") for src in re.findall(r'src="([^"]+)', answer.text)), (
                path
            )
            links = re.findall(r'href="([^"#]+)', answer.text)
            waiting += [urljoin(path, link) for link in links if "://" not in link]
    for name in ("runbooks/no_such.md", "../README.md", "%2e%2e/pyproject.toml", "../.git/config"):
        assert server.get(f"/nightshift/docs/{name}", headers=viewer).status_code == 404, name


def test_a_page_of_a_night_leads_to_the_runbooks_where_they_are_served(
    server: TestClient, home: Path
) -> None:
    folder = home / "reports" / "flight_delays" / "nightly"
    folder.mkdir(parents=True)
    written = os.path.relpath(settings().project / "docs", folder)
    (folder / "2013-07-01.html").write_text(f'<a href="{written}/runbooks/drift.md">what to do</a>')
    page, viewer = "/nightshift/reports/flight_delays/nightly/2013-07-01.html", login(role="VIEWER")
    (link,) = re.findall(r'href="([^"]+)"', server.get(page, headers=viewer).text)
    assert server.get(urljoin(page, link), headers=viewer).status_code == 200


# What is asked of whom: the DAG that makes what a route shows.
DAG_OF = {
    "partitions?start=2013-01-01&end=2013-01-02": "ingest",
    "partitions/2013-01-01": "ingest",
    "partitions/2013-01-01/quarantine/raw_flights": "ingest",
    "partitions/2013-01-01/quarantine/predictions": "score",
    "stale?start=2013-01-01&end=2013-01-02": "ingest",
    "models": "train",
    "models/1/versus/2": "train",
    "models/1/card": "train",
    "monitoring?start=2013-01-01&end=2013-01-02": "monitor",
    "monitoring/carrier?day=2013-01-01": "monitor",
    "predictions": "score",
    "prediction?entity=a": "score",
    "explanation?entity=a": "score",
}
REPORT_OF = {
    "nightly/a.html": "monitor",
    "raw_flights/a.html": "ingest",
    "evaluation/a.html": "train",
    "dbt/index.html": "features",
    "features/a.html": "features",
    "labels/a.html": "features",
    "predictions/a.html": "score",
    "index.html": "monitor",
}


def allow(monkeypatch: pytest.MonkeyPatch, *refused: str) -> None:
    """Let the auth manager allow everything but some DAGs of the use case."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    def authorized(self: Any, *, details: Any = None, **_: Any) -> bool:
        return details.id not in {f"flight_delays.{dag}" for dag in refused}

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", authorized)


def test_every_route_about_a_use_case_asks_for_the_right_to_read_its_dag(
    server: TestClient, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {f"{API}/{path}": dag for path, dag in DAG_OF.items()}
    asked |= {f"/nightshift/reports/flight_delays/{name}": dag for name, dag in REPORT_OF.items()}
    routes = [route.path for route in plugin.application().routes if "{usecase}" in route.path]
    patterns = [re.compile(re.sub(r"{name:path}", ".+", re.sub(r"{\w+}", "[^/]+", path))) for path in routes]
    paths = [path.removeprefix("/nightshift").partition("?")[0] for path in asked]
    for pattern in patterns:
        assert any(pattern.fullmatch(path) for path in paths), f"{pattern.pattern}: say which DAG it is about"
    others = {"ingest", "features", "train", "monitor", "score"}
    for path, dag in asked.items():
        allow(monkeypatch, dag)
        assert server.get(path, headers=login(role="VIEWER")).status_code == 403, path
        allow(monkeypatch, *(others - {dag} - ({"ingest"} if "quarantine" in path else set())))
        assert server.get(path, headers=login(role="VIEWER")).status_code in (200, 404, 409), path
    allow(monkeypatch, "monitor")
    for path in ("tonight", "usecases"):
        told = server.get(f"/nightshift/api/{path}", headers=login(role="VIEWER")).json()
        assert "flight_delays" not in [one["name"] for one in told]


def test_a_report_has_one_name_so_none_leads_past_the_right_to_read_it(
    server: TestClient, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = home / "reports" / "flight_delays" / "evaluation"
    folder.mkdir(parents=True)
    (folder / "a.html").write_text("about models")
    allow(monkeypatch, "train")
    reports, viewer = "/nightshift/reports/flight_delays", login(role="VIEWER")
    assert server.get(f"{reports}/evaluation/a.html", headers=viewer).status_code == 403
    for name in ("%2e/evaluation/a.html", "nightly/%2e%2e/evaluation/a.html", "/evaluation/a.html"):
        assert server.get(f"{reports}/{name}", headers=viewer).status_code == 404, name


@pytest.mark.parametrize(("role", "shown"), [("VIEWER", "hidden: personal data"), ("OP", "N12345")])
def test_personal_data_is_shown_to_those_who_may_mend_it(
    server: TestClient, flight_delays: UseCase, role: str, shown: str
) -> None:
    row = {"flight_id": "a", "tail_number": "N12345"}
    kept = pa.table(
        {
            "row_id": ["1"],
            "rule": ["a rule"],
            "severity": ["quarantine"],
            "reason": ["why"],
            "suite": ["raw_flights"],
            "row": [json.dumps(row)],
        }
    )
    tables.replace_partition(flight_delays, "quarantine_raw_flights", date(2013, 7, 1), kept, ["row_id"])
    answer = server.get(f"{API}/partitions/2013-07-01/quarantine/raw_flights", headers=login(role=role))
    (found,) = answer.json()["rows"]
    assert found["row"] == {"flight_id": "a", "tail_number": shown}


def test_few_wait_for_a_lake_that_does_not_answer(
    server: TestClient, plugin: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nightshift.orchestration import console_api

    monkeypatch.setattr(console_api, "_AT_ONCE", 1)
    monkeypatch.setattr(console_api, "_PATIENCE_SECONDS", 0.1)
    hangs, asked = threading.Event(), threading.Event()

    def last_night(uc: UseCase) -> Any:
        asked.set()
        assert hangs.wait(60)
        return console_api.Tonight(name=uc.name, title=uc.title)

    monkeypatch.setattr(console_api.tonight, "last_night", last_night)
    with TestClient(console_api.application()) as own, ThreadPoolExecutor() as others:
        first = others.submit(own.get, "/api/tonight", headers=login(role="VIEWER"))
        assert asked.wait(60)
        second = own.get("/api/usecases", headers=login(role="VIEWER"))
        assert second.status_code == 503
        assert "ask again" in second.json()["detail"]
        # Whoever waits sees that on the pages, and others read the docs meanwhile.
        for path in (f"/{console_api.BUNDLE}", "/docs/index.md"):
            assert own.get(path, headers=login(role="VIEWER")).status_code == 200
        hangs.set()
        assert first.result().status_code == 200
        assert own.get("/api/usecases", headers=login(role="VIEWER")).status_code == 200


def test_the_script_of_the_pages_is_built_from_their_sources(plugin: Any, server: TestClient) -> None:
    folder = settings().project / "plugins" / "pages"
    digest = hashlib.sha256()
    own = sorted(f"src/{file.name}" for file in (folder / "src").iterdir())
    for name in ("package-lock.json", "tsconfig.json", "vite.config.ts", *own):
        digest.update(f"{name}\n".encode() + (folder / name).read_bytes())
    (app,) = plugin.NightshiftPages.react_apps
    script = server.get(f"/{app['bundle_url']}", headers=login(role="VIEWER"))
    assert f"from sources {digest.hexdigest()} " in script.text.splitlines()[0], "run `make pages`"


def test_the_licences_of_what_the_script_bundles_lie_beside_it() -> None:
    licences = (settings().project / "plugins" / "pages" / "dist" / "LICENSES.txt").read_text()
    for name in ("@tanstack/react-query", "echarts", "zrender"):
        assert re.search(rf"^{re.escape(name)} [0-9.]+, ", licences, re.MULTILINE), (
            f"{name}: run `make pages`"
        )


def test_the_types_of_the_pages_are_those_of_the_api(server: TestClient) -> None:
    committed = json.loads((settings().project / "plugins" / "pages" / "openapi.json").read_text())
    answer = server.get("/nightshift/openapi.json", headers=login(role="VIEWER"))
    assert answer.json() == committed, "run `make pages`"


def test_a_process_that_loads_plugins_imports_no_server_and_nothing_that_people_edit(
    airflow_home: None,
) -> None:
    code = (
        "import airflow.sdk, runpy, sys; from airflow.plugins_manager import AirflowPlugin;"
        "before = set(sys.modules); [runpy.run_path(file) for file in sys.argv[1:]];"
        "print(*(set(sys.modules) - before))"
    )
    files = sorted(str(file) for file in (settings().project / "plugins").glob("*.py"))
    assert len(files) >= 3
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    imported = done.stdout.split()
    assert not {"fastapi", "prometheus_client"} & {name.split(".")[0] for name in imported}
    # The scheduler forks tasks: what it has imported, no edit reaches.
    own = {name for name in imported if name.split(".")[0] in ("nightshift", "usecases")}
    assert own == {"nightshift", "nightshift.orchestration", "nightshift.orchestration.notes"}
