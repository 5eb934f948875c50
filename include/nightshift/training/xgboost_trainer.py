"""Gradient-boosted trees, with native categoricals."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import xgboost

from nightshift.errors import DataError
from nightshift.registry.encoder import Encoder
from nightshift.training.trainer import Examples, Fit
from nightshift.training.watch import Watch

log = logging.getLogger(__name__)

# Shallow trees that each see a third of the columns: what is known before the day is weak signal in many
# correlated columns, and deep trees learn the weather of particular days by heart.
_DEFAULTS: dict[str, Any] = {
    "device": "cpu",
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
_FIXED = {"objective": "binary:logistic", "eval_metric": "logloss", "tree_method": "hist"}

# What these may be depends on the columns of the rows.
_OF_COLUMNS = ("monotone_constraints", "interaction_constraints")

# A booster at rest is its trees. The state of its random numbers is not stored, and one part of it, the
# sampler of columns, goes on through all rounds whatever `seed_per_iteration` says. So chance begins anew
# every so many rounds, in every training alike, and there one can go on as if it had never stopped.
_LEG = 10


class XGBoostTrainer:
    """Trains with early stopping on log loss; extra parameters go to XGBoost as they are."""

    def resolve(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what decides a training, as ``Trainer.resolve`` says."""
        effective = {**_DEFAULTS, **params}
        _try(effective)
        return {**effective, "xgboost": xgboost.__version__}

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
        """Train as ``Trainer.fit`` says. The number of threads does not change the result."""
        effective = {**_DEFAULTS, **params, "seed": seed}
        booster_params, rounds, patience = _split(effective)
        # Built from Arrow columns: no pandas copy, and the categories travel inside the booster.
        matrices = {"train": _matrix(train, encoder, effective)}
        matrices["validation"] = _matrix(validation, encoder, effective, like=matrices["train"])
        evals = [(matrix, name) for name, matrix in matrices.items()]
        history: dict[str, list[float]] = {f"{name}_log_loss": [] for name in matrices}
        losses = history["validation_log_loss"]
        with _explained():
            booster, history_before = _booster(booster_params, list(matrices.values()), watch.resume())
            for name, values in history_before.items():
                history[name].extend(values)
            while len(losses) < rounds and len(losses) - int(np.argmin([*losses, np.inf])) <= patience:
                done = len(losses)
                if done % _LEG == 0:
                    if watch.due():
                        watch.keep(_state(booster, history), done)
                    _begin_leg(booster, seed + done)
                booster.update(matrices["train"], done)
                scores = _numbers(booster.eval_set(evals, done))
                for values, score in zip(history.values(), scores, strict=True):
                    values.append(score)
                watch.report(done + 1, rounds, {name: values[-1] for name, values in history.items()})
        # Only the rounds up to the best one are the model; the rest was patience.
        best = booster[: int(np.argmin(losses)) + 1]
        return Fit(weights=bytes(best.save_raw("ubj")), history=history, params=effective)


def _split(effective: Mapping[str, Any]) -> tuple[dict[str, Any], int, int]:
    """Return XGBoost's own parameters, the most rounds, and the rounds without improvement that end them."""
    ours = {name: effective[name] for name in ("rounds", "early_stopping_rounds")}
    for name, value in ours.items():
        if not isinstance(value, int) or value < 1:
            raise _refused(f"{name}: {value!r} is no number of rounds")
    rest = {name: value for name, value in effective.items() if name not in ours}
    return {**rest, **_FIXED}, ours["rounds"], ours["early_stopping_rounds"]


def _try(effective: Mapping[str, Any]) -> None:
    """Grow a tree on two rows: XGBoost looks at its parameters no earlier than that."""
    params, _, _ = _split(effective)
    params = {name: value for name, value in params.items() if name not in _OF_COLUMNS}
    with _explained():
        rows = xgboost.QuantileDMatrix(np.eye(2), label=np.arange(2), max_bin=int(params["max_bin"]))
        booster = xgboost.Booster({**params, "seed": 0}, [rows])
        _begin_leg(booster, 0)
        booster.update(rows, 0)


def _matrix(
    examples: Examples,
    encoder: Encoder,
    params: Mapping[str, Any],
    like: xgboost.QuantileDMatrix | None = None,
) -> xgboost.QuantileDMatrix:
    return xgboost.QuantileDMatrix(
        encoder.encode(examples.features),
        label=examples.label,
        weight=examples.weight,
        enable_categorical=True,
        max_bin=int(params["max_bin"]),
        ref=like,
    )


def _booster(
    params: Mapping[str, Any], matrices: list[xgboost.QuantileDMatrix], state: bytes | None
) -> tuple[xgboost.Booster, dict[str, list[float]]]:
    """Return a booster and its losses so far: a new one without any, or that of a checkpoint."""
    if state is None:
        return xgboost.Booster(dict(params), matrices), {}
    losses, _, trees = state.partition(b"\0")
    return xgboost.Booster(dict(params), matrices, model_file=bytearray(trees)), json.loads(losses)


def _state(booster: xgboost.Booster, history: Mapping[str, list[float]]) -> bytes:
    """Return losses as JSON, which holds no zero byte, and after one the trees."""
    return json.dumps(history).encode() + b"\0" + bytes(booster.save_raw("ubj"))


def _begin_leg(booster: xgboost.Booster, seed: int) -> None:
    """Start chance anew from ``seed``: the seed of the rows sampled, and new samplers of columns.

    XGBoost makes new samplers when the method of growing trees changes, so it is changed and changed back;
    the configuration asked for between the two is what makes it take notice. The trees stay.
    """
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        booster.set_param({"tree_method": "approx"})
        booster.save_config()
        booster.set_param({"tree_method": _FIXED["tree_method"], "seed": seed})
    for warning in heard:
        # A misspelt parameter is only warned about, and would silently leave the default.
        if "are not used" in str(warning.message):
            raise _refused(str(warning.message))
        log.warning("xgboost: %s", warning.message)


def _numbers(evaluated: str) -> list[float]:
    """Return the numbers in XGBoost's line of a round: ``[3]  train-logloss:0.61  held-logloss:0.62``."""
    return [float(item.rpartition(":")[2]) for item in evaluated.split()[1:]]


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except xgboost.core.XGBoostError as error:
        raise _refused(str(error)) from error


def _refused(message: str) -> DataError:
    return DataError(
        f"xgboost refused to train: {' '.join(message.split())[:500]}",
        rule="trainer parameters are known to xgboost, and features are finite numbers",
        where="usecase.yml, training.trainers",
        cure="mend the parameters, or find the infinite value in the features",
    )
