"""The two ways a stage may fail: bad data (never retried) and bad luck (retried)."""

from __future__ import annotations


class NightshiftError(Exception):
    """Base of every error that Nightshift raises on purpose."""


class DataError(NightshiftError):
    """The data, or what a person configured, breaks a rule. Trying again changes nothing.

    Args:
        message: What is wrong, with the values seen.
        rule: The rule that was broken, as its file names it.
        where: The place: use case, stage, table and partition, or a file and line.
        cure: What to do about it, and where the report is.
    """

    def __init__(self, message: str, *, rule: str, where: str, cure: str) -> None:
        self.message = message
        self.rule = rule
        self.where = where
        self.cure = cure
        super().__init__(message, rule, where, cure)

    def __str__(self) -> str:
        return f"{self.message}\n  rule:  {self.rule}\n  where: {self.where}\n  cure:  {self.cure}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_data_error, (self.message, self.rule, self.where, self.cure)


def _rebuild_data_error(message: str, rule: str, where: str, cure: str) -> DataError:
    return DataError(message, rule=rule, where=where, cure=cure)


class TransientError(NightshiftError):
    """Something is not there yet, is locked, or was lost on the way. The same call may succeed later."""
