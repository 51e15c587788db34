"""The written forms of Orbit Mean-Elements Messages: JSON, CSV, XML and KVN, one or many messages in a file.

Source: CCSDS 502.0-B-3, sections 4.2 (KVN) and 8 (XML); JSON and CSV with the same keywords, as CelesTrak and
Space-Track serve them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from xml.etree import ElementTree

from sim.orbits.answers import shown_answer
from sim.text_files import csv_rows

Fields = Mapping[str, Any]

USER_DEFINED = "USER_DEFINED_"
_TLE_LINE = re.compile(r"^[ \t]*1 [ 0-9A-Z]{5}[A-Z ] .{40}", re.MULTILINE)
_KVN_LINE = re.compile(r"\s*([A-Z][A-Za-z0-9_]*)\s*=(.*)")
_KVN_VERSION = re.compile(r"^[ \t]*CCSDS_([A-Z]+)_VERS[ \t]*=", re.MULTILINE)
_XML_OMM = re.compile(r"<(?:\w+:)?omm[\s>]")
_XML_OTHER = re.compile(r"<(?:\w+:)?(oem|opm|ocm|aem|apm|cdm|tdm|rdm)[\s>]")
# Units may be written beside a value; these are the ones the keywords are defined in.
_UNITS = re.compile(
    r"\s*\[\s*(deg|rev/day|rev/day\*\*[23]|1/ER|km|kg|m\*\*2|m\*\*2/kg|km\*\*3/s\*\*2)\s*\]$", re.IGNORECASE
)


def form_of(text: str) -> str:
    """Return ``json``, ``csv``, ``xml`` or ``kvn`` by the content of a file, or nothing for anything else."""
    if _TLE_LINE.search(text):  # whose first satellite may be called "[X]" or "{X}"
        return ""
    start = text.lstrip()
    first_line = start.partition("\n")[0]
    if start[:1] in ("[", "{"):
        return "json"
    if start[:1] == "<":
        return "xml"
    if "," in first_line and "MEAN_MOTION" in first_line:
        return "csv"
    return "kvn" if _KVN_VERSION.search(text) or re.search(r"^\s*MEAN_MOTION\s*=", text, re.MULTILINE) else ""


def messages(text: str, source: str) -> Iterator[tuple[str, Fields]]:
    """Yield where each message is and its fields by keyword, values as they stand.

    Parameters
    ----------
    text : str
        The content of a file.
    source : str
        What error messages call it.

    Raises
    ------
    ValueError
        If the text is broken, or holds other messages, or none: then with what it says.
    """
    read = {"json": _json, "xml": _xml, "kvn": _kvn}.get(form_of(text), _csv)
    yield from read(text, source)


def _json(text: str, source: str) -> Iterator[tuple[str, Fields]]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{source}, line {error.lineno}: not valid JSON: {error.msg}; fetch it again"
        ) from error
    except RecursionError:
        raise ValueError(f"{source}: brackets within brackets without end, no list of OMM") from None
    for index, entry in enumerate(content if isinstance(content, list) else [content], start=1):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{source}, entry {index}: expected an object with OMM fields, got {entry!r:.40}"
            )
        if not entry.keys() & {"MEAN_MOTION", "EPOCH", "NORAD_CAT_ID"}:
            raise ValueError(
                f"{source}, entry {index}: holds no elements; it says: {shown_answer(json.dumps(entry))}"
            )
        yield f"entry {index}", entry


def _csv(text: str, source: str) -> Iterator[tuple[str, Fields]]:
    blank = len(text) - len(text.lstrip())
    rows = csv_rows(text[blank:], source, first_line=text[:blank].count("\n") + 1)
    _, header = next(rows, (1, []))
    keywords = [keyword.strip() for keyword in header]
    for number, cells in rows:
        if any(cell.strip() for cell in cells):
            yield f"line {number}", dict(zip(keywords, cells, strict=False))


def _xml(text: str, source: str) -> Iterator[tuple[str, Fields]]:
    if not _XML_OMM.search(text):
        if other := _XML_OTHER.search(text):
            raise ValueError(_other_message(source, other[1]))
        raise ValueError(f"{source}: a web page, no elements; it says: {shown_answer(text)}")
    try:
        root = ElementTree.fromstring(text.strip())
    except ElementTree.ParseError as error:
        line, _ = error.position
        raise ValueError(f"{source}, line {line}: not valid XML: {error}; fetch it again") from error
    found = [element for element in root.iter() if _tag(element) == "omm"]
    for index, message in enumerate(found, start=1):
        yield f"message {index}", _xml_fields(message)


def _xml_fields(message: ElementTree.Element) -> Fields:
    """Return the leaves of a message, wherever they are nested."""
    fields = {}
    for element in message.iter():
        if len(element):
            continue
        value, unit = (element.text or "").strip(), element.get("units")
        tag = _tag(element)
        if tag == "USER_DEFINED":
            tag += f"_{element.get('parameter', '')}"
        fields[tag] = _UNITS.sub("", f"{value} [{unit}]" if unit else value)
    return fields


def _tag(element: ElementTree.Element) -> str:
    """Return the name of an element without its namespace."""
    return str(element.tag).rpartition("}")[2]


def _kvn(text: str, source: str) -> Iterator[tuple[str, Fields]]:
    """Yield messages; one begins at its version, or where a keyword comes again."""
    if (version := _KVN_VERSION.search(text)) and version[1] != "OMM":
        raise ValueError(_other_message(source, version[1]))
    place, fields = "line 1", dict[str, str]()
    for number, line in enumerate(text.split("\n"), start=1):
        keyword = _KVN_LINE.fullmatch(line)
        if keyword is None:
            if line.strip() and not line.split()[0] == "COMMENT":
                raise ValueError(
                    f"{source}, line {number}: expected KEYWORD = value or COMMENT, got {line.strip()!r:.60}"
                )
            continue
        key, value = keyword[1], _UNITS.sub("", keyword[2].strip())
        if fields and (key == "CCSDS_OMM_VERS" or key in fields):
            yield place, fields
            fields = {}
        if not fields:
            place = f"message at line {number}"
        fields[key] = value
    if fields:
        yield place, fields


def _other_message(source: str, kind: str) -> str:
    """Say that a CCSDS message is not the one with mean elements."""
    return (
        f"{source}: a message of CCSDS of the kind {kind.upper()}, which holds no mean elements; give an OMM "
        "or a TLE of the same satellites"
    )
