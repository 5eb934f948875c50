"""Model cards, and the summary that a person reads before approving a challenger.

A card is written when its version is registered, and again only when that was evaluated again, from what the
training and the evaluation left in MLflow and from the words of ``include/usecases/<name>/card.yml``: after
Mitchell et al. 2019, "Model Cards for Model Reporting". It lies beside the model's run as ``card.md`` and
``card.html``. What happens to the version later is in the deployment log, not on the card.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.errors import DataError, TransientError
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Decision
from nightshift.settings import settings
from nightshift.usecase import UseCase

MARKDOWN, HTML = "card.md", "card.html"
_SHOWN = ("roc_auc", "pr_auc", "log_loss", "brier", "ece", "precision", "recall", "cost", "base_rate", "rows")
_OF_A_SLICE = ("rows", "base_rate", "roc_auc", "pr_auc", "ece")
_STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; display: block; overflow-x: auto }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #8886 }
code { overflow-wrap: anywhere }
"""


class Words(BaseModel):
    """``card.yml``: what only people can say about the models of a use case, in sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    intended_use: tuple[str, ...] = Field(min_length=1, description="Who decides what by its scores.")
    not_for: tuple[str, ...] = Field((), description="Uses it was not made for.")
    data: tuple[str, ...] = Field((), description="Where the data come from, their licence, what they lack.")
    limits: tuple[str, ...] = Field(
        min_length=1, description="Where it is known to be weak, and known leaks."
    )
    ethics: tuple[str, ...] = Field(
        min_length=1, description="Whom its mistakes hurt, and what is done about it."
    )


def words(uc: UseCase) -> Words | None:
    """Return the use case's own words; None when it has no ``card.yml``.

    Raises:
        DataError: The file is not YAML, or breaks the schema.
    """
    file = settings().usecases / uc.name / "card.yml"
    if not file.is_file():
        return None
    try:
        return Words.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ValidationError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(
            f"the words of the model cards of {uc.name} cannot be used: {error}",
            rule="card.yml follows nightshift.registry.card.Words",
            where=str(file),
            cure="mend the keys named above",
        ) from error


def keep_card(uc: UseCase, version: str) -> None:
    """Write the card of a registered version beside its run in MLflow, once for each of its evaluations."""
    client = tracking.client(uc)
    registered = client.get_model_version(uc.name, version)
    run_id = str(registered.run_id)
    run = client.get_run(run_id)
    present = {item.path for item in client.list_artifacts(run_id)}
    if {MARKDOWN, HTML} <= present and _evidence(run) in (_artifact(uc, run_id, HTML) or ""):
        return
    text = _card(uc, registered, run, _evaluation(uc, run_id))
    client.log_text(run_id, text, MARKDOWN)
    client.log_text(run_id, _page(f"{uc.title}, version {version}", text), HTML)


def read_card(uc: UseCase, version: str, form: str = MARKDOWN) -> str:
    """Return the card of a version, as Markdown or (``form=HTML``) as a whole page.

    Raises:
        DataError: There is no such version, or it was registered before cards were kept.
    """
    from mlflow.exceptions import MlflowException

    try:
        run_id = tracking.client(uc).get_model_version(uc.name, version).run_id
    except MlflowException as error:
        raise DataError(
            f"{uc.name} has no model version {version!r}",
            rule="cards are of registered versions",
            where=f"registered model {uc.name} in {settings().mlflow_uri}",
            cure="`nightshift registry list` shows the versions there are",
        ) from error
    text = _artifact(uc, str(run_id), form)
    if text is None:
        raise DataError(
            f"version {version} of {uc.name} has no card",
            rule="a version gets its card when it is registered",
            where=f"MLflow run {run_id}",
            cure="it is older than cards; train a new model",
        )
    return text


def summary(uc: UseCase, version: str, decision: Decision, mlflow_address: str) -> str:
    """Return, as Markdown, what a person needs to decide about a challenger.

    Args:
        version: Its registered version.
        decision: The gate's.
        mlflow_address: Where MLflow's UI answers, for links.
    """
    candidate = decision.candidate
    evaluation = _evaluation(uc, candidate.run_id) or {}
    champion: dict[str, Any] = evaluation.get("champion") or {}
    tags = tracking.client(uc).get_run(candidate.run_id).data.tags
    judged = {f"version {version}": _challenge(evaluation, candidate.run_id)}
    if evaluation.get("champion_judged"):
        judged[f"champion (version {champion['version']})"] = evaluation["champion_judged"]
    incumbent = (
        f"Version {champion['version']} ({champion['trainer']}), champion from {champion['effective_from']} "
        f"on, trained on days up to {champion['trained_through']}."
        if champion
        else "There is none yet."
    )
    run = tracking.run_address(uc, candidate.run_id, mlflow_address)
    names = {item.path for item in tracking.client(uc).list_artifacts(candidate.run_id)}
    pages = [f"[{name}]({run}/artifacts/{name})" for name in sorted(names) if name.endswith(".html")]
    period = f" on {evaluation['start']} to {evaluation['end']}" if evaluation else ""
    return "\n".join(
        [
            f"**Candidate:** version {version} ({candidate.trainer}), trained on what was known on "
            f"{candidate.trained_night}, on days up to {candidate.trained_through}.",
            "",
            f"**Champion:** {incumbent}",
            "",
            f"**Metrics**{period}, which neither was trained on:",
            "",
            *_metrics(judged, decision.metrics),
            "",
            *_overrides(tags),
            "**The gate says yes:**",
            "",
            *(f"- {_plain(reason)}" for reason in decision.reasons),
            "",
            f"**Evidence:** {', '.join([f'[MLflow run]({run})', *pages])}; evaluation "
            f"`{tags.get('evaluation_hash', 'none')[:12]}`, "
            f"model `{candidate.content_hash[:12]}`, snapshot `{candidate.snapshot_hash[:12]}`.",
            "",
            "Approved, it scores from the next partition on. Rejected, or not decided in time, it is never "
            "promoted. Please say why in the comment.",
        ]
    )


def _card(uc: UseCase, registered: Any, run: Any, evaluation: Mapping[str, Any] | None) -> str:
    said, tags = words(uc), registered.tags
    unsaid = ("Nobody has written this down yet: it belongs into `card.yml` of the use case.",)
    judged = _challenge(evaluation or {}, registered.run_id)
    lines = [
        f"# {uc.title}: version {registered.version}",
        "",
        " ".join(uc.description.split()),
        "",
        f"- Owner: {uc.owner}",
        f"- Model: {tags['trainer']}, content hash `{tags['content_hash'][:12]}`",
        f"- Predicts: `{uc.label.column}` of each `{uc.entity}`, as a calibrated probability; acts from "
        f"{run.data.params.get('threshold', 'the cheapest threshold')} on",
        f"- A needless action costs {uc.costs.false_positive:g}, a missed one {uc.costs.false_negative:g}",
        "",
        "## Intended use",
        "",
        *_list(said.intended_use if said else unsaid),
    ]
    if said and said.not_for:
        lines += ["", "It was not made for:", "", *_list(said.not_for)]
    lines += [
        "",
        "## Data",
        "",
        f"Snapshot `{tags['snapshot_hash'][:12]}`: what was known in the night of {tags['trained_night']}. "
        f"No day after {tags['trained_through']} shaped the model.",
        "",
        "| part | days | rows |",
        "| --- | --- | ---: |",
        *_windows(run),
        "",
        f"{len(uc.features.columns)} features; {', '.join(uc.features.categorical)} are categories.",
        "",
        *_list(said.data if said else ()),
        "",
        "## Metrics",
        "",
    ]
    if evaluation and judged:
        lines += [
            f"On {evaluation['start']} to {evaluation['end']}, days that it was not trained on "
            f"({_evidence(run)}):",
            "",
            *_overrides(run.data.tags),
        ]
        compared = {"this version": judged}
        if evaluation.get("champion_judged"):
            compared[f"champion (version {evaluation['champion']['version']})"] = evaluation[
                "champion_judged"
            ]
        lines += [*_metrics(compared, {}), *_slices(judged)]
    else:
        lines += ["It was registered without an evaluation."]
    lines += ["", "## Limits and known leaks", "", *_list(said.limits if said else unsaid)]
    lines += ["", "## Ethics", "", *_list(said.ethics if said else unsaid)]
    lines += [
        "",
        "## How to reproduce",
        "",
        f"`nightshift reproduce {registered.version} --usecase {uc.name}` trains it again and says whether "
        "it is the same.",
        "",
        f"- MLflow run `{registered.run_id}`: its `manifest.json` holds configuration, environment and seeds",
        f"- Code: commit `{run.data.tags.get('git_commit', 'unknown')}`, difference "
        f"`{run.data.tags.get('git_diff_hash', 'unknown')[:12]}`",
        f"- Environment: `constraints.txt` with hash `{run.data.tags.get('lock_hash', 'unknown')[:12]}`",
        f"- Seed: {run.data.tags.get('seed', 'unknown')}",
        "",
    ]
    return "\n".join(lines)


def holdout_slices(uc: UseCase, run_id: str) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Return the holdout metrics of the model of a run, per slice and value; empty where none were kept."""
    found: Mapping[str, Mapping[str, Mapping[str, float]]] = _challenge(
        _evaluation(uc, run_id) or {}, run_id
    ).get("slices", {})
    return found


