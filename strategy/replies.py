"""Taking in what comes down: a profile is noted, an update waits for its pass, a fault is logged."""

from collections.abc import Collection
from typing import Any

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from moe.experts import ExpertId
from strategy.assigner import confirmed
from strategy.delivery.messages import read_delivered, read_lacking
from strategy.delivery.pieces import without_experts
from strategy.flights import InFlight
from strategy.messages import TURNED_AWAY, read_profile, read_update, said_dispatch
from strategy.settings import EmsFlSettings
from strategy.state import Arrival, EmsFlState

MAX_REASON_LENGTH = 600
"""Characters of a fault that are logged; a client's traceback may be pages long."""


_LOST_ON_THE_WAY = (
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
)
"""Flower's words for an upload that was cut too long, or came too late, or was asked for in the moment in
which its node went dark, and `server.patient_grid`'s for a node that was started again: not its fault."""


def receive_reply(
    reply: Message, state: EmsFlState, settings: EmsFlSettings, now_s: float
) -> dict[str, Any] | None:
    """Take one reply into the state; a broken or hostile one is refused and the run goes on.

    Parameters
    ----------
    reply : Message
        To a message in ``state.in_flight``.
    state : EmsFlState
        Changed in place.
    settings : EmsFlSettings
        What a profile must agree with, and how many faults in a row a node may have.
    now_s : float
        On the run's clock.

    Returns
    -------
    dict or None
        The event to log: ``profiled``, ``lost`` or ``refused``; None for an update, which is logged when
        merged, and for pieces, whose messages are.
    """
    sent = state.in_flight.take(reply.metadata.reply_to_message_id)
    node_id = sent.node_id  # Flower's own errors come from the SuperLink
    try:
        if reply.has_error() and reply.error.code in _LOST_ON_THE_WAY:
            return _note_lost(reply, sent, state)
        if reply.has_error():
            raise ValueError(error_text(reply.error))
        event = None
        if sent.pieces:
            state.held.setdefault(node_id, set()).update(read_delivered(reply, sent.pieces))
            return None  # what was wrong with its training before may still be
        if lost := read_lacking(reply):
            _forget(lost, node_id, state)
        elif sent.versions:
            _wait_for_pass(reply, node_id, sent, state, now_s)
        else:
            event = _register(reply, node_id, state, settings)
    except ValueError as fault:
        return _refuse(str(fault)[:MAX_REASON_LENGTH], node_id, state, settings)
    state.failures.pop(node_id, None)
    return event


def error_text(error: Error) -> str:
    """Return what an error in place of a reply says."""
    return str(error.reason) if error.code == TURNED_AWAY else f"Flower error {error.code}: {error.reason}"


def _register(reply: Message, node_id: int, state: EmsFlState, settings: EmsFlSettings) -> dict[str, Any]:
    profile = read_profile(reply)
    settings.check_profile(profile)
    state.profiles[node_id] = profile
    state.outdated.discard(node_id)
    if profile.held:
        state.held.setdefault(node_id, set()).update(expert.name for expert in profile.held)
    return {
        "event": "profiled",
        "node": node_id,
        "cluster": profile.cluster,
        "devices": list(profile.devices),
        "num_examples": profile.num_examples,
    }


def _forget(lost: Collection[ExpertId], node_id: int, state: EmsFlState) -> None:
    """Take a node's word that it lacks experts it had acknowledged: they come again, unless it goes on so.

    Raises
    ------
    ValueError
        Always: it is one of the faults that are counted.
    """
    state.held[node_id] = without_experts(state.held.get(node_id, ()), lost)
    names = ", ".join(expert.name for expert in sorted(lost)[:3])
    raise ValueError(
        f"its disk does not hold experts that it had acknowledged ({names}); they are sent again"
    )


def _note_lost(reply: Message, sent: InFlight, state: EmsFlState) -> dict[str, Any]:
    """Remember what a node is to send again; a link that goes dark or a restart is no fault of the node."""
    if sent.versions:
        # A node has one training at a time, and this was the last it was asked for.
        state.lost.setdefault(sent.node_id, {})[state.dispatches[sent.node_id] - 1] = sent.versions
    return {
        "event": "lost",
        "node": sent.node_id,
        "message": reply.metadata.reply_to_message_id,
        "reason": error_text(reply.error)[:MAX_REASON_LENGTH],
    }


def _wait_for_pass(reply: Message, node_id: int, sent: InFlight, state: EmsFlState, now_s: float) -> None:
    profile = state.profiles[node_id]
    versions = state.lost.pop(node_id, {}).get(said_dispatch(reply), sent.versions)
    asked = {key: value for key, value in state.values.items() if key.expert in versions}
    update = read_update(reply, asked, profile.num_examples)
    arrival = Arrival(node_id=node_id, versions=versions, update=update, arrived_s=now_s)
    if state.assignment is not None:
        # One that set out before the assignment may carry what is another's now.
        kept = confirmed(arrival, state.experts_of(profile.cluster))
        if kept is None:
            return
        arrival = kept
    state.arrivals.setdefault(profile.cluster, []).append(arrival)


def _refuse(reason: str, node_id: int, state: EmsFlState, settings: EmsFlSettings) -> dict[str, Any]:
    """Count the fault; a node with too many in a row is left alone for the rest of the run."""
    state.failures[node_id] = state.failures.get(node_id, 0) + 1
    if state.failures[node_id] >= settings.max_failures:
        state.refused[node_id] = reason
    return {"event": "refused", "node": node_id, "reason": reason, "failures": state.failures[node_id]}
