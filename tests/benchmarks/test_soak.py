"""What the soak calls a leak."""

from __future__ import annotations

from random import Random

import pytest

from .soak import Measured, judge


@pytest.mark.parametrize(
    ("memory", "files", "seconds", "leaks"),
    [
        (0.0, 0.0, 0.0, set()),
        (6.0, 0.0, 0.0, {"memory, MB"}),
        (0.0, 1.0, 0.0, {"open files"}),
        (0.0, 0.0, 0.1, {"seconds of CPU"}),
    ],
)
def test_what_grows_night_by_night_is_told_from_what_varies(
    memory: float, files: float, seconds: float, leaks: set[str]
) -> None:
    noise = Random(1)
    nights = [
        Measured(
            900 + memory * night + noise.gauss(0, 5),
            60 + int(files * night),
            5 + seconds * night + noise.gauss(0, 0.5),
        )
        for night in range(60)
    ]
    assert {growth.name for growth in judge(nights) if not growth.holds} == leaks
