"""Replays that run in processes of their own and are killed."""

from __future__ import annotations

import os
import signal
from datetime import date
from typing import Any

from nightshift import stages
from nightshift.cli.replay import replay
from nightshift.usecase import Gate, SliceLimits, Trainer, UseCase, load_usecase

THROUGH, LAST = date(2013, 1, 21), date(2013, 1, 23)


def use_case() -> UseCase:
    """The real one, which retrains after two nights, with one small trainer and a gate that lets it pass."""
    whole = load_usecase("flight_delays")
    small = {"xgboost": Trainer(kind="xgboost", params={"rounds": 30, "max_depth": 3})}
    changes: dict[str, Any] = {
        "validation_days": 3,
        "holdout_days": 3,
        "trainers": small,
        "baseline": None,
        "search": None,
    }
    return whole.model_copy(
        update={
            "training": whole.training.model_copy(update=changes),
            "gate": Gate(primary="roc_auc", min_improvement=-1, slices=SliceLimits(max_loss=1)),
            "evaluation": whole.evaluation.model_copy(update={"resamples": 200}),
            "retrain": whole.retrain.model_copy(update={"every_days": 2}),
            "stress": (),
        }
    )


def replay_until(stage: str, night: date) -> None:
    """Replay in this process, which is killed when ``stage`` is to begin for ``night``."""
    real = getattr(stages, stage)

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if night in args or any(isinstance(one, dict) and one.get("night") == str(night) for one in args):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(stages, stage, deadly)
    replay(use_case(), THROUGH, LAST, lambda _: None)
