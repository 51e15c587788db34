"""A device's part of a checkpoint: a folder with the whole's files, and holes where it was given nothing."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from moe.delivery.extents import expert_extents, shared_extents
from moe.disk.storage import Storage
from moe.disk.weight_files import companions
from moe.disk.writing import new_folder, writing
from moe.experts import ExpertId
from moe.held import LEDGER, Extent, Held, refuse_part

_COPY_BYTES = 1 << 24


def make_part(storage: Storage, base: str, out_dir: str | Path, *, beside: Iterable[Path] = ()) -> Path:
    """Write the shared part of a checkpoint to a new folder, which experts can then be added to.

    Parameters
    ----------
    storage : Storage
        The whole checkpoint.
    base : str
        Its fingerprint, by which the server knows that this is a part of what it has.
    out_dir : str or Path
        New folder. The files seem as long as the whole's; on a file system with holes they take the room
        of what they hold.
    beside : iterable of Path
        Files to copy into it too.

    Raises
    ------
    ValueError
        If the folder is in use, or the checkpoint is a part itself.
    OSError
        If the disk has no room; nothing is left then.
    """
    folder = storage.checkpoint.folder
    refuse_part(storage.checkpoint.held)
    extents = shared_extents(storage)
    size = sum(extent.num_bytes for extent in extents)
    with new_folder(out_dir, what="the device's part", num_bytes=size) as unfinished:
        for file in (*(folder / name for name in companion_files(storage)), *beside):
            shutil.copy(file, unfinished / file.name)
        for name, file_bytes in weight_sizes(storage).items():
            (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
            with (unfinished / name).open("wb") as stream:
                stream.truncate(file_bytes)
        for extent in extents:
            with (folder / extent.file).open("rb") as source, (unfinished / extent.file).open("r+b") as out:
                for start in range(extent.start, extent.stop, _COPY_BYTES):
                    source.seek(start)
                    out.seek(start)
                    out.write(source.read(min(_COPY_BYTES, extent.stop - start)))
        held = Held(unfinished, base)
        held.begin(extents)
        held.add(extents)
    return Path(out_dir)


def companion_files(storage: Storage) -> list[str]:
    """Return the files beside the weights that a device needs: configuration, tokenizer, index."""
    weights = storage.checkpoint.weights
    return [*companions(storage.checkpoint.folder), *([weights.index] if weights.index else [])]


def weight_sizes(storage: Storage) -> dict[str, int]:
    """Return the weight files by name, with their bytes."""
    folder = storage.checkpoint.folder
    return {name: (folder / name).stat().st_size for name in storage.checkpoint.weights.shards}


def companion_sizes(storage: Storage) -> dict[str, int]:
    """Return the files beside the weights by name, with their bytes; the empty ones are not needed."""
    folder = storage.checkpoint.folder
    sizes = {name: (folder / name).stat().st_size for name in companion_files(storage)}
    return {name: size for name, size in sizes.items() if size}


def read_extents(folder: Path, extents: Iterable[Extent]) -> bytes:
    """Return the bytes of a piece.

    Raises
    ------
    ValueError
        If a file ends before them: it has changed since it was opened.
    """
    found = []
    for extent in extents:
        with (folder / extent.file).open("rb") as stream:
            stream.seek(extent.start)
            found.append(stream.read(extent.num_bytes))
        if len(found[-1]) != extent.num_bytes:
            raise ValueError(f"{folder / extent.file} ends before byte {extent.stop}; it has changed")
    return b"".join(found)


def put_piece(
    folder: Path, base: str, extents: Sequence[Extent], sizes: Mapping[str, int], data: bytes, sha256: str
) -> None:
    """Write a piece into a device's folder; once this returns it is on the disk and in the ledger.

    Parameters
    ----------
    folder : Path
        The device's; made if it does not exist.
    base : str
        Fingerprint of the checkpoint that the piece is of.
    extents : sequence of Extent
        Where its bytes belong.
    sizes : Mapping[str, int]
        Bytes of each of these files as a whole.
    data : bytes
        The bytes, one extent after another.
    sha256 : str
        What they hash to, hexadecimal.

    Raises
    ------
    ValueError
        If the bytes are not those that the hash is of, the folder is of another checkpoint, or an extent
        lies outside the folder or its file; nothing has been written then.
    OSError
        If the disk has no room; the piece then counts as not there.
    """
    where = ", ".join(f"{extent.file} {extent.start}-{extent.stop}" for extent in extents[:3])
    if hashlib.sha256(data).hexdigest() != sha256 or len(data) != sum(e.num_bytes for e in extents):
        raise ValueError(
            f"a piece of the model ({where}) came damaged: its hash is another; it is asked for again"
        )
    _refuse_outside(folder, extents, sizes)
    held = _held_of(folder, base)
    with writing("a piece of the model", folder / LEDGER, len(data)):
        at = 0
        for extent in extents:
            _write(folder / extent.file, sizes[extent.file], extent.start, data[at : at + extent.num_bytes])
            at += extent.num_bytes
        held.add(extents)


def held_experts(storage: Storage, among: Iterable[ExpertId] | None = None) -> frozenset[ExpertId]:
    """Return which experts are wholly here, of some or of all; all where the checkpoint is no part of one."""
    every = (ExpertId(layer, i) for layer, block in storage.blocks.items() for i in range(block.num_experts))
    held = storage.checkpoint.held
    asked = every if among is None else among
    return frozenset(e for e in asked if held is None or held.has(expert_extents(storage, e)))


def _held_of(folder: Path, base: str) -> Held:
    folder.mkdir(parents=True, exist_ok=True)
    held = Held.read(folder)
    if held is None:
        if found := next(iter(sorted(folder.iterdir())), None):
            raise ValueError(
                f"{folder} holds {found.name} and no {LEDGER}: it is no device's part of a checkpoint; name "
                "an empty folder, or one that ems-fl prepare made"
            )
        Held(folder, base).begin()
        held = Held.read(folder)
        assert held is not None
    if held.base != base:
        raise ValueError(
            f"{folder} holds parts of checkpoint {held.base[:12]}, and the server sends {base[:12]}; name "
            "another folder, or remove it"
        )
    return held


def _refuse_outside(folder: Path, extents: Iterable[Extent], sizes: Mapping[str, int]) -> None:
    for extent in extents:
        path = PurePosixPath(extent.file)
        is_inside = (
            path.parts and not path.is_absolute() and ".." not in path.parts and "\0" not in extent.file
        )
        if not is_inside or path.name == LEDGER or path.parts[0].startswith("."):
            raise ValueError(f"a piece is for {extent.file!r}, which is no file of a checkpoint in {folder}")
        if not 0 <= extent.start < extent.stop <= sizes.get(extent.file, 0):
            raise ValueError(
                f"a piece is for bytes {extent.start}-{extent.stop} of {extent.file}, which has "
                f"{sizes.get(extent.file, 0)}"
            )


def _write(file: Path, file_bytes: int, start: int, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        if os.fstat(handle).st_size != file_bytes:
            os.ftruncate(handle, file_bytes)
        while data:
            written = os.pwrite(handle, data, start)
            data, start = data[written:], start + written
        os.fsync(handle)
    finally:
        os.close(handle)
