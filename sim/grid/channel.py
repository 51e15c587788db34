"""One direction of a cluster's link, its capacity shared equally by the transfers under way.

Processor sharing without stepping through time. Let C(t) be the bytes the link has carried by t
(`sim.grid.capacity`) and n the number of active transfers. Each of them has received V(t), dV = dC / n, so a
transfer of S bytes that starts when V = V0 is across when V = V0 + S, whatever joins or leaves meanwhile: a
heap of V0 + S is the whole scheduler, O(log n) an operation. Between contacts C is constant, so transfers
stop at set and go on at the next rise by construction.

Source: virtual time of fair queueing, Parekh and Gallager 1993, IEEE/ACM Trans. Networking 1(3), Sec. III,
with the integral of a varying rate in place of a constant one.
"""

from bisect import bisect_left, bisect_right
from dataclasses import astuple, dataclass, field
from heapq import heapify, heappop, heappush
from math import inf
from typing import Any

from sim.grid.capacity import Capacity

# A transfer that misses its end by less than this at set is across: the rounding of sums of doubles must not
# push a message that exactly fits its contact into the next one. An addition rounds by 1e-16 of the total.
SLACK_BYTES, SLACK_RELATIVE = 1e-3, 1e-15


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """How a transfer crossed.

    Parameters
    ----------
    by_contact : tuple[tuple[float, float], ...]
        ``(rise_s, bytes)`` of each contact that carried some of it; the bytes add up to its size.
    delay_s : float
        One-way light time of the contact that carried the end of it.
    """

    by_contact: tuple[tuple[float, float], ...]
    delay_s: float


@dataclass(slots=True)
class _Transfer:
    """A transfer under way: the share V at its start and end, and the first contact that can carry it."""

    size_bytes: float
    start_share: float
    end_share: float
    first_contact: int


