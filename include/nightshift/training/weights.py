"""How much each row counts in the loss, by its class.

Only trainers see weights. Metrics count every row once, and so does calibration, which brings the
probabilities of a model that was trained on weighted rows back to what happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from nightshift.training.trainer import Examples

_Part = TypeVar("_Part", bound=str)

Rule = Literal["none", "balanced"] | float


def weigh(rows: Mapping[_Part, Examples], rule: Rule) -> dict[_Part, Examples]:
    """Return the examples of all parts with the weights that ``rule`` gives by the classes of ``train``.

    The validation rows get them too: early stopping has to look at the loss that is trained on.

    Args:
        rows: By part; ``train`` is among them and holds both classes.
        rule: As ``training.class_weight`` in a use case.
    """
    if rule == "none":
        return dict(rows)
    label = next(examples.label for part, examples in rows.items() if part == "train")
    positives = float(label.mean(dtype=np.float64))
    # As scikit-learn's "balanced": both classes weigh half of the rows, whatever their number.
    negative, positive = (0.5 / (1 - positives), 0.5 / positives) if rule == "balanced" else (1.0, rule)

    def weight_of(label: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.where(label > 0.5, positive, negative).astype(np.float32)

    return {part: replace(examples, weight=weight_of(examples.label)) for part, examples in rows.items()}
