"""What an edit would break, told in seconds: use cases, expectations, dbt models and DAG files.

Nothing runs, and no service is asked. What is found here would otherwise be an import error in Airflow's UI,
or a task that fails at night.
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nightshift.errors import DataError, NightshiftError
from nightshift.ingestion.suites import raw_suites, table_of
from nightshift.quality.personal import require_purpose
from nightshift.quality.suites import load_suite, suite_names
from nightshift.services.checks import Finding
from nightshift.settings import settings
from nightshift.usecase import UseCase, load_usecase, usecase_names
from nightshift.warehouse import dbt

_EXCEPTION = re.compile(r"(\w+\.)*[A-Z]\w+(: |$)")


def everything() -> Iterator[Finding]:
    """Yield a finding for each part of each use case, and for each DAG file."""
    for name in usecase_names():
        try:
            uc = load_usecase(name)
        except DataError as error:
            yield _failed(f"{name}: use case", error)
            continue
        tables = sum(1 for _ in uc.tables())
        yield Finding(
            f"{name}: use case", passed=True, detail=f"{tables} tables of {len(uc.sources)} sources"
        )
        yield _suites(uc)
        yield _models(uc)
        yield _personal(uc)
    yield from _dags()


def _suites(uc: UseCase) -> Finding:
    check, names = f"{uc.name}: expectations", suite_names(uc)
    rules = 0
    for name in names:
        try:
            suite = load_suite(uc, name)
        except DataError as error:
            return _failed(check, error)
        rules += len(suite.expectations)
        if name not in raw_suites(uc):
            continue  # what columns there are is known once dbt has built them
        source, table = table_of(uc, name)
        known = {*uc.sources[source].tables[table].columns, *suite.meta.derived, "partition"}
        for rule in suite.expectations:
            if unknown := sorted(set(_columns(rule.kwargs)) - known):
                return Finding(
                    check,
                    passed=False,
                    detail=f"{name}, rule {rule.name}: there is no column {', '.join(unknown)}",
                    cure=f"name a column that sources.yml gives to {source}.{table}, or one that is derived",
                )
    return Finding(check, passed=True, detail=f"{rules} rules in {len(names)} suites")


def _columns(kwargs: Mapping[str, Any]) -> Iterator[str]:
    for name, value in kwargs.items():
        if name in ("column", "column_A", "column_B"):
            yield value
        elif name == "column_list":
            yield from value


def _models(uc: UseCase) -> Finding:
    check, relations = f"{uc.name}: dbt models", (uc.features.relation, uc.label.relation)
    try:
        read = frozenset[str]().union(*dbt.tables_read(uc, *relations).values())
    except NightshiftError as error:
        return _failed(check, error)
    if unknown := sorted(read - {name for _, name, _ in uc.tables()}):
        return Finding(
            check,
            passed=False,
            detail=f"{' and '.join(relations)} rest on {', '.join(unknown)}, which no source has",
            cure="name tables of sources.yml in source() and in the sources of the models, or add the table",
        )
    return Finding(check, passed=True, detail=f"{' and '.join(relations)} rest on {', '.join(sorted(read))}")


def _personal(uc: UseCase) -> Finding:
    check = f"{uc.name}: personal data"
    relations = {
        uc.features.relation: (uc.entity, uc.event_time, *uc.features.columns),
        uc.label.relation: (uc.entity, uc.label.column),
    }
    try:
        for relation, columns in relations.items():
            require_purpose(uc, relation, columns)
    except DataError as error:
        return _failed(check, error)
    if unknown := sorted(uc.features.personal.keys() - uc.personal_columns):
        return Finding(
            check,
            passed=False,
            detail=f"features.personal names {', '.join(unknown)}, which sources.yml does not call personal",
            cure="correct the name in usecase.yml, or class the column (`pii`) in sources.yml",
        )
    held, named = len(uc.personal_columns), len(uc.features.personal)
    detail = (
        f"{held} personal columns in the catalogue, {named} of them with a purpose reach features or labels"
    )
    return Finding(check, passed=True, detail=detail)


def _dags() -> Iterator[Finding]:
    # Airflow makes files where its home is, and reads its settings once.
    if "AIRFLOW_HOME" not in os.environ:
        os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="nightshift-check-")
        atexit.register(shutil.rmtree, os.environ["AIRFLOW_HOME"], ignore_errors=True)
    # What fails to import is told here, in a line of its own.
    os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "CRITICAL"
    from airflow.dag_processing.dagbag import DagBag

    folder = settings().project / "dags"
    bag = DagBag(folder)
    for file in sorted(folder.glob("*.py")):
        check = f"dags/{file.name}"
        if error := next((said for path, said in bag.import_errors.items() if Path(path) == file), ""):
            place, what = _last_words(error, file)
            yield Finding(check, passed=False, detail=f"{place}: {what}", cure=f"mend {place}")
            continue
        dags = [dag for dag in bag.dags.values() if Path(dag.fileloc) == file]
        tasks = sum(len(dag.tasks) for dag in dags)
        yield Finding(check, passed=True, detail=f"{len(dags)} DAGs, {tasks} tasks")


def _last_words(error: str, file: Path) -> tuple[str, str]:
    """Return where in the file an import failed, and what Python said."""
    # A group of errors draws its tree in front of each line.
    lines = [line.strip(" |+-") for line in error.splitlines()]
    own = [line for line in lines if line.startswith(f'File "{file}", line ')]
    number = own[-1].partition("line ")[2].partition(",")[0] if own else "1"
    said = [line for line in lines if _EXCEPTION.match(line)]
    return f"dags/{file.name}:{number}", said[-1] if said else "it cannot be imported"


def _failed(check: str, error: BaseException) -> Finding:
    if isinstance(error, DataError):
        # dbt tells in lines of its own.
        detail = f"{' '.join(error.message.split())} ({error.where})"
        return Finding(check, passed=False, detail=detail, cure=error.cure)
    said = traceback.format_exception_only(error)[-1].strip()
    return Finding(check, passed=False, detail=said, cure="see above")


def main() -> int:
    """Print a line for each finding, last what failed, with its cure; return the exit code."""
    failed = []
    for finding in everything():
        if finding.passed:
            sys.stdout.write(f"ok   {finding.check}: {finding.detail}\n")
            sys.stdout.flush()
        else:
            failed.append(finding)
    for finding in failed:
        sys.stdout.write(f"FAIL {finding.check}: {finding.detail}\n     cure: {finding.cure}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