def _windows(run: Any) -> Iterator[str]:
    for logged in run.inputs.dataset_inputs:
        window = json.loads(logged.dataset.source)
        yield f"| {logged.tags[0].value} | {window['start']} to {window['end']} | {window['rows']:,} |"


def _metrics(judged: Mapping[str, Mapping[str, Any]], otherwise: Mapping[str, float]) -> list[str]:
    """Return a table: a line a metric, a column a model, each value with its interval where there is one."""
    found = {name: {**otherwise, **of.get("metrics", {})} for name, of in judged.items()}
    lines = [f"| metric | {' | '.join(judged)} |", f"| --- |{' ---: |' * len(judged)}"]
    for metric in _SHOWN:
        if any(metric in metrics for metrics in found.values()):
            values = (_value(metric, found[name].get(metric), judged[name]) for name in judged)
            lines.append(f"| {metric} | {' | '.join(values)} |")
    return lines


def _slices(judged: Mapping[str, Any]) -> Iterator[str]:
    for column, values in judged.get("slices", {}).items():
        yield from ("", f"By {column}:", "", f"| {column} | {' | '.join(_OF_A_SLICE)} |")
        yield f"| --- |{' ---: |' * len(_OF_A_SLICE)}"
        for value, metrics in values.items():
            figures = (_value(metric, metrics.get(metric), {}) for metric in _OF_A_SLICE)
            yield f"| {_plain(value)} | {' | '.join(figures)} |"


