"""Looks for personal data in columns that the catalogue does not call personal. No value leaves this module.

A suspicion is a share of a column's distinct values that look like one kind of personal data. Each kind has
a share from which it counts: what has a check digit or a plain form counts early, what ordinary columns
resemble counts late. Names are known by first names that are common in many countries, so a column of rare
names may pass. Whoever is told looks at the column, and classes it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from nightshift.lake import raw
from nightshift.usecase import Table, UseCase

Kind = Literal[
    "e-mail address", "phone number", "payment card", "bank account", "IP address", "person's name"
]

SAMPLE_ROWS = 2000
"""So many rows of a table, evenly spread, are looked at."""

_FEWEST = 3
# Text that is longer is cut: personal data in letters and tickets stand early, and patterns stay fast.
_LONGEST = 2000


@dataclass(frozen=True)
class Suspicion:
    """A column that may be personal: the share of its distinct values that look like a kind."""

    column: str
    kind: Kind
    share: float
    values: int

    def __str__(self) -> str:
        """Return it in words, without values."""
        return f"{self.column}: {self.share:.0%} of {self.values} values look like a {self.kind}"


@dataclass(frozen=True)
class Looked:
    """What was looked at in one raw table, and what was found.

    Attributes:
        source: Its source.
        table: Its name.
        partition: The newest one; None: nothing of the table has landed, and nothing was looked at.
        rows: Rows that were looked at.
        columns: Unclassed columns of text or whole numbers, which were looked at.
        suspicions: Those that look personal.
    """

    source: str
    table: str
    partition: date | None = None
    rows: int = 0
    columns: tuple[str, ...] = ()
    suspicions: tuple[Suspicion, ...] = ()


def scan(declared: Table, rows: pa.Table) -> list[Suspicion]:
    """Return the unclassed columns of text or whole numbers that look personal, in the catalogue's order.

    Args:
        declared: What the catalogue says of the table.
        rows: Rows of it; of many, a sample is looked at.
    """
    sample = rows.take(_sampled(rows))
    found = []
    for name in _unclassed(declared, rows):
        texts = pc.drop_null(sample[name].unique()).cast(pa.string()).to_pylist()
        is_text = declared.columns[name].type == "string"
        suspected = _suspected(name, [text[:_LONGEST] for text in texts], text=is_text)
        found += [Suspicion(name, kind, share, len(texts)) for kind, share in suspected]
    return found


def scan_newest(uc: UseCase) -> Iterator[Looked]:
    """Look at the newest partition of each raw table, in the catalogue's order."""
    for source, table, declared in uc.tables():
        newest = raw.newest_partition(uc, source, table)
        manifest = raw.current(uc, source, table, newest) if newest else None
        if manifest is None:
            yield Looked(source, table)
            continue
        rows = raw.read(manifest)
        yield Looked(
            source,
            table,
            newest,
            len(_sampled(rows)),
            _unclassed(declared, rows),
            tuple(scan(declared, rows)),
        )


