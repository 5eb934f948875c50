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
    """The two machines. The first has the head and what connects to the cluster; the second can be lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True, head_node_args=self._machine() | {"include_dashboard": False}
        )
        self.second = self._cluster.add_node(**self._machine())

    @staticmethod
    def _machine() -> dict[str, Any]:
        return {"num_cpus": 1, "object_store_memory": 100 * MB, "node_ip_address": "127.0.0.1"}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def await_a_worker_on_the_second(self) -> None:
        """Return once a worker of Ray Data is alive there."""
        import ray

        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            for actor in ray._private.state.actors().values():
                there = actor["Address"]["NodeID"] == self.second.node_id
                if there and actor["State"] == "ALIVE" and actor["ActorClassName"].startswith("MapWorker"):
                    return
            time.sleep(0.01)
        raise AssertionError("no worker has come to the second machine")

    def lose_the_second(self) -> None:
        """Kill every process of the second machine at once."""
        self._cluster.remove_node(self.second, allow_graceful=False)

    def add_another(self) -> None:
        """Let another machine take its place."""
        self.second = self._cluster.add_node(**self._machine())

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
