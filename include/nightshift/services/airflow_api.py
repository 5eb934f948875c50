"""A small client of Airflow's REST API: trigger, watch, backfill.

It reads what Airflow itself recorded; nothing here touches Airflow's database. Answers are plain frozen
values. A request that finds the server busy is tried again; one that the server refuses raises ``ApiError``
with the server's own words.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from nightshift.errors import NightshiftError
from nightshift.services import airflow

# States a run or a task does not leave by itself.
FINISHED_RUN = frozenset({"success", "failed"})
FAILED_TASK = frozenset({"failed", "upstream_failed"})

_PAGE = 100
_TRIES = 5


class ApiError(NightshiftError):
    """Airflow refused a request, or did not answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class DagRun:
    """One run of a DAG. Times are those of the server."""

    dag_id: str
    run_id: str
    state: str
    run_type: str
    partition_key: str | None
    conf: dict[str, Any]
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    note: str

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end, good or bad."""
        return self.state in FINISHED_RUN


@dataclass(frozen=True)
class TaskInstance:
    """One task of a run. ``map_index`` is -1 when it is not mapped, ``state`` is "none" before it is due."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str
    try_number: int
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def label(self) -> str:
        """Task id, with the map index where there is one."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


class AirflowApi:
    """A session with the local API server, logged in as the generated admin.

    Args:
        address: Base URL of the server; the supervised one by default.
    """

    def __init__(self, address: str | None = None) -> None:
        # Proxies of the environment are for the outside world.
        self._client = httpx.Client(base_url=address or airflow.address(), timeout=30, trust_env=False)
        self._token = ""  # nosec B105  # none yet

    def __enter__(self) -> Self:
        """Return the session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._client.close()

    def dags(self) -> dict[str, bool]:
        """Return every DAG that has been parsed: whether it is paused."""
        return {row["dag_id"]: row["is_paused"] for row in self._pages("/dags", "dags")}

    def import_errors(self) -> dict[str, str]:
        """Return the error of each DAG file that cannot be imported."""
        return {row["filename"]: row["stack_trace"] for row in self._pages("/importErrors", "import_errors")}

    def owners(self, dag_id: str) -> list[str]:
        """Return who answers for a DAG, as Airflow has read it."""
        return list(self._call("GET", f"/dags/{dag_id}")["owners"])

    def reparse(self) -> None:
        """Have every DAG file read again now, rather than when its turn comes."""
        for token in {row["file_token"] for row in self._pages("/dags", "dags")}:
            try:
                self._call("PUT", f"/parseDagFile/{token}")
            except ApiError as error:
                if error.status != httpx.codes.CONFLICT:  # it is asked for already
                    raise

    def set_paused(self, dag_id: str, paused: bool) -> None:
        """Pause or unpause a DAG. A paused consumer loses the asset events sent meanwhile."""
        self._call("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def trigger(
        self, dag_id: str, conf: Mapping[str, Any] | None = None, partition_key: str | None = None
    ) -> DagRun:
        """Start a run by hand, with params in ``conf``."""
        body = {"logical_date": None, "conf": dict(conf or {}), "partition_key": partition_key}
        return _run(self._call("POST", f"/dags/{dag_id}/dagRuns", json=body))

    def run(self, dag_id: str, run_id: str) -> DagRun:
        """Return one run as it is now."""
        return _run(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def runs(
        self,
        dag_id: str = "~",
        *,
        partition_key: str | None = None,
        states: Iterable[str] = (),
    ) -> list[DagRun]:
        """Return runs, the newest first: of one DAG or all (``~``), of one key or any, in given states."""
        query: dict[str, Any] = {"order_by": "-id", "state": list(states)}
        if partition_key:
            query["partition_key_prefix_pattern"] = partition_key
        rows = map(_run, self._pages(f"/dags/{dag_id}/dagRuns", "dag_runs", query))
        return [row for row in rows if partition_key in (None, row.partition_key)]

    def tasks(self, run: DagRun) -> list[TaskInstance]:
        """Return the task instances of a run."""
        path = f"/dags/{run.dag_id}/dagRuns/{run.run_id}/taskInstances"
        return [_task(row) for row in self._pages(path, "task_instances")]

    def task_states(self, runs: Iterable[DagRun]) -> Counter[str]:
        """Return how many task instances of ``runs`` are in each state."""
        return Counter(task.state for run in runs for task in self.tasks(run))

    def log(self, task: TaskInstance, lines: int = 30) -> str:
        """Return the last lines of a task's log, of its latest try; empty when there is none."""
        path = (
            f"/dags/{task.dag_id}/dagRuns/{task.run_id}/taskInstances/{task.task_id}/logs/{task.try_number}"
        )
        try:
            answer = self._call("GET", path, params={"map_index": task.map_index, "full_content": True})
        except ApiError as error:
            return f"(Airflow has no log of {task.label}: {error})"
        return "\n".join(_log_lines(answer.get("content") or [])[-lines:])

    def backfill_keys(self, dag_id: str, start: datetime, end: datetime) -> list[str]:
        """Return the partition keys that a backfill of ``start`` to ``end`` would run, without running it."""
        body = _backfill(dag_id, start, end, 1, "completed")
        rows = self._call("POST", "/backfills/dry_run", json=body)["backfills"]
        return [str(row["partition_key"]) for row in rows]

    def open_backfills(self, dag_id: str) -> list[int]:
        """Return the ids of a DAG's backfills that Airflow has not closed.

        It looks every 30 seconds whether all runs of one have finished.
        """
        rows = self._call("GET", "/backfills", params={"dag_id": dag_id, "order_by": "-id", "limit": _PAGE})
        return [int(row["id"]) for row in rows["backfills"] if row["completed_at"] is None]

    def backfill(
        self,
        dag_id: str,
        start: datetime,
        end: datetime,
        *,
        max_active_runs: int = 1,
        reprocess: Literal["none", "failed", "completed"] = "completed",
        backwards: bool = False,
        patience: float = 120,
    ) -> int:
        """Create a backfill of the runs due from ``start`` to ``end`` (both included) and return its id.

        Airflow takes one backfill of a DAG at a time, so this waits ``patience`` seconds for an earlier one
        to be closed. It ignores the DAG's own ``max_active_runs`` here, so it is one unless said otherwise.

        Raises:
            ApiError: An earlier backfill has not been closed in time.
        """
        deadline = time.monotonic() + patience
        while running := self.open_backfills(dag_id):
            if time.monotonic() > deadline:
                raise ApiError(
                    f"backfill {running[0]} of {dag_id} is not finished: wait for it, or cancel it in Airflow"
                )
            time.sleep(0.5)
        body = _backfill(dag_id, start, end, max_active_runs, reprocess) | {"run_backwards": backwards}
        return int(self._call("POST", "/backfills", json=body)["id"])

    def wait_for_dags(self, dag_ids: Iterable[str], seconds: float = 120) -> None:
        """Return when all of ``dag_ids`` have been parsed.

        Raises:
            ApiError: Some have not been in time; the message holds the import errors.
        """
        wanted = set(dag_ids)
        deadline = time.monotonic() + seconds
        while missing := wanted - set(self.dags()):
            if time.monotonic() > deadline:
                errors = "\n".join(f"{file}:\n{trace}" for file, trace in self.import_errors().items())
                raise ApiError(
                    f"Airflow does not know {', '.join(sorted(missing))}\n{errors or 'no import errors'}"
                )
            time.sleep(0.5)

    def wait_for_run(self, run: DagRun, seconds: float = 900) -> DagRun:
        """Return ``run`` once it has finished, whatever its state.

        Raises:
            ApiError: It had not finished in time.
        """
        deadline = time.monotonic() + seconds
        while not (run := self.run(run.dag_id, run.run_id)).finished:
            if time.monotonic() > deadline:
                raise ApiError(f"{run.dag_id} {run.run_id} is still {run.state} after {seconds:.0f} s")
            time.sleep(0.5)
        return run

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool or give it this many slots; nothing to do when it has them."""
        try:
            pool = self._call("GET", f"/pools/{name}")
        except ApiError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            body = {"name": name, "slots": slots, "description": description, "include_deferred": False}
            self._call("POST", "/pools", json=body)
            return
        if pool["slots"] != slots:
            self._call(
                "PATCH",
                f"/pools/{name}",
                params={"update_mask": "slots"},
                json={"slots": slots, "pool": name},
            )

    def _pages(self, path: str, field: str, query: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        while True:
            page = self._call("GET", path, params={**(query or {}), "limit": _PAGE, "offset": len(rows)})
            rows += page[field]
            if not page[field] or len(rows) >= page["total_entries"]:
                return rows

    def _call(self, method: str, path: str, **arguments: Any) -> Any:
        """Send one request; again with a new token when that expired, again later when it is not served."""
        for attempt in range(1, _TRIES + 1):
            try:
                headers = {
                    "Authorization": f"Bearer {self._token or self._login()}",
                    "Accept": "application/json",
                }
                response = self._client.request(method, f"/api/v2{path}", headers=headers, **arguments)
            except httpx.HTTPError as error:
                # A request that changes something may have been carried out before the answer was lost.
                if attempt == _TRIES or (method == "POST" and not isinstance(error, httpx.ConnectError)):
                    raise ApiError(
                        f"Airflow at {self._client.base_url} does not answer: {error!r}"
                    ) from error
            else:
                if response.is_success:
                    return response.json() if response.content else {}
                if response.status_code == httpx.codes.UNAUTHORIZED and attempt == 1:
                    self._token = ""  # nosec B105  # none any more
                    continue
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE or attempt == _TRIES:
                    raise ApiError(
                        f"{method} {path}: {response.status_code} {_detail(response)}", response.status_code
                    )
            time.sleep(0.3 * attempt)
        raise AssertionError("unreachable")

    def _login(self) -> str:
        login = {"username": airflow.ADMIN, "password": airflow.admin_password()}
        response = self._client.post("/auth/token", json=login)
        if not response.is_success:
            raise ApiError(f"login as {airflow.ADMIN}: {response.status_code} {_detail(response)}")
        self._token = str(response.json()["access_token"])
        return self._token


def _backfill(
    dag_id: str, start: datetime, end: datetime, max_active_runs: int, reprocess: str
) -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "from_date": start.isoformat(),
        "to_date": end.isoformat(),
        "max_active_runs": max_active_runs,
        "reprocess_behavior": reprocess,
    }


def _run(row: Mapping[str, Any]) -> DagRun:
    return DagRun(
        dag_id=row["dag_id"],
        run_id=row["dag_run_id"],
        state=row["state"],
        run_type=row["run_type"],
        partition_key=row["partition_key"],
        conf=row["conf"] or {},
        queued_at=_moment(row["queued_at"]),
        started_at=_moment(row["start_date"]),
        ended_at=_moment(row["end_date"]),
        note=row["note"] or "",
    )


def _task(row: Mapping[str, Any]) -> TaskInstance:
    return TaskInstance(
        dag_id=row["dag_id"],
        run_id=row["dag_run_id"],
        task_id=row["task_id"],
        map_index=row["map_index"],
        state=row["state"] or "none",
        try_number=row["try_number"],
        started_at=_moment(row["start_date"]),
        ended_at=_moment(row["end_date"]),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json().get("detail", response.text))[:2000]
    except ValueError:
        return response.text[:500]


def _log_lines(content: Iterable[Any]) -> list[str]:
    """Return the log as a person reads it: messages, and the tracebacks of errors."""
    lines: list[str] = []
    for entry in content:
        if not isinstance(entry, dict):
            lines.append(str(entry))
            continue
        event = str(entry.get("event", ""))
        if event.startswith("::"):  # markers of foldable sections in the UI
            continue
        lines += event.splitlines()
        for problem in entry.get("error_detail") or []:
            lines += f"{problem.get('exc_type')}: {problem.get('exc_value')}".splitlines()
    return lines
