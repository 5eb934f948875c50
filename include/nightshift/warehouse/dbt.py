"""dbt, run inside this process over a range of nights of one use case.

Each use case is a dbt project of its own as far as parsing goes: only ``dbt_project/models/<use case>`` is
read, so that one team's broken SQL never stops another's night. Relations land in the schema named as the
use case. Everything dbt writes (parsed project, compiled SQL, logs, docs) lies under the state folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess  # nosec B404  # starts dbt, without a shell
import sys
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict

from nightshift.environment import variables
from nightshift.errors import DataError, NightshiftError, TransientError
from nightshift.lake import audit
from nightshift.settings import settings
from nightshift.usecase import UseCase
from nightshift.warehouse.engine import engine

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest
    from dbt_common.events.base_types import EventMsg

log = logging.getLogger(__name__)

# dbt's words when a model selects other columns than its table has.
_COLUMNS_CHANGED = "The source and target schemas on this incremental model are out of sync"

# What a child process is told to do; see `_ask_child`.
_TABLES_READ = "import sys; from nightshift.warehouse import dbt; dbt.print_tables_read(sys.argv[1:])"
_COMPILED = "from nightshift.warehouse import dbt; dbt.print_compiled()"

DOCS = "dbt/index.html"
"""Name of dbt's documentation among a use case's reports."""

# Commands that change nothing in the warehouse.
_ONLY_READ = {"compile", "debug", "deps", "docs", "list", "ls", "parse", "show", "source"}

_DBT = "from dbt.cli.main import cli; cli(prog_name='nightshift dbt')"


class CompiledModel(BaseModel):
    """A model as dbt compiles it.

    Attributes:
        name: Its name.
        place: Its relation in the warehouse, as SQL.
        sql: The query that its rows come from.
        file: Where its source lies within the project.
        columns: Those that its YAML file describes.
        reads: Names of the models and tables that it reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    place: str
    sql: str
    file: str
    columns: tuple[str, ...]
    reads: tuple[str, ...]


