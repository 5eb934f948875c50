"""Looks for better parameters of one trainer, within a budget of trials and minutes.

- A search is named by all that decides what it finds, its budget included. Opened again it is the same
  search, and once concluded it stays as it is.
- A trial is one training. Its parameters are drawn once, before it begins, and kept in PostgreSQL: an attempt
  that was killed is taken up again with the same ones, from its checkpoint, in its MLflow run.
- Trial 0 has the parameters in force, so there is always something to compare with.
- Trials learn from the train rows and are compared by their log loss on the validation rows. Holdout rows are
  in a sealed object of their own, which nothing here opens.
- A search configures nothing. It ends in lines for ``usecase.yml``, which a person commits or not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy.exc
import yaml
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from pydantic import BaseModel, ConfigDict, JsonValue

from nightshift.databases import ensure, locked, url
from nightshift.errors import DataError, TransientError
from nightshift.lake.checkpoints import Checkpoints
from nightshift.registry import mlflow as tracking
from nightshift.registry.models import MODEL_FOLDER
from nightshift.training.progress import Watched, attached, training_hash
from nightshift.training.snapshot import Part, Snapshot, load_parts
from nightshift.training.train import LIBRARIES, Built, build, trainer_of
from nightshift.training.watch import PrunedError
from nightshift.usecase import Engine, SearchRules, Space, UseCase

log = logging.getLogger(__name__)

DATABASE = "searches"

State = Literal["complete", "pruned", "failed", "running", "not begun"]

_STATES: dict[TrialState, State] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "not begun",
}
_RUN_STATUS = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}

# Trainings tell how far they are in steps of different size, so they are compared by share of the most steps
# they may take, in so many parts. Each costs two hundredths of a second.
_PARTS = 50
# Before a tenth of its steps no training is called off: a small learning rate looks bad at first.
_PATIENCE = _PARTS // 10
# Trials that must have come as far before another one is called off for being worse than their median.
_COMPARED = 3
# One trial in so many, and three at least, is drawn at random before the sampler goes by what it has seen.
_RANDOM_SHARE, _RANDOM_AT_LEAST = 4, 3
# Far from any seed a person chooses, so that searches with neighbouring seeds draw different trials.
_SEED_STRIDE = 1_000_003


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Search(_Value):
    """One search, as its tasks pass it on.

    Attributes:
        usecase: Name of the use case.
        trainer: The trainer whose parameters are searched for.
        name: Names the search by all that decides what it finds.
        snapshot: What its trials learn from.
        space: The values that each parameter may have.
        in_force: The value that each of these parameters has without the search.
        trials: How many there are, trial 0 included.
        minutes: No trial begins so long after ``started``.
        started: When it was opened first.
        run_id: MLflow run under which those of the trials lie.
    """

    usecase: str
    trainer: str
    name: str
    snapshot: Snapshot
    space: dict[str, Space]
    in_force: dict[str, JsonValue]
    trials: int
    minutes: float
    started: datetime
    run_id: str


class Trial(_Value):
    """What became of one trial.

    Attributes:
        index: Which one it is; 0 is that with the parameters in force.
        state: ``complete``; ``pruned``: called off as worse than others; ``failed``: the trainer refused the
            parameters; ``running``; ``not begun``: the budget was spent before.
        params: The searched parameters; empty before it began.
        metrics: Of the calibrated model, by part, of a complete trial.
        run_id: Its MLflow run.
        message: Why it failed.
    """

    index: int
    state: State
    params: dict[str, JsonValue]
    metrics: dict[Part, dict[str, float]]
    run_id: str | None
    message: str | None

    @property
    def log_loss(self) -> float:
        """Log loss on the validation rows, of a complete trial."""
        return self.metrics["validation"]["log_loss"]


class Conclusion(_Value):
    """What a search found.

    Attributes:
        search: Its name.
        trials: Every trial, by index.
        best: Index of the complete trial of lowest log loss; 0: nothing beat the parameters in force.
        proposal: Lines for ``usecase.yml``, with the figures as comments.
    """

    search: str
    trials: tuple[Trial, ...]
    best: int
    proposal: str


def open_search(
    uc: UseCase,
    snapshot: Snapshot,
    trainer: str,
    *,
    trials: int | None = None,
    minutes: float | None = None,
) -> Search:
    """Begin a search, or find the one that was begun with the same arguments; safe in many processes at once.

    Args:
        uc: The use case.
        snapshot: What the trials learn from.
        trainer: One of those with a space.
        trials: Instead of the use case's ``training.search.trials``.
        minutes: Instead of the use case's ``training.search.minutes``.

    Raises:
        DataError: The use case has no space for the trainer, the trainer refuses a parameter or a value of
            the space, or the value in force is not in it.
        TransientError: PostgreSQL does not answer.
    """
    rules = _rules(uc, trainer)
    rules = SearchRules.model_validate(
        rules.model_dump(exclude_none=True) | _given(trials=trials, minutes=minutes)
    )
    space = rules.spaces[trainer]
    in_force = _in_force(uc, trainer, space)
    name = _name(uc, snapshot, trainer, rules.trials, rules.minutes)
    with _answering():
        ensure([DATABASE])
        with locked(DATABASE, "nightshift: open a search"), _storage(new=True) as storage:
            study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
            if "started" not in study.user_attrs:
                study.set_user_attr("started", datetime.now(UTC).isoformat())
            for index in range(len(study.get_trials(deepcopy=False)), rules.trials):
                first = {key: _encoded(space[key], value) for key, value in in_force.items()}
                study.enqueue_trial(first if index == 0 else {})
            search = Search(
                usecase=uc.name,
                trainer=trainer,
                name=name,
                snapshot=snapshot,
                space=space,
                in_force=in_force,
                trials=rules.trials,
                minutes=rules.minutes,
                started=datetime.fromisoformat(study.user_attrs["started"]),
                run_id=_parent_run(uc, name, snapshot),
            )
    log.info("search %s: %d trials, none begins after %s", name, search.trials, _until(search))
    return search


def run_trial(uc: UseCase, search: Search, index: int) -> Trial:
    """Run one trial to its end, or say what became of it if it has ended or its time is over.

    Args:
        uc: The use case.
        search: What ``open_search`` returned.
        index: Which trial, from 0 to ``search.trials`` - 1.

    Raises:
        DataError: Use case or code are no longer what the search began with, or PostgreSQL has lost it.
        TransientError: PostgreSQL does not answer.
    """
    _refuse_another(uc, search)
    checkpoints = _checkpoints(uc, search, index)
    with _answering(), _study(uc, search, index) as (study, storage):
        drawn = _take_up(study, storage, search, index)
        trial = _trial(search, drawn)
        if trial.state == "running":
            try:
                trial = _train(uc, search, trial, study, storage, checkpoints)
            except optuna.exceptions.UpdateFinishedTrialError:
                # Taken for dead, another attempt at the same trial went on and has ended it.
                ended = study.get_trials(deepcopy=False)[index]
                trial = _trial(search, ended)
                _log_trial(uc, trial, ended.intermediate_values)
        if trial.state != "not begun":
            checkpoints.clear()
    return trial


def conclude(uc: UseCase, search: Search) -> Conclusion:
    """Compare what the trials came to, write it to the search's MLflow run, and close the search.

    Concluded again, it returns what it returned at first. Trials that have not begun never will. One that has
    not ended counts as failed: its task is over, or it would not be time to conclude.

    Raises:
        DataError: The parameters in force were not tried, or the trainer refused them; or as ``run_trial``.
        TransientError: PostgreSQL does not answer.
    """
    with _answering(), _study(uc, search, 0) as (study, storage), locked(DATABASE, search.name):
        if kept := study.user_attrs.get("conclusion"):
            log.info("search %s has ended before", search.name)
            return Conclusion.model_validate(kept)
        trials = [_trial(search, trial) for trial in study.get_trials(deepcopy=False)]
        if trials[0].state != "complete":
            raise DataError(
                f"the trial of the parameters in force is {trials[0].state}: "
                f"{trials[0].message or 'there is nothing to compare the others with'}",
                rule="a search is concluded when the parameters in force were tried",
                where=f"{search.usecase}: search {search.name}, trial 0",
                cure="clear its task, give the search more minutes, or mend training.trainers in usecase.yml",
            )
        trials = [
            _give_up(uc, search, trial, study, storage) if trial.state == "running" else trial
            for trial in trials
        ]
        best = min(
            (trial for trial in trials if trial.state == "complete"),
            key=lambda trial: (trial.log_loss, trial.index),
        )
        conclusion = Conclusion(
            search=search.name,
            trials=tuple(trials),
            best=best.index,
            proposal=_proposal(uc, search, trials, best),
        )
        _log_conclusion(uc, search, conclusion)
        study.set_user_attr("conclusion", conclusion.model_dump(mode="json"))
    log.info("search %s ends. Lines for usecase.yml:\n%s", search.name, conclusion.proposal)
    return conclusion


def _rules(uc: UseCase, trainer: str) -> SearchRules:
    rules = uc.training.search
    if rules is None or trainer not in rules.spaces:
        known = ", ".join(rules.spaces) if rules else "none"
        raise DataError(
            f"there is no space to search for {trainer!r}; there are: {known}",
            rule="a search has the values that each parameter may have",
            where=f"{uc.name}: usecase.yml, training.search.spaces",
            cure="name one of those trainers, or declare a space for this one",
        )
    return rules


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _in_force(uc: UseCase, trainer: str, space: Mapping[str, Space]) -> dict[str, JsonValue]:
    """Return the present value of each searched parameter; refuse what the trainer refuses."""
    declared = uc.training.trainers[trainer]
    resolve = trainer_of(declared.kind).resolve
    resolved = resolve(declared.params)
    for name, values in space.items():
        where = f"{uc.name}: usecase.yml, training.search.spaces.{trainer}.{name}"
        for value in values.choices or (values.low, values.high):
            try:
                resolve({**declared.params, name: value})
            except DataError as error:
                raise DataError(
                    f"{name} = {value!r}: {error.message}",
                    rule="the trainer takes every parameter and every value of its space",
                    where=where,
                    cure=f"mend or remove it; {error.rule}",
                ) from error
        if name not in resolved or resolved[name] not in values:
            now = f"is {resolved[name]!r}" if name in resolved else "has no value"
            raise DataError(
                f"{name} {now}, which is not in its space",
                rule="a search begins with the parameters in force",
                where=where,
                cure=f"widen it, or give {name} a value in it under training.trainers.{trainer}.params",
            )
    return {name: _as_declared(values, resolved[name]) for name, values in space.items()}


def _as_declared(values: Space, value: JsonValue) -> JsonValue:
    """Return a value as its space writes it: 1 where the trainer makes it 1.0."""
    return value if values.choices is None else next(one for one in values.choices if one == value)


def _name(uc: UseCase, snapshot: Snapshot, trainer: str, trials: int, minutes: float) -> str:
    declared = uc.training.trainers[trainer]
    decides = {
        "training": training_hash(uc, snapshot, declared.kind, declared.params),
        "space": {
            name: space.model_dump(mode="json") for name, space in _rules(uc, trainer).spaces[trainer].items()
        },
        "budget": [trials, minutes],
        # Not the device, nor the build for it: trials may run on another machine than what opens the search.
        "libraries": {name: version(name).partition("+")[0] for name in LIBRARIES},
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{uc.name}.{trainer}.{digest[:16]}"


def _refuse_another(uc: UseCase, search: Search) -> None:
    if _name(uc, search.snapshot, search.trainer, search.trials, search.minutes) != search.name:
        raise DataError(
            "the use case or the code is no longer what this search began with",
            rule="trials of one search differ in the searched parameters only",
            where=f"{search.usecase}: search {search.name}",
            cure="start a new search",
        )


@contextmanager
def _answering() -> Iterator[None]:
    import psycopg

    try:
        yield
    except (
        psycopg.OperationalError,
        sqlalchemy.exc.OperationalError,
        optuna.exceptions.StorageInternalError,
    ) as error:
        raise TransientError(f"PostgreSQL, which keeps searches, does not answer: {error}") from error


@contextmanager
def _storage(*, new: bool = False) -> Iterator[RDBStorage]:
    """Open the tables of Optuna; make them first where ``new``, which only one process at a time may do."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Between two reports of a long training, the server may have been started again.
    options = {"pool_pre_ping": True}
    storage = RDBStorage(url(DATABASE, "psycopg"), engine_kwargs=options, skip_table_creation=not new)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@contextmanager
