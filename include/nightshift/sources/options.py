"""Options of a source: checked when its connector is opened, so that a mistake is told with its place."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from nightshift.errors import DataError
from nightshift.usecase import UseCase

_Options = TypeVar("_Options", bound=BaseModel)


def checked(usecase: UseCase, source: str, model: type[_Options]) -> _Options:
    """Return the ``options`` of a source as ``model``.

    A model with ``tables`` has an entry for each table of the catalogue, and no other.

    Raises:
        DataError: An option is missing, unknown or wrong.
    """
    declared = usecase.sources[source]
    where = f"{usecase.name}/sources.yml: sources.{source}.options"
    try:
        options = model.model_validate(declared.options)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        place = ".".join(map(str, wrong["loc"]))
        message = wrong["msg"].removeprefix("Value error, ")
        raise DataError(
            message,
            rule=f"options of {declared.kind or declared.connector}: {', '.join(model.model_fields)}",
            where=f"{where}.{place}" if place else where,
            cure="correct the option; docs/reference/sources.md lists those of each kind",
        ) from error
    chosen = getattr(options, "tables", declared.tables)
    if unlike := sorted(declared.tables.keys() ^ chosen.keys()):
        raise DataError(
            f"tables and options.tables differ in {', '.join(unlike)}",
            rule="every table of the catalogue has an entry under options.tables, and no other has",
            where=f"{where}.tables",
            cure="add or remove the entries",
        )
    return options
