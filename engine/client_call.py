"""One message through the ClientApp, with what Flower puts around it: a context, an id, error replies."""

from collections.abc import Callable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from sim.grid.groups import client_fault

LoadApp = Callable[[], ClientApp]
"""Returns the ClientApp; a function at the top of a module, so that it can be sent to another process."""
Settings = Mapping[str, bool | int | float | str]

RUN_ID = 1


def take_part_in_a_run() -> None:
    """Tell Flower that this process belongs to a run: its Message asks for that."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = RUN_ID


def call_client(load_app: LoadApp, settings: Settings, message: Message) -> Message:
    """Return the ClientApp's reply; what it raises becomes an error reply, as in Flower.

    Parameters
    ----------
    load_app : callable
        See `LoadApp`.
    settings : Mapping
        The run configuration.
    message : Message
        Not modified.
    """
    context = Context(
        run_id=RUN_ID,
        node_id=message.metadata.dst_node_id,
        node_config={},
        state=RecordDict(),
        run_config=dict(settings),
    )
    try:
        app = load_app()
    except Exception as fault:
        reason = f"the ClientApp cannot be loaded: {type(fault).__name__}: {fault}"
        return Message(Error(ErrorCode.LOAD_CLIENT_APP_EXCEPTION, reason), reply_to=message)
    try:
        reply = app(message, context)
    except Exception as fault:  # whatever a client may raise
        return Message(client_fault(fault), reply_to=message)
    reply.metadata.__dict__["_message_id"] = str(uuid4())
    return reply
