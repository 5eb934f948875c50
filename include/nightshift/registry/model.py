"""What a trained model is, at rest and in use.

At rest it is a folder: ``model.json`` (columns, categories, calibration, threshold, origin), ``weights.bin``
and ``reference.parquet`` (a sample of training rows with their scores). The content hash covers all that
decides a score: weights, columns, categories, calibration, threshold. In use it turns record batches into
calibrated probabilities.

Whoever loads a model says which one it must be. The folder may lie where others can write, so its bytes are
compared with that before anything makes objects of them; and nothing at rest is a pickle.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from nightshift.errors import DataError
from nightshift.registry.contributions import Contributions
from nightshift.registry.encoder import Encoder

Kind = Literal["xgboost", "torch", "logistic"]

_WEIGHTS = "weights.bin"
_ORIGIN = "model.json"
_REFERENCE = "reference.parquet"
# Scores of 0 and 1 have no logarithm.
_EPSILON = 1e-7


class Scorer(Protocol):
    """The uncalibrated model."""

    def probabilities(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return uncalibrated probabilities of shape (rows,)."""

    def contributions(self, data: pa.RecordBatch | pa.Table, reference: pa.Table, /) -> Contributions:
        """Explain uncalibrated log-odds by what sets each row apart from the rows of ``reference``."""


class BetaCalibration(BaseModel):
    """Maps raw to calibrated probabilities: logit = slope_low ln p - slope_high ln(1 - p) + intercept.

    Kull, Silva Filho and Flach 2017, "Beta calibration". Both slopes are positive, so the map is strictly
    increasing: calibration never changes the order of rows, and so neither ROC AUC nor PR AUC.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope_low: float
    slope_high: float
    intercept: float

    def apply(self, raw: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities of the same shape."""
        clipped = np.clip(raw, _EPSILON, 1 - _EPSILON)
        logit = self.slope_low * np.log(clipped) - self.slope_high * np.log1p(-clipped) + self.intercept
        return np.asarray(1 / (1 + np.exp(-logit)))


