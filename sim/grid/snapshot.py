"""The simulated sky as a value: what a run needs to go on as if it had never stopped."""

from typing import Any

from flwr.app import Error, Message, RecordDict

from sim.grid.message_bytes import decode_content, decode_message, encode_content, encode_metadata
from sim.grid.simulator import Traffic
from sim.grid.transit import Journey, Phase

_PLAIN = ("down_bytes", "pushed_s", "delivered_s", "trained_s", "steps", "up_bytes")


class _Contents:
    """Encoded contents; one that many messages share is kept once."""

    def __init__(self) -> None:
        self.encoded: list[bytes] = []
        self._places: dict[int, int] = {}

    def place(self, content: RecordDict) -> int:
        """Keep a content and return where."""
        if id(content) not in self._places:
            self._places[id(content)] = len(self.encoded)
            self.encoded.append(encode_content(content))
        return self._places[id(content)]


def snapshot_traffic(traffic: Traffic) -> dict[str, Any]:
    """Return everything in flight as JSON-able values, and bytes under ``contents``.

    Parameters
    ----------
    traffic : Traffic
        Not modified.
    """
    contents = _Contents()
    return {
        "sky": _fingerprint(traffic),
        "now_s": traffic.now_s,
        "is_over": traffic.is_over,
        "queue": traffic.queue.snapshot(),
        "view": traffic.view.snapshot(),
        "channels": [[*link, channel.snapshot()] for link, channel in traffic.channels.items()],
        "changed": [list(link) for link in traffic.changed],
        "finish_events": [[*link, sequence] for link, sequence in traffic.finish_events.items()],
        "free_s": [[node_id, free_s] for node_id, free_s in traffic.free_s.items()],
        "journeys": [_encode_journey(journey, contents) for journey in traffic.journeys.values()],
        "inbox": [_encode_message(message, contents) for message in traffic.inbox.values()],
        "contents": contents.encoded,
    }


def restore_traffic(traffic: Traffic, state: dict[str, Any]) -> None:
    """Take the state of a snapshot, and have the work that was going on computed anew.

    Parameters
    ----------
    traffic : Traffic
        Of the same plan and population; whatever it was doing is forgotten.
    state : dict
        Of `snapshot_traffic`; not modified.

    Raises
    ------
    ValueError
        If the snapshot is of another plan or population.
    """
    if state["sky"] != _fingerprint(traffic):
        raise ValueError(
            f"the snapshot is of another sky: it has {state['sky']}, this run has {_fingerprint(traffic)};"
            " resume with the plan and population of the stopped run"
        )
    contents = [decode_content(encoded) for encoded in state["contents"]]
    traffic.now_s, traffic.is_over = state["now_s"], state["is_over"]
    traffic.queue.restore(state["queue"])
    traffic.view.restore(state["view"])
    for cluster, direction, channel in state["channels"]:
        traffic.channels[cluster, direction].restore(channel)
    traffic.changed = {(cluster, direction): None for cluster, direction in state["changed"]}
    traffic.finish_events = {
        (cluster, direction): sequence for cluster, direction, sequence in state["finish_events"]
    }
    traffic.free_s = {node_id: free_s for node_id, free_s in state["free_s"]}
    replies = [_decode_message(message, contents) for message in state["inbox"]]
    traffic.inbox = {reply.metadata.reply_to_message_id: reply for reply in replies}
    journeys = [_decode_journey(journey, contents, traffic) for journey in state["journeys"]]
    traffic.journeys = {journey.message_id: journey for journey in journeys}
    for journey in journeys:
        traffic.view.occupy(journey.node)
        if journey.phase is Phase.WORKING:
            traffic.submit(journey)


def _fingerprint(traffic: Traffic) -> dict[str, Any]:
    """Return what two runs must share for a snapshot of one to make sense in the other."""
    return {
        "horizon_s": traffic.plan.horizon_s,
        "num_nodes": len(traffic.population.nodes),
        "num_contacts": {name: len(contacts) for name, contacts in traffic.plan.contacts.items()},
    }


def _encode_message(message: Message, contents: _Contents) -> list[Any]:
    """Return metadata, and where the content is or what the error says."""
    if message.has_error():
        return [encode_metadata(message.metadata), None, [message.error.code, message.error.reason]]
    return [encode_metadata(message.metadata), contents.place(message.content), None]


def _decode_message(encoded: list[Any], contents: list[RecordDict]) -> Message:
    """Return the message of `_encode_message`."""
    metadata, place, error = encoded
    if error is not None:
        return decode_message(metadata, None, Error(*error))
    return decode_message(metadata, contents[place], None)


def _encode_journey(journey: Journey, contents: _Contents) -> dict[str, Any]:
    """Return a journey as JSON-able values."""
    # An outcome during the work is a refusal by Flower's grid: the restored run asks again.
    outcome = None if journey.phase is Phase.WORKING else journey.outcome
    return {
        "instruction": _encode_message(journey.instruction, contents),
        "node": journey.node.node_id,
        "phase": str(journey.phase),
        "crossed": [list(part) for part in journey.crossed],
        "reply": contents.place(outcome) if isinstance(outcome, RecordDict) else None,
        "error": [outcome.code, outcome.reason] if isinstance(outcome, Error) else None,
        **{name: getattr(journey, name) for name in _PLAIN},
    }


def _decode_journey(state: dict[str, Any], contents: list[RecordDict], traffic: Traffic) -> Journey:
    """Return the journey of `_encode_journey`."""
    outcome: RecordDict | Error | None = None
    if state["error"] is not None:
        outcome = Error(*state["error"])
    elif state["reply"] is not None:
        outcome = contents[state["reply"]]
    return Journey(
        instruction=_decode_message(state["instruction"], contents),
        node=traffic.population.node(state["node"]),
        phase=Phase(state["phase"]),
        crossed=[list(part) for part in state["crossed"]],
        outcome=outcome,
        **{name: state[name] for name in _PLAIN},
    )
