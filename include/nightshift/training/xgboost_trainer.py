"""Gradient-boosted trees on the CPU, with native categoricals."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from typing import Any

import xgboost

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.training.trainer import Examples, Fit

log = logging.getLogger(__name__)

# Shallow trees that each see a third of the columns: what is known before the day is weak signal in many
# correlated columns, and deep trees learn the weather of particular days by heart.
_DEFAULTS: dict[str, Any] = {
    "rounds": 1500,
    "early_stopping_rounds": 40,
    "learning_rate": 0.06,
    "max_depth": 5,
    "min_child_weight": 40,
    "subsample": 0.8,
    "colsample_bytree": 0.3,
    "reg_lambda": 10.0,
    "max_cat_to_onehot": 4,
    "max_bin": 128,
}


class XGBoostTrainer:
    """Trains with early stopping on log loss; extra parameters go to ``xgboost.train`` as they are."""

    def fit(
        self, train: Examples, validation: Examples, encoder: Encoder, params: Mapping[str, Any], seed: int
    ) -> Fit:
        """Train as ``Trainer.fit`` says. The number of threads does not change the result."""
        effective = {**_DEFAULTS, **params, "seed": seed}
        booster_params = {
            **effective,
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
        }
        rounds = int(booster_params.pop("rounds"))
        patience = int(booster_params.pop("early_stopping_rounds"))
        # Built from Arrow columns: no pandas copy, and the categories travel inside the booster.
        train_data = xgboost.QuantileDMatrix(
            encoder.encode(train.features),
            label=train.label,
            enable_categorical=True,
            max_bin=int(effective["max_bin"]),
        )
        validation_data = xgboost.QuantileDMatrix(
            encoder.encode(validation.features),
            label=validation.label,
            enable_categorical=True,
            max_bin=int(effective["max_bin"]),
            ref=train_data,
        )
        history: dict[str, dict[str, list[float]]] = {}
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                booster = xgboost.train(
                    booster_params,
                    train_data,
                    num_boost_round=rounds,
                    evals=[(train_data, "train"), (validation_data, "validation")],
                    early_stopping_rounds=patience,
                    evals_result=history,
                    verbose_eval=False,
                )
        except xgboost.core.XGBoostError as error:
            raise _refused(str(error)) from error
        for warning in heard:
            # A misspelt parameter is only warned about, and would silently leave the default.
            if "are not used" in str(warning.message):
                raise _refused(str(warning.message))
            log.warning("xgboost: %s", warning.message)
        # Only the rounds up to the best one are the model; the rest was patience.
        best = booster[: booster.best_iteration + 1]
        return Fit(
            weights=bytes(best.save_raw("ubj")),
            history={f"{name}_log_loss": values["logloss"] for name, values in history.items()},
            params=effective,
        )


def _refused(message: str) -> DataError:
    return DataError(
        f"xgboost refused to train: {' '.join(message.split())[:500]}",
        rule="trainer parameters are known to xgboost, and features are finite numbers",
        where="usecase.yml, training.trainers",
        cure="mend the parameters, or find the infinite value in the features",
    )
