"""What is laid over docker/compose.yaml: a GPU, TLS, DAG files from Git."""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.errors import DataError
from nightshift.services import compose, production
from nightshift.settings import settings

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "docker"
COMPOSE = FOLDER / "compose.yaml"
PLAIN = {service.name: service for service in compose.read([COMPOSE], {})}
AIRFLOW = {name for name, service in PLAIN.items() if "AIRFLOW__CORE__EXECUTOR" in service.environment}
REPOSITORY = {"GIT_REPOSITORY": "https://git.example.org/nightshift.git"}


def overlay(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / f"compose.{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def laid_over(name: str, variables: dict[str, str] | None = None) -> dict[str, compose.ComposeService]:
    files = [COMPOSE, FOLDER / f"compose.{name}.yaml"]
    return {service.name: service for service in compose.read(files, variables or {})}


@pytest.mark.parametrize("name", ["gpu", "tls", "git"])
def test_an_overlay_adds_no_service(name: str) -> None:
    """A name that is misspelt would be one more service, without an image."""
    assert set(laid_over(name, REPOSITORY)) == set(PLAIN)


def test_every_overlay_is_tested_here() -> None:
    assert {file.name for file in FOLDER.glob("compose.*.yaml")} == {
        "compose.gpu.yaml",
        "compose.tls.yaml",
        "compose.git.yaml",
    }


def test_the_worker_of_the_gpu_has_the_device_and_the_image_with_its_libraries() -> None:
    services = overlay("gpu")["services"]
    assert set(services) == {"worker-gpu"}
    worker = services["worker-gpu"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    stage = f"runtime-{worker['build']['args']['DEVICE']}"
    assert f" AS {stage}\n" in (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert (FOLDER / worker["build"]["context"]).resolve() == PROJECT
    # It still takes the tasks of its queue, one at a time: the device is not shared.
    assert laid_over("gpu")["worker-gpu"] == PLAIN["worker-gpu"]


def test_with_tls_nothing_is_said_in_the_clear() -> None:
    services = laid_over("tls")
    for name, service in services.items():
        for key, value in service.environment.items():
            assert not value.startswith("http://"), f"{name}: {key}"
        if PLAIN[name].environment and name != "postgres":
            assert service.environment["PGSSLMODE"] == "verify-full"
            assert service.environment["AWS_ENDPOINT_URL"].startswith("https://")
    for name in AIRFLOW:
        environment = services[name].environment
        assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"].startswith("https://")
        assert environment["AIRFLOW__CELERY__SSL_ACTIVE"] == "True"
        assert environment["AIRFLOW__FAB__COOKIE_SECURE"] == "True"
    redis = services["redis"].command
    assert redis[redis.index("--port") + 1] == "0"
    assert "ssl=on" in " ".join(services["postgres"].command)
    for server in ("redis", "s3", "mlflow", "postgres"):
        assert "tls_server.key" in " ".join(services[server].command)
    assert services["api-server"].environment["AIRFLOW__API__SSL_KEY"].endswith("tls_server.key")


def test_with_tls_servers_are_started_as_without() -> None:
    """Their commands stand there a second time, so a change of one of them must reach the other."""
    services = laid_over("tls")
    for name in ("redis", "s3", "mlflow"):
        before, now = " ".join(PLAIN[name].command), " ".join(services[name].command)
        words = set(before.replace("http:", "https:").split())
        if name == "redis":
            words -= {"--port"}
        assert words - set(now.split()) == set()


def test_with_tls_each_service_is_handed_the_files_that_it_reads_and_only_servers_a_key() -> None:
    services = overlay("tls")["services"]
    laid = laid_over("tls")
    for name, body in services.items():
        whole = " ".join([*laid[name].command, *laid[name].environment.values()]) + json.dumps(
            body.get("healthcheck", {})
        )
        read = set(re.findall(r"/run/secrets/(tls_[\w.]+)", whole))
        assert read == set(body["secrets"]), name
    keys = {name for name, body in services.items() if "tls_server.key" in body["secrets"]}
    assert keys == {"postgres", "redis", "s3", "mlflow", "api-server"}


def test_certificates_are_made_once_and_hold_for_every_server(tmp_path: Path) -> None:
    command = ["sh", str(FOLDER / "make_certificates.sh"), str(tmp_path)]
    environment = {**os.environ, "TLS_NAMES": "DNS:airflow.example.org"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    made = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert set(made) == set(overlay("tls")["secrets"])
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == made
    for name in ("postgres", "redis", "s3", "mlflow", "api-server", "airflow.example.org"):
        assert _shakes_hands(tmp_path, name)
    assert not _shakes_hands(tmp_path, "elsewhere.example.org")


def _shakes_hands(folder: Path, name: str) -> bool:
    """Tell whether a client that trusts the authority believes the server to be ``name``."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "tls_server.crt", folder / "tls_server.key")
    client = ssl.create_default_context(cafile=str(folder / "tls_ca.crt"))
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=name),
        server.wrap_bio(there, back, server_side=True),
    )
    done = 0
    for end in ends * 3:
        try:
            end.do_handshake()
            done += 1
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLCertVerificationError:
            return False
    return done >= 2


def test_without_a_repository_the_git_overlay_says_what_is_missing() -> None:
    with pytest.raises(DataError, match="GIT_REPOSITORY is not set"):
        laid_over("git")


def test_all_of_airflow_reads_the_same_bundle() -> None:
    services = laid_over("git", REPOSITORY)
    key = "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"
    assert {name for name, service in services.items() if key in service.environment} == AIRFLOW - {
        "init-airflow"
    }
    assert len({services[name].environment[key] for name in AIRFLOW - {"init-airflow"}}) == 1


def test_a_run_stays_on_the_commit_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overlay's own setting, read by Airflow: two commits side by side, each with its files."""
    source = tmp_path / "source"
    (source / "dags").mkdir(parents=True)
    git = ["git", "-C", str(source), "-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch", "main"], check=True)
    commits = []
    for number in ("one", "two"):
        (source / "dags" / "a.py").write_text(number)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", number], check=True)
        done = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        commits.append(done.stdout.strip())
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTSHIFT_STACK_FILES", "compose.git.yaml")
    monkeypatch.setenv("GIT_REPOSITORY", str(source))
    settings.cache_clear()
    (worker,) = (service for service in production.services() if service.name == "worker")
    settings.cache_clear()
    bundle = {
        k: v for k, v in worker.environment.items() if k.startswith("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE")
    }
    assert str(tmp_path) in bundle["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH"]
    script = (
        "import sys\n"
        "from airflow.dag_processing.bundles.manager import DagBundlesManager\n"
        "for version in sys.argv[1:]:\n"
        "    bundle = DagBundlesManager().get_bundle('nightshift', version=version or None)\n"
        "    bundle.initialize()\n"
        "    print('found', (bundle.path / 'a.py').read_text(), bundle.get_current_version().version)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "", commits[0]],
        capture_output=True,
        text=True,
        # A connection as an environment variable, so that no database is asked for it.
        env={
            **os.environ,
            **bundle,
            "AIRFLOW_HOME": str(tmp_path / "airflow"),
            "AIRFLOW_CONN_GIT_DEFAULT": "git://",
        },
    )
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    assert found == [f"found two {commits[1]}", f"found one {commits[0]}"]
