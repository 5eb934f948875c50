"""A model on an MLflow server is fetched once, and nothing is left behind when it is read again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import httpx
import pytest
from tests import synthetic

from nightshift.errors import DataError
from nightshift.registry.models import load_candidate
from nightshift.services import processes
from nightshift.settings import settings
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train

NIGHT = date(2020, 2, 3)


@pytest.fixture
def artifacts(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server that keeps models in this folder, and that Nightshift is pointed at."""
    folder, port = tmp_path / "artifacts", processes.free_port()
    address = f"http://127.0.0.1:{port}"
    command = (
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
        *("--backend-store-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder), "--workers", "1"),
    )
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            try:
                if httpx.get(f"{address}/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        monkeypatch.setenv("NIGHTSHIFT_MLFLOW_URL", address)
        settings.cache_clear()
        yield folder
    finally:
        server.terminate()
        server.wait(30)


def test_a_model_is_fetched_once_and_leaves_nothing_behind(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uc = synthetic.use_case()
    synthetic.publish(uc, synthetic.START, NIGHT)
    candidate = train(uc, snapshot(uc, NIGHT), "trees")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    first = load_candidate(uc, candidate)
    cache = settings().home / "cache" / "models"
    assert [folder.name.partition("-")[0] for folder in cache.iterdir()] == [candidate.content_hash]
    assert list(temporary.iterdir()) == []
    # Read again, the server is not asked for it.
    away = artifacts.rename(artifacts.with_name("away"))
    second = load_candidate(uc, candidate)
    assert second.origin == first.origin
    assert second.reference.num_rows == first.reference.num_rows
    # A copy that was damaged here is fetched anew, as far as the server has it.
    (weights,) = cache.rglob("weights.bin")
    weights.write_bytes(b"damaged")
    with pytest.raises(DataError, match="cannot be read"):
        load_candidate(uc, candidate)
    away.rename(artifacts)
    assert load_candidate(uc, candidate).origin == first.origin
    (reference,) = cache.rglob("reference.parquet")
    reference.write_bytes(b"damaged")
    assert load_candidate(uc, candidate).reference.equals(first.reference)
    # What is damaged on the server is refused.
    (theirs,) = artifacts.rglob("reference.parquet")
    theirs.write_bytes(b"damaged")
    reference.write_bytes(b"damaged")
    with pytest.raises(DataError, match="reference sample has hash"):
        load_candidate(uc, candidate)


def test_models_that_are_not_read_for_long_make_room(artifacts: Path) -> None:
    uc = synthetic.use_case()
    synthetic.publish(uc, synthetic.START, NIGHT)
    candidate = train(uc, snapshot(uc, NIGHT), "trees")
    load_candidate(uc, candidate)
    cache = settings().home / "cache" / "models"
    (kept,) = cache.iterdir()
    for number in range(12):
        shutil.copytree(kept, cache / f"older-{number}")
    left_by_a_kill, fetching = cache / "new-killed", cache / "new-now"
    left_by_a_kill.mkdir()
    os.utime(left_by_a_kill, (0, 0))
    fetching.mkdir()
    load_candidate(uc, candidate)
    left = {folder.name for folder in cache.iterdir()}
    assert {kept.name, fetching.name} <= left
    assert left_by_a_kill.name not in left
    assert len(left - {fetching.name}) == 8
