"""Elements that plain SGP4 does not cover are left out by name, in every form of file."""

import datetime as dt

import pytest

from sim.orbits.elements import parse_tle
from sim.orbits.omm import parse_omm
from sim.orbits.orbit import Satellite
from tests.sim.orbits.elements_text import FORMS, omm, tle, written


def read(text: str) -> tuple[list[str], list[str]]:
    """Return the names of the satellites of a file and the notes."""
    notes: list[str] = []
    parse = parse_tle if "1 00" in text else parse_omm
    found: tuple[Satellite, ...] = parse(text, source="file", on_notice=notes.append)
    return [satellite.name for satellite in found], notes


def test_a_tle_of_sgp4_xp_is_left_out_and_the_others_stay() -> None:
    names, notes = read(tle() + tle("XP", number=124, kind="4") + tle("", number=125, kind="4"))
    assert names == ["GOOD"]
    assert notes == [
        "file: left out XP, 00125: its elements are of ephemeris type 4 (SGP4-XP), plain SGP4 is for type 0"
    ]


@pytest.mark.parametrize("kind", ["0", " "])
def test_type_zero_and_no_type_are_sgp4(kind: str) -> None:
    assert read(tle(kind=kind)) == (["GOOD"], [])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"EPHEMERIS_TYPE": 4}, "ephemeris type 4 (SGP4-XP)"),
        ({"EPHEMERIS_TYPE": 6}, "ephemeris type 6 (special perturbations)"),
        ({"EPHEMERIS_TYPE": 2}, "ephemeris type 2 (SGP4 of Brouwer's mean motion)"),
        ({"MEAN_ELEMENT_THEORY": "SGP4-XP"}, "the theory SGP4-XP, not SGP4"),
        ({"MEAN_ELEMENT_THEORY": "DSST"}, "the theory DSST, not SGP4"),
        ({"BSTAR": None, "BTERM": 0.02, "AGOM": 0.001}, "ephemeris type 4 (SGP4-XP)"),
    ],
)
def test_messages_of_other_theories_are_left_out_by_name_in_every_form(
    form: str, changes: dict[str, object], told: str
) -> None:
    other = omm(NORAD_CAT_ID=124, OBJECT_NAME="OTHER", **changes)
    names, notes = read(written([other, omm()], form))
    assert names == ["GOOD"]
    assert len(notes) == 1
    assert "left out OTHER: " in notes[0] and told in notes[0]


@pytest.mark.parametrize("text", [tle(kind="4"), *(written([omm(EPHEMERIS_TYPE=4)], form) for form in FORMS)])
def test_a_file_of_nothing_else_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"left out GOOD: .*SGP4-XP.*no satellite remains: fetch SGP4 elements"
    ):
        read(text)


@pytest.mark.parametrize("form", FORMS)
def test_a_decayed_object_without_a_date_is_left_out(form: str) -> None:
    gone = omm(NORAD_CAT_ID=124, OBJECT_NAME="GONE", DECAYED=1)
    out = omm(NORAD_CAT_ID=125, OBJECT_NAME="OUT", OPS_STATUS_CODE="D")
    names, notes = read(written([gone, omm(DECAYED=0), out], form))
    assert names == ["GOOD"]
    assert notes == ["file: left out GONE, OUT: it has decayed"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", ["DECAY_DATE", "USER_DEFINED_DECAY_DATE", "DECAY_EPOCH"])
def test_a_date_of_decay_is_kept_with_the_satellite(form: str, field: str) -> None:
    (satellite,) = parse_omm(written([omm(**{field: "2026-01-03"})], form))
    assert satellite.decay == dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
    for nothing in (None, ""):
        (satellite,) = parse_omm(written([omm(**{field: nothing})], form))
        assert satellite.decay is None


def test_a_date_of_decay_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"DECAY_DATE must be a date such as 2026-08-22, got '2026-02-30'"):
        parse_omm(written([omm(DECAY_DATE="2026-02-30")], "json"))
