"""What is missing or locked is waited for; what is wrong is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from nights import LAST

from nightshift.errors import DataError, TransientError
from nightshift.features.build import build, require_raw
from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse import dbt
from nightshift.warehouse.engine import engine
from nightshift.warehouse.load import load
from nightshift.warehouse.read import read

_HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"


@pytest.fixture
def out_of_use(built: Path, engine_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another process has the warehouse open, or its server is away."""
    if engine_name == "postgres":
        # pragma: allowlist nextline secret
        monkeypatch.setenv("NIGHTSHIFT_POSTGRES_URL", "postgresql://nobody:nothing@127.0.0.1:1/postgres")
        settings.cache_clear()
        yield
        return
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(built / "warehouse" / "warehouse.duckdb")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("")
    with engine().connect():
        pass  # it is free again


@pytest.mark.usefixtures("out_of_use")
def test_a_warehouse_that_cannot_be_used_is_bad_luck(flight_delays: UseCase) -> None:
    with pytest.raises(TransientError, match=r"open in another process|out of reach"):
        load(flight_delays, LAST, LAST)
    with pytest.raises(TransientError, match=r"open in another process|out of reach"):
        dbt.build(flight_delays, LAST, LAST)
    with pytest.raises(TransientError, match=r"open in another process|out of reach"):
        read(flight_delays, "features_flight_delays", LAST, LAST)


@pytest.mark.parametrize("table", ["schedules", "flights", "weather"])
def test_a_lost_day_of_the_look_back_is_waited_for(built: Path, flight_delays: UseCase, table: str) -> None:
    lost = LAST - timedelta(days=20)
    (folder,) = (built / "lake").rglob(f"{table}/partition={lost}")
    shutil.rmtree(folder)
    with pytest.raises(TransientError, match=rf"{table}: {lost}"):
        build(flight_delays, LAST, LAST)
    require_raw(flight_delays, lost - timedelta(days=1), lost - timedelta(days=1))


def test_the_first_night_of_history_waits_for_nothing_before_it(built: Path, flight_delays: UseCase) -> None:
    require_raw(flight_delays, flight_delays.history_start, flight_delays.history_start)


def test_a_missing_snapshot_is_waited_for(built: Path, flight_delays: UseCase) -> None:
    for folder in list((built / "lake").rglob("planes/partition=*")):
        shutil.rmtree(folder)
    with pytest.raises(TransientError, match="planes: no snapshot"):
        require_raw(flight_delays, LAST, LAST)


def test_a_failing_data_test_is_named_with_its_sql(built: Path, flight_delays: UseCase) -> None:
    with engine().connect() as connection:
        connection.execute(
            "insert into raw_flight_delays.schedules "
            "select * from raw_flight_delays.schedules where partition = $1 limit 1",
            [LAST],
        )
    with pytest.raises(DataError) as failure:
        dbt.build(flight_delays, LAST, LAST)
    assert "unique_together_int_schedule_context" in str(failure.value)
    assert "nights 2013-02-11 to 2013-02-11" in failure.value.where
    compiled = Path(failure.value.cure.rpartition(": ")[2])
    assert "having count(*) > 1" in compiled.read_text()


def test_a_feature_that_the_relation_lacks_is_named(built: Path, flight_delays: UseCase) -> None:
    features = flight_delays.features.model_copy(update={"numeric": ("moon_phase", "scheduled_hour")})
    changed = flight_delays.model_copy(update={"features": features})
    with pytest.raises(DataError, match="moon_phase"):
        build(changed, LAST, LAST)


def test_reading_before_anything_was_built_is_bad_luck(home: Path, flight_delays: UseCase) -> None:
    day = date(2013, 2, 1)
    with pytest.raises(TransientError, match="no warehouse"):
        read(flight_delays, "features_flight_delays", day, day)
    with engine().connect():
        pass
    with pytest.raises(TransientError, match="was not built yet"):
        read(flight_delays, "features_flight_delays", day, day)