class Compiled(BaseModel):
    """A use case's part of the project.

    Attributes:
        dialect: Name of the engine that its SQL is written for.
        sources: The relation, as SQL, of each raw table.
        models: Every model, after those that it reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dialect: str
    sources: dict[str, str]
    models: tuple[CompiledModel, ...]


def build(uc: UseCase, start: date, end: date, *, full: bool = False) -> dict[str, float]:
    """Build and test every model of the use case for the nights ``start`` to ``end``.

    The same SQL serves a night and all of history: each model replaces the partitions of its window and
    leaves the others alone.

    Args:
        uc: The use case.
        start: First night.
        end: Last night.
        full: Drop the models' tables first; afterwards they hold this range only. Happens by itself when
            the columns of a model have changed, since old partitions would not fit any more.

    Returns:
        Seconds per model and test, by name.

    Raises:
        DataError: A model or a test failed; the message names it, its compiled SQL and the reason.
        TransientError: The warehouse is locked or out of reach, or the machine ran out of something.
    """
    _require_free()
    arguments = [
        "build",
        # The artifacts for other tools take longer to write than a night takes to build; `docs` writes them.
        "--no-write-json",
        # Unit tests judge the SQL, not the data: they run with the tests of this repository.
        "--exclude-resource-type",
        "unit_test",
        "--vars",
        _variables(uc, start, end),
        *(["--full-refresh"] if full else []),
    ]
    outcome = run(uc, arguments, [_log_node])
    results = list(outcome.result or ())
    if not full and any(_COLUMNS_CHANGED in str(r.message) for r in results):
        log.warning("the columns of a model changed: its tables are built again for %s to %s", start, end)
        return build(uc, start, end, full=True)
    _raise_for_failures(uc, outcome, results, f"{uc.name}, nights {start} to {end}")
    return {result.node.name: float(result.execution_time) for result in results}


def docs(uc: UseCase) -> Path:
    """Generate dbt's documentation of the use case and return its page, readable without a server.

    Raises:
        DataError: dbt cannot describe the project.
        TransientError: The warehouse is locked or out of reach.
    """
    _require_free()
    outcome = run(uc, ["docs", "generate", "--static"])
    if not outcome.success:
        _raise_for_failures(uc, outcome, [], f"{uc.name}, documentation")
    return _target(uc) / "static_index.html"


def command(uc: UseCase, start: date, end: date, arguments: Sequence[str], *, by: str) -> int:
    """Run a command of dbt's own command line, for a person to read, and return its exit code.

    It has the use case's part of the project and the variables of the nights ``start`` to ``end``. What it
    parses and compiles lies beside what ``build`` does, whose cache it would throw away. What may change the
    warehouse is recorded in the audit log as asked for ``by`` that person.

    Raises:
        TransientError: Another build holds the warehouse and does not end.
    """
    folder = _target(uc).parent
    with engine().exclusive(uc.name), _environment(uc):
        places = {
            "DBT_PROJECT_DIR": str(settings().dbt_project),
            "DBT_PROFILES_DIR": str(settings().dbt_project),
            "DBT_TARGET_PATH": str(folder / "command"),
            "DBT_LOG_PATH": str(folder / "logs"),
            "DBT_VERSION_CHECK": "false",
        }
        # dbt's own options (`--version`) stand alone; a command takes variables.
        takes_variables = arguments and not arguments[0].startswith("-") and "--vars" not in arguments
        variables = ["--vars", _variables(uc, start, end)] if takes_variables else []
        if takes_variables and arguments[0] not in _ONLY_READ:
            audit.record(
                "dbt",
                usecase=uc.name,
                subject=arguments[0],
                who=by,
                details={"arguments": list(arguments), "start": start.isoformat(), "end": end.isoformat()},
                # Typed again, it is done again.
                identity=[uuid.uuid4().hex],
            )
        return subprocess.run(  # nosec B603  # no shell; what the person typed
            [sys.executable, "-P", "-c", _DBT, *arguments, *variables],
            env={**os.environ, **places},
            check=False,
        ).returncode


def run(uc: UseCase, arguments: Sequence[str], callbacks: Sequence[Callable[[EventMsg], None]] = ()) -> Any:
    """Run one dbt command on the use case's part of the project; return its ``dbtRunnerResult``.

    Each of ``callbacks`` is told of each event of dbt's while it runs.

    The parsed project is cached between runs. dbt throws that cache away when variables differ, and those
    differ every night: so the project is parsed without any, and the command gets the parsed one.
    """
    from dbt.cli.main import dbtRunner

    with _environment(uc):
        try:
            dbt = dbtRunner(manifest=_parse(uc), callbacks=list(callbacks))
            return dbt.invoke([*arguments, *_common(uc)])
        finally:
            engine().after_dbt()


def _log_node(event: EventMsg) -> None:
    """Log each model and test as it ends: a build of years takes minutes, and somebody may watch."""
    if event.info.name == "NodeFinished":
        result, node = event.data.run_result, event.data.node_info
        log.info("%s %s in %.2f s", result.status, node.node_name, result.execution_time)


def tables_read(uc: UseCase, *relations: str) -> dict[str, frozenset[str]]:
    """Return by relation the raw tables that it rests on, through all models in between.

    Asked again, it is answered at once until a file of the project has changed. dbt runs in a process of its
    own for this: it sets variables of the environment, and whoever asks may be a server with many threads.

    Raises:
        DataError: There is no such model, or the project cannot be read.
    """
    kept, digest = _target(uc).parent / "tables_read.json", _digest(uc)
    with suppress(OSError, ValueError):
        said = json.loads(kept.read_bytes())
        if said["digest"] == digest and set(relations) <= set(said["tables"]):
            return {relation: frozenset(said["tables"][relation]) for relation in relations}
    found = _ask_child(uc, _TABLES_READ, relations)
    _keep(kept, {"digest": digest, "tables": found})
    return {relation: frozenset(found[relation]) for relation in relations}


def print_tables_read(relations: Sequence[str]) -> None:
    """Answer ``tables_read`` for the use case on standard input: JSON, the last line on standard output."""
    uc = UseCase.model_validate_json(sys.stdin.read())
    try:
        with _environment(uc):
            manifest = _parse(uc)
        answer: dict[str, Any] = {name: sorted(_sources(uc, manifest, name)) for name in relations}
    except DataError as error:
        answer = _as_answer(error)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def compiled(uc: UseCase) -> Compiled:
    """Return the SQL of every model of the use case, as it is for one night.

    Nothing of the warehouse is opened. As with ``tables_read``, dbt runs in a process of its own, and only
    when a file of the project, or what its variables are made of, has changed.

    Raises:
        DataError: The project cannot be read, or a model asks the warehouse before its SQL is known.
    """
    night = uc.history_start
    asked = f"{_digest(uc)} {engine().name} {_variables(uc, night, night)}"
    kept, digest = _target(uc).parent / "compiled.json", hashlib.sha256(asked.encode()).hexdigest()
    with suppress(OSError, ValueError):
        said = json.loads(kept.read_bytes())
        if said["digest"] == digest:
            return Compiled.model_validate(said["compiled"])
    found = Compiled.model_validate(_ask_child(uc, _COMPILED, ()))
    _keep(kept, {"digest": digest, "compiled": found.model_dump()})
    return found


def print_compiled() -> None:
    """Answer ``compiled`` for the use case on standard input: JSON, the last line on standard output."""
    from dbt.cli.main import dbtRunner

    uc = UseCase.model_validate_json(sys.stdin.read())
    night = uc.history_start
    # The compiled SQL of the last build lies elsewhere: errors of that one name it.
    target = _target(uc).parent / "compiled"
    arguments = [
        *("compile", "--no-write-json", "--no-introspect", "--no-populate-cache"),
        *("--exclude", "resource_type:test", "resource_type:unit_test"),
        *("--vars", _variables(uc, night, night)),
    ]
    try:
        with _environment(uc):
            manifest = _parse(uc)
            outcome: Any = dbtRunner(manifest=manifest).invoke([*arguments, *_common(uc, target)])
        if not outcome.success:
            raise _not_compiled(uc, outcome)
        answer = _compiled_of(manifest, [result.node for result in outcome.result]).model_dump()
    except DataError as error:
        answer = _as_answer(error)
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


def _compiled_of(manifest: Manifest, nodes: Sequence[Any]) -> Compiled:
    """Return what dbt has compiled, each model after those that it reads."""
    names = {key: node.name for key, node in {**manifest.nodes, **manifest.sources}.items()}
    waiting = {node.unique_id: node for node in nodes if node.resource_type == "model" and node.relation_name}
    models: list[CompiledModel] = []
    while waiting:
        reads = {key: set(node.depends_on_nodes) & waiting.keys() for key, node in waiting.items()}
        for key in sorted(key for key in waiting if not reads[key]):
            node = waiting.pop(key)
            models.append(
                CompiledModel(
                    name=node.name,
                    place=node.relation_name,
                    sql=node.compiled_code,
                    file=node.original_file_path,
                    columns=tuple(node.columns),
                    reads=tuple(sorted(names[one] for one in node.depends_on_nodes if one in names)),
                )
            )
    sources = {node.name: node.relation_name for node in manifest.sources.values()}
    return Compiled(dialect=engine().name, sources=sources, models=tuple(models))


def _not_compiled(uc: UseCase, outcome: Any) -> DataError:
    failed = [result for result in outcome.result or () if str(result.status) == "error"]
    said = str(failed[0].message).strip() if failed else str(outcome.exception)
    return DataError(
        f"dbt cannot compile {failed[0].node.name if failed else uc.name}: {said}",
        rule="the SQL of a model follows from files and variables, not from what the warehouse holds",
        where=failed[0].node.original_file_path if failed else str(settings().dbt_project),
        cure="mend the model that dbt names; one that calls run_query() has no lineage of columns",
    )


def _as_answer(error: DataError) -> dict[str, Any]:
    return {"error": [error.message, error.rule, error.where, error.cure]}


def _keep(file: Path, said: Mapping[str, Any]) -> None:
    """Keep an answer. Whoever cannot write here, or is killed meanwhile, asks dbt again."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}.{threading.get_ident()}")
        new.write_text(json.dumps(said), encoding="utf-8")
        new.replace(file)


