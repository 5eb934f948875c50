"""A new use case from a few answers: everything it needs, on made-up rows, so that it runs before it is real.

The room promises that what it writes passes ``make check-dags`` and its own tests, and that nothing is
overwritten.
"""

from nightshift.scaffold.answers import Answers, parse
from nightshift.scaffold.write import write

__all__ = ["Answers", "parse", "write"]
