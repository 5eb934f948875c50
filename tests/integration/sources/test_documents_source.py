"""Documents in a bucket and in a folder: their pieces, as they come, change, move, break and go."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.forked import start
from tests.lakes import environment
from tests.papers import pdf
from upstreams import Upstream

from nightshift.errors import DataError
from nightshift.ingestion.land import land_partitions
from nightshift.lake import journal, raw
from nightshift.lake.store import FileStore
from nightshift.settings import settings
from nightshift.sources import documents, parsing
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase, load_usecase

DAY = date(2024, 3, 1)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
LONG = "\n\n".join(
    f"Absatz {number}. " + "Hier steht, was wir übers Jahr lernten. " * 8 for number in range(9)
)

SUITE = {
    "name": "raw_pieces",
    "expectations": [
        {
            "type": "expect_column_values_to_not_be_null",
            "kwargs": {"column": "document"},
            "meta": {"rule": "document", "severity": "quarantine", "reason": "A piece is of a document."},
        }
    ],
    "meta": {"quarantine_at_most": 0.1},
}


def library(prefix: str, declared: dict[str, Any] | None = None, **table: Any) -> UseCase:
    """Return a use case whose source ``library`` has the table ``pieces`` of documents."""
    columns = {
        name: {"type": kind, "description": f"Its {name}."} for name, kind in documents.COLUMNS.items()
    }
    pieces = {
        "description": "Pieces.",
        "key": ["document", "chunk"],
        "refresh": "slow",
        "columns": columns,
    } | (declared or {})
    source = {
        "kind": "documents",
        "description": "A library.",
        "owner": "test",
        "access": "files",
        "sla": "none",
        "options": {"prefix": prefix, "tables": {"pieces": {"files": "**/*"} | table}, "batch_rows": 5},
        "tables": {"pieces": pieces},
    }
    changed = {"name": "toy", "timezone": "UTC", "sources": {"library": source}}
    return UseCase.model_validate(load_usecase("flight_delays").model_dump() | changed)


def capture(uc: UseCase) -> int:
    return open_connector(uc, "library").capture("pieces")


def read(uc: UseCase, as_of: datetime = LATER) -> list[dict[str, Any]]:
    rows = open_connector(uc, "library").read("pieces", DAY, as_of).table
    return sorted(rows.to_pylist(), key=lambda row: (row["document"], row["chunk"]))


def texts(uc: UseCase, as_of: datetime = LATER) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in read(uc, as_of):
        found.setdefault(row["document"], []).append(row["text"])
    return found


def put_all(upstream: Upstream) -> None:
    upstream.put("a/long.txt", LONG)
    upstream.put("a/größe.md", "# Größe\n\nThe committee meets on the first Monday of each month.")
    upstream.put("paper.pdf", pdf("Die erste Seite der Arbeit.", "Łódź auf der zweiten.", title="Arbeit"))
    upstream.put("page.html", "<meta charset=latin-1><title>T</title><p>Müßig".encode("latin-1"))
    upstream.put("empty.txt", "")


def test_all_kinds_land_and_land_again_without_a_change(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project" / "expectations" / "toy"
    folder.mkdir(parents=True)
    (folder / "raw_pieces.json").write_text(json.dumps(SUITE))
    uc = library(upstream.prefix, chunk_characters=500, overlap_characters=50)
    put_all(upstream)
    with monkeypatch.context() as patch:
        patch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path / "project"))
        settings.cache_clear()
        first = land_partitions(uc, "library", "pieces", {DAY: LATER})
        again = land_partitions(uc, "library", "pieces", {DAY: LATER})
    settings.cache_clear()
    assert again == first
    (manifest,) = first
    assert "pypdf" in manifest.query
    assert "cut at 500, overlapping by 50" in manifest.query
    rows = raw.read(manifest).to_pylist()
    assert len(rows) == len(read(uc)) > 10
    kinds = {row["document"]: (row["media_type"], row["title"], row["language"], row["page"]) for row in rows}
    assert kinds["page.html"] == ("text/html", "T", None, None)
    assert kinds["a/größe.md"] == ("text/markdown", None, "en", None)
    assert kinds["a/long.txt"] == ("text/plain", None, "de", None)
    assert kinds["paper.pdf"][:2] == ("application/pdf", "Arbeit")
    assert kinds["paper.pdf"][3] == 1


def test_each_piece_is_where_it_says_and_together_they_are_the_whole(upstream: Upstream) -> None:
    put_all(upstream)
    uc = library(upstream.prefix, chunk_characters=300, overlap_characters=60)
    capture(uc)
    whole = {"a/long.txt": LONG, "paper.pdf": "Die erste Seite der Arbeit.\n\nŁódź auf der zweiten."}
    seen = dict.fromkeys(whole, 0)
    for row in read(uc):
        if (text := whole.get(row["document"])) is None:
            continue
        assert row["text"] == text[row["start_offset"] : row["end_offset"]]
        assert row["chunk_sha256"] == hashlib.sha256(row["text"].encode()).hexdigest()
        assert row["characters"] == len(text)
        assert row["start_offset"] <= seen[row["document"]]
        seen[row["document"]] = row["end_offset"]
    assert seen == {name: len(text) for name, text in whole.items()}


def test_a_document_without_text_is_seen_to_be_there(
    upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    upstream.put("scan.pdf", pdf(""))
    upstream.put("picture.png", b"\x89PNG")
    uc = library(upstream.prefix)
    with caplog.at_level(logging.WARNING):
        assert capture(uc) == 1
    (row,) = read(uc)
    assert (row["document"], row["chunk"], row["text"], row["characters"]) == ("scan.pdf", 0, None, 0)
    assert "library.pieces: scan.pdf has no text" in caplog.messages
    assert "library.pieces: files that are no documents: picture.png" in caplog.messages


def test_a_changed_document_replaces_its_pieces_and_a_removed_one_retires_them(upstream: Upstream) -> None:
    upstream.put("a.txt", LONG)
    upstream.put("b.txt", "stays")
    uc = library(upstream.prefix, chunk_characters=500)
    capture(uc)
    before = datetime.now(UTC)
    assert len(texts(uc)["a.txt"]) > 5
    assert capture(uc) == 0
    upstream.put("a.txt", "short", age=100)
    capture(uc)
    assert texts(uc) == {"a.txt": ["short"], "b.txt": ["stays"]}
    upstream.delete("a.txt")
    assert capture(uc) == 1
    assert texts(uc) == {"b.txt": ["stays"]}
    assert capture(uc) == 0
    assert set(texts(uc, before)) == {"a.txt", "b.txt"}, "a night before it went still has it"
    upstream.put("a.txt", "back", age=100)
    capture(uc)
    assert texts(uc) == {"a.txt": ["back"], "b.txt": ["stays"]}


def test_a_renamed_document_is_never_there_twice_to_nights_before(upstream: Upstream) -> None:
    upstream.put("a.txt", "one")
    uc = library(upstream.prefix)
    capture(uc)
    night = datetime.now(UTC)
    upstream.rename("a.txt", "b.txt")
    capture(uc)
    assert texts(uc) == {"b.txt": ["one"]}
    assert texts(uc, night) == {"a.txt": ["one"]}


def test_a_document_that_is_renamed_while_the_first_ones_are_read_is_there_once(upstream: Upstream) -> None:
    uc = library(upstream.prefix)
    upstream.put("a.txt", "The rules of the house.", age=9000)
    upstream.put("bad.txt", b"\xff\xfe\xfa", age=5000)
    with pytest.raises(DataError, match="is not utf-16"):
        capture(uc)
    upstream.rename("a.txt", "b.txt")
    upstream.put("bad.txt", "mended")
    capture(uc)
    assert list(texts(uc)) == ["b.txt", "bad.txt"]
    assert list(texts(uc, datetime.now(UTC) - timedelta(seconds=7000))) in (["b.txt"], [])


def test_the_same_content_at_another_time_is_no_change(upstream: Upstream) -> None:
    upstream.put("a.txt", "one")
    uc = library(upstream.prefix)
    capture(uc)
    first = read(uc)
    upstream.put("a.txt", "one", age=200)
    assert capture(uc) == 0
    assert read(uc) == first


def test_another_parser_rewrites_nothing(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.put("a.txt", "one")
    uc = library(upstream.prefix)
    capture(uc)
    monkeypatch.setattr(documents, "parsers", lambda: "pypdf 99")
    assert capture(uc) == 0
    upstream.put("b.txt", "two")
    assert capture(uc) == 1
    queries = [batch.query for batch in journal.batches(uc, "library", "pieces")]
    assert [parsing.parsers() in query for query in queries] == [True, False]
    assert "b.txt; read by pypdf 99" in queries[1]


def test_a_place_that_is_suddenly_empty_retires_nothing(upstream: Upstream) -> None:
    upstream.put("a.txt", "one")
    uc = library(upstream.prefix)
    capture(uc)
    upstream.delete("a.txt")
    with pytest.raises(DataError, match="has no file any more, and had 1"):
        capture(uc)
    assert texts(uc) == {"a.txt": ["one"]}
    capture(library(upstream.prefix, {"allow_empty": True}))
    assert texts(uc) == {}


def test_a_broken_document_is_named_and_stops_no_more_than_those_after_it(upstream: Upstream) -> None:
    upstream.put("a.txt", "one", age=5000)
    upstream.put("gone.txt", "gone", age=5000)
    uc = library(upstream.prefix)
    capture(uc)
    upstream.delete("gone.txt")
    upstream.put("b.txt", "two", age=4000)
    upstream.put("c/größe.pdf", pdf("Seite")[:-300], age=3000)
    upstream.put("d.txt", "four", age=2000)
    for _ in range(2):
        with pytest.raises(DataError) as error:
            capture(uc)
        assert error.value.where.endswith("c/größe.pdf")
        assert "no PDF, or not a whole one" in error.value.message
        assert texts(uc).keys() - {"d.txt"} == {"a.txt", "b.txt"}
    skipping = library(upstream.prefix, skip=["c/größe.pdf"])
    capture(skipping)
    assert texts(uc) == {"a.txt": ["one"], "b.txt": ["two"], "d.txt": ["four"]}
    upstream.put("c/größe.pdf", pdf("Seite"), age=1000)
    assert capture(skipping) == 0
    capture(uc)
    assert texts(uc)["c/größe.pdf"] == ["Seite"]
    assert capture(skipping) == 1, "to skip what was read is to take it away"
    assert "c/größe.pdf" not in texts(uc)


def test_a_document_that_is_too_large_is_not_even_fetched(upstream: Upstream) -> None:
    upstream.put("a.txt", "x" * 2_000_000)
    with pytest.raises(DataError, match=r"it has 2\.0 MB") as error:
        capture(library(upstream.prefix, max_megabytes=1))
    assert "max_megabytes" in error.value.cure
    assert capture(library(upstream.prefix, max_megabytes=2)) > 900


def _capture_until(uc: UseCase, fatal: int, after: bool) -> None:
    """Capture, and be killed before or after the write ``fatal``."""
    writes = 0

    def deadly(write: Callable[..., Any]) -> Callable[..., Any]:
        def written(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes == fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = write(*arguments)
            if writes == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return written

    for name in ("put", "put_new", "delete"):
        setattr(FileStore, name, deadly(getattr(FileStore, name)))
    capture(uc)


def test_a_capture_killed_anywhere_leaves_what_a_quiet_one_does(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    upstream = Upstream(f"{(tmp_path / 'upstream').as_uri()}/")
    uc = library(upstream.prefix, chunk_characters=500)
    for name in ("changes", "goes", "stays"):
        upstream.put(f"{name}.txt", f"{name} {LONG}", age=9000)
    with environment(tmp_path / "before"):
        capture(uc)
    upstream.put("changes.txt", "has changed", age=8000)
    upstream.delete("goes.txt")
    for number in range(9):
        upstream.put(f"{number}.txt", f"{number} {LONG[: 200 * number]}", age=7000 - number)

    def left(home: str) -> tuple[list[dict[str, Any]], list[int]]:
        with environment(tmp_path / home):
            capture(uc)
            return read(uc), [batch.rows for batch in journal.batches(uc, "library", "pieces")]

    shutil.copytree(tmp_path / "before", tmp_path / "quiet")
    quiet = left("quiet")
    assert {row["document"] for row in quiet[0]} == {"changes.txt", "stays.txt"} | {
        f"{n}.txt" for n in range(9)
    }
    kills = 0
    for after in (False, True):
        for fatal in count(1):
            home = f"{fatal} {after}"
            shutil.copytree(tmp_path / "before", tmp_path / home)
            with environment(tmp_path / home):
                extractor = start(_capture_until, uc, fatal, after)
                extractor.join()
            assert left(home) == quiet, home
            if extractor.exitcode == 0:
                break
            assert extractor.exitcode == -signal.SIGKILL
            kills += 1
    assert kills > 10


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"refresh": "daily"}, "a document is of no day"),
        ({"key": ["document"]}, "the key is document, chunk, not document"),
    ],
)
def test_a_table_that_is_declared_otherwise_is_refused(
    tmp_path: Path, declared: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_connector(library(f"{tmp_path.as_uri()}/", declared), "library")


def test_columns_that_differ_are_listed(tmp_path: Path) -> None:
    uc = library(f"{tmp_path.as_uri()}/")
    columns = {
        name: column.model_dump()
        for name, column in uc.sources["library"].tables["pieces"].columns.items()
        if name != "page"
    }
    columns["chunk"]["type"] = "string"
    columns["colour"] = columns["title"]
    with pytest.raises(DataError) as error:
        open_connector(library(f"{tmp_path.as_uri()}/", {"columns": columns}), "library")
    assert error.value.message == (
        "column 'page' is missing, of type int64; there is no column 'colour'; "
        "column 'chunk' is int64, not string"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap_characters": 1001}, "at most half of chunk_characters"),
        ({"files": "{day}.txt"}, "a document is of no day"),
        ({"encoding": "latin-99"}, "there is no encoding 'latin-99'"),
        ({"encoding": "base64"}, "there is no encoding 'base64'"),
        ({"chunk_characters": 5}, "greater than or equal to 100"),
    ],
)
def test_options_of_documents_that_make_no_sense_are_refused(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as error:
        open_connector(library(f"{tmp_path.as_uri()}/", **wrong), "library")
    assert message in error.value.message


def test_a_name_that_is_no_text_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    (Path(os.fsdecode(os.fsencode(tmp_path / "upstream") + b"/\xff.txt"))).write_text("x")
    os.utime(next((tmp_path / "upstream").iterdir()), (time.time() - 3600,) * 2)
    with (
        environment(tmp_path / "home"),
        pytest.raises(DataError, match="its name is not UTF-8") as error,
    ):
        capture(library(f"{(tmp_path / 'upstream').as_uri()}/"))
    assert "udcff" in error.value.where


def test_what_is_being_written_is_neither_read_nor_retired(tmp_path: Path) -> None:
    (tmp_path / "upstream").mkdir()
    upstream = Upstream(f"{(tmp_path / 'upstream').as_uri()}/")
    uc = library(upstream.prefix)
    with environment(tmp_path / "home"):
        upstream.put("a.txt", "one")
        capture(uc)
        upstream.put("a.txt", "hal", age=0)
        assert capture(uc) == 0
        assert texts(uc) == {"a.txt": ["one"]}
        asked = datetime.now(UTC)
        upstream.put("a.txt", "half and half", age=65)
        capture(uc)
        assert texts(uc, asked - timedelta(days=1)) == {}
        assert texts(uc) == {"a.txt": ["half and half"]}
