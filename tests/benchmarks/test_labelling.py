"""The claim that the page about labelling makes, on a smaller case."""

from __future__ import annotations

from .labelling import curve, rare_events


def test_of_rare_events_the_queue_teaches_more_than_chance_with_fewer_labels() -> None:
    case = rare_events(rows=300)
    random, queue = (curve(case, strategy, seed=1) for strategy in ("random", "queue"))
    assert [labels for labels, _ in random] == [labels for labels, _ in queue]
    half = len(queue) // 2
    assert queue[half][1] > random[-1][1] + 0.005
