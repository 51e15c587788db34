"""Pieces of a model <-> RecordDict: the wire keys of a delivery.

A delivery carries one ConfigRecord that says what the pieces are, and one ArrayRecord with their bytes; its
reply one ConfigRecord with the names of those that are safe on the node's disk.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from moe.experts import ExpertId

DELIVERY = "query.deliver"
"""Flower's type of these messages: a query with an action of its own."""
_RECORD = "delivery"
_BYTES = "pieces"
_RAW = "bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some bytes of a checkpoint's files.

    Parameters
    ----------
    name : str
        ``layer.index/number`` of an expert's, ``shared/number`` of what everybody needs.
    extents : tuple of (str, int, int)
        File, first byte and the byte after the last, one after another.
    sha256 : str
        Of the bytes, hexadecimal.
    """

    name: str
    extents: tuple[tuple[str, int, int], ...]
    sha256: str

    @property
    def num_bytes(self) -> int:
        """How many."""
        return sum(stop - start for _, start, stop in self.extents)


class Source(Protocol):
    """Where pieces come from; see `strategy.delivery.pieces.Catalogue`."""

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of the checkpoint's files."""

    @property
    def base(self) -> str:
        """Fingerprint of the checkpoint."""

    def data(self, piece: Piece) -> bytes | None:
        """Return its bytes; None where they need not travel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What a node was sent.

    Parameters
    ----------
    base : str
        Fingerprint of the checkpoint.
    sizes : Mapping[str, int]
        Bytes of the files that the pieces belong to.
    pieces : tuple of (Piece, bytes or None)
        None: simulated, the bytes crossed the sky and nothing is written.
    """

    base: str
    sizes: Mapping[str, int]
    pieces: tuple[tuple[Piece, bytes | None], ...]


def delivery_instruction(node_id: int, pieces: Sequence[Piece], source: Source) -> Message:
    """Return the message that brings pieces to a node."""
    files = {file for piece in pieces for file, _, _ in piece.extents}
    config = ConfigRecord(
        {
            "base": source.base,
            "sizes": json.dumps({file: source.sizes[file] for file in sorted(files)}),
            "names": [piece.name for piece in pieces],
            "extents": [json.dumps(piece.extents) for piece in pieces],
            "sha256": [piece.sha256 for piece in pieces],
        }
    )
    data = {piece.name: source.data(piece) for piece in pieces}
    carried = {
        name: Array(dtype="uint8", shape=(len(raw),), stype=_RAW, data=raw)
        for name, raw in data.items()
        if raw is not None
    }
    content = RecordDict({_RECORD: config})
    if carried:
        content[_BYTES] = ArrayRecord(carried)
    else:
        config["freight-bytes"] = sum(piece.num_bytes for piece in pieces)
    return Message(content, node_id, DELIVERY)


def freight_bytes(content: RecordDict) -> int:
    """Return the bytes that a message stands for beside those it has: of pieces that only the sky carries."""
    record = content.config_records.get(_RECORD)
    return 0 if record is None else int(cast(int, record.get("freight-bytes", 0)))


def piece_names(instruction: Message) -> tuple[str, ...]:
    """Return the pieces that a message brings; none where it is no delivery."""
    record = instruction.content.config_records.get(_RECORD)
    return () if record is None else tuple(cast(list[str], record["names"]))


def read_delivery(instruction: Message) -> Delivered:
    """Return what a delivery brings.

    Raises
    ------
    ValueError
        If something is missing or of another kind.
    """
    try:
        config = instruction.content.config_records[_RECORD]
        arrays = instruction.content.array_records.get(_BYTES)
        pieces = [
            Piece(
                name=str(name),
                extents=tuple((str(f), int(a), int(b)) for f, a, b in json.loads(str(extents))),
                sha256=str(sha256),
            )
            for name, extents, sha256 in zip(
                cast(list[str], config["names"]),
                cast(list[str], config["extents"]),
                cast(list[str], config["sha256"]),
                strict=True,
            )
        ]
        if arrays is None and "freight-bytes" not in config:
            raise ValueError("it has neither bytes nor their number")
        return Delivered(
            base=str(config["base"]),
            sizes={str(file): int(size) for file, size in json.loads(str(config["sizes"])).items()},
            pieces=tuple((piece, None if arrays is None else arrays[piece.name].data) for piece in pieces),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise ValueError(f"a delivery of pieces of the model cannot be read: {fault!r}") from None


def delivered_reply(names: Sequence[str], instruction: Message) -> Message:
    """Return a node's word that these pieces are safe on its disk."""
    return Message(RecordDict({_RECORD: ConfigRecord({"names": list(names)})}), reply_to=instruction)


def read_delivered(reply: Message, sent: Sequence[str]) -> tuple[str, ...]:
    """Return the pieces that a node acknowledges.

    Raises
    ------
    ValueError
        If it names none, or one that was not sent.
    """
    names = texts_in(reply.content.config_records.get(_RECORD, ConfigRecord()), "names")
    if not names or not set(names) <= set(sent):
        raise ValueError(
            f"it acknowledges pieces {list(names)[:3]} of the model; it was sent {list(sent)[:3]}"
        )
    return names


def lacks_reply(experts: Iterable[ExpertId], instruction: Message) -> Message:
    """Return the answer to a training message of a node whose disk does not hold these experts."""
    lacks = ConfigRecord({"lacks": [expert.name for expert in sorted(experts)]})
    return Message(RecordDict({_RECORD: lacks}), reply_to=instruction)


def read_lacking(reply: Message) -> frozenset[ExpertId]:
    """Return the experts that a node says it does not hold; none where it trained."""
    record = reply.content.config_records.get(_RECORD, ConfigRecord())
    return frozenset(map(ExpertId.named, texts_in(record, "lacks")))


def texts_in(record: ConfigRecord, key: str) -> tuple[str, ...]:
    """Return a list of names from a node's answer; none where it has no such field.

    Raises
    ------
    ValueError
        If the field is anything else.
    """
    value = record.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} of its answer must be a list of names, got {str(value)[:80]!r}")
    return tuple(cast(list[str], value))
