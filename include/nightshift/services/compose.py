"""What of a compose file matters to run its services as processes: commands, environments, order, replicas.

Images, volumes, networks and limits are the container engine's business and are left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from nightshift.errors import DataError

# $$, ${NAME}, ${NAME:-default}, ${NAME:?message}
_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>\w+)(?:(?P<kind>:-|:\?)(?P<rest>[^}]*))?\}|(?P<bare>\w+))"
)


@dataclass(frozen=True)
class ComposeService:
    """One service.

    Attributes:
        name: As in the file.
        command: Program and arguments: the entrypoint, then the command.
        environment: Its own variables, not those of whoever starts it.
        after: The services it waits for, each with the condition.
        replicas: How many of it run; a service that ends by itself (``job``) has one.
        job: Whether another one waits for its successful end.
        restarts: Whether it is started again when it ends.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    after: Mapping[str, str]
    replicas: int
    job: bool
    restarts: bool


def read(files: list[Path], variables: Mapping[str, str]) -> list[ComposeService]:
    """Return the services of ``files``, each after those it waits for.

    Later files are laid over earlier ones, maps key by key and lists as a whole.

    Args:
        files: Compose files.
        variables: What ``${NAME}`` stands for.

    Raises:
        DataError: A file is unreadable, a variable without a default is not set, or services wait in a ring.
    """
    whole: dict[str, Any] = {}
    for file in files:
        whole = _laid_over(whole, _load(file))
    services = {
        name: _filled(body, variables, f"{files[0]}, service {name}")
        for name, body in whole.get("services", {}).items()
    }
    jobs = {
        other
        for body in services.values()
        for other, wait in body.get("depends_on", {}).items()
        if wait["condition"] == "service_completed_successfully"
    }
    try:
        order = list(
            TopologicalSorter({n: b.get("depends_on", {}) for n, b in services.items()}).static_order()
        )
    except CycleError as error:
        raise DataError(
            f"services wait for each other: {' > '.join(error.args[1])}",
            rule="services start one after the other",
            where=str(files[0]),
            cure="remove one of these from depends_on",
        ) from None
    return [
        ComposeService(
            name=name,
            command=tuple(
                map(str, [*services[name].get("entrypoint", ()), *services[name].get("command", ())])
            ),
            environment=_environment(services[name].get("environment", {}), variables),
            after={key: wait["condition"] for key, wait in services[name].get("depends_on", {}).items()},
            replicas=int(services[name].get("deploy", {}).get("replicas", 1)),
            job=name in jobs,
            restarts=services[name].get("restart") in ("always", "unless-stopped"),
        )
        for name in order
    ]


def _environment(declared: Mapping[str, Any], variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a service; one that is declared without a value is the caller's, if any."""
    found = {key: variables.get(key) if value is None else value for key, value in declared.items()}
    return {key: str(value) for key, value in found.items() if value is not None}


def _load(file: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise DataError(
            f"cannot read {file}: {error}",
            rule="a compose file is YAML",
            where=str(file),
            cure="mend the file, or run from a whole checkout",
        ) from error
    return loaded


def _laid_over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        both = below.keys() & above.keys()
        return {**below, **above, **{key: _laid_over(below[key], above[key]) for key in both}}
    return above


def _filled(value: Any, variables: Mapping[str, str], where: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables, where) for inner in value]
    if not isinstance(value, str):
        return value

    def stands_for(match: re.Match[str]) -> str:
        if match["dollar"]:
            return "$"
        name = match["name"] or match["bare"]
        found = variables.get(name, "")
        if found or (match["kind"] is None and name in variables):
            return found
        if match["kind"] == ":-":
            return match["rest"]
        raise DataError(
            f"{name} is not set" + (f": {match['rest']}" if match["rest"] else ""),
            rule="a variable without a default is set",
            where=where,
            cure=f"set {name} in the environment",
        )

    return _VARIABLE.sub(stands_for, value)
