"""docker/helm, as far as it can be judged without Helm and a cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from nightshift.orchestration.defaults import placed
from nightshift.services import compose
from nightshift.settings import settings
from nightshift.usecase import UseCase

PROJECT = Path(__file__).resolve().parents[3]
FOLDER = PROJECT / "docker" / "helm"
VALUES: dict[str, Any] = yaml.safe_load((FOLDER / "values.yaml").read_text(encoding="utf-8"))
CHART: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "airflow_chart.yaml").read_text())
WORKER = next(
    service.environment
    for service in compose.read([PROJECT / "docker" / "compose.yaml"], {})
    if service.name == "worker"
)
# The version that the chart of this file asks for at least.
KUBERNETES = "1.30"
PODS = {name: yaml.safe_load((FOLDER / f"{name}-pod.yaml").read_text()) for name in ("gpu", "upkeep")}

# Where something is; what is secret, which has another form there; and what Celery alone reads.
PLACES = {"NIGHTSHIFT_SECRETS", "AWS_SHARED_CREDENTIALS_FILE", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"}
OTHER_FORM = re.compile(r".*_CMD|AIRFLOW__(SECRETS__|WORKERS__SECRETS_).*")
CELERY = re.compile(r"AIRFLOW__CELERY.*|AIRFLOW__CORE__EXECUTOR")


def same(names: set[str]) -> set[str]:
    return {n for n in names if n not in PLACES and not OTHER_FORM.fullmatch(n) and not CELERY.fullmatch(n)}


def variables(env: list[dict[str, str]]) -> dict[str, str]:
    found = {item["name"]: item["value"] for item in env}
    assert len(found) == len(env), "a variable stands there twice"
    return found


def configured() -> dict[str, str]:
    """Return what the values set, as variables."""
    return variables(VALUES["env"]) | {
        f"AIRFLOW__{section.upper()}__{option.upper()}": value
        for section, options in VALUES["config"].items()
        for option, value in options.items()
    }


def unknown(values: dict[str, Any], chart: dict[str, Any], where: str = "") -> Iterator[str]:
    for key, value in values.items():
        if key not in chart:
            yield f"{where}{key}"
        elif isinstance(value, dict) and chart[key] is not None:
            yield from unknown(value, chart[key], f"{where}{key}.")


def test_only_settings_that_the_chart_has_are_set() -> None:
    assert list(unknown(VALUES, CHART)) == []
    assert list(unknown({"schedular": {}, "scheduler": {"replica": 2}}, CHART)) == [
        "schedular",
        "scheduler.replica",
    ]


def test_settings_are_those_of_compose() -> None:
    """One deployment behaves as the other: a setting that one of them has, the other has too."""
    here = configured()
    wanted = same(set(WORKER))
    assert len(wanted) >= 20
    assert {name: here.get(name) for name in wanted} == {name: WORKER[name] for name in wanted}
    only_here = {
        # The image's, which airflow.cfg of the chart would hide; the pods; a cookie for the ingress's TLS.
        "AIRFLOW__CORE__DAGS_FOLDER",
        "AIRFLOW__CORE__PLUGINS_FOLDER",
        "NIGHTSHIFT_POD_TEMPLATES",
        "AIRFLOW__FAB__COOKIE_SECURE",
    }
    more = same(set(here)) - wanted - only_here
    assert {name for name in more if not name.startswith("AIRFLOW__KUBERNETES_EXECUTOR__")} == set()


def test_nothing_secret_stands_in_the_files() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"://[^/\s@]*:[^/\s@]+@", text)
        assert not re.search(r"(?im)^\s*(\w*password|fernetKey|jwtSecret|apiSecretKey):\s*\S", text)
    assert VALUES["data"].keys() == {"metadataSecretName"}


def test_nothing_runs_as_root() -> None:
    dockerfile = (PROJECT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    (user,) = map(int, re.findall(r"^USER (\d+)", dockerfile, re.MULTILINE))
    assert VALUES["uid"] == user
    contexts = [VALUES["securityContexts"]["pod"]] + [p["spec"]["securityContext"] for p in PODS.values()]
    for context in contexts:
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == user
    containers = [VALUES["securityContexts"]["containers"]] + [
        base(p)["securityContext"] for p in PODS.values()
    ]
    for context in containers:
        assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def base(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["spec"]["containers"]
    # The executor puts the command of the task into the container of this name.
    assert container["name"] == "base"
    return dict(container)


@pytest.mark.parametrize("name", PODS)
def test_pods_are_such_as_kubernetes_takes(name: str) -> None:
    kubernetes_validate.validate(PODS[name], KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            PODS[name] | {"spec": PODS[name]["spec"] | {"tolerations": [{"keys": "gpu"}]}},
            KUBERNETES,
            strict=True,
        )


@pytest.mark.parametrize("name", PODS)
def test_pods_mount_what_they_have_and_know_what_the_others_know(name: str) -> None:
    pod, container = PODS[name], base(PODS[name])
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    for volume, mount in zip(VALUES["volumes"], VALUES["volumeMounts"], strict=True):
        assert volumes[volume["name"]] == volume
        assert mount in container["volumeMounts"]
    known = variables(container["env"])
    assert {name: known.get(name) for name in variables(VALUES["env"])} == variables(VALUES["env"])
    home = VALUES["airflowHome"]
    assert f"{home}/airflow.cfg" in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_only_the_pod_of_upkeep_may_open_airflows_database() -> None:
    secret = VALUES["data"]["metadataSecretName"]
    assert secret in str(PODS["upkeep"])
    assert secret not in str(PODS["gpu"])
    assert "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD" in variables(base(PODS["upkeep"])["env"])


def test_a_gpu_is_asked_for_and_its_image_is_kept() -> None:
    pod = PODS["gpu"]["spec"]
    assert base(PODS["gpu"])["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"]
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert base(PODS["gpu"])["image"].endswith(":gpu")
    # Were these set, every pod would run their image, whatever its template says.
    executor = VALUES["config"]["kubernetes_executor"]
    assert executor["worker_container_repository"] == executor["worker_container_tag"] == ""


def test_a_queue_finds_its_pod(
    flight_delays: UseCase, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As nightshift-pods is mounted: <queue>.yaml."""
    queues = {trainer.queue for trainer in flight_delays.training.trainers.values()} | {"upkeep"}
    assert queues == {"default", *PODS}
    for name in PODS:
        (tmp_path / f"{name}.yaml").write_text((FOLDER / f"{name}-pod.yaml").read_text())
    assert placed("gpu") == {"queue": "gpu"}
    monkeypatch.setenv("NIGHTSHIFT_POD_TEMPLATES", str(tmp_path))
    settings.cache_clear()
    for name in PODS:
        template = {"pod_template_file": str(tmp_path / f"{name}.yaml")}
        assert placed(name) == {"queue": name, "executor_config": template}
    assert placed("default") == {"queue": "default"}


def test_airflows_database_is_kept_as_long_as_maintain_keeps_it() -> None:
    maintain = (PROJECT / "dags" / "maintain.py").read_text(encoding="utf-8")
    assert VALUES["databaseCleanup"]["enabled"]
    assert f"keep_days={VALUES['databaseCleanup']['retentionDays']}" in maintain
