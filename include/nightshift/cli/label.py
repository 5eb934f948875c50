"""Asking people for labels, and taking their answers in; works with all services down."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from nightshift.cli.output import console
from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.monitoring import label_files, labelling
from nightshift.usecase import UseCase


def export(uc: UseCase, night: date | None, file: Path, limit: int | None) -> None:
    """Write what waits for a label, by default as of the newest night with a queue, and say what to do.

    Raises:
        DataError: Nothing was ever queued, or the file is there already.
    """
    queued = tables.partition_versions(uc, labelling.LAYER)
    if not queued:
        raise DataError(
            "no prediction was ever queued for labelling",
            rule="each night queues predictions (labelling.budget in usecase.yml)",
            where=f"{uc.name}, {labelling.LAYER}",
            cure="run a night, or give labelling.budget a number above 0",
        )
    day = night or max(queued)
    rows = label_files.export(uc, day, file, limit)
    console.print(f"{file}: {rows} predictions wait for a label as of {day}", markup=False)
    if rows:
        console.print(
            "Write 0 or 1 under label, leave empty what you do not know, then: "
            f"nightshift label import {file} --by NAME",
            markup=False,
        )


def take_in(uc: UseCase, file: Path, by: str, known_from: date | None, *, correct: bool) -> None:
    """Import a file of labels and print what became of its rows.

    Raises:
        DataError: The file breaks a rule; nothing was imported.
    """
    done = label_files.import_labels(
        uc, file, by=by, at=datetime.now(UTC), known_from=known_from, correct=correct
    )
    console.print(
        f"{done.recorded} labels recorded, {done.unchanged} were known already, {done.empty} rows have none",
        markup=False,
    )
    if done.recorded:
        waits = uc.training.validation_days + uc.training.holdout_days
        console.print(
            f"Known from the night of {done.known_from} on. Models learn from them once their days are "
            f"training days: the newest {waits} validate and judge.",
            markup=False,
        )
