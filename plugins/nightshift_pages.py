"""Pages of Nightshift on Airflow's own address: ``/nightshift/metrics``, what Prometheus reads.

Airflow mounts the application of a plugin beside its own and asks nobody who they are. So whoever calls any
route of this one has to be a user of Airflow's who may see the activity of the cluster; pages of its own that
FastAPI would add without asking (documentation, schema) are off.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI


@cache
def application() -> FastAPI:
    """Return the application, with the same question before each of its routes."""
    from airflow.api_fastapi.auth.managers.models.resource_details import AccessView
    from airflow.api_fastapi.core_api.security import requires_access_view
    from fastapi import Depends, FastAPI
    from fastapi.responses import PlainTextResponse

    from nightshift.orchestration import exposition

    app = FastAPI(
        title="Nightshift",
        dependencies=[Depends(requires_access_view(AccessView.CLUSTER_ACTIVITY))],
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )

    # Not async: it reads the lake, and Airflow's other pages shall not wait for that.
    @app.get("/metrics")
    def metrics() -> PlainTextResponse:
        return PlainTextResponse(exposition.page(), media_type=exposition.CONTENT_TYPE)

    return app


class _OnlyWhereServed:
    """Builds the application when the API server asks for it: tasks load plugins too, and need no server."""

    def __get__(self, instance: object, owner: type | None = None) -> list[dict[str, Any]]:
        return [{"app": application(), "url_prefix": "/nightshift", "name": "Nightshift"}]


class NightshiftPages(AirflowPlugin):
    """Mounts the application."""

    name = "nightshift_pages"
    fastapi_apps: Any = _OnlyWhereServed()
