"""Orbit Mean-Elements Messages in the forms of CCSDS 502.0-B-3, and what is said of files that are none."""

from pathlib import Path

import numpy as np
import pytest

from sim.orbits.elements import parse_tle, read_elements
from sim.orbits.orbit import propagate
from tests.sim.orbits.elements_text import FORMS, omm, tle, written

A_METRE = 1e-3  # km

# As the standard writes it: nested, with a namespace, units and blanks.
XML = """<?xml version="1.0" encoding="UTF-8"?>
<ndm xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xmlns="urn:ccsds:schema:ndmxml">
<omm id="CCSDS_OMM_VERS" version="3.0">
  <header><COMMENT>two of them</COMMENT><CREATION_DATE/><ORIGINATOR/></header>
  <body><segment>
    <metadata><OBJECT_NAME>A &amp; B</OBJECT_NAME><CENTER_NAME>EARTH</CENTER_NAME>
      <REF_FRAME>TEME</REF_FRAME><TIME_SYSTEM>UTC</TIME_SYSTEM>
      <MEAN_ELEMENT_THEORY>SGP/SGP4</MEAN_ELEMENT_THEORY></metadata>
    <data><meanElements><EPOCH>2026-001T12:00:00.000000</EPOCH>
      <MEAN_MOTION units="rev/day">15.2</MEAN_MOTION><ECCENTRICITY> .001 </ECCENTRICITY>
      <INCLINATION units="deg">97.5</INCLINATION><RA_OF_ASC_NODE units="deg">10</RA_OF_ASC_NODE>
      <ARG_OF_PERICENTER units="deg">90</ARG_OF_PERICENTER><MEAN_ANOMALY units="deg">20</MEAN_ANOMALY>
    </meanElements><tleParameters><NORAD_CAT_ID>123</NORAD_CAT_ID><BSTAR units="1/ER">.00003</BSTAR>
      <MEAN_MOTION_DOT units="rev/day**2">.00001</MEAN_MOTION_DOT>
      <MEAN_MOTION_DDOT units="rev/day**3">0</MEAN_MOTION_DDOT></tleParameters>
      <userDefinedParameters><USER_DEFINED parameter="DECAY_DATE">2026-07-01</USER_DEFINED>
      </userDefinedParameters></data>
  </segment></body>
</omm>
</ndm>
"""
KVN = """CCSDS_OMM_VERS = 3.0
COMMENT one
CREATION_DATE = 2026-01-01T00:00:00
OBJECT_NAME = A & B
REF_FRAME = TEME
EPOCH = 2026-01-01T12:00:00.000000Z
MEAN_MOTION = 15.2 [rev/day]
ECCENTRICITY = .001
  INCLINATION = 97.5 [deg]
RA_OF_ASC_NODE = 10 [deg]
ARG_OF_PERICENTER = 90 [deg]
MEAN_ANOMALY = 20 [deg]
NORAD_CAT_ID = 123
BSTAR = .00003 [1/ER]
MEAN_MOTION_DOT = .00001 [rev/day**2]
MEAN_MOTION_DDOT = 0 [rev/day**3]
"""


