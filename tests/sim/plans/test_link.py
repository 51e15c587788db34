import csv
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.plans.link import PRESETS, FixedRate, Link, LinkBudget, fixed_link, link_preset, slant_range_km

ONE_HUNDREDTH_DB = 0.01


def ka_down() -> LinkBudget:
    down = link_preset("ka").down
    assert isinstance(down, LinkBudget)
    return down


def test_the_ka_downlink_at_thirty_degrees_is_worked_by_hand() -> None:
    # EIRP 4 dBW/MHz * 400 MHz = 30.02 dBW; FSPL(20 GHz, 1075.1 km) = 92.45 + 26.02 + 60.63 = 179.10 dB
    # CNR = 30.02 + 15.9 - 179.10 - 0.8 + 228.6 - 10 log10(400e6) = 8.60 dB; TR 38.821 prints 8.5.
    assert ka_down().cnr_db(np.array([1075.1]))[0] == pytest.approx(8.60, abs=ONE_HUNDREDTH_DB)


@pytest.mark.parametrize(
    ("row_name", "preset", "way"),
    [
        ("S-DL LEO600 handheld", "s-band", "down"),
        ("S-UL LEO600 handheld 23dBm", "s-band", "up"),
        ("IoT S-UL 23dBm 15 kHz", "nb-iot", "up"),
        ("Ka-DL LEO600 VSAT", "ka", "down"),
        ("Ka-UL LEO600 VSAT 2W", "ka", "up"),
    ],
)
def test_presets_reproduce_the_reference_table(
    shared_data: Path, row_name: str, preset: str, way: str
) -> None:
    with (shared_data / "orbits/link_budget_leo600.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["link"] == row_name]
    assert len(rows) == 6
    budget = getattr(link_preset(preset), way)
    for row in rows:
        range_km = np.array([slant_range_km(float(row["elevation_deg"]), 600.0)])
        assert range_km[0] == pytest.approx(float(row["slant_km"]), abs=0.06)
        assert budget.cnr_db(range_km)[0] == pytest.approx(float(row["cnr_db"]), abs=ONE_HUNDREDTH_DB)
        rate_mbps = 8e-6 * budget.bytes_per_s(range_km)[0]
        assert rate_mbps == pytest.approx(float(row["rate_3gpp_truncated_mbps"]), rel=1e-3, abs=1e-4)
        delay_ms = 1e3 * link_preset(preset).delay_s(float(range_km[0]))
        assert delay_ms == pytest.approx(float(row["one_way_ms"]), abs=1e-3)


@given(st.floats(100.0, 60_000.0), st.floats(1.0, 1000.0), st.sampled_from(sorted(PRESETS)))
def test_no_link_is_faster_further_away(range_km: float, further_km: float, name: str) -> None:
    for direction in (PRESETS[name].down, PRESETS[name].up):
        near, far = direction.bytes_per_s(np.array([range_km, range_km + further_km]))
        assert 0.0 <= far <= near < math.inf


def test_below_minus_ten_decibels_nothing_is_received() -> None:
    budget = ka_down()
    # 8.60 dB at 1075.1 km, and 20 log10 of the distance: -10 dB at 18.6 dB more, 8.5 times as far.
    limit_km = 1075.1 * 10.0 ** ((8.60 + 10.0) / 20.0)
    near, far = budget.bytes_per_s(np.array([limit_km * 0.99, limit_km * 1.01]))
    assert near > 0.0
    assert far == 0.0


def test_fixed_rates_are_bits_in_and_bytes_out() -> None:
    link = fixed_link(8000.0, 800.0)
    assert link.is_fixed
    assert link.down.bytes_per_s(np.array([500.0, 5000.0])).tolist() == [1000.0, 1000.0]
    assert link.up.bytes_per_s(np.array([500.0])).tolist() == [100.0]


def test_the_starlink_preset_has_the_measured_latency_at_550_km() -> None:
    # Half of the 38 ms round trip of the Ookla medians, at about 1,100 km of slant range.
    assert link_preset("starlink-like").delay_s(1100.0) == pytest.approx(0.019, abs=0.001)


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_a_rate_of_zero_or_worse_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate_bps must be a finite number > 0"):
        FixedRate(rate_bps=rate)
    with pytest.raises(ValueError, match=r"down_bps must be a finite number > 0.*\nup_bps must be"):
        fixed_link(rate, rate)


def test_an_impossible_budget_names_every_field() -> None:
    with pytest.raises(ValueError, match=r"frequency_ghz must be a finite number > 0, got 0\.0") as caught:
        LinkBudget(
            frequency_ghz=0.0,
            bandwidth_hz=math.nan,
            eirp_dbw=math.inf,
            gain_over_temperature_db=0.0,
            extra_loss_db=0.0,
            efficiency=0.6,
            max_bits_per_hz=4.4,
        )
    assert "bandwidth_hz" in str(caught.value)
    assert "eirp_dbw must be a finite number of decibels" in str(caught.value)


def test_an_unknown_preset_and_a_negative_delay_are_refused() -> None:
    with pytest.raises(ValueError, match="no link preset 'smoke'; there are: starlink-like, ka, s-band"):
        link_preset("smoke")
    with pytest.raises(ValueError, match=r"extra_delay_s must be finite and >= 0, got -1\.0"):
        Link(name="x", down=FixedRate(rate_bps=1.0), up=FixedRate(rate_bps=1.0), extra_delay_s=-1.0)
