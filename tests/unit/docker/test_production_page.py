"""docs/production.md names what there is: every secret, variables that compose reads, what Helm needs."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from nightshift.services import credentials

PROJECT = Path(__file__).resolve().parents[3]
PAGE = (PROJECT / "docs" / "production.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.split(r"\n#+ ", PAGE.split(f" {heading}\n", 1)[1])[0]


def first_cells(text: str) -> set[str]:
    rows = re.findall(r"^\| (`[^|]+) \|", text, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def test_every_secret_is_explained() -> None:
    assert first_cells(section("Secrets")) == credentials.names()


def test_every_variable_is_read_by_compose() -> None:
    files = "".join(file.read_text() for file in (PROJECT / "docker").glob("compose*.yaml"))
    read = set(re.findall(r"\$\{(\w+)", files))
    named = first_cells(section("Settings of the stack"))
    assert len(named) >= 8
    assert named <= read
    examples = set(re.findall(r"^\s*([A-Z]\w+)=", PAGE, re.MULTILINE))
    assert examples <= read


def test_what_helm_is_told_to_find_is_made_by_the_commands_shown() -> None:
    """Names of secrets and their keys, of the config map and the claim."""
    made = {
        name: set(re.findall(r"--from-file=([\w.-]+)", rest))
        for name, rest in re.findall(r"create (?:secret generic|configmap) ([\w-]+) (.*)", PAGE)
    }
    values = yaml.safe_load((PROJECT / "docker" / "helm" / "values.yaml").read_text(encoding="utf-8"))
    keys = {
        values["data"]["metadataSecretName"]: {"connection"},
        values["fernetKeySecretName"]: {"fernet-key"},
        values["apiSecretKeySecretName"]: {"api-secret-key"},
        values["jwtSecretName"]: {"jwt-secret"},
        "nightshift-secrets": {
            "aws_credentials",
            "nightshift_postgres_url",
            "nightshift_lake_key",
            "nightshift_pii_key",
            "nightshift_audit_key",
        },
        "nightshift-setup": {"airflow_admin_password"},
        "nightshift-pods": {"gpu.yaml", "upkeep.yaml"},
    }
    assert made == keys
    volumes = [*values["volumes"], *values["migrateDatabaseJob"]["extraVolumes"]]
    mounted = {str(v.get("secret", v.get("configMap", v.get("persistentVolumeClaim")))) for v in volumes}
    for name in ("nightshift-secrets", "nightshift-setup", "nightshift-pods", "nightshift-reports"):
        assert any(name in found for found in mounted), name
        assert name in PAGE
    files = set(re.findall(r"--from-file=(?:[\w.-]+=)?([\w.-]+)", PAGE))
    there = credentials.names() | {file.name for file in (PROJECT / "docker" / "helm").iterdir()}
    assert files <= there
