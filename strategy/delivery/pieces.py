"""What a model is cut into for the link, and which of it a node still lacks."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from flwr.app import Message
from typing_extensions import override

from moe.experts import ExpertId
from strategy.delivery.messages import Piece, delivery_instruction

Held = Collection[str]
"""What a node said it holds: names of pieces, and of experts that it has whole (``layer.index``)."""
Needs = Callable[[int], Iterable[ExpertId]]
"""Node id -> the experts it is to train."""


class Catalogue(Protocol):
    """The pieces of a checkpoint, and what they are made of."""

    @property
    def shared(self) -> Sequence[Piece]:
        """What every node needs before it can be asked anything; empty where that was installed."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of the checkpoint's files."""

    @property
    def base(self) -> str:
        """Fingerprint of the checkpoint."""

    def of(self, expert: ExpertId) -> Sequence[Piece]:
        """Return the pieces of an expert."""

    def data(self, piece: Piece) -> bytes | None:
        """Return its bytes; None where they need not travel, because the sky only counts them."""


class Delivery:
    """Nothing is delivered: every device has the whole checkpoint."""

    def messages(self, nodes: Iterable[int], needs: Needs, held: Mapping[int, Held]) -> list[Message]:
        """Return what to send to these nodes, which are in contact and idle."""
        del nodes, needs, held
        return []

    def is_complete(self, experts: Iterable[ExpertId], held: Held) -> bool:
        """Say whether a node that holds this has the shared part and these experts."""
        del experts, held
        return True


class PieceDelivery(Delivery):
    """Nodes are sent what they lack, piece by piece, and only what they lack.

    A message carries as many pieces as fit into ``message_bytes``, at least one. What a node acknowledged is
    never sent to it again, so a delivery goes on over passes, and after a new assignment only experts that
    are new to a node travel.

    Parameters
    ----------
    catalogue : Catalogue
        Of the server's checkpoint.
    message_bytes : int
        >= 1.
    """

    def __init__(self, catalogue: Catalogue, message_bytes: int) -> None:
        self._catalogue, self._message_bytes = catalogue, message_bytes

    @override
    def messages(self, nodes: Iterable[int], needs: Needs, held: Mapping[int, Held]) -> list[Message]:
        messages = []
        for node_id in nodes:
            if pieces := self._next(self._lacking(needs(node_id), held.get(node_id, ()))):
                messages.append(delivery_instruction(node_id, pieces, self._catalogue))
        return messages

    @override
    def is_complete(self, experts: Iterable[ExpertId], held: Held) -> bool:
        return not self._lacking(experts, held)

    def _lacking(self, experts: Iterable[ExpertId], held: Held) -> list[Piece]:
        lacking = [piece for piece in self._catalogue.shared if piece.name not in held]
        for expert in sorted(experts):
            if expert.name not in held:
                lacking += [piece for piece in self._catalogue.of(expert) if piece.name not in held]
        return lacking

    def _next(self, lacking: Sequence[Piece]) -> list[Piece]:
        taken: list[Piece] = []
        room = self._message_bytes
        for piece in lacking:
            if taken and piece.num_bytes > room:
                break
            taken.append(piece)
            room -= piece.num_bytes
        return taken


def without_experts(held: Held, experts: Iterable[ExpertId]) -> set[str]:
    """Return what is held without anything of these experts: a node that lost them says so.

    Examples
    --------
    >>> sorted(without_experts({"0.1", "0.1/0", "0.10/0", "shared/0"}, [ExpertId(0, 1)]))
    ['0.10/0', 'shared/0']
    """
    lost = {expert.name for expert in experts}
    return {name for name in held if name.partition("/")[0] not in lost}