class Origin(BaseModel):
    """Everything stored about a model beside its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    usecase: str
    trainer: str
    kind: Kind
    encoder: Encoder
    calibration: BetaCalibration
    threshold: float
    snapshot_hash: str
    trained_night: date
    trained_through: date
    content_hash: str = ""
    reference_hash: str = ""

    @property
    def identity(self) -> Identity:
        """What the files say that they are."""
        return Identity(self.content_hash, self.reference_hash)


@dataclass(frozen=True)
class Identity:
    """Which model it is.

    Attributes:
        content_hash: Of all that decides a score.
        reference_hash: SHA-256 (hex) of the file of the reference sample.
    """

    content_hash: str
    reference_hash: str


@dataclass(frozen=True)
class Model:
    """A model ready to score.

    ``trained_night`` is the night whose knowledge the snapshot held; ``trained_through`` the last day whose
    rows shaped the model (fitting, early stopping or calibration): later rows are unseen by it.
    """

    origin: Origin
    scorer: Scorer
    folder: Path
    version: str = ""

    @property
    def content_hash(self) -> str:
        """Hash of all that decides a score."""
        return self.origin.content_hash

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns that ``predict_proba`` reads."""
        return self.origin.encoder.columns

    @property
    def threshold(self) -> float:
        """Probability from which acting costs less than not acting."""
        return self.origin.threshold

    @property
    def trained_night(self) -> date:
        """The night whose knowledge the training snapshot held."""
        return self.origin.trained_night

    @property
    def trained_through(self) -> date:
        """The last day whose rows shaped the model."""
        return self.origin.trained_through

    @cached_property
    def reference(self) -> pa.Table:
        """What drift is measured against: training rows as partition, feature columns and ``score``.

        Raises:
            DataError: The file is not the one that was stored.
        """
        try:
            content = (self.folder / _REFERENCE).read_bytes()
        except OSError as error:
            raise _broken(self.folder, f"the reference sample cannot be read: {error}") from error
        if (found := hashlib.sha256(content).hexdigest()) != self.origin.reference_hash:
            raise _broken(
                self.folder,
                f"the reference sample has hash {found[:12]}, not {self.origin.reference_hash[:12]}",
            )
        return pq.read_table(pa.BufferReader(content))

    def predict_proba(self, data: pa.RecordBatch | pa.Table) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities of shape (rows,), float64.

        Extra columns are ignored; unknown categories and nulls count as missing. A row's score does not
        depend on the batch it comes in.

        Raises:
            DataError: A feature column is missing or of a type that is no number.
        """
        return self.origin.calibration.apply(self.scorer.probabilities(data))

    def contributions(self, data: pa.RecordBatch | pa.Table) -> Contributions:
        """Return SHAP values: what each feature adds to the log-odds of each row, before calibration.

        ``base`` and the values of a row sum to the log-odds of its uncalibrated probability; calibration
        comes after and never changes the order of rows. A row's values do not depend on its batch.

        Raises:
            DataError: As ``predict_proba``.
        """
        return self.scorer.contributions(data, self.reference)

    def as_version(self, version: str) -> Model:
        """Return the same model, knowing its registered version."""
        return replace(self, version=version)


def scorer_of(kind: Kind, weights: bytes, encoder: Encoder) -> Scorer:
    """Return the scorer of ``kind``; torch is imported only for a network."""
    if kind == "torch":
        from nightshift.registry.network import NetworkScorer

        return NetworkScorer(weights, encoder)
    if kind == "logistic":
        from nightshift.registry.logistic import LogisticScorer

        return LogisticScorer(weights, encoder)
    from nightshift.registry.booster import BoosterScorer

    return BoosterScorer(weights, encoder)


def save(folder: Path, origin: Origin, weights: bytes, reference: pa.Table) -> Origin:
    """Write a model's three files and return its origin with both hashes filled in."""
    sample = io.BytesIO()
    pq.write_table(reference, sample)
    stamped = origin.model_copy(
        update={
            "content_hash": _content_hash(origin, weights),
            "reference_hash": hashlib.sha256(sample.getvalue()).hexdigest(),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _WEIGHTS).write_bytes(weights)
    (folder / _REFERENCE).write_bytes(sample.getvalue())
    (folder / _ORIGIN).write_text(stamped.model_dump_json(indent=2), encoding="utf-8")
    return stamped


def load(folder: Path, identity: Identity) -> Model:
    """Read the model ``identity`` from its folder.

    Weights become objects only once their hash is known to be the right one.

    Raises:
        DataError: A file is missing, the files are another model or were changed, or another version of
            Nightshift stored them in another form.
    """
    origin, weights = _files(folder)
    found = _content_hash(origin, weights)
    if found != identity.content_hash:
        raise _broken(
            folder, f"the stored model has content hash {found[:12]}, not {identity.content_hash[:12]}"
        )
    if origin.identity != identity:
        raise _broken(folder, "the stored model names other hashes than those it was registered with")
    try:
        scorer = scorer_of(origin.kind, weights, origin.encoder)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(
            folder, f"the stored weights are not as this version of Nightshift reads them: {error!r}"
        ) from error
    return Model(origin, scorer, folder)


def named_identity(folder: Path) -> Identity:
    """Return the identity that the files in ``folder`` give themselves, for who knows no other.

    It tells whole files from damaged ones. Whoever can replace them all can replace it, too.

    Raises:
        DataError: A file is missing, or is no part of a model.
    """
    origin, _ = _files(folder)
    return origin.identity


def _files(folder: Path) -> tuple[Origin, bytes]:
    try:
        return (
            Origin.model_validate_json((folder / _ORIGIN).read_bytes()),
            (folder / _WEIGHTS).read_bytes(),
        )
    except (OSError, ValueError) as error:
        raise _broken(folder, f"the stored model cannot be read: {error}") from error


def _broken(folder: Path, message: str) -> DataError:
    return DataError(
        message,
        rule="a registered model is read back as it was stored",
        where=str(folder),
        cure="roll back to an earlier version, or train again: the same snapshot gives the same model",
    )


def _content_hash(origin: Origin, weights: bytes) -> str:
    decides = origin.model_dump_json(include={"kind", "encoder", "calibration", "threshold"})
    return hashlib.sha256(decides.encode() + b"\0" + weights).hexdigest()
