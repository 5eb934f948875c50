"""The assets that chain the DAGs, one partition key (a day) travelling along all of them."""

from __future__ import annotations

from airflow.sdk import (
    Asset,
    CronPartitionTimetable,
    PartitionedAssetTimetable,
    StartOfDayMapper,
    get_current_context,
)

from nightshift.partition import parse_partition
from nightshift.usecase import UseCase

_KEY = "%Y-%m-%d"


def asset(usecase: UseCase, name: str) -> Asset:
    """Return the asset ``<use case>.<name>``.

    Airflow leaves ``x-`` schemes alone. For any other it asks every installed provider for a normaliser,
    which adds 0.15 s of imports to the parse of a DAG file.
    """
    uri = f"x-nightshift://{usecase.name}/{name}"
    return Asset(name=f"{usecase.name}.{name}", uri=uri, group="nightshift")


def nightly(usecase: UseCase) -> CronPartitionTimetable:
    """Return the schedule that starts one run a night, keyed by its day."""
    return CronPartitionTimetable(usecase.cron, timezone=usecase.timezone, key_format=_KEY)


def after(upstream: Asset) -> PartitionedAssetTimetable:
    """Return the schedule that starts one run for each key of ``upstream``.

    The mapper refuses a key that is not a day, where the default one would pass any string on.
    """
    return PartitionedAssetTimetable(
        assets=upstream, default_partition_mapper=StartOfDayMapper(input_format=_KEY, output_format=_KEY)
    )


def announce(*keys: str) -> None:
    """Tell the consumers of the running task's outlets that these partitions are there."""
    context = get_current_context()
    for outlet in context["task"].outlets:
        context["outlet_events"][outlet].add_partitions([parse_partition(key).isoformat() for key in keys])
