"""Read a file's bytes and its characters; a damaged file is refused with the line and the cause."""

import bz2
import codecs
import gzip
import lzma
import zlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, cast


class DamagedFileError(ValueError):
    """Say in one sentence where in a file is what cannot be read; the caller knows the file's name."""


# UTF-32 before UTF-16: its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SIGNATURES = {
    b"\x1f\x8b": "gzip data, whose ending would be .gz",
    b"BZh": "bzip2 data, whose ending would be .bz2",
    b"\xfd7zXZ\x00": "xz data, whose ending would be .xz",
    b"\x28\xb5\x2f\xfd": "Zstandard data, whose ending would be .zst",
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it or save it as CSV",
    b"PAR1": "parquet data, whose ending would be .parquet",
    b"ARROW1": "an Arrow file; save it as parquet",
}
"""First bytes of files that are taken for text when their name has the wrong ending."""


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file as it is.

    Raises
    ------
    DamagedFileError
        If it cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise DamagedFileError(f"it cannot be opened: {error.strerror}") from error


def read_bytes(path: Path, compression: str) -> bytes:
    """Read a whole file, unpacked.

    Parameters
    ----------
    compression : str
        ``""`` or one of `scenario.tables.file_formats.COMPRESSIONS`.

    Raises
    ------
    DamagedFileError
        If it cannot be opened or is not whole.
    """
    with open_bytes(path) as packed:
        try:
            with _unpack(packed, compression) as file:
                return cast("bytes", file.read())
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise DamagedFileError(f"it is cut short or no {compression[1:]} data ({error})") from error


def _unpack(packed: IO[bytes], compression: str) -> AbstractContextManager[Any]:
    if compression == ".zst":
        import pyarrow as pa  # Python has no Zstandard of its own before 3.14

        stream: AbstractContextManager[Any] = pa.CompressedInputStream(packed, "zstd")
        return stream
    if compression == ".gz":
        return gzip.GzipFile(fileobj=packed)
    return {"": nullcontext, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}[compression](packed)


def decode(data: bytes) -> str:
    """Return the characters of a text file: UTF-8, or UTF-16 and UTF-32 with a byte order mark.

    No other encoding is guessed: a wrong guess reads every file, and some of its letters wrong.

    Raises
    ------
    DamagedFileError
        If a byte is not of that encoding, or the text holds a NUL.
    """
    for signature, what in _SIGNATURES.items():
        if data.startswith(signature):
            raise DamagedFileError(f"it holds {what}")
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    if encoding == "utf-8" and _looks_like_utf16(data):
        raise DamagedFileError(
            "line 1: it looks like UTF-16 without a byte order mark; save the file as UTF-8"
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, errors="replace").count("\n") + 1
        raise DamagedFileError(f"line {line}: {_undecodable(data, error, encoding)}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DamagedFileError(f"line {line} holds a NUL character; save the file as text again")
    return text


def _looks_like_utf16(data: bytes) -> bool:
    """Return whether every second byte of much of a file, and no other, is zero: letters of Latin script."""
    zeros = data[::2].count(0), data[1::2].count(0)
    return min(zeros) == 0 and max(zeros) > len(data) / 8


def _undecodable(data: bytes, error: UnicodeDecodeError, encoding: str) -> str:
    if encoding in {"utf-16", "utf-32"}:
        return f"not {encoding.upper()}, which its byte order mark says it is ({error.reason})"
    if error.reason == "unexpected end of data":
        return "the file is cut short, in the middle of a UTF-8 character"
    byte = data[error.start : error.start + 1]
    as_windows = byte.decode("cp1252", errors="ignore")
    guess = f" (in Windows-1252 it would be {as_windows!r})" if as_windows else ""
    return f"byte 0x{byte.hex().upper()} is not UTF-8{guess}; save the file as UTF-8"