def _sampled(rows: pa.Table) -> pa.Array:
    step = max(1, -(-rows.num_rows // SAMPLE_ROWS))
    return pa.array(range(0, rows.num_rows, step), pa.int64())


def _unclassed(declared: Table, rows: pa.Table) -> tuple[str, ...]:
    return tuple(
        name
        for name, column in declared.columns.items()
        if column.pii == "none" and column.type in ("string", "int64") and name in rows.column_names
    )


def _suspected(column: str, values: Collection[str], *, text: bool) -> list[tuple[Kind, float]]:
    """Return the kinds that enough of a column's values look like, each with its share."""
    found: list[tuple[Kind, float]] = []
    for kind, (looks_like, enough) in _KINDS.items():
        if not text and kind not in _OF_NUMBERS:
            continue
        hits = sum(looks_like(value, column) for value in values)
        if hits >= _FEWEST and hits >= enough * len(values):
            found.append((kind, hits / len(values)))
    return found


_EMAIL = re.compile(r"[\w.+%-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b")


def _is_email(value: str, _column: str) -> bool:
    return bool(_EMAIL.search(value))


# With its country's code, in brackets or with a leading zero, or as North Americans write it.
_PHONES = (
    re.compile(r"(?<![\w+])(\+|00)[1-9](?:[ ().-]{0,2}\d){7,13}(?!\w)"),
    re.compile(r"(?<![\w(])\(0?\d{2,5}\)(?:[ .-]?\d){5,9}(?!\w)"),
    re.compile(r"(?<![\w.-])(?:1[-. ])?\(?[2-9]\d{2}\)?[-. ][2-9]\d{2}[-. ]\d{4}(?![\w.-])"),
)
_LOCAL_PHONE = re.compile(r"0?[1-9](?:[ ./-]?\d){6,12}")
_CALLED_PHONE = re.compile(
    r"(^|_)(phone|telephone|tel|mobile|cell|fax|msisdn|whatsapp)(_|$|\d|no|number)", re.I
)


def _is_phone(value: str, column: str) -> bool:
    if any(pattern.search(value) for pattern in _PHONES):
        return not _is_ip(value, column)
    # Bare digits are a phone number only where the column says so: anything else has them, too.
    return bool(_CALLED_PHONE.search(column) and _LOCAL_PHONE.fullmatch(value))


_CARD = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){12,18}(?![\d.])")


def _is_card(value: str, _column: str) -> bool:
    return any(_luhn(re.sub(r"\D", "", found[0])) for found in _CARD.finditer(value))


def _luhn(digits: str) -> bool:
    """Tell whether the check digit fits (ISO/IEC 7812-1); of random digits one in ten does."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return len(set(digits)) > 1 and sum(number - 9 * (number > 9) for number in doubled) % 10 == 0


_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")


def _is_iban(value: str, _column: str) -> bool:
    """Tell whether an account number is in it whose check digits fit (ISO 13616)."""
    for found in _IBAN.finditer(value):
        text = found[0].replace(" ", "")
        if 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1:
            return True
    return False


def _is_ip(value: str, _column: str) -> bool:
    if value.count(".") != 3 and value.count(":") < 2:
        return False
    try:
        ipaddress.ip_address(value.strip())
    except ValueError:
        return False
    return True


_CODE = 4
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019.-][^\W\d_]+)*\.?")
_CALLED_NAME = re.compile(
    r"(^|_)(first|last|given|family|middle|full|passenger|customer|guest|patient|employee|person|contact|holder)"
    r"_?name|(^|_)(sur|fore)name|(^|_)name_of_",
    re.I,
)


def _is_name(value: str, column: str) -> bool:
    words = _WORD.findall(value)
    if not 1 <= len(words) <= 5 or re.search(r"[\d@/_&]", value):
        return False
    if _CALLED_NAME.search(column):
        return all(word[0].isupper() for word in words)
    # Codes of three letters spell many a name.
    return any(
        word.casefold() in _FIRST_NAMES for word in words if not (word.isupper() and len(word) < _CODE)
    )


# By kind, what looks like it, and from which share of a column's values on it counts.
_KINDS: dict[Kind, tuple[Callable[[str, str], bool], float]] = {
    "e-mail address": (_is_email, 0.01),
    "phone number": (_is_phone, 0.05),
    "payment card": (_is_card, 0.3),
    "bank account": (_is_iban, 0.1),
    "IP address": (_is_ip, 0.3),
    "person's name": (_is_name, 0.3),
}
_OF_NUMBERS: frozenset[Kind] = frozenset(("phone number", "payment card"))

# Common first names of the last decades, of many languages, in Latin letters; no ordinary words.
_NAMES = """
aaron abdullah adam adrian agnieszka ahmed aisha alan albert alejandro alessandro alex alexander
alexandra ali alice alicia amanda amir amit amy ana anastasia andrea andreas andrew andrzej angela anita
anja ann anna anne annika anthony antoine anton antonio aoife arjun arthur ashley astrid barbara beata
beatriz ben benjamin bernd bianca birgit björn brandon brenda brian bruno camila camille carla carlos
carmen carol caroline catherine cecilia cedric charles charlotte chen chiara chloe chris christian
christina christine christoph christopher claire clara claudia cristina cynthia daniel daniela david
deborah denise dennis diana diego dieter dirk dmitri dominik donna dorothy ebru edward ekaterina elena
elias elif elisabeth elizabeth ella emily emine emma emre eric erik ernst esra esther ethan eva evelyn
fabian fatima fatma federico felix fernanda fernando filip florian francesca francesco frank franziska
françois fred frederik friedrich fumiko gabriel gabriela gary georg george gerald gerhard giorgio
giovanni giulia giuseppe gloria grace gregor gregory guillaume gustavo hannah hans haruto hassan heather
heike heinz helen helena helga hiroshi hugo hussein ian ibrahim igor ines ingrid inês irene irina isabel
isabella isabelle ivan jacek jack jacob jacqueline jakob jakub james jan jana janet jason javier jean
jeffrey jennifer jens jeremy jessica jesús joan joana joanna joao johann johannes john jonas jonathan
jorge jose josef joseph joshua josé joão juan judith judy julia julian julie justin jürgen karen karin
karl katarzyna kate katharina katherine kathleen katja kayla keiko keith kelly kenji kenneth kevin
khaled kimberly klaus krzysztof kumar kyle larry lars latoya laura lauren laurent layla lea lena leon
leonardo leonie liam linda lisa louis louise luca lucas lucia lucy luis luisa lukas magdalena malgorzata
manfred manuel marcel marco marcos maria marie marina mario marion mark marko markus marta martha martin
martina mateo mathias matteo matthew matthias max maya megan mehmet mei melanie melissa mette mia
michael michaela michal michel michele michelle miguel mihai mikael mike mikhail mohamed mohammad
mohammed monica monika moritz muhammad mustafa nadia nancy natalia natalie natasha nathan neha nicholas
nicolas nicole nikita nikolai nils nina noah nora olga oliver olivia omar oscar oskar osman pablo pamela
paolo pascal patricia patrick paul paula paulo pavel pedro peter petra philip philipp pierre piotr priya
rachel rafael rahul raj ralf ralph ramon raymond rebecca regina renate ricardo richard robert roberto
rodrigo roger roland ronald rosa ryan sabine samantha samuel sandra santiago sara sarah sato scott sean
sebastian sergei sergio sharon shirley silvia simon simone sofia sonja sophia sophie stefan stefano
stephanie stephen steven susan susanne suzanne sven svetlana sylvia tamara tanja tatiana teresa thomas
tiffany timothy tobias tom tomas tomasz tyler ulrich ursula uwe valentina valerie vanessa vera veronica
victoria viktor vincent virginie vladimir volker walter wei werner william wolfgang xavier yan yasmin
yuki yusuf yvonne zeynep zofia zuzanna
"""
_FIRST_NAMES = frozenset(_NAMES.split())
