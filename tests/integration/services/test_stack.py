from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from tests.integration.services.conftest import lives
from typer.testing import CliRunner

from nightshift import databases
from nightshift.cli.main import app
from nightshift.errors import DataError
from nightshift.services import airflow, checks, mlflow, postgres, processes, stack
from nightshift.services.airflow_api import AirflowApi, ApiError
from nightshift.settings import settings

_DAG = '''
"""Airflow reads files that say dag and airflow."""
import os, signal, subprocess, sys
from airflow.sdk import dag, task

@dag(dag_id="small", schedule=None, params={"fail": False})
def small():
    @task
    def work(params=None):
        print("the work is done")
        if params["fail"]:
            raise ValueError("as ordered")
    work()

@dag(dag_id="endless", schedule=None)
def endless():
    @task
    def ignore_everything():
        # A session of its own, deaf to SIGTERM: what a careless library may leave behind.
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        with open(os.environ["NIGHTSHIFT_HOME"] + "/child", "w") as file:
            file.write(str(child.pid))
        child.wait()
    ignore_everything()

small()
endless()
'''


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: Path) -> Path:
    """A checkout with two small DAGs and no use case."""
    for folder in ("dags", "plugins", "include/usecases"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dags" / "small.py").write_text(_DAG)
    (tmp_path / "constraints.txt").write_text("")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    return tmp_path


def _of_this_state(state: Path) -> list[str]:
    """Every process whose environment or command line mentions the state folder."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.Error, OSError):
            continue
        if str(state) in text and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


def test_up_runs_tasks_and_down_leaves_nothing(project: Path, state: Path) -> None:
    stack.up()
    before = {item.name: item.pid for item in stack.states()}
    assert all(item.up for item in stack.states())
    assert stack.addresses() == {"airflow": airflow.address(), "mlflow": mlflow.address()}
    serving = stack.serving_database()
    assert serving is not None
    password = Path(str(serving.pop("password_file"))).read_text()
    named = {"dbname" if name == "database" else name: value for name, value in serving.items()}
    with psycopg.connect(**named, password=password) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    shown = CliRunner().invoke(app, ["status"]).stdout
    assert f"user {airflow.ADMIN}, password {airflow.admin_password()}" in shown
    assert password not in shown
    assert httpx.get(stack.addresses()["mlflow"] or "", trust_env=False).is_success
    assert httpx.get(f"{airflow.address()}/api/v2/dags", trust_env=False).status_code == 401

    with AirflowApi() as api:
        api.wait_for_dags(["small", "endless"])
        pools = {row["name"]: row["slots"] for row in api._pages("/pools", "pools")}
        slots = settings().parallelism
        assert pools == {
            "default_pool": slots,
            "warehouse": 1,
            "gpu": max(1, pools["gpu"]),
            "search": max(1, slots // 2),
        }

        good = api.wait_for_run(api.trigger("small"))
        assert good.state == "success"
        assert api.task_states([good]) == {"success": 1}
        bad = api.wait_for_run(api.trigger("small", {"fail": True}))
        assert bad.state == "failed"
        assert "ValueError: as ordered" in api.log(api.tasks(bad)[0])
        assert [run.run_id for run in api.runs("small", states=["failed"])] == [bad.run_id]

        api.set_paused("small", True)
        assert api.dags()["small"] is True
        with pytest.raises(ApiError, match="404") as missing:
            api.trigger("no_such_dag")
        assert missing.value.status == 404

        api.trigger("endless")
        child = state / "child"
        processes.wait_until(child.exists, [], 60, "the endless task")

    stack.up()
    assert {item.name: item.pid for item in stack.states()} == before, "a second up changed something"

    stopped = stack.down()
    assert set(stopped) == set(stack.NAMES)
    assert not lives(int(child.read_text()))
    assert _of_this_state(state) == []
    assert stack.down() == []
    assert stack.addresses() == {"airflow": None, "mlflow": None}


def test_up_that_fails_halfway_stops_what_it_started(
    project: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A scheduler that cannot start, with all else in order.
    monkeypatch.setitem(airflow.COMMANDS, "airflow-scheduler", ("no-such-command",))
    with pytest.raises(processes.ServiceError, match="airflow-scheduler ended") as error:
        stack.up()
    assert "no-such-command" in str(error.value)
    assert _of_this_state(state) == []
    assert processes.supervised() == []


def test_up_with_a_port_in_use_starts_nothing(project: Path, state: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", settings().mlflow_port)),
        pytest.raises(DataError, match="NIGHTSHIFT_MLFLOW_PORT"),
    ):
        stack.up()
    assert _of_this_state(state) == []


def test_airflow_s_database_deleted_from_a_kept_server_is_made_again(project: Path) -> None:
    postgres.start()
    airflow.prepare()
    with psycopg.connect(databases.url("postgres"), autocommit=True) as connection:
        connection.execute("drop database airflow")
    airflow.prepare()
    with psycopg.connect(databases.url("airflow")) as connection:
        assert connection.execute("select count(*) from dag").fetchone() == (0,)


def _doctor() -> dict[str, checks.Finding]:
    return {finding.check: finding for finding in checks.everything()}


def test_doctor_names_what_is_wrong_and_the_cure(project: Path, state: Path) -> None:
    assert all(finding.passed for finding in _doctor().values())

    postgres.start()
    running = processes.alive(postgres.NAME)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    processes.wait_until(lambda: processes.alive(postgres.NAME) is None, [], 20, "the end of PostgreSQL")
    assert "nightshift down" in _doctor()["stale processes"].cure
    stack.down()

    (postgres.data_folder() / "PG_VERSION").unlink()
    assert str(postgres.data_folder()) in _doctor()["state"].cure
    (postgres.data_folder() / "PG_VERSION").write_text("18\n")
    (state / "secrets" / "postgres").unlink()
    assert "password" in _doctor()["state"].detail

    with socket.create_server(("127.0.0.1", settings().airflow_port)):
        assert f"NIGHTSHIFT_AIRFLOW_PORT={settings().airflow_port}" in str(_busy())
        assert "NIGHTSHIFT_AIRFLOW_PORT" in _doctor()["ports"].cure

    (project / "constraints.txt").write_text("rich==1.0.0\n")
    assert "instead of 1.0.0" in _doctor()["packages"].detail

    (state / "mlflow").mkdir()
    (state / "mlflow" / "mlflow.db").write_bytes(b"half a file")
    assert not _doctor()["mlflow"].passed


def _busy() -> DataError:
    with pytest.raises(DataError) as error:
        processes.require_free(airflow.port())
    return error.value


def test_commands_tell_scripts_how_it_went(project: Path, state: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        whole = [str(Path(sys.executable).with_name("nightshift")), *arguments]
        return subprocess.run(whole, capture_output=True, text=True, check=False)

    found = command("status", "--json")
    assert found.returncode == 0, found.stderr
    status = json.loads(found.stdout)
    assert status["services"] == {"airflow": None, "mlflow": None}
    assert command("doctor").returncode == 0
    (state / "postgres").mkdir()
    (state / "postgres" / "leftover").touch()
    broken = command("doctor")
    assert broken.returncode == 1
    assert f"delete {state / 'postgres'}" in broken.stdout
    assert command("up").returncode == 1
    assert "nothing was running" in command("down").stdout
