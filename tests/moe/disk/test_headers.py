"""Weight files that safetensors would not open are refused before anything is built."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from moe.disk.layout import read_layout
from moe.disk.shards import open_checkpoint
from moe.inspect.command import main

SINGLE = "model.safetensors"
# Two tensors of one byte each; config.json is never asked.
GOOD = {
    "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    "b": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
}


def raw(header: object, data: bytes = b"xy") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


TWICE = (
    b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
    b'"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}'
)
DAMAGED = {
    "nothing": (b"", r"is cut short \(0 bytes\)"),
    "a length alone": (struct.pack("<Q", 40), r"is cut short \(8 bytes\)"),
    "a length beyond the file": (struct.pack("<Q", 2**62) + b"{}", "is cut short"),
    "a length of zero": (struct.pack("<Q", 0) + b"{}", "is not a safetensors file"),
    "rubbish": (raw(b"hello and more"), "not JSON"),
    "no text": (raw(b"\xff\xfe\xff"), "not JSON"),
    "endless brackets": (raw(b"[" * 200_000), "not JSON"),
    "a list": (raw([1, 2]), "not a JSON object"),
    "null": (raw(None), "not a JSON object"),
    "an entry that is a number": (raw({"a": 5}), "entry of 'a' is not one of a tensor"),
    "an entry without a shape": (raw({"a": {"dtype": "U8", "data_offsets": [0, 2]}}), "entry of 'a'"),
    "three places": (raw({"a": GOOD["a"] | {"data_offsets": [0, 1, 2]}}), "entry of 'a'"),
    "places of text": (raw({"a": GOOD["a"] | {"data_offsets": ["0", "2"]}}), "shape or place of no tensor"),
    "a negative shape": (raw({"a": GOOD["a"] | {"shape": [-1, -2]}}), "shape or place of no tensor"),
    "a shape of fractions": (raw({"a": GOOD["a"] | {"shape": [1.0]}}), "shape or place of no tensor"),
    "a stop before the start": (raw({"a": GOOD["a"] | {"data_offsets": [1, 0]}}), "shape or place"),
    "a type that is none": (raw({"a": GOOD["a"] | {"dtype": "F31"}}, b"x"), "holds 'a' as F31, not one of"),
    "a shape of other bytes": (raw({"a": GOOD["a"] | {"shape": [2]}}, b"x"), "has 1 bytes in the header"),
    "shared bytes": (raw(GOOD | {"b": GOOD["a"]}, b"x"), "shares bytes with another tensor"),
    "a hole": (raw(GOOD | {"b": GOOD["b"] | {"data_offsets": [2, 3]}}, b"xyz"), "behind unused bytes"),
    "a hole at the start": (raw({"b": GOOD["b"]}), "behind unused bytes"),
    "bytes at the end": (raw(GOOD, b"xyz"), "has 1 bytes that are of no tensor"),
    "cut short": (raw(GOOD, b"x"), "is cut short: 1 of 2 bytes of data"),
}


@pytest.mark.parametrize("content, reason", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_file_that_safetensors_refuses_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(SafetensorError), safe_open(tmp_path / SINGLE, "pt"):
        pass
    with pytest.raises(ValueError, match=f"is damaged: {SINGLE}.*{reason}"):
        read_layout(tmp_path)
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    (tmp_path / SINGLE).write_bytes(raw(TWICE))
    with pytest.raises(ValueError, match="names 'a' twice in its header"):
        read_layout(tmp_path)


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    (tmp_path / SINGLE).write_bytes(raw({}, b""))
    with pytest.raises(ValueError, match="holds no tensors"):
        read_layout(tmp_path)


def test_what_safetensors_writes_is_read(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    shard = next(tiny("mixtral").glob("*.safetensors"))
    tensors = load_file(shard)
    save_file(tensors, tmp_path / SINGLE, metadata={"a": "1"})
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    found = open_checkpoint(tmp_path)
    assert {name: spec.shape for name, spec in found.tensors.items()} == {
        name: tuple(value.shape) for name, value in tensors.items()
    }
    assert all((found.map(name) == value).all() for name, value in tensors.items())
