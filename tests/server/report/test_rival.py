"""The stored FedAvg that the demo is set beside."""

from dataclasses import replace

import pytest

from scenario.settings.config import RunConfig
from scenario.settings.reading import read_config
from server.report import rival
from server.report.rival import STORED, comparison, world_of
from server.report.screen import render_summary
from tests.server.report.test_screen import SUMMARY

DEMO = RunConfig()


def test_what_is_stored_is_of_todays_demo() -> None:
    assert world_of(DEMO) == STORED.world, (
        "the demo's settings have changed: run make demo ARGS='-c conf/fedavg.toml' and store what it says"
    )


def test_conf_fedavg_is_the_demos_world() -> None:
    assert world_of(read_config({"strategy": "fedavg", "fedavg.rounds": 4})) == STORED.world
    assert world_of(read_config({"run.name": "mine", "merge.discount": "constant"})) == STORED.world
    assert world_of(read_config({"sky.hours": 48.0})) != STORED.world


def test_a_demo_is_told_what_fedavg_came_to() -> None:
    told = comparison(DEMO, before=STORED.before + 0.0005, own=3.6, merged=3.75)
    assert f"ended at {STORED.after:.3f} after {STORED.rounds} rounds, here merged 3.750, own 3.600" in told
    assert f"stored run of {STORED.date}" in told
    assert STORED.after < STORED.before


@pytest.mark.parametrize("settings", [{"sky.hours": 48.0}, {"strategy": "fedavg"}, {"seed": 2}])
def test_another_world_is_not_compared(settings: dict[str, float | str]) -> None:
    assert comparison(read_config(settings), before=STORED.before, own=3.6, merged=3.7) == ""


def test_another_base_is_told_how_to_compare() -> None:
    told = comparison(DEMO, before=STORED.before + 2 * rival.SAME_START, own=3.6, merged=3.7)
    assert told == "FedAvg under the same sky: make demo ARGS='-c conf/fedavg.toml'"


def test_the_last_screen_ends_with_the_comparison() -> None:
    assert "here merged" not in render_summary(SUMMARY)
    told = comparison(DEMO, before=STORED.before, own=3.6, merged=3.7)
    *_, folder = render_summary(replace(SUMMARY, comparison=told)).splitlines()
    assert "here merged 3.700" in " ".join(render_summary(replace(SUMMARY, comparison=told)).split())
    assert folder.startswith("run folder")