def saved(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "elements.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("text", [XML, KVN, XML.replace("\n", "\r\n"), "\ufeff" + KVN])
def test_xml_and_kvn_give_the_orbit_of_the_tle_with_the_same_numbers(tmp_path: Path, text: str) -> None:
    (ours,), (theirs,) = read_elements(saved(tmp_path, text)), parse_tle(tle())
    assert ours.name == "A & B"
    assert ours.record.satnum == 123
    time_s = np.array([0.0, 43_200.0])
    a, b = (propagate([one], theirs.epoch, time_s).position_km for one in (ours, theirs))
    assert np.abs(a - b).max() < A_METRE


def test_a_date_of_decay_among_the_user_defined_parameters_is_kept(tmp_path: Path) -> None:
    (satellite,) = read_elements(saved(tmp_path, XML))
    assert f"{satellite.decay:%Y-%m-%d}" == "2026-07-01"


@pytest.mark.parametrize("name", ["[DTC] 1", "{X}", "<Y>", "A,MEAN_MOTION"])
def test_a_name_that_looks_like_another_form_is_a_name(tmp_path: Path, name: str) -> None:
    assert [satellite.name for satellite in read_elements(saved(tmp_path, tle(name)))] == [name]


@pytest.mark.parametrize("form", FORMS)
def test_many_messages_in_one_file_are_all_read(tmp_path: Path, form: str) -> None:
    messages = [omm(NORAD_CAT_ID=number, OBJECT_NAME=f"S{number}") for number in (7, 250_000, 700_000_001)]
    found = read_elements(saved(tmp_path, written(messages, form)))
    assert [satellite.name for satellite in found] == ["S7", "S250000", "S700000001"]


@pytest.mark.parametrize(
    ("form", "where"),
    [("json", "entry 2"), ("csv", "line 3"), ("xml", "message 2"), ("kvn", "message at line 18")],
)
def test_faults_of_every_form_are_named_with_their_place(tmp_path: Path, form: str, where: str) -> None:
    wrong = omm(NORAD_CAT_ID=124, ECCENTRICITY=1.5, REF_FRAME="GCRF", CENTER_NAME="MARS")
    path = saved(tmp_path, written([omm(), wrong], form))
    with pytest.raises(ValueError, match=f"{where}: ECCENTRICITY must be in .*, got '?1.5") as caught:
        read_elements(path)
    assert f"{where}: REF_FRAME must be TEME, got 'GCRF'" in str(caught.value)
    assert f"{where}: CENTER_NAME must be EARTH, got 'MARS'" in str(caught.value)


def test_other_units_are_refused(tmp_path: Path) -> None:
    for text in (KVN.replace("97.5 [deg]", "1.7 [rad]"), XML.replace('"deg">97.5', '"rad">1.7')):
        with pytest.raises(ValueError, match=r"INCLINATION must be in \[0, 180\], got '1.7 \[rad\]'"):
            read_elements(saved(tmp_path, text))


@pytest.mark.parametrize(
    ("epoch", "is_read"),
    [
        ("2026-366T12:00:00", False),
        ("2024-366T12:00:00", True),
        ("2026-000T12:00:00", False),
        ("2026-02-29T12:00:00", False),
        ("2024-02-29T12:00:00", True),
        ("0026-01-01T12:00:00", False),
        ("2026-01-01T24:30:00", False),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_day_that_the_year_does_not_have_is_refused(
    tmp_path: Path, form: str, epoch: str, is_read: bool
) -> None:
    path = saved(tmp_path, written([omm(EPOCH=epoch)], form))
    if is_read:
        (satellite,) = read_elements(path)
        assert (satellite.epoch.month, satellite.epoch.year, satellite.epoch.hour) in (
            (12, 2024, 12),
            (2, 2024, 12),
        )
        return
    with pytest.raises(ValueError, match=f"EPOCH must be a date and time .* got '{epoch}'"):
        read_elements(path)


@pytest.mark.parametrize(
    ("epoch", "rule"),
    [
        ("26366.50000000", r"epoch day must be in \[1, 366\) in 2026, a year of 365 days, got 366.50000000"),
        ("26000.50000000", r"epoch day must be in \[1, 366\) in 2026"),
        ("24367.00000000", r"epoch day must be in \[1, 367\) in 2024, a year of 366 days"),
        ("00367.00000000", r".*in 2000, a year of 366 days"),
        ("57366.00000000", r".*in 1957, a year of 365 days"),
        ("26999.00000000", r"epoch day must be in"),
    ],
)
def test_a_tle_of_a_day_that_the_year_does_not_have_is_refused(epoch: str, rule: str) -> None:
    with pytest.raises(ValueError, match=f"line 2: {rule}"):
        parse_tle(tle(epoch=epoch))


def test_the_last_day_of_a_leap_year_is_read() -> None:
    assert f"{parse_tle(tle(epoch='24366.50000000'))[0].epoch:%Y-%m-%d %H}" == "2024-12-31 12"
    assert f"{parse_tle(tle(epoch='26365.99999999'))[0].epoch:%Y-%m-%d %H}" == "2026-12-31 23"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            '{"error": "You must be logged in to complete this action"}',
            "it says: error: You must be logged in to",
        ),
        (
            '[{"message": "Rate limit exceeded", "code": 429}]',
            "it says: message: Rate limit exceeded code: 429",
        ),
        ("No GP data found", "the file says: No GP data found"),
        ('"Invalid query"', 'the file says: "Invalid query"'),
        (
            "<!DOCTYPE html><html><head><title>403 Forbidden</title><style>p {}</style></head>"
            "<body><h1>Forbidden</h1>\n<p>Too many requests</p></body></html>",
            "a web page, no elements; it says: 403 Forbidden Forbidden Too many requests",
        ),
        ('<?xml version="1.0"?><error><text>Maintenance</text></error>', "it says: Maintenance"),
        ("CCSDS_OEM_VERS = 2.0\nOBJECT_NAME = A\n", "of the kind OEM, which holds no mean elements"),
        ("<ndm><cdm id='x'></cdm></ndm>", "of the kind CDM, which holds no mean elements"),
        ("<ndm><omm><body></omm></ndm>", "line 1: not valid XML: mismatched tag"),
        ("[" * 100_000, "elements.txt"),
        ('[{"EPOCH": 5, "NORAD_CAT_ID": true}]', "EPOCH must be a date and time"),
    ],
)
def test_what_a_server_answered_in_place_of_elements_is_shown(tmp_path: Path, text: str, says: str) -> None:
    path = saved(tmp_path, text)
    with pytest.raises(ValueError, match=says.replace("(", r"\(")) as caught:
        read_elements(path)
    assert str(path) in str(caught.value)
