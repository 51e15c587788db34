"""What a run on real nodes is waiting for, and who was last heard of when: said when it is silent."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

from server.screen.progress import duration

MOST_NAMED = 3
_ANSWERS = {"query": "profile", "train": "update", "query.deliver": "word on pieces of the model"}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A message without its answer."""

    node: int
    what: str
    wall_s: float


class Awaited:
    """Follows the messages of a run.

    Parameters
    ----------
    wall : callable
        Wall clock, seconds.
    """

    def __init__(self, wall: Callable[[], float] = monotonic) -> None:
        self._wall = wall
        self._asked: dict[str, _Asked] = {}
        self._cluster: dict[int, str] = {}
        self._heard_s: dict[int, float] = {}

    def event(self, event: Mapping[str, Any]) -> None:
        """Take note of an event of the grid."""
        kind, node = event["event"], event.get("node", 0)
        if kind == "delivered":
            what = _ANSWERS.get(event["type"], event["type"])
            self._asked[event["message"]] = _Asked(node, what, self._wall())
        elif kind == "arrived":
            self._asked.pop(event["message"], None)
            self._heard_s[node] = self._wall()
        elif kind == "lost":
            self._asked.pop(event["message"], None)
        elif kind == "joined":
            self._cluster[node] = event["cluster"]

    def text(self) -> str:
        """Return what is awaited from whom for how long, the longest first, and who was last heard of."""
        now_s = self._wall()
        asked = sorted(list(self._asked.values()), key=lambda one: one.wall_s)
        if not asked:
            said = "nobody is asked: no node that is connected has anything to do"
        else:
            named = [
                f"the {one.what} of {self._who(one.node)} for {duration(now_s - one.wall_s)}"
                for one in asked[:MOST_NAMED]
            ]
            more = f" and {len(asked) - MOST_NAMED} more" if len(asked) > MOST_NAMED else ""
            said = f"waiting for {', '.join(named)}{more}"
        heard = dict(self._heard_s)
        if not heard:
            return f"{said}; nobody has answered yet"
        last = max(heard, key=heard.__getitem__)
        return f"{said}; last heard of {self._who(last)} {duration(now_s - heard[last])} ago"

    def _who(self, node: int) -> str:
        cluster = self._cluster.get(node)
        return f"node {node} ({cluster})" if cluster else f"node {node}"
