"""Writing the pages of a night: its own, the digests of the weeks that it adds to, and the index."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from html import escape
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import NightshiftError
from nightshift.lake import tables
from nightshift.monitoring import reports
from nightshift.monitoring.pages.drawing import moved_categories, moved_numbers
from nightshift.monitoring.pages.nightly import HISTORY, STYLE, nightly_page
from nightshift.monitoring.pages.records import DRIFT, Records, Row, read, requests_of
from nightshift.monitoring.pages.weekly import nights_of, week_of, weekly_page
from nightshift.monitoring.sketches import numbers
from nightshift.page import document, html_table, write_files
from nightshift.partition import days, parse_partition
from nightshift.registry import card, models
from nightshift.registry.records import Deployment
from nightshift.settings import settings
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

# Tasks that end after a night's page was written are priced with one of the next two nights.
_SETTLED = timedelta(days=2)
_PICTURES = 6
_MISSING = "(missing)"


def write_pages(uc: UseCase, day: date, end: date | None = None) -> list[Path]:
    """Write the page of the night of ``day``, the digests it belongs to, and the index; return their paths.

    Other pages are drawn again where they exist, so that nights in any order end with the same pages: of
    later nights, which show ``day`` in their lines; of the two nights before, whose last tasks are priced by
    now; and those that told of a request as open which was closed since.

    Args:
        uc: The use case.
        day: The night.
        end: The last of several nights, which begin with ``day``.
    """
    own = list(days(day, end or day))
    requests = requests_of(uc)
    near = {
        night
        for night in _nights(uc)
        if own[0] - _SETTLED <= night <= own[-1] + timedelta(days=HISTORY) and night not in own
    }
    closed = {night for night in _nights(uc) if _tells_of_closed(uc, night, requests)}
    earlier = {night for night in near if night < own[0]}
    lag = timedelta(days=uc.label.lag_days)
    # The truth about the days before arrives with this night.
    weeks = sorted({week_of(own[0] - lag), *(week_of(night) for night in (*own, *earlier, *closed))})
    nights = [night for week in weeks for night in nights_of(week)]
    drawn = sorted({*own, *near, *closed})
    first = min(nights[0], drawn[0] - timedelta(days=HISTORY)) - lag
    records = read(uc, first, max(nights[-1], drawn[-1]))
    for night in drawn:
        _write(nightly_path(uc, night), _nightly(records, night))
    for night in closed:
        # Drawn since the request was closed, whether or not that changed it.
        nightly_path(uc, night).touch()
    written = [nightly_path(uc, night) for night in own]
    present = set(_nights(uc))
    for week in weeks:
        pages = {night: f"../nightly/{night}.html" for night in nights_of(week) if night in present}
        _write(weekly_path(uc, week), weekly_page(records, week, pages))
        written.append(weekly_path(uc, week))
    _write(index_path(uc), _index(uc))
    return [*written, index_path(uc)]


def _tells_of_closed(uc: UseCase, night: date, requests: Sequence[Row]) -> bool:
    """Tell whether a page was drawn while a request was open, of its night or before, that is closed now."""
    drawn = datetime.fromtimestamp(nightly_path(uc, night).stat().st_mtime, UTC)
    return any(
        entry["night"] <= night.isoformat() and drawn < datetime.fromisoformat(entry["outcome"]["closed_at"])
        for entry in requests
        if entry["outcome"]
    )


def sweep(uc: UseCase, oldest: date) -> int:
    """Remove what was written about days before ``oldest``; return how many pages.

    The page of a night, Evidently's page of it, and the digest of a week that was over by then. Evaluations
    and model cards stay: they are of models.
    """
    nights = [night for night in _nights(uc) if night < oldest]
    weekly = (_folder(uc) / "weekly").glob("????-W??.html")
    weeks = [week for file in weekly if nights_of(week := file.stem)[-1] < oldest]
    folder = reports.drift_report(uc, oldest).parent.parent
    drawn = [day for day in folder.glob("????-??-??") if parse_partition(day.name) < oldest]
    for file in (*(nightly_path(uc, night) for night in nights), *(weekly_path(uc, week) for week in weeks)):
        file.unlink(missing_ok=True)
    for day in drawn:
        shutil.rmtree(day)
    if nights or weeks:
        _write(index_path(uc), _index(uc))
    return len(nights) + len(weeks) + len(drawn)


def nightly_path(uc: UseCase, day: date) -> Path:
    """Return where the page of a night is kept."""
    return _folder(uc) / "nightly" / f"{day}.html"


def weekly_path(uc: UseCase, week: str) -> Path:
    """Return where the digest of a week (``2013-W27``) is kept."""
    return _folder(uc) / "weekly" / f"{week}.html"


def index_path(uc: UseCase) -> Path:
    """Return where the list of all nights and weeks is kept."""
    return _folder(uc) / "index.html"


def _folder(uc: UseCase) -> Path:
    return settings().home / "reports" / uc.name


def _write(file: Path, text: str) -> None:
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_files({file: text})


def _nights(uc: UseCase) -> list[date]:
    """Return the nights that have a page, oldest first."""
    return sorted(parse_partition(file.stem) for file in (_folder(uc) / "nightly").glob("*.html"))


def _nightly(records: Records, day: date) -> str:
    champion = records.champion(day)
    links = _links(records, day, champion)
    columns = list(records.row(DRIFT, day).get("columns") or [])
    pictures, note = {}, ""
    if columns and champion is not None:
        try:
            pictures = _pictures(records.uc, day, champion, columns)
        except (NightshiftError, OSError) as error:
            # The page is there to tell of trouble, so it must not need everything to be well.
            log.warning("no pictures on the page of %s: %s", day, error)
            note = f"The columns could not be drawn: {error}"
    return nightly_page(records, day, links, pictures, note)


def _pictures(uc: UseCase, day: date, champion: Deployment, columns: Sequence[str]) -> dict[str, str]:
    """Draw how the first of ``columns`` moved from the champion's reference sample to the day."""
    reference = models.load_model(uc, champion.version, champion.model_hash).reference
    here = [name for name in uc.features.columns if name in columns]
    now = tables.read_partitions(uc, "features", day, day, columns=here) if here else pa.table({})
    scores = tables.read_partitions(uc, "predictions", day, day, columns=["score"])
    drawn: dict[str, str] = {}
    for name in columns:
        current = scores if name == "score" else now
        if name not in reference.column_names or name not in current.column_names or len(drawn) == _PICTURES:
            continue
        if name in uc.features.categorical:
            drawn[name] = moved_categories(_texts(reference, name), _texts(current, name), name)
        else:
            drawn[name] = moved_numbers(numbers(reference, name), numbers(current, name), name)
    return {name: svg for name, svg in drawn.items() if svg}


