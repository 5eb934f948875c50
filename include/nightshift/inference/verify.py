"""The check that what is served is what was trained: staged predictions are made again, another way.

Scores are computed once more from the published features, read as training reads them, by the registered
model that the predictions name. Whatever scoring did to a feature and training does not, a changed unit, a
default for what is missing, another order of columns, makes another score, and stops the day by name.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nightshift.errors import DataError
from nightshift.lake import tables
from nightshift.lake.staging import Staged, read_staged
from nightshift.registry.models import load_model
from nightshift.usecase import UseCase

log = logging.getLogger(__name__)

# A skew of serving is one of its code, so it shows in any thousands of rows; a day of millions stays cheap.
_ROWS = 10_000
# Scores are kept to so much by content hashes, too.
_SAME_SCORE = 1e-8
_NAMED = 3


def verify(uc: UseCase, staged: Staged) -> int:
    """Score evenly spaced rows of staged predictions again, and return how many were compared.

    None are compared when the features were published anew since: such predictions are stale, and
    ``monitoring.staleness`` names them. The suite of predictions has checked before that every entity with
    features is scored once, by one model.

    Raises:
        DataError: A score is not the one that the model gives to the published features.
    """
    predictions = read_staged(staged)
    if not predictions.num_rows:
        return 0
    first = predictions.slice(0, 1).to_pylist()[0]
    published = tables.partition_version(uc, "features", staged.partition)
    if published is None or published.content_hash != first["feature_version"]:
        log.warning(
            "%s: scores of %s are not compared: their features were replaced", uc.name, staged.partition
        )
        return 0
    taken = np.unique(
        np.linspace(0, predictions.num_rows - 1, min(predictions.num_rows, _ROWS)).astype(np.int64)
    )
    sample = predictions.select([uc.entity, "score"]).take(pa.array(taken))
    model = load_model(uc, first["model_version"])
    features = tables.read_partitions(
        uc, "features", staged.partition, staged.partition, columns=[uc.entity, *model.feature_columns]
    )
    order = pc.index_in(sample[uc.entity], value_set=features[uc.entity])
    again = model.predict_proba(features.take(order))
    said = sample["score"].to_numpy()
    # Written so that no comparison with NaN passes.
    different = np.flatnonzero(~(np.abs(again - said) <= _SAME_SCORE))
    if different.size:
        # What stands out most is what tells a person where to look.
        worst = different[np.argsort(-np.abs(again - said)[different], kind="stable")][:_NAMED]
        named = "; ".join(
            f"{sample[uc.entity][int(row)].as_py()} has {said[row]:.4f} instead of {again[row]:.4f}"
            for row in worst
        )
        raise DataError(
            f"training-serving skew: {different.size} of {said.size} scores of {staged.partition} are not "
            f"those of model version {model.version} for the published features: {named}",
            rule="a score is what the registered model gives to the published features",
            where=f"{uc.name}, predictions, partition {staged.partition}",
            cure="look for what scoring does to features and training does not (a unit, a default, an order "
            "of columns); features are computed in the features relation alone",
        )
    return int(said.size)
