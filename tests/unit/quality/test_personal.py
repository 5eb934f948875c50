"""What the scanner suspects, and what it must not; and which personal columns may reach features."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from tests.passengers import passengers, table

from nightshift.errors import DataError
from nightshift.lake.staging import stage
from nightshift.quality.personal import reaches, require_purpose
from nightshift.quality.scan import scan
from nightshift.quality.staged import validate_staged
from nightshift.settings import settings
from nightshift.sources.contract import check_columns
from nightshift.sources.registry import open_connector
from nightshift.usecase import Table, UseCase

DAY = date(2013, 7, 1)
UNCLASSED: dict[str, Any] = {"pii": "none", "protect": "none", "domain": None}


def suspected(**columns: pa.Array | list[Any]) -> dict[str, str]:
    rows = pa.table(columns)
    kinds = {
        name: "int64" if pa.types.is_integer(rows[name].type) else "string" for name in rows.column_names
    }
    declared = {name: {"type": kind, "description": name} for name, kind in kinds.items()}
    entry = {"description": "t", "key": [rows.column_names[0]], "refresh": "daily", "columns": declared}
    return {found.column: found.kind for found in scan(Table.model_validate(entry), rows)}


def test_unclassed_columns_of_passengers_are_found_whatever_they_are_called() -> None:
    rows = passengers(300, 3, DAY)
    named = ("email", "seat_ref", "phone", "full_name", "card", "other_email", "remark")
    declared = Table.model_validate(table(**dict.fromkeys(named, UNCLASSED), born_on=UNCLASSED))
    found: dict[str, set[str]] = {}
    for one in scan(declared, rows):
        found.setdefault(one.column, set()).add(one.kind)
        assert not [text for text in rows["email"].to_pylist() if text in str(one)]
    assert found == {
        "email": {"e-mail address"},
        "seat_ref": {"e-mail address"},
        "other_email": {"e-mail address"},
        "phone": {"phone number"},
        "full_name": {"person's name"},
        "card": {"payment card"},
        "remark": {"e-mail address", "phone number"},
    }
    assert scan(Table.model_validate(table()), rows) == [], "what is classed is known"


def test_other_kinds_are_found() -> None:
    local = [f"0{number}" for number in range(301_234_560, 301_234_590)]
    assert suspected(
        id=[f"DE{number:02d}" for number in range(30)],
        mobile_no=local,
        cell_phone=[int(text) for text in local],
        contact=[f"(030) 12345{number}" for number in range(30)],
        desk=[f"212-555-01{number:02d}" for number in range(30)],
        account=["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "FR1420041010050500013M02606"] * 10,
        client=[f"192.0.2.{number}" for number in range(15)]
        + [f"2001:db8::{number}" for number in range(15)],
        last_name=["Quistgaard", "O\u2019Hara", "van der Berg".title(), "Szymborski", "Ito"] * 6,
    ) == {
        "mobile_no": "phone number",
        "cell_phone": "phone number",
        "contact": "phone number",
        "desk": "phone number",
        "account": "bank account",
        "client": "IP address",
        "last_name": "person's name",
    }


def test_what_only_resembles_them_is_not_suspected() -> None:
    random = Random(5)
    assert (
        suspected(
            order=[str(random.randrange(10**15, 10**16)) for _ in range(500)],
            big=[random.randrange(10**15, 10**16) for _ in range(500)],
            moment=[f"2013-07-{day % 28 + 1:02d} 12:{day % 60:02d}:00+00:00" for day in range(500)],
            day=[f"2013-07-{day % 28 + 1:02d}" for day in range(500)],
            latitude=[f"{random.uniform(-90, 90):.9f}" for _ in range(500)],
            uuid=[f"{random.getrandbits(128):032x}" for _ in range(500)],
            name=["Kennedy Intl", "La Guardia", "Newark Liberty", "Ann Arbor", "Will Rogers World"] * 100,
            email_count=list(range(500)),
            phone_model=[f"Model {number}" for number in range(500)],
            handle=["@here", "a@b", "5 @ 3.20", "none"] * 125,
            version=[f"{number}.0.1" for number in range(500)],
            code=["MIA", "ANN", "JAN", "IAN"] * 125,
            empty=pa.nulls(500, pa.string()),
        )
        == {}
    )


def test_nothing_of_the_real_flights_is_suspected(flight_delays: UseCase) -> None:
    looked_at = 0
    for source, name, declared in flight_delays.tables():
        read = open_connector(flight_delays, source).read(name, DAY, flight_delays.as_of(date(2013, 7, 3)))
        rows = check_columns(flight_delays, source, name, read.table)
        assert scan(declared, rows) == [], name
        looked_at += rows.num_rows
    assert looked_at > 5000


# Purposes ------------------------------------------------------------------------------------------------


def without_purposes(uc: UseCase) -> UseCase:
    return uc.model_copy(update={"features": uc.features.model_copy(update={"personal": {}})})


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flight_delays: UseCase) -> Callable[[Any], UseCase]:
    """Return a function that has dbt's file say of the feature ``carrier`` what it is made from."""

    def write(personal: Any) -> UseCase:
        file = tmp_path / "dbt_project" / "models" / "flight_delays" / "features.yml"
        file.parent.mkdir(parents=True, exist_ok=True)
        column = {"name": "carrier", "config": {"meta": {"personal": personal}}}
        model = {"name": flight_delays.features.relation, "columns": [{"name": "origin"}, column]}
        file.write_text(json.dumps({"models": [model]}))  # JSON is YAML
        monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
        settings.cache_clear()
        return without_purposes(flight_delays)

    return write


@pytest.mark.parametrize("said", ["tail_number", ["tail_number"]])
def test_a_feature_of_personal_data_needs_a_purpose(
    home: Path, say: Callable[[Any], UseCase], flight_delays: UseCase, said: Any
) -> None:
    uc = say(said)
    relation = uc.features.relation
    assert reaches(uc, relation, uc.features.columns) == {"carrier": frozenset({"tail_number"})}
    with pytest.raises(DataError, match=r"carrier \(from tail_number\)") as refused:
        require_purpose(uc, relation, uc.features.columns)
    assert "features.personal" in refused.value.cure
    require_purpose(flight_delays, relation, uc.features.columns)


def test_a_name_that_is_not_personal_is_told(home: Path, say: Callable[[Any], UseCase]) -> None:
    uc = say(["tail_nummer"])
    with pytest.raises(DataError, match="made from tail_nummer"):
        reaches(uc, uc.features.relation, ["carrier"])


def test_a_column_that_rides_along_is_not_published(home: Path, flight_delays: UseCase) -> None:
    """No model reads it, but the table of features would have it."""
    uc = without_purposes(flight_delays)
    rows = pa.table({"flight_id": ["a"], "tail_number": ["N1"]})
    staged = stage(uc, "labels", DAY, rows, ["flight_id"])
    with pytest.raises(DataError, match="personal data reach labels_flight_delays: tail_number"):
        validate_staged(uc, [staged])
