"""Messages as bytes: how large they are on the link, and how they are kept in a snapshot."""

from typing import Any

from flwr.app import ArrayRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import Array as ProtoArray
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

# What an error costs on the link. A constant, not its text's length: texts hold paths and process ids, and
# the same seed must give the same log. About the size of Flower's own error messages without a traceback.
ERROR_BYTES = 256

_METADATA_FIELDS = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
    "src_task_id",
    "dst_task_id",
)


def content_bytes(content: RecordDict) -> int:
    """Return the size of a message's content on the link: arrays' bytes plus the rest as serialised.

    Parameters
    ----------
    content : RecordDict
        Any records; not modified, array data is not copied.

    Returns
    -------
    int
        Bytes, at least 1: even an empty message needs a contact to cross.

    Source
    ------
    Size of Flower's protobuf encoding, without the length fields around the arrays' data (a few bytes each).
    """
    array_data_bytes = 0
    headers = ProtoRecordDict()
    rest = RecordDict()
    for name, record in content.items():
        if not isinstance(record, ArrayRecord):
            rest[name] = record
            continue
        items = headers.items.add(key=name).array_record.items
        for key, array in record.items():
            array_data_bytes += len(array.data)
            header = ProtoArray(dtype=array.dtype, shape=array.shape, stype=array.stype)
            items.add(key=key, value=header)
    rest_bytes = recorddict_to_proto(rest).ByteSize() if rest else 0
    return max(array_data_bytes + headers.ByteSize() + rest_bytes, 1)


def encode_content(content: RecordDict) -> bytes:
    """Return a message's content as bytes (Flower's protobuf encoding)."""
    return bytes(recorddict_to_proto(content).SerializeToString(deterministic=True))


def decode_content(encoded: bytes) -> RecordDict:
    """Return the content that `encode_content` was given."""
    return recorddict_from_proto(ProtoRecordDict.FromString(encoded))


def encode_metadata(metadata: Metadata) -> dict[str, Any]:
    """Return a message's metadata as JSON-able values."""
    return {name: getattr(metadata, name) for name in _METADATA_FIELDS}


def decode_message(metadata: dict[str, Any], content: RecordDict | None, error: Error | None) -> Message:
    """Return the message with that `encode_metadata` and exactly one of content and error."""
    return make_message(metadata=Metadata(**metadata), content=content, error=error)
