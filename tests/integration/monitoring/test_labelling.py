"""What a person is asked to label, and what becomes of the answers, from the queue to the training rows."""

from __future__ import annotations

import csv
import io
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from threading import Barrier, local
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tests import forked, synthetic
from tests.lakes import environment, put_lake, sealed_rows
from typer.testing import CliRunner

from nightshift import stages
from nightshift.cli.main import app
from nightshift.errors import DataError
from nightshift.evaluation.backtest import folds_of
from nightshift.lake import append_log, tables
from nightshift.monitoring import label_files, labelling
from nightshift.settings import settings
from nightshift.training import feedback
from nightshift.training.snapshot import Snapshot, load, snapshot
from nightshift.usecase import UseCase

NIGHT = date(2020, 1, 26)
NOW = datetime(2020, 1, 26, 9, tzinfo=UTC)  # The night ran at 4: the next one is the first to know.
DAY = timedelta(days=1)
ROWS = 40
TRAINING = {
    "window_days": 60,
    "validation_days": 4,
    "holdout_days": 5,
    "seed": 1,
    "trainers": {"trees": {"kind": "xgboost"}},
}
# Rows that stay without a label for good, as ``synthetic.labels_of`` makes them.
NEVER = "20200105-0005"


def _use_case(**labelling: Any) -> UseCase:
    rules = {"budget": 6, "horizon_days": 20, "null_label": "unknown"} | labelling
    return synthetic.use_case(training=TRAINING, labelling=rules)


