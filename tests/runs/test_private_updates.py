"""Runs whose updates are clipped and noised: they go on as before, and the noise is of the seed alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scenario.settings.reading import read_config
from server.app import run
from server.record.state import load_state
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings

Clients = Callable[..., FakeGrid]


def logged(settings: Settings, clients: Clients) -> tuple[bytes, Path]:
    folder = run(clients(settings), read_config(settings))
    return (folder / "events.jsonl").read_bytes(), folder


@pytest.mark.parametrize("strategy", ["ems-fl", "fedasync", "fedavg"])
def test_a_run_merges_noised_updates_and_the_same_seed_gives_the_same(
    tiny_run: Settings, clients: Clients, strategy: str
) -> None:
    settings = {**tiny_run, "strategy": strategy, "fedavg.rounds": 1, "merge.max-merges": 3}
    private = {**settings, "privacy.epsilon": 10.0, "privacy.clip-norm": 0.1}
    plain, _ = logged(settings, clients)
    first, folder = logged(private, clients)
    assert first == logged(private, clients)[0] != plain
    events = [json.loads(line) for line in first.splitlines()]
    assert not [event for event in events if event["event"] == "refused"]
    if strategy == "ems-fl":
        state = load_state(folder)[0]
        merged = [value for key, value in state.values.items() if state.version(key.expert)]
        numbers = np.concatenate(
            [value.ravel() for key, value in state.values.items() if state.version(key.expert)]
        )
        assert len(merged) and np.abs(numbers).max() > 0.05  # 0.2 * 4.84 / 10 a number: noise, not learning
