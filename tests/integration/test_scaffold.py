"""A use case from a few answers runs at once: its DAGs, its checks and its own tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.checkouts import copy_checkout, run_in

from nightshift import scaffold
from nightshift.errors import DataError

ANSWERS: dict[str, Any] = {
    "name": "returns",
    "title": "Returned orders: who, when?",
    "entity": "order_id",
    "event_time": "ordered_at",
    "label": "returned",
    "label_days": 2,
    "timezone": "Europe/Berlin",
    "numeric": ["price", "weight"],
    "categorical": ["shop"],
}
CLI = ("-c", "from nightshift.cli.main import app; app()")
TYPED = (
    "returns",
    "Returned orders: who, when?",
    "order_id",
    "ordered_at",
    "returned",
    "price, weight",
    "shop",
    "2",
    "Europe/Berlin",
    "2024-01-01",
    "ada",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which somebody has answered."""
    copy = copy_checkout(tmp_path_factory.mktemp("scaffold") / "project")
    done = run_in(copy, *CLI, "new-usecase", answers="\n".join(TYPED) + "\n")
    assert done.returncode == 0, done.stdout + done.stderr
    return copy


def test_what_is_written_passes_the_check(project: Path) -> None:
    done = run_in(project, *CLI, "check")
    assert done.returncode == 0, done.stdout
    assert "returns: dbt models: features_returns and labels_returns rest on events, outcomes" in " ".join(
        done.stdout.split()
    )
    assert "dags/ingest.py: 2 DAGs" in done.stdout


def test_its_own_tests_pass(project: Path) -> None:
    done = run_in(project, "-m", "pytest", "tests/integration/usecases", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "3 passed" in done.stdout


def test_the_tests_of_all_dags_pass_beside_it(project: Path) -> None:
    done = run_in(project, "-m", "pytest", "tests/dags/test_integrity.py", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout[-4000:]


def test_it_is_written_in_the_style_of_the_repository(project: Path) -> None:
    own = ["include/usecases/returns", "tests/integration/usecases"]
    for arguments in (("check",), ("format", "--check")):
        done = run_in(project, "-m", "ruff", *arguments, *own)
        assert done.returncode == 0, done.stdout
    done = run_in(project, "-m", "mypy", "include/usecases/returns")
    assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten(project: Path) -> None:
    file = project / "include" / "usecases" / "returns" / "source.py"
    file.write_text("mine")
    others = {one: one.stat().st_mtime_ns for one in file.parent.rglob("*") if one.is_file()}
    with pytest.raises(DataError, match="returns exists"):
        scaffold.write(project, scaffold.parse(ANSWERS))
    assert {one: one.stat().st_mtime_ns for one in others} == others
    done = run_in(project, *CLI, "new-usecase", answers="\n".join(TYPED) + "\n")
    assert done.returncode == 1
    assert "delete the files of the use case first" in " ".join((done.stdout + done.stderr).split())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"name": "Returns"}, "name"),
        ({"name": "../evil"}, "name"),
        ({"title": 'a "quoted" title'}, "title"),
        ({"timezone": "Berlin"}, "is no time zone"),
        ({"numeric": ["price", "returned"]}, "columns need names of their own: returned"),
        ({"numeric": []}, "numeric"),
        ({"label_days": 0}, "label_days"),
        ({"entity": "partition"}, "columns need names of their own: partition"),
        ({"numeric": ["order"]}, "'order' means something in SQL"),
        ({"categorical": ["user"]}, "'user' means something in SQL"),
        ({"label": "no"}, "'no' means something in SQL, Python or YAML"),
        ({"name": "class"}, "'class' means something in SQL, Python or YAML"),
    ],
)
def test_answers_that_cannot_be_taken_are_refused_with_their_name(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told) as refused:
        scaffold.parse(ANSWERS | changed)
    assert refused.value.cure == "answer again"
