"""What a silent run on real nodes says."""

from typing import Any

from server.screen.awaited import Awaited


class Clock:
    """Wall seconds that a test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def grid(event: str, node: int, message: str, kind: str = "train") -> dict[str, Any]:
    return {"event": event, "node": node, "message": message, "type": kind, "time_s": 0.0}


def test_a_silent_run_says_what_it_waits_for_and_who_was_last_heard() -> None:
    clock = Clock()
    awaited = Awaited(clock)
    assert awaited.text() == (
        "nobody is asked: no node that is connected has anything to do; nobody has answered yet"
    )
    awaited.event(grid("delivered", 7, "a", "query"))
    awaited.event({"event": "joined", "node": 7, "cluster": "Leh", "devices": [0], "time_s": 0.0})
    clock.now_s = 30.0
    assert awaited.text() == "waiting for the profile of node 7 (Leh) for 30 s; nobody has answered yet"
    awaited.event(grid("arrived", 7, "a", "query"))
    for at, node in enumerate((7, 8, 9, 10)):
        clock.now_s = 40.0 + at
        awaited.event(grid("delivered", node, f"t{node}"))
    awaited.event(grid("arrived", 9, "t9"))
    clock.now_s = 163.0
    assert awaited.text() == (
        "waiting for the update of node 7 (Leh) for 2 min, the update of node 8 for 2 min, "
        "the update of node 10 for 2 min; last heard of node 9 2 min ago"
    )


def test_of_many_the_longest_are_named() -> None:
    clock = Clock()
    awaited = Awaited(clock)
    for node in range(5):
        clock.now_s = float(node)
        awaited.event(grid("delivered", node, f"t{node}"))
    clock.now_s = 60.0
    told = awaited.text()
    assert "node 0 for 60 s, the update of node 1 for 59 s" in told and "node 3" not in told
    assert "and 2 more; nobody" in told


def test_what_is_lost_is_not_waited_for() -> None:
    awaited = Awaited(Clock())
    awaited.event(grid("delivered", 7, "a"))
    awaited.event({"event": "lost", "node": 7, "message": "a", "reason": "", "time_s": 0.0})
    assert awaited.text().startswith("nobody is asked")
