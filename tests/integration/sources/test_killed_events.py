"""Captures are killed again and again while a log grows: every event is there once, in its file's order."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

from event_logs import DAY, NEXT, capture, line, read, site
from tests.forked import preload, start
from upstreams import Upstream, upstream_on

from nightshift.lake import journal
from nightshift.lake.store import FileStore
from nightshift.sources.prefix import Folder

preload("boto3", "nightshift.sources.events", "nightshift.lake.journal")

KILLS = 40
FILES = ("clicks/p0.jsonl", "clicks/p1.jsonl", "clicks/p2.jsonl")


def capture_until(prefix: str, fatal: int, after: bool) -> None:
    """Capture again and again, and be killed before or after the step ``fatal``: a read or a write."""
    steps = count(1)  # files are read by several threads at once

    def deadly(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*arguments: Any, **options: Any) -> Any:
            number = next(steps)
            if number == fatal and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            done = step(*arguments, **options)
            if number == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return done

        return taken

    for kind, name in ((Folder, "part"), (FileStore, "put"), (FileStore, "put_new"), (FileStore, "delete")):
        setattr(kind, name, deadly(getattr(kind, name)))
    while True:
        capture(site(prefix, batch_rows=100))


def write(log: Upstream, ended: Event) -> dict[str, list[tuple[str, bool]]]:
    """Append events to the files, in pieces that end anywhere, until it is enough; return them by file."""
    chance = random.Random(1)
    written: dict[str, list[tuple[str, bool]]] = {name: [] for name in FILES}
    while not ended.is_set():
        name = chance.choice(FILES)
        lines = b""
        for _ in range(chance.randint(1, 8)):
            of_next = chance.random() < 0.5
            event = f"{name} {len(written[name]):05d}"
            at = f"2024-03-0{2 if of_next else 1}T10:00:00Z"
            lines += line(event, at, page="é" * chance.randint(0, 60))
            written[name].append((event, of_next))
        middle = chance.randint(0, len(lines))
        log.append(name, lines[:middle])
        ended.wait(chance.random() / 40)
        log.append(name, lines[middle:])
        ended.wait(chance.random() / 40)
    return written


def test_captures_killed_forty_times_have_each_event_once(tmp_path: Path) -> None:
    with upstream_on("file", tmp_path, "") as log:
        chance, ended = random.Random(2), Event()
        with ThreadPoolExecutor(1) as thread:
            writer = thread.submit(write, log, ended)
            try:
                for _ in range(KILLS):
                    extractors = [
                        start(capture_until, log.prefix, chance.randint(1, 60), chance.random() < 0.5)
                        for _ in range(chance.randint(1, 2))
                    ]
                    for extractor in extractors:
                        extractor.join()
                        assert extractor.exitcode == -signal.SIGKILL
            finally:
                ended.set()
            written = writer.result()
        uc = site(log.prefix, batch_rows=100)
        capture(uc)
        for day in (DAY, NEXT):
            changes, _ = journal.changes_of(uc, "site", "clicks", day)
            captured = changes["event"].to_pylist()
            for name in FILES:
                wanted = [event for event, of_next in written[name] if of_next == (day == NEXT)]
                assert [event for event in captured if event.startswith(name)] == wanted
            assert read(uc, day) == sorted(captured)
        batches = journal.batches(uc, "site", "clicks")
        assert sum(batch.rows for batch in batches) == sum(map(len, written.values()))
        assert len(batches) > KILLS, "they were killed before they had done anything"
