"""What a client makes of an S3 store it reaches badly: nothing is lost, doubled or waited for forever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
from lake_writer import land, rows, toy
from tests.faults import READS, WRITES, FaultyProxy, Rule, faulty_proxy

from nightshift.errors import DataError, TransientError
from nightshift.lake import raw, tables
from nightshift.lake.append_log import append, append_next, begin, read_log
from nightshift.lake.s3 import S3Store
from nightshift.lake.store import open_store
from nightshift.services import checks
from nightshift.settings import settings

DAY = date(2013, 7, 1)
LOST = Rule("lost answer", methods=WRITES, every=2)


@pytest.fixture
def proxy(
    s3_folder: str, s3_endpoint: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultyProxy]:
    """A proxy in front of the lake's store, without faults yet; whoever gets no answer waits for a second."""
    with faulty_proxy(s3_endpoint) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        monkeypatch.setenv("NIGHTSHIFT_LAKE", f"s3://{s3_folder}/lake")
        monkeypatch.setenv("NIGHTSHIFT_STORE_SECONDS", "1")
        settings.cache_clear()
        yield running


@pytest.fixture
def storage() -> str:
    return "file"  # the proxy's fixture sets it


def test_a_record_whose_answer_was_lost_is_in_its_log_once(proxy: FaultyProxy) -> None:
    with proxy.broken(LOST):
        numbers = [append("log", {"turn": turn}) for turn in range(6)]
    assert len(proxy.met) >= 5
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert [record["turn"] for record in read_log("log")] == [0, 1, 2, 3, 4, 5]


def test_whoever_began_a_log_is_told_so_though_the_answer_was_lost(proxy: FaultyProxy) -> None:
    with proxy.broken(LOST):
        assert [begin(f"log{number}", {"by": "me"}) for number in range(4)] == [True] * 4
        assert append_next("log0", 1, {"by": "me"})
        assert [begin(f"log{number}", {"by": "me"}) for number in range(4)] == [False] * 4
    assert len(proxy.met) >= 5


def test_a_record_that_was_kept_and_called_a_conflict_is_in_its_log_once(proxy: FaultyProxy) -> None:
    with proxy.broken(Rule("conflict", methods=frozenset({"PUT"}), every=2)):
        numbers = [append("log", {"turn": turn}) for turn in range(4)]
    assert len(proxy.met) >= 3
    assert numbers == [1, 2, 3, 4]
    assert [record["turn"] for record in read_log("log")] == [0, 1, 2, 3]


def test_doctor_tells_a_store_that_overwrites_what_it_was_asked_to_keep(proxy: FaultyProxy) -> None:
    assert checks.lake().passed
    with proxy.broken(Rule("no conditions", methods=frozenset({"PUT"}))):
        found = checks.lake()
    assert not found.passed
    assert "overwritten" in found.detail
    assert "SeaweedFS" in found.cure
    assert open_store().list("probe/") == []


def test_credentials_that_are_not_there_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(DataError, match="nobody") as error:
        S3Store("bucket")
    assert "AWS_PROFILE" in error.value.cure


def test_a_landing_and_a_commit_whose_answers_were_lost_count_once(proxy: FaultyProxy) -> None:
    uc = toy()
    with proxy.broken(LOST):
        for content in (1, 2, 3):
            land(DAY, content)
            tables.replace_partition(uc, "features", DAY, rows(content), ("id",))
    assert len(proxy.met) >= 6
    assert [one.version for one in raw.versions(uc, "src", "events", DAY)] == [1, 2, 3]
    assert (
        tables.read_partitions(uc, "features", DAY, DAY)["value"].to_pylist() == rows(3)["value"].to_pylist()
    )


def test_a_download_that_is_cut_is_asked_for_again(proxy: FaultyProxy) -> None:
    store = open_store()
    store.put("a", b"x" * 100_000)
    with proxy.broken(Rule("cut download", methods=frozenset({"GET"}), every=2)):
        assert all(store.get("a") == b"x" * 100_000 for _ in range(4))
    assert len(proxy.met) >= 3


def test_an_upload_that_is_cut_leaves_nothing_or_the_whole(proxy: FaultyProxy) -> None:
    store = open_store()
    with proxy.broken(Rule("torn upload", methods=frozenset({"PUT"}))), pytest.raises(TransientError):
        store.put("a", b"x" * 100_000)
    assert not store.exists("a")
    met = len(proxy.met)
    with proxy.broken(Rule("torn upload", methods=frozenset({"PUT"}), every=2)):
        store.put("a", b"x" * 100_000)
    assert len(proxy.met) == met + 1
    assert store.get("a") == b"x" * 100_000


@pytest.mark.parametrize("methods", [READS, WRITES])
def test_a_store_that_never_answers_is_not_waited_for_forever(
    proxy: FaultyProxy, methods: frozenset[str]
) -> None:
    uc, store = toy(), open_store()
    store.put("a", b"x")
    tables.replace_partition(uc, "features", DAY, rows(1), ("id",))
    with proxy.broken(Rule("hang", methods=methods)):
        for ask in (
            lambda: (store.get("a"), store.put("a", b"y")),
            lambda: tables.replace_partition(uc, "features", DAY, rows(2), ("id",)),
        ):
            with pytest.raises(TransientError):
                ask()
    with proxy.broken(Rule("hang", path=".parquet", methods=READS)), pytest.raises(TransientError):
        tables.read_partitions(uc, "features", DAY, DAY)
    assert (
        tables.read_partitions(uc, "features", DAY, DAY)["value"].to_pylist() == rows(1)["value"].to_pylist()
    )
