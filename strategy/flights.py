"""Messages that have not been answered, found by node and by cluster without looking through all of them."""

from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass

from typing_extensions import override

from moe.experts import ExpertId


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """One message that has not been answered yet.

    Parameters
    ----------
    node_id : int
        Whom it went to.
    cluster : str
        Of a training message, whose experts it carries; empty for a profile question.
    versions : dict[ExpertId, int]
        Version of every expert it carries; empty for a profile question.
    pieces : tuple of str
        Names of the pieces of the model that it brings; empty for other messages.
    """

    node_id: int
    cluster: str
    versions: dict[ExpertId, int]
    pieces: tuple[str, ...] = ()


class Flights(Mapping[str, InFlight]):
    """What is in flight, by message id, in the order of sending.

    With ten thousand devices all of them may be under way, and the strategy asks after every arrival who is
    busy and whom a cluster waits for.
    """

    def __init__(self, sent: Mapping[str, InFlight] | None = None) -> None:
        self._sent: dict[str, InFlight] = {}
        self._by_node: dict[int, int] = {}  # messages
        self._by_cluster: dict[str, dict[str, None]] = {}  # message ids, in order
        for message_id, flight in (sent or {}).items():
            self.add(message_id, flight)

    def add(self, message_id: str, flight: InFlight) -> None:
        """Note a message that was sent."""
        self._sent[message_id] = flight
        self._by_node[flight.node_id] = self._by_node.get(flight.node_id, 0) + 1
        if flight.cluster:
            self._by_cluster.setdefault(flight.cluster, {})[message_id] = None

    def take(self, message_id: str) -> InFlight:
        """Remove and return a message that was answered."""
        flight = self._sent.pop(message_id)
        self._by_node[flight.node_id] -= 1
        if not self._by_node[flight.node_id]:
            del self._by_node[flight.node_id]
        if flight.cluster:
            del self._by_cluster[flight.cluster][message_id]
        return flight

    def forget_all(self) -> None:
        """Take no more interest in any of them."""
        self._sent.clear()
        self._by_node.clear()
        self._by_cluster.clear()

    @property
    def nodes(self) -> KeysView[int]:
        """Nodes that owe an answer."""
        return self._by_node.keys()

    def training(self, cluster: str) -> KeysView[str]:
        """Return the ids of the training messages of a cluster."""
        return self._by_cluster.get(cluster, {}).keys()

    def questions(self) -> list[str]:
        """Return the ids of the messages that ask for a profile."""
        return [message_id for message_id, sent in self._sent.items() if not sent.cluster and not sent.pieces]

    @override
    def __getitem__(self, message_id: str) -> InFlight:
        return self._sent[message_id]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._sent)

    @override
    def __len__(self) -> int:
        return len(self._sent)

    @override
    def keys(self) -> KeysView[str]:
        """Return the ids; the view of a dict, whose membership test is quick."""
        return self._sent.keys()
