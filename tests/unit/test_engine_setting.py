"""The engine of a use case: how it is declared, and what is said where Ray is not there."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests import synthetic

from nightshift.errors import DataError
from nightshift.training.snapshot import snapshot
from nightshift.training.train import train
from nightshift.usecase import Engine


def test_one_process_is_the_default_and_a_word_is_enough() -> None:
    assert synthetic.use_case().engine == Engine(name="local")
    assert synthetic.use_case(engine="ray").engine == Engine(name="ray", workers=2, cpus=1, gpus=0)
    assert synthetic.use_case(engine={"name": "ray", "workers": 5}).engine.workers == 5


@pytest.mark.parametrize("engine", ["spark", {"name": "ray", "workers": 0}, {"name": "ray", "nodes": 3}])
def test_an_engine_that_cannot_be_is_refused(engine: object) -> None:
    with pytest.raises(ValidationError, match="engine"):
        synthetic.use_case(engine=engine)


def test_without_ray_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    uc = synthetic.use_case(engine="ray")
    synthetic.publish(uc, synthetic.START, date(2020, 2, 3), rows=20)
    with pytest.raises(DataError, match="Ray is not installed") as raised:
        train(uc, snapshot(uc, date(2020, 2, 3)), "trees")
    assert "production" in raised.value.cure
    assert "engine: local" in raised.value.cure


def test_the_local_engine_does_not_touch_ray(home: Path) -> None:
    program = (
        "import sys, nightshift.inference.score, nightshift.training.train, nightshift.stages\n"
        "from nightshift.training.train import trainer_on_engine\n"
        "from tests import synthetic\n"
        "trainer_on_engine(synthetic.use_case(), 'xgboost')\n"
        "assert 'ray' not in sys.modules, 'imported'\n"
        "assert 'nightshift.cluster' not in sys.modules, 'imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
