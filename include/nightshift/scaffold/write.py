"""Writes the files of a new use case into the checkout."""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nightshift.errors import DataError
from nightshift.scaffold.answers import Answers
from nightshift.scaffold.suites import suites

_TEMPLATES = Path(__file__).parent / "templates"

# By template, where its text goes. dbt's models are templates of their own, so ours have other brackets.
_FILES = {
    "usecase.yml": "include/usecases/{name}/usecase.yml",
    "sources.yml": "include/usecases/{name}/sources.yml",
    "source.py": "include/usecases/{name}/source.py",
    "package.py": "include/usecases/{name}/__init__.py",
    "card.yml": "include/usecases/{name}/card.yml",
    "dbt_sources.yml": "dbt_project/models/{name}/staging/sources.yml",
    "stg_events.sql": "dbt_project/models/{name}/staging/stg_events.sql",
    "stg_outcomes.sql": "dbt_project/models/{name}/staging/stg_outcomes.sql",
    "staging.yml": "dbt_project/models/{name}/staging/staging.yml",
    "features.sql": "dbt_project/models/{name}/features/features_{name}.sql",
    "features.yml": "dbt_project/models/{name}/features/features_{name}.yml",
    "labels.sql": "dbt_project/models/{name}/features/labels_{name}.sql",
    "labels.yml": "dbt_project/models/{name}/features/labels_{name}.yml",
    "test.py": "tests/integration/usecases/test_{name}.py",
}


def write(project: Path, answers: Answers) -> list[Path]:
    """Write the use case, and return its files; where one of them exists, none is written.

    Raises:
        DataError: A file is there already.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
        comment_start_string="[#",
        comment_end_string="#]",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # nosec B701  # YAML, SQL and Python; answers are names
    )
    texts = {
        project / target.format(name=answers.name): environment.get_template(f"{name}.jinja").render(
            a=answers
        )
        for name, target in _FILES.items()
    }
    for name, suite in suites(answers).items():
        file = project / "expectations" / answers.name / f"{name}.json"
        texts[file] = json.dumps(suite, indent=2) + "\n"
    if there := sorted(str(file.relative_to(project)) for file in texts if file.exists()):
        raise DataError(
            f"{answers.name} exists: {', '.join(there[:3])}",
            rule="a scaffold overwrites nothing",
            where=str(project),
            cure="choose another name, or delete the files of the use case first",
        )
    for file, text in texts.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return sorted(texts)
