"""``make check-dags`` tells what an edit would break, with the place, before anything runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from tests.stacks import copy_project

from nightshift.settings import settings

CODE = "import sys; from nightshift.cli.main import app; sys.argv = ['nightshift', 'check']; app()"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("check") / "project"
    copy_project(settings().project, copy, lambda usecase: None)
    return copy


def checked(project: Path) -> tuple[int, str]:
    """Return the exit code of the check, and all that it says but what is well."""
    home, scratch = project.parent / "home", project.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if name != "AIRFLOW_HOME"},
        "NIGHTSHIFT_PROJECT": str(project),
        "NIGHTSHIFT_HOME": str(home),
        "TMPDIR": str(scratch),
        "PYTHONPATH": str(project / "include"),
        "COLUMNS": "400",
    }
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )
    failed = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert done.stdout.endswith("\n".join([*failed, ""])), "what failed stands last, where it is seen"
    assert done.returncode in (0, 1), done.stderr
    assert not list(scratch.iterdir()), "nothing is left behind"
    return done.returncode, "\n".join(failed)


def test_a_project_that_is_whole_passes(project: Path) -> None:
    assert checked(project) == (0, "")


def _break_dag(project: Path) -> Path:
    file = project / "dags" / "score.py"
    file.write_text(file.read_text() + "\nno_such_name\n")
    return file


def _break_suite(project: Path) -> Path:
    file = project / "expectations" / "flight_delays" / "raw_weather.json"
    suite = json.loads(file.read_text())
    rule = next(rule for rule in suite["expectations"] if "column" in rule["kwargs"])
    rule["kwargs"]["column"] = "wind_sped_mph"
    file.write_text(json.dumps(suite))
    return file


def _break_model(project: Path) -> Path:
    file = project / "dbt_project" / "models" / "flight_delays" / "features" / "labels_flight_delays.sql"
    file.write_text("{{ ref('no_such_model') }}")
    return file


def _break_use_case(project: Path) -> Path:
    file = project / "include" / "usecases" / "flight_delays" / "usecase.yml"
    file.write_text(file.read_text().replace("lookback_days", "look_back_days"))
    return file


def _read_another_table(project: Path) -> Path:
    file = project / "dbt_project" / "models" / "flight_delays" / "staging" / "sources.yml"
    staging = file.with_name("stg_planes.sql")
    file.write_text(file.read_text().replace("- name: planes", "- name: jets"))
    staging.write_text(staging.read_text().replace("planes", "jets"))
    return file


def _make_features_of_people(project: Path) -> Path:
    file = project / "dbt_project" / "models" / "flight_delays" / "features" / "features_flight_delays.yml"
    text = file.read_text()
    at = text.index("      - name: carrier\n") + len("      - name: carrier\n")
    file.write_text(text[:at] + "        config: {meta: {personal: [tail_number]}}\n" + text[at:])
    purposes = project / "include" / "usecases" / "flight_delays" / "usecase.yml"
    content = yaml.safe_load(purposes.read_text())
    del content["features"]["personal"]
    purposes.write_text(yaml.safe_dump(content))
    return file


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (_make_features_of_people, "personal data reach features_flight_delays: carrier (from tail_number)"),
        (_break_dag, "dags/score.py"),
        (_break_suite, "there is no column wind_sped_mph"),
        (_break_model, "no_such_model"),
        (_break_use_case, "look_back_days"),
        (_read_another_table, "rest on jets, which no source has"),
    ],
)
def test_what_an_edit_breaks_is_told_with_its_place(
    project: Path, edit: Callable[[Path], Path], told: str
) -> None:
    folders = ("dags", "expectations", "dbt_project", "include/usecases")
    whole = {
        file: file.read_bytes()
        for folder in folders
        for file in (project / folder).rglob("*")
        if file.is_file()
    }
    try:
        edit(project)
        code, failed = checked(project)
        assert code == 1
        assert told in failed
        assert "cure" in failed
        assert len(failed.splitlines()) == 2 * failed.count("FAIL"), "a line and its cure for each"
        if edit is _break_use_case:
            assert "dags/check_usecases.py:9: nightshift.errors.DataError: use case" in failed
        if edit is _break_dag:
            line = len((project / "dags" / "score.py").read_text().splitlines())
            assert f"dags/score.py:{line}: NameError" in failed
    finally:
        for file, content in whole.items():
            file.write_bytes(content)
