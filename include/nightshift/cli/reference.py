"""Writes ``docs/reference`` from the code itself; a test fails when a page has drifted from it.

Run it with ``make reference``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from nightshift.cli import catalog
from nightshift.settings import Settings, settings
from nightshift.sources.registry import KINDS
from nightshift.usecase import UseCase, load_usecase, usecase_names

_WRITTEN = "Written from the code by `make reference`; do not edit it by hand.\n"


def pages() -> dict[str, str]:
    """Return the text of each page by its file's name."""
    return {
        "settings.md": _settings(),
        "usecase.md": _usecase(),
        "sources.md": _sources(),
        "catalogue.md": _catalogue(),
        "commands.md": _commands(),
        "dags.md": _dags(),
        "tables.md": _tables(),
    }


def write(folder: Path) -> list[Path]:
    """Write the pages into a folder, and return their files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return sorted(folder.glob("*.md"))


def _settings() -> str:
    project = str(settings().project)
    rows = []
    for name, field in Settings.model_fields.items():
        default = (
            str(field.default).replace(project, "the checkout") if field.default not in (None, "") else ""
        )
        rows.append(
            (f"`NIGHTSHIFT_{name.upper()}`", f"`{default}`" if default else "", field.description or "")
        )
    return "\n".join(
        [
            "# Settings\n",
            _WRITTEN,
            "Variables of the environment. What is not set has its default; `nightshift doctor` tells of a "
            "name that begins with `NIGHTSHIFT_` and means nothing.\n",
            *_table(("variable", "default", "says"), rows),
        ]
    )


def _usecase() -> str:
    schema = UseCase.model_json_schema()
    parts = [
        "# The use case, and its catalogue\n",
        _WRITTEN,
        "`include/usecases/<name>/usecase.yml`; `sources` is in `sources.yml` beside it. Unknown keys are "
        "errors.\n",
    ]
    return "\n".join([*parts, *_models("UseCase", schema)])


def _sources() -> str:
    parts = [
        "# Kinds of sources\n",
        _WRITTEN,
        "What `options` of a source in `sources.yml` may hold, by its `kind`. What each does: "
        "[sources](../sources.md).\n",
    ]
    for kind, path in KINDS.items():
        module, _, name = path.partition(":")
        connector = getattr(import_module(module), name)
        parts += _models(kind, connector.Options.model_json_schema())
    return "\n".join(parts)


def _catalogue() -> str:
    """Return what the catalogue of each use case says of its tables and columns."""
    parts = [
        "# Catalogue\n",
        _WRITTEN,
        "What `sources.yml` of each use case says of its tables; `nightshift catalog` shows the same. A type "
        "with `?` may be null. What the keys mean: [use case and catalogue](usecase.md).\n",
    ]
    for name in usecase_names():
        uc = load_usecase(name)
        for table in catalog.collect(uc):
            rows = [
                (
                    f"`{column}`",
                    catalog.kind_of(held),
                    catalog.personal(held),
                    _as_text(held["description"])
                    + (f". Held for: {held['purpose']}" if held["purpose"] else ""),
                )
                for column, held in table["columns"].items()
            ]
            first, *summary = map(_as_text, catalog.summary(table))
            parts += [f"## {name}: {catalog.title_of(table)}\n", f"{first}\n"]
            parts += [*(f"- {line}" for line in summary), ""]
            parts += [*_table(("column", "type", "personal", "says"), rows), ""]
    return "\n".join(parts)


def _models(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield a chapter for a model, and one for each that it is made of."""
    for title, part in ((name, schema), *sorted(schema.get("$defs", {}).items())):
        if "properties" not in part:
            continue
        required = set(part.get("required", ()))
        rows = [
            (
                f"`{key}`",
                _type(value),
                "" if key not in required else "required",
                _one_line(value.get("description", "")),
            )
            for key, value in part["properties"].items()
        ]
        yield from (f"## {title}\n", f"{_one_line(part.get('description', ''))}\n")
        yield from (*_table(("key", "type", "", "says"), rows), "")


def _type(value: Mapping[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return "any" if name.lower() == "jsonvalue" else f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if "enum" in value:
        return ", ".join(f"`{one}`" for one in value["enum"])
    if "const" in value:
        return f"`{value['const']}`"
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"by name: {_type(value['additionalProperties'])}"
    return str(value.get("format") or value.get("type") or "any")


def _commands() -> str:
    import typer

    from nightshift.cli.main import app

    parts = ["# Commands\n", _WRITTEN]
    for name, command in _walk("nightshift", typer.main.get_command(app)):
        arguments = [
            (
                ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts)),
                _one_line(getattr(parameter, "help", "") or ""),
            )
            for parameter in command.params
            if parameter.name not in ("help", "install_completion", "show_completion")
        ]
        parts += [f"## {name}\n", f"{(command.help or '').strip()}\n"]
        parts += [*_table(("option", "says"), arguments), ""] if arguments else []
    return "\n".join(parts)


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield name, command
        return
    for child in sorted(commands):
        yield from _walk(f"{name} {child}", commands[child])


def _dags() -> str:
    """Return the page about the DAGs, without pictures of graphs, which Airflow draws, and links to files."""
    text = (settings().project / "dags" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"```mermaid\n.*?```\n+", "", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]+)\]\((?!http)[^)]*\)", r"\1", text)
    return text.replace("`make dags-readme`", "`make dags-readme` and `make reference`")


def _tables() -> str:
    """Return what dbt's files say of each relation of each use case."""
    parts = [
        "# Relations\n",
        _WRITTEN,
        "What dbt builds, from the YAML beside each model. `nightshift dbt docs generate --static` draws it "
        "with its lineage.\n",
    ]
    for file in sorted((settings().dbt_project / "models").rglob("*.yml")):
        for model in yaml.safe_load(file.read_text(encoding="utf-8")).get("models", ()):
            rows = [
                (f"`{column['name']}`", column.get("data_type", ""), _one_line(column.get("description", "")))
                for column in model.get("columns", ())
            ]
            parts += [f"## {model['name']}\n", f"{_one_line(model.get('description', ''))}\n"]
            parts += [*_table(("column", "type", "says"), rows), ""]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines]


def _as_text(text: str) -> str:
    """Return words of a YAML file on one line, none of which is taken for HTML."""
    return _one_line(text).replace("<", "&lt;")


def _one_line(text: str) -> str:
    first = text.split("\n\nAttributes:")[0]
    return " ".join(first.replace("``", "`").split())


if __name__ == "__main__":
    write(settings().project / "docs" / "reference")
