from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from nightshift.errors import DataError
from nightshift.lake.protection import key_of
from nightshift.services import checks
from nightshift.settings import settings
from nightshift.usecase import load_usecase


def test_a_state_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    # Below a file: not even root can make a folder there.
    (tmp_path / "file").touch()
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "file" / "state"))
    settings.cache_clear()
    finding = checks.writable()
    assert not finding.passed
    assert "NIGHTSHIFT_HOME" in finding.cure
    with pytest.raises(DataError, match="cannot be written"):
        checks.require(checks.before_up())


def test_a_full_disk_is_explained(home: Path) -> None:
    assert checks.disk_space(needed=1).passed
    finding = checks.disk_space(needed=2**62)
    assert not finding.passed
    assert str(home) in finding.cure


def test_a_warehouse_that_outlived_its_lake_is_explained(home: Path) -> None:
    assert checks.whole_state().passed
    (home / "warehouse").mkdir()
    (home / "warehouse" / "warehouse.duckdb").touch()
    finding = checks.whole_state()
    assert not finding.passed
    assert f"delete {home / 'warehouse'}" in finding.cure


def test_the_engine_in_use_is_looked_at(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = checks.warehouse()
    assert finding.passed
    assert "DuckDB" in finding.detail
    assert not (home / "warehouse" / "warehouse.duckdb").exists(), "looking at it made one"

    monkeypatch.setenv("NIGHTSHIFT_WAREHOUSE", "postgres")
    settings.cache_clear()
    finding = checks.warehouse()
    assert finding.passed
    assert "starts with `nightshift up`" in finding.detail

    # pragma: allowlist nextline secret
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://me:hush@127.0.0.1:1/postgres")
    settings.cache_clear()
    finding = checks.warehouse()
    assert not finding.passed
    assert "database warehouse on 127.0.0.1:1" in finding.detail
    assert "hush" not in finding.detail + finding.cure
    assert "NIGHTSHIFT_POSTGRES_URL" in finding.cure


def test_a_misspelt_setting_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.known_settings().passed
    monkeypatch.setenv("NIGHTSHIFT_PARALELISM", "8")
    finding = checks.known_settings()
    assert not finding.passed
    assert "NIGHTSHIFT_PARALELISM is no setting" in finding.detail
    assert "NIGHTSHIFT_PARALLELISM" in finding.cure


def test_the_environment_is_the_one_that_constraints_list() -> None:
    finding = checks.package_versions()
    assert finding.passed, finding.detail


def test_a_key_of_pseudonyms_that_is_missing_or_another_one_is_explained(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "no use case needs one" in checks.pii_key().detail
    usecases = tmp_path / "project" / "include" / "usecases"
    shutil.copytree(settings().usecases, usecases)
    file = usecases / "flight_delays" / "sources.yml"
    before, maker, after = file.read_text().partition("description: Maker, as registered; spellings vary\n")
    hashed = "pii: direct\n            purpose: test\n            protect: pseudonymise"
    file.write_text(before + maker + after.replace("pii: none", hashed, 1))
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    settings.cache_clear()
    finding = checks.pii_key()
    assert not finding.passed
    assert "there is no key" in finding.detail
    assert "NIGHTSHIFT_SECRETS" in finding.cure

    def use(key: str) -> None:
        monkeypatch.setenv("NIGHTSHIFT_PII_KEY", key)
        settings.cache_clear()

    use(Fernet.generate_key().decode())
    assert checks.pii_key().passed
    use(Fernet.generate_key().decode())
    assert checks.pii_key().passed, "looking decided nothing: no value was hashed yet"
    key_of(load_usecase("flight_delays"))
    use(Fernet.generate_key().decode())
    assert "another key" in checks.pii_key().detail
    use("short")
    with pytest.raises(DataError, match="cannot use NIGHTSHIFT_PII_KEY"):
        settings()