def _value(metric: str, value: float | None, judged: Mapping[str, Any]) -> str:
    if value is None:
        return "undefined"
    if metric == "rows":
        return f"{value:,.0f}"
    interval = (judged.get("intervals") or {}).get(metric)
    between = f" ({interval['low']:.4f} to {interval['high']:.4f})" if interval else ""
    return f"{value:.4f}{between}"


def _evidence(run: Any) -> str:
    """Return the words that name the evaluation of a run; empty before it was evaluated."""
    identity = run.data.tags.get("evaluation_hash", "")
    return f"evaluation {identity[:12]}" if identity else ""


def _overrides(tags: Mapping[str, str]) -> list[str]:
    if "holdout_override" not in tags:
        return []
    return [f"Judged on this holdout more than once: {_plain(tags['holdout_override'])}", ""]


def _challenge(evaluation: Mapping[str, Any], run_id: str) -> Mapping[str, Any]:
    of_runs = {item["candidate"]["run_id"]: item["judged"] for item in evaluation.get("challenges", [])}
    found: Mapping[str, Any] = of_runs.get(run_id, {})
    return found


def _list(items: Sequence[str]) -> list[str]:
    return [f"- {' '.join(item.split())}" for item in items]


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is, in a table too."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _evaluation(uc: UseCase, run_id: str) -> dict[str, Any] | None:
    text = _artifact(uc, run_id, "evaluation.json")
    return json.loads(text) if text is not None else None


def _artifact(uc: UseCase, run_id: str, name: str) -> str | None:
    """Return a text artifact of a run; None when it has none of that name."""
    from mlflow.exceptions import MlflowException

    client = tracking.client(uc)
    if name not in {item.path for item in client.list_artifacts(run_id)}:
        return None
    try:
        return Path(client.download_artifacts(run_id, name)).read_text(encoding="utf-8")
    except (OSError, MlflowException) as error:
        raise TransientError(f"{name} of MLflow run {run_id} cannot be fetched: {error}") from error


def _page(title: str, markdown: str) -> str:
    from markdown_it import MarkdownIt

    # Words of a use case are text: HTML in them is shown, not run.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n{body}</body></html>\n"
    )
