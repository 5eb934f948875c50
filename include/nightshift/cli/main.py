"""The commands of ``nightshift``."""

from __future__ import annotations

import json
import os
import subprocess  # nosec B404  # starts Python, without a shell
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightshift.cli import access
from nightshift.errors import DataError, NightshiftError
from nightshift.partition import parse_partition, parse_range

if TYPE_CHECKING:
    from nightshift.usecase import UseCase

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
quarantine = typer.Typer(
    no_args_is_help=True, help="Rows that broke a rule: look at them, fix them, land them after all."
)
app.add_typer(quarantine, name="quarantine")
registry = typer.Typer(
    no_args_is_help=True,
    help="Versions of the model: in which state each is, and what was in production when.",
)
app.add_typer(registry, name="registry")
label = typer.Typer(
    no_args_is_help=True, help="Predictions that wait for a person's label: out to a CSV file, and back in."
)
app.add_typer(label, name="label")
lineage = typer.Typer(
    no_args_is_help=True, help="What was made of what, from the source to the prediction and back."
)
app.add_typer(lineage, name="lineage")

audit = typer.Typer(help="Who did what, when and why: the audit log, and whether it is whole.")
app.add_typer(audit, name="audit")

roles = typer.Typer(no_args_is_help=True, help="What a login of each role may do in PostgreSQL.")
app.add_typer(roles, name="roles")

stack_app = typer.Typer(
    no_args_is_help=True,
    help="The stack of docker/compose.yaml: real servers, several workers; as processes.",
)
app.add_typer(stack_app, name="stack")


def _not_empty(reason: str | None) -> str | None:
    """Refuse a reason that says nothing: it is kept for good, for whoever asks later."""
    if reason is not None and not reason.strip():
        raise typer.BadParameter("say why, in words; it is kept")
    return reason


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("nightshift"))
        raise typer.Exit


@app.callback()
def nightshift(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Nightshift: from raw data to monitored predictions, every night."""


_UseCase = Annotated[str | None, typer.Option("--usecase", help="Which use case; needed if several.")]
_UseCases = Annotated[str | None, typer.Option("--usecase", help="Which use case; all by default.")]
_Suite = Annotated[str, typer.Argument(help="raw_<table>, features, labels, predictions.")]
_Partition = Annotated[str, typer.Argument(help="YYYY-MM-DD")]
_Start = Annotated[str, typer.Option(help="First partition, YYYY-MM-DD.", show_default="the first")]
_End = Annotated[str, typer.Option(help="Last partition, YYYY-MM-DD.", show_default="the last")]
_Version = Annotated[str, typer.Argument(help="A registered version: `registry list` shows them.")]
_Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
_Upstream = Annotated[bool, typer.Option("--upstream", help="Only what it was made of.")]
_Downstream = Annotated[bool, typer.Option("--downstream", help="Only what was made of it.")]
_Picture = Annotated[Path | None, typer.Option(help="SVG file that it is drawn into.")]
_FIRST, _LAST = date.min.isoformat(), date.max.isoformat()


@app.command()
def up() -> None:
    """Start PostgreSQL, Airflow and MLflow, and print where they answer."""
    from nightshift.cli.output import print_addresses
    from nightshift.services import stack

    with _explained():
        stack.up(lambda what: typer.echo(f"starting {what}", err=True))
        print_addresses()


@app.command()
def down() -> None:
    """Stop every process that `up` started, and check that they are gone."""
    from nightshift.services import stack

    with _explained():
        stopped = stack.down()
    typer.echo(f"stopped, and gone: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def demo(
    usecase: _UseCase = None,
    history: Annotated[int, typer.Option(min=1, help="Days of history to bootstrap.")] = 181,
    nights: Annotated[int, typer.Option(min=0, help="Nights to run after it.")] = 7,
) -> None:
    """Run the whole loop on real data through Airflow, and show what came of it.

    What the lake already holds is not done again: a second demo changes nothing.
    """
    from nightshift.cli.demo import run

    with _explained():
        run(_one(usecase), history=history, nights=nights)


@app.command()
def replay(
    usecase: _UseCase = None,
    bootstrap_through: Annotated[
        str | None,
        typer.Option(help="Last day the first model learns from.", show_default="90 days of history"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="First night that is compared.", show_default="the one after them"),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="Last night.", show_default="the history's 365th")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="SVG file that the comparison is drawn into.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Replay history night by night, and compare the loop with a model that is never trained again.

    In one process and a state folder of its own, without Airflow. One that was interrupted goes on.
    """
    from nightshift.cli.replay import run

    with _explained():
        run(
            _one(usecase),
            bootstrap_through=parse_partition(bootstrap_through) if bootstrap_through else None,
            start=parse_partition(start) if start else None,
            end=parse_partition(end) if end else None,
            picture=picture,
            as_json=as_json,
        )


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show what exists and what runs. Works with all services down."""
    from nightshift.cli.status import collect

    with _explained():
        found = collect()
    if as_json:
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
    else:
        from nightshift.cli.output import print_status

        print_status(found)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def airflow(context: typer.Context) -> None:
    """Run a command of Airflow's own, set up for this installation: `nightshift airflow dags list`."""
    from nightshift.cli.audit import record_airflow
    from nightshift.services.airflow import COMMAND, environment

    with _explained():
        record_airflow(context.args)
    command = [*COMMAND, *context.args]
    os.execvpe(command[0], command, environment())  # nosec B606  # what the person typed, without a shell


@app.command(
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
    }
)
def dbt(
    context: typer.Context,
    usecase: _UseCase = None,
    start: Annotated[
        str | None,
        typer.Option(help="First night that models are built for.", show_default="the newest with features"),
    ] = None,
    end: Annotated[str | None, typer.Option(help="Last one.", show_default="the first")] = None,
) -> None:
    """Run a command of dbt's own on a use case's models: `nightshift dbt build --select MODEL`.

    Options of Nightshift come before dbt's command, dbt's own after it. While it runs, no other build does.
    """
    import getpass

    from nightshift.warehouse import dbt as warehouse

    with _explained():
        uc = _one(usecase)
        first = parse_partition(start) if start else _newest_night(uc)
        last = parse_partition(end) if end else first
        if last < first:
            raise typer.BadParameter(f"the nights end ({last}) before they start ({first})")
        code = warehouse.command(uc, first, last, context.args, by=getpass.getuser())
    raise typer.Exit(code)


