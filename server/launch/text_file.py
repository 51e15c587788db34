"""Text files that people write, read as UTF-8 or refused by file, line and encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

# The longer marks first: UTF-32's little-endian mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_utf8(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte order mark.

    Raises
    ------
    ValueError
        If it is in another encoding, with the line, the byte and what it looks like.
    OSError
        If it cannot be read.
    """
    content = path.read_bytes()
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            raise ValueError(f"{path}, line 1: the file is {encoding}; save it as UTF-8")
    if b"\0" in content[:1024]:
        raise ValueError(f"{path}, line 1: the file holds NUL bytes, as UTF-16 does; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8; the file is probably in "
            "Windows-1252 (cp1252) or Latin-1; save it as UTF-8"
        ) from error