@dataclass(slots=True)
class SharedChannel:
    """The transfers of one cluster in one direction.

    Parameters
    ----------
    capacity : Capacity
        What the link carries by when.
    """

    capacity: Capacity
    _time_s: float = 0.0  # all below is as of this time
    _total_bytes: float = 0.0  # C
    _share: float = 0.0  # V
    _contact: int = 0  # first contact not yet set
    _first_marked: int = 0  # contact of _set_shares[0]
    _set_shares: list[float] = field(default_factory=list)  # V at the sets passed while busy
    _transfers: dict[str, _Transfer] = field(default_factory=dict)
    _heap: list[tuple[float, int, str]] = field(
        default_factory=list
    )  # (end share, order, key); may hold ended keys
    _next_order: int = 0

    def start(self, key: str, size_bytes: float, time_s: float) -> None:
        """Begin a transfer of ``size_bytes`` > 0 at ``time_s``, no earlier than the last call."""
        self._settle(time_s)
        transfer = _Transfer(size_bytes, self._share, self._share + size_bytes, self._contact)
        self._transfers[key] = transfer
        heappush(self._heap, (transfer.end_share, self._next_order, key))
        self._next_order += 1

    def next_finish(self) -> tuple[float, str] | None:
        """Return when the first transfer ends if none joins or leaves, and its key; None if never."""
        while self._heap and self._heap[0][2] not in self._transfers:
            heappop(self._heap)
        if not self._heap:
            return None
        end_share, _, key = self._heap[0]
        end_bytes = self._total_bytes + (end_share - self._share) * len(self._transfers)
        contact = bisect_left(self.capacity.at_set_bytes, end_bytes - self.slack_bytes)
        if contact == len(self.capacity.contacts):
            return None
        end_bytes = min(end_bytes, self.capacity.at_set_bytes[contact])
        if end_bytes <= self._total_bytes:
            return self._time_s, key
        end_s = self.capacity.time_of(end_bytes)
        return None if end_s == inf else (max(end_s, self._time_s), key)

    def finish(self, key: str, time_s: float) -> Crossing:
        """End a transfer at the time `next_finish` gave for it."""
        self._settle(time_s)
        transfer = self._transfers.pop(key)
        return self._crossing(transfer, transfer.end_share, transfer.size_bytes)

    def cancel(self, key: str, time_s: float) -> Crossing:
        """End a transfer early; the crossing holds the bytes so far."""
        self._settle(time_s)
        transfer = self._transfers.pop(key)
        return self._crossing(transfer, self._share, self._share - transfer.start_share)

    def left_bytes(self, key: str, time_s: float) -> float:
        """Return what a transfer still has to carry at a time, no earlier than the last call."""
        gained = (self.capacity.bytes_at(time_s) - self._total_bytes) / len(self._transfers)
        return max(self._transfers[key].end_share - self._share - gained, 0.0)

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON-able values, for `restore` on a channel of the same capacity."""
        kept = (
            "_time_s",
            "_total_bytes",
            "_share",
            "_contact",
            "_first_marked",
            "_set_shares",
            "_next_order",
        )
        state: dict[str, Any] = {name: getattr(self, name) for name in kept}
        state["_set_shares"] = list(self._set_shares)
        state["_heap"] = [list(entry) for entry in self._heap if entry[2] in self._transfers]
        state["_transfers"] = {key: list(astuple(transfer)) for key, transfer in self._transfers.items()}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state of a `snapshot`."""
        for name, value in state.items():
            setattr(self, name, value)
        self._set_shares = list(state["_set_shares"])
        self._transfers = {key: _Transfer(*values) for key, values in state["_transfers"].items()}
        self._heap = [(share, order, key) for share, order, key in state["_heap"]]
        heapify(self._heap)

    @property
    def slack_bytes(self) -> float:
        """What a transfer may lack at a set and still be across, for rounding."""
        return SLACK_BYTES + SLACK_RELATIVE * self.capacity.total_bytes

    def _settle(self, time_s: float) -> None:
        """Bring the share up to a time, marking it at every set on the way."""
        capacity, active = self.capacity, len(self._transfers)
        if not active:  # an idle link carries nothing: start afresh, which also keeps V small and exact
            self._contact = bisect_right(capacity.set_s, time_s)
            self._share, self._set_shares, self._first_marked = 0.0, [], self._contact
            self._heap.clear()
        else:
            while self._contact < len(capacity.set_s) and capacity.set_s[self._contact] <= time_s:
                at_set_bytes = capacity.at_set_bytes[self._contact]
                self._share += (at_set_bytes - self._total_bytes) / active
                self._total_bytes = at_set_bytes
                self._set_shares.append(self._share)
                self._contact += 1
        total_bytes = max(capacity.bytes_at(time_s), self._total_bytes)
        if active:
            self._share += (total_bytes - self._total_bytes) / active
        self._total_bytes, self._time_s = total_bytes, time_s

    def _crossing(self, transfer: _Transfer, end_share: float, carried_bytes: float) -> Crossing:
        """Divide a transfer's bytes up to a share among the contacts that carried them."""
        by_contact: list[tuple[float, float]] = []
        begin_share = transfer.start_share
        contact = transfer.first_contact
        for contact in range(transfer.first_contact, self._first_marked + len(self._set_shares)):
            set_share = self._set_shares[contact - self._first_marked]
            if end_share - set_share <= self.slack_bytes:
                break
            if set_share > begin_share:
                by_contact.append((self.capacity.contacts[contact].rise_s, set_share - begin_share))
                begin_share = set_share
        else:
            contact = self._contact
        # The last one takes the rest, so that the bytes add up to the size exactly.
        rest = carried_bytes - sum(part for _, part in by_contact)
        if contact == len(self.capacity.contacts) or rest <= 0:  # cancelled out of contact
            return Crossing(by_contact=tuple(by_contact), delay_s=0.0)
        by_contact.append((self.capacity.contacts[contact].rise_s, rest))
        return Crossing(by_contact=tuple(by_contact), delay_s=self.capacity.contacts[contact].delay_s)
