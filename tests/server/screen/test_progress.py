"""Lines on how far a run is, and how often its state is saved."""

import math

import pytest

from server.record import saving_pace
from server.record.saving_pace import SavingPace
from server.screen.progress import Progress


class Wall:
    """A wall clock set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def progress(wall: Wall, lines: list[str], max_merges: int = 0) -> Progress:
    return Progress(
        lambda text, _: lines.append(text),
        num_devices=30,
        devices_of={1: 10, 2: 10, 3: 10},
        horizon_s=1000.0,
        max_merges=max_merges,
        wall=wall,
    )


def test_a_line_says_time_devices_merges_loss_rate_and_what_is_left() -> None:
    wall, lines = Wall(), list[str]()
    seen = progress(wall, lines)
    seen.event({"event": "evaluated", "time_s": 0.0, "loss": 4.25})
    wall.now_s += 2.0
    seen.event({"event": "arrived", "time_s": 100.0, "node": 1})
    seen.event({"event": "arrived", "time_s": 100.0, "node": 1})
    assert lines == []
    seen.event({"event": "merged", "time_s": 200.0, "merges": 1})
    wall.now_s += 8.0
    seen.event({"event": "delivered", "time_s": 250.0, "node": 2})
    # 20 devices in 10 s; a quarter of the time in 10 s leaves 30 s.
    assert lines == [
        "25 % of the time, 10 of 30 devices heard, 1 merges, loss 4.250, 2.0 devices/s, about 30 s left"
    ]


def test_how_much_of_the_model_was_sent_is_told_and_is_no_visit() -> None:
    wall, lines = Wall(), list[str]()
    seen = progress(wall, lines)
    brings = {"time_s": 0.0, "node": 1, "type": "query.deliver"}
    seen.event({"event": "delivered", "bytes": 4_000_000, **brings})
    seen.event({"event": "arrived", "bytes": 40, **brings})
    wall.now_s += 10.0
    seen.event({"event": "delivered", "bytes": 1_500_000, **brings})
    assert lines[0].startswith(
        "0 % of the time, 0 of 30 devices heard, 5.5 MB of the model sent, 0 merges, 0.0 devices/s"
    )


def test_a_limit_of_merges_shortens_what_is_left() -> None:
    wall, lines = Wall(), list[str]()
    seen = progress(wall, lines, max_merges=4)
    seen.event({"event": "evaluated", "time_s": 0.0})
    wall.now_s += 3.0
    seen.event({"event": "merged", "time_s": 10.0, "merges": 1})
    wall.now_s += 3.0
    seen.event({"event": "merged", "time_s": 10.0, "merges": 2})
    assert lines[0].endswith("about 6 s left")


def test_a_run_that_goes_on_counts_from_where_it_goes_on() -> None:
    wall, lines = Wall(), list[str]()
    seen = progress(wall, lines)
    seen.event({"event": "merged", "time_s": 500.0, "merges": 7})
    wall.now_s += 10.0
    seen.event({"event": "delivered", "time_s": 750.0, "node": 1})
    assert lines[0].startswith("75 %") and lines[0].endswith("about 10 s left")


def test_single_merges_are_told_no_faster_than_one_reads() -> None:
    wall = Wall()
    seen = progress(wall, [])
    told = 0
    for _ in range(100):
        wall.now_s += 0.1
        told += seen.wants_detail()
    assert told == pytest.approx(20, abs=4)


def test_saving_takes_no_more_than_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall()
    monkeypatch.setattr(saving_pace.time, "monotonic", wall)
    pace, saved_s = SavingPace(1, merges=0), 0.0
    began_s = wall.now_s
    for merges in range(1, 2000):
        wall.now_s += 0.1
        if pace.is_due(merges):
            with pace.saving(merges):
                wall.now_s += 2.0
                saved_s += 2.0
    assert 0.03 < saved_s / (wall.now_s - began_s) < 0.06


def test_what_comes_before_the_first_merge_is_saved_at_once_and_later_not_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(saving_pace.time, "monotonic", Wall())
    pace = SavingPace(3, merges=0)
    assert pace.is_due(0)
    with pace.saving(0):
        pass
    assert pace.is_due(0) and not pace.is_due(2) and pace.is_due(3)


def test_over_a_real_link_every_merge_is_saved_whatever_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    wall = Wall()
    monkeypatch.setattr(saving_pace.time, "monotonic", wall)
    pace, hasty = SavingPace(1, merges=0, share=math.inf), SavingPace(1, merges=0)
    for each in (pace, hasty):
        with each.saving(1):
            wall.now_s += 60.0
    assert pace.is_due(2) and not hasty.is_due(2)
