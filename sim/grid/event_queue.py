"""The event queue of the simulated sky: strictly by (time, sequence)."""

from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import Any, NamedTuple


class Event(NamedTuple):
    """Something that happens to ``key`` (a cluster or a message) at a time.

    ``sequence`` is the order of scheduling: events of one instant happen in the order they were foreseen.
    """

    time_s: float
    sequence: int
    kind: str
    key: str


@dataclass(slots=True)
class EventQueue:
    """Future events, earliest first."""

    _heap: list[Event] = field(default_factory=list)
    _next_sequence: int = 0

    def schedule(self, time_s: float, kind: str, key: str) -> int:
        """Add an event and return its sequence number."""
        sequence = self._next_sequence
        heappush(self._heap, Event(time_s, sequence, kind, key))
        self._next_sequence += 1
        return sequence

    def peek(self) -> Event | None:
        """Return the next event, or None."""
        return self._heap[0] if self._heap else None

    def pop(self) -> Event:
        """Remove and return the next event."""
        return heappop(self._heap)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON-able values."""
        return {"next_sequence": self._next_sequence, "events": [list(event) for event in sorted(self._heap)]}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a `snapshot`."""
        self._next_sequence = state["next_sequence"]
        self._heap = [Event(*event) for event in state["events"]]
        heapify(self._heap)
