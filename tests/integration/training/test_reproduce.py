"""A model made again from its manifest is equal, or what differs is named, first cause first."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import synthetic
from tests.lakes import environment
from typer.testing import CliRunner

import nightshift
from nightshift.cli.main import app
from nightshift.lake import lineage, raw, tables
from nightshift.lake.store import open_store
from nightshift.partition import days
from nightshift.registry import deployments, states
from nightshift.registry import mlflow as tracking
from nightshift.registry.models import register
from nightshift.registry.records import Candidate, Decision
from nightshift.settings import settings
from nightshift.training import checkout, manifest
from nightshift.training.manifest import Manifest
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase, load_usecase

NIGHT = date(2020, 2, 1)
DAY = date(2020, 1, 10)
TREES, NETWORK = "1", "2"
GATE = "include/nightshift/evaluation/gate.py"
_COMMAND = "from nightshift.cli.main import app; app()"
_CAUSES = ["data", "code", "configuration", "environment", "randomness"]


def _git(project: Path, *arguments: str) -> str:
    who = ("-c", "user.name=tests", "-c", "user.email=tests@example.com")
    done = subprocess.run(  # nosec B607  # the PATH's git
        ["git", "-C", str(project), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def _project(folder: Path) -> None:
    """Make a checkout: the library as it is, one use case, one commit, and a remote that has a password."""
    library = Path(nightshift.__file__).parent
    shutil.copytree(library, folder / "include" / "nightshift", ignore=shutil.ignore_patterns("__pycache__"))
    content = synthetic.use_case().model_dump(mode="json")
    usecase = folder / "include" / "usecases" / "synthetic"
    usecase.mkdir(parents=True)
    (usecase / "sources.yml").write_text(yaml.safe_dump({"sources": content.pop("sources")}))
    (usecase / "usecase.yml").write_text(yaml.safe_dump(content))
    (folder / "constraints.txt").write_text("numpy==1\n")
    (folder / "notes.txt").write_text("one\ntwo\n")
    (folder / ".gitignore").write_text("__pycache__/\n")
    _git(folder, "init", "--quiet", "--initial-branch", "trunk")
    # pragma: allowlist nextline secret
    _git(folder, "remote", "add", "origin", "https://someone:pass-word@code.example/team/project.git")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message", "all")


def _publish(uc: UseCase) -> None:
    """Publish features and labels as builds of raw partitions."""
    for layer, of_day in (("features", synthetic.features_of), ("labels", synthetic.labels_of)):
        contents, builds = {}, {}
        for day in days(synthetic.START, NIGHT):
            rows = of_day(day).select(["order_id"]).rename_columns(["id"])
            landed = raw.land(
                uc,
                "none",
                "none",
                day,
                rows,
                rows_in=rows.num_rows,
                rows_quarantined=0,
                as_of=datetime(day.year, day.month, day.day, 4, tzinfo=UTC),
                query=f"orders of {day}",
            )
            contents[day] = of_day(day)
            builds[day] = lineage.record_build(uc, {"none.none": {day: landed}})
        tables.replace_partitions(uc, layer, contents, [uc.entity], builds=builds)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkout and a state: two models, one deployed and one that is only registered."""
    folder = tmp_path_factory.mktemp("made")
    _project(folder / "project")
    with environment(folder / "state", NIGHTSHIFT_PROJECT=str(folder / "project")):
        uc = load_usecase("synthetic")
        _publish(uc)
        taken = snapshot(uc, NIGHT)
        trees, network = train(uc, taken, "trees"), train(uc, taken, "network")
        decision = Decision(promote=True, candidate=trees, metrics={}, reasons=["by the test"])
        promoted = deployments.promote(uc, decision, effective_from=NIGHT + timedelta(days=1))
        assert (promoted.version, register(uc, network)) == (TREES, NETWORK)
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A checkout of the test's own, with a state of its own beside it."""
    shutil.copytree(made, tmp_path / "own")
    own = tmp_path / "own"
    with environment(own / "state", NIGHTSHIFT_PROJECT=str(own / "project")):
        yield own / "project"


