"""The pages' answers in JSON, for users of Airflow's: which of them may see what, and what went wrong.

Airflow mounts a plugin's application beside its own and asks nobody who they are. So this one asks itself,
once for all its routes: who calls has to be a user, and what is about a use case is shown to those who may
read the DAG that makes it. Nothing is written here: pages trigger DAGs by Airflow's own API, as that user.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import (
    AccessView,
    DagAccessEntity,
    DagDetails,
)
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_view
from airflow.models.dag import DagModel
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse

from nightshift.console import documents, models, monitoring, partitions, predictions, quarantine, tonight
from nightshift.console.models import Models, SideBySide
from nightshift.console.monitoring import Distribution, Monitoring
from nightshift.console.partitions import Calendar, DayDetail, StaleDay
from nightshift.console.predictions import Entities, Prediction
from nightshift.console.quarantine import KeptRow
from nightshift.console.tonight import Tonight
from nightshift.console.views import View
from nightshift.errors import DataError, TransientError
from nightshift.inference import explain
from nightshift.inference.explain import Explained
from nightshift.orchestration import exposition
from nightshift.registry import card
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase, usecase_names
from nightshift.warehouse.dbt import DOCS

log = logging.getLogger(__name__)

ACTIONS = ("ingest", "rebuild", "replay_quarantine", "train", "rollback")
"""DAGs that pages trigger."""

BUNDLE = "nightshift.js"

_AT_ONCE = 6
_PATIENCE_SECONDS = 20.0

# The DAG that makes what lies in a folder of reports, which for a suite is also that of the rows it judges.
_MADE_BY = {
    **dict.fromkeys(("dbt", "features", "features_profile", "labels"), "features"),
    **dict.fromkeys(("nightly", "weekly", "drift", "index.html"), "monitor"),
    **dict.fromkeys(("evaluation", "cards", "snapshot", "snapshot_profile", "backtest"), "train"),
    "predictions": "score",
}

# Reports hold values of the data, and Evidently's hold scripts: neither may act as the user who reads them.
_HARMLESS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-popups; default-src 'none'; img-src data:; "
    "font-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'",
    "Cache-Control": "private, no-cache",
}


class UseCaseInfo(View):
    """A use case that the user may see.

    ``may``: the DAGs of ``ACTIONS`` that the user may trigger; ``may_decide``: whether the user may answer
    the question whether a challenger is promoted; ``dbt_docs``: the name of dbt's documentation among its
    reports, empty where it is not written yet.
    """

    name: str
    title: str
    may: tuple[str, ...]
    may_decide: bool
    dbt_docs: str = ""
    error: str = ""


class Quarantined(View):
    """Some of the rows in quarantine, and how many there are.

    ``personal``: columns that are mended on the command line alone, as everybody who may read a DAG sees what
    its runs are given.
    """

    total: int
    personal: tuple[str, ...]
    rows: tuple[KeptRow, ...]


class Problem(View):
    """Why there is no answer: what is wrong, the rule, the place and the cure."""

    message: str
    rule: str = ""
    where: str = ""
    cure: str = ""


def application() -> FastAPI:
    """Return the application: pages' answers under ``/api``, their script, and what Prometheus reads."""
    app = FastAPI(
        title="Nightshift",
        description="What the Nightshift pages show. Times are UTC; days are those of the use case's zone.",
        dependencies=[Depends(requires_access_view(AccessView.WEBSITE))],
        # FastAPI would add these without asking who calls.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.add_exception_handler(DataError, _bad_data)
    app.add_exception_handler(TransientError, _bad_luck)
    app.include_router(_api(), prefix="/api", dependencies=[Depends(_turns())])

    # Not async, like all that read the lake: Airflow's other pages shall not wait for that.
    # Prometheus has turns of its own: people who wait shall not make it miss a page.
    @app.get(
        "/metrics",
        dependencies=[Depends(requires_access_view(AccessView.CLUSTER_ACTIVITY)), Depends(_turns())],
    )
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(exposition.page(), media_type=exposition.CONTENT_TYPE)

    @app.get("/docs/{name:path}")
    def document(name: str) -> Response:
        """Return a page of this release's documentation, such as a runbook, or a picture of one."""
        found = documents.document(name)
        if found is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no document {name!r}")
        if isinstance(found, str):
            return HTMLResponse(found, headers=_HARMLESS)
        return FileResponse(found, headers=_HARMLESS)

    @app.get("/reports/{usecase}/{name:path}")
    def report(usecase: str, name: str, user: GetUserDep) -> Response:
        """Return a page that a task has written about a night or a model."""
        # What a suite says of rows holds some of them: it is for those who may read where they come from.
        uc = _readable_by(user, usecase, _made_by(name.partition("/")[0]))
        file = documents.report(uc, name)
        if file is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no report {name!r}")
        if file.suffix == ".html":
            return HTMLResponse(documents.served(uc, file), headers=_HARMLESS)
        return FileResponse(file, headers=_HARMLESS)

    @app.get("/openapi.json")
    def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get(f"/{BUNDLE}")
    def script() -> FileResponse:
        return FileResponse(bundle(), media_type="text/javascript", headers={"Cache-Control": "private"})

    return app


def bundle() -> Path:
    """Return where the built script of the pages lies."""
    return settings().project / "plugins" / "pages" / "dist" / BUNDLE


def _api() -> APIRouter:
    api = APIRouter(
        responses={
            409: {"model": Problem, "description": "What is asked about breaks a rule."},
            503: {"model": Problem, "description": "Something is away for the moment: ask again."},
        }
    )

    @api.get("/usecases")
    def usecases(user: GetUserDep) -> list[UseCaseInfo]:
        """List the use cases that the user may see."""
        return [_info(name, user) for name in _readable(user)]

    @api.get("/tonight")
    def last_nights(user: GetUserDep) -> list[Tonight]:
        """Tell for each use case how its last night went."""
        return [_last_night(name) for name in _readable(user)]

    @api.get("/usecases/{usecase}/partitions")
    def calendar(start: date, end: date, uc: _IngestReader) -> Calendar:
        """Tell which day is there in which layer, and in what state."""
        return partitions.calendar(uc, start, end)

    @api.get("/usecases/{usecase}/stale")
    def stale(start: date, end: date, uc: _IngestReader) -> list[StaleDay]:
        """Tell which days rest on older versions than those that count now, and why."""
        return partitions.stale(uc, start, end)

    @api.get("/usecases/{usecase}/partitions/{day}")
    def day_detail(day: date, uc: _IngestReader) -> DayDetail:
        """Tell all that is known about one day: versions, validations, quarantine, lineage."""
        return partitions.detail(uc, day)

    @api.get("/usecases/{usecase}/partitions/{day}/quarantine/{suite}")
    def quarantined(day: date, suite: str, uc: _IngestReader, user: GetUserDep, page: _Page) -> Quarantined:
        """Show the rows of a day that a suite has put aside; what is personal, to those who may mend them."""
        _readable_by(user, uc.name, _made_by(suite))
        rows = quarantine.rows_kept(uc, suite, day)
        shown = rows[page.offset : page.offset + page.limit]
        if not _authorized(user, f"{uc.name}.replay_quarantine", "POST", DagAccessEntity.RUN):
            shown = [quarantine.masked(uc, row) for row in shown]
        return Quarantined(total=len(rows), personal=tuple(sorted(uc.hidden_columns)), rows=tuple(shown))

    @api.get("/usecases/{usecase}/models")
    def registered(uc: _TrainReader) -> Models:
        """List the registered versions, and who was champion when."""
        return models.models(uc)

    @api.get("/usecases/{usecase}/models/{left}/versus/{right}")
    def side_by_side(left: str, right: str, uc: _TrainReader) -> SideBySide:
        """Put two versions side by side, with intervals and slices."""
        return models.compare(uc, left, right)

    @api.get("/usecases/{usecase}/models/{version}/card", response_class=HTMLResponse)
    def model_card(version: str, uc: _TrainReader) -> HTMLResponse:
        """Return the card of a version, as a page."""
        return HTMLResponse(card.read_card(uc, version, card.HTML), headers=_HARMLESS)

    @api.get("/usecases/{usecase}/monitoring")
    def watched(start: date, end: date, uc: _MonitorReader) -> Monitoring:
        """Tell what monitoring has recorded: quality, drift, alerts, requests for a model, cost."""
        return monitoring.monitoring(uc, start, end)

    @api.get("/usecases/{usecase}/monitoring/{column}")
    def distribution(column: str, day: date, uc: _MonitorReader) -> Distribution:
        """Return how a feature, or the score, lies on a day beside what its champion learned from."""
        return monitoring.distribution(uc, column, day)

    @api.get("/usecases/{usecase}/predictions")
    def entities(
        uc: _ScoreReader,
        text: str = "",
        day: date | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> Entities:
        """Find entities that were scored on a day, the newest by default, by a part of their name."""
        return predictions.search(uc, text, day, limit)

    @api.get("/usecases/{usecase}/prediction")
    def prediction(entity: str, uc: _ScoreReader, day: date | None = None) -> Prediction:
        """Return the newest of an entity's latest predictions, or that of a day, with reasons and lineage."""
        return predictions.find(uc, entity, day)

    @api.get("/usecases/{usecase}/explanation")
    def explanation(entity: str, uc: _ScoreReader, day: date | None = None) -> Explained:
        """Explain a prediction by the model and the features that made it, which takes seconds."""
        return explain.explain(uc, predictions.stored(uc, entity, day))

    return api


def _last_night(name: str) -> Tonight:
    """Return the last night of a use case; what is wrong with one takes nothing from the others."""
    try:
        return tonight.last_night(load_usecase(name))
    except (DataError, TransientError) as error:
        return Tonight(name=name, title=name, level="act", error=str(error))
    except Exception:
        log.exception("the last night of %s cannot be told", name)
        return Tonight(
            name=name, title=name, level="act", error="it cannot be told: see the API server's log"
        )


def _info(name: str, user: Any) -> UseCaseInfo:
    may = tuple(dag for dag in ACTIONS if _authorized(user, f"{name}.{dag}", "POST", DagAccessEntity.RUN))
    may_decide = _authorized(user, f"{name}.train", "PUT", DagAccessEntity.HITL_DETAIL)
    title = described = wrong = ""
    try:
        uc = load_usecase(name)
        title, described = uc.title, DOCS if documents.report(uc, DOCS) else ""
    except DataError as error:
        wrong = str(error)
    return UseCaseInfo(
        name=name, title=title or name, may=may, may_decide=may_decide, dbt_docs=described, error=wrong
    )


def _readable(user: Any) -> list[str]:
    """Return the use cases whose nights the user may read about."""
    return [name for name in usecase_names() if _authorized(user, f"{name}.monitor", "GET")]


@dataclass(frozen=True)
class _Paged:
    """Which of many rows are wanted."""

    limit: Annotated[int, Query(ge=1, le=500)] = 50
    offset: Annotated[int, Query(ge=0)] = 0


_Page = Annotated[_Paged, Depends()]


def of_usecase(dag: str) -> Callable[..., UseCase]:
    """Return what a route about a use case depends on: its user may read the DAG that makes what it shows."""

    def load(usecase: str, user: GetUserDep) -> UseCase:
        return _readable_by(user, usecase, dag)

    return load


def _made_by(suite: str) -> str:
    return _MADE_BY.get(suite, "ingest")


def _readable_by(user: Any, usecase: str, dag: str) -> UseCase:
    if usecase not in usecase_names():
        raise HTTPException(status.HTTP_404_NOT_FOUND, f"there is no use case {usecase!r}")
    if not _authorized(user, f"{usecase}.{dag}", "GET"):
        raise HTTPException(status.HTTP_403_FORBIDDEN, f"you may not read the DAG {usecase}.{dag}")
    return load_usecase(usecase)


def _turns() -> Callable[[], AsyncIterator[None]]:
    """Return what lets few requests in at a time.

    A request may take a thread of the API server for as long as the lake does not answer, and the heartbeats
    of running tasks need those threads, too.
    """
    free = asyncio.Semaphore(_AT_ONCE)

    async def turn() -> AsyncIterator[None]:
        try:
            await asyncio.wait_for(free.acquire(), _PATIENCE_SECONDS)
        except TimeoutError as error:
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                "the lake answers slowly, and others wait for it, too: ask again in a moment",
            ) from error
        try:
            yield
        finally:
            free.release()

    return turn


_IngestReader = Annotated[UseCase, Depends(of_usecase("ingest"))]
_MonitorReader = Annotated[UseCase, Depends(of_usecase("monitor"))]
_TrainReader = Annotated[UseCase, Depends(of_usecase("train"))]
_ScoreReader = Annotated[UseCase, Depends(of_usecase("score"))]


def _authorized(user: Any, dag_id: str, method: Any, entity: DagAccessEntity | None = None) -> bool:
    details = DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id))
    return get_auth_manager().is_authorized_dag(
        method=method, access_entity=entity, details=details, user=user
    )


def _bad_data(_request: Request, error: Any) -> JSONResponse:
    told = Problem(message=error.message, rule=error.rule, where=error.where, cure=error.cure)
    return JSONResponse(told.model_dump(), status.HTTP_409_CONFLICT)


def _bad_luck(_request: Request, error: Any) -> JSONResponse:
    told = Problem(message=str(error), cure="ask again in a moment")
    return JSONResponse(told.model_dump(), status.HTTP_503_SERVICE_UNAVAILABLE)


if __name__ == "__main__":
    # Not to the output: Airflow writes there while it is imported.
    described = json.dumps(application().openapi(), indent=1, sort_keys=True)
    (bundle().parents[1] / "openapi.json").write_text(f"{described}\n", encoding="utf-8")
