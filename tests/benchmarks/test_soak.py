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
        (0.0, 0.0, 0.1, {"work, in yardsticks"}),
    ],
)
def test_what_grows_night_by_night_is_told_from_what_varies(
    memory: float, files: float, seconds: float, leaks: set[str]
) -> None:
    noise = Random(1)
    nights = []
    for night in range(90):
        # In the second half other work takes half of the core.
        shared = 1 if night < 45 else 2
        nights.append(
            Measured(
                900 + memory * night + noise.gauss(0, 5),
                60 + int(files * night),
                (5 + seconds * night + noise.gauss(0, 0.5)) * shared,
                0.5 * shared,
            )
        )
    assert {growth.name for growth in judge(nights) if not growth.holds} == leaks