def _texts(table: pa.Table, name: str) -> list[str]:
    texts: list[str] = pc.fill_null(pc.cast(table.column(name), pa.string()), _MISSING).to_pylist()
    return texts


def _links(records: Records, day: date, champion: Deployment | None) -> dict[str, str]:
    """Return what else there is to read, by title, as addresses relative to the page."""
    uc, page = records.uc, nightly_path(records.uc, day)
    week = week_of(day)
    found = {"All nights": index_path(uc), f"Week {week}": weekly_path(uc, week)}
    before = nightly_path(uc, day - timedelta(days=1))
    files = {"Evidently's drift report of the day": reports.drift_report(uc, day)}
    if before.exists():
        files = {"The night before": before, **files}
    if champion is not None:
        evaluated = _folder(uc) / "evaluation" / f"{champion.trained_night}.html"
        files[f"Evaluation of version {champion.version}"] = evaluated
        files[f"Model card of version {champion.version}"] = _card(uc, champion)
    runbooks = settings().project / "docs" / "runbooks"
    files |= {f"Runbook: {kind}": runbooks / f"{kind}.md" for kind in _kinds(records, day)}
    files["Runbooks"] = runbooks / "README.md"
    found |= {title: file for title, file in files.items() if file.exists()}
    return {title: _relative(file, page) for title, file in found.items()}


def _kinds(records: Records, day: date) -> list[str]:
    return sorted({str(alert.get("kind", "")) for alert in records.alerts_of(day)})


def _relative(file: Path, page: Path) -> str:
    return Path(os.path.relpath(file, page.parent)).as_posix()


def _card(uc: UseCase, champion: Deployment) -> Path:
    """Keep a copy of the champion's model card beside the pages, once for each of its evaluations."""
    name = f"{champion.version}-{champion.evaluation_hash[:8] or 'first'}.html"
    file = _folder(uc) / "cards" / name
    if not file.exists():
        try:
            write_files({file: card.read_card(uc, champion.version, card.HTML)})
        except (NightshiftError, OSError) as error:
            log.warning("no model card of version %s: %s", champion.version, error)
    return file


def _index(uc: UseCase) -> str:
    """List every night, newest first, by week."""
    nights = _nights(uc)
    weeks: dict[str, list[date]] = {}
    for night in reversed(nights):
        weeks.setdefault(week_of(night), []).append(night)
    body = []
    for week, of_week in weeks.items():
        name = f"<a href='weekly/{week}.html'>{week}</a>" if weekly_path(uc, week).exists() else week
        listed = " ".join(f"<a href='nightly/{night}.html'>{night:%a} {night}</a>" for night in of_week)
        body.append([name, f"<td class='text'>{listed}</td>"])
    return document(
        f"{uc.title}: reports",
        [
            f"<h1>{escape(uc.title)}: reports</h1>",
            f"<p class='soft'>{len(nights)} nights.</p>",
            html_table(["week", "nights"], body),
        ],
        style=STYLE,
    )
