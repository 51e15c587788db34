"""The one reader of the sky's text files: element sets, sites and contact plans, whatever their encoding.

Spreadsheets and shells save text as UTF-8 with a byte order mark or as UTF-16; those are read. A legacy code
page says nothing of itself, so its letters would be guessed: it is refused, with the line and what it looks
like.
"""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

# The longer marks first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = (
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstandard: unpack it first"),
    (b"BZh", "compressed by bzip2: unpack it first"),
    (b"\xfd7zXZ", "compressed by xz: unpack it first"),
    (b"PK\x03\x04", "a zip archive, as spreadsheet workbooks are: save the sheet as CSV UTF-8, or unpack it"),
    (b"PAR1", "a parquet file: give it the ending .parquet"),
    (b"%PDF", "a PDF: save its text"),
)


def read_text(path: Path | str, kind: str) -> str:
    r"""Return the text of a file, with ``\n`` between its lines and without a byte order mark.

    Parameters
    ----------
    path : Path or str
        A name, never a pattern. Anything that can be read once: pipes too.
    kind : str
        What the file should be, for messages: ``"element file"``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder or no text: with the file, the line and the encoding it looks like.
    OSError
        If the system does not let it be read.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"no {kind} at {path}") from None
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; name the {kind}") from None
    return decode_text(content, str(path)).replace("\r\n", "\n").replace("\r", "\n")


def decode_text(content: bytes, source: str) -> str:
    """Return the text of bytes: UTF-8, or UTF-16 and UTF-32 by their mark or their zeros.

    Parameters
    ----------
    content : bytes
        All of the file: a character must not be cut.
    source : str
        What messages call it.

    Raises
    ------
    ValueError
        If the bytes are no such text.
    """
    for magic, advice in _PACKED:
        if content.startswith(magic):
            raise ValueError(f"{source}: not a text file but {advice}")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), _unmarked(content))
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(_foreign(content, error, source)) from None
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{source}, line {line}: not a text file, it holds a zero byte")
    return text


def csv_rows(
    text: str, source: str, *, delimiter: str = ",", first_line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each row of CSV text.

    Parameters
    ----------
    text : str
        With or without blanks after the delimiters.
    source : str
        What messages call it.
    delimiter : str
        One character between cells.
    first_line : int
        The number of the text's first line in its file.

    Raises
    ------
    ValueError
        With the line, where quotes are not closed or not doubled.
    """
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for cells in reader:
            yield reader.line_num + first_line - 1, cells
    except csv.Error as error:
        line = reader.line_num + first_line - 1
        raise ValueError(
            f"{source}, line {line}: not valid CSV: {error}; look at its double quotes"
        ) from error


def _unmarked(content: bytes) -> str:
    """Return the encoding of bytes without a mark: every other byte of mostly Latin UTF-16 is zero."""
    head = content[:400]
    pairs = max(1, len(head) // 2)
    if len(content) % 2 == 0 and head.count(0) > 0.3 * pairs:
        if head[0::2].count(0) == 0:
            return "utf-16-le"
        if head[1::2].count(0) == 0:
            return "utf-16-be"
    return "utf-8"


def _foreign(content: bytes, error: UnicodeDecodeError, source: str) -> str:
    """Say which line is no text, and what it looks like."""
    if error.encoding.startswith("utf-16") or error.encoding.startswith("utf-32"):
        kind = error.encoding.upper()
        return f"{source}: not a text file, or damaged: begins as {kind}, but byte {error.start} does not fit"
    before = content[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    number, begin = before.count(b"\n") + 1, max(content.rfind(b"\n", 0, error.start), 0)
    line = content[begin:].lstrip(b"\n").partition(b"\n")[0]
    where, byte = f"{source}, line {number}", f"byte 0x{content[error.start]:02x}"
    try:
        shown = line.decode("cp1252").strip()
    except UnicodeDecodeError:
        shown = ""
    if not shown.isprintable() or not shown:
        return f"{where}: not a text file in UTF-8 or UTF-16, {byte} begins no character"
    return (
        f"{where}: not UTF-8 ({byte}); it looks like Windows-1252 (cp1252), in which the line reads "
        f"{shown[:60]!r}: save it as UTF-8, or convert it: iconv -f CP1252 -t UTF-8"
    )
