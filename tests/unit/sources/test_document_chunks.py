"""Pieces of text: the whole of it, none too long, cut where a reader would pause, and always the same."""

from __future__ import annotations

import random
import time
import unicodedata
from itertools import pairwise

import pytest

from nightshift.sources.chunking import spans

PARTS = [
    "Ein Satz.",
    " ",
    "\n",
    "\n\n",
    "wörtlich",
    "日本語の文。",
    "e\u0301",
    "👩\u200d🚀",
    "👍🏽",
    "...",
    "नि",
    "a" * 70,
]


@pytest.mark.parametrize("seed", range(200))
def test_pieces_are_the_whole_text(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choice(PARTS) for _ in range(chance.randint(0, 300)))
    most = chance.choice([20, 50, 100])
    overlap = chance.randint(0, most // 2)
    found = list(spans(text, most, overlap))
    assert found[0][0] == 0
    assert found[-1][1] == len(text)
    for (start, end), (following, later) in pairwise(found):
        assert start < following <= end < later, "nothing is left out, and each piece says something new"
        assert end - following <= overlap
    assert all(end - start <= most for start, end in found)
    assert list(spans(text, most, overlap)) == found
    for place in {place for span in found for place in span} - {0, len(text)}:
        assert not unicodedata.combining(text[place]), "an accent stays with its letter"
        assert "\u200d" not in text[place - 1 : place + 1], "an emoji stays whole"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One two. Three four.\n\nFive six. Seven", ["One two. Three four.\n\n", "Five six. Seven"]),
        ("One two three. Four five six seven eight", ["One two three. ", "Four five six seven eight"]),
        ("one two three four five six seven", ["one two three four five ", "six seven"]),
        ("x" * 30, ["x" * 25, "x" * 5]),
        ("", [""]),
    ],
)
def test_text_is_cut_where_a_reader_would_pause(text: str, pieces: list[str]) -> None:
    assert [text[start:end] for start, end in spans(text, 25, 0)] == pieces


def test_a_piece_begins_with_a_sentence_of_the_one_before() -> None:
    text = "First comes this one. Then that. " * 10
    pieces = [text[start:end] for start, end in spans(text, 100, 40)]
    assert len(pieces) > 3
    assert all(piece.startswith(("First", "Then")) for piece in pieces)


@pytest.mark.parametrize("hostile", [".", "\n", " ", "a", "\u0301", "。", ".\n", "\u200d"])
def test_no_text_takes_a_time_that_is_squared(hostile: str) -> None:
    began = time.process_time()
    assert sum(1 for _ in spans(hostile * (1_000_000 // len(hostile)), 20_000, 10_000)) >= 50
    assert time.process_time() - began < 20, "squared, it would be many minutes"
