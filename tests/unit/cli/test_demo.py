from __future__ import annotations

from datetime import date

from nightshift.cli.demo import _spans

D = [date(2013, 7, day) for day in range(1, 10)]


def test_missing_days_are_rebuilt_in_unbroken_stretches() -> None:
    assert list(_spans([])) == []
    assert list(_spans([D[3]])) == [(D[3], D[3])]
    assert list(_spans([D[0], D[1], D[2], D[5], D[7], D[8]])) == [(D[0], D[2]), (D[5], D[5]), (D[7], D[8])]
