"""Many nodes' work as one Flower message, and their answers as one reply: both ends of it.

A message through Flower and Ray costs tens of milliseconds of processor time whatever is in it, so what many
nodes are to do travels together: equal arrays once, and for each node the small records that differ. On the
ground the mod `each_of_group` takes it apart, so that the ClientApp sees one message a node as ever; the sky
takes the reply apart, so that the strategy does too.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode

from sim.grid.message_bytes import decode_content, encode_content

GROUP_RECORD = "group"
"""Name of the ConfigRecord that makes a message or a reply one of a group."""

OUT_OF_MEMORY = "out of memory"
"""How the reason of an error begins when a machine's memory ran out: no fault of the node it computed for."""

_Structure = tuple[tuple[str, str, tuple[int, ...], str, int], ...]


def pack(contents: Sequence[RecordDict | Error], wall_s: float = 0.0) -> RecordDict:
    """Return several contents, or what went wrong, as one content.

    Parameters
    ----------
    contents : sequence of RecordDict or Error
        At least one; not modified. Records of arrays that are equal are kept once, those that only have equal
        names, types and shapes are stacked.
    wall_s : float
        What it took to compute them.
    """
    stacks = _Stacks()
    places: list[dict[str, tuple[int, int] | None]] = []  # by name, in the content's order; None: small
    small: list[bytes] = []
    errors: list[tuple[int, int, str]] = []
    for at, content in enumerate(contents):
        rest, own = RecordDict(), dict[str, tuple[int, int] | None]()
        if isinstance(content, Error):
            errors.append((at, content.code, content.reason or ""))
        else:
            for name, record in content.items():
                own[name] = stacks.place(record) if isinstance(record, ArrayRecord) else None
                if own[name] is None:
                    rest[name] = record
        places.append(own)
        small.append(encode_content(rest))
    packed = stacks.records()
    index = json.dumps({"places": places, "errors": errors})
    packed[GROUP_RECORD] = ConfigRecord({"index": index, "small": small, "wall-s": wall_s})
    return packed


def is_group(content: RecordDict) -> bool:
    """Say whether a content was made by `pack`."""
    return GROUP_RECORD in content.config_records


def unpack(packed: RecordDict) -> list[RecordDict | Error]:
    """Return the contents that `pack` was given, in their order; equal arrays may be one object."""
    group = packed.config_records[GROUP_RECORD]
    index = json.loads(cast(str, group["index"]))
    stacks = [_Unstacked(packed.array_records[_stack_name(at)]) for at in range(len(packed.array_records))]
    contents: list[RecordDict | Error] = []
    for places, encoded in zip(index["places"], cast(list[bytes], group["small"]), strict=True):
        rest = decode_content(encoded)
        content = RecordDict()
        for name, place in places.items():
            content[name] = rest[name] if place is None else stacks[place[0]].row(place[1])
        contents.append(content)
    for at, code, reason in index["errors"]:
        contents[at] = Error(code, reason)
    return contents


def wall_s(packed: RecordDict) -> float:
    """Return what the computing of a group took, seconds."""
    return float(cast(float, packed.config_records[GROUP_RECORD]["wall-s"]))


def each_of_group(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    """Answer every message of a group by itself: a mod of the ClientApp.

    What one node's work raises is that node's error; the others are answered all the same. An error says the
    same in a group and alone, and whatever process it came from; where it was raised is in the log.
    """
    if not is_group(message.content):
        return _answer(message, context, call_next)
    began_s = time.monotonic()
    answers: list[RecordDict | Error] = []
    for content in unpack(message.content):
        assert isinstance(content, RecordDict)
        reply = _answer(make_message(message.metadata, content=content), context, call_next)
        answers.append(reply.error if reply.has_error() else reply.content)
    return Message(pack(answers, time.monotonic() - began_s), reply_to=message)


def _answer(message: Message, context: Context, call_next: Callable[..., Message]) -> Message:
    try:
        return call_next(message, context)
    except Exception as fault:  # whatever a client may raise
        logging.getLogger("flwr").error("the ClientApp raised", exc_info=fault)
        return Message(client_fault(fault), reply_to=message)


def client_fault(fault: Exception) -> Error:
    """Return what a client raised as Flower's error: its type and words, no paths or process ids."""
    words = f"{type(fault).__name__}: {fault}"
    if _is_out_of_memory(fault):
        words = f"{OUT_OF_MEMORY}: {words}"
    return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, words)


def _is_out_of_memory(fault: Exception) -> bool:
    """Say whether memory ran out, by the words of torch, which this room does not know."""
    return isinstance(fault, MemoryError) or (
        isinstance(fault, RuntimeError)
        and (type(fault).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(fault))
    )


class _Stacks:
    """Records of arrays by their structure, each different one once."""

    def __init__(self) -> None:
        self._numbers: dict[_Structure, int] = {}
        self._rows: list[list[ArrayRecord]] = []

    def place(self, record: ArrayRecord) -> tuple[int, int]:
        """Keep a record and return its stack and its row there."""
        structure = tuple(
            (key, array.dtype, tuple(array.shape), array.stype, len(array.data))
            for key, array in record.items()
        )
        number = self._numbers.setdefault(structure, len(self._rows))
        if number == len(self._rows):
            self._rows.append([])
        rows = self._rows[number]
        # What a strategy sends to a whole cluster comes one after another.
        if not rows or not _equal(rows[-1], record):
            rows.append(record)
        return number, len(rows) - 1

    def records(self) -> RecordDict:
        """Return the stacks; the bytes of the rows of an array follow one another."""
        packed = RecordDict()
        for number, rows in enumerate(self._rows):
            packed[_stack_name(number)] = rows[0] if len(rows) == 1 else _stacked(rows)
        return packed


class _Unstacked:
    """A stack's rows, each made when it is asked for."""

    def __init__(self, record: ArrayRecord) -> None:
        self._record = record
        self._is_stacked = any(array.stype.startswith(_STACKED) for array in record.values())
        self._made: dict[int, ArrayRecord] = {}

    def row(self, at: int) -> ArrayRecord:
        if not self._is_stacked:
            return self._record
        if at not in self._made:
            self._made[at] = ArrayRecord({key: _row(array, at) for key, array in self._record.items()})
        return self._made[at]


_STACKED = "rows of "


def _stacked(rows: Sequence[ArrayRecord]) -> ArrayRecord:
    stacked = {}
    for key, first in rows[0].items():
        stacked[key] = Array(
            dtype=first.dtype,
            shape=(len(rows), *first.shape),
            stype=_STACKED + first.stype,
            data=b"".join(row[key].data for row in rows),
        )
    return ArrayRecord(stacked)


def _row(stacked: Array, at: int) -> Array:
    count, *shape = stacked.shape
    size = len(stacked.data) // count
    return Array(
        dtype=stacked.dtype,
        shape=tuple(shape),
        stype=stacked.stype.removeprefix(_STACKED),
        data=stacked.data[at * size : (at + 1) * size],
    )


def _equal(one: ArrayRecord, other: ArrayRecord) -> bool:
    """Say whether two records of one structure hold the same bytes."""
    return one is other or all(array.data == other[key].data for key, array in one.items())


def _stack_name(number: int) -> str:
    return f"stack-{number}"
