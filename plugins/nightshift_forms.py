"""Trigger forms whose fields contradict each other are refused before a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from nightshift.orchestration.forms import CheckedForms


def checked_forms(app: Any) -> CheckedForms:
    """Put the check before Airflow's API; the API server alone asks for it, and imports it."""
    from nightshift.orchestration.forms import CheckedForms

    return CheckedForms(app)


class NightshiftForms(AirflowPlugin):
    """Names the check."""

    name = "nightshift_forms"
    fastapi_root_middlewares: ClassVar[list[dict[str, Any]]] = [
        {"name": "Nightshift's trigger forms", "middleware": checked_forms}
    ]