def _study(uc: UseCase, search: Search, index: int) -> Iterator[tuple[optuna.Study, RDBStorage]]:
    """Open a search's study, with the sampler of one of its trials."""
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=max(_RANDOM_AT_LEAST, search.trials // _RANDOM_SHARE),
        constant_liar=True,
        seed=(uc.training.seed * _SEED_STRIDE + index) % 2**32,
    )
    pruner = optuna.pruners.MedianPruner(
        n_startup_trials=_COMPARED, n_warmup_steps=_PATIENCE, n_min_trials=_COMPARED
    )
    with _storage() as storage:
        try:
            study = optuna.load_study(study_name=search.name, storage=storage, sampler=sampler, pruner=pruner)
        except KeyError as error:
            raise DataError(
                "the database does not know this search",
                rule="trials belong to a search that was opened",
                where=f"{search.usecase}: search {search.name}",
                cure="start a new search",
            ) from error
        yield study, storage


def _take_up(study: optuna.Study, storage: RDBStorage, search: Search, index: int) -> FrozenTrial:
    """Return a trial, begun and with all its parameters drawn unless its time is over.

    One at a time: whoever draws sees what all the others have drawn.
    """
    with locked(DATABASE, search.name):
        trial = study.get_trials(deepcopy=False)[index]
        if trial.state == TrialState.WAITING:
            if "conclusion" in study.user_attrs or datetime.now(UTC) >= _until(search):
                log.info("search %s: trial %d does not begin, the budget is spent", search.name, index)
                return trial
            storage.set_trial_state_values(_id(study, storage, index), TrialState.RUNNING)
        elif trial.state.is_finished() or trial.params.keys() == search.space.keys():
            return trial
        drawing = optuna.Trial(study, _id(study, storage, index))
        for name, space in sorted(search.space.items()):
            _draw(drawing, name, space)
        return study.get_trials(deepcopy=False)[index]


