"""What a link carries: bytes a second up and down from the distance to the satellite.

The rates are those of a whole beam with one user; who shares it is the business of `sim.grid.grid`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from sim.faults import raise_faults

FloatArray = NDArray[np.float64]

LIGHT_KM_PER_S = 299792.458
_BOLTZMANN_DB = (
    228.6  # -10 log10 of Boltzmann's constant in W/K/Hz, as 3GPP TR 38.821 section 6.1.3 rounds it
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedRate:
    """One direction of a link with the same rate at any distance.

    Parameters
    ----------
    rate_bps : float
        Bits a second, finite and > 0.
    """

    rate_bps: float

    def __post_init__(self) -> None:
        if not 0.0 < self.rate_bps < math.inf:
            raise ValueError(
                f"rate_bps must be a finite number > 0, got {self.rate_bps}; it is in bits a second"
            )

    def bytes_per_s(self, range_km: FloatArray) -> FloatArray:
        """Return the rate at each distance, in bytes a second."""
        return np.full_like(range_km, self.rate_bps / 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkBudget:
    """One direction of a link whose rate follows from the carrier-to-noise ratio.

    ::

        loss = 92.45 + 20 log10(frequency_ghz) + 20 log10(range_km)          free space, dB
        cnr = eirp_dbw + gain_over_temperature_db - loss - extra_loss_db + 228.6 - 10 log10(bandwidth_hz)
        rate = bandwidth_hz * min(efficiency * log2(1 + cnr), max_bits_per_hz)    0 below min_cnr_db

    Parameters
    ----------
    frequency_ghz, bandwidth_hz : float
        > 0.
    eirp_dbw : float
        Radiated power towards the other end, over the whole bandwidth.
    gain_over_temperature_db : float
        G/T of the receiver in dB/K.
    extra_loss_db : float
        Atmosphere, shadowing, scintillation.
    efficiency, max_bits_per_hz : float
        Truncated Shannon: 0.6 and 4.4 down, 0.4 and 2.0 up (3GPP TR 36.942 annex A, from memory).
    min_cnr_db : float
        Below it nothing is received.

    Source
    ------
    3GPP TR 38.821 section 6.1.3.1 for the ratio; free-space loss: ITU-R P.525.
    """

    frequency_ghz: float
    bandwidth_hz: float
    eirp_dbw: float
    gain_over_temperature_db: float
    extra_loss_db: float
    efficiency: float
    max_bits_per_hz: float
    min_cnr_db: float = -10.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} must be a finite number > 0, got {getattr(self, name)}"
            for name in ("frequency_ghz", "bandwidth_hz", "efficiency", "max_bits_per_hz")
            if not 0.0 < getattr(self, name) < math.inf
        ]
        faults += [
            f"{name} must be a finite number of decibels, got {getattr(self, name)}"
            for name in ("eirp_dbw", "gain_over_temperature_db", "extra_loss_db", "min_cnr_db")
            if not math.isfinite(getattr(self, name))
        ]
        raise_faults(faults)

    def cnr_db(self, range_km: FloatArray) -> FloatArray:
        """Return the carrier-to-noise ratio at each distance, in dB."""
        loss_db = 92.45 + 20.0 * math.log10(self.frequency_ghz) + 20.0 * np.log10(range_km)
        fixed_db = self.eirp_dbw + self.gain_over_temperature_db - self.extra_loss_db + _BOLTZMANN_DB
        cnr_db: FloatArray = fixed_db - 10.0 * math.log10(self.bandwidth_hz) - loss_db
        return cnr_db

    def bytes_per_s(self, range_km: FloatArray) -> FloatArray:
        """Return the rate at each distance, in bytes a second."""
        cnr_db = self.cnr_db(range_km)
        bits_per_hz = np.minimum(
            self.efficiency * np.log2(1.0 + 10.0 ** (cnr_db / 10.0)), self.max_bits_per_hz
        )
        return np.where(cnr_db < self.min_cnr_db, 0.0, self.bandwidth_hz * bits_per_hz / 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Both directions between a satellite and the ground.

    Parameters
    ----------
    name : str
        For messages and reports.
    down, up : FixedRate or LinkBudget
        Towards the ground, and from it.
    extra_delay_s : float
        One-way delay besides the light time (processing, queues, the way to the server), >= 0.
    source : str
        Where the numbers come from.
    """

    name: str
    down: FixedRate | LinkBudget
    up: FixedRate | LinkBudget
    extra_delay_s: float = 0.0
    source: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.extra_delay_s < math.inf:
            raise ValueError(
                f"extra_delay_s must be finite and >= 0, got {self.extra_delay_s} for {self.name!r}"
            )

    @property
    def is_fixed(self) -> bool:
        """Whether the rates are the same at any distance."""
        return isinstance(self.down, FixedRate) and isinstance(self.up, FixedRate)

    def delay_s(self, range_km: float) -> float:
        """Return the one-way delay over a distance."""
        return range_km / LIGHT_KM_PER_S + self.extra_delay_s


