"""What was made of predictions: what is known about them by day, and the pages that people read."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import date
from pathlib import Path

from nightshift.errors import DataError
from nightshift.inference.score import LAYER as PREDICTIONS
from nightshift.lineage.derived import Content, add_derived
from nightshift.lineage.graph import Drawing, Node
from nightshift.monitoring import reports
from nightshift.monitoring.pages.weekly import nights_of
from nightshift.monitoring.pages.write import nightly_path, weekly_path
from nightshift.partition import parse_partition
from nightshift.settings import settings
from nightshift.usecase import UseCase


def add_uses(drawing: Drawing, uc: UseCase, starts: Collection[Content]) -> None:
    """Add all that was made of days that are there, after predictions: other days, and pages.

    Args:
        drawing: To add it to.
        uc: The use case.
        starts: The days.
    """
    add_derived(drawing, uc, starts)
    predictions = {one.day: one.id for one in starts if one.layer == PREDICTIONS}
    if not predictions:
        return
    for title, pages in (
        ("drift pages", drift_pages(uc)),
        ("pages of nights", nightly_pages(uc)),
        ("checks of predictions", suite_pages(uc, "predictions")),
    ):
        for day, page in pages.items():
            if day in predictions:
                drawing.add(report(title, day, page), made_of=[predictions[day]])
    for file in sorted(weekly_path(uc, "").parent.glob("????-W??.html")):
        made_of = [predictions[day] for day in nights_of(file.stem) if day in predictions]
        if made_of:
            drawing.add(_report("digests of weeks", file.stem, file), made_of=made_of)


def drift_pages(uc: UseCase) -> dict[date, Path]:
    """Return Evidently's pages by day."""
    return _by_day(
        reports.drift_report(uc, date.min).parent.parent.glob("????-??-??/drift.html"), folder=True
    )


def nightly_pages(uc: UseCase) -> dict[date, Path]:
    """Return the pages of nights by day."""
    return _by_day(nightly_path(uc, date.min).parent.glob("*.html"))


def evaluation_pages(uc: UseCase) -> dict[date, Path]:
    """Return the reports of evaluations by the night whose knowledge was trained on."""
    return _by_day((_folder(uc) / "evaluation").glob("*.html"))


def suite_pages(uc: UseCase, suite: str) -> dict[date, Path]:
    """Return the pages of a suite's checks by day."""
    return _by_day((_folder(uc) / suite).glob("????-??-??.html"))


def report(title: str, day: date, page: Path) -> Node:
    """Return a page as a thing of a graph; ``title`` says which kind of page it is, in the plural."""
    return _report(title, day.isoformat(), page, day)


def _report(title: str, name: str, page: Path, day: date | None = None) -> Node:
    return Node(
        id=f"report:{title.replace(' ', '_')}/{name}",
        kind="report",
        name=f"{title}: {name}",
        group=title,
        day=day,
        facts={"file": str(page)},
    )


def _folder(uc: UseCase) -> Path:
    return settings().home / "reports" / uc.name


def _by_day(pages: Iterable[Path], *, folder: bool = False) -> dict[date, Path]:
    found = {}
    for page in sorted(pages):
        try:
            found[parse_partition(page.parent.name if folder else page.stem)] = page
        except DataError:
            continue  # Somebody else's file.
    return found