def _predict(uc: UseCase, day: date) -> None:
    features = synthetic.features_of(day, ROWS)
    score = 1 / (1 + np.exp(1.5 - 1.2 * features["demand"].to_numpy()))
    rows = features.select(["order_id", "partition", "ordered_at"])
    rows = rows.append_column("score", pa.array(score)).append_column("model_hash", pa.array(["m"] * ROWS))
    tables.replace_partition(uc, "predictions", day, rows, ["order_id"])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake as the night of NIGHT leaves it: labels to the day before, predictions of every night."""
    home = tmp_path_factory.mktemp("published")
    with environment(home):
        uc = _use_case()
        synthetic.publish(uc, synthetic.START, NIGHT - DAY, rows=ROWS)
        tables.replace_partition(uc, "features", NIGHT, synthetic.features_of(NIGHT, ROWS), ["order_id"])
        for day in (date(2020, 1, 5), NIGHT - 2 * DAY, NIGHT - DAY, NIGHT):
            _predict(uc, day)
    return home / "lake"


@pytest.fixture
def uc(home: Path, published: Path) -> UseCase:
    put_lake(published)
    return _use_case()


def _waiting(uc: UseCase, night: date) -> list[str]:
    rows = labelling.waiting(uc, night)
    return rows["order_id"].to_pylist() if rows.num_rows else []


def _file(folder: Path, *rows: str, header: str = "order_id,label") -> Path:
    file = folder / "labels.csv"
    file.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return file


def _import(uc: UseCase, file: Path, by: str = "Ann", **more: Any) -> label_files.Imported:
    return label_files.import_labels(uc, file, by=by, at=more.pop("at", NOW), **more)


def _recorded(uc: UseCase) -> list[dict[str, Any]]:
    return tables.read_partitions(uc, "feedback", date.min, date.max).to_pylist()


# The queue ------------------------------------------------------------------------------------------


def test_what_is_asked_is_unsure_and_not_the_same_twice() -> None:
    unsure = np.array([1.0, 0.99, 0.98, 0.9, 0.1])
    vectors = np.array([[0.0, 0], [0, 0], [0, 0.1], [4, 4], [4.2, 4]])
    chosen, distances = labelling.choose(unsure, vectors, 3)
    assert chosen.tolist() == [0, 3, 2], "the twin of the first adds nothing, a row far from it most"
    assert distances[0] == 0
    assert distances[1] == pytest.approx(np.sqrt(32))
    chosen, _ = labelling.choose(unsure, np.zeros((5, 2)), 9)
    assert chosen.tolist() == [0, 1, 2, 3, 4], "rows that are all alike come once each, in order"
    assert labelling.choose(unsure[:0], vectors[:0], 3)[0].tolist() == []


def test_a_night_asks_for_its_budget_about_what_it_is_unsure_of(uc: UseCase) -> None:
    assert labelling.queue(uc, NIGHT) == {"status": "queued", "candidates": ROWS, "queued": 6}
    rows = labelling.waiting(uc, NIGHT)
    assert rows["rank"].to_pylist() == [1, 2, 3, 4, 5, 6]
    scores = tables.read_partitions(uc, "predictions", NIGHT, NIGHT)["score"].to_numpy()
    assert rows["entropy"].to_pylist()[0] == labelling.entropy(scores).max()
    assert rows["entropy"].to_numpy().mean() > labelling.entropy(scores).mean()


def test_nights_in_any_order_and_twice_leave_the_same_queue(uc: UseCase) -> None:
    nights = [NIGHT - 2 * DAY, NIGHT - DAY, NIGHT]
    for night in nights:
        labelling.queue(uc, night)
    first = tables.partition_versions(uc, labelling.LAYER)
    for night in nights:
        labelling.queue(uc, night)
    assert tables.partition_versions(uc, labelling.LAYER) == first, "no new version"
    for night in nights:
        tables.delete_partition(uc, labelling.LAYER, night)
    for night in reversed(nights):
        labelling.queue(uc, night)
    again = tables.partition_versions(uc, labelling.LAYER)
    assert {day: one.content_hash for day, one in again.items()} == {
        day: one.content_hash for day, one in first.items()
    }
    asked = tables.read_partitions(uc, labelling.LAYER, date.min, date.max)["order_id"].to_pylist()
    assert len(asked) == len(set(asked)) == 18


def test_what_the_pipeline_labels_leaves_the_queue(home: Path, published: Path) -> None:
    put_lake(published)
    uc, strict = _use_case(budget=ROWS), _use_case(budget=ROWS, null_label="undefined")
    labelling.queue(uc, NIGHT)
    assert len(_waiting(uc, NIGHT)) == ROWS
    tables.replace_partition(uc, "labels", NIGHT, synthetic.labels_of(NIGHT, ROWS), ["order_id"])
    late = [f"20200126-{number:04d}" for number in (3, 13, 23, 33)]
    assert sorted(_waiting(uc, NIGHT + DAY)) == sorted([*late, "20200126-0005"])
    assert _waiting(uc, NIGHT + 2 * DAY) == ["20200126-0005"], "nobody has told yet"
    assert _waiting(strict, NIGHT + 2 * DAY) == [], "it has no outcome, so nobody is asked"
    assert _waiting(uc, NIGHT + 20 * DAY) == [], "after the horizon nobody waits any more"


def test_no_predictions_and_no_budget_are_reported_and_no_error(uc: UseCase) -> None:
    assert labelling.queue(uc, NIGHT + DAY)["status"] == "no predictions"
    assert labelling.queue(_use_case(budget=0), NIGHT)["status"] == "off"
    assert tables.partition_versions(uc, labelling.LAYER) == {}


# The round trip -------------------------------------------------------------------------------------


def _filled_in(file: Path, answers: Mapping[str, str]) -> list[list[str]]:
    """Return the rows of an exported file with labels written into them."""
    header, *rows = csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"), newline=""))
    assert header == ["order_id", "ordered_at", "shop", "score", "reason", "label"]
    return [header, *([*row[:-1], answers.get(row[0], "")] for row in rows)]


def _saved(rows: list[list[str]], delimiter: str, encoding: str, line: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator=line).writerows(rows)
    return text.getvalue().encode(encoding)


@pytest.mark.parametrize(
    ("delimiter", "encoding", "line"),
    [(",", "utf-8", "\n"), (",", "utf-8-sig", "\r\n"), (";", "utf-8-sig", "\r\n"), ("\t", "utf-16", "\r\n")],
    ids=["plain", "excel", "excel with semicolons", "excel unicode text"],
)
def test_answers_come_back_as_spreadsheets_save_them(
    uc: UseCase, tmp_path: Path, delimiter: str, encoding: str, line: str
) -> None:
    labelling.queue(uc, NIGHT)
    exported, asked = tmp_path / "queue.csv", _waiting(uc, NIGHT)
    assert label_files.export(uc, NIGHT, exported) == 6
    rows = _filled_in(exported, {asked[0]: "1", asked[4]: " 0 "})
    assert [row[0] for row in rows[1:]] == asked
    shops = synthetic.features_of(NIGHT, ROWS)
    assert rows[1][2] == shops["shop"][shops["order_id"].index(pa.scalar(asked[0])).as_py()].as_py()
    back = tmp_path / "back.csv"
    back.write_bytes(_saved([*rows, [""] * 6], delimiter, encoding, line))
    done = _import(uc, back)
    assert (done.recorded, done.unchanged, done.empty) == (2, 0, 4)
    assert done.known_from == NIGHT + DAY
    common = {
        "version": 1,
        "label_available_on": NIGHT + DAY,
        "labelled_by": "Ann",
        "imported_at": NOW,
        "partition": NIGHT,
    }
    expected = [{"order_id": asked[0], "returned": 1}, {"order_id": asked[4], "returned": 0}]
    assert _recorded(uc) == sorted((common | row for row in expected), key=lambda row: row["order_id"])
    assert _waiting(uc, NIGHT) == [asked[1], asked[2], asked[3], asked[5]]
    before = tables.partition_versions(uc, "feedback")
    again = _import(uc, back, by="Ben", at=NOW + DAY)
    assert (again.recorded, again.unchanged) == (0, 2), "the second time says nothing new"
    assert tables.partition_versions(uc, "feedback") == before


def test_an_export_never_overwrites_what_somebody_may_have_filled_in(uc: UseCase, tmp_path: Path) -> None:
    labelling.queue(uc, NIGHT)
    file = _file(tmp_path, "20200126-0001,1")
    with pytest.raises(DataError, match="cannot be written"):
        label_files.export(uc, NIGHT, file)
    assert "20200126-0001,1" in file.read_text()


def test_text_that_a_spreadsheet_takes_for_a_formula_comes_back_as_it_was(
    uc: UseCase, tmp_path: Path
) -> None:
    day = NIGHT + DAY
    features, entity = synthetic.features_of(day, 2), "=cmd|' /C calc'!A0"
    features = features.set_column(0, "order_id", pa.array([entity, "@b"]))
    tables.replace_partition(uc, "features", day, features, ["order_id"])
    rows = features.select(["order_id", "ordered_at"]).append_column("score", pa.array([0.5, 0.4]))
    rows = rows.append_column("model_hash", pa.array(["m", "m"]))
    tables.replace_partition(uc, "predictions", day, rows, ["order_id"])
    labelling.queue(uc, day)
    exported = tmp_path / "queue.csv"
    label_files.export(uc, day, exported)
    cells = [row[0] for row in _filled_in(exported, {})[1:]]
    assert cells == [f"'{entity}", "'@b"]
    back = tmp_path / "back.csv"
    back.write_bytes(_saved(_filled_in(exported, {cells[0]: "1"}), ",", "utf-8", "\n"))
    assert _import(uc, back).recorded == 1
    assert [row["order_id"] for row in _recorded(uc)] == [entity]


BROKEN: dict[str, tuple[bytes, str]] = {
    "unknown entity": (b"order_id,label\n20200126-0001,1\nnobody,1\n", "row 3: order_id 'nobody' is unknown"),
    "no 0 or 1": (
        b"order_id,label\n20200126-0001,yes\n",
        "row 2: label 'yes' of 20200126-0001 is not 0 or 1",
    ),
    "a decimal": (b"order_id;label\n20200126-0001;1,0\n", "row 2: label '1,0'"),
    "twice": (
        b"order_id,label\n20200126-0001,1\n20200126-0001,1\n",
        "row 3: 20200126-0001 is in row 2 already",
    ),
    "no label column": (b"order_id,lable\n20200126-0001,1\n", "column 'label' is missing"),
    "no entity column": (b"id,label\n20200126-0001,1\n", "column 'order_id' is missing"),
    "a column twice": (b"order_id,label,label\n20200126-0001,1,0\n", "column 'label' is 2 times"),
    "a short row": (b"order_id,label\n20200126-0001,1\n20200126-0002\n", "row 3: 1 columns instead of 2"),
    "an open quote": (b'order_id,label\n"20200126-0001,1\n', "is not CSV"),
    "a code page": (b"order_id,label\n20200126-0001,1\nM\xfcnchen,1\n", "row 3: byte 0xfc is not UTF-8"),
    "empty": (b"", "column 'order_id' is missing"),
    "against the pipeline": (b"order_id,label\n20200105-0000,%d\n", "row 2: 20200105-0000 has the label"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_of_a_broken_file_nothing_is_imported_and_the_row_is_named(
    uc: UseCase, tmp_path: Path, case: str
) -> None:
    content, message = BROKEN[case]
    truth = synthetic.labels_of(date(2020, 1, 5), ROWS)["returned"][0].as_py()
    file = tmp_path / "labels.csv"
    file.write_bytes(content.replace(b"%d", str(1 - truth).encode()))
    with pytest.raises(DataError) as error:
        _import(uc, file)
    assert message in error.value.message
    assert error.value.message.startswith("labels.csv: ")
    assert error.value.rule
    assert error.value.cure
    assert _recorded(uc) == []
    assert feedback.labelled(uc) == {}


def test_all_broken_rows_are_named_at_once(uc: UseCase, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        _import(uc, _file(tmp_path, "nobody,1", "20200126-0001,2", *["20200126-0002,0"] * 7))
    assert all(row in error.value.message for row in ("row 2:", "row 3:", "row 5:", "and 3 more"))


def test_nobody_labels_what_has_no_outcome(uc: UseCase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"row 2: {NEVER} has no outcome by the pipeline, not 1"):
        _import(_use_case(null_label="undefined"), _file(tmp_path, f"{NEVER},1"))
    assert _import(uc, _file(tmp_path, f"{NEVER},1")).recorded == 1


def test_somebody_has_to_stand_for_the_labels(uc: UseCase, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nobody is named"):
        _import(uc, _file(tmp_path, f"{NEVER},1"), by=" ")


# What was said before -------------------------------------------------------------------------------


def test_a_correction_is_asked_for_and_keeps_what_was_said_before(uc: UseCase, tmp_path: Path) -> None:
    _import(uc, _file(tmp_path, f"{NEVER},1"))
    other = _file(tmp_path, f"{NEVER},0", "20200126-0001,0")
    with pytest.raises(
        DataError, match=f"row 2: {NEVER} was labelled 1 by Ann at 2020-01-26 09:00 UTC, now 0"
    ):
        _import(uc, other, by="Ben", at=NOW + DAY)
    assert len(_recorded(uc)) == 1, "nothing of the file was imported"
    assert _import(uc, other, by="Ben", at=NOW + DAY, correct=True).recorded == 2
    said = [
        (row["version"], row["returned"], row["labelled_by"])
        for row in _recorded(uc)
        if row["order_id"] == NEVER
    ]
    assert said == [(1, 1, "Ann"), (2, 0, "Ben")]
    window = (synthetic.START, NIGHT - DAY)
    assert feedback.known(uc, NIGHT + DAY, *window)["returned"].to_pylist() == [1], "as that night knew it"
    assert feedback.known(uc, NIGHT + 2 * DAY, *window)["returned"].to_pylist() == [0]


def test_what_retention_removed_does_not_come_back_from_the_log(uc: UseCase, tmp_path: Path) -> None:
    _import(uc, _file(tmp_path, f"{NEVER},1", "20200126-0001,0"))
    rules = uc.retention.model_copy(update={"table_days": 7})
    short = uc.model_copy(update={"retention": rules})
    stages.sweep_lake(short, NIGHT)
    for _ in range(2):
        assert feedback.known(short, NIGHT + DAY, synthetic.START, NIGHT)["order_id"].to_pylist() == [
            "20200126-0001"
        ]
        assert [row["order_id"] for row in _recorded(short)] == ["20200126-0001"]
        feedback.publish(short, [date(2020, 1, 5), NIGHT])


def _at_once(actions: list[Callable[[], Any]], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let people act side by side; each has read what was said before anybody adds to it."""
    start, read_log = Barrier(len(actions)), append_log.read_log
    waited = local()

    def read_together(log: str) -> list[dict[str, Any]]:
        found = read_log(log)
        if not hasattr(waited, "here"):
            waited.here = start.wait()
        return found

    monkeypatch.setattr(append_log, "read_log", read_together)

    def act(action: Callable[[], Any]) -> Any:
        try:
            return action()
        except DataError as error:
            return error

    with ThreadPoolExecutor(len(actions)) as people:
        return list(people.map(act, actions))


