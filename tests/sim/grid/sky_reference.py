"""What SatelliteGrid should do, written the slow way: every byte of every transfer is counted.

No queue, no virtual time, no cumulative capacity. The state of every message is a small record; time goes
from one breakpoint (a knot of any contact, a push, a landing, the end of some work) to the next, all
transfers of a link losing an equal share of the bytes in between, and the first transfer to run out is found
by bisection. Everything is looked up by scanning everything.
"""

from dataclasses import dataclass, field

import numpy as np

from sim.plans.plan import Contact, ContactPlan
from sim.population import Population

NEAR = 1e-7  # seconds, bytes or steps that a rounding could turn into another decision


@dataclass
class Trip:
    """One message."""

    number: int
    node_id: int
    down_bytes: float
    up_bytes: float
    is_training: bool
    left_bytes: float = 0.0
    link: tuple[str, str] | None = None  # (cluster, direction) while bytes cross
    land_s: float | None = None
    trained_s: float | None = None
    steps: int = 0
    crossed: dict[tuple[str, float], float] = field(default_factory=dict)  # (direction, rise) -> bytes
    times_s: dict[str, float] = field(default_factory=dict)  # event -> when


@dataclass(kw_only=True)
class SlowSky:
    """The reference simulation; ``is_delicate`` when a rounding could have decided something."""

    plan: ContactPlan
    population: Population
    min_steps: int
    max_steps: int
    query_steps: int
    pushes: list[tuple[float, Trip]]  # (when, what), in order of time
    again: dict[int, list[Trip]]  # node -> what to send it at each of its arrivals
    now_s: float = 0.0
    trips: list[Trip] = field(default_factory=list)
    free_s: dict[int, float] = field(default_factory=dict)
    is_delicate: bool = False

    def run(self) -> list[Trip]:
        """Run to the horizon and return every message that was sent."""
        while True:
            self.act()
            if self.now_s >= self.plan.horizon_s:
                return self.trips
            self.move(self.next_breakpoint_s())

    def next_breakpoint_s(self) -> float:
        """Return the next time at which rates bend or something is known to happen."""
        times = [self.plan.horizon_s]
        for contacts in self.plan.contacts.values():
            for contact in contacts:
                times += contact.time_s.tolist()
        times += [when_s for when_s, _ in self.pushes]
        times += [
            time_s for trip in self.trips for time_s in (trip.land_s, trip.trained_s) if time_s is not None
        ]
        return min(time_s for time_s in times if time_s > self.now_s)

    def contact(self, cluster: str) -> Contact | None:
        """Return the contact of a cluster now."""
        return next((c for c in self.plan.contacts[cluster] if c.rise_s <= self.now_s < c.set_s), None)

    def carried(self, link: tuple[str, str], until_s: float) -> float:
        """Return the bytes a link carries from now until a time with no knot in between."""
        if (contact := self.contact(link[0])) is None:
            return 0.0
        rates = contact.down_bytes_per_s if link[1] == "down" else contact.up_bytes_per_s
        ends = np.interp([self.now_s, until_s], contact.time_s, rates)
        return float(ends.mean() * (until_s - self.now_s))

    def move(self, target_s: float) -> None:
        """Go to a time, or to the first transfer that ends before it."""
        links = {trip.link for trip in self.trips if trip.link}
        end_s = target_s
        for link in links:
            active = [trip for trip in self.trips if trip.link == link]
            needed = min(trip.left_bytes for trip in active) * len(active)
            if self.carried(link, target_s) < needed:
                continue
            low_s, high_s = self.now_s, target_s
            while high_s - low_s > 1e-12 * target_s:
                middle_s = (low_s + high_s) / 2
                if middle_s in (low_s, high_s):
                    break
                low_s, high_s = (
                    (low_s, middle_s) if self.carried(link, middle_s) >= needed else (middle_s, high_s)
                )
            end_s = min(end_s, high_s)
        for link in links:
            active = [trip for trip in self.trips if trip.link == link]
            share = self.carried(link, end_s) / len(active)
            if share > 0:
                contact = self.contact(link[0])
                assert contact is not None
                for trip in active:
                    key = (link[1], contact.rise_s)
                    trip.crossed[key] = trip.crossed.get(key, 0.0) + share
                    trip.left_bytes -= share
                    if abs(trip.left_bytes) < NEAR * 100:
                        trip.left_bytes, trip.link = 0.0, None
                        trip.land_s = end_s + contact.delay_s
                    elif trip.left_bytes < 0.05 and end_s == contact.set_s:
                        self.is_delicate = True  # the grid's slack could call it across
        self.now_s = end_s

    def act(self) -> None:
        """Do all that happens now, in the order in which messages were sent."""
        arrived: list[Trip] = []
        for trip in sorted(self.trips, key=lambda trip: trip.number):
            if trip.land_s == self.now_s:
                trip.land_s = None
                if "delivered" in trip.times_s:
                    trip.times_s["arrived"] = self.now_s
                    arrived.append(trip)
                else:
                    self.deliver(trip)
            if trip.trained_s == self.now_s:
                trip.trained_s = None
                trip.times_s["trained"] = self.now_s
                trip.link, trip.left_bytes = (self.cluster(trip), "up"), trip.up_bytes
        while self.pushes and self.pushes[0][0] == self.now_s:
            self.send(self.pushes.pop(0)[1])
        for trip in arrived:
            if self.again.get(trip.node_id):
                self.send(self.again[trip.node_id].pop(0))

    def cluster(self, trip: Trip) -> str:
        """Return the cluster of a message's node."""
        return self.population.node(trip.node_id).cluster

    def send(self, trip: Trip) -> None:
        """Start a message on its way down."""
        trip.link, trip.left_bytes = (self.cluster(trip), "down"), trip.down_bytes
        self.trips.append(trip)

    def deliver(self, trip: Trip) -> None:
        """Decide how long the node works."""
        node = self.population.node(trip.node_id)
        trip.times_s["delivered"] = self.now_s
        begin_s = max(self.now_s, self.free_s.get(trip.node_id, 0.0))
        last_rise_s = max(rise_s for direction, rise_s in trip.crossed if direction == "down")
        rises = [c.rise_s for c in self.plan.contacts[node.cluster] if c.rise_s > last_rise_s]
        room = (min([*rises, self.plan.horizon_s]) - begin_s) / node.step_time_s
        if abs(room - round(room)) < NEAR:
            self.is_delicate = True
        trip.steps = int(np.clip(np.floor(room), self.min_steps, self.max_steps))
        if not trip.is_training:
            trip.steps = self.query_steps
        trip.trained_s = begin_s + trip.steps * node.step_time_s
        self.free_s[trip.node_id] = trip.trained_s
        if trip.trained_s >= max(c.set_s for c in self.plan.contacts[node.cluster]):
            trip.trained_s = None  # nobody will ever hear of it
