"""Read JSON: objects in an array, one a line, or one after the other however they are laid out."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from scenario.tables.file_content import DamagedFileError
from scenario.tables.table import Table, is_encodable, kind_of

_NO_BLANK = re.compile(r"\S")


def read_json(text: str, wanted: Collection[str]) -> Table:
    """Read objects, one after the other or in an array; strings of an array are rows of "text".

    A NaN without quotes, which is no JSON but widely written, is a missing value.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_constant)
    names: dict[str, None] = {}
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    line, counted = 1, 0
    for start, value in _json_values(decoder, text):
        line, counted = line + text.count("\n", counted, start), start
        row = {"text": value} if isinstance(value, str) else value
        if not isinstance(row, dict):
            raise DamagedFileError(f"line {line} holds {kind_of(row)} where an object {{...}} must be")
        names.update(dict.fromkeys(row))
        rows.append({name: row[name] for name in wanted if name in row})
        lines.append(line)
    if any(not is_encodable(name) for name in names):
        raise DamagedFileError(
            "a key holds half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        )
    columns = {name: [row.get(name) for row in rows] for name in wanted if name in names}
    return Table(names=tuple(names), columns=columns, lines=lines)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is given more than once in one object")
    return found


def _constant(name: str) -> float | None:
    return None if name == "NaN" else float(name)


def _json_values(decoder: json.JSONDecoder, text: str) -> Iterator[tuple[int, Any]]:
    """Yield each object of a stream, or of its arrays, with the place it begins at."""
    place, in_array, separated = _skip(text, 0), False, True
    while place < len(text) or in_array:
        mark = text[place : place + 1]
        if mark == "[" and not in_array:
            place, in_array, separated = _skip(text, place + 1), True, True
            if text[place : place + 1] == "]":
                place, in_array = _skip(text, place + 1), False
            continue
        if in_array and not separated and mark in {",", "]"}:
            place, in_array, separated = _skip(text, place + 1), mark == ",", True
            continue
        try:
            if in_array and not separated:
                raise json.JSONDecodeError("Expecting ',' or ']'", text, place)
            value, end = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise DamagedFileError(f"{_line_of(text, error.pos)}: {_cause(error, text)}") from error
        except (ValueError, RecursionError) as error:  # a key given twice, a number of 5000 digits
            cause = str(error) if isinstance(error, ValueError) else "brackets within brackets, too deep"
            raise DamagedFileError(f"{_line_of(text, place)}: {cause}") from error
        yield place, value
        place, separated = _skip(text, end), not in_array


def _cause(error: json.JSONDecodeError, text: str) -> str:
    rest = text[error.pos :]
    cut = not rest.strip() or (error.msg.startswith("Unterminated string") and "\n" not in rest.strip())
    return f"no JSON ({error.msg}){', the file is cut short' if cut else ''}"


def _skip(text: str, place: int) -> int:
    """Return the place of the next character that is no blank."""
    found = _NO_BLANK.search(text, place)
    return found.start() if found else len(text)


def _line_of(text: str, place: int) -> str:
    return f"line {text.count(chr(10), 0, place) + 1}"
