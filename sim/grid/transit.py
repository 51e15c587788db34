"""One message's way down to its node, through the work, and back up."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from flwr.app import DEFAULT_TTL, ConfigRecord, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from sim.grid.local_steps import Work
from sim.grid.message_bytes import ERROR_BYTES, content_bytes
from sim.population import Node

KEPT_ACTION = "deliver"
"""Action, behind the dot of Flower's message type, of messages whose content a node only keeps."""
SKY_RECORD = "sky"
"""Name of the ConfigRecord in which a node reads what the sky decided."""


class Phase(StrEnum):
    """Where a message in transit is."""

    DOWN = "down"  # its bytes cross, or wait for a contact
    LANDING = "landing"  # the last byte is under way at the speed of light
    WORKING = "working"
    UP = "up"
    RETURNING = "returning"


@dataclass(slots=True, kw_only=True)
class MessageInTransit:
    """A message in flight; changes phase until it is back.

    Parameters
    ----------
    instruction : Message
        What the strategy pushed, with its simulated node and message id.
    node : Node
        The simulated node it is for.
    down_bytes : int
        Size on the way down.
    pushed_s : float
        Simulated time of the push.
    phase : Phase
        Where it is.
    delivered_s, trained_s : float
        Simulated times, once known.
    steps : int
        Local steps it is allowed, once delivered.
    worker_id : str
        Id of the real message, while working.
    outcome : RecordDict, Error or None
        What the node replied, from the end of the work on.
    up_bytes : int
        Size on the way up.
    crossed : list[list[float]]
        ``[rise_s, bytes]`` of each contact that carried the present or last transfer.
    """

    instruction: Message
    node: Node
    down_bytes: int
    pushed_s: float
    phase: Phase = Phase.DOWN
    delivered_s: float = 0.0
    trained_s: float = 0.0
    steps: int = 0
    worker_id: str = ""
    outcome: RecordDict | Error | None = None
    up_bytes: int = 0
    crossed: list[list[float]] = field(default_factory=list)

    @property
    def message_id(self) -> str:
        """Id the strategy knows it by."""
        return self.instruction.metadata.message_id

    @property
    def asks(self) -> Work:
        """What it asks of its node, by its Flower type: ``query.deliver`` only brings something."""
        kind, _, action = self.instruction.metadata.message_type.partition(".")
        if action == KEPT_ACTION:
            return "keep"
        return "train" if kind == "train" else "query"

    @property
    def expires_s(self) -> float | None:
        """Simulated time its TTL ends; None where nobody chose one (Flower's default)."""
        ttl_s = self.instruction.metadata.ttl
        return None if ttl_s == DEFAULT_TTL else self.pushed_s + ttl_s

    def work(self) -> RecordDict:
        """Return the content for the real node: the instruction's, and what the sky decided."""
        content = RecordDict(dict(self.instruction.content))
        content[SKY_RECORD] = ConfigRecord(
            {
                "cluster": self.node.cluster,
                "devices": list(self.node.device_ids),
                "local-steps": self.steps,
                "time-s": self.delivered_s,
                "node": self.node.node_id,
            }
        )
        return content

    def take_outcome(self, up_capacity_bytes: float) -> None:
        """Size the outcome for the way up; one larger than all contacts together becomes an error."""
        assert self.outcome is not None
        # The instruction's content is not needed any more, and may be large.
        self.instruction = make_message(self.instruction.metadata, content=RecordDict())
        if not isinstance(self.outcome, Error):
            self.up_bytes = content_bytes(self.outcome)
            if self.up_bytes > up_capacity_bytes:
                self.outcome = Error(
                    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
                    f"the reply of node {self.node.node_id} has {self.up_bytes} bytes; all contacts of"
                    f" cluster {self.node.cluster!r} together carry {up_capacity_bytes:.0f} up",
                )
        if isinstance(self.outcome, Error):
            self.up_bytes = ERROR_BYTES

    def reply(self, now_s: float) -> Message:
        """Return the outcome as the strategy gets it."""
        assert self.outcome is not None
        if isinstance(self.outcome, Error):  # Message's two overloads do not take the union
            reply = Message(self.outcome, reply_to=self.instruction)
        else:
            reply = Message(self.outcome, reply_to=self.instruction)
        reply.metadata.__dict__["_message_id"] = f"{self.message_id}-reply"
        # Flower counts a reply's TTL in wall time since the push, which means nothing here.
        reply.metadata.ttl = max(self.instruction.metadata.ttl - (now_s - self.pushed_s), 0.0)
        return reply

    def describe(self, event: str, time_s: float, **more: Any) -> dict[str, Any]:
        """Return a log entry."""
        return {
            "event": event,
            "time_s": time_s,
            "node": self.node.node_id,
            "cluster": self.node.cluster,
            "message": self.message_id,
            "type": self.instruction.metadata.message_type,
            **more,
            **({"error": self.outcome.code} if isinstance(self.outcome, Error) else {}),
        }
