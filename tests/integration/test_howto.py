"""The how-to pages are true: their edits fit this checkout, and two of them are followed to the end."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from tests.bts_archives import Shelf, archive_of, month_of_2013, name_of
from tests.checkouts import copy_checkout, run_in
from tests.servers import serving

from nightshift.settings import settings

PAGES = sorted((settings().project / "docs" / "howto").glob("*.md"))
DAY = date(2013, 1, 29)


def edits(page: Path) -> str:
    """Return the edits that a page says to make, as one patch."""
    found = re.findall(r"^```diff\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found, f"{page.name} says no edit"
    return "".join(found)


def commands(page: Path) -> list[str]:
    """Return the commands that a page says to run."""
    found = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return "".join(found).splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of one's own."""
    return copy_checkout(tmp_path / "project")


def follow(checkout: Path, page: str) -> None:
    """Make the edits of a page."""
    text = edits(settings().project / "docs" / "howto" / page)
    done = subprocess.run(
        [shutil.which("git") or "git", "apply", "-"],
        cwd=checkout,
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page}: {done.stderr}"


def run(checkout: Path, *arguments: str) -> str:
    """Run Python in the checkout; return what it printed."""
    done = run_in(checkout, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


CHECK = ("-m", "nightshift.orchestration.check")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_edits_of_each_page_fit_and_break_nothing(checkout: Path, page: Path) -> None:
    assert "make check-dags" in commands(page)
    follow(checkout, page.name)
    run(checkout, *CHECK)


def test_whoever_adds_a_feature_finds_it_in_what_the_models_read(checkout: Path) -> None:
    follow(checkout, "feature.md")
    printed = run(
        checkout,
        "-c",
        f"""
from datetime import date
from nightshift import stages
from nightshift.lake import tables
from nightshift.usecase import load_usecase

uc, day = load_usecase("flight_delays"), date.fromisoformat("{DAY}")
for source in uc.sources:
    stages.land(uc, source, uc.history_start, day)
stages.load(uc, uc.history_start, day)
stages.publish_features(uc, stages.validate_features(uc, stages.build_features(uc, day, day)))
rows = tables.read_partitions(uc, "features", day, day, columns=["planned_speed_mph"])
print(min(speed for speed in rows["planned_speed_mph"].to_pylist() if speed is not None) > 50)
print("planned_speed_mph" in uc.features.numeric)
""",
    )
    assert printed.split()[-2:] == ["True", "True"]


def test_whoever_adds_an_expectation_is_told_when_it_breaks(checkout: Path) -> None:
    follow(checkout, "expectation.md")
    printed = run(
        checkout,
        "-c",
        f"""
from datetime import date, timedelta
from nightshift.ingestion.land import judge
from nightshift.sources.base import Extract
from nightshift.sources.registry import open_connector
from nightshift.usecase import load_usecase

uc, day = load_usecase("flight_delays"), date.fromisoformat("{DAY}")
(source,) = uc.sources
read = open_connector(uc, source).read("weather", day, uc.as_of(day + timedelta(days=1)))
place = read.table.column_names.index("visibility_miles")
far = read.table.set_column(place, "visibility_miles", [[30.0] * read.table.num_rows])
judge(uc, source, "weather", {{day: Extract(far, read.query)}})
from nightshift.settings import settings
print((settings().home / "reports" / uc.name / "raw_weather" / f"{{day}}.json").read_text())
""",
    )
    (outcome,) = (
        one
        for one in json.loads(printed.splitlines()[-1])["outcomes"]
        if one["rule"] == "visibility_as_reported"
    )
    assert (outcome["severity"], outcome["success"]) == ("warn", False)


def test_whoever_uses_other_years_gets_their_features(checkout: Path) -> None:
    follow(checkout, "history.md")
    january = month_of_2013(1)
    moved = january.assign(FlightDate=january.FlightDate.str.replace("2013-", "2018-"), Year="2018")
    catalogue = checkout / "include" / "usecases" / "flight_delays" / "sources.yml"
    options = "    options:\n      # Destinations"
    assert options in catalogue.read_text()
    with serving(Shelf()) as shelf:
        shelf.put(name_of(2018, 1), archive_of(moved))
        text = catalogue.read_text().replace(
            options, f"    options:\n      url: {shelf.url}\n      # Destinations"
        )
        catalogue.write_text(text)
        printed = run(
            checkout,
            "-c",
            """
from datetime import date
from nightshift import stages
from nightshift.lake import tables
from nightshift.usecase import load_usecase

uc, day = load_usecase("flight_delays"), date(2018, 1, 29)
for source in uc.sources:
    stages.land(uc, source, uc.history_start, day)
stages.load(uc, uc.history_start, day)
stages.publish_features(uc, stages.validate_features(uc, stages.build_features(uc, day, day)))
rows = tables.read_partitions(uc, "features", day, day).to_pandas()
print(len(rows), rows.overall_late_rate_1d.notna().all(), rows.last_pressure_millibars.isna().all())
""",
        )
    assert shelf.answered(name_of(2018, 1)) == [200]
    flights = january[january.Origin != "ORD"]
    planned = int((pd.to_datetime(flights.FlightDate) == pd.Timestamp("2013-01-29")).sum())
    assert printed.split()[-3:] == [str(planned), "True", "True"]


def test_whoever_adds_a_step_has_only_what_the_page_names_to_do(checkout: Path) -> None:
    follow(checkout, "dag.md")
    run(checkout, "-m", "nightshift.orchestration.readme", "flight_delays")
    assert "count_decisions" in (checkout / "dags" / "README.md").read_text()
    run(checkout, "-m", "pytest", "tests/dags/test_integrity.py", "-q", "-p", "no:cacheprovider")
