"""Where clusters are: real places far from cables, and sites read from a CSV file."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sim.faults import raise_faults
from sim.population import Cluster

# Settlements and bases with no or scarce terrestrial links, spread in latitude and longitude.
# WGS84 coordinates to about a kilometre and heights to about 50 m, from public gazetteers.
DEFAULT_SITES: tuple[Cluster, ...] = tuple(
    Cluster(name=name, latitude_deg=latitude, longitude_deg=longitude, altitude_m=altitude)
    for name, latitude, longitude, altitude in (
        ("Iqaluit", 63.747, -68.517, 30.0),  # Baffin Island, Nunavut
        ("Khatgal", 50.443, 100.160, 1650.0),  # Lake Khuvsgul, Mongolia
        ("Leh", 34.164, 77.585, 3500.0),  # Ladakh, Himalaya
        ("Tindouf", 27.674, -8.148, 440.0),  # western Sahara desert, Algeria
        ("Lodwar", 3.119, 35.597, 510.0),  # Turkana, Kenya
        ("Sao-Gabriel", -0.130, -67.089, 90.0),  # upper Rio Negro, Amazonas
        ("Tristan", -37.068, -12.311, 20.0),  # Tristan da Cunha, South Atlantic
        ("Orcadas", -60.738, -44.738, 8.0),  # South Orkney Islands, Antarctica
    )
)

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "site", "station", "cluster"),
    "latitude_deg": ("latitude_deg", "lat_deg", "latitude", "lat"),
    "longitude_deg": ("longitude_deg", "lon_deg", "longitude", "lon"),
    "altitude_m": ("altitude_m", "alt_m", "altitude", "alt"),
    "elevation_mask_deg": ("elevation_mask_deg", "mask_deg", "mask"),
    "radius_km": ("radius_km", "radius"),
}
_REQUIRED = ("name", "latitude_deg", "longitude_deg")


def default_clusters(count: int, *, elevation_mask_deg: float = 20.0) -> tuple[Cluster, ...]:
    """Return the first ``count`` default sites, all with one elevation mask.

    Parameters
    ----------
    count : int
        1 to 8.
    elevation_mask_deg : float
        In [0, 90).

    Raises
    ------
    ValueError
        For another count (with the way to bring own sites) or an impossible mask.
    """
    if not 1 <= count <= len(DEFAULT_SITES):
        raise ValueError(
            f"the number of default clusters must be in [1, {len(DEFAULT_SITES)}], got {count}; "
            "for more give a CSV of sites with the columns name, latitude_deg, longitude_deg"
        )
    return tuple(replace(site, elevation_mask_deg=elevation_mask_deg) for site in DEFAULT_SITES[:count])


def read_sites(path: Path | str, *, elevation_mask_deg: float = 10.0) -> tuple[Cluster, ...]:
    """Read sites from a CSV file with a header line.

    Columns, in any order: ``name``, ``latitude_deg``, ``longitude_deg``, and optionally
    ``altitude_m`` (0), ``elevation_mask_deg`` and ``radius_km`` (0). Common short names
    (``site``, ``lat``, ``lon``, ``alt``, ``mask``, also with ``_deg`` or ``_m``) are understood; other
    columns are ignored.

    Parameters
    ----------
    path : Path or str
        UTF-8 file.
    elevation_mask_deg : float
        Mask of the sites whose line gives none, in [0, 90).

    Returns
    -------
    tuple[Cluster, ...]
        In the order of the file, at least one.

    Raises
    ------
    ValueError
        With the line number and the field of every fault.
    """
    with Path(path).open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = _match_columns(reader.fieldnames or (), path)
        sites: list[Cluster] = []
        faults: list[str] = []
        first_line: dict[str, int] = {}
        for row in reader:
            try:
                site = _site(row, columns, elevation_mask_deg)
            except ValueError as error:
                faults.extend(f"{path}, line {reader.line_num}: {line}" for line in str(error).split("\n"))
                continue
            if site.name in first_line:
                faults.append(
                    f"{path}, line {reader.line_num}: site {site.name!r} is already on line "
                    f"{first_line[site.name]}; names must differ"
                )
            first_line.setdefault(site.name, reader.line_num)
            sites.append(site)
    if not sites and not faults:
        faults.append(f"{path}: no sites below the header line")
    raise_faults(faults)
    return tuple(sites)


def _match_columns(header: Sequence[str], path: Path | str) -> dict[str, str]:
    """Return field name -> column name in this file."""
    present = {column.strip().lower(): column for column in header}
    columns = {
        field: present[alias]
        for field, aliases in _COLUMNS.items()
        for alias in reversed(aliases)
        if alias in present
    }
    missing = [field for field in _REQUIRED if field not in columns]
    if missing:
        raise ValueError(
            f"{path}, line 1: a sites file needs the columns {', '.join(_REQUIRED)}; "
            f"missing {', '.join(missing)}, found {', '.join(header) or 'nothing'}"
        )
    return columns


def _site(row: Mapping[str, str | None], columns: Mapping[str, str], mask_deg: float) -> Cluster:
    """Turn one line into a cluster; blanks in a name become dashes."""
    faults: list[str] = []

    def number(field: str, default: float | None) -> float:
        text = (row.get(columns[field]) or "").strip() if field in columns else ""
        if not text and default is not None:
            return default
        try:
            return float(text)
        except ValueError:
            faults.append(f"{columns[field]} must be a number, got {text!r}")
            return 0.0

    latitude_deg, longitude_deg = number("latitude_deg", None), number("longitude_deg", None)
    altitude_m, own_mask_deg = number("altitude_m", 0.0), number("elevation_mask_deg", mask_deg)
    radius_km = number("radius_km", 0.0)
    raise_faults(faults)
    return Cluster(
        name="-".join((row.get(columns["name"]) or "").split()),
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        altitude_m=altitude_m,
        elevation_mask_deg=own_mask_deg,
        radius_km=radius_km,
    )
