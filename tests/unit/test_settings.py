"""Settings that cannot be are refused in words that name the variable and show no password."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nightshift.errors import DataError
from nightshift.settings import settings, source_address


@pytest.fixture(autouse=True)
def read_anew() -> Iterator[None]:
    settings.cache_clear()
    yield
    settings.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PARALLELISM", "many"),
        ("PARALLELISM", "0"),
        ("AIRFLOW_PORT", "99999"),
        ("MLFLOW_URL", "hidden"),
        ("WAREHOUSE", "spreadsheet"),
        ("LIVE_FROM", "soon"),
        ("POSTGRES_URL", "postgresql://user:hid/den@host:5432"),
        ("POSTGRES_URL", "postgresql://user:hid@den@host:5432"),  # pragma: allowlist secret
        ("POSTGRES_URL", "postgresql://user:hid#den@host:5432"),
        ("POSTGRES_URL", "postgresql://user:hidden@host:54e2"),  # pragma: allowlist secret
        ("POSTGRES_URL", "mysql://user:hidden@host:3306"),  # pragma: allowlist secret
    ],
)
def test_a_value_that_cannot_be_names_the_variable_and_stays_unseen(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"NIGHTSHIFT_{variable}", value)
    with pytest.raises(DataError) as error:
        settings()
    assert f"NIGHTSHIFT_{variable}" in error.value.message
    assert "hid" not in str(error.value)
    assert "den" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql://user:p%40ss@host:5432",  # pragma: allowlist secret
        "postgres://host",
        "postgresql://postgres:@/postgres?host=/sockets",
        "postgresql://user@[::1]:5433/?sslmode=require",
    ],
)
def test_a_url_that_can_be_is_taken(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", url)
    assert settings().postgres_url == url


def test_the_address_of_a_source_is_a_variable_or_a_secret_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_SECRETS", str(tmp_path))
    with pytest.raises(DataError, match="nothing says where the source 'shop' is"):
        source_address("shop")
    (tmp_path / "nightshift_source_shop").write_text("postgresql://of-a-file\n")
    assert source_address("shop") == "postgresql://of-a-file"
    monkeypatch.setenv("NIGHTSHIFT_SOURCE_SHOP", "postgresql://of-a-variable")
    assert source_address("shop") == "postgresql://of-a-variable"
