"""Law 11: the engine does not show. The same seed writes the same log in this process and in a pool."""

import json
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


@pytest.mark.parametrize("bits", [16, 8])
def test_updates_in_few_bits_are_rounded_alike_whoever_computes_them(tiny_run: Settings, bits: int) -> None:
    settings = {**tiny_run, "merge.update-bits": bits}
    whole, single, pool = (
        run({**settings, "run.grouped": grouped}, workers=workers)
        for grouped, workers in ((True, 0), (False, 0), (True, 2))
    )
    logs = {(folder / "events.jsonl").read_bytes() for folder in (whole, single, pool)}
    assert len(logs) == 1
    plain = run(tiny_run)
    bytes_up, loss = zip(*(outcome_of(folder) for folder in (plain, whole)), strict=True)
    # Arrays have headers of 128 bytes, which of a tiny model's are much.
    assert bytes_up[1] < (0.85 if bits == 16 else 0.75) * bytes_up[0]
    assert loss[0] != loss[1] and loss[1] == pytest.approx(loss[0], abs=0.01)


def outcome_of(folder: Path) -> tuple[int, float]:
    """Return the bytes that went up, and the mean loss of the merged model at the end."""
    summary = json.loads((folder / "summary.json").read_text())
    losses = [cluster["merged_loss_after"] for cluster in summary["clusters"]]
    return summary["spent"]["bytes_up"], sum(losses) / len(losses)


def test_the_stock_baseline_too(tiny_run: Settings) -> None:
    settings = {**tiny_run, "strategy": "fedavg", "fedavg.rounds": 1, "sky.hours": 24.0}
    one, other = run({**settings, "run.grouped": False}), run(settings)
    assert (one / "events.jsonl").read_bytes() == (other / "events.jsonl").read_bytes()
