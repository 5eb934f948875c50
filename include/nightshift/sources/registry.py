"""From the catalogue's kind, or dotted path, to a connector."""

from __future__ import annotations

from importlib import import_module

from nightshift.errors import DataError
from nightshift.sources.base import Connector
from nightshift.usecase import UseCase

KINDS = {
    "documents": "nightshift.sources.documents:Documents",
    "events": "nightshift.sources.events:Events",
    "feedback": "nightshift.sources.feedback:Feedback",
    "http_api": "nightshift.sources.http_api:HttpApi",
    "object_store": "nightshift.sources.object_store:ObjectStore",
    "postgres": "nightshift.sources.postgres:Postgres",
}
"""The connectors that Nightshift brings."""


def open_connector(usecase: UseCase, source: str) -> Connector:
    """Return the connector that the catalogue names for ``source``.

    Raises:
        DataError: The source is not declared, its path leads to no connector, or its options are wrong.
    """
    if source not in usecase.sources:
        raise DataError(
            f"there is no source {source!r}",
            rule="sources are declared in sources.yml",
            where=f"{usecase.name}/sources.yml",
            cure=f"use one of {', '.join(usecase.sources)}, or declare it",
        )
    declared = usecase.sources[source]
    path = KINDS[declared.kind] if declared.connector is None and declared.kind else str(declared.connector)
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise _wrong_path(usecase, source, f"connector {path!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Connector)):
        raise _wrong_path(usecase, source, f"{path!r} is not a connector")
    return found(usecase, source)


def _wrong_path(usecase: UseCase, source: str, message: str) -> DataError:
    return DataError(
        message,
        rule="a connector is the dotted path module:Class of a subclass of nightshift.sources.base.Connector",
        where=f"{usecase.name}/sources.yml: sources.{source}.connector",
        cure="correct the path, or install the package that holds it",
    )
