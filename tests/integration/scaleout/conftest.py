"""A Ray cluster of two machines: two sets of processes on loopback, with one core each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from nightshift.settings import settings
from nightshift.usecase import Engine, UseCase

MB = 2**20


class Machines:
    """The machines. The first has the head and what connects to the cluster; others can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args=self._machine() | {"include_dashboard": False}
        )
        self.add_another()

    @staticmethod
    def _machine() -> dict[str, Any]:
        return {"num_cpus": 1, "object_store_memory": 100 * MB, "node_ip_address": "127.0.0.1"}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add_another(self) -> None:
        """Add one more machine like the second."""
        self._cluster.add_node(**self._machine())

    def lose_one_at_work(self) -> None:
        """Kill every process of a machine at once, as soon as one beside the first has its core at work."""
        from ray._private.state import available_resources_per_node

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            free = available_resources_per_node()
            for node in self._cluster.worker_nodes:
                if node.node_id in free and not free[node.node_id].get("CPU"):
                    self._cluster.remove_node(node, allow_graceful=False)
                    return
            time.sleep(0.01)
        raise AssertionError("no work has come to the second machine")

    def shutdown(self) -> None:
        self._cluster.shutdown()


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    """Two machines that the settings name the cluster of."""
    # Read when Ray is imported: everything stays on loopback, and nothing is reported.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    started = Machines()
    try:
        monkeypatch.setenv("NIGHTSHIFT_RAY_ADDRESS", started.address)
        settings.cache_clear()
        yield started
    finally:
        started.shutdown()
        settings.cache_clear()


@pytest.fixture
def on_ray(usecase: UseCase) -> UseCase:
    """The small use case with its champion, on two workers of Ray."""
    return usecase.model_copy(update={"engine": Engine(name="ray", workers=2)})