def fixed_link(down_bps: float, up_bps: float, *, name: str = "fixed") -> Link:
    """Return a link with fixed rates in bits a second."""
    faults = [
        f"{field} must be a finite number > 0, got {value}; it is in bits a second"
        for field, value in (("down_bps", down_bps), ("up_bps", up_bps))
        if not 0.0 < value < math.inf
    ]
    raise_faults(faults)
    return Link(name=name, down=FixedRate(rate_bps=down_bps), up=FixedRate(rate_bps=up_bps))


def slant_range_km(elevation_deg: float, altitude_km: float) -> float:
    """Return the distance to a satellite over a spherical Earth of 6,371 km.

    Source: 3GPP TR 38.821 section 6.1.3.1 (law of cosines); 600 km at 10 degrees: 1,932 km.
    """
    up_km = 6371.0 * math.sin(math.radians(elevation_deg))
    return math.sqrt(up_km**2 + 2.0 * 6371.0 * altitude_km + altitude_km**2) - up_km


def link_preset(name: str) -> Link:
    """Return a preset by name, or raise ``ValueError`` listing the names there are."""
    if name not in PRESETS:
        raise ValueError(f"no link preset {name!r}; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


def _s_band(bandwidth_hz: float, max_bits_per_hz: float) -> LinkBudget:
    """Return a downlink of TR 38.821 set 1, S band, LEO-600, to a handheld, over part of the beam."""
    return LinkBudget(
        frequency_ghz=2.0,
        bandwidth_hz=bandwidth_hz,
        eirp_dbw=34.0 + 10.0 * math.log10(bandwidth_hz / 1e6),  # 34 dBW/MHz
        gain_over_temperature_db=-31.62,  # 0 dBi, noise figure 7 dB
        extra_loss_db=5.3,  # 0.1 atmosphere + 3 shadow + 2.2 scintillation
        efficiency=0.6,
        max_bits_per_hz=max_bits_per_hz,
    )


def _s_band_up(bandwidth_hz: float) -> LinkBudget:
    """Return the uplink of a 23 dBm handheld to the same satellite."""
    return LinkBudget(
        frequency_ghz=2.0,
        bandwidth_hz=bandwidth_hz,
        eirp_dbw=-7.0,  # 23 dBm, 0 dBi
        gain_over_temperature_db=1.1,
        extra_loss_db=5.3,
        efficiency=0.4,
        max_bits_per_hz=2.0,
    )


_KA_DOWN = LinkBudget(
    frequency_ghz=20.0,
    bandwidth_hz=400e6,
    eirp_dbw=4.0 + 10.0 * math.log10(400.0),  # 4 dBW/MHz
    gain_over_temperature_db=15.9,  # VSAT, 39.7 dBi, 150 K
    extra_loss_db=0.8,
    efficiency=0.6,
    max_bits_per_hz=4.4,
)
_KA_UP = LinkBudget(
    frequency_ghz=30.0,
    bandwidth_hz=400e6,
    eirp_dbw=46.2,  # 2 W VSAT
    gain_over_temperature_db=13.0,
    extra_loss_db=0.8,
    efficiency=0.4,
    max_bits_per_hz=2.0,
)

PRESETS: Mapping[str, Link] = MappingProxyType(
    {
        "starlink-like": Link(
            name="starlink-like",
            down=FixedRate(rate_bps=104.71e6),
            up=FixedRate(rate_bps=14.84e6),
            extra_delay_s=0.015,  # half of the 38 ms latency, less 4 ms of light time
            source="Ookla, first quarter of 2025, medians of the United States",
        ),
        "ka": Link(
            name="ka", down=_KA_DOWN, up=_KA_UP, source="3GPP TR 38.821 set 1, Ka band, LEO-600, VSAT"
        ),
        "s-band": Link(
            name="s-band",
            down=_s_band(30e6, 4.4),
            up=_s_band_up(360e3),
            source="3GPP TR 38.821 set 1, S band, LEO-600, handheld",
        ),
        "nb-iot": Link(
            name="nb-iot",
            # 0.7 bit/s/Hz: the 127 kbit/s peak of Cat-NB2 in its 180 kHz carrier (TS 36.306, from memory).
            down=_s_band(180e3, 0.7),
            up=_s_band_up(15e3),
            source="3GPP TR 38.821 set 1, S band; one 15 kHz tone up, one NB-IoT carrier down",
        ),
        "kineis-like": Link(
            name="kineis-like",
            down=FixedRate(rate_bps=400.0),
            up=FixedRate(rate_bps=4800.0),
            source="Argos/Kineis HD uplink (ARTIC R2 guide); Argos-3 downlink of 400 bit/s from memory",
        ),
    }
)
