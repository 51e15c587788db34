"""What the tests of element files share: small element sets of our own, in every written form."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

from sim.orbits.elements import checksum

FORMS = ("json", "csv", "xml", "kvn")
FIELDS: Mapping[str, object] = {
    "OBJECT_NAME": "GOOD",
    "OBJECT_ID": "2026-001A",
    "EPOCH": "2026-01-01T12:00:00.000000",
    "MEAN_MOTION": 15.2,
    "ECCENTRICITY": 0.001,
    "INCLINATION": 97.5,
    "RA_OF_ASC_NODE": 10.0,
    "ARG_OF_PERICENTER": 90.0,
    "MEAN_ANOMALY": 20.0,
    "EPHEMERIS_TYPE": 0,
    "NORAD_CAT_ID": 123,
    "BSTAR": 3e-5,
    "MEAN_MOTION_DOT": 1e-5,
    "MEAN_MOTION_DDOT": 0,
}


def omm(**changes: object) -> dict[str, object]:
    """Return the fields of a message."""
    return {**FIELDS, **changes}


def written(messages: Sequence[Mapping[str, object]], form: str) -> str:
    """Return messages in a form, values as text."""
    texts = [{key: "" if value is None else str(value) for key, value in m.items()} for m in messages]
    if form == "json":
        return json.dumps(messages)
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for m in texts for key in m)))
        writer.writeheader()
        writer.writerows(texts)
        return stream.getvalue()
    if form == "kvn":
        head = "CCSDS_OMM_VERS = 3.0\nCOMMENT by hand\n"
        return "\n".join(head + "".join(f"{key} = {value}\n" for key, value in m.items()) for m in texts)
    leaves = ["".join(f"<{key}>{value}</{key}>" for key, value in m.items()) for m in texts]
    body = "".join(f"<omm><body><segment>{leaf}</segment></body></omm>" for leaf in leaves)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<ndm>{body}</ndm>\n'


def tle(
    name: str = "GOOD",
    *,
    number: int = 123,
    kind: str = "0",
    epoch: str = "26001.50000000",
    drag: str = " 30000-4",
    mean_motion: str = "15.20000000",
) -> str:
    """Return two or, with a name, three lines."""
    one = f"1 {number:05}U 26001A   {epoch}  .00001000  00000-0 {drag} {kind}  999"
    two = f"2 {number:05}  97.5000  10.0000 0010000  90.0000  20.0000 {mean_motion}  100"
    lines = [f"{line}{checksum(line)}" for line in (one, two)]
    return "\n".join([name, *lines] if name else lines) + "\n"