@app.command()
def doctor() -> None:
    """Check what Nightshift needs; each failure names its cure. Exit code 1 if there is one."""
    from nightshift.cli.output import print_finding
    from nightshift.services import checks

    with _explained():
        failed = 0
        for finding in checks.everything():
            print_finding(finding)
            failed += not finding.passed
    if failed:
        raise typer.Exit(1)


@app.command()
def dev() -> None:
    """Start everything, then check each file that is saved, and have Airflow read it at once; Ctrl-C ends."""
    from nightshift.cli.output import console, print_addresses
    from nightshift.services import developing, stack

    with _explained():
        stack.up(lambda what: console.print(f"starting {what}", markup=False))
        print_addresses()
        console.print("waiting for files to be saved; Ctrl-C ends this, `nightshift down` the services")
        developing.watch_files(lambda line: console.print(line, markup=False))


@app.command(name="new-usecase")
def new_usecase(
    name: Annotated[str, typer.Option(prompt="Name (snake_case)", help="Of its folders, schema and DAGs.")],
    title: Annotated[str, typer.Option(prompt="Title", help="What people call it.")],
    entity: Annotated[
        str, typer.Option(prompt="Column that identifies what is predicted about", help="Such as order_id.")
    ],
    event_time: Annotated[
        str, typer.Option(prompt="Column that says when it takes place", help="Such as ordered_at.")
    ],
    label: Annotated[str, typer.Option(prompt="Column of the outcome, 0 or 1", help="Such as returned.")],
    numeric: Annotated[
        str, typer.Option(prompt="Columns of numbers, with commas", help="Known before the event.")
    ],
    categorical: Annotated[
        str, typer.Option(prompt="Columns of categories, with commas", help="Known before the event.")
    ],
    label_days: Annotated[
        int, typer.Option(prompt="Days after which an outcome is known", help="1 to 7.")
    ] = 1,
    timezone: Annotated[str, typer.Option(prompt="Time zone", help="Such as Europe/Berlin.")] = "UTC",
    history_start: Annotated[
        str, typer.Option(prompt="First day with data", help="YYYY-MM-DD.")
    ] = "2024-01-01",
    owner: Annotated[str, typer.Option(prompt="Owner", help="Who answers for it.")] = "data-platform",
) -> None:
    """Write a new use case from a few answers: sources, models, expectations, configuration and tests."""
    from nightshift import scaffold
    from nightshift.cli.output import console
    from nightshift.settings import settings

    with _explained():
        answers = scaffold.parse(
            {
                "name": name,
                "title": title,
                "owner": owner,
                "timezone": timezone,
                "history_start": parse_partition(history_start),
                "entity": entity,
                "event_time": event_time,
                "label": label,
                "label_days": label_days,
                "numeric": [column.strip() for column in numeric.split(",") if column.strip()],
                "categorical": [column.strip() for column in categorical.split(",") if column.strip()],
            }
        )
        project = settings().project
        for file in scaffold.write(project, answers):
            console.print(f"  {file.relative_to(project)}", markup=False, highlight=False)
        console.print(
            f"""
It runs as it is, on made-up rows. See: make check-dags; pytest tests/integration/usecases
Its DAGs are {answers.name}.ingest, {answers.name}.features and so on; start with {answers.name}.bootstrap.
Then make it yours: in include/usecases/{answers.name}, source.py asks your system and sources.yml says what
comes of it.""",
            markup=False,
            highlight=False,
        )


