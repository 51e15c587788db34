import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from sgp4 import exporter

from sim.orbits.elements import read_elements, read_tle
from sim.orbits.omm import parse_omm
from sim.orbits.orbit import propagate

A_MILLIMETRE = 1e-6  # km


def messages(shared_data: Path) -> list[dict[str, object]]:
    satellites = read_tle(shared_data / "orbits/truth_20sats.tle")
    # The sgp4 package writes OMM fields from elements: an independent encoder.
    return [dict(exporter.export_omm(s.record, s.name)) for s in satellites]


def as_csv(entries: list[dict[str, object]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(entries[0]))
    writer.writeheader()
    writer.writerows(entries)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_an_omm_file_gives_the_orbits_of_the_tle_it_was_made_from(
    shared_data: Path, tmp_path: Path, kind: str
) -> None:
    entries = messages(shared_data)
    path = tmp_path / f"elements.{kind}"
    path.write_text(json.dumps(entries) if kind == "json" else as_csv(entries))
    ours, theirs = read_elements(path), read_tle(shared_data / "orbits/truth_20sats.tle")
    assert [s.name for s in ours] == [s.name for s in theirs]
    start = theirs[0].epoch
    time_s = np.array([0.0, 43_200.0])
    for mine, other in zip(ours, theirs, strict=True):
        # An epoch is written to a microsecond, in which a satellite moves 8 mm.
        assert abs((mine.epoch - other.epoch).total_seconds()) <= 2e-6
        for field in ("ndot", "nddot", "bstar"):  # SGP4 uses only the last; the others are for readers
            assert getattr(mine.record, field) == pytest.approx(getattr(other.record, field), rel=1e-6)
    a, b = (propagate(s, start, time_s).position_km for s in (ours, theirs))
    assert np.abs(a - b).max() < 20.0 * A_MILLIMETRE


def test_catalogue_numbers_above_99999_and_above_alpha_5_are_read(shared_data: Path) -> None:
    first, second, third = messages(shared_data)[:3]
    first["NORAD_CAT_ID"], second["NORAD_CAT_ID"] = 100_001, 799_999_999
    second["OBJECT_NAME"] = third["OBJECT_NAME"] = ""
    satellites = parse_omm(json.dumps([first, second, third]))
    assert satellites[0].record.satnum == 100_001
    assert [s.name for s in satellites[1:]] == ["799999999", str(third["NORAD_CAT_ID"])]


def test_every_fault_is_named_with_its_place_and_field(shared_data: Path) -> None:
    entries = messages(shared_data)[:5]
    entries[0]["ECCENTRICITY"] = 1.2
    entries[1]["EPOCH"] = "yesterday"
    entries[2]["MEAN_MOTION"] = "nan"
    entries[3]["REF_FRAME"] = "GCRF"
    entries[4]["NORAD_CAT_ID"] = "x"
    with pytest.raises(ValueError, match=r"omm.json, entry 1: ECCENTRICITY must be in .*, got 1.2") as caught:
        parse_omm(json.dumps(entries), source="omm.json")
    for text in (
        "entry 2: EPOCH",
        "entry 3: MEAN_MOTION",
        "entry 4: REF_FRAME must be TEME",
        "entry 5: NORAD",
    ):
        assert text in str(caught.value)
    with pytest.raises(ValueError, match=r"omm.csv, line 2: ECCENTRICITY"):
        parse_omm(as_csv(entries), source="omm.csv")


def test_a_satellite_that_comes_twice_and_broken_json_are_refused(shared_data: Path) -> None:
    entry = messages(shared_data)[0]
    with pytest.raises(ValueError, match="entry 2: satellite 46122 is already in entry 1"):
        parse_omm(json.dumps([entry, entry]))
    with pytest.raises(ValueError, match="line 1: not valid JSON"):
        parse_omm("[{]")
    with pytest.raises(ValueError, match="entry 1: expected an object"):
        parse_omm("[3]")
    with pytest.raises(ValueError, match="no element sets found"):
        parse_omm("[]")
