from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from tests.lakes import on_both_storages
from typer.testing import CliRunner

from nightshift.cli.main import app
from nightshift.lake import tables
from nightshift.lake.append_log import append
from nightshift.monitoring.alerting import raise_alert
from nightshift.orchestration.alerts import run_failed
from nightshift.settings import settings
from nightshift.usecase import UseCase

DAY = date(2013, 7, 1)


storage = on_both_storages


def _command(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def _publish(uc: UseCase, layer: str, day: date, value: float = 1.0) -> None:
    table = pa.table({uc.entity: ["a", "b"], "value": [value, 2.0]})
    tables.replace_partition(uc, layer, day, table, [uc.entity])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, nightshift.cli.main;"
        "heavy = ('airflow', 'pandas', 'pyarrow', 'deltalake', 'mlflow', 'psycopg', 'rich.live');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_status_of_nothing_is_the_whole_contract(home: Path, flight_delays: UseCase) -> None:
    status = json.loads(_command("status", "--json"))
    found = status["usecases"][flight_delays.name]
    assert found["raw"] | {"content_hash": ""} == {
        "partitions": 0,
        "rows_in": 0,
        "rows_accepted": 0,
        "rows_quarantined": 0,
        "content_hash": "",
    }
    assert found["features"]["rows"] == found["predictions"]["rows"] == 0
    assert found["champion"] is None
    assert found["predictions"]["observed"] == found["drift"] == {}
    assert found["retrain_requests"] == 0
    assert (found["alerts"]["number"], found["alerts"]["newest"]) == (0, [])
    assert status["services"] == {"airflow": None, "mlflow": None}
    assert flight_delays.name in _command("status")


def test_status_says_why_a_night_was_not_judged(home: Path, flight_delays: UseCase) -> None:
    names = ("model_hash", "features_hash", "predictions_hash", "inputs")
    row = dict.fromkeys(names, "a") | {"verdict": "watch", "signal": False, "rows": 1}
    row |= dict.fromkeys(("columns", "windows", "findings"), "[]") | {
        "note": "not judged: 3 days are too few"
    }
    rows = pa.Table.from_pylist([row | {"partition": DAY}])
    tables.replace_partition(flight_delays, "monitoring", DAY, rows, ["partition"])
    found = json.loads(_command("status", "--json"))["usecases"][flight_delays.name]["drift"][f"{DAY}"]
    assert found["note"] == "not judged: 3 days are too few"
    assert "drift: not judged: 3 days" in _command("status")


def test_the_content_hash_follows_content_not_history(home: Path, flight_delays: UseCase) -> None:
    def features() -> dict[str, object]:
        found = json.loads(_command("status", "--json"))["usecases"][flight_delays.name]["features"]
        assert isinstance(found, dict)
        return found

    _publish(flight_delays, "features", DAY)
    _publish(flight_delays, "features", DAY + timedelta(days=1))
    first = features()
    assert (first["partitions"], first["rows"]) == (2, 4)
    _publish(flight_delays, "features", DAY, value=7.0)
    changed = features()
    assert changed["content_hash"] != first["content_hash"]
    _publish(flight_delays, "features", DAY)
    assert features() == first


def test_partitions_lists_layers_days_and_versions(home: Path, flight_delays: UseCase) -> None:
    for day in (DAY, DAY + timedelta(days=1)):
        _publish(flight_delays, "features", day)
    _publish(flight_delays, "predictions", DAY)
    rows = [json.loads(line) for line in _command("partitions", "--json").splitlines()]
    assert [(row["layer"], row["partition"], row["rows"]) for row in rows] == [
        ("features", "2013-07-01", 2),
        ("features", "2013-07-02", 2),
        ("predictions", "2013-07-01", 2),
    ]
    assert len({row["content_hash"] for row in rows[:2]}) == 2, "the partition counts as content"
    listed = _command("partitions", "--layer", "features", "--start", "2013-07-02")
    assert listed.count("\n") == 1
    assert "2013-07-02" in listed


def test_a_malformed_day_is_explained(home: Path) -> None:
    result = CliRunner().invoke(app, ["partitions", "--start", "July"])
    assert result.exit_code == 1
    assert "'July' is not a partition" in result.output
    assert "cure:" in result.output


def test_a_failed_run_shows_in_status_and_alerts_with_its_cure(home: Path, flight_delays: UseCase) -> None:
    name = flight_delays.name
    assert f"{name}: no alerts" in _command("alerts")
    long_ago = datetime.now(UTC) - timedelta(days=8)
    append(f"alerts/{name}", {"kind": "night_late", "message": "long ago", "at": long_ago.isoformat()})
    run = SimpleNamespace(dag_id=f"{name}.score", partition_key="2013-07-01", conf={}, run_id="r1")
    run_failed({"dag_run": run})
    for _ in range(2):
        raise_alert(name, "night_late", "2013-07-02", "2013-07-02 is past its SLA and has no predictions")

    shown = json.loads(_command("status", "--json"))["usecases"][name]["alerts"]
    assert (shown["days"], shown["number"]) == (7, 2)
    late, failed = (item["message"] for item in shown["newest"])
    assert "2013-07-02" in late
    assert failed == f"{name}.score failed, partition 2013-07-01 (run r1)"

    status = _command("status")
    assert "2 in the last 7 days" in status
    assert "critical  night_late 2013-07-02 (2 times)\n  2013-07-02 is past its SLA" in status
    assert "critical  run_failed score 2013-07-01\n" in status
    assert "look at: " in status
    assert "cure: read the log of its failed task" in status

    rows = [json.loads(line) for line in _command("alerts", "--json").splitlines()]
    assert [row["kind"] for row in rows] == ["night_late", "run_failed", "night_late"]
    assert all(row["usecase"] == name and row["cure"] and row["at"] for row in rows)
    listed = _command("alerts")
    assert listed.index("is past its SLA") < listed.index(failed) < listed.index("long ago")
    assert "(docs/runbooks/night_late.md)" in listed


def test_a_silence_is_begun_listed_and_ended_by_command(home: Path, flight_delays: UseCase) -> None:
    name = flight_delays.name
    assert f"{name}: no silences" in _command("silences")
    begun = ["silence", "drift", "--reason", "holiday week", "--by", "ann"]
    assert "recorded and not sent until" in _command(*begun, "--days", "7")
    raise_alert(name, "drift", "2013-07-02", "moved")
    assert "by ann: holiday week" in _command("alerts")
    (found,) = [json.loads(line) for line in _command("silences", "--json").splitlines()]
    assert (found["usecase"], found["kind"], found["in_force"]) == (name, "drift", True)
    assert "are sent again" in _command(*begun, "--days", "0")
    assert _command("silences").count("  over ") == 2
    assert "until 2999-01-01 00:00 UTC" in _command(*begun, "--until", "2999-01-01")
    for wrong, words in (
        ([*begun, "--until", "soon"], "'soon' is no moment"),
        (["silence", "drfit", "--reason", "x", "--days", "1"], "no alerts of kind 'drfit'"),
        (begun, "give --until or --days"),
    ):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code
        assert words in result.output


def test_status_says_how_to_reach_the_predictions_without_the_password(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "PostgreSQL" not in _command("status"), "the embedded server does not run"
    # pragma: allowlist nextline secret
    monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://someone:hidden@db.example:6543/any")
    settings.cache_clear()
    status = _command("status")
    assert "PostgreSQL  db.example:6543  database serving, user someone" in status
    assert "hidden" not in status + _command("status", "--json")


def test_dbt_refuses_nights_that_end_before_they_start(home: Path) -> None:
    result = CliRunner().invoke(app, ["dbt", "--start", "2013-07-02", "--end", "2013-07-01", "build"])
    assert result.exit_code == 2
    assert "before they start" in result.output


@pytest.mark.parametrize(
    ("others", "cure"),
    [([], "make new-usecase"), (["churn"], None), (["churn", "flight_delays"], "--usecase churn")],
)
def test_a_command_that_concerns_one_use_case_never_guesses(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str], cure: str | None
) -> None:
    """``churn`` comes first in the alphabet; a rollback must not be its for that."""
    shipped = settings().usecases / "flight_delays"
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    for name in others:
        (tmp_path / "include" / "usecases" / name).mkdir(parents=True)
        for file in ("usecase.yml", "sources.yml"):
            text = (shipped / file).read_text(encoding="utf-8")
            (tmp_path / "include" / "usecases" / name / file).write_text(text.replace("flight_delays", name))
    settings.cache_clear()
    result = CliRunner().invoke(app, ["registry", "show", "1"])
    assert result.exit_code == 1
    if cure is None:
        assert "concerns one use case" not in result.stderr
    else:
        assert f"there are {len(others)}" in result.stderr
        assert cure in result.stderr


def test_the_version_is_the_packages() -> None:
    assert _command("--version").strip() == version("nightshift")


@pytest.mark.parametrize(
    "command", ["up", "demo", "replay", "down", "status", "doctor", "partitions", "alerts", "silence", "dbt"]
)
def test_every_command_explains_itself(command: str) -> None:
    assert command in _command("--help")
    assert "Usage" in _command(command, "--help")
