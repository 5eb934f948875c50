"""Landing nights of the real data without validating them, and building their features."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

from nightshift.features.build import build
from nightshift.lake import raw
from nightshift.partition import days
from nightshift.sources.registry import open_connector
from nightshift.usecase import UseCase

FIRST, LAST = date(2013, 1, 1), date(2013, 2, 11)

# Passed along with every connection; the server trusts its socket, so any will do.
PASSWORD = "not-for-logs"  # nosec B105  # pragma: allowlist secret


def land(uc: UseCase, start: date, end: date) -> None:
    """Land what the nights ``start`` to ``end`` see, each partition as the last of them sees it."""
    for source in uc.sources:
        connector = open_connector(uc, source)
        for name, table in uc.sources[source].tables.items():
            seen: dict[date, datetime] = {}
            for night in days(start, start if table.refresh == "slow" else end):
                seen |= dict.fromkeys(table.partitions_of_night(night, uc.history_start), uc.as_of(night))
            for partition, as_of in seen.items():
                extract = connector.read(name, partition, as_of)
                raw.land(
                    uc,
                    source,
                    name,
                    partition,
                    extract.table,
                    rows_in=extract.table.num_rows,
                    rows_quarantined=0,
                    as_of=as_of,
                    query=extract.query,
                )


def feature_hashes(uc: UseCase, start: date, end: date) -> dict[date, str]:
    """Build the nights in one go and return the content hash of each day's features."""
    return {item.partition: item.content_hash for item in build(uc, start, end)["features"]}


@dataclass(frozen=True)
class History:
    """A state folder whose warehouse was built for all nights at once."""

    home: Path
    staged: list[dict[str, Any]]

    @property
    def features(self) -> dict[date, str]:
        """Content hash of each day's features."""
        return self._hashes("features")

    @property
    def labels(self) -> dict[date, str]:
        """Content hash of each day's labels."""
        return self._hashes("labels")

    def _hashes(self, layer: str) -> dict[date, str]:
        return {
            date.fromisoformat(item["partition"]): item["content_hash"]
            for item in self.staged
            if item["layer"] == layer
        }
