"""Freezes the data of one training: features joined with the labels known at a night, split by time.

A snapshot is immutable and named by its content hash. It holds nothing that became known after its
night, so taking it again on any later day gives the same hash, until someone corrects the past itself.
The holdout is its newest days, the validation rows the days before, the training rows all earlier ones
within the use case's window. Holdout rows lie in a sealed object of their own, so nothing that trains,
searches or stops early can reach them: ``nightshift.evaluation.ledger`` opens it, once for each model.

Labels that people gave (``training.feedback``) join the training rows, where the pipeline has none. They
never join validation or holdout: people were asked about the rows that models find hard, and what calibrates
or judges a model has to look like the days that it will score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError, TransientError
from nightshift.lake import frozen, tables
from nightshift.lake.hashing import combine_hashes, content_hash
from nightshift.partition import days
from nightshift.training import feedback
from nightshift.usecase import UseCase

Part = Literal["train", "validation"]
"""What may be learned from."""

LABEL_AVAILABLE_ON = feedback.LABEL_AVAILABLE_ON


class Window(BaseModel):
    """Days of one part, both ends included, and how many labelled rows they hold."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: date
    end: date
    rows: int


class Snapshot(BaseModel):
    """What was frozen.

    Attributes:
        night: The night whose knowledge it holds: labels available on or before it.
        data: Where its train and validation rows lie, and their content hash.
        sealed: The same of its holdout rows.
        feature_version: Combined content hash of the feature partitions it was made from.
        label_version: The same of the label partitions as they were when it was taken.
        feature_table: Version of the features' Delta table that they were read from.
        label_table: The same of the labels.
        columns: Names of the columns that its rows have.
        feedback_version: Content hash of the labels of people that the night knew in its training window;
            None when there were none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    night: date
    data: frozen.Frozen
    sealed: frozen.Frozen
    feature_version: str
    label_version: str
    feature_table: int
    label_table: int
    columns: tuple[str, ...]
    feedback_version: str | None = None
    train: Window
    validation: Window
    holdout: Window

    @property
    def content_hash(self) -> str:
        """Hash of all its rows, which identifies the snapshot."""
        return _identity(self.data.content_hash, self.sealed.content_hash)


def snapshot(
    uc: UseCase, night: date, *, check: Callable[[Mapping[str, pa.Table]], object] | None = None
) -> Snapshot:
    """Freeze what is known at ``night`` and return where it lies.

    Rows without a label (the outcome never came) are left out. All columns of the feature table are kept, so
    that a champion with an earlier feature list can be judged on the same rows.

    Args:
        uc: The use case.
        night: The night whose knowledge is frozen.
        check: Called with the rows of train, validation and holdout before they are frozen; what it raises
            ends the snapshot.

    Raises:
        TransientError: A day in the window has no published features or labels yet.
        DataError: The window is too short for the three parts, or a part has no rows.
    """
    start, end = _window(uc, night)
    # Of one version each, so that the hashes recorded are those of the rows read.
    feature_table, feature_version = _version(uc, "features", start, end)
    label_table, label_version = _version(uc, "labels", start, end)
    features = tables.read_partitions(uc, "features", start, end, at=feature_table)
    labels = tables.read_partitions(uc, "labels", start, end, at=label_table)
    said = feedback.known(uc, night, *_split(uc, start, end)["train"])
    parts = assemble(uc, night, features, labels, start, end, said)
    windows = {
        part: Window(start=first, end=last, rows=parts[part].num_rows)
        for part, (first, last) in _split(uc, start, end).items()
    }
    if check is not None:
        check(parts)
    learned = pa.concat_tables([parts["train"], parts["validation"]])
    return Snapshot(
        usecase=uc.name,
        night=night,
        data=frozen.freeze(uc, "snapshots", learned, [uc.entity]),
        sealed=frozen.freeze(uc, "holdouts", parts["holdout"], [uc.entity], sealed=True),
        feature_version=feature_version,
        label_version=label_version,
        feature_table=feature_table,
        label_table=label_table,
        columns=tuple(learned.column_names),
        feedback_version=feedback.version(uc, said),
        **windows,
    )


def assemble(
    uc: UseCase,
    night: date,
    features: pa.Table,
    labels: pa.Table,
    start: date,
    end: date,
    said: pa.Table | None = None,
) -> dict[str, pa.Table]:
    """Return the rows of train, validation and holdout that a snapshot freezes; this freezes nothing.

    Args:
        uc: The use case.
        night: The night whose knowledge they hold.
        features: Features of the days from ``start`` to ``end``.
        labels: Labels of the same days.
        start: First day of the window.
        end: Last day of the window.
        said: What people had said by the night about days of training, as ``feedback.known`` gives it.

    Raises:
        DataError: The window is too short for the three parts, a part has no rows, or an entity is repeated.
    """
    known = _known(uc, labels, night)
    if said is not None and said.num_rows:
        known = feedback.fill(uc, known, labels, said, night)
    joined = _join(uc, features, known)
    parts = {}
    for part, (first, last) in _split(uc, start, end).items():
        parts[part] = _between(joined, first, last)
        if parts[part].num_rows == 0:
            raise _too_short(uc, night, f"no labelled row from {first} to {last} for {part}")
    return parts


def hash_of(uc: UseCase, parts: Mapping[str, pa.Table]) -> str:
    """Return the content hash of the snapshot that freezes these parts."""
    learned = pa.concat_tables([parts["train"], parts["validation"]])
    return _identity(content_hash(learned, [uc.entity]), content_hash(parts["holdout"], [uc.entity]))


def load(snapshot: Snapshot, part: Part) -> pa.Table:
    """Return the rows of one part, in order of partition and entity.

    Raises:
        DataError: The stored rows were changed or damaged.
    """
    return load_parts(snapshot, part)[0]


def load_parts(snapshot: Snapshot, *parts: Part) -> tuple[pa.Table, ...]:
    """Return the rows of several parts, read and checked once, each as ``load`` returns it."""
    windows: list[Window] = [getattr(snapshot, part) for part in parts]
    return load_days(snapshot, *((window.start, window.end) for window in windows))


def load_days(snapshot: Snapshot, *stretches: tuple[date, date]) -> tuple[pa.Table, ...]:
    """Return train and validation rows of each stretch of days, both ends included, read and checked once.

    Raises:
        DataError: The stored rows were changed or damaged.
    """
    rows = frozen.thaw(snapshot.data)
    return tuple(_between(rows, first, last) for first, last in stretches)


def labels_of(uc: UseCase, table: pa.Table) -> pa.Array:
    """Return the label of each row as float32, 0 or 1."""
    return pc.cast(table[uc.label.column], pa.float32()).combine_chunks()


def _window(uc: UseCase, night: date) -> tuple[date, date]:
    """Return first and last day: at most ``window_days``, gapless, starting with the first published day."""
    end = night - timedelta(days=uc.label.lag_days)
    start = max(uc.history_start, night - timedelta(days=uc.training.window_days))
    features = {day for day in tables.partition_versions(uc, "features") if start <= day <= end}
    labels = {day for day in tables.partition_versions(uc, "labels") if start <= day <= end}
    if not features:
        raise TransientError(f"{uc.name} has no published features from {start} to {end}")
    start = min(features)
    for layer, present in (("features", features), ("labels", labels)):
        missing = [day.isoformat() for day in days(start, end) if day not in present]
        if missing:
            raise TransientError(
                f"{uc.name}: {len(missing)} days from {start} to {end} have no published {layer}: "
                f"{', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}"
            )
    return start, end


def _split(uc: UseCase, start: date, end: date) -> dict[str, tuple[date, date]]:
    holdout = end - timedelta(days=uc.training.holdout_days - 1)
    validation = holdout - timedelta(days=uc.training.validation_days)
    if validation <= start:
        raise _too_short(uc, end, f"{(end - start).days + 1} days from {start} to {end}")
    day = timedelta(days=1)
    return {
        "train": (start, validation - day),
        "validation": (validation, holdout - day),
        "holdout": (holdout, end),
    }


def _known(uc: UseCase, labels: pa.Table, night: date) -> pa.Table:
    known = pc.and_(
        pc.is_valid(labels[uc.label.column]),
        pc.less_equal(pc.cast(labels[LABEL_AVAILABLE_ON], pa.date32()), night),
    )
    return labels.filter(known)


def _join(uc: UseCase, features: pa.Table, labels: pa.Table) -> pa.Table:
    for layer, table in (("features", features), ("labels", labels)):
        repeated = table.num_rows - pc.count_distinct(table[uc.entity]).as_py()
        if repeated:
            raise DataError(
                f"{repeated} rows of {layer} repeat a {uc.entity}",
                rule=f"{uc.entity} identifies one row",
                where=f"{uc.name}, {layer}",
                cure="mend the dbt model and rebuild these partitions",
            )
    # Looked up rather than joined: a hash join returns rows in no fixed order.
    position = pc.index_in(features[uc.entity], value_set=labels[uc.entity].combine_chunks())
    joined = features.append_column(uc.label.column, labels[uc.label.column].take(position))
    joined = joined.filter(pc.is_valid(position))
    return joined.sort_by([("partition", "ascending"), (uc.entity, "ascending")])


def _between(table: pa.Table, first: date, last: date) -> pa.Table:
    day = table["partition"]
    return table.filter(pc.and_(pc.greater_equal(day, first), pc.less_equal(day, last)))


def _identity(data: str, holdout: str) -> str:
    return combine_hashes([("data", data), ("holdout", holdout)])


def _version(uc: UseCase, layer: str, start: date, end: date) -> tuple[int, str]:
    """Return the current version of a table, and the combined hash of its partitions in the window."""
    versions = {
        day: version for day, version in tables.partition_versions(uc, layer).items() if start <= day <= end
    }
    (table,) = {version.table_version for version in versions.values()}
    return table, combine_hashes((day.isoformat(), one.content_hash) for day, one in versions.items())


def _too_short(uc: UseCase, night: date, found: str) -> DataError:
    needed = uc.training.validation_days + uc.training.holdout_days + 1
    return DataError(
        f"a snapshot at {night} is too small: {found}",
        rule=f"training needs labelled rows of at least {needed} days: {uc.training.holdout_days} holdout, "
        f"{uc.training.validation_days} validation, the rest training",
        where=f"{uc.name}, features and labels",
        cure="bootstrap a longer range, or lower training.validation_days and training.holdout_days",
    )
