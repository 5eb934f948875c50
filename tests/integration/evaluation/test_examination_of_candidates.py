"""One evaluation examines every candidate and the champion, and one page tells all of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from nightshift.evaluation.evaluate import Evaluation, evaluate
from nightshift.evaluation.gate import gate
from nightshift.evaluation.report import write_report
from nightshift.partition import days
from nightshift.registry import mlflow as tracking
from nightshift.registry.records import Candidate
from nightshift.training.snapshot import Snapshot, snapshot
from nightshift.training.train import train
from nightshift.usecase import Change, FairnessGroups, InvariantCase, Trainer, UseCase

NIGHT = date(2013, 1, 23)

Make = Callable[..., pa.Table]


@pytest.fixture
def uc(usecase: UseCase, day_of_features: Make, publish_truth: Make) -> UseCase:
    """A champion of the 16th, a candidate, a baseline, and the truth of the week since."""
    for day in days(date(2013, 1, 16), NIGHT - timedelta(days=1)):
        publish_truth(day, day_of_features(day))
    flat = Trainer(kind="xgboost", params={"rounds": 3, "max_depth": 1})
    training = usecase.training.model_copy(
        update={"trainers": {**usecase.training.trainers, "flat": flat}, "baseline": "flat"}
    )
    groups = FairnessGroups(groups=("carrier",), min_rows=50)
    rules = usecase.evaluation.model_copy(
        update={"fairness": groups, "bands": {"hour": (-0.5, 0.5)}, "months": True}
    )
    case = InvariantCase(
        kind="invariant",
        name="any_delay",
        why="not so in truth",
        change={"delay": Change(add=2)},
        severity="stop",
    )
    return usecase.model_copy(update={"training": training, "evaluation": rules, "stress": (case,)})


@pytest.fixture
def judged(uc: UseCase) -> tuple[Snapshot, list[Candidate], Evaluation]:
    taken = snapshot(uc, NIGHT)
    candidates = [train(uc, taken, name) for name in ("xgboost", "flat")]
    return taken, candidates, evaluate(uc, taken, candidates)


def test_candidates_and_champion_are_examined_and_compared_on_the_same_days(
    uc: UseCase, judged: tuple[Snapshot, list[Candidate], Evaluation]
) -> None:
    taken, candidates, found = judged
    deep, flat = found.challenges
    assert found.baseline == "flat"
    assert found.champion_judged is not None
    for model in (deep.judged, flat.judged, found.champion_judged):
        interval = model.intervals["roc_auc"]
        assert interval.low < interval.value == model.metrics["roc_auc"] < interval.high
        assert set(model.slices) == {"carrier", "origin", "hour band", "month"}
        assert set(model.slices["hour band"]) == {"below -0.5", "-0.5 to below 0.5", "from 0.5"}
        assert sum(band["rows"] for band in model.slices["hour band"].values()) == model.metrics["rows"]
        assert [item.failure for item in model.robustness] == [""] * 6
        assert model.importance.keys() == set(uc.features.columns)
        assert model.calibration is not None
        assert model.fairness[0].mitigation is not None
    assert deep.versus_champion is not None
    assert deep.versus_baseline is not None
    assert flat.versus_baseline is None
    assert next(iter(deep.judged.importance)) == "delay"
    gain = deep.versus_baseline.metrics["roc_auc"]
    assert gain.value == pytest.approx(deep.judged.metrics["roc_auc"] - flat.judged.metrics["roc_auc"])
    assert gain.low > 0
    # Clocks are asked once, so that looking again ends the same.
    assert evaluate(uc, taken, candidates) == found


class _Outside(HTMLParser):
    """Collects what a page would load, and the text it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href")]
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_tells_the_verdict_and_loads_nothing(
    uc: UseCase, judged: tuple[Snapshot, list[Candidate], Evaluation]
) -> None:
    _, candidates, found = judged
    decision = gate(uc, found)
    # The stress case is wrong on purpose: a delay does change the score.
    assert not decision.promote
    assert any(reason.startswith("stress case any_delay fails: ") for reason in decision.reasons)
    file = write_report(uc, found, decision)
    page = _Outside()
    page.feed(file.read_text(encoding="utf-8"))
    shown = " ".join(page.text)
    assert page.loads == []
    assert "xgboost does not pass the gate" in shown
    assert all(reason in shown for reason in decision.reasons)
    for part in ("Metrics", "Slices", "Calibration", "Fairness", "Robustness", "Stress set", "Latency"):
        assert part in page.text
    for feature, value in found.challenges[0].judged.importance.items():
        assert feature in page.text
        assert f"{value:.4f}" in page.text
    content = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert Evaluation.model_validate(content["evaluation"]) == found
    logged = tracking.client(uc).list_artifacts(candidates[0].run_id)
    assert {"evaluation_report.html", "evaluation_report.json"} <= {item.path for item in logged}