def _reproduce(version: str, code: int) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["reproduce", version, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _said(version: str, code: int) -> str:
    """What a person reads, without the breaks of lines and columns."""
    result = CliRunner().invoke(app, ["reproduce", version], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return " ".join(result.stdout.split())


def _first(found: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = found["differences"][0]
    return first


def _contents(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


def _edit(project: Path, **training: Any) -> None:
    file = project / "include" / "usecases" / "synthetic" / "usecase.yml"
    content = yaml.safe_load(file.read_text())
    content["training"] |= training
    file.write_text(yaml.safe_dump(content))
    # What a team does with a change; else the edited file is a difference of code, too.
    _git(project, "commit", "--all", "--quiet", "--message", "edited")


def _comment(file: Path) -> None:
    file.write_text(file.read_text() + "# edited\n")


def _manifest(version: str) -> Manifest:
    uc = load_usecase("synthetic")
    tags = tracking.client(uc).get_model_version(uc.name, version).tags
    found = manifest.kept(uc, tags["snapshot_hash"], tags["content_hash"])
    assert found is not None
    return found


def _rewrite(version: str, **sections: Any) -> None:
    """Replace sections of a version's manifest in the lake."""
    found = _manifest(version)
    key = f"snapshots/{found.usecase}/manifests/{found.data.snapshot_hash}/{found.model_hash}.json"
    assert open_store().exists(key)
    open_store().put(key, found.model_copy(update=sections).model_dump_json().encode())


def _deploy(version: str, model_hash: str, **sections: Any) -> None:
    """Have the log name a model of another hash, made by the same things but for ``sections``."""
    uc = load_usecase("synthetic")
    found = _manifest(TREES)
    manifest.keep(found.model_copy(update={"model_hash": model_hash, **sections}))
    entry = deployments.history(uc)[0].model_copy(update={"version": version, "model_hash": model_hash})
    states.write(uc, entry, len(states.read(uc)))


# Equal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [TREES, NETWORK])
def test_nothing_has_changed_and_the_model_is_equal(project: Path, version: str) -> None:
    before = _contents(project.parent)
    found = _reproduce(version, 0)
    assert found["verdict"] == "equal"
    assert found["differences"] == []
    assert found["snapshot_rebuilt"] == found["snapshot_recorded"]
    assert found["model_rebuilt"] == found["model_recorded"]
    assert "nothing that was recorded has changed" in _said(version, 0)
    assert _contents(project.parent) == before, "state and checkout are as they were"


def test_a_deployed_version_needs_no_mlflow(project: Path) -> None:
    shutil.rmtree(settings().home / "mlflow")
    assert _reproduce(TREES, 0)["verdict"] == "equal"
    assert not (settings().home / "mlflow").exists()
    assert "no model version '2'" in _said(NETWORK, 2)
    assert not (settings().home / "mlflow").exists()


# Data -----------------------------------------------------------------------------------------------


def _correct(uc: UseCase) -> None:
    rows = synthetic.features_of(DAY)
    demand = rows["demand"].to_numpy() + 1
    changed = rows.set_column(rows.column_names.index("demand"), "demand", [demand])
    tables.replace_partition(uc, "features", DAY, changed, [uc.entity])


def test_a_corrected_partition_is_read_as_it_was_recorded(project: Path) -> None:
    _correct(load_usecase("synthetic"))
    found = _reproduce(TREES, 0)
    (difference,) = found["differences"]
    assert (difference["cause"], difference["what"]) == ("data", f"features {DAY}")
    assert difference["recorded"] != difference["current"]
    assert not difference["in_effect"]
    assert f"features {DAY}" in _said(TREES, 0)


def test_a_corrected_partition_whose_old_content_is_gone_is_named_first(project: Path) -> None:
    uc = load_usecase("synthetic")
    _correct(uc)
    tables.delete_partition(uc, "labels", DAY)
    for layer in ("features", "labels"):
        assert tables.vacuum(uc, layer, retention_days=0)
    _edit(project, validation_days=8)
    found = _reproduce(TREES, 1)
    assert found["snapshot_rebuilt"] is None
    data = [one for one in found["differences"] if one["cause"] == "data"]
    assert data == found["differences"][:2]
    assert [one["what"] for one in data] == [f"features {DAY}", f"labels {DAY}"]
    assert all(one["in_effect"] for one in data)
    assert "not published" in data[1]["current"]
    # The rows that were frozen at the time tell that data alone are to blame.
    assert found["model_rebuilt"] == found["model_recorded"]
    assert "first cause: data: features 2020-01-10" in found["explanation"]
    assert "frozen at the time, the model is equal" in found["explanation"]

    open_store().delete(_manifest(TREES).data.snapshot.data.key)
    lost = _reproduce(TREES, 2)
    assert lost["verdict"] == "impossible"
    assert f"features of {DAY}; labels of {DAY}" in lost["message"]
    assert "backup" in lost["cure"]
    said = _said(TREES, 2)
    assert "cannot be rebuilt" in said
    assert "cure:" in said


# Code -----------------------------------------------------------------------------------------------


def test_an_edited_trainer_is_named_first(project: Path) -> None:
    trainer = project / "include" / "nightshift" / "training" / "xgboost_trainer.py"
    text = trainer.read_text()
    assert '"max_depth": 5,' in text
    trainer.write_text(text.replace('"max_depth": 5,', '"max_depth": 2,'))
    (project / "fresh.txt").write_text("one\ntwo\nthree\n")
    _comment(project / GATE)
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, "reproduce", TREES, "--json"],
        env={**os.environ, "PYTHONPATH": str(project / "include")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["snapshot_rebuilt"] == found["snapshot_recorded"]
    assert found["model_rebuilt"] != found["model_recorded"]
    assert "first cause: code: " in found["explanation"]
    acting = {one["what"]: one for one in found["differences"] if one["in_effect"]}
    assert list(acting) == [
        "checkout",
        "include/nightshift/training/xgboost_trainer.py",
        "parameter max_depth of trees",
    ]
    assert acting["include/nightshift/training/xgboost_trainer.py"]["current"] == "2 lines differ"
    assert "edited; 6 lines differ" in acting["checkout"]["current"]
    # What the trainer made of the same configuration tells what the edit did.
    depth = acting["parameter max_depth of trees"]
    assert (depth["cause"], depth["recorded"], depth["current"]) == ("configuration", "5", "2")
    assert [one["what"] for one in found["differences"] if not one["in_effect"]] == ["fresh.txt", GATE]


def test_files_that_do_not_train_are_named_without_blame(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library of the checkout instead of the one that runs here; at first they are the same.
    monkeypatch.setattr(checkout, "_SOURCES", project / "include" / "nightshift")
    (project / "notes.txt").write_text("one\n2\n")
    _comment(project / GATE)
    found = _reproduce(TREES, 0)
    whole, gate, notes = found["differences"]
    assert (whole["cause"], whole["in_effect"]) == ("code", False)
    assert "(trunk)" in whole["recorded"]
    assert (gate["what"], gate["current"], gate["in_effect"]) == (GATE, "1 lines differ", False)
    assert (notes["what"], notes["current"], notes["in_effect"]) == ("notes.txt", "2 lines differ", False)
    _git(project, "checkout", "--quiet", "notes.txt", GATE)
    assert _reproduce(TREES, 0)["differences"] == []


# Configuration, environment, randomness -------------------------------------------------------------


def test_a_changed_parameter_is_named_and_the_recorded_one_is_used(project: Path) -> None:
    trainers = synthetic.use_case().model_dump(mode="json")["training"]["trainers"]
    trainers["trees"]["params"]["rounds"] = 5
    _edit(project, trainers=trainers)
    found = _reproduce(TREES, 0)
    assert found["verdict"] == "equal"
    (changed,) = (one for one in found["differences"] if one["cause"] != "code")
    assert changed == {
        "cause": "configuration",
        "what": "training.trainers.trees.params.rounds",
        "recorded": "60",
        "current": "5",
        "in_effect": False,
    }


def test_changed_packages_are_named_and_act_if_they_compute(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("duckdb", "xgboost"):
        installed = tmp_path / "path" / f"{name}-99.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99\n")
    monkeypatch.syspath_prepend(tmp_path / "path")
    differences = _reproduce(TREES, 0)["differences"]
    assert {(one["cause"], one["current"]) for one in differences} == {("environment", "99")}
    acts = [(one["what"], one["in_effect"]) for one in differences]
    assert acts == [("package xgboost", True), ("package duckdb", False)]


def test_the_first_cause_of_a_model_that_differs_is_the_first_that_acts(project: Path) -> None:
    recorded = _manifest(TREES)
    packages = {**recorded.environment.packages, "numpy": "1.0"}
    _deploy(
        "8",
        "8" * 64,
        environment=recorded.environment.model_copy(update={"packages": packages}),
        randomness=recorded.randomness.model_copy(update={"threads": 64}),
    )
    trainers = synthetic.use_case().model_dump(mode="json")["training"]["trainers"]
    trainers["trees"]["params"]["rounds"] = 5
    _edit(project, trainers=trainers)
    found = _reproduce("8", 1)
    assert found["snapshot_rebuilt"] == found["snapshot_recorded"]
    acting = [(one["cause"], one["what"]) for one in found["differences"] if one["in_effect"]]
    assert acting == [("environment", "package numpy"), ("randomness", "threads")]
    assert "first cause: environment: package numpy was 1.0, is " in found["explanation"]
    others = [one["cause"] for one in found["differences"] if not one["in_effect"]]
    assert others == sorted(others, key=_CAUSES.index)
    assert "configuration" in others
    assert "first cause: environment" in _said("8", 1)


def test_a_changed_seed_is_named_and_the_recorded_one_is_used(project: Path) -> None:
    _edit(project, seed=8)
    found = _reproduce(TREES, 0)
    (changed,) = (one for one in found["differences"] if one["cause"] != "code")
    assert (changed["cause"], changed["what"]) == ("randomness", "seed of training")
    assert (changed["recorded"], changed["current"]) == ("7", "8")


def test_a_manifest_with_another_seed_gives_another_model(project: Path) -> None:
    recorded = _manifest(NETWORK)
    _rewrite(NETWORK, randomness=recorded.randomness.model_copy(update={"seeds": {"training": 8}}))
    found = _reproduce(NETWORK, 1)
    assert found["model_rebuilt"] != found["model_recorded"]
    assert _first(found)["what"] == "seed of training"
    assert "randomness: seed of training was 8, is 7, but the recorded one was used" in found["explanation"]


def test_a_model_that_differs_for_no_recorded_reason_is_said_to_do_so(project: Path) -> None:
    _deploy("9", "9" * 64)
    found = _reproduce("9", 1)
    assert found["differences"] == []
    assert "the model differs although nothing that was recorded" in found["explanation"]
    assert "not deterministic" in _said("9", 1)


# Impossible -----------------------------------------------------------------------------------------


def test_what_cannot_be_rebuilt_has_a_cure(project: Path) -> None:
    unknown = _reproduce("77", 2)
    assert "no model version '77'" in unknown["message"]
    assert unknown["cure"]
    recorded = _manifest(TREES)
    configuration = {**recorded.configuration.usecase, "no_such_key": 1}
    _rewrite(TREES, configuration=recorded.configuration.model_copy(update={"usecase": configuration}))
    old = _reproduce(TREES, 2)
    assert "no_such_key" in old["message"]
    assert recorded.code.commit in old["cure"]
    store = open_store()
    for key in store.list("snapshots/synthetic/manifests/"):
        store.delete(key)
    assert "has no manifest" in _reproduce(TREES, 2)["message"]


# The manifest ---------------------------------------------------------------------------------------


def test_the_manifest_holds_all_that_made_the_model(project: Path) -> None:
    uc, found = load_usecase("synthetic"), _manifest(NETWORK)
    data = found.data
    assert data.snapshot_hash == data.snapshot.content_hash
    assert data.snapshot.train.rows > data.snapshot.holdout.rows > 0
    window = list(days(data.snapshot.train.start, data.snapshot.holdout.end))
    for layer in ("features", "labels"):
        published = tables.partition_versions(uc, layer)
        assert data.tables[layer].partitions == {day: published[day].content_hash for day in window}
        assert data.tables[layer].table_version == published[DAY].table_version
    landed = raw.current(uc, "none", "none", DAY)
    assert landed is not None
    assert list(data.raw["none.none"]) == window
    assert data.raw["none.none"][DAY].model_dump() == {
        "content_hash": landed.content_hash,
        "version": 1,
        "query": f"orders of {DAY}",
        "extracted_at": landed.extracted_at,
        "rows": landed.rows_accepted,
    }
    assert data.unknown_origin == {"features": 0, "labels": 0}
    assert found.code.commit == _git(project, "rev-parse", "HEAD")
    assert (found.code.branch, found.code.diff_hash, found.code.diff) == ("trunk", "clean", "")
    assert found.code.remote == "https://code.example/team/project.git"
    assert "pass-word" not in found.model_dump_json()
    assert found.configuration.usecase == uc.model_dump(mode="json")
    assert found.configuration.params["hidden"] == [16]
    assert found.configuration.params["patience"] == 3, "a default"
    assert found.environment.packages["torch"].startswith("2.")
    assert len(found.environment.packages) > 200
    assert len(found.environment.lock_hash) == 64
    assert (found.environment.cores, found.environment.device) == (os.cpu_count(), "cpu")
    assert found.randomness.seeds == {"training": 7}
    assert found.randomness.threads >= 1


def test_a_training_that_was_killed_while_logging_keeps_the_first_manifest(project: Path) -> None:
    uc, first = load_usecase("synthetic"), _manifest(TREES)
    client = tracking.client(uc)
    run = deployments.history(uc)[0].run_id
    client.update_run(run, status="RUNNING")
    (project / "notes.txt").write_text("edited meanwhile\n")
    again: Candidate = train(uc, first.data.snapshot, "trees")
    assert again.run_id == run
    assert _manifest(TREES) == first
    logged = Path(client.download_artifacts(again.run_id, "manifest.json")).read_text(encoding="utf-8")
    assert Manifest.model_validate_json(logged) == first


def test_outside_a_checkout_the_image_tells_the_commit(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(project / ".git")
    monkeypatch.setenv("NIGHTSHIFT_IMAGE", "registry.example/nightshift:1")
    monkeypatch.setenv("NIGHTSHIFT_COMMIT", _manifest(TREES).code.commit)
    settings.cache_clear()
    found = _reproduce(TREES, 0)
    # The same commit and the same sources: only the image is new.
    (difference,) = found["differences"]
    assert (difference["cause"], difference["what"]) == ("environment", "image")
    assert difference["current"] == "registry.example/nightshift:1"
