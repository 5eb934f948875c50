"""Importing every file in ``dags/``, against one DAG file without tasks, each in a fresh process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightshift.settings import settings

from .harness import Comparison, DifferentResultsError, Timed, environment

_EMPTY = '''"""A DAG file that holds nothing."""

from airflow.sdk import DAG

with DAG("empty"):
    pass
'''

# Loads files as Airflow's DAG processor does, each as a module of its own, and says which DAGs they made.
_PARSE = """
import json, sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from airflow.sdk.definitions._internal.contextmanager import DagContext

for number, file in enumerate(sys.argv[1:]):
    name = f"dag_file_{number}"
    loader = SourceFileLoader(name, file)
    module = module_from_spec(spec_from_loader(name, loader))
    sys.modules[name] = module
    DagContext.current_autoregister_module_name = name
    loader.exec_module(module)
print(json.dumps(sorted(dag.dag_id for dag, _ in DagContext.autoregistered_dags)))
"""


@contextmanager
def comparison(folder: Path, *, quick: bool) -> Iterator[Comparison]:
    """Compare the two imports; nothing to shorten when ``quick``."""
    del quick
    files = sorted(map(str, (settings().project / "dags").glob("*.py")))
    empty = folder / "empty.py"
    empty.write_text(_EMPTY, encoding="utf-8")
    airflow = {"AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    with environment(folder, **airflow):
        yield Comparison(
            name="importing dags/",
            against="importing one empty DAG file",
            measure="ratio",
            at_most=1.3,
            ours=lambda number: _parse(*files),
            other=lambda number: _parse(str(empty)),
            check=_check,
            note=f"A fresh process imports all {len(files)} files of dags/; another one imports a file that "
            "holds `from airflow.sdk import DAG` and a DAG without tasks. Processor seconds of the whole "
            "process: other work on the machine changes them little, and on an idle machine they are the "
            "seconds that pass.",
        )


def _parse(*files: str) -> Timed:
    before = _processor_seconds()
    parsed = subprocess.run(
        [sys.executable, "-c", _PARSE, *files], check=True, stdout=subprocess.PIPE, text=True
    )
    return Timed(_processor_seconds() - before, json.loads(parsed.stdout.splitlines()[-1]))


def _processor_seconds() -> float:
    """Return what ended child processes have used. Imports run on one thread and wait for nothing."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _check(ours: Any, other: Any) -> None:
    """The two hold different DAGs on purpose; each process must have built all of its own."""
    # The first use case has no source that forgets, so nothing of it is captured.
    others = {"check_usecases", "capture"}
    names = {Path(file).stem for file in (settings().project / "dags").glob("*.py")} - others
    if other != ["empty"] or {dag_id.partition(".")[2] for dag_id in ours} != names:
        raise DifferentResultsError(f"parsed {ours} and {other}, expected {sorted(names)} and one empty DAG")
