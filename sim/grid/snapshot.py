"""The simulated sky as a value: what a run needs to go on as if it had never stopped."""

from typing import Any

from flwr.app import Error, Message, RecordDict

from sim.grid.message_bytes import decode_content, decode_message, encode_content, encode_metadata
from sim.grid.simulator import Simulator
from sim.grid.transit import MessageInTransit, Phase

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


def snapshot_simulator(simulator: Simulator) -> dict[str, Any]:
    """Return everything in flight as JSON-able values, and bytes under ``contents``.

    Parameters
    ----------
    simulator : Simulator
        Not modified.
    """
    contents = _Contents()
    return {
        "sky": _fingerprint(simulator),
        "now_s": simulator.now_s,
        "is_over": simulator.is_over,
        "queue": simulator.queue.snapshot(),
        "view": simulator.view.snapshot(),
        "channels": [[*link, channel.snapshot()] for link, channel in simulator.channels.items()],
        "changed": [list(link) for link in simulator.changed],
        "finish_events": [[*link, sequence] for link, sequence in simulator.finish_events.items()],
        "free_s": [[node_id, free_s] for node_id, free_s in simulator.free_s.items()],
        "journeys": [_encode_transit(transit, contents) for transit in simulator.in_transit.values()],
        "inbox": [_encode_message(message, contents) for message in simulator.inbox.values()],
        "contents": contents.encoded,
    }


def restore_simulator(simulator: Simulator, state: dict[str, Any]) -> None:
    """Take the state of a snapshot, and have the work that was going on computed anew.

    Parameters
    ----------
    simulator : Simulator
        Of the same plan and population; whatever it was doing is forgotten.
    state : dict
        Of `snapshot_simulator`; not modified.

    Raises
    ------
    ValueError
        If the snapshot is of another plan or population.
    """
    if state["sky"] != _fingerprint(simulator):
        raise ValueError(
            f"the snapshot is of another sky: it has {state['sky']}, this run has {_fingerprint(simulator)};"
            " resume with the plan and population of the stopped run"
        )
    contents = [decode_content(encoded) for encoded in state["contents"]]
    simulator.now_s, simulator.is_over = state["now_s"], state["is_over"]
    simulator.queue.restore(state["queue"])
    simulator.view.restore(state["view"])
    for cluster, direction, channel in state["channels"]:
        simulator.channels[cluster, direction].restore(channel)
    simulator.changed = {(cluster, direction): None for cluster, direction in state["changed"]}
    simulator.finish_events = {
        (cluster, direction): sequence for cluster, direction, sequence in state["finish_events"]
    }
    simulator.free_s = {node_id: free_s for node_id, free_s in state["free_s"]}
    replies = [_decode_message(message, contents) for message in state["inbox"]]
    simulator.inbox = {reply.metadata.reply_to_message_id: reply for reply in replies}
    in_transit = [_decode_transit(transit, contents, simulator) for transit in state["journeys"]]
    simulator.in_transit = {transit.message_id: transit for transit in in_transit}
    for transit in in_transit:
        simulator.view.occupy(transit.node)
        if transit.phase is Phase.WORKING:
            simulator.submit(transit)


def _fingerprint(simulator: Simulator) -> dict[str, Any]:
    """Return what two runs must share for a snapshot of one to make sense in the other."""
    return {
        "horizon_s": simulator.plan.horizon_s,
        "num_nodes": len(simulator.population.nodes),
        "num_contacts": {name: len(contacts) for name, contacts in simulator.plan.contacts.items()},
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


def _encode_transit(transit: MessageInTransit, contents: _Contents) -> dict[str, Any]:
    """Return a message in transit as JSON-able values."""
    # An outcome during the work is a refusal by Flower's grid: the restored run asks again.
    outcome = None if transit.phase is Phase.WORKING else transit.outcome
    return {
        "instruction": _encode_message(transit.instruction, contents),
        "node": transit.node.node_id,
        "phase": str(transit.phase),
        "crossed": [list(part) for part in transit.crossed],
        "reply": contents.place(outcome) if isinstance(outcome, RecordDict) else None,
        "error": [outcome.code, outcome.reason] if isinstance(outcome, Error) else None,
        **{name: getattr(transit, name) for name in _PLAIN},
    }


def _decode_transit(
    state: dict[str, Any], contents: list[RecordDict], simulator: Simulator
) -> MessageInTransit:
    """Return the message in transit of `_encode_transit`."""
    outcome: RecordDict | Error | None = None
    if state["error"] is not None:
        outcome = Error(*state["error"])
    elif state["reply"] is not None:
        outcome = contents[state["reply"]]
    return MessageInTransit(
        instruction=_decode_message(state["instruction"], contents),
        node=simulator.population.node(state["node"]),
        phase=Phase(state["phase"]),
        crossed=[list(part) for part in state["crossed"]],
        outcome=outcome,
        **{name: state[name] for name in _PLAIN},
    )
