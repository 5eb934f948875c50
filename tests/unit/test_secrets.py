from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nightshift.secrets import secret


def test_a_secret_is_made_once_even_by_many_at_once(home: Path) -> None:
    with ThreadPoolExecutor(8) as asking:
        found = set(asking.map(lambda _: secret("key"), range(32)))
    assert len(found) == 1
    assert secret("other") not in found
    files = sorted((home / "secrets").iterdir())
    assert [file.name for file in files] == ["key", "other"]
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
