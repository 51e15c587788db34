"""A run whose devices profile without experts: what they profile with, and when it is made."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from client.client_state import ClientState
from moe.disk.storage import Storage
from moe.standin.stand_in import StandInExperts
from scenario import stand_ins
from scenario.settings.reading import read_config
from server.app import run
from server.job import prepare
from server.report.screen import render_summary
from server.report.summary import read_summary
from tests.fake_grid import FakeGrid
from tests.runs.conftest import DOMAINS, Settings


@pytest.fixture
def without(tiny_run: Settings, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("EMS_FL_CACHE", str(tmp_path / "cache"))
    return {**tiny_run, "profile.method": "stand-in", "profile.stand-in-text": str(texts)}


def test_a_run_makes_them_once_before_it_begins_and_then_reads_no_expert_to_profile(
    without: Settings, clients: Callable[..., FakeGrid], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Storage.read_projection
    reads: list[int] = []

    def counted(self: Storage, layer: int, *rest: object) -> object:
        reads.append(layer)
        return read(self, layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Storage, "read_projection", counted)
    folder = run(clients(without), read_config({**without, "merge.max-merges": 2}))
    # Both linear layers of the four experts of the first layer, once; behind the second nobody looks.
    assert reads == [0] * 8
    assert (folder / "events.jsonl").is_file()


def test_a_run_says_what_its_assignment_kept_of_the_exact_one(
    without: Settings, clients: Callable[..., FakeGrid]
) -> None:
    kept = {}
    for method in ("stand-in", "exact"):
        settings = {**without, "profile.method": method, "merge.max-merges": 1}
        summary = read_summary(run(clients(settings), read_config(settings)))
        kept[method] = summary.capture_kept
        assert ("keeps" in render_summary(summary)) == (method == "stand-in")
    assert kept["exact"] is None
    fedbuff = {**without, "strategy": "fedbuff", "merge.max-merges": 1}
    assert read_summary(run(clients(fedbuff), read_config(fedbuff))).capture_kept is None
    assert kept["stand-in"] is not None and 0.5 < kept["stand-in"] <= 1.0 + 1e-9


def test_the_server_makes_them_while_it_prepares(without: Settings) -> None:
    lines: list[str] = []
    prepare(read_config({**without, "profile.method": "auto"}), lines.append)
    assert not any("stand-in" in line for line in lines)
    prepare(read_config(without), lines.append)
    assert "1 of 1 layers have a stand-in for their experts" in lines


def test_a_device_profiles_as_with_all_experts_or_nearly(without: Settings) -> None:
    found, exact = (
        ClientState(read_config({**without, "profile.method": method})) for method in ("stand-in", "exact")
    )
    for device in range(4):
        (first, second), (true_first, true_second) = found.mass(device), exact.mass(device)
        np.testing.assert_allclose(first, true_first, rtol=1e-6)
        assert np.abs(second - true_second).sum() < 0.25 * true_second.sum()
        assert not np.array_equal(second, true_second)
    model = found._models.profiling()
    assert sum(isinstance(module, StandInExperts) for module in model.modules()) == 2


@pytest.fixture
def threads_as_before() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("threads_as_before")
def test_they_are_made_again_for_what_changes_them_and_for_nothing_else(
    without: Settings, checkpoint: Path
) -> None:
    def told(**changes: object) -> list[str]:
        torch.set_num_threads(2)
        lines: list[str] = []
        config = read_config({**without, **changes})  # type: ignore[dict-item]
        stand_ins.ensure_stand_ins(config, str(checkpoint), lines.append)
        assert torch.get_num_threads() == 2
        return lines

    assert told() == [
        "making stand-ins for the experts, to profile without them",
        "1 of 1 layers have a stand-in for their experts",
    ]
    assert told() == told(seed=7) == []
    for key, value in (
        ("profile.stand-in-rank", 3),
        ("profile.stand-in-text", ""),
        ("model.dtype", "bfloat16"),
        ("data.sequence-length", 10),
    ):
        assert len(told(**{key: value})) == 2, key


def test_the_text_to_fit_to_takes_turns_between_domains(without: Settings) -> None:
    config = read_config(without)
    texts = list(stand_ins._in_turn_by_domain(stand_ins._texts_by_domain(config)))
    assert len(set(texts)) == len(texts)
    words = [set(text.split()) for text in DOMAINS.values()]
    for start in range(0, 40, 4):
        turn = [set(text.split()) for text in texts[start : start + 4]]
        assert all(any(own <= domain for own in turn) for domain in words)


def test_a_text_to_fit_to_is_named_in_full() -> None:
    with pytest.raises(ValueError, match=r"profile\.stand-in-text must be empty or an absolute path"):
        read_config({"profile.stand-in-text": "text.jsonl"})


@pytest.mark.parametrize("simulated", [True, False])
def test_who_asks_again_gets_the_same_noise(tiny_run: Settings, simulated: bool) -> None:
    quiet, noisy = (
        ClientState(read_config({**tiny_run, "profile.noise": scale, "sky.simulated": simulated}))
        for scale in (0.0, 0.1)
    )
    exact, told = quiet.mass(0), noisy.mass(0)
    assert noisy.mass(0) is told
    assert all((a != b).any() for a, b in zip(exact, told, strict=True))
    assert [layer.shape for layer in exact] == [layer.shape for layer in told]
