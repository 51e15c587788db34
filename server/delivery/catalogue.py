"""The pieces of the server's checkpoint: cut once, read and hashed when they are first needed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

from moe.delivery.extents import cut, expert_extents, shared_extents
from moe.delivery.part import companion_sizes, read_extents, weight_sizes
from moe.disk.storage import Storage
from moe.experts import ExpertId
from moe.held import Extent
from strategy.delivery.messages import Piece


class CheckpointPieces:
    """A `strategy.delivery.pieces.Catalogue` of a checkpoint on this machine.

    Parameters
    ----------
    storage : Storage
        The whole checkpoint.
    base : str
        Its fingerprint.
    piece_bytes : int
        Most of a piece, >= 1.
    brings_shared : bool
        Whether what every device needs is delivered too, or installed there.
    stand_ins : Path or None
        File of the stand-ins that devices profile with, which belongs to what every device needs.
    travels : bool
        Whether the bytes are in the messages; if not, a simulated sky only counts them.
    """

    def __init__(
        self,
        storage: Storage,
        base: str,
        *,
        piece_bytes: int,
        brings_shared: bool,
        travels: bool,
        stand_ins: Path | None = None,
    ) -> None:
        self.base = base
        self._stand_ins = stand_ins
        self._storage, self._piece_bytes = storage, piece_bytes
        self._brings_shared, self._travels = brings_shared, travels
        self.of = cache(self._of)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of the files."""
        return weight_sizes(self._storage) | self._beside()

    @cached_property
    def shared(self) -> Sequence[Piece]:
        """Pieces of the shared part and of the files beside the weights; none where they are installed."""
        if not self._brings_shared:
            return ()
        companions = [Extent(name, 0, size) for name, size in self._beside().items()]
        return self._pieces("shared", [*companions, *shared_extents(self._storage)])

    def _of(self, expert: ExpertId) -> Sequence[Piece]:
        """Return the pieces of an expert."""
        return self._pieces(expert.name, expert_extents(self._storage, expert))

    def data(self, piece: Piece) -> bytes | None:
        """Return the bytes of a piece; None where they only count."""
        return self._read([Extent(*extent) for extent in piece.extents]) if self._travels else None

    def experts(self) -> list[ExpertId]:
        """Return every expert."""
        blocks = self._storage.blocks.items()
        return [ExpertId(layer, index) for layer, block in blocks for index in range(block.num_experts)]

    def expert_bytes(self, expert: ExpertId) -> int:
        """Return what an expert weighs on the link."""
        return sum(extent.num_bytes for extent in expert_extents(self._storage, expert))

    def shared_bytes(self) -> int:
        """Return what the shared part and the files beside it weigh on the link, delivered or not."""
        return sum(self._beside().values()) + sum(
            extent.num_bytes for extent in shared_extents(self._storage)
        )

    def _beside(self) -> dict[str, int]:
        """Return the files that are no weights, with their bytes."""
        own = {self._stand_ins.name: self._stand_ins.stat().st_size} if self._stand_ins else {}
        return companion_sizes(self._storage) | own

    def _pieces(self, name: str, extents: Iterable[Extent]) -> Sequence[Piece]:
        return tuple(
            Piece(
                name=f"{name}/{number}",
                extents=tuple((extent.file, extent.start, extent.stop) for extent in piece),
                sha256=hashlib.sha256(self._read(piece)).hexdigest(),
            )
            for number, piece in enumerate(cut(extents, self._piece_bytes))
        )

    def _read(self, extents: Iterable[Extent]) -> bytes:
        folder, own = self._storage.checkpoint.folder, self._stand_ins
        return b"".join(
            read_extents(own.parent if own and extent.file == own.name else folder, [extent])
            for extent in extents
        )
