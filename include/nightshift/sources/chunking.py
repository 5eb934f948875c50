"""Long text as overlapping pieces, cut where a reader would pause; the same text is cut the same way."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# Each ends where the next piece may begin. From the best place for a cut to the worst. A run of marks is
# looked at once, from its beginning: thousands of dots in a row would otherwise take a time that is squared.
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE = re.compile(
    r"""
    (?<![.!?\u2026]) [.!?\u2026]++ ["'\u2019\u201d\u00bb)\]]*+ \s+
    # Chinese and Japanese put no space after a sentence.
    | (?<![\u3002\uff01\uff1f]) [\u3002\uff01\uff1f]++ [\u2019\u201d\u300d\u300f\uff09]*+ \s*
    """,
    re.VERBOSE,
)
_LINE = re.compile(r"\n\s*")
_WORD = re.compile(r"\s+")
_JOINER = "\u200d"


def spans(text: str, most: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield where each piece of ``text`` begins and ends, in characters; together they are the whole of it.

    A piece ends with a paragraph, or else a sentence, a line, or a word, if one ends in its second half. Only
    text without a space for so long is cut anywhere, but not between a letter and the accents after it, nor
    within an emoji.

    Args:
        text: The text.
        most: The length of the longest piece.
        overlap: How many characters of a piece the next one says again, at most; at most half of ``most``.
            It begins with a sentence, or else a line or a word.
    """
    start = 0
    while len(text) - start > most:
        end = _end(text, start + most // 2, start + most)
        yield start, end
        start = _start(text, end - overlap, end)
    yield start, len(text)


def _end(text: str, low: int, high: int) -> int:
    """Return the best place after ``low``, and at most at ``high``, to end a piece."""
    for pattern in (_PARAGRAPH, _SENTENCE, _LINE, _WORD):
        ends = [found.end() for found in pattern.finditer(text, low, high)]
        if whole := [end for end in ends if not _joined(text, end)]:
            return whole[-1]
    return next((place for place in range(high, low, -1) if not _joined(text, place)), high)


def _start(text: str, low: int, high: int) -> int:
    """Return the best place from ``low`` to ``high`` to begin a piece, so early that much is said again."""
    for pattern in (_SENTENCE, _LINE, _WORD):
        for found in pattern.finditer(text, low, high):
            if found.end() < high and not _joined(text, found.end()):
                return found.end()
    return next((place for place in range(low, high) if not _joined(text, place)), high)


def _joined(text: str, place: int) -> bool:
    """Tell whether what is before ``place`` and what is after it are one character to a reader."""
    if place == len(text):
        return False
    after = text[place]
    return (
        unicodedata.category(after).startswith("M")
        or after == _JOINER
        or text[place - 1] == _JOINER
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # tones of skin
    )
