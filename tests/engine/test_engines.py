"""Law 11: the engine does not show. The same seed writes the same log in this process and in a pool."""

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.run import run
from server.record.run_folder import read_settings
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings, checkpoint, clients, texts, tiny_run, whole_run

__all__ = ["checkpoint", "clients", "texts", "tiny_run", "whole_run"]  # fixtures

Clients = Callable[..., FakeGrid]


@pytest.mark.parametrize(("workers", "grouped"), [(0, True), (0, False), (2, True)])
def test_every_engine_writes_the_same_log(
    tiny_run: Settings, whole_run: Path, workers: int, grouped: bool
) -> None:
    folder = run({**tiny_run, "run.grouped": grouped}, workers=workers)
    assert read_settings(folder).run.grouped == grouped
    assert (folder / "events.jsonl").read_bytes() == (whole_run / "events.jsonl").read_bytes()


def test_the_stock_baseline_too(tiny_run: Settings) -> None:
    settings = {**tiny_run, "strategy": "fedavg", "fedavg.rounds": 1, "sky.hours": 24.0}
    one, other = run({**settings, "run.grouped": False}), run(settings)
    assert (one / "events.jsonl").read_bytes() == (other / "events.jsonl").read_bytes()
