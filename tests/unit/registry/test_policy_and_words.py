"""What a team writes about approval and on its model cards, and what it reads when that is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import synthetic

from nightshift.errors import DataError
from nightshift.registry.card import words
from nightshift.settings import settings
from nightshift.usecase import UseCase


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flight_delays: UseCase) -> Iterator[Path]:
    """The card's words in a project of its own, to be broken."""
    file = tmp_path / "include" / "usecases" / flight_delays.name / "card.yml"
    file.parent.mkdir(parents=True)
    shutil.copy(settings().usecases / flight_delays.name / "card.yml", file)
    monkeypatch.setenv("NIGHTSHIFT_PROJECT", str(tmp_path))
    settings.cache_clear()
    yield file
    settings.cache_clear()


def test_one_word_says_who_decides() -> None:
    gate = {"primary": "roc_auc"}
    assert synthetic.use_case(gate=gate).gate.approval.policy == "automatic"
    short = synthetic.use_case(gate={**gate, "approval": "manual"}).gate.approval
    assert (short.policy, short.approvers, short.timeout_hours) == ("manual", (), 120)
    long = {"policy": "manual", "approvers": ["ada"], "timeout_hours": 8}
    assert synthetic.use_case(gate={**gate, "approval": long}).gate.approval.approvers == ("ada",)
    for wrong in ("ask", {"policy": "manual", "timeout_hours": 0}, {"polcy": "manual"}):
        with pytest.raises(ValueError, match="gate"):
            synthetic.use_case(gate={**gate, "approval": wrong})


def test_the_words_of_the_card_name_the_known_leak(card: Path, flight_delays: UseCase) -> None:
    said = words(flight_delays)
    assert said is not None
    assert any("tail numbers are of the aircraft that flew" in " ".join(item.split()) for item in said.limits)


@pytest.mark.parametrize("broken", ["ethics: []", "intended_use: [x", "- x"])
def test_broken_words_are_explained(card: Path, flight_delays: UseCase, broken: str) -> None:
    card.write_text(broken, encoding="utf-8")
    with pytest.raises(DataError, match="cannot be used") as error:
        words(flight_delays)
    assert error.value.where == str(card)


def test_a_use_case_without_words_still_has_cards() -> None:
    assert words(synthetic.use_case()) is None