def _ask_child(uc: UseCase, program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return what ``program`` answers, and raise what it could not."""
    done = subprocess.run(  # nosec B603  # no shell; names of models, after ours
        [sys.executable, "-P", "-c", program, *arguments],
        input=uc.model_dump_json(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise TransientError(f"dbt could not be asked about {uc.name}: {done.stderr.strip()[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    if "error" in answer:
        message, rule, where, cure = answer["error"]
        raise DataError(message, rule=rule, where=where, cure=cure)
    return cast("dict[str, Any]", answer)


def _digest(uc: UseCase) -> str:
    """Return a digest of all files that the use case's part of the project is parsed from."""
    project, digest = settings().dbt_project, hashlib.sha256()
    for folder in (project / "macros", project / "tests", project / "models" / uc.name, project):
        files = folder.glob("*") if folder == project else folder.rglob("*")
        for file in sorted(file for file in files if file.is_file()):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(project)} {len(content)} ".encode())
            digest.update(content)
    return digest.hexdigest()


def _sources(uc: UseCase, manifest: Manifest, relation: str) -> frozenset[str]:
    waiting = [key for key, node in manifest.nodes.items() if node.name == relation]
    if not waiting:
        raise DataError(
            f"dbt knows no model {relation!r}",
            rule="features.relation and label.relation name dbt models",
            where=f"usecase.yml of {uc.name}",
            cure=f"name a model of dbt_project/models/{uc.name}",
        )
    seen: set[str] = set()
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            if key in manifest.nodes:
                waiting += manifest.nodes[key].depends_on_nodes
    return frozenset(manifest.sources[key].name for key in seen if key in manifest.sources)


