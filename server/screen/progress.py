"""One line now and then on how far a run is: its clock, devices, merges, loss, rate, and what is left."""

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

LINE_EVERY_S = 5.0
"""Wall seconds between two lines."""
DETAIL_EVERY_S = 0.5
"""Wall seconds between two lines on single merges: hundreds of clusters merge faster than one reads."""


class Progress:
    """Counts events and says a line when one is due.

    Parameters
    ----------
    say : callable
        Gets the line and the run's clock.
    num_devices : int
        Of the run; 0 where that is not known.
    devices_of : Mapping[int, int]
        Devices that a node hosts, by node id; 1 where it is not known.
    horizon_s : float
        Length of the run on its clock.
    max_merges : int
        Merges that end the run before that; 0: none do.
    wall : callable
        Wall clock, seconds.
    """

    def __init__(
        self,
        say: Callable[[str, float], None],
        *,
        num_devices: int,
        devices_of: Mapping[int, int],
        horizon_s: float,
        max_merges: int,
        wall: Callable[[], float] = monotonic,
    ) -> None:
        self._say, self._num_devices, self._devices_of = say, num_devices, devices_of
        self._horizon_s, self._max_merges, self._wall = horizon_s, max_merges, wall
        self._began_wall_s = self._line_wall_s = self._detail_wall_s = wall()
        self._detail_wall_s -= DETAIL_EVERY_S
        self._began_s: float | None = None
        self._first_merges = -1
        self._heard: set[int] = set()
        self._visits = self._visits_at_line = 0
        self._merges, self._loss = 0, ""
        self._model_bytes = 0

    def event(self, event: Mapping[str, Any]) -> None:
        """Take note of an event, and say a line if one is due."""
        if self._began_s is None:
            self._began_s = event["time_s"]
        brings_model = event.get("type") == "query.deliver"
        if event["event"] == "arrived" and not brings_model:
            devices = self._devices_of.get(event["node"], 1)
            if event["node"] not in self._heard:
                self._heard.add(event["node"])
            self._visits += devices
        elif event["event"] == "delivered" and brings_model:
            self._model_bytes += event["bytes"]
        elif event["event"] == "merged":
            self._merges = event["merges"]
            if self._first_merges < 0:
                self._first_merges = self._merges - 1
        elif event["event"] == "evaluated" and "loss" in event:
            self._loss = f", loss {event['loss']:.3f}"
        self._say_if_due(event["time_s"])

    def wants_detail(self) -> bool:
        """Say whether a line on one merge is not too much now."""
        now_s = self._wall()
        if now_s - self._detail_wall_s < DETAIL_EVERY_S:
            return False
        self._detail_wall_s = now_s
        return True

    def _say_if_due(self, time_s: float) -> None:
        now_s = self._wall()
        since_s = now_s - self._line_wall_s
        if since_s < LINE_EVERY_S:
            return
        rate = (self._visits - self._visits_at_line) / since_s
        self._line_wall_s, self._visits_at_line = now_s, self._visits
        heard = sum(self._devices_of.get(node, 1) for node in self._heard)
        share = self._share(time_s)
        left = f", about {duration((now_s - self._began_wall_s) * (1 - share) / share)} left" if share else ""
        of = f" of {self._num_devices}" if self._num_devices else ""
        model = f", {self._model_bytes / 1e6:.4g} MB of the model sent" if self._model_bytes else ""
        self._say(
            f"{100 * time_s / self._horizon_s:.0f} % of the time, "
            f"{heard}{of} devices heard{model}, "
            f"{self._merges} merges{self._loss}, {rate:.1f} devices/s{left}",
            time_s,
        )

    def _share(self, time_s: float) -> float:
        """Return what part of this process's work is done, in [0, 1]; 0 where that cannot be told yet."""
        began_s = self._began_s or 0.0
        share = (time_s - began_s) / (self._horizon_s - began_s) if self._horizon_s > began_s else 0.0
        if self._max_merges and self._first_merges >= 0:
            to_do = self._max_merges - self._first_merges
            share = max(share, (self._merges - self._first_merges) / to_do if to_do > 0 else 1.0)
        return min(share, 1.0)


def duration(seconds: float) -> str:
    """Return wall seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
