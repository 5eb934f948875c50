"""Purpose limitation: personal columns reach features and labels only for a purpose that the use case names.

What is known here is what people wrote: a column that is called as a personal column of the catalogue is made
from it, and a column of a dbt model says with ``meta: {personal: [...]}`` from which ones it is made. What a
model makes of a personal column under another name, without saying so, is not found; see ``reaches``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from nightshift.errors import DataError
from nightshift.settings import settings
from nightshift.usecase import UseCase

# The same safe loader in C, for this runs each night.
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def reaches(uc: UseCase, relation: str, columns: Iterable[str]) -> dict[str, frozenset[str]]:
    """Return which personal columns of the catalogue are known to reach columns of a relation.

    Known by name and by dbt's ``meta``. Lineage through SQL, where there is one, belongs here too.

    Args:
        uc: The use case.
        relation: The dbt relation.
        columns: Its columns, or those that are asked about.

    Returns:
        By column of the relation the personal columns in it; columns without any are left out.

    Raises:
        DataError: A file of dbt cannot be read, or names what is no personal column of the catalogue.
    """
    personal, said = uc.personal_columns, _said(uc, relation)
    found = {name: said.get(name, frozenset()) | ({name} & personal) for name in columns}
    return {name: held for name, held in found.items() if held}


def require_purpose(uc: UseCase, relation: str, columns: Iterable[str]) -> None:
    """Refuse columns with personal data in them for which no purpose is named.

    Raises:
        DataError: There are such; all of them are named.
    """
    unnamed = {
        name: held - uc.features.personal.keys() for name, held in reaches(uc, relation, columns).items()
    }
    told = [f"{name} (from {', '.join(sorted(held))})" for name, held in unnamed.items() if held]
    if told:
        raise DataError(
            f"personal data reach {relation}: {', '.join(told)}",
            rule="a personal column of the catalogue reaches features and labels only if usecase.yml names "
            "the purpose",
            where=f"{uc.name}, relation {relation}",
            cure="leave the columns out of the model, or name them with their purpose in usecase.yml under "
            "features.personal",
        )


def _said(uc: UseCase, relation: str) -> dict[str, frozenset[str]]:
    """Return what dbt's files say of the columns of a relation, by column."""
    said = {}
    for place, column in _columns(uc, relation):
        meta = {**(column.get("meta") or {}), **((column.get("config") or {}).get("meta") or {})}
        named = meta.get("personal") or []
        names = frozenset([named] if isinstance(named, str) else named)
        if unknown := names - uc.personal_columns:
            raise DataError(
                f"column {column.get('name')!r} says that it is made from {', '.join(sorted(unknown))}",
                rule="meta.personal names columns that sources.yml classes as personal (`pii`)",
                where=place,
                cure="correct the name, or class the column in sources.yml",
            )
        said[str(column.get("name"))] = names
    return said


def _columns(uc: UseCase, relation: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    folder = settings().dbt_project / "models" / uc.name
    for file in sorted([*folder.rglob("*.yml"), *folder.rglob("*.yaml")]):
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)  # nosec B506  # a safe loader
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise DataError(
                f"cannot read {file.name}: {error}",
                rule="the files beside the models are YAML",
                where=str(file),
                cure="mend the file",
            ) from error
        for model in (content or {}).get("models") or ():
            if model.get("name") == relation:
                yield from ((str(file), column) for column in model.get("columns") or ())
