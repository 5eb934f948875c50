"""What a trigger form's fields must be together, refused before a run begins.

Airflow checks each field of a form by itself. What fields say together, it cannot be told: so this looks at
each request that triggers a DAG, wherever it comes from, and answers those that make no sense. The tasks
check again, for runs begin in other ways, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nightshift.errors import DataError
from nightshift.partition import parse_partition, parse_range
from nightshift.usecase import usecase_names

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_TRIGGER = re.compile(r"/api/v2/dags/(?P<dag_id>[^/]+)/dagRuns/?$")


def check(dag_id: str, conf: Mapping[str, Any]) -> None:
    """Look at what a run of one of our DAGs is to be given.

    Raises:
        DataError: A day is malformed, a range ends before it starts, or rows are fixed without a reason.
    """
    if dag_id.partition(".")[0] not in usecase_names():
        return
    start, end = conf.get("start"), conf.get("end")
    if isinstance(start, str) and isinstance(end, str):
        parse_range(start, end)
    for name in ("partition", "effective_from"):
        if isinstance(conf.get(name), str):
            parse_partition(conf[name])
    if conf.get("fixes") and not str(conf.get("reason") or "").strip():
        raise DataError(
            "rows are to be fixed, and nobody says why",
            rule="a fix says why, for whoever has to judge it later",
            where=f"{dag_id}, parameter reason",
            cure="give the reason in a sentence",
        )


class CheckedForms:
    """Stands before Airflow's API, and answers 400 to a request that ``check`` refuses."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, or pass it on with its body."""
        asked = _TRIGGER.search(scope["path"]) if scope["type"] == "http" else None
        if asked is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        while not messages or messages[-1].get("more_body"):
            messages.append(await receive())
        try:
            check(asked["dag_id"], _conf(b"".join(message.get("body", b"") for message in messages)))
        except DataError as error:
            from starlette.responses import JSONResponse

            told = f"{error.message}. Rule: {error.rule}. Cure: {error.cure}."
            await JSONResponse({"detail": told}, status_code=400)(scope, receive, send)
            return
        waiting = iter(messages)

        async def again() -> Message:
            return next(waiting, None) or await receive()

        await self._app(scope, again, send)


def _conf(body: bytes) -> dict[str, Any]:
    """Return the parameters that a request carries; none where Airflow will refuse it anyway."""
    try:
        conf = json.loads(body)["conf"]
    except (ValueError, KeyError, TypeError):
        return {}
    return conf if isinstance(conf, dict) else {}
