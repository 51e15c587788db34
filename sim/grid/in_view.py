"""Who is in view of the satellites, and who of them has nothing to do."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sim.grid.event_queue import EventQueue
from sim.plans.plan import Contact, ContactPlan
from sim.population import Node, Population


@dataclass(slots=True, kw_only=True)
class InView:
    """The clusters in view as the clock passes their rises and sets.

    Parameters
    ----------
    plan : ContactPlan
        Every cluster of the population must be in it.
    population : Population
        The nodes.

    Raises
    ------
    ValueError
        If the plan lacks a cluster that has nodes.
    """

    plan: ContactPlan
    population: Population
    _nodes: dict[str, list[int]] = field(default_factory=dict)  # ascending ids by cluster
    _next_contact: dict[str, int] = field(default_factory=dict)  # present or next contact by cluster
    _present: dict[str, Contact] = field(default_factory=dict)
    _num_in_flight: Counter[int] = field(default_factory=Counter)  # messages by node
    _num_busy: Counter[str] = field(default_factory=Counter)  # nodes with a message in flight by cluster

    def __post_init__(self) -> None:
        for node in self.population.nodes:
            self._nodes.setdefault(node.cluster, []).append(node.node_id)
        if unknown := [name for name in self._nodes if name not in self.plan.contacts]:
            known = ", ".join(self.plan.contacts) or "none"
            raise ValueError(
                f"the contact plan lacks clusters of the population: {', '.join(unknown)}; it has: {known}"
            )
        self._next_contact = dict.fromkeys(self._nodes, 0)

    def schedule_first(self, queue: EventQueue) -> None:
        """Schedule the first rise of every cluster."""
        for cluster in self._nodes:
            self._schedule_rise(cluster, queue)

    def _schedule_rise(self, cluster: str, queue: EventQueue) -> None:
        contacts, index = self.plan.contacts[cluster], self._next_contact[cluster]
        if index < len(contacts):
            queue.schedule(contacts[index].rise_s, "rise", cluster)

    def rise(self, cluster: str, queue: EventQueue) -> bool:
        """Note that a cluster rose; say whether one of its nodes is idle."""
        contact = self.plan.contacts[cluster][self._next_contact[cluster]]
        self._present[cluster] = contact
        queue.schedule(contact.set_s, "set", cluster)
        return self._num_busy[cluster] < len(self._nodes[cluster])

    def set(self, cluster: str, queue: EventQueue) -> None:
        """Note that a cluster set."""
        del self._present[cluster]
        self._next_contact[cluster] += 1
        self._schedule_rise(cluster, queue)

    def contact(self, cluster: str) -> Contact | None:
        """Return the contact a cluster is in now, or None."""
        return self._present.get(cluster)

    def node_ids(self) -> list[int]:
        """Return the nodes in view, ascending."""
        return sorted(node_id for cluster in self._present for node_id in self._nodes[cluster])

    def occupy(self, node: Node) -> None:
        """Note a message sent to a node."""
        self._num_in_flight[node.node_id] += 1
        if self._num_in_flight[node.node_id] == 1:
            self._num_busy[node.cluster] += 1

    def release(self, node: Node) -> None:
        """Note a message of a node ended."""
        self._num_in_flight[node.node_id] -= 1
        if not self._num_in_flight[node.node_id]:
            del self._num_in_flight[node.node_id]
            self._num_busy[node.cluster] -= 1

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON-able values."""
        return {"next_contact": dict(self._next_contact), "present": list(self._present)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a `snapshot`; the nodes in flight are to be occupied again."""
        self._next_contact = dict(state["next_contact"])
        self._present = {
            name: self.plan.contacts[name][self._next_contact[name]] for name in state["present"]
        }
        self._num_in_flight.clear()
        self._num_busy.clear()
