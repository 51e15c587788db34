"""A whole run on another device than the CPU; see tests/test_another_device.py for how it is run."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import scenario.tuned_models
import server.evaluate
from scenario.settings.reading import read_config
from server.app import run
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings

Clients = Callable[..., FakeGrid]
SHORT: Settings = {"train.router-rows": True, "train.max-steps": 6, "merge.max-merges": 4}


def test_a_run_has_the_cpus_numbers(
    tiny_run: Settings, clients: Clients, other_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []
    for device in (torch.device("cpu"), other_device):
        chosen: list[str] = []

        def choose(_wish: str, device: torch.device = device, chosen: list[str] = chosen) -> torch.device:
            chosen.append(device.type)
            return device

        for module in (scenario.tuned_models, server.evaluate):
            monkeypatch.setattr(module, "choose_device", choose)
        # The name differs, so that this process does not answer with the models it has from before.
        settings = {**tiny_run, **SHORT, "run.name": device.type}
        folder = run(clients(settings), read_config(settings))
        assert len(chosen) > 4
        found.append(json.loads((folder / "summary.json").read_text()))
    near, far = found
    assert sum(cluster["merges"] for cluster in far["clusters"]) == 4
    for cluster, other in zip(near["clusters"], far["clusters"], strict=True):
        assert cluster["merges"] == other["merges"]
        assert cluster["capture"] == pytest.approx(other["capture"], rel=1e-4)
        for key in ("own_loss_before", "own_loss_after", "merged_loss_before", "merged_loss_after"):
            assert cluster[key] == pytest.approx(other[key], rel=1e-3)
