"""Nights during which the machine's clock jumps hours forward and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from disturbed import NIGHTS, assert_whole, quiet, state
from tests.faults import RecordFault
from tests.stacks import contents

from nightshift import stages
from nightshift.settings import settings


def test_nights_with_a_jumping_clock_end_as_undisturbed_ones(
    bootstrapped: Path,
    undisturbed: dict[str, Any],
    postgres: str,
    tmp_path: Path,
    record_fault: RecordFault,
) -> None:
    script = settings().project / "docker" / "install_package.sh"
    subprocess.run([script, "faketime", "with which tests set the clock of one process"], check=True)
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    home, clock = tmp_path / "state", tmp_path / "clock"
    shutil.copytree(bootstrapped, home)
    clock.write_text("+0")
    faked = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        # A step of the clock leaves the times of files. What counts seconds jumps too, harsher than at a real
        # step: with FAKETIME_DONT_FAKE_MONOTONIC the library (0.9.10) lets every sleep fail.
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with state(home, postgres):
        done = subprocess.run(
            [sys.executable, "-m", "confined", str(clock), *(night.isoformat() for night in NIGHTS)],
            env={**os.environ, **faked},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = contents(quiet())
        times = [datetime.fromisoformat(time) for time in json.loads(done.stdout.splitlines()[-1])]
        assert max(times) - min(times) > timedelta(days=2), "the clock has jumped"
        back = sum(later < earlier for earlier, later in pairwise(times))
        assert back >= 8
        assert found == undisturbed
        assert stages.serve_again(quiet()) == {}
        assert_whole()
    record_fault(
        "clock steps back and forth",
        f"before each stage of {len(NIGHTS)} nights, by up to 74 hours, {back} times back; retention swept "
        "two days ahead and one behind",
        "nothing: no stage goes by the clock",
    )
