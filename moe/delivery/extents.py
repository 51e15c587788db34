"""Which bytes of a checkpoint's files are one expert's, and which everybody needs."""

from collections.abc import Iterable

from moe.disk.storage import Storage
from moe.experts import ExpertId
from moe.held import Extent


def expert_extents(storage: Storage, expert: ExpertId) -> tuple[Extent, ...]:
    """Return the bytes that belong to one expert and to nobody else, in the order of the files.

    As they lie on disk: what is quantised travels in its few bits, with its scales. A scale that all experts
    of a layer share, and what tells the shapes of packed tensors, belong to the shared part.

    Raises
    ------
    ValueError
        If the model has no such expert.
    """
    block = storage.blocks.get(expert.layer)
    if block is None or not 0 <= expert.index < block.num_experts:
        raise ValueError(f"the model has no expert {expert.layer}.{expert.index}")
    checkpoint = storage.checkpoint
    return joined(
        checkpoint.extent(source, own)
        for name, part in storage.expert_names(expert.layer, expert.index).items()
        for source, own in checkpoint.sources(name, part)
    )


def shared_extents(storage: Storage) -> tuple[Extent, ...]:
    """Return the bytes that every device needs: headers, and what the model uses that is no one expert's.

    Towers that a text model does not use are left out.
    """
    checkpoint = storage.checkpoint
    first: dict[str, int] = {}  # where a file's values begin
    for spec in checkpoint.in_files.values():
        file = spec.file.relative_to(checkpoint.folder).as_posix()
        first[file] = min(spec.start, first.get(file, spec.start))
    whole = [Extent(file, 0, start) for file, start in first.items()]
    whole += [checkpoint.extent(n) for name in storage.used_names for n in checkpoint.made_of(name)]
    whole += [checkpoint.extent(name) for name in checkpoint.described]
    of_experts = joined(
        extent
        for layer, block in storage.blocks.items()
        for index in range(block.num_experts)
        for extent in expert_extents(storage, ExpertId(layer, index))
    )
    return _without(joined(whole), of_experts)


def joined(extents: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return the same bytes in order, neighbours as one.

    Examples
    --------
    >>> joined([Extent("a", 4, 6), Extent("a", 0, 4), Extent("b", 0, 1)])
    (Extent(file='a', start=0, stop=6), Extent(file='b', start=0, stop=1))
    """
    found: list[Extent] = []
    for extent in sorted(extents):
        if found and extent.file == found[-1].file and extent.start <= found[-1].stop:
            found[-1] = found[-1]._replace(stop=max(found[-1].stop, extent.stop))
        elif extent.num_bytes:
            found.append(extent)
    return tuple(found)


def _without(whole: Iterable[Extent], taken: Iterable[Extent]) -> tuple[Extent, ...]:
    """Return the bytes of ``whole`` that are not in ``taken``; both as `joined` gives them."""
    by_file: dict[str, list[Extent]] = {}
    for extent in taken:
        by_file.setdefault(extent.file, []).append(extent)
    left: list[Extent] = []
    for file, start, stop in whole:
        for hole in by_file.get(file, []):
            if hole.stop <= start or stop <= hole.start:
                continue
            left.append(Extent(file, start, hole.start))
            start = hole.stop
        left.append(Extent(file, start, stop))
    return tuple(extent for extent in left if extent.num_bytes > 0)


def cut(extents: Iterable[Extent], piece_bytes: int) -> list[tuple[Extent, ...]]:
    """Return the bytes as pieces of at most ``piece_bytes`` each, in order.

    Parameters
    ----------
    extents : iterable of Extent
        As `joined`.
    piece_bytes : int
        >= 1.

    Examples
    --------
    >>> [len(piece) for piece in cut([Extent("a", 0, 5), Extent("b", 0, 2)], 4)]
    [1, 2]
    """
    pieces: list[tuple[Extent, ...]] = []
    piece: list[Extent] = []
    room = piece_bytes
    for file, start, stop in extents:
        while start < stop:
            size = min(room, stop - start)
            piece.append(Extent(file, start, start + size))
            start, room = start + size, room - size
            if not room:
                pieces.append(tuple(piece))
                piece, room = [], piece_bytes
    return [*pieces, tuple(piece)] if piece else pieces
