"""A server that cannot show who it is gets nothing, whichever library asks; giving its CA is enough."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nightshift.settings import settings

# Where each library looks for whom to trust. Whatever this machine has set is not for these servers.
TRUST = ("AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

_S3 = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True,
                     ssl_context=tuple(sys.argv[1:]))
print(server.server_port, flush=True)
server.serve_forever()
"""

_TRACKING = """
import json, sys
from werkzeug.serving import make_server
def answer(environment, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"experiments": []}).encode()]
server = make_server("127.0.0.1", 0, answer, threaded=True, ssl_context=tuple(sys.argv[1:]))
print(server.server_port, flush=True)
server.serve_forever()
"""

# Each library that speaks to the object store, in a process that has read nothing of the environment yet.
_USE_S3 = """
import sys
from datetime import date
import boto3, pyarrow as pa
from pyarrow.fs import FileSelector
from deltalake import DeltaTable, write_deltalake
from nightshift.lake.store import open_store
store = open_store()
rows = pa.table({"value": [1]})
def boto():
    boto3.client("s3").create_bucket(Bucket="bucket")
    store.put("folder/a", b"x")
def delta():
    write_deltalake(store.uri("table"), rows, storage_options=store.storage_options())
def arrow():
    store.filesystem("folder").get_file_info(FileSelector("/"))
for name, use in (("boto3", boto), ("delta-rs", delta), ("arrow", arrow)):
    try:
        use()
        print(name, "spoke")
    except Exception as error:
        refused = any(word in str(error).lower() for word in ("certificate", "ssl"))
        print(name, "refused" if refused else error)
"""

_USE_TRACKING = """
from mlflow import MlflowClient
from nightshift.settings import settings
try:
    MlflowClient(settings().mlflow_uri).search_experiments()
    print("mlflow spoke")
except Exception as error:
    print("mlflow", "refused" if "certificate verify failed" in str(error).lower() else error)
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a CA that nobody knows, and of a server at 127.0.0.1: what the stack's overlay for TLS is given."""
    folder = tmp_path_factory.mktemp("certificates")
    subprocess.run([settings().project / "docker" / "make_certificates.sh", folder], check=True)
    return folder


def _serve(program: str, certificates: Path) -> Iterator[str]:
    files = [str(certificates / f"tls_server.{kind}") for kind in ("crt", "key")]
    command = [sys.executable, "-c", program, *files]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"https://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


@pytest.fixture(scope="module")
def object_store(certificates: Path) -> Iterator[str]:
    yield from _serve(_S3, certificates)


@pytest.fixture(scope="module")
def tracking_server(certificates: Path) -> Iterator[str]:
    yield from _serve(_TRACKING, certificates)


def _say(program: str, **environment: str) -> list[str]:
    whole = {name: value for name, value in os.environ.items() if name not in TRUST} | environment
    done = subprocess.run([sys.executable, "-c", program], env=whole, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_an_object_store_is_believed_only_if_its_ca_is_given(
    object_store: str, certificates: Path, home: Path, s3_environment: dict[str, str]
) -> None:
    environment = s3_environment | {"AWS_ENDPOINT_URL": object_store, "NIGHTSHIFT_LAKE": "s3://bucket/lake"}
    assert _say(_USE_S3, **environment) == ["boto3 refused", "delta-rs refused", "arrow refused"]
    ca = str(certificates / "tls_ca.crt")
    trusting = environment | {"AWS_CA_BUNDLE": ca, "SSL_CERT_FILE": ca}
    assert _say(_USE_S3, **trusting) == ["boto3 spoke", "delta-rs spoke", "arrow spoke"]


def test_a_tracking_server_is_believed_only_if_its_ca_is_given(
    tracking_server: str, certificates: Path, home: Path
) -> None:
    environment = {"NIGHTSHIFT_MLFLOW_URL": tracking_server, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    assert _say(_USE_TRACKING, **environment) == ["mlflow refused"]
    trusting = environment | {"REQUESTS_CA_BUNDLE": str(certificates / "tls_ca.crt")}
    assert _say(_USE_TRACKING, **trusting) == ["mlflow spoke"]


# Every way that a library of ours has to look away.
_LOOKS_AWAY = re.compile(
    r"verify\s*=\s*False|verify_ssl|CERT_NONE|check_hostname\s*=\s*False|unverified_context|PYTHONHTTPSVERIFY"
    r"|allow_invalid_cert|INSECURE_TLS|insecure-skip|--insecure|--no-check-certificate|curl [^\n]*-k\b"
    r"|sslmode=(disable|allow)|ssl_cert_reqs=none|trusted-host",
    re.IGNORECASE,
)


def test_nothing_looks_away() -> None:
    project = settings().project
    parts = ("include", "dags", "plugins", "docker", "dbt_project", ".ci", ".github", "Makefile")
    files = [
        file
        for part in parts
        for file in ([project / part] if (project / part).is_file() else (project / part).rglob("*"))
        if file.is_file() and {"__pycache__", "node_modules"}.isdisjoint(file.parts)
    ]
    assert len(files) > 200
    found = [
        f"{file.relative_to(project)}: {match.group()}"
        for file in files
        for match in _LOOKS_AWAY.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]
    assert found == []