def _id(study: optuna.Study, storage: RDBStorage, index: int) -> int:
    of_study = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(of_study, index)


def _until(search: Search) -> datetime:
    return search.started + timedelta(minutes=search.minutes)


def _draw(trial: optuna.Trial, name: str, space: Space) -> None:
    if space.choices is not None:
        trial.suggest_categorical(name, [_encoded(space, value) for value in space.choices])
        return
    assert space.low is not None  # nosec B101  # for types
    assert space.high is not None  # nosec B101  # for types
    if space.whole:
        trial.suggest_int(name, int(space.low), int(space.high), step=int(space.step or 1), log=space.log)
    else:
        trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)


def _encoded(space: Space, value: JsonValue) -> Any:
    """Return a value as Optuna keeps it, whose choices are no lists."""
    return value if space.choices is None else json.dumps(value, sort_keys=True)


def _trial(search: Search, trial: FrozenTrial) -> Trial:
    drawn = {
        name: value if search.space[name].choices is None else json.loads(value)
        for name, value in sorted(trial.params.items())
    }
    kept = trial.user_attrs
    return Trial(
        index=trial.number,
        state=_STATES[trial.state],
        # As they were declared: 5, where a range of 1.0 to 9.0 would make it 5.0.
        params=search.in_force if drawn and trial.number == 0 else drawn,
        metrics=kept.get("metrics", {}),
        run_id=kept.get("run_id"),
        message=kept.get("message"),
    )