@app.command()
def check() -> None:
    """Tell in seconds what an edit would break: use cases, expectations, dbt models, DAG files."""
    # Airflow is asked in a process of its own: nothing of the command line imports it.
    done = subprocess.run([sys.executable, "-P", "-m", "nightshift.orchestration.check"], check=False)  # nosec B603
    if done.returncode:
        raise typer.Exit(done.returncode)


@app.command()
def alerts(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """List alerts, newest first: what happened, whether people were told, what to do, and its runbook."""
    from nightshift.cli import alerts as command

    with _explained():
        for uc in _each(usecase):
            command.print_all(uc, as_json=as_json)


@app.command()
def catalog(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Show the source catalogue: each table's owner, key, refresh, deadline, retention and columns."""
    from nightshift.cli import catalog as command

    with _explained():
        for uc in _each(usecase):
            if as_json:
                for table in command.collect(uc):
                    typer.echo(json.dumps({"usecase": uc.name} | table))
            else:
                command.print_catalog(uc)


@app.command()
def scan(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Find columns that look personal and are not classed so, in the newest raw partitions; shows no values.

    Says of each table what was looked at; as JSON, in a line, with partition null where nothing has landed.
    Exit code 1: there are such columns.
    """
    from nightshift.cli import scan as command
    from nightshift.quality.scan import scan_newest

    suspected = False
    with _explained():
        for uc in _each(usecase):
            looked = list(scan_newest(uc))
            suspected = suspected or any(one.suspicions for one in looked)
            if as_json:
                for one in looked:
                    typer.echo(json.dumps({"usecase": uc.name, **asdict(one)}, default=str))
            else:
                command.print_looked(uc, looked)
    raise typer.Exit(1 if suspected else 0)


@app.command()
def silence(
    kind: Annotated[str, typer.Argument(help="A kind of alerts, such as drift; '*' is all of them.")],
    reason: Annotated[
        str, typer.Option(help="Why, for whoever wonders about the quiet.", callback=_not_empty)
    ],
    subject: Annotated[str, typer.Option(help="About what; * and ? stand for anything.")] = "*",
    until: Annotated[
        str | None, typer.Option(help="By the clock, in UTC: YYYY-MM-DD or YYYY-MM-DDTHH:MM.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="From now on; 0 ends the same silence.")] = None,
    by: Annotated[str | None, typer.Option(help="Who decided; the login name by default.")] = None,
    usecase: _UseCase = None,
) -> None:
    """Have alerts recorded and not sent, for a while; it ends by itself."""
    import getpass

    from nightshift.cli import alerts as command

    if (until is None) == (days is None):
        raise typer.BadParameter("give --until or --days")
    with _explained():
        command.begin_silence(_one(usecase), kind, subject, until, days, reason, by or getpass.getuser())


@app.command()
def silences(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """List the silences, oldest first: of what, until when, by whom and why."""
    from nightshift.cli import alerts as command

    with _explained():
        for uc in _each(usecase):
            command.print_silences(uc, as_json=as_json)


@app.command()
def metrics(
    usecase: _UseCases = None,
) -> None:
    """Print what Prometheus reads: ages of partitions, drift, quality, costs, what tasks used, alerts."""
    from nightshift.orchestration.exposition import page

    with _explained():
        typer.echo(page([usecase] if usecase else None), nl=False)


@app.command()
def report(
    day: Annotated[
        str | None, typer.Argument(metavar="DAY", help="The night.", show_default="the newest predicted one")
    ] = None,
    usecase: _UseCases = None,
) -> None:
    """Write the page of a night and the digest of its week, as `monitor` does, and print where they are."""
    from nightshift import stages
    from nightshift.lake.tables import partition_versions

    with _explained():
        wanted = parse_partition(day) if day else None
        for uc in _each(usecase):
            night = wanted or max(partition_versions(uc, "predictions"), default=None)
            if night is None:
                typer.echo(f"{uc.name}: no night was predicted yet, so there is no page to write")
                continue
            for path in stages.write_pages(uc, night, night):
                typer.echo(path)


@app.command()
def partitions(
    usecase: _UseCases = None,
    layer: Annotated[
        str | None,
        typer.Option(help="raw, raw/<source>/<table>, features, predictions, ...; all by default."),
    ] = None,
    start: _Start = _FIRST,
    end: _End = _LAST,
    as_json: _Json = False,
) -> None:
    """List what exists for each layer and day, with versions."""
    from nightshift.cli.partitions import list_partitions

    with _explained():
        first, last = parse_range(start, end)
        for uc in _each(usecase):
            rows = list_partitions(uc, layer, first, last)
            if as_json:
                _print_json(rows, usecase=uc.name)
            else:
                for row in rows:
                    typer.echo(
                        f"{uc.name}  {row.layer:<32} {row.partition}  v{row.version:<5} {row.rows:>8} rows  "
                        f"{row.content_hash[:12]}"
                    )


@app.command()
def stale(
    usecase: _UseCases = None,
    start: _Start = _FIRST,
    end: _End = _LAST,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Have Airflow build exactly these again.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """List what was built from older versions than those that count now, such as after a correction."""
    from nightshift.cli import stale as command
    from nightshift.monitoring.staleness import find_stale

    with _explained():
        if rebuild:
            access.require("stale --rebuild")
        first, last = parse_range(start, end)
        for uc in _each(usecase):
            found = find_stale(uc, first, last)
            if as_json:
                _print_json(found, usecase=uc.name)
            else:
                command.print_stale(uc, found)
            if rebuild and found:
                command.rebuild(uc, found)
            elif found and not as_json:
                typer.echo("The same command with --rebuild has Airflow build these again.")


@app.command()
def quality(
    day: Annotated[
        str | None, typer.Argument(help="YYYY-MM-DD: the last judged day to show; the newest by default.")
    ] = None,
    usecase: _UseCases = None,
    as_json: _Json = False,
) -> None:
    """Show how good the predictions were: by day, window and slice, against estimate and baseline."""
    from nightshift.cli import quality as command

    with _explained():
        for uc in _each(usecase):
            found = command.collect(uc, parse_partition(day) if day else None)
            if as_json:
                typer.echo(json.dumps(found, default=str, allow_nan=False))
            else:
                command.print_quality(uc, found)


@app.command()
def versions(
    layer: Annotated[str, typer.Argument(help="raw/<source>/<table>, features, predictions, ...")],
    partition: Annotated[str, typer.Argument(help="YYYY-MM-DD")],
    usecase: _UseCase = None,
    as_json: _Json = False,
) -> None:
    """List every content one partition has had, oldest first."""
    from nightshift.cli.partitions import list_versions

    with _explained():
        found = list_versions(_one(usecase), layer, parse_partition(partition))
        if as_json:
            _print_json(found)
        else:
            for row in found:
                typer.echo(
                    f"v{row.version:<5} {row.since:%Y-%m-%d %H:%M:%S} UTC  {row.rows:>8} rows  "
                    f"{row.content_hash[:12] or 'deleted'}{'  current' if row.current else ''}"
                )


@app.command()
def restore(
    layer: Annotated[str, typer.Argument(help="features, labels, predictions, ...")],
    partition: Annotated[str, typer.Argument(help="YYYY-MM-DD")],
    version: Annotated[int, typer.Option(help="One that `versions` lists.")],
    reason: Annotated[
        str | None, typer.Option(help="Why; kept in the audit log.", callback=_not_empty)
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decided; the login name by default.")] = None,
    usecase: _UseCase = None,
) -> None:
    """Publish again what a partition held at an earlier version. Nothing is lost: this is a version too."""
    import getpass

    from nightshift.cli.partitions import restore_version

    with _explained():
        uc, day, who = _one(usecase), parse_partition(partition), by or getpass.getuser()
        typer.echo(restore_version(uc, layer, day, version, reason=reason or "", by=who))


@app.command()
def backtest(
    usecase: _UseCase = None,
    through: Annotated[
        str | None,
        typer.Option(
            help="Night whose knowledge is tested on.", show_default="the newest one that labels came with"
        ),
    ] = None,
    folds: Annotated[
        int | None, typer.Option(min=1, help="How many cut-offs.", show_default="as usecase.yml says")
    ] = None,
    trainer: Annotated[
        list[str] | None, typer.Option(help="As often as needed.", show_default="every declared one")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Train at several cut-offs of the past, and test on the days that followed each.

    The holdout stays sealed. What was trained before for the same data, configuration and code is not again.
    """
    from nightshift.cli import backtest as command

    with _explained():
        night = parse_partition(through) if through else None
        command.run(_one(usecase), night, folds, trainer or [], as_json=as_json)


@app.command()
def reproduce(
    version: Annotated[str, typer.Argument(metavar="MODEL_VERSION", help="A registered version.")],
    usecase: _UseCase = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Make a model again from its manifest: equal, or what differs, first cause first. Writes nothing.

    Exit code 0: equal. 1: different. 2: it cannot be rebuilt.
    """
    from nightshift.cli import reproduce as command

    with _explained():
        code = command.run(_one(usecase), version, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def explain(
    entity: Annotated[str, typer.Argument(metavar="ENTITY_ID", help="What was scored.")],
    usecase: _UseCases = None,
    partition: Annotated[
        str | None, typer.Option(help="The night, YYYY-MM-DD.", show_default="the newest that scored it")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Explain a prediction: what each feature added to the score, and what would flip the decision."""
    from nightshift.cli import explain as command

    with _explained():
        day = parse_partition(partition) if partition else None
        command.run(list(_each(usecase)), entity, day, as_json=as_json)


@lineage.command("prediction")
def lineage_prediction(
    entity: Annotated[str, typer.Argument(metavar="ENTITY_ID", help="What was scored.")],
    day: Annotated[str, typer.Argument(help="The night, YYYY-MM-DD.")],
    usecase: _UseCases = None,
    upstream: _Upstream = False,
    downstream: _Downstream = False,
    picture: _Picture = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Follow a prediction to the model and the features behind it, and these to raw objects and queries.

    Shows what it was made of, or with --downstream what was made of it.
    """
    from nightshift.cli import lineage as command

    with _explained():
        found = command.prediction(list(_each(usecase)), entity, parse_partition(day))
        up, down = (upstream, downstream) if upstream or downstream else (True, False)
        command.show(found, up=up, down=down, as_json=as_json, picture=picture)


@lineage.command("model")
def lineage_model(
    version: _Version,
    usecase: _UseCase = None,
    upstream: _Upstream = False,
    downstream: _Downstream = False,
    picture: _Picture = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Follow a version to its snapshot, code and configuration, and on to the nights that it scored."""
    from nightshift.cli import lineage as command
    from nightshift.lineage.models import lineage_of_model

    with _explained():
        found = lineage_of_model(_one(usecase), version)
        up, down = (upstream, downstream) if upstream or downstream else (True, True)
        command.show(found, up=up, down=down, as_json=as_json, picture=picture)


@lineage.command("table")
def lineage_table(
    name: Annotated[str, typer.Argument(help="<source>.<table>, a dbt model, or features, predictions, ...")],
    day: Annotated[
        str | None, typer.Argument(help="YYYY-MM-DD: what is published for it, instead of the table as such.")
    ] = None,
    usecase: _UseCase = None,
    upstream: _Upstream = False,
    downstream: _Downstream = False,
    picture: _Picture = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Show which tables a table is made of, and which of it; of a day, which contents and raw objects."""
    from nightshift.cli import lineage as command
    from nightshift.lineage.tables import lineage_of_table

    with _explained():
        found = lineage_of_table(_one(usecase), name, parse_partition(day) if day else None)
        up, down = (upstream, downstream) if upstream or downstream else (True, True)
        command.show(found, up=up, down=down, as_json=as_json, picture=picture)


@lineage.command("column")
def lineage_column(
    name: Annotated[
        str, typer.Argument(help="<source>.<table>.<column>, <dbt model>.<column>, or a feature.")
    ],
    usecase: _UseCase = None,
    upstream: _Upstream = False,
    downstream: _Downstream = False,
    picture: _Picture = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """List every column, feature, model and report that a column reaches, or what it is made of.

    Of a raw column by default what it reaches, of any other both.
    """
    from nightshift.cli import lineage as command
    from nightshift.lineage.columns import is_raw, lineage_of_column

    with _explained():
        found = lineage_of_column(_one(usecase), name)
        up, down = (upstream, downstream) if upstream or downstream else (not is_raw(found), True)
        command.show(found, up=up, down=down, as_json=as_json, picture=picture)


@quarantine.command("list")
def quarantine_list(
    usecase: _UseCases = None,
    suite: Annotated[
        str | None, typer.Option(help="raw_<table>, features, labels, predictions; all by default.")
    ] = None,
    start: _Start = _FIRST,
    end: _End = _LAST,
    as_json: _Json = False,
) -> None:
    """List how many rows of each suite and partition are in quarantine, and which rules they broke."""
    from nightshift.cli import quarantine as command
    from nightshift.console.quarantine import list_kept

    with _explained():
        first, last = parse_range(start, end)
        for uc in _each(usecase):
            found = list(list_kept(uc, suite, first, last))
            if as_json:
                _print_json(found, usecase=uc.name)
            else:
                command.print_kept(uc, found)


@quarantine.command("show")
def quarantine_show(
    suite: _Suite,
    partition: _Partition,
    usecase: _UseCase = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, to edit and give to `fix --from`.")
    ] = False,
) -> None:
    """Show the quarantined rows of one partition: their ids, the rules they broke, and why."""
    from nightshift.cli import quarantine as command
    from nightshift.console.quarantine import show_kept

    with _explained():
        uc, day = _one(usecase), parse_partition(partition)
        rows = show_kept(uc, suite, day)
        if as_json:
            _print_json(rows)
        else:
            command.print_rows(uc, suite, day, rows)


@quarantine.command("fix")
def quarantine_fix(
    suite: _Suite,
    partition: _Partition,
    reason: Annotated[str, typer.Option(help="Why, for whoever has to judge it later.", callback=_not_empty)],
    row: Annotated[str | None, typer.Option(help="Id of the row, as `show` gives it.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="column=value, as often as needed; column= means null.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--from", help="What `show --json` wrote, with values of `row` edited.")
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decided; the login name by default.")] = None,
    usecase: _UseCase = None,
) -> None:
    """Record what quarantined rows should have said. `replay` lands them; so does every later landing."""
    import getpass

    from nightshift.cli import quarantine as command
    from nightshift.ingestion.fixes import record_fixes

    if (row is None) == (file is None) or (row is None) != (not settings):
        raise typer.BadParameter("give --row with --set, or --from")
    with _explained():
        uc, day = _one(usecase), parse_partition(partition)
        changes = (
            command.read_edited(uc, suite, day, file)
            if file
            else {str(row): command.parse_settings(settings or [])}
        )
        fixes = record_fixes(uc, suite, day, changes, reason=reason, by=by or getpass.getuser())
        command.print_fixes(suite, day, fixes)


@quarantine.command("replay")
def quarantine_replay(suite: _Suite, partition: _Partition, usecase: _UseCase = None) -> None:
    """Judge a partition again, quarantined rows as fixed and by the rules of today; land those that pass."""
    import getpass

    from nightshift.cli import quarantine as command

    with _explained():
        command.replay_kept(_one(usecase), suite, parse_partition(partition), by=getpass.getuser())


@label.command("export")
def label_export(
    file: Annotated[Path, typer.Argument(help="A new CSV file.")],
    usecase: _UseCase = None,
    night: Annotated[
        str | None, typer.Option(help="As of this night, YYYY-MM-DD.", show_default="the newest with a queue")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
) -> None:
    """Write the predictions that wait for a label, those first that teach the next model most."""
    from nightshift.cli import label as command

    with _explained():
        day = parse_partition(night) if night else None
        command.export(_one(usecase), day, file, limit)


@label.command("import")
def label_import(
    file: Annotated[Path, typer.Argument(help="What `export` wrote, with 0 or 1 under label.")],
    by: Annotated[str, typer.Option(help="Who labelled.")],
    usecase: _UseCase = None,
    known_from: Annotated[
        str | None,
        typer.Option(
            help="First night that knows the labels, for a lake that lives in the past.",
            show_default="the first night after now",
        ),
    ] = None,
    correct: Annotated[
        bool, typer.Option("--correct", help="Let labels take the place of others that people gave.")
    ] = False,
) -> None:
    """Record the labels of a file; all of them, or none when one row breaks a rule."""
    from nightshift.cli import label as command

    with _explained():
        day = parse_partition(known_from) if known_from else None
        command.take_in(_one(usecase), file, by, day, correct=correct)


@registry.command("list")
def registry_list(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """List every registered version, the newest first: its state, and who approved or rejected it."""
    from nightshift.cli import registry as command
    from nightshift.registry import states

    with _explained():
        for uc in _each(usecase):
            if as_json:
                for standing in reversed(states.standings(states.read(uc)).values()):
                    typer.echo(json.dumps(command.standing_json(uc, standing)))
            else:
                command.print_list(uc)


@registry.command("show")
def registry_show(
    version: _Version,
    card: Annotated[bool, typer.Option("--card", help="Its model card instead.")] = False,
    usecase: _UseCase = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts; the card as Markdown.")] = False,
) -> None:
    """Show one version: what made it, its state, and every decision about it; or its model card."""
    from nightshift.cli import registry as command
    from nightshift.registry import states

    with _explained():
        uc = _one(usecase)
        if card:
            from nightshift.registry.card import read_card

            text = read_card(uc, version)
            if as_json:
                typer.echo(json.dumps({"usecase": uc.name, "version": version, "card": text}))
            else:
                command.print_card(text)
            return
        standing = states.find(uc, version)
        if as_json:
            typer.echo(json.dumps(command.standing_json(uc, standing), indent=2))
        else:
            command.print_version(uc, standing)


@registry.command("at")
def registry_at(day: _Partition, usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Say which version was in force on a day, and whether the day's predictions name the same."""
    from nightshift.cli import registry as command

    with _explained():
        for uc in _each(usecase):
            found = command.at(uc, parse_partition(day))
            if as_json:
                typer.echo(json.dumps(found))
            else:
                command.print_at(found)


@registry.command("log")
def registry_log(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Print the deployment log, oldest first: who did what to which version, when and why."""
    from nightshift.cli import registry as command

    with _explained():
        for uc in _each(usecase):
            steps = command.find_log(uc)
            if as_json:
                for step in steps:
                    typer.echo(json.dumps(command.step_json(step)))
            else:
                command.print_log(uc, steps)


@audit.callback(invoke_without_command=True)
def audit_list(context: typer.Context, usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Who did what, when and why, newest first; the last line is the head, to be remembered elsewhere.

    Exit code 1: the chain is broken, and there is no head to remember.
    """
    from nightshift.cli import audit as command

    if context.invoked_subcommand is None:
        with _explained():
            access.require("audit")
            whole = command.print_entries(usecase, as_json=as_json)
        if not whole:
            raise typer.Exit(1)


@audit.command("verify")
def audit_verify(
    head: Annotated[
        str | None, typer.Option(help="<number>:<hash>, as an earlier `nightshift audit` or `maintain` said.")
    ] = None,
) -> None:
    """Check that no entry was edited, removed, put in or put elsewhere. Exit code 1 if one was."""
    from nightshift.cli import audit as command

    with _explained():
        whole = command.verify(head)
    if not whole:
        raise typer.Exit(1)


@app.command()
def retrain(
    reason: Annotated[str, typer.Option(help="Why; kept in the request.", callback=_not_empty)],
    partition: Annotated[
        str | None,
        typer.Option(help="Night whose knowledge the model is to have.", show_default="the newest"),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who asks; the login name by default.")] = None,
    usecase: _UseCase = None,
) -> None:
    """Ask for a new model by hand, whatever the policy says. It has to pass the gate like any other."""
    import getpass

    from nightshift.cli import loop
    from nightshift.monitoring.retrain import ask_by_hand

    with _explained():
        uc = _one(usecase)
        night = parse_partition(partition) if partition else _newest_night(uc)
        asked = ask_by_hand(uc, night, reason, by=by or getpass.getuser())
        loop.print_asked(uc, asked, reason)


@app.command()
def requests(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """List every request for a new model, newest first: its evidence, and what became of it."""
    from nightshift.cli import loop
    from nightshift.monitoring.requests import lives

    with _explained():
        for uc in _each(usecase):
            found = lives(uc)
            if as_json:
                for life in reversed(found):
                    typer.echo(json.dumps(loop.life_json(life)))
            else:
                loop.print_requests(uc, found)


@app.command()
def shadow(usecase: _UseCases = None, as_json: _Json = False) -> None:
    """Compare the challenger that awaits a decision with the champion, on the live nights both scored."""
    from nightshift.cli import loop
    from nightshift.inference.shadow import challenger
    from nightshift.monitoring.shadow import compare

    with _explained():
        for uc in _each(usecase):
            standing = challenger(uc)
            version = standing.version if standing else None
            compared = compare(uc, version) if version else None
            if not as_json:
                loop.print_shadow(uc, version, compared)
            elif compared is not None:
                typer.echo(compared.model_dump_json())


@app.command()
def rollback(
    version: Annotated[
        str | None,
        typer.Argument(
            help="An earlier champion.", show_default="the one it replaced; none after a rollback"
        ),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option(help="Why; kept in the deployment log. Asked for if missing.", callback=_not_empty),
    ] = None,
    effective_from: Annotated[
        str | None,
        typer.Option(
            "--from", help="First day it scores, YYYY-MM-DD.", show_default="the first not scored yet"
        ),
    ] = None,
    by: Annotated[str | None, typer.Option(help="Who decided; the login name by default.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; needs --reason.")] = False,
    usecase: _UseCase = None,
) -> None:
    """Put an earlier champion in force again, in one step, and say which nights are to be rebuilt."""
    import getpass

    from nightshift.cli import registry as command
    from nightshift.registry import deployments

    with _explained():
        uc = _one(usecase)
        current = deployments.newest(uc)
        wanted, first = command.rollback_plan(
            uc, version, parse_partition(effective_from) if effective_from else None, reason
        )
        if current is not None and current.version == wanted and effective_from is None:
            deployments.mirror(uc)
            typer.echo(
                f"version {wanted} is the champion already, from {current.effective_from} on; "
                "name a version to go back further"
            )
            return
        if yes and not reason:
            raise typer.BadParameter("--yes needs --reason: nobody is asked for it")
        if not yes:
            gone = f"version {current.version}" if current else "none"
            typer.echo(f"{uc.name}: version {wanted} takes the place of {gone} from {first} on")
        reason = reason or _not_empty(typer.prompt("Why"))
        if not yes:
            typer.confirm("Roll back?", abort=True)
        done = deployments.rollback(
            uc,
            wanted,
            effective_from=first,
            instead_of=current.version if current else None,
            reason=str(reason),
            by=by or getpass.getuser(),
        )
        command.print_rollback(uc, done)


@roles.command("grant")
def roles_grant() -> None:
    """Make the roles of people in PostgreSQL, and set what each may do in every schema."""
    from nightshift.cli import stack

    with _explained():
        stack.grant_roles()


@stack_app.command("up")
def stack_up() -> None:
    """Start every service of docker/compose.yaml as a process on loopback."""
    from nightshift.cli import stack

    with _explained():
        stack.up(lambda what: typer.echo(f"starting {what}", err=True))


@stack_app.command("down")
def stack_down() -> None:
    """Stop what `stack up` started, and check that it is gone."""
    from nightshift.cli import stack

    with _explained():
        stopped = stack.down()
    typer.echo(f"stopped, and gone: {', '.join(stopped)}" if stopped else "nothing was running")


@stack_app.command("status")
def stack_status() -> None:
    """Show which processes of it run."""
    from nightshift.cli import stack

    with _explained():
        stack.status()


@stack_app.command(
    "run",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
def stack_run(
    command: Annotated[list[str], typer.Argument(help="Program and arguments.")],
    service: Annotated[str, typer.Option(help="Whose view: api-server knows Airflow's database.")] = "worker",
) -> None:
    """Run a command that sees what the workers see: `nightshift stack run nightshift status`."""
    from nightshift.cli import stack

    with _explained():
        stack.run(service, command)


@stack_app.command("secrets")
def stack_secrets(
    folder: Annotated[Path, typer.Argument(help="Where compose.yaml looks for them.")] = Path(
        "docker/secrets"
    ),
) -> None:
    """Write the secrets of the containers, each random; what is there is left alone."""
    from nightshift.cli import stack

    with _explained():
        stack.secrets(folder)


@stack_app.command("prepare-storage", hidden=True)
def stack_prepare_storage(
    buckets: list[str],
    logs: Annotated[str, typer.Option(help="The bucket of task logs.")] = "airflow-logs",
    keep_days: Annotated[int, typer.Option(min=1, help="How old a task log may get.")] = 90,
) -> None:
    """Create databases, roles and buckets: the first job of compose.yaml."""
    from nightshift.cli import stack

    with _explained():
        stack.prepare_storage(buckets, logs, keep_days)


@stack_app.command("prepare-airflow", hidden=True)
def stack_prepare_airflow() -> None:
    """Create Airflow's tables, pools, connections and first user: the second job of compose.yaml."""
    from nightshift.cli import stack

    with _explained():
        stack.prepare_airflow()


def _one(usecase: str | None) -> UseCase:
    """Load the use case that a command concerns. Nobody's guess decides whose model is rolled back."""
    from nightshift.usecase import load_usecase, usecase_names

    names = [usecase] if usecase else usecase_names()
    if len(names) != 1:
        raise DataError(
            f"this command concerns one use case, and there are {len(names)}: {', '.join(names) or 'none'}",
            rule="a command that concerns one use case is told which, unless there is only one",
            where="--usecase",
            cure=f"add --usecase {names[0]}, or another" if names else "make new-usecase writes one",
        )
    return load_usecase(names[0])


def _newest_night(uc: UseCase) -> date:
    from nightshift.lake.tables import partition_versions

    return max(partition_versions(uc, "features"), default=uc.history_start)


def _each(usecase: str | None) -> Iterator[UseCase]:
    from nightshift.usecase import load_usecase, usecase_names

    return map(load_usecase, [usecase] if usecase else usecase_names())


def _print_json(rows: Iterable[Any], **more: str) -> None:
    for row in rows:
        typer.echo(json.dumps({**more, **asdict(row)}, default=str))


@contextmanager
def _explained() -> Iterator[None]:
    """Turn an error raised on purpose into its own words and exit code 1; anything else is a bug, shown."""
    try:
        yield
    except DataError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    except NightshiftError as error:
        known = "\n  cure:" in str(error)
        usual = "" if known else "\n  cure:  `nightshift doctor` checks the usual causes"
        typer.echo(f"error: {error}{usual}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo("interrupted; `nightshift down` stops what still runs", err=True)
        sys.exit(130)


access.guard(app, _explained)
