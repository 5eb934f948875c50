"""What goes wrong in a real Airflow is told to the web server that the use case names."""

from __future__ import annotations

from typing import Any

import httpx

from nightshift.services import airflow
from tests.servers import Hook
from tests.stacks import Stack, token

NEVER_LANDED = "2013-08-15"


def told(stack: Stack, hook: Hook, kind: str, subject: str) -> dict[str, Any]:
    """Return what the server got, once it got it."""

    def found() -> list[dict[str, Any]]:
        return [body for _, _, body in hook.received if (body["kind"], body["subject"]) == (kind, subject)]

    stack.wait(found, f"the alert {kind} of {subject} at the webhook", seconds=180)
    assert len(found()) == 1
    return found()[0]


def test_a_failed_run_is_told_to_the_webhook(running: Stack, hook: Hook) -> None:
    run = running.run("score", {"partition": "2012-06-01"}, state="failed")

    alert = told(running, hook, "run_failed", "score 2012-06-01")

    assert run.run_id in alert["message"]
    assert f"/dags/{run.dag_id}/runs/" in alert["link"]
    assert alert["runbook"].endswith("docs/runbooks/run_failed.md")


def test_a_late_run_is_told_of_while_it_still_runs(running: Stack, hook: Hook) -> None:
    run = running.api.trigger(running.dag("features"), {"partition": NEVER_LANDED})
    try:
        alert = told(running, hook, "deadline_missed", f"features {NEVER_LANDED}")
        assert running.api.run(run.dag_id, run.run_id).state == "running", "it waits for data"
        assert run.run_id in alert["message"]
    finally:
        address = f"{airflow.address()}/api/v2/dags/{run.dag_id}/dagRuns/{run.run_id}"
        headers = {"Authorization": f"Bearer {token()}"}
        answer = httpx.patch(address, json={"state": "failed"}, headers=headers, timeout=30, trust_env=False)
        assert answer.is_success, answer.text
