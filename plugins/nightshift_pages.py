"""The Nightshift pages inside Airflow's own UI, and ``/nightshift/metrics``, which Prometheus reads."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from fastapi import FastAPI

_BUNDLE = Path(__file__).parent / "pages" / "dist" / "nightshift.js"


@cache
def application() -> FastAPI:
    """Return the application that answers the pages."""
    from nightshift.orchestration import console_api

    return console_api.application()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


class _OnlyWhereServed:
    """Builds the application when the API server asks for it: tasks load plugins too, and need no server."""

    def __get__(self, instance: object, owner: type | None = None) -> list[dict[str, Any]]:
        return [{"app": application(), "url_prefix": "/nightshift", "name": "Nightshift"}]


class NightshiftPages(AirflowPlugin):
    """Mounts the application, and names the script that Airflow's UI loads from it."""

    name = "nightshift_pages"
    fastapi_apps: Any = _OnlyWhereServed()
    react_apps: ClassVar[list[dict[str, str]]] = [
        {
            "name": "Nightshift",
            "url_route": "nightshift",
            # Another script has another address, so no browser keeps an old one.
            "bundle_url": f"nightshift/{_BUNDLE.name}?{_digest(_BUNDLE)}",
            "destination": "nav",
        }
    ]
