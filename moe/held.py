"""Which bytes of a checkpoint's files are on this machine: a device may hold some of the experts only.

Its folder looks like the whole checkpoint: the same files of the same lengths with the same headers, and
holes where experts are that it was never given (a hole takes no room on the disk). A hole reads as zeros,
so whoever reads such a folder asks its ledger first: nothing is ever trained on what did not come.
"""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

LEDGER = "held.jsonl"
"""Name of the ledger: a line that says of which checkpoint these are parts, then a line for each piece."""
_FORMAT = 1
_SAMPLE_BYTES = 64


class Extent(NamedTuple):
    """Bytes ``[start, stop)`` of a file, by its name relative to the checkpoint's folder."""

    file: str
    start: int
    stop: int

    @property
    def num_bytes(self) -> int:
        """How many."""
        return self.stop - self.start


class Held:
    """The bytes that a folder holds of a checkpoint.

    Parameters
    ----------
    folder : Path
        Where its ledger is, or shall be.
    base : str
        Fingerprint of the checkpoint that these are parts of.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self.folder, self.base = folder, base
        self._spans: dict[str, list[tuple[int, int]]] = {}  # by file; sorted, apart from one another

    @classmethod
    def read(cls, folder: Path) -> "Held | None":
        """Return what a folder's ledger says; None where there is none: then it holds all of its files.

        A line that a dying process left half written says nothing: its bytes come again.

        Raises
        ------
        ValueError
            If the ledger is damaged.
        """
        try:
            text = (folder / LEDGER).read_text("utf-8")
        except FileNotFoundError:
            return None
        lines = text.split("\n")
        try:
            first = json.loads(lines[0])
            if first["format"] != _FORMAT:
                raise ValueError(f"it has format {first['format']}, and this version reads {_FORMAT}")
            held = cls(folder, str(first["base"]))
            sampled = [Extent(*extent) for extent in first.get("sampled", [])]
            is_as_written = not sampled or _digest(folder, sampled) == first["digest"]
            for line in lines[1:]:
                with suppress(json.JSONDecodeError):
                    for file, start, stop in json.loads(line):
                        held._note(Extent(str(file), int(start), int(stop)))
        except (ValueError, KeyError, TypeError, IndexError) as fault:
            raise ValueError(
                f"{folder / LEDGER}, which says what was delivered, is damaged ({fault}); remove the folder, "
                "and what belongs there comes again"
            ) from None
        if not is_as_written:
            raise ValueError(
                f"the shared part in {folder} is not what was written there when it was made for checkpoint "
                f"{held.base[:12]}: files were replaced, or copied badly; copy the folder again"
            )
        return held

    def begin(self, shared: Iterable[Extent] = ()) -> None:
        """Write the first line of a new ledger; one that another process began meanwhile is left as it is.

        Parameters
        ----------
        shared : iterable of Extent
            Bytes that are there already and are to be known again: both ends of each are sampled.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        sampled = [
            Extent(file, max(start, at), min(stop, at + _SAMPLE_BYTES))
            for file, start, stop in shared
            for at in (start, stop - _SAMPLE_BYTES)
        ]
        of = {"sampled": sampled, "digest": _digest(self.folder, sampled)} if sampled else {}
        with suppress(FileExistsError):
            self._write(json.dumps({"format": _FORMAT, "base": self.base, **of}), os.O_EXCL)

    def add(self, extents: Iterable[Extent]) -> None:
        """Note bytes that were written and are safe on the disk.

        Raises
        ------
        OSError
            If the ledger cannot be written; then they count as not there.
        """
        extents = list(extents)
        self._write(json.dumps([list(extent) for extent in extents]))
        for extent in extents:
            self._note(extent)

    def has(self, extents: Iterable[Extent]) -> bool:
        """Say whether all these bytes are there."""
        return all(self._covers(extent) for extent in extents)

    def _covers(self, extent: Extent) -> bool:
        if extent.start == extent.stop:
            return True
        spans = self._spans.get(extent.file, [])
        at = bisect_right(spans, extent.start, key=lambda span: span[0]) - 1
        return at >= 0 and extent.stop <= spans[at][1]

    def _note(self, extent: Extent) -> None:
        start, stop = extent.start, extent.stop
        apart = []
        for span in self._spans.get(extent.file, []):
            if span[1] < start or stop < span[0]:
                apart.append(span)
            else:
                start, stop = min(start, span[0]), max(stop, span[1])
        self._spans[extent.file] = sorted([*apart, (start, stop)])

    def _write(self, line: str, how: int = 0) -> None:
        """Append a line at once; after one that was left unfinished, on a new line."""
        handle = os.open(self.folder / LEDGER, os.O_RDWR | os.O_APPEND | os.O_CREAT | how, 0o666)
        try:
            size = os.fstat(handle).st_size
            before: Any = b"\n" if size and os.pread(handle, 1, size - 1) != b"\n" else b""
            whole = before + line.encode() + b"\n"
            if (written := os.write(handle, whole)) < len(whole):
                raise OSError(f"only {written} of {len(whole)} bytes of a line could be written")
            os.fsync(handle)
        finally:
            os.close(handle)


def refuse_part(held: Held | None) -> None:
    """Refuse a device's part of a checkpoint where its holes would be read as numbers.

    Raises
    ------
    ValueError
        If it is one.
    """
    if held is not None:
        raise ValueError(
            f"{held.folder} is a device's part of a checkpoint, without all experts; give the whole one"
        )


def _digest(folder: Path, sampled: Iterable[Extent]) -> str:
    """Return the hash of some bytes, of which a file may have fewer."""
    digest = hashlib.sha256()
    for file, start, stop in sampled:
        with suppress(FileNotFoundError), (folder / file).open("rb") as stream:
            stream.seek(start)
            digest.update(stream.read(stop - start))
    return digest.hexdigest()