def test_of_two_people_at_once_neither_loses_a_label(
    uc: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for person in range(4):
        folder = tmp_path / str(person)
        folder.mkdir()
        files.append(_file(folder, *(f"20200126-{person * 10 + row:04d},1" for row in range(10))))
    done = _at_once([lambda file=file: _import(uc, file) for file in files], monkeypatch)
    assert [one.recorded for one in done] == [10] * 4
    assert sorted(row["order_id"] for row in _recorded(uc)) == [f"20200126-{row:04d}" for row in range(40)]


def test_of_two_people_who_contradict_each_other_one_is_told(
    uc: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = []
    for value in (0, 1):
        folder = tmp_path / str(value)
        folder.mkdir()
        files.append(_file(folder, f"{NEVER},{value}", f"20200126-000{value},1"))
    done = _at_once([lambda file=file: _import(uc, file) for file in files], monkeypatch)
    refused = [one for one in done if isinstance(one, DataError)]
    assert len(refused) == 1
    assert "was labelled" in refused[0].message
    assert len(_recorded(uc)) == 2, "one file as a whole, nothing of the other"


def test_who_publishes_last_does_not_hide_what_came_in_between(
    uc: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, folder = tables.replace_partitions, tmp_path / "other"
    folder.mkdir()
    mine, other = _file(tmp_path, "20200126-0001,1"), _file(folder, "20200126-0002,1")

    def overtaken(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(tables, "replace_partitions", replace)
        _import(uc, other, by="Ben")
        return replace(*arguments, **named)

    monkeypatch.setattr(tables, "replace_partitions", overtaken)
    _import(uc, mine)
    assert [row["labelled_by"] for row in _recorded(uc)] == ["Ann", "Ben"]


_KILLED = """
import os, signal, sys
from datetime import UTC, date, datetime
from pathlib import Path
from nightshift.lake import tables
from nightshift.monitoring import label_files
from nightshift.usecase import UseCase

tables.replace_partitions = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
uc = UseCase.model_validate_json(sys.stdin.read())
label_files.import_labels(uc, Path(sys.argv[1]), by="Ann", at=datetime(2020, 1, 26, 9, tzinfo=UTC))
"""


def test_an_import_that_was_killed_counts_from_the_next_look_on(uc: UseCase, tmp_path: Path) -> None:
    file = _file(tmp_path, f"{NEVER},1")
    assert forked.run(_KILLED, uc.model_dump_json(), str(file)) == -signal.SIGKILL
    assert _recorded(uc) == [], "killed between its record and its rows"
    assert _import(uc, file).unchanged == 1
    assert [row["order_id"] for row in _recorded(uc)] == [NEVER]


# What is learned from it ----------------------------------------------------------------------------


def _rows(taken: Snapshot) -> dict[str, dict[str, Any]]:
    return {row["order_id"]: row for row in load(taken, "train").to_pylist()}


def _history_goes_on(uc: UseCase, nights: int) -> None:
    synthetic.publish(uc, NIGHT, NIGHT + timedelta(days=nights - 1), rows=ROWS)


def test_a_model_learns_from_it_from_the_next_night_on(uc: UseCase, tmp_path: Path) -> None:
    _history_goes_on(uc, 2)
    before = {night: snapshot(uc, night) for night in (NIGHT, NIGHT + DAY)}
    assert before[NIGHT].feedback_version is None
    _import(uc, _file(tmp_path, f"{NEVER},1"))
    assert snapshot(uc, NIGHT) == before[NIGHT], "the past does not change"
    after = snapshot(uc, NIGHT + DAY)
    assert after.content_hash != before[NIGHT + DAY].content_hash
    assert after.feedback_version
    assert after.train.rows == before[NIGHT + DAY].train.rows + 1
    rows = _rows(after)
    assert rows[NEVER]["returned"] == 1
    assert NEVER not in _rows(before[NIGHT + DAY])
    features = synthetic.features_of(date(2020, 1, 5), ROWS).to_pylist()[5]
    assert {name: rows[NEVER][name] for name in uc.features.columns} == {
        name: features[name] for name in uc.features.columns
    }
    rest = {entity: row for entity, row in rows.items() if entity != NEVER}
    assert rest == _rows(before[NIGHT + DAY])


def test_it_counts_for_a_lake_in_the_past_from_the_night_that_is_named(uc: UseCase, tmp_path: Path) -> None:
    file, today = _file(tmp_path, f"{NEVER},1"), datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(DataError, match="the night of 2020-01-26 cannot know"):
        _import(uc, file, at=today, known_from=NIGHT)
    assert _import(uc, file, at=today, known_from=NIGHT + DAY).known_from == NIGHT + DAY
    _history_goes_on(uc, 1)
    assert NEVER in _rows(snapshot(uc, NIGHT + DAY))


def test_an_import_in_the_small_hours_is_known_to_the_night_that_follows(uc: UseCase) -> None:
    assert feedback.first_night(uc, datetime(2020, 1, 26, 3, 59, tzinfo=UTC)) == NIGHT
    assert feedback.first_night(uc, datetime(2020, 1, 26, 4, 0, tzinfo=UTC)) == NIGHT + DAY


def test_the_truth_wins_when_it_comes_after_all(uc: UseCase, tmp_path: Path) -> None:
    _history_goes_on(uc, 1)
    _import(uc, _file(tmp_path, f"{NEVER},1"))
    day = date(2020, 1, 5)
    labels = synthetic.labels_of(day, ROWS)
    came = [
        0 if entity == NEVER else value
        for entity, value in labels.select([0, 2]).to_pandas().itertuples(index=False)
    ]
    came = [None if value is None or np.isnan(value) else int(value) for value in came]
    labels = labels.set_column(2, "returned", pa.array(came, pa.int64()))
    tables.replace_partition(uc, "labels", day, labels, ["order_id"])
    assert _rows(snapshot(uc, NIGHT + DAY))[NEVER]["returned"] == 0


def test_what_calibrates_and_judges_a_model_stays_as_the_pipeline_labelled_it(
    uc: UseCase, tmp_path: Path
) -> None:
    _history_goes_on(uc, 1)
    plain = snapshot(uc, NIGHT + DAY)
    _predict(uc, date(2020, 1, 20))
    done = _import(uc, _file(tmp_path, *(f"202001{day}-0005,1" for day in (20, 25))))
    assert done.recorded == 2
    taken = snapshot(uc, NIGHT + DAY)
    assert (taken.validation, taken.holdout) == (plain.validation, plain.holdout)
    assert sealed_rows(taken.sealed).equals(sealed_rows(plain.sealed))
    assert taken.content_hash == plain.content_hash


def test_no_cut_off_of_a_backtest_knows_what_was_said_later(uc: UseCase, tmp_path: Path) -> None:
    _history_goes_on(uc, 1)
    plain = folds_of(uc, snapshot(uc, NIGHT + DAY), 1)
    _import(uc, _file(tmp_path, f"{NEVER},1"))
    assert folds_of(uc, snapshot(uc, NIGHT + DAY), 1) == plain


# The commands ---------------------------------------------------------------------------------------


def _command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_commands_say_what_to_do_and_what_was_done(
    uc: UseCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic.write_use_case(tmp_path, uc)
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    file = tmp_path / "queue.csv"
    assert "no prediction was ever queued" in _command("label", "export", str(file), code=1)
    labelling.queue(uc, NIGHT)
    said = _command("label", "export", str(file))
    assert "6 predictions wait for a label as of 2020-01-26" in " ".join(said.split())
    asked = _waiting(uc, NIGHT)
    file.write_bytes(_saved(_filled_in(file, {asked[0]: "1", asked[1]: "0"}), ",", "utf-8", "\n"))
    taken = " ".join(
        _command("label", "import", str(file), "--by", "Ann", "--known-from", "2020-01-27").split()
    )
    assert "2 labels recorded, 0 were known already, 4 rows have none" in taken
    assert "Known from the night of 2020-01-27 on" in taken
    assert "the newest 9 validate and judge" in taken
    rest = tmp_path / "rest.csv"
    _command("label", "export", str(rest), "--limit", "3", "--night", "2020-01-26")
    assert [row[0] for row in _filled_in(rest, {})[1:]] == asked[2:5]
    assert len(append_log.read_log(f"feedback/{uc.name}")) == 1