def _variables(uc: UseCase, start: date, end: date) -> str:
    return json.dumps(
        {
            "start": start.isoformat(),
            "end": end.isoformat(),
            "history_start": uc.history_start.isoformat(),
            "lookback_days": uc.features.lookback_days,
            "run_hour": uc.schedule.hour,
            "timezone": uc.timezone,
        }
    )


def _parse(uc: UseCase) -> Manifest:
    from dbt.cli.main import dbtRunner

    parsed = dbtRunner().invoke(["parse", "--no-write-json", *_common(uc)])
    if not parsed.success:
        raise DataError(
            f"dbt cannot read the project: {parsed.exception}",
            rule="dbt_project/ parses",
            where=str(settings().dbt_project / "models" / uc.name),
            cure="mend the file that dbt names",
        )
    return cast("Manifest", parsed.result)


def _common(uc: UseCase, target: Path | None = None) -> list[str]:
    return [
        "--project-dir",
        str(settings().dbt_project),
        "--profiles-dir",
        str(settings().dbt_project),
        "--target-path",
        str(target or _target(uc)),
        "--log-path",
        str(_target(uc).parent / "logs"),
        "--log-level",
        "none",
        "--log-level-file",
        "info",
        "--no-version-check",
        "--no-use-colors",
    ]


def _target(uc: UseCase) -> Path:
    return settings().home / "warehouse" / "dbt" / uc.name / "target"


def _environment(uc: UseCase) -> AbstractContextManager[None]:
    """Give dbt_project.yml and profiles.yml what they read from the environment, for as long as dbt runs."""
    return variables(
        {
            "NIGHTSHIFT_DBT_USECASE": uc.name,
            "NIGHTSHIFT_DBT_SCHEMA": uc.name,
            "NIGHTSHIFT_DBT_TARGET": engine().name,
            **engine().dbt_environment(),
            # dbt otherwise leaves a file with an id of this user in the project.
            "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        }
    )


def _require_free() -> None:
    """Fail before dbt is even imported if the warehouse cannot be used."""
    with engine().connect():
        pass


def _raise_for_failures(uc: UseCase, outcome: Any, results: Sequence[Any], where: str) -> None:
    failed = [r for r in results if str(r.status) in ("error", "fail", "runtime error")]
    if outcome.success and not failed:
        return
    messages = [str(r.message) for r in failed] or [str(outcome.exception)]
    if unlucky := [message for message in messages if engine().is_bad_luck(message)]:
        raise TransientError(f"dbt could not use the warehouse: {unlucky[0]}")
    if not failed:
        raise NightshiftError(f"dbt failed without naming a model ({where}): {messages[0]}")
    first = failed[0]
    others = ", ".join(r.node.name for r in failed[1:])
    raise DataError(
        f"dbt {first.node.resource_type} {first.node.name}: {str(first.message).strip()}"
        + (f"; also failed: {others}" if others else ""),
        rule=f"{first.node.original_file_path}: {first.node.name}",
        where=where,
        cure=f"run the compiled SQL to see the rows: {_compiled(uc, first.node)}",
    )


def _compiled(uc: UseCase, node: Any) -> str:
    return str(getattr(node, "compiled_path", None) or _target(uc) / "compiled")
