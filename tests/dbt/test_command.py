"""dbt's own command line, as `nightshift dbt` sets it up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

from nights import LAST

from nightshift.lake import audit
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine


def _dbt(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", "from nightshift.cli.main import app; app()", "dbt", *arguments]
    done = run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_one_model_is_built_for_the_nights_asked_for(built: Path, flight_delays: UseCase) -> None:
    relation, day = flight_delays.features.relation, LAST.isoformat()
    count = f"select count(*), min(carrier) from {flight_delays.name}.{relation} where partition = '{day}'"
    with engine().connect() as connection:
        before = connection.execute(count)
        connection.execute(f"delete from {flight_delays.name}.{relation} where partition = '{day}'")

    code, output = _dbt("--usecase", flight_delays.name, "--start", day, "build", "--select", relation)
    assert code == 0, output
    assert "unit_test" in output
    with engine().connect() as connection:
        assert connection.execute(count) == before

    query = f"select count(*) as entities from {{{{ ref('{relation}') }}}} where partition = '{day}'"
    code, output = _dbt("show", "--quiet", "--inline", query, "--output", "json")
    assert code == 0, output
    assert json.loads(output[output.index("{") :])["show"] == [{"entities": before[0][0]}]
    assert [(entry.what, entry.subject) for entry in audit.read()] == [("dbt", "build")], "looking is not"


def test_a_model_that_is_not_there_fails_with_dbts_words(built: Path) -> None:
    code, output = _dbt("compile", "--select", "no_such_model")
    assert code != 0
    assert "no_such_model" in output
