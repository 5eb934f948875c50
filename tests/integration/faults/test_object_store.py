"""Nights on an object store that fails in every way a network can make it fail."""

from __future__ import annotations

from typing import Any

import pytest
from disturbed import NIGHTS, assert_whole, retried, run_nights
from tests.faults import READS, WRITES, FaultyProxy, RecordFault, Rule
from tests.stacks import contents

from nightshift import stages
from nightshift.usecase import UseCase

FAULTS = {
    "answers 500": Rule("status", every=9, status=500),
    # More than a client tries.
    "answers 503, a dozen in a row": Rule("status", every=150, burst=12),
    "does not answer": Rule("hang", every=100),
    "sends slowly": Rule("slow", every=5, methods=frozenset({"GET"})),
    "uploads torn in half": Rule("torn upload", every=5, methods=frozenset({"PUT"})),
    "downloads cut in half": Rule("cut download", every=40, methods=frozenset({"GET"})),
    "answers lost after the write": Rule("lost answer", every=3, methods=WRITES),
    "answers lost after the read": Rule("lost answer", every=9, methods=READS),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_nights_end_as_undisturbed_ones(
    fault: str,
    proxy: FaultyProxy,
    behind_proxy: UseCase,
    undisturbed: dict[str, Any],
    record_fault: RecordFault,
) -> None:
    rule = FAULTS[fault]
    with proxy.broken(rule), retried() as raised:
        run_nights(behind_proxy, NIGHTS)
    assert len(proxy.met) >= 5, f"only {len(proxy.met)} of {proxy.passed} requests met the fault"
    if rule.burst > 1:
        assert raised, "no client was outlasted"
    found = contents(behind_proxy)
    assert found == undisturbed
    assert stages.serve_again(behind_proxy) == {}
    assert assert_whole() > 100
    record_fault(
        f"object store {fault}",
        f"{len(proxy.met)} of {proxy.passed} requests of {len(NIGHTS)} nights",
        f"the clients tried again; {len(raised)} stages did, too" if raised else "the clients tried again",
    )
