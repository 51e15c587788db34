"""A device's part of a checkpoint: its experts to the bit, nothing of the others, in every family."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.tiny_models import FAMILIES, save_tiny
from moe.delivery.extents import cut, expert_extents, joined, shared_extents
from moe.delivery.part import companion_sizes, held_experts, make_part, put_piece, read_extents, weight_sizes
from moe.disk.layout import open_storage
from moe.disk.storage import Storage
from moe.experts import ExpertId
from moe.held import LEDGER, Extent, Held
from moe.submodel.load import load_full, load_streamed
from tests.full_disk import files_at_most
from tests.moe.delivery.checked import PIECE_BYTES, check_part, deliver


@pytest.mark.parametrize("family", FAMILIES)
def test_a_delivered_submodel_is_that_of_the_whole_checkpoint(
    family: str, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    check_part(tiny(family), tmp_path / "part")


def test_experts_and_the_shared_part_have_no_byte_in_common_and_leave_none_out(
    tiny: Callable[[str], Path],
) -> None:
    storage = open_storage(tiny("mixtral"))
    every = [ExpertId(layer, i) for layer, block in storage.blocks.items() for i in range(block.num_experts)]
    extents = [expert_extents(storage, expert) for expert in every] + [shared_extents(storage)]
    flat = [extent for several in extents for extent in several]
    whole = joined(flat)
    assert sum(e.num_bytes for e in flat) == sum(e.num_bytes for e in whole)
    assert {e.file: (e.start, e.stop) for e in whole} == {
        name: (0, size) for name, size in weight_sizes(storage).items()
    }


def test_a_part_takes_the_room_of_what_it_holds(tmp_path: Path) -> None:
    # Wide enough experts that their holes are many blocks of a file system.
    path = save_tiny(tmp_path / "whole", "mixtral", hidden_size=128, intermediate_size=2048)
    storage = open_storage(path)
    make_part(storage, "base", tmp_path / "part")
    shared = sum(extent.num_bytes for extent in shared_extents(storage))
    whole, room = 0, 0
    for name, size in weight_sizes(storage).items():
        found = os.stat(tmp_path / "part" / name)
        assert found.st_size == size
        whole, room = whole + size, room + found.st_blocks * 512
    assert room < shared + 0.1 * whole


@pytest.fixture
def whole(tiny: Callable[[str], Path]) -> Storage:
    """Return a checkpoint to be delivered."""
    return open_storage(tiny("mixtral"))


def piece_of(whole: Storage) -> tuple[tuple[Extent, ...], bytes]:
    """Return one piece."""
    extents = cut(expert_extents(whole, ExpertId(0, 0)), PIECE_BYTES)[0]
    return extents, read_extents(whole.checkpoint.folder, extents)


def test_a_piece_with_another_hash_leaves_nothing(whole: Storage, tmp_path: Path) -> None:
    make_part(whole, "base", tmp_path / "part")
    before = {file.name: file.read_bytes() for file in (tmp_path / "part").iterdir()}
    extents, data = piece_of(whole)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    with pytest.raises(ValueError, match="came damaged: its hash is another"):
        put_piece(
            tmp_path / "part", "base", extents, weight_sizes(whole), wrong, hashlib.sha256(data).hexdigest()
        )
    assert {file.name: file.read_bytes() for file in (tmp_path / "part").iterdir()} == before


def test_a_disk_that_refuses_a_piece_leaves_it_out_of_the_ledger(whole: Storage, tmp_path: Path) -> None:
    part = tmp_path / "part"
    extents, data = piece_of(whole)
    sha256 = hashlib.sha256(data).hexdigest()
    # The part's files do not exist yet: to make one of their size is what is refused.
    with files_at_most(1000), pytest.raises(OSError, match=r"a piece of the model cannot be written .* free"):
        put_piece(part, "base", extents, weight_sizes(whole), data, sha256)
    held = Held.read(part)
    assert held is not None and not held.has(extents)
    put_piece(part, "base", extents, weight_sizes(whole), data, sha256)
    held = Held.read(part)
    assert held is not None and held.has(extents)


def test_a_part_of_another_checkpoint_takes_no_piece(whole: Storage, tmp_path: Path) -> None:
    make_part(whole, "base-of-another", tmp_path / "part")
    extents, data = piece_of(whole)
    with pytest.raises(ValueError, match="holds parts of checkpoint base-of-ano"):
        put_piece(
            tmp_path / "part", "base", extents, weight_sizes(whole), data, hashlib.sha256(data).hexdigest()
        )


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", LEDGER, ".hidden", ""])
def test_a_piece_for_a_file_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file of a checkpoint"):
        put_piece(
            tmp_path / "part", "b", [Extent(name, 0, 1)], {name: 1}, b"x", hashlib.sha256(b"x").hexdigest()
        )


def test_a_piece_beyond_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bytes 4-6 of a, which has 5"):
        put_piece(
            tmp_path / "part", "b", [Extent("a", 4, 6)], {"a": 5}, b"xy", hashlib.sha256(b"xy").hexdigest()
        )


def test_a_folder_of_something_else_is_not_written_to(whole: Storage, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    extents, data = piece_of(whole)
    with pytest.raises(ValueError, match=r"holds notes\.txt and no held\.jsonl"):
        put_piece(tmp_path, "base", extents, weight_sizes(whole), data, hashlib.sha256(data).hexdigest())


def test_a_line_that_a_dying_process_left_is_not_believed(whole: Storage, tmp_path: Path) -> None:
    part = tmp_path / "part"
    make_part(whole, "base", part)
    expert = ExpertId(0, 0)
    with (part / LEDGER).open("a") as stream:
        stream.write('[["model.safetensors", 0, 1000000')
    assert not held_experts(open_storage(part))
    deliver(whole, part, expert, "base")  # goes on, on a line of its own
    assert held_experts(open_storage(part)) == {expert}


def test_a_damaged_ledger_says_what_to_do(whole: Storage, tmp_path: Path) -> None:
    make_part(whole, "base", tmp_path / "part")
    (tmp_path / "part" / LEDGER).write_text('{"format": 1}\n')
    with pytest.raises(ValueError, match=r"is damaged .* remove the folder"):
        open_storage(tmp_path / "part")


def test_a_part_of_a_part_is_refused(whole: Storage, tmp_path: Path) -> None:
    make_part(whole, "base", tmp_path / "part")
    with pytest.raises(ValueError, match="is a device's part of a checkpoint"):
        make_part(open_storage(tmp_path / "part"), "base", tmp_path / "other")


def test_everything_can_come_in_pieces(whole: Storage, tmp_path: Path) -> None:
    """The shared part as pieces into an empty folder gives what `make_part` copies."""
    companions = companion_sizes(whole)
    sizes = weight_sizes(whole) | companions
    source = whole.checkpoint.folder
    shared = [*(Extent(name, 0, size) for name, size in companions.items()), *shared_extents(whole)]
    for extents in cut(shared, PIECE_BYTES):
        data = read_extents(source, extents)
        put_piece(tmp_path / "part", "base", extents, sizes, data, hashlib.sha256(data).hexdigest())
    deliver(whole, tmp_path / "part", ExpertId(0, 1), "base")
    found = open_storage(tmp_path / "part").read_expert(0, 1)
    for name, value in whole.read_expert(0, 1).items():
        assert torch.equal(found[name], value)


spans = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=12)


@given(spans, spans)
def test_the_ledger_knows_each_byte(tmp_path_factory: pytest.TempPathFactory, put: list[tuple[int, int]],
                                    asked: list[tuple[int, int]]) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("ledger")
    held = Held(folder, "base")
    held.begin()
    there = set[int]()
    for start, size in put:
        held.add([Extent("f", start, start + size)])
        there |= set(range(start, start + size))
    again = Held.read(folder)
    assert again is not None
    for start, size in asked:
        wanted = there >= set(range(start, start + size))
        assert held.has([Extent("f", start, start + size)]) == wanted
        assert again.has([Extent("f", start, start + size)]) == wanted
        assert not held.has([Extent("other", start, start + size)])


@given(spans, st.integers(1, 7))
def test_cutting_loses_nothing(given_spans: list[tuple[int, int]], piece_bytes: int) -> None:
    whole = joined(Extent("f", start, start + size) for start, size in given_spans)
    pieces = cut(whole, piece_bytes)
    assert all(sum(e.num_bytes for e in piece) == piece_bytes for piece in pieces[:-1])
    assert all(sum(e.num_bytes for e in piece) <= piece_bytes for piece in pieces)
    assert joined(extent for piece in pieces for extent in piece) == whole


def test_a_part_is_never_loaded_as_the_whole(whole: Storage, tmp_path: Path) -> None:
    """Its holes would be experts of zeros."""
    part = make_part(whole, "base", tmp_path / "part")
    with pytest.raises(ValueError, match="is a device's part of a checkpoint"):
        load_full(part)
    with pytest.raises(ValueError, match="was not delivered"):
        load_streamed(part)(input_ids=torch.arange(8)[None])


def test_a_shared_part_that_was_replaced_is_noticed(whole: Storage, tmp_path: Path) -> None:
    part = make_part(whole, "base", tmp_path / "part")
    first = shared_extents(whole)[-1]
    with (part / first.file).open("r+b") as stream:
        stream.seek(first.stop - 4)
        stream.write(b"\x01\x02\x03\x04")
    with pytest.raises(ValueError, match="is not what was written there when it was made"):
        open_storage(part)


def test_two_processes_that_begin_one_folder_keep_one_ledger(tmp_path: Path) -> None:
    first, second = Held(tmp_path, "base"), Held(tmp_path, "base")
    first.begin()
    first.add([Extent("w", 0, 4)])
    second.begin()
    second.add([Extent("w", 4, 8)])
    held = Held.read(tmp_path)
    assert held is not None and held.has([Extent("w", 0, 8)])


def test_a_line_of_the_ledger_that_did_not_fit_is_an_error(tmp_path: Path) -> None:
    held = Held(tmp_path, "base")
    held.begin()
    size = (tmp_path / LEDGER).stat().st_size
    with files_at_most(size + 5), pytest.raises(OSError, match="only 5 of"):
        held.add([Extent("w", 0, 4)])
    assert not held.has([Extent("w", 0, 4)])
    held.add([Extent("w", 0, 4)])
    again = Held.read(tmp_path)
    assert again is not None and again.has([Extent("w", 0, 4)])
