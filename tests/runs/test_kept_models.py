"""How many models a process keeps changes what a run costs, not what comes of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenario import tuned_models as tuned
from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings


def test_a_run_that_keeps_one_model_at_a_time_comes_to_the_same(
    tiny_run: Settings,
    clients: Callable[..., FakeGrid],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[int] = []
    load = tuned.load_submodel

    def count(*arguments: Any, **named: Any) -> Any:
        loads[-1] += 1
        return load(*arguments, **named)

    monkeypatch.setattr(tuned, "load_submodel", count)
    found = []
    for kept_mb in (0.0, 500.0):
        loads.append(0)
        options: Settings = {"model.kept-mb": kept_mb, "train.lora-dropout": 0.1}
        settings = {**tiny_run, **options, "merge.max-merges": 4, "run.dir": str(tmp_path / str(kept_mb))}
        folder = run(clients(settings), read_config(settings))
        found.append(((folder / "events.jsonl").read_bytes(), load_state(folder)[0].values))
    (log, values), (other_log, other_values) = found
    assert log == other_log
    assert all(np.array_equal(value, other_values[key]) for key, value in values.items())
    # Four clusters have a sub-model each, on the devices' side and on the server's.
    assert loads[1] == 8
    assert loads[0] > loads[1]
