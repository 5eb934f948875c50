"""A model's files may lie where others can write. What is not what was registered never becomes an object."""

from __future__ import annotations

import io
import pickle  # nosec B403  # writes one, to see it refused
import re
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests import synthetic
from tests.lakes import environment

from nightshift.errors import DataError
from nightshift.inference.score import score
from nightshift.registry import deployments, model
from nightshift.registry import mlflow as tracking
from nightshift.registry.models import load_candidate, load_model, register
from nightshift.registry.records import Candidate, Decision
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import Trainer, UseCase

FIRST, SECOND = date(2020, 2, 3), date(2020, 2, 12)
KINDS = ("xgboost", "torch", "logistic")

Versions = dict[str, tuple[Candidate, Candidate]]


class Opened:
    """What a pickle can do to whoever opens it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def uc() -> UseCase:
    uc = synthetic.use_case()
    params = {"logistic": {}, "torch": {"hidden": [8], "epochs": 2}, "xgboost": {"rounds": 10}}
    trainers = {kind: Trainer.model_validate({"kind": kind, "params": params[kind]}) for kind in KINDS}
    return uc.model_copy(update={"training": uc.training.model_copy(update={"trainers": trainers})})


@pytest.fixture(scope="module")
def trained(uc: UseCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Versions]:
    """Two models of each kind, registered."""
    with environment(tmp_path_factory.mktemp("state")):
        synthetic.publish(uc, synthetic.START, SECOND)
        nights = [snapshot(uc, night) for night in (FIRST, SECOND)]
        found: Versions = {}
        for kind in KINDS:
            first, second = (train(uc, taken, kind) for taken in nights)
            found[kind] = (first, second)
            for candidate in found[kind]:
                register(uc, candidate)
        yield found


@pytest.fixture
def folder(uc: UseCase, trained: Versions, kind: str) -> Iterator[Path]:
    """Where the first model of a kind lies in the artifact store; put right again afterwards."""
    folder = load_candidate(uc, trained[kind][0]).folder
    files = {file: file.read_bytes() for file in folder.iterdir()}
    yield folder
    for file, content in files.items():
        file.write_bytes(content)


def _refused(uc: UseCase, candidate: Candidate) -> None:
    """Neither the version nor the candidate is loaded, by its hash: nobody tried to read the weights."""
    for load in (lambda: load_model(uc, register(uc, candidate)), lambda: load_candidate(uc, candidate)):
        with pytest.raises(DataError, match=r"content hash|other hashes") as refused:
            load()
        assert refused.value.rule == "a registered model is read back as it was stored"
        assert "roll back" in refused.value.cure


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_registered_is_loaded(uc: UseCase, trained: Versions, kind: str) -> None:
    for candidate in trained[kind]:
        found = load_model(uc, register(uc, candidate), candidate.content_hash)
        assert found.origin.kind == kind
        assert found.content_hash == candidate.content_hash
        assert "score" in found.reference.column_names


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_were_replaced_are_refused(
    uc: UseCase, trained: Versions, folder: Path, kind: str, tmp_path: Path
) -> None:
    (folder / "weights.bin").write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
    _refused(uc, trained[kind][0])
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_agree_with_each_other_are_refused_before_their_weights_are_read(
    uc: UseCase, trained: Versions, folder: Path, kind: str, tmp_path: Path
) -> None:
    """Whoever can replace the weights can replace the hash beside them, too."""
    origin = load_candidate(uc, trained[kind][0]).origin
    poison = pickle.dumps(Opened(tmp_path / "opened"))
    model.save(folder, origin, poison, pa.table({"partition": [1]}))
    _refused(uc, trained[kind][0])
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_of_another_version_are_refused(
    uc: UseCase, trained: Versions, folder: Path, kind: str
) -> None:
    first, second = trained[kind]
    shutil.copytree(load_candidate(uc, second).folder, folder, dirs_exist_ok=True)
    _refused(uc, first)
    assert load_candidate(uc, second).content_hash == second.content_hash


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_weights_of_another_version_are_refused(
    uc: UseCase, trained: Versions, folder: Path, kind: str
) -> None:
    """With and without the hash that is recorded beside them."""
    first, second = trained[kind]
    shutil.copy(load_candidate(uc, second).folder / "weights.bin", folder / "weights.bin")
    _refused(uc, first)
    said = (folder / "model.json").read_text(encoding="utf-8")
    (folder / "model.json").write_text(
        said.replace(first.content_hash, second.content_hash), encoding="utf-8"
    )
    _refused(uc, first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_sample_that_was_replaced_is_refused(
    uc: UseCase, trained: Versions, folder: Path, kind: str
) -> None:
    candidate = trained[kind][0]
    other = io.BytesIO()
    pq.write_table(pa.table({"partition": [1], "score": [0.5]}), other)
    (folder / "reference.parquet").write_bytes(other.getvalue())
    # It decides no score, and is read by whoever explains or draws: they are refused.
    found = load_candidate(uc, candidate)
    with pytest.raises(DataError, match="the reference sample has hash"):
        _ = found.reference
    # With its hash replaced too, the tracking database still knows the right one.
    origin = found.origin
    model.save(folder, origin, (folder / "weights.bin").read_bytes(), pq.read_table(other))
    _refused(uc, candidate)


@pytest.mark.parametrize("kind", KINDS)
def test_the_deployment_log_is_a_second_witness(
    uc: UseCase, trained: Versions, folder: Path, kind: str
) -> None:
    """Files and registry agree, on another model than the one that was put in charge."""
    _, other = trained[kind]
    fresh = uc.model_copy(update={"name": f"synthetic_{kind}"})
    synthetic.publish(fresh, SECOND, SECOND)
    good = train(uc, snapshot(uc, FIRST), kind).model_copy(update={"usecase": fresh.name})
    decision = Decision(promote=True, candidate=good, metrics={}, reasons=["by the test"])
    deployed = deployments.promote(fresh, decision, effective_from=FIRST + timedelta(days=1))
    shutil.copytree(load_candidate(uc, other).folder, folder, dirs_exist_ok=True)
    client = tracking.client(fresh)
    client.set_model_version_tag(fresh.name, deployed.version, "content_hash", other.content_hash)
    expected = re.escape(f"version {deployed.version} is registered as model {other.content_hash[:12]}")
    with pytest.raises(DataError, match=expected):
        score(fresh, SECOND)


def test_mlflow_opens_no_pickle_either(home: Path, tmp_path: Path) -> None:
    """Its own way of loading would, of any model that somebody puts in the place of ours."""
    import mlflow
    from mlflow.exceptions import MlflowException

    class Planted(mlflow.pyfunc.PythonModel):
        def predict(self, context: object, model_input: list[str]) -> list[str]:
            return model_input

    mlflow.pyfunc.save_model(tmp_path / "planted", python_model=Planted(), pip_requirements=[])
    assert list((tmp_path / "planted").glob("*.pkl"))
    with pytest.raises(MlflowException, match="pickle is disallowed"):
        mlflow.pyfunc.load_model(str(tmp_path / "planted"))
