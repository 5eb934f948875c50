"""Why a prediction says what it says: what is stored with it, what is told of it, and what would flip it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from typer.testing import CliRunner

from nightshift.cli import explain as command
from nightshift.cli.main import app
from nightshift.errors import DataError
from nightshift.inference import counterfactual as counterfactuals
from nightshift.inference.counterfactual import counterfactual
from nightshift.inference.explain import Explained, explain, find_prediction
from nightshift.inference.publish import publish_predictions
from nightshift.inference.score import LAYER, score
from nightshift.inference.serving import differences, serve
from nightshift.lake import tables
from nightshift.lake.staging import read_staged
from nightshift.registry.model import Model
from nightshift.registry.models import load_model
from nightshift.settings import settings
from nightshift.usecase import Explanations, UseCase

Make = Callable[..., pa.Table]

DAY, NEXT = date(2013, 1, 17), date(2013, 1, 18)
SOME = f"{DAY}-00007"


@pytest.fixture
def storage() -> str:
    """What is tested here does not depend on the storage."""
    return "file"


def _explaining(uc: UseCase, **rules: Any) -> UseCase:
    return uc.model_copy(update={"explanation": Explanations.model_validate(rules)})


def _publish(uc: UseCase, day: date, *, without: str = "") -> pa.Table:
    rows = read_staged(score(uc, day)) if without else None
    if rows is None:
        publish_predictions(uc, score(uc, day))
    else:
        tables.replace_partition(uc, LAYER, day, rows.drop_columns([without]), [uc.entity])
    return tables.read_partitions(uc, LAYER, day, day)


def _explain(uc: UseCase, entity: str, day: date | None = None) -> Explained:
    found = find_prediction(uc, entity, day)
    assert found is not None
    return explain(uc, found)


def _contributions(found: Explained) -> dict[str, float]:
    return {item.feature: item.contribution for item in found.contributions}


# Stored with the prediction -------------------------------------------------------------------------


def test_each_prediction_has_the_strongest_contributions_of_its_features(usecase: UseCase) -> None:
    rows = read_staged(score(usecase, DAY)).sort_by("flight_id")
    features = tables.read_partitions(usecase, "features", DAY, DAY).sort_by("flight_id")
    model = load_model(usecase, "1")
    values = model.contributions(features).values
    for stored, row, contributions in zip(
        rows["reasons"].to_pylist(), features.to_pylist(), values, strict=True
    ):
        reasons = json.loads(stored)
        strongest = sorted(zip(model.feature_columns, contributions, strict=True), key=lambda c: -abs(c[1]))
        assert [reason["feature"] for reason in reasons] == [name for name, _ in strongest[:3]]
        for reason, (name, contribution) in zip(reasons, strongest, strict=False):
            assert reason["contribution"] == pytest.approx(contribution, abs=5.1e-5)
            if name in ("carrier", "origin"):
                assert reason["value"] == row[name]
            else:
                assert float(reason["value"]) == pytest.approx(row[name], rel=1e-5)


def test_the_feature_that_decides_is_the_first_reason(usecase: UseCase) -> None:
    rows = read_staged(score(usecase, DAY))
    first = [json.loads(reasons)[0]["feature"] for reasons in rows["reasons"].to_pylist()]
    assert max(set(first), key=first.count) == "delay"
    assert first.count("delay") > 0.6 * len(first)


def test_how_many_reasons_are_stored_is_for_the_use_case_to_say(usecase: UseCase) -> None:
    def stored(count: int) -> list[int]:
        rows = read_staged(score(_explaining(usecase, top_reasons=count), DAY))
        return [len(json.loads(reasons)) for reasons in rows["reasons"].to_pylist()]

    assert set(stored(0)) == {0}
    assert set(stored(2)) == {2}
    assert set(stored(99)) == {5}


def test_missing_values_are_missing_in_the_reasons(usecase: UseCase, day_of_features: Make) -> None:
    day = date(2013, 3, 1)
    features = day_of_features(day, 50).drop_columns("late")
    for name in ("delay", "carrier"):
        place = features.column_names.index(name)
        features = features.set_column(place, name, pa.nulls(50, features[name].type))
    tables.replace_partition(usecase, "features", day, features, ["flight_id"])
    found = [reason for row in read_staged(score(usecase, day))["reasons"].to_pylist()
             for reason in json.loads(row)]  # fmt: skip
    assert {item["value"] for item in found if item["feature"] in ("delay", "carrier")} == {None}


def test_applications_read_the_reasons_of_the_lake(usecase: UseCase, database: str) -> None:
    lake = {row["flight_id"]: json.loads(row["reasons"]) for row in _publish(usecase, DAY).to_pylist()}
    serve(usecase, DAY, database)
    with psycopg.connect(database) as connection:
        served = connection.execute("select flight_id, reasons from predictions.flight_delays").fetchall()
        strongest = connection.execute(
            "select reasons->0->>'feature' from predictions.flight_delays_latest where flight_id = %s", [SOME]
        ).fetchall()
    assert dict(served) == lake
    assert strongest == [(lake[SOME][0]["feature"],)]


# Predictions of a release that stored no reasons ----------------------------------------------------


def test_predictions_without_reasons_are_read_and_explained_like_others(usecase: UseCase) -> None:
    assert "reasons" not in _publish(usecase, DAY, without="reasons").column_names
    alone = _explain(usecase, SOME)
    with_reasons = _publish(usecase, NEXT)
    assert with_reasons["reasons"].null_count == 0
    old = tables.read_partitions(usecase, LAYER, DAY, DAY)
    assert old["reasons"].null_count == old.num_rows == 300
    assert _explain(usecase, SOME) == alone
    # Scored once more, they have them.
    assert _publish(usecase, DAY)["reasons"].null_count == 0
    assert _contributions(_explain(usecase, SOME)) == _contributions(alone)


def test_a_table_of_an_earlier_release_is_served_into_and_gains_the_column(
    usecase: UseCase, database: str
) -> None:
    _publish(usecase, DAY, without="reasons")
    serve(usecase, DAY, database)
    with psycopg.connect(database) as connection:
        connection.execute("alter table predictions.flight_delays drop column reasons cascade")
        connection.execute(
            "create view predictions.flight_delays_latest as select * from predictions.flight_delays"
            " where partition = (select max(partition) from predictions.flight_delays)"
        )
    _publish(usecase, NEXT)
    assert serve(usecase, NEXT, database) == 300
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "select partition, count(*), count(reasons) from predictions.flight_delays group by 1 order by 1"
        ).fetchall()
        newest = connection.execute("select count(reasons) from predictions.flight_delays_latest").fetchall()
    assert found == [(DAY, 300, 0), (NEXT, 300, 300)]
    assert newest == [(300,)]
    # What was served before is known still.
    assert differences(usecase, database) == {}


# One prediction explained ---------------------------------------------------------------------------


def test_an_explanation_adds_up_to_what_was_predicted(usecase: UseCase, publish_truth: Make,
                                                      day_of_features: Make) -> None:  # fmt: skip
    rows = _publish(usecase, DAY)
    (row,) = rows.filter(pc.equal(rows["flight_id"], SOME)).to_pylist()
    found = _explain(usecase, SOME)
    assert found.outcome is None
    model = load_model(usecase, "1")
    assert (found.score, found.decision, found.threshold) == (row["score"], row["decision"], model.threshold)
    assert (found.model_version, found.feature_version) == ("1", row["feature_version"])
    assert {item.feature for item in found.contributions} == set(model.feature_columns)
    assert found.base + sum(_contributions(found).values()) == pytest.approx(found.log_odds, abs=1e-3)
    raw = 1 / (1 + np.exp(-found.log_odds))
    assert model.origin.calibration.apply(np.array([raw]))[0] == pytest.approx(found.score, abs=1e-5)
    stored = json.loads(row["reasons"])
    assert [item.model_dump() for item in found.contributions[:3]] == stored
    assert found.notes == []
    truth = publish_truth(DAY, day_of_features(DAY))
    outcome = _explain(usecase, SOME).outcome
    assert outcome is not None
    assert outcome.value == truth.filter(pc.equal(truth["flight_id"], SOME))["arrived_late"][0].as_py()
    assert outcome.known_since == DAY + timedelta(days=1)


def test_the_newest_prediction_is_explained_or_that_of_the_night_asked_for(usecase: UseCase) -> None:
    rows = _publish(usecase, DAY)
    later = tables.read_partitions(usecase, "features", NEXT, NEXT)
    names = pa.array([SOME, *later["flight_id"].to_pylist()[1:]])
    renamed = later.set_column(later.column_names.index("flight_id"), "flight_id", names)
    tables.replace_partition(usecase, "features", NEXT, renamed, ["flight_id"])
    _publish(usecase, NEXT)
    assert _explain(usecase, SOME).partition == NEXT
    old = _explain(usecase, SOME, DAY)
    assert old.partition == DAY
    assert old.score == rows.filter(pc.equal(rows["flight_id"], SOME))["score"][0].as_py()


def test_features_published_again_since_are_said_and_not_used(usecase: UseCase) -> None:
    _publish(usecase, DAY)
    before = _explain(usecase, SOME)
    features = tables.read_partitions(usecase, "features", DAY, DAY)
    place = features.column_names.index("delay")
    moved = features.set_column(place, "delay", pc.add(features["delay"], 3.0))
    tables.replace_partition(usecase, "features", DAY, moved, ["flight_id"])
    after = _explain(usecase, SOME)
    assert after.contributions == before.contributions
    assert after.score == before.score
    (note,) = after.notes
    assert "published again since" in note
    _publish(usecase, DAY)
    assert _explain(usecase, SOME).notes == []
    assert _contributions(_explain(usecase, SOME)) != _contributions(before)


def test_features_that_are_gone_are_named_with_what_to_do(usecase: UseCase) -> None:
    _publish(usecase, DAY)
    features = tables.read_partitions(usecase, "features", DAY, DAY)
    tables.replace_partition(usecase, "features", DAY, features.slice(1), ["flight_id"])
    tables.vacuum(usecase, "features", 0)
    with pytest.raises(DataError, match=f"of {DAY}.*are gone") as raised:
        _explain(usecase, SOME)
    assert "rebuild the predictions" in raised.value.cure


def test_another_model_of_that_number_explains_nothing(usecase: UseCase) -> None:
    found = _publish(usecase, DAY).slice(0, 1).to_pylist()[0]
    with pytest.raises(DataError, match="version 1 is model"):
        explain(usecase, found | {"model_hash": "another"})


def test_what_was_not_scored_is_not_explained(usecase: UseCase) -> None:
    with pytest.raises(DataError, match="no predictions yet"):
        command.run([usecase], SOME, None, as_json=True)
    _publish(usecase, DAY)
    with pytest.raises(DataError, match="no prediction of flight_id '2013-01-17-0000x'") as raised:
        command.run([usecase], "2013-01-17-0000x", None, as_json=True)
    assert f"some of {DAY}: {DAY}-00" in raised.value.cure
    with pytest.raises(DataError, match=f"no predictions of {NEXT}") as raised:
        command.run([usecase], SOME, NEXT, as_json=True)
    assert str(DAY) in raised.value.cure


def test_an_entity_of_two_use_cases_has_to_be_told_apart(usecase: UseCase) -> None:
    other = usecase.model_copy(update={"name": "other"})
    tables.replace_partition(other, LAYER, DAY, _publish(usecase, DAY), ["flight_id"])
    with pytest.raises(DataError, match="flight_delays and other") as raised:
        command.run([usecase, other], SOME, None, as_json=True)
    assert "--usecase" in raised.value.cure


# What would flip the decision -----------------------------------------------------------------------

GRID = {"low": -3, "high": 3, "step": 0.5}
CARRIERS = ["AA", "DL", "UA", "never seen"]


def _row(uc: UseCase, entity: str = SOME) -> pa.Table:
    features = tables.read_partitions(uc, "features", DAY, DAY)
    return features.filter(pc.equal(features["flight_id"], entity)).combine_chunks()


def _with(row: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    for name, value in values.items():
        row = row.set_column(row.column_names.index(name), name, pa.array([value]))
    return row


def _decides(model: Model, row: pa.Table) -> bool:
    return bool(model.predict_proba(row)[0] >= model.threshold)


def _deviation(model: Model, name: str) -> float:
    values = model.reference[name].to_numpy()
    return float(np.median(np.abs(values - np.median(values))))


@pytest.mark.parametrize("number", [3, 7, 20, 41, 60])
def test_the_smallest_allowed_change_flips_the_decision(usecase: UseCase, number: int) -> None:
    uc = _explaining(usecase, allowed={"delay": GRID, "load": GRID, "carrier": CARRIERS})
    model, row = load_model(uc, "1"), _row(uc, f"{DAY}-{number:05d}")
    before = row.to_pylist()[0]
    single = [
        (abs(value - before[name]) / _deviation(model, name), {name: value})
        for name in ("delay", "load")
        for value in np.arange(-3, 3.1, 0.5).tolist()
        if model.reference[name].to_numpy().min() <= value <= model.reference[name].to_numpy().max()
    ] + [(1.0, {"carrier": name}) for name in CARRIERS[:3] if name != before["carrier"]]
    flipping = [found for found in single if _decides(model, _with(row, found[1])) != _decides(model, row)]
    found = counterfactual(uc, model, row)
    assert found is not None
    assert found.exhaustive
    assert counterfactual(uc, model, row) == found
    made = {c.feature: c.after if c.feature == "carrier" else float(c.after) for c in found.changes}
    assert _decides(model, _with(row, made)) != _decides(model, row)
    assert model.predict_proba(_with(row, made))[0] == found.score
    if flipping:
        assert found.distance == pytest.approx(min(distance for distance, _ in flipping))
        assert made in [values for _, values in flipping]
    else:
        assert len(made) > 1


def test_only_what_is_allowed_is_changed(usecase: UseCase) -> None:
    model = load_model(usecase, "1")
    for allowed in ({"load": GRID}, {"origin": ["EWR", "JFK"], "load": GRID}):
        uc = _explaining(usecase, allowed=allowed)
        found = [counterfactual(uc, model, _row(uc, f"{DAY}-{number:05d}")) for number in range(12)]
        changed = [{change.feature for change in one.changes} for one in found if one is not None]
        assert len(changed) > 2
        assert all(names <= allowed.keys() for names in changed)


def test_without_a_change_that_flips_there_is_none(usecase: UseCase) -> None:
    model, row = load_model(usecase, "1"), _row(usecase)
    assert counterfactual(_explaining(usecase), model, row) is None
    here = row["delay"][0].as_py()
    nothing = {"low": here, "high": here, "step": 1}
    assert counterfactual(_explaining(usecase, allowed={"delay": nothing}), model, row) is None
    missing = _with(row, {"delay": None}).cast(row.schema)
    assert counterfactual(_explaining(usecase, allowed={"delay": GRID}), model, missing) is None


def test_what_follows_from_a_feature_moves_with_it(usecase: UseCase) -> None:
    steps = {"low": -2, "high": 2, "step": 0.25, "relative": True, "moves": ["hour"]}
    uc = _explaining(usecase, allowed={"delay": steps})
    model, moved = load_model(uc, "1"), []
    for number in range(20):
        row = _row(uc, f"{DAY}-{number:05d}")
        if (found := counterfactual(uc, model, row)) is not None:
            delay, hour = found.changes
            assert (delay.feature, delay.follows, hour.feature, hour.follows) == (
                "delay",
                False,
                "hour",
                True,
            )
            change = float(delay.after) - row["delay"][0].as_py()
            assert float(hour.after) - row["hour"][0].as_py() == pytest.approx(change, abs=1e-4)
            assert found.distance == pytest.approx(abs(change) / _deviation(model, "delay"), abs=1e-4)
            moved.append(change)
    assert len(moved) > 5


def test_too_many_combinations_are_searched_from_the_best_on(
    usecase: UseCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One feature alone moves little, and two together are too many to be all tried.
    narrow = {"low": -1, "high": 1, "step": 0.25, "relative": True}
    uc = _explaining(usecase, allowed={"delay": narrow, "load": narrow, "hour": narrow})
    monkeypatch.setattr(counterfactuals, "_MOST_ROWS", 30)
    model, several = load_model(uc, "1"), 0
    for number in range(60):
        row = _row(uc, f"{DAY}-{number:05d}")
        if (found := counterfactual(uc, model, row)) is None:
            continue
        made = {change.feature: float(change.after) for change in found.changes}
        assert (found.score >= model.threshold) != _decides(model, row)
        assert found.exhaustive == (len(made) == 1)
        several += len(made) > 1
    assert several


# The command ----------------------------------------------------------------------------------------


@pytest.fixture
def project(usecase: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """A checkout whose use case reads the small features and allows a change."""
    uc = _explaining(usecase, allowed={"delay": GRID})
    folder = tmp_path / "checkout" / "include" / "usecases" / uc.name
    folder.mkdir(parents=True)
    shutil.copy(settings().usecases / uc.name / "sources.yml", folder)
    content = uc.model_dump(mode="json", exclude={"sources", "feedback", "stress"}, exclude_unset=True)
    content["evaluation"], content["training"]["baseline"] = {}, None
    (folder / "usecase.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "checkout"))
    settings.cache_clear()
    return uc


def test_the_command_tells_people_and_scripts_the_same(project: UseCase) -> None:
    _publish(project, DAY)
    expected = _explain(project, SOME)
    found = CliRunner().invoke(app, ["explain", SOME, "--json"], catch_exceptions=False)
    assert found.exit_code == 0
    assert Explained.model_validate_json(found.stdout) == expected
    told = CliRunner().invoke(app, ["explain", SOME, "--partition", str(DAY)], catch_exceptions=False)
    assert told.exit_code == 0
    assert f"{expected.score:.4f}" in told.stdout
    assert "version 1 (xgboost)" in told.stdout
    assert "not known yet" in told.stdout
    for item in expected.contributions:
        (line,) = [line for line in told.stdout.splitlines() if line.startswith(f"{item.feature} ")]
        assert f"{item.contribution:+.4f}" in line
        assert "█" in line
    assert expected.counterfactual is not None
    (change,) = expected.counterfactual.changes
    assert f"delay {change.before} → {change.after}" in told.stdout
    failed = CliRunner().invoke(app, ["explain", "nothing"])
    assert failed.exit_code == 1
    assert "cure" in failed.stderr
