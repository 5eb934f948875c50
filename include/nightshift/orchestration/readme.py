"""Writes ``dags/README.md`` from the DAGs themselves; a test fails when the page has drifted from them.

Run it with ``python -m nightshift.orchestration.readme USECASE``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from nightshift.orchestration.defaults import IN_AIRFLOW
from nightshift.settings import settings

_HEADER = """# The DAGs

Written from the DAG files by `make dags-readme`; do not edit it by hand.

Each DAG exists once for each use case, as `<use case>.<name>`. One **partition** is one day; its key
travels down the chain of assets:

```
ingest ─raw─► features ─features─► score ─predictions─► monitor ─retrain_request─► train ─model─►
```

| DAG | Starts | Parameters | Updates |
| --- | --- | --- | --- |
"""


def render(folder: Path, usecase: str) -> str:
    """Return the page for the DAG files in ``folder``; those of ``usecase`` describe them."""
    from airflow.dag_processing.dagbag import DagBag

    dags: dict[str, Any] = {}
    for _, dag in sorted(DagBag(folder).dags.items()):
        if dag.dag_id.startswith(f"{usecase}."):
            dags[Path(dag.fileloc).name] = dag
    rows, sections = [], []
    for file, dag in sorted(dags.items()):
        name = dag.dag_id.split(".", 1)[1]
        params = ", ".join(f"`{param}`" for param in dag.params) or "none"
        updated = sorted({asset.name.split(".", 1)[1] for task in dag.tasks for asset in task.outlets})
        updates = ", ".join(f"`{asset}`" for asset in updated) or "nothing"
        rows.append(f"| [`{name}`]({file}) | {_starts(dag)} | {params} | {updates} |")
        sections.append(f"\n## `{name}`\n\n{_body(dag.doc_md)}\n\n{_graph(dag)}\n")
    return _HEADER + "\n".join(rows) + "\n" + "".join(sections)


def _starts(dag: Any) -> str:
    condition = getattr(dag.timetable, "asset_condition", None)
    if condition is not None:
        return f"when `{condition.name.split('.', 1)[1]}` is updated"
    expression = getattr(dag.timetable, "expression", None)
    return f"`{expression}`" if expression else "by hand"


def _body(doc_md: str) -> str:
    """Drop the title line: the page's own heading names the DAG."""
    own = doc_md.partition(IN_AIRFLOW)[0]
    return "\n".join(line for line in own.strip().splitlines() if not line.startswith("###")).strip()


def _graph(dag: Any) -> str:
    lines = []
    for task in dag.topological_sort():
        lines += [f"  {task.task_id} --> {downstream}" for downstream in sorted(task.downstream_task_ids)]
        if not task.downstream_task_ids | task.upstream_task_ids:
            lines.append(f"  {task.task_id}")
    return "```mermaid\nflowchart LR\n" + "\n".join(lines) + "\n```"


if __name__ == "__main__":
    page = settings().project / "dags" / "README.md"
    page.write_text(render(page.parent, sys.argv[1]), encoding="utf-8")
