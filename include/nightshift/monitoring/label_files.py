"""The round trip of labels through a CSV file that a person fills in, with a spreadsheet or without.

What is written opens in Excel as it is. What is read may have been saved by it: with a byte order mark, with
semicolons or tabs, in UTF-16, with empty lines. Of a file that breaks a rule, nothing is imported, and the
error names the row.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.monitoring import labelling
from nightshift.training import feedback
from nightshift.training.feedback import Label
from nightshift.training.snapshot import LABEL_AVAILABLE_ON
from nightshift.usecase import UseCase

_LABEL, _SCORE, _REASON = "label", "score", "reason"
_DELIMITERS = ",;\t"
# A spreadsheet takes text that begins so for a formula (OWASP, "CSV Injection").
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
# So many broken rows are named; whoever has more of them mends these first.
_NAMED = 5


@dataclass(frozen=True)
class Imported:
    """What became of a file: rows recorded, rows that say what is known already, rows without a label."""

    recorded: int
    unchanged: int
    empty: int
    known_from: date


def export(uc: UseCase, night: date, file: Path, limit: int | None = None) -> int:
    """Write what waits for a label as of ``night``, the newest night's first, and return the number of rows.

    Columns: the entity, the event time (UTC), the features that ``labelling.show`` names, ``score``,
    ``reason``, and an empty ``label``.

    Raises:
        DataError: The file is there already, or cannot be written.
    """
    rows = labelling.waiting(uc, night)
    if limit is not None:
        rows = rows.slice(0, limit)
    shown = [name for name in uc.labelling.show or uc.slices if name not in (uc.entity, uc.event_time)]
    features: dict[str, list[object]] = {}
    if rows.num_rows:
        nights = pc.unique(rows["partition"]).to_pylist()
        found = tables.newest_rows(uc, "features", nights, uc.entity, rows[uc.entity].to_pylist())
        for table in found:
            for row in table.select([uc.entity, *shown]).to_pylist():
                features[row[uc.entity]] = [row[name] for name in shown]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([uc.entity, uc.event_time, *shown, _SCORE, _REASON, _LABEL])
    for row in rows.to_pylist():
        at = row[uc.event_time]
        writer.writerow(
            [
                _safe(row[uc.entity]),
                f"{at:%Y-%m-%d %H:%M}" if at else "",
                *map(_safe, features.get(row[uc.entity], [None] * len(shown))),
                f"{row['score']:.4f}",
                _reason(row),
                "",
            ]
        )
    try:
        # The mark at the beginning is what makes Excel read UTF-8. An existing file may hold hours of work.
        with file.open("x", encoding="utf-8-sig", newline="") as target:
            target.write(text.getvalue())
    except OSError as error:
        raise DataError(
            f"{file} cannot be written: {error.strerror or error}",
            rule="labels are exported to a new file: one that is there may be half filled in",
            where=str(file),
            cure="choose another name, or import the file first and move it away",
        ) from error
    return int(rows.num_rows)


def import_labels(
    uc: UseCase,
    file: Path,
    *,
    by: str,
    at: datetime,
    known_from: date | None = None,
    correct: bool = False,
) -> Imported:
    """Record the labels that a person filled in; all of them, or none when one row breaks a rule.

    Rows without a label are left for later. Columns other than the entity and ``label`` are not read.

    Args:
        uc: The use case.
        file: The CSV file.
        by: Who labelled.
        at: Now (aware).
        known_from: The first night that knows the labels, by default the first after ``at``. For a lake that
            lives in the past: a night after the newest one that it has.
        correct: Whether a label may take the place of another one that a person gave.

    Raises:
        DataError: The file cannot be read or lacks a column; a row has an unknown entity, a label that is not
            0 or 1, an entity that another row has, or contradicts what the pipeline or a person said; nobody
            is named; or a night that has run already is to know the labels.
    """
    if not by.strip():
        raise _refused(file, "nobody is named", "a label says who gave it", "name the person with --by")
    night = known_from or feedback.first_night(uc, at)
    newest = max(tables.partition_versions(uc, "features"), default=date.min)
    if known_from is not None and known_from <= newest:
        raise DataError(
            f"the night of {known_from} cannot know what is said now",
            rule=f"labels count from a night after the newest one, {newest}: no earlier result may change",
            where=f"{uc.name}, {file}",
            cure="name a later night, or leave --known-from out: the first night after now",
        )
    filled, empty = _filled(uc, file)
    days = feedback.predicted_on(uc, list(dict.fromkeys(entity for _, entity, _ in filled)))
    labels, problems = [], []
    for line, entity, text in filled:
        where = f"row {line}"
        if entity not in days:
            problems.append(f"{where}: {uc.entity} {entity!r} is unknown: no prediction was made of it")
        elif text not in ("0", "1"):
            problems.append(f"{where}: label {text!r} of {entity} is not 0 or 1")
        else:
            labels.append(Label(entity, days[entity], int(text), where))
    lines: dict[str, int] = {}
    for line, entity, _ in filled:
        if (first := lines.setdefault(entity, line)) != line:
            problems.append(f"row {line}: {entity} is in row {first} already")
    if problems:
        raise _refused(
            file,
            _listed(problems),
            "each row has an entity that was predicted, once, and a label that is 0, 1 or empty",
            "correct these rows and import the file again; nothing was imported",
        )
    new = _new(uc, file, labels)
    recorded = feedback.record(
        uc, new, by=by.strip(), at=at.astimezone(UTC), known_from=night, correct=correct
    )
    return Imported(recorded, len(labels) - recorded, empty, night)


def _filled(uc: UseCase, file: Path) -> tuple[list[tuple[int, str, str]], int]:
    """Return line, entity and label of every row that has a label, and how many rows have none."""
    text = _text(file)
    header_line = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header_line.count)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise _refused(
            file, f"is not CSV: {error}", "a quoted field ends with a quote", "save the file as CSV again"
        ) from error
    for name in (uc.entity, _LABEL):
        if header.count(name) != 1:
            found = f"{header.count(name)} times" if name in header else "missing"
            raise _refused(
                file,
                f"column {name!r} is {found}; row 1 has {', '.join(header) or 'nothing'}",
                f"row 1 names the columns {uc.entity} and {_LABEL}, once each",
                "keep the first row as `nightshift label export` wrote it",
            )
    places = header.index(uc.entity), header.index(_LABEL)
    problems, filled, empty = [], [], 0
    for line, row in rows:
        if len(row) <= max(places):
            problems.append(f"row {line}: {len(row)} columns instead of {len(header)}")
            continue
        entity, label = (row[place].strip() for place in places)
        if label:
            filled.append((line, _unsafe(entity), label))
        else:
            empty += 1
    if problems:
        raise _refused(
            file,
            _listed(problems),
            "each row has every column",
            "save the file as CSV again, or delete the row",
        )
    return filled, empty


def _text(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _refused(
            file, f"cannot be read: {error.strerror or error}", "the file exists", "check its name"
        ) from error
    marked = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    try:
        return content.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _refused(
            file,
            f"row {line}: byte {content[error.start]:#04x} is not UTF-8",
            "a file of labels is UTF-8, or UTF-16 with its mark",
            'save it in Excel as "CSV UTF-8 (comma delimited)"',
        ) from error


def _new(uc: UseCase, file: Path, labels: Sequence[Label]) -> list[Label]:
    """Return the labels that the pipeline does not have, after refusing those that contradict it."""
    known: dict[str, int | None] = {}
    for day in sorted({label.day for label in labels}):
        columns = [uc.entity, uc.label.column, LABEL_AVAILABLE_ON]
        rows = tables.read_partitions(uc, "labels", day, day, columns=columns)
        if not rows.num_rows:
            continue
        known |= dict.fromkeys(feedback.undefined(uc, rows, date.max).to_pylist())
        said = rows.filter(pc.is_valid(rows[uc.label.column]))
        known |= dict(
            zip(said[uc.entity].to_pylist(), map(int, said[uc.label.column].to_pylist()), strict=True)
        )
    problems = [
        f"{label.where}: {label.entity} has "
        + ("no outcome" if (value := known[label.entity]) is None else f"the label {value}")
        + f" by the pipeline, not {label.value}"
        for label in labels
        if label.entity in known and known[label.entity] != label.value
    ]
    if problems:
        raise _refused(
            file,
            _listed(problems),
            "what the pipeline knows wins over what a person says",
            "take these rows out of the file; if the pipeline is wrong, have its source corrected. "
            "Nothing was imported",
        )
    return [label for label in labels if label.entity not in known]


def _reason(row: Mapping[str, object]) -> str:
    unsure = f"the model is unsure (entropy {row['entropy']:.2f} of 1)"
    return (
        unsure
        if row["rank"] == 1
        else f"{unsure} and it differs from those before (distance {row['distance']:.1f})"
    )


def _safe(value: object) -> object:
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return f"{value:.6g}" if isinstance(value, float) else value


def _unsafe(text: str) -> str:
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _listed(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return "; ".join(problems[:_NAMED]) + more


def _refused(file: Path, message: str, rule: str, cure: str) -> DataError:
    return DataError(f"{file.name}: {message}", rule=rule, where=str(file), cure=cure)
