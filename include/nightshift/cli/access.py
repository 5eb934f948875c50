"""Which role each command needs, and that it is asked for before anything happens.

``NIGHTSHIFT_ROLE`` says what may be done here. It guards against slips, and is no wall: who can set it can
raise it. Walls are what a process is given: its login in PostgreSQL, its key of the object store, the key of
the audit log (docs/security.md, Roles).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, get_args

import typer

from nightshift.errors import DataError
from nightshift.settings import Role, settings

NEEDS: dict[str, Role] = {
    # Look, and write nothing but to the screen or to a file that is named.
    "alerts": "reader",
    "audit": "reader",
    "audit verify": "reader",
    "catalog": "reader",
    "check": "reader",
    "doctor": "reader",
    "explain": "reader",
    "label export": "reader",
    "lineage column": "reader",
    "lineage model": "reader",
    "lineage prediction": "reader",
    "lineage table": "reader",
    "metrics": "reader",
    "partitions": "reader",
    "quality": "reader",
    "quarantine list": "reader",
    "quarantine show": "reader",
    "registry at": "reader",
    "registry list": "reader",
    "registry log": "reader",
    "registry show": "reader",
    "reproduce": "reader",
    "requests": "reader",
    "scan": "reader",
    "shadow": "reader",
    "silences": "reader",
    "stack status": "reader",
    "stale": "reader",
    "status": "reader",
    "versions": "reader",
    # Run things, and mend data.
    "backtest": "operator",
    "dbt": "operator",
    "demo": "operator",
    "dev": "operator",
    "down": "operator",
    "label import": "operator",
    "new-usecase": "operator",
    "quarantine fix": "operator",
    "quarantine replay": "operator",
    "replay": "operator",
    "report": "operator",
    "restore": "operator",
    "retrain": "operator",
    "silence": "operator",
    "stack down": "operator",
    "stack up": "operator",
    "stale --rebuild": "operator",
    "up": "operator",
    # Decide which model is in production.
    "rollback": "approver",
    # Whatever Airflow, a worker or the servers let one do.
    "airflow": "admin",
    "roles grant": "admin",
    "stack prepare-airflow": "admin",
    "stack prepare-storage": "admin",
    "stack run": "admin",
    "stack secrets": "admin",  # pragma: allowlist secret
}
"""By command, the least role that may use it. One that is not here is for admins."""

_LADDER = get_args(Role)


def require(command: str) -> None:
    """Return if the role of the settings may use ``command``.

    Raises:
        DataError: It may not.
    """
    needed, given = NEEDS.get(command, "admin"), settings().role
    if _LADDER.index(given) < _LADDER.index(needed):
        raise DataError(
            f"the role {given} may not use `nightshift {command}`",
            rule=f"`nightshift {command}` needs the role {needed}; roles are {', '.join(_LADDER)}, each with "
            "the rights of those before it",
            where="NIGHTSHIFT_ROLE",
            cure=f"ask somebody who has the role {needed}; docs/security.md says what each is for",
        )


def guard(app: typer.Typer, explained: Callable[[], Any], above: str = "") -> None:
    """Have every command of ``app``, and of the groups in it, ask for its role first.

    What it records in the audit log and fails is said there not to be done, for nobody retries a command.

    Args:
        app: With all its commands.
        explained: The context in which an error is told.
        above: Name of the group, followed by a space; empty for the whole.
    """
    for command in app.registered_commands:
        if command.callback is not None:
            name = command.name or command.callback.__name__.replace("_", "-")
            command.callback = _guarded(command.callback, f"{above}{name}", explained)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            guard(group.typer_instance, explained, f"{above}{group.name} ")


def _guarded(callback: Callable[..., Any], command: str, explained: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(callback)
    def guarded(*arguments: Any, **options: Any) -> Any:
        with explained():
            require(command)
        if NEEDS.get(command) == "reader":
            return callback(*arguments, **options)
        # Only now: who just looks does not wait for what the lake imports.
        from nightshift.lake.audit import nobody_retries

        with nobody_retries():
            return callback(*arguments, **options)

    return guarded
