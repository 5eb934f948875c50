"""Made-up passengers, the same for the same seed: what a table with personal data looks like.

No value is anybody's: domains and numbers are those set aside for examples, cards have check digits that fit.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from random import Random
from typing import Any, ClassVar

import pyarrow as pa

from nightshift.sources.base import Connector, Extract
from nightshift.usecase import UseCase

FIRST = ("Anna", "Björn", "Carla", "David", "Elena", "François", "Giulia", "Hassan", "Ines", "Jakub", "Karen")
LAST = ("Quistgaard", "Zylberstein", "Oyelaran", "Fitzwilliam", "Delacroix", "Papadakis", "Hämäläinen")
HOSTS = ("mail.example.com", "post.example.org", "example.net")
PERSONAL = ("email", "seat_ref", "phone", "full_name", "card", "other_email", "born_on", "remark")
"""Columns of ``passengers`` with personal data; ``seat_ref`` has a misleading name."""


def passengers(rows: int, seed: int, day: date) -> pa.Table:
    """Return passengers of a day: every tenth fare is negative, some values are missing."""
    random = Random(seed * 100_000 + day.toordinal())
    made = []
    for number in range(rows):
        name = f"{random.choice(FIRST)} {random.choice(LAST)}"
        email = f"{name.split()[1].lower()}.{seed}.{day:%d}.{number}@{random.choice(HOSTS)}"
        phone = f"+49 30 {random.randrange(10**6, 10**7)}{number % 10}"
        made.append(
            {
                "email": email,
                "seat_ref": email if number % 3 else None,
                "phone": phone if number % 7 else None,
                "full_name": f"{name} {number}".rstrip("0123456789 ") if number % 2 else name.upper(),
                "card": _card(random),
                "other_email": f"{number}{email}",
                "born_on": date(1940, 1, 2) + timedelta(days=random.randrange(1, 25_000)),
                "remark": f"Call {name} at {phone}, or write to {email}" if number % 5 else None,
                "seat": f"{random.randrange(1, 40)}{random.choice('ABCDEF')}",
                "booking": f"{random.randrange(10**12, 10**13)}",
                "fare": -1.0 if number % 10 == 9 else round(random.uniform(40, 900), 2),
            }
        )
    return pa.Table.from_pylist(made)


def _card(random: Random) -> str:
    digits = [4, *(random.randrange(10) for _ in range(14))]
    doubled = [digit * (2 - place % 2) for place, digit in enumerate(digits)]
    total = sum(number - 9 * (number > 9) for number in doubled)
    text = "".join(map(str, [*digits, -total % 10]))
    return " ".join(text[place : place + 4] for place in range(0, 16, 4))


def clear_values(rows: pa.Table) -> set[str]:
    """Return every text of a personal column, and the names within."""
    texts = {
        value
        for name in PERSONAL
        if name != "born_on"
        for value in rows[name].to_pylist()
        if value is not None
    }
    return texts | {name.split()[1] for name in rows["full_name"].to_pylist()}


def table(**changes: dict[str, Any]) -> dict[str, Any]:
    """Return the catalogue's entry; ``changes`` are further options by column."""
    kinds = {"born_on": "date", "fare": "float64"}
    protections: dict[str, dict[str, Any]] = {
        "email": {"protect": "pseudonymise", "domain": "address"},
        "seat_ref": {"protect": "pseudonymise", "domain": "address"},
        "phone": {"protect": "mask_last4"},
        "full_name": {"protect": "pseudonymise"},
        "card": {"protect": "mask_last4"},
        "other_email": {"protect": "mask_domain"},
        "born_on": {"protect": "mask_year"},
        "remark": {"protect": "remove"},
    }
    columns = {
        name: {"type": kinds.get(name, "string"), "description": f"The passenger's {name}."}
        | ({"pii": "direct", "purpose": "tests", **protections[name]} if name in protections else {})
        | changes.get(name, {})
        for name in (*PERSONAL, "seat", "booking", "fare")
    }
    return {"description": "Passengers.", "key": ["email"], "refresh": "daily", "columns": columns}


class Passengers(Connector):
    """Yields ``tables[day]``, and nothing for other days."""

    tables: ClassVar[dict[date, pa.Table]] = {}

    def __init__(self, usecase: UseCase, source: str) -> None:
        """Take no options."""

    def read(self, table: str, partition: date, as_of: datetime) -> Extract:
        """Return the passengers of a day."""
        return Extract(self.tables[partition], f"{table} of {partition}")


def source(**tables: dict[str, Any]) -> dict[str, Any]:
    """Return the declaration of a source that has these tables of passengers."""
    return {
        "connector": "tests.passengers:Passengers",
        "description": "Made up",
        "owner": "tests",
        "access": "memory",
        "sla": "none",
        "tables": tables,
    }
