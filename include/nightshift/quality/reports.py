"""Reports of validations: one HTML page a partition, and Great Expectations' Data Docs of what is broken.

The Data Docs of a batch take a seventh of a second and show no partitions, so a batch without fault does
without. Pages load nothing from anywhere, so they open without a network. They are written under
``<home>/reports/<use case>/<suite>/`` and replaced when the partition is validated again.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from nightshift.lake.store import disk_explained
from nightshift.quality import engine
from nightshift.quality.engine import Finding
from nightshift.quality.suites import Severity
from nightshift.settings import settings
from nightshift.usecase import UseCase


@dataclass(frozen=True)
class Outcome:
    """What one rule said about one partition. ``success`` None: it was not judged, and ``seen`` says why."""

    rule: str
    severity: Severity
    reason: str
    expectation: str
    success: bool | None
    seen: str
    broken: int = 0
    sample: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """One word for people."""
        if self.success is None:
            return "not judged"
        if self.success:
            return "holds"
        return {"quarantine": "quarantined", "stop": "stopped", "warn": "warned"}[self.severity]


@dataclass(frozen=True)
class PartitionReport:
    """All that is known about one partition; ``samples`` are quarantined rows as JSON."""

    label: str
    rows_in: int
    quarantined: int
    outcomes: tuple[Outcome, ...]
    samples: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The worst of its outcomes."""
        verdicts = {outcome.verdict for outcome in self.outcomes}
        return next((word for word in ("stopped", "quarantined", "warned") if word in verdicts), "holds")


def write_reports(
    uc: UseCase, suite: str, reports: Sequence[PartitionReport], findings: Sequence[Finding]
) -> dict[str, str]:
    """Write the pages (HTML, and JSON beside it) and return the URI of each partition's page."""
    folder = settings().home / "reports" / uc.name / suite
    folder.mkdir(parents=True, exist_ok=True)
    docs = ""
    if any(report.verdict != "holds" for report in reports):
        labels = [report.label for report in reports]
        span = labels[0] if len(labels) == 1 else f"{labels[0]}_{labels[-1]}"
        docs = f"{span}.datadocs.html"
        _write(folder / docs, _offline(engine.data_docs(suite, span, findings, uc.hidden_columns)))
    pages = {}
    for report in reports:
        content = {"suite": suite, "verdict": report.verdict, **vars(report)}
        # Not indented: that takes Python's own encoder, which took a fifth of the time of a large rebuild.
        _write(folder / f"{report.label}.json", json.dumps(content, default=vars))
        page = folder / f"{report.label}.html"
        _write(page, _page(uc.name, suite, report, docs))
        pages[report.label] = page.as_uri()
    return pages


def _write(file: Path, text: str) -> None:
    """Replace ``file`` in one step: a reader, or a second run of the partition, never sees half a page."""
    with disk_explained(file):
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                stream.write(text)
            Path(name).replace(file)
        finally:
            Path(name).unlink(missing_ok=True)


# Great Expectations' page ----------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}
body{color:#1c2430;background:#fff}
table{border-collapse:collapse;width:100%;margin:1rem 0}
th,td{border-bottom:1px solid #d7dce3;padding:.4rem .6rem;text-align:left;vertical-align:top}
code,pre{font:13px/1.4 ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.badge{border-radius:.3rem;padding:.1rem .5rem;color:#fff;white-space:nowrap}
.holds{background:#2e7d4f}.warned{background:#9a6700}.quarantined{background:#b35900}.stopped{background:#b3261e}
.not-judged{background:#6b7480}small{color:#5b6675}
@media(prefers-color-scheme:dark){body{color:#e3e8ef;background:#14181f}th,td{border-color:#353d49}
small{color:#9aa5b4}a{color:#8ab8ff}}
"""
_OUTSIDE = re.compile(
    r"<script\b[^>]*\bsrc=[^>]*>\s*</script>|<link\b[^>]*>|<img\b[^>]*>|url\(['\"]?https?:[^)]*\)|@import[^;]*;",
    re.IGNORECASE,
)


def _offline(page: str) -> str:
    """Return Great Expectations' page in our style, without what it would load from ten other hosts."""
    return _OUTSIDE.sub("", page).replace("</head>", f"<style>{_STYLE}</style></head>", 1)


# Our page --------------------------------------------------------------------------------------------


def _page(usecase: str, suite: str, report: PartitionReport, docs: str) -> str:
    title = escape(f"{usecase}: {suite} {report.label}")
    order = ("stopped", "quarantined", "warned", "not judged", "holds")
    rows = "".join(
        _row(outcome) for outcome in sorted(report.outcomes, key=lambda item: order.index(item.verdict))
    )
    samples = "".join(f"<li><code>{escape(row)}</code></li>" for row in report.samples)
    listed = f"<h2>Quarantined rows (first {len(report.samples)})</h2><ol>{samples}</ol>" if samples else ""
    link = (
        f'<p><small><a href="{escape(docs)}">Great Expectations Data Docs of this batch</a></small></p>'
        if docs
        else ""
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title} {_badge(report.verdict)}</h1>"
        f"<p>{report.rows_in} rows in = {report.rows_in - report.quarantined} accepted "
        f"+ {report.quarantined} quarantined</p>"
        "<table><thead><tr><th>Verdict</th><th>Rule</th><th>Seen</th><th>Why the rule exists</th></tr>"
        "</thead>"
        f"<tbody>{rows}</tbody></table>{listed}{link}</body></html>"
    )


def _row(outcome: Outcome) -> str:
    sample = "".join(f"<br><code>{escape(row)}</code>" for row in outcome.sample)
    return (
        f"<tr><td>{_badge(outcome.verdict)}</td><td>{escape(outcome.rule)}<br><small>{escape(outcome.expectation)}"
        f"</small></td><td>{escape(outcome.seen)}{sample}</td><td>{escape(outcome.reason)}</td></tr>"
    )


def _badge(verdict: str) -> str:
    return f'<span class="badge {verdict.replace(" ", "-")}">{verdict}</span>'