class _Compared(Watched):
    """A watch that keeps how a trial does as it goes on, and calls it off where others did better."""

    def __init__(self, *watched: Any, trial: Trial, study: optuna.Study, storage: RDBStorage) -> None:
        super().__init__(*watched)
        self._trial, self._study, self._storage = trial, study, storage
        self._id = _id(study, storage, trial.index)
        self._part = 0

    def report(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """Do what every watch does, then compare."""
        super().report(step, total, metrics)
        part = step * _PARTS // total
        loss = metrics.get("validation_log_loss")
        if loss is None or part == self._part:
            return
        self._part = part
        self._storage.set_trial_intermediate_value(self._id, part, loss)
        # What all others are compared with is known to its end.
        if self._trial.index and self._study.pruner.prune(self._study, self._storage.get_trial(self._id)):
            share = part / _PARTS
            raise PrunedError(f"worse than the median of the others after {share:.0%} of the steps")


def _train(
    uc: UseCase,
    search: Search,
    trial: Trial,
    study: optuna.Study,
    storage: RDBStorage,
    checkpoints: Checkpoints,
) -> Trial:
    """Train with a trial's parameters, log it, and keep what became of it."""
    parts: tuple[Part, ...] = ("train", "validation")
    tables = dict(zip(parts, load_parts(search.snapshot, *parts), strict=True))
    label = f"{search.trainer} trial {trial.index}"
    log.info("%s: %s", label, trial.params)
    state: State = "complete"
    built: Built | None = None
    message = None
    with tempfile.TemporaryDirectory() as scratch, _trial_run(uc, search, trial, label) as run_id:
        watch = _Compared(uc, label, checkpoints, run_id, trial=trial, study=study, storage=storage)
        try:
            built = build(
                _with(uc, search.trainer, trial.params),
                search.trainer,
                tables,
                search.snapshot,
                Path(scratch) / MODEL_FOLDER,
                watch=watch,
            )
        except PrunedError as reason:
            state, message = "pruned", str(reason)
        except DataError as error:
            state, message = "failed", error.message
    metrics = {part: dict(values) for part, values in built.metrics.items()} if built else {}
    trial = trial.model_copy(
        update={"metrics": metrics, "run_id": run_id, "message": message, "state": state}
    )
    of_trial = _id(study, storage, trial.index)
    _log_trial(uc, trial, storage.get_trial(of_trial).intermediate_values)
    # Last: whatever is killed before that is done again, and comes to the same.
    _tell(study, storage, trial)
    log.info("%s is %s%s", label, state, f", log loss {trial.log_loss:.5f}" if built else f": {message}")
    return trial


def _tell(study: optuna.Study, storage: RDBStorage, trial: Trial) -> None:
    """Keep what became of a trial; with that it has ended."""
    of_trial = _id(study, storage, trial.index)
    for name in ("metrics", "run_id", "message"):
        storage.set_trial_user_attr(of_trial, name, getattr(trial, name))
    (state,) = (ours for ours, named in _STATES.items() if named == trial.state)
    study.tell(trial.index, trial.log_loss if trial.metrics else None, state)


def _give_up(uc: UseCase, search: Search, trial: Trial, study: optuna.Study, storage: RDBStorage) -> Trial:
    """End a trial whose task was killed as often as it was tried, for its memory perhaps."""
    trial = trial.model_copy(
        update={
            "state": "failed",
            "run_id": _found(uc, "search_trial", _identity(search, trial.index)),
            "message": "it was begun and did not end: the log of its task says why",
        }
    )
    if trial.run_id is not None:
        _log_trial(uc, trial, storage.get_trial(_id(study, storage, trial.index)).intermediate_values)
    _tell(study, storage, trial)
    _checkpoints(uc, search, trial.index).clear()
    return trial


def _identity(search: Search, index: int) -> str:
    return f"{search.name} {index}"


def _checkpoints(uc: UseCase, search: Search, index: int) -> Checkpoints:
    return Checkpoints(uc, hashlib.sha256(_identity(search, index).encode()).hexdigest())


def _with(uc: UseCase, trainer: str, params: Mapping[str, JsonValue]) -> UseCase:
    declared = uc.training.trainers[trainer]
    changed = declared.model_copy(update={"params": {**declared.params, **params}})
    trainers = {**uc.training.trainers, trainer: changed}
    training = uc.training.model_copy(update={"trainers": trainers})
    # Trials are many small jobs, which tasks share among machines.
    return uc.model_copy(update={"training": training, "engine": Engine()})


# MLflow ---------------------------------------------------------------------------------------------


def _parent_run(uc: UseCase, name: str, snapshot: Snapshot) -> str:
    """Return the run of a search, made where there is none yet."""
    if found := _found(uc, "search", name):
        return found
    tags = {"search": name, "snapshot_hash": snapshot.content_hash}
    return _made(uc, f"search {name}", tags)


@contextmanager
def _trial_run(uc: UseCase, search: Search, trial: Trial, label: str) -> Iterator[str]:
    """Attach to the run of a trial, the one that an earlier attempt made if there was any."""
    identity = _identity(search, trial.index)
    tags = {"search_trial": identity, "mlflow.parentRunId": search.run_id}
    with locked(DATABASE, search.name):
        run_id = _found(uc, "search_trial", identity) or _made(uc, label, tags)
    with attached(uc, run_id, label, tags):
        yield run_id


def _found(uc: UseCase, tag: str, value: str) -> str | None:
    runs = tracking.client(uc).search_runs(
        [tracking.setup(uc)], filter_string=f"tags.{tag} = '{value}'", max_results=1
    )
    return str(runs[0].info.run_id) if runs else None


def _made(uc: UseCase, label: str, tags: Mapping[str, str]) -> str:
    run = tracking.client(uc).create_run(tracking.setup(uc), tags=dict(tags), run_name=label)
    return str(run.info.run_id)


def _log_trial(uc: UseCase, trial: Trial, curve: Mapping[int, float]) -> None:
    metrics = {
        f"{part}_{name}": value for part, values in trial.metrics.items() for name, value in values.items()
    }
    tags = {"state": trial.state, "message": trial.message or ""}
    assert trial.run_id is not None  # nosec B101  # for types
    _log(uc, trial.run_id, params=trial.params, metrics=metrics, tags=tags, curve=curve)
    tracking.client(uc).set_terminated(trial.run_id, _RUN_STATUS[trial.state])


def _log_conclusion(uc: UseCase, search: Search, conclusion: Conclusion) -> None:
    client = tracking.client(uc)
    best, declared = conclusion.trials[conclusion.best], conclusion.trials[0]
    metrics = {"best_log_loss": best.log_loss, "log_loss_in_force": declared.log_loss}
    metrics |= {
        f"trials_{state.replace(' ', '_')}": count for state, count in _counts(conclusion.trials).items()
    }
    tags = {"best_trial": str(best.index), "best_run": str(best.run_id)}
    _log(uc, search.run_id, params=best.params, metrics=metrics, tags=tags)
    client.log_text(search.run_id, conclusion.proposal, "proposal.yml")
    client.log_dict(search.run_id, conclusion.model_dump(mode="json"), "conclusion.json")
    client.set_terminated(search.run_id)


def _log(
    uc: UseCase,
    run_id: str,
    *,
    params: Mapping[str, JsonValue],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    curve: Mapping[int, float] | None = None,
) -> None:
    """Log to a run. Points bear the time the run began, so that logging them again adds none."""
    from mlflow.entities import Metric, Param, RunTag

    client = tracking.client(uc)
    began = client.get_run(run_id).info.start_time
    points = [Metric(name, float(value), began, 0) for name, value in metrics.items()]
    points += [
        Metric("curve_validation_log_loss", value, began, part) for part, value in (curve or {}).items()
    ]
    client.log_batch(
        run_id,
        metrics=points,
        params=[Param(name, json.dumps(value)) for name, value in params.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def _counts(trials: Sequence[Trial]) -> dict[State, int]:
    return {state: sum(trial.state == state for trial in trials) for state in _STATES.values()}


def _proposal(uc: UseCase, search: Search, trials: Sequence[Trial], best: Trial) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in _counts(trials).items() if count)
    head = [
        f"{search.name}: {counts}; on the snapshot of {search.snapshot.night}.",
        f"Validation log loss {best.log_loss:.5f} with these parameters (trial {best.index}), "
        f"{trials[0].log_loss:.5f} with those in force.",
    ]
    if best.index == 0:
        head[1] = f"Nothing beat the parameters in force: validation log loss {best.log_loss:.5f}."
    params = {**uc.training.trainers[search.trainer].params, **best.params}
    lines = yaml.safe_dump(
        {"training": {"trainers": {search.trainer: {"params": params}}}},
        sort_keys=False,
        default_flow_style=None,
    )
    return "".join(f"# {line}\n" for line in head) + lines
