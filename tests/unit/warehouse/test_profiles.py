"""Profiles: what dbt is told of a warehouse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.settings import settings
from nightshift.warehouse.postgres_engine import PostgresEngine

PROJECT = Path(__file__).resolve().parents[3]
EXAMPLES: dict[str, Any] = yaml.safe_load((PROJECT / "docs" / "warehouses" / "profiles.yml").read_text())

# By the credentials of dbt-snowflake 1.12.4, dbt-bigquery 1.12.1 and dbt-spark 1.11.0: what a connection of
# the kind shown cannot do without. The adapters are not installed, so dbt itself cannot be asked.
REQUIRED = {
    "snowflake": {"account", "user", "private_key_path", "role", "warehouse", "database", "schema"},
    "bigquery": {"method", "keyfile", "project", "dataset"},
    "spark": {"method", "host", "port", "user", "schema"},
}


@pytest.mark.parametrize("kind", REQUIRED)
def test_an_example_has_what_its_adapter_requires(kind: str) -> None:
    outputs = EXAMPLES["nightshift"]["outputs"]
    assert set(outputs) == set(REQUIRED)
    assert outputs[kind]["type"] == kind
    assert outputs[kind].keys() - {"type", "threads", "location", "maximum_bytes_billed"} == REQUIRED[kind]
    assert outputs[kind]["threads"] > 1


def test_examples_take_secrets_from_the_environment() -> None:
    assert EXAMPLES["nightshift"]["target"] in REQUIRED
    outputs = EXAMPLES["nightshift"]["outputs"].values()
    keys = ("private_key_path", "keyfile", "account", "host")
    places = [output[key] for output in outputs for key in keys if key in output]
    assert len(places) == len(keys)
    assert all(place.count("env_var(") == 1 for place in places)


def test_models_are_built_side_by_side_on_a_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from argparse import Namespace

    from dbt.config.profile import Profile
    from dbt.config.renderer import ProfileRenderer
    from dbt.flags import set_from_args
    from dbt_common.context import set_invocation_context

    set_from_args(Namespace(), None)
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://pipeline@db:5432/x")
    for given, threads in (("", 4), ("9", 9)):
        if given:
            monkeypatch.setenv("NIGHTSHIFT_DBT_THREADS", given)
        settings.cache_clear()
        told = {
            **PostgresEngine().dbt_environment(),
            "NIGHTSHIFT_DBT_TARGET": "postgres",
            "NIGHTSHIFT_DBT_SCHEMA": "flight_delays",
        }
        set_invocation_context(told)
        profiles = yaml.safe_load((PROJECT / "dbt_project" / "profiles.yml").read_text())
        profile = Profile.from_raw_profiles(profiles, "nightshift", ProfileRenderer({}))
        assert (profile.threads, profile.credentials.host) == (threads, "db")
