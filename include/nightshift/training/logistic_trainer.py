"""Logistic regression: the baseline. What does not beat it is not worth its complexity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.registry.logistic import LogisticScorer, LogisticWeights
from nightshift.registry.scaling import moments, standardize
from nightshift.training.trainer import Examples, Fit
from nightshift.training.watch import Watch


class _Params(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    c: float = Field(0.1, gt=0, description="Inverse strength of the quadratic penalty, as in scikit-learn.")
    iterations: int = Field(200, gt=0, description="Most iterations of L-BFGS.")
    tolerance: float = Field(1e-4, gt=0, description="Largest gradient at which it stops.")


class LogisticTrainer:
    """Scikit-learn's logistic regression on one-hot categories and standardized numbers.

    Missing numbers count as the mean, and each column has a coefficient for being missing. It is fitted in
    one go, in seconds: an interrupted training begins again, and ends with the same weights.
    """

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides a training, as ``Trainer.resolve`` says."""
        return {**_options(params).model_dump(), "device": "cpu", "scikit-learn": sklearn.__version__}

    def fit(
        self,
        train: Examples,
        validation: Examples,
        encoder: Encoder,
        params: Mapping[str, Any],
        seed: int,
        *,
        watch: Watch,
    ) -> Fit:
        """Train as ``Trainer.fit`` says. Nothing is random, so ``seed`` changes nothing."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        options = _options(params)
        codes, numbers = encoder.tensors(train.features)
        means, deviations = moments(numbers)
        sizes = [len(known) + 1 for known in encoder.categories.values()]
        inputs = _inputs(codes, sizes, *standardize(numbers, means, deviations))
        model = LogisticRegression(C=options.c, max_iter=options.iterations, tol=options.tolerance)
        # Threaded products round by the number of threads, which differs from machine to machine.
        with threadpool_limits(1):
            model.fit(inputs, train.label, sample_weight=train.weight)
        coefficients = model.coef_[0].astype(np.float64)
        *categories, scaled, missing = np.split(coefficients, np.cumsum([*sizes, len(means)]))
        weights = (
            LogisticWeights(
                intercept=float(model.intercept_[0]),
                categories=[values.tolist() for values in categories],
                means=means.tolist(),
                deviations=deviations.tolist(),
                numbers=scaled.tolist(),
                missing=missing.tolist(),
            )
            .model_dump_json()
            .encode()
        )
        scorer = LogisticScorer(weights, encoder)
        history = {
            f"{name}_log_loss": [_log_loss(scorer, examples)]
            for name, examples in (("train", train), ("validation", validation))
        }
        watch.report(1, 1, {name: values[-1] for name, values in history.items()})
        return Fit(
            weights=weights,
            history=history,
            params={**options.model_dump(), "iterations_done": int(model.n_iter_[0]), "seed": seed},
        )


def _options(params: Mapping[str, Any]) -> _Params:
    try:
        return _Params.model_validate(params)
    except ValidationError as error:
        raise DataError(
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()),
            rule="parameters of a logistic trainer are those of training/logistic_trainer.py",
            where="usecase.yml, training.trainers",
            cure="mend or remove the keys named above",
        ) from error


def _inputs(
    codes: npt.NDArray[np.int64],
    sizes: list[int],
    scaled: npt.NDArray[np.float64],
    missing: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float32]:
    """Return (rows, all codes + 2 x numeric): one-hot categories, numbers, flags of what is missing."""
    inputs = np.zeros((len(codes), sum(sizes) + 2 * scaled.shape[1]), dtype=np.float32)
    rows = np.arange(len(codes))
    first = 0
    for position, size in enumerate(sizes):
        inputs[rows, first + codes[:, position]] = 1
        first += size
    inputs[:, first : first + scaled.shape[1]] = scaled
    inputs[:, first + scaled.shape[1] :] = missing
    return inputs


def _log_loss(scorer: LogisticScorer, examples: Examples) -> float:
    chance = np.clip(scorer.probabilities(examples.features), 1e-15, 1 - 1e-15)
    losses = -np.where(examples.label > 0.5, np.log(chance), np.log1p(-chance))
    return float(np.average(losses, weights=examples.weight))
