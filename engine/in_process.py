"""Replies computed in this process, when they are asked for."""

from flwr.app import Message

from engine.client_call import LoadApp, Settings, call_client


class InProcess:
    """A `engine.local_grid.Computer` without workers.

    A reply is computed when it is asked for: a breakpoint in the client stops the run there, and work that
    nobody ever asks for costs nothing.

    Parameters
    ----------
    load_app : callable
        Returns the ClientApp.
    settings : Mapping
        The run configuration.
    """

    num_workers = 1

    def __init__(self, load_app: LoadApp, settings: Settings) -> None:
        self._load_app, self._settings = load_app, settings
        self._waiting: dict[str, Message] = {}

    def start(self, message: Message) -> None:
        """Keep a message until its reply is asked for."""
        self._waiting[message.metadata.message_id] = message

    def finished(self, message_id: str) -> Message | None:
        """Compute the reply."""
        return call_client(self._load_app, self._settings, self._waiting.pop(message_id))

    def close(self) -> None:
        """Forget what waits."""
        self._waiting.clear()
