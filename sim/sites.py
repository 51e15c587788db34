"""Where clusters are: real places far from cables, and sites read from a CSV file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path

from sim.faults import raise_faults
from sim.names import clean_name
from sim.population import Cluster
from sim.remote_places import REMOTE_PLACES
from sim.text_files import csv_rows, read_text

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

MAX_DEFAULT_CLUSTERS = 500

_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("name", "site", "station", "cluster"),
    "latitude_deg": ("latitude_deg", "lat_deg", "latitude", "lat"),
    "longitude_deg": ("longitude_deg", "lon_deg", "longitude", "lon"),
    "altitude_m": ("altitude_m", "alt_m", "altitude", "alt"),
    "elevation_mask_deg": ("elevation_mask_deg", "mask_deg", "mask"),
    "radius_km": ("radius_km", "radius"),
}
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")*)",')
_REQUIRED = ("name", "latitude_deg", "longitude_deg")


def default_clusters(count: int, *, elevation_mask_deg: float = 20.0) -> tuple[Cluster, ...]:
    """Return the first ``count`` built-in places, all with one elevation mask.

    Parameters
    ----------
    count : int
        1 to 500. The first eight are `DEFAULT_SITES`, the others those of `sim.remote_places`: whatever the
        number, they are spread over the globe.
    elevation_mask_deg : float
        In [0, 90).

    Raises
    ------
    ValueError
        For another count (with the way to bring own sites) or an impossible mask.
    """
    if not 1 <= count <= MAX_DEFAULT_CLUSTERS:
        raise ValueError(
            f"the number of built-in places must be in [1, {MAX_DEFAULT_CLUSTERS}], got {count}; "
            "for more give a CSV of sites with the columns name, latitude_deg, longitude_deg"
        )
    places = DEFAULT_SITES if count <= len(DEFAULT_SITES) else (*DEFAULT_SITES, *_remote_places())
    return tuple(replace(site, elevation_mask_deg=elevation_mask_deg) for site in places[:count])


def _remote_places() -> Iterator[Cluster]:
    """Yield the places of the list."""
    for record in REMOTE_PLACES.replace("\n", ";").strip(";").split(";"):
        name, latitude, longitude, altitude = record.split()
        yield Cluster(
            name=name,
            latitude_deg=float(latitude),
            longitude_deg=float(longitude),
            altitude_m=float(altitude),
        )


def parse_site(text: str, *, elevation_mask_deg: float, called: str = "a site") -> Cluster:
    """Return the site of ``NAME,LATITUDE,LONGITUDE[,METRES]``.

    The numbers are taken from the end, so a name may hold commas; one whose last part is a number needs
    double quotes around it, as in a CSV file.

    Parameters
    ----------
    text : str
        Such as ``Washington, D.C.,38.9,-77.04,125``.
    elevation_mask_deg : float
        In [0, 90).
    called : str
        What messages call it.

    Raises
    ------
    ValueError
        If latitude and longitude are missing, or the site is impossible.
    """
    quoted = _QUOTED_NAME.match(text)
    rest = text[quoted.end() :] if quoted else text
    numbers = [float(part) for part in takewhile(_is_number, reversed(rest.split(",")))][::-1]
    name = quoted[1].replace('""', '"') if quoted else ",".join(rest.split(",")[: -len(numbers) or None])
    if not name.strip() or not 2 <= len(numbers) <= 3 or (quoted and len(numbers) < len(rest.split(","))):
        raise ValueError(f"{called} must be NAME,LATITUDE,LONGITUDE[,METRES], got {text!r}")
    return Cluster(
        name=clean_name(name),
        latitude_deg=numbers[0],
        longitude_deg=numbers[1],
        altitude_m=numbers[2] if len(numbers) > 2 else 0.0,
        elevation_mask_deg=elevation_mask_deg,
    )


def _is_number(text: str) -> bool:
    """Tell whether a text is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_sites(path: Path | str, *, elevation_mask_deg: float = 10.0) -> tuple[Cluster, ...]:
    """Read sites from a CSV file with a header line.

    Columns, in any order: ``name``, ``latitude_deg``, ``longitude_deg``, and optionally
    ``altitude_m`` (0), ``elevation_mask_deg`` and ``radius_km`` (0). Common short names
    (``site``, ``lat``, ``lon``, ``alt``, ``mask``, also with ``_deg`` or ``_m``) are understood. A column
    whose name begins with ``#`` is a remark; any other is refused, since its numbers would be missed.

    Parameters
    ----------
    path : Path or str
        UTF-8 or UTF-16, its cells between commas, semicolons or tabs, as spreadsheets save them.
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
    FileNotFoundError
        If there is no such file.
    """
    text = read_text(path, "sites file")
    rows = csv_rows(text, str(path), delimiter=_delimiter(text))
    _, columns_line = next(rows, (1, []))
    header = [column.strip() for column in columns_line]
    columns = _match_columns(header, path)
    sites: list[Cluster] = []
    faults: list[str] = []
    first_line: dict[str, int] = {}
    for number, cells in rows:
        where = f"{path}, line {number}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(header):
            faults.append(
                f"{where}: {len(cells)} cells under {len(header)} columns; a name that holds what is between "
                "the cells needs double quotes"
            )
            continue
        try:
            site = _site(cells, header, columns, elevation_mask_deg)
        except ValueError as error:
            faults.extend(f"{where}: {line}" for line in str(error).split("\n"))
            continue
        if site.name in first_line:
            faults.append(
                f"{where}: site {site.name!r} is already on line {first_line[site.name]}; names must differ"
            )
        first_line.setdefault(site.name, number)
        sites.append(site)
    if not sites and not faults:
        faults.append(f"{path}: no sites below the header line")
    raise_faults(faults)
    return tuple(sites)


def _delimiter(text: str) -> str:
    """Return what is between the cells of the header line."""
    header = text.partition("\n")[0]
    return max(",;\t", key=header.count)


def _match_columns(header: Sequence[str], path: Path | str) -> dict[str, int]:
    """Return field -> place of its column in this file; refuse headers that leave a doubt."""
    places: dict[str, list[int]] = {}
    faults = []
    known = {alias: field for field, aliases in _COLUMNS.items() for alias in aliases}
    for place, column in enumerate(header):
        if field := known.get(column.lower()):
            places.setdefault(field, []).append(place)
        elif not column.startswith("#") and column:
            near = get_close_matches(column.lower(), known, n=1, cutoff=0.6)
            hint = f" (did you mean {near[0]}, which is {known[near[0]]}?)" if near else ""
            faults.append(
                f"column {column!r} is not known{hint}; known are {', '.join(_COLUMNS)}: rename it, "
                "delete it, or begin its name with '#' if it is a remark"
            )
    for field, own in places.items():
        if len(own) > 1:
            names = ", ".join(header[place] for place in own)
            faults.append(f"more than one column for {field}: {names}; keep one")
    missing = [field for field in _REQUIRED if field not in places]
    if missing:
        faults.insert(
            0,
            f"a sites file needs the columns {', '.join(_REQUIRED)}; "
            f"missing {', '.join(missing)}, found {', '.join(header) or 'nothing'}",
        )
    raise_faults([f"{path}, line 1: {fault}" for fault in faults])
    return {field: own[0] for field, own in places.items()}


def _site(
    cells: Sequence[str], header: Sequence[str], columns: Mapping[str, int], mask_deg: float
) -> Cluster:
    """Turn one line into a cluster."""
    faults: list[str] = []
    row = [cell.strip() for cell in cells] + [""] * (len(header) - len(cells))

    def number(field: str, default: float | None) -> float:
        text = row[columns[field]] if field in columns else ""
        if not text and default is not None:
            return default
        try:
            return float(text)
        except ValueError:
            faults.append(f"{header[columns[field]]} must be a number, got {text!r}")
            return 0.0

    for column, text in zip(header, row, strict=True):
        if text and not column:
            faults.append(f"{text!r} stands in a column without a name")
    latitude_deg, longitude_deg = number("latitude_deg", None), number("longitude_deg", None)
    altitude_m, own_mask_deg = number("altitude_m", 0.0), number("elevation_mask_deg", mask_deg)
    radius_km = number("radius_km", 0.0)
    raise_faults(faults)
    return Cluster(
        name=clean_name(row[columns["name"]]),
        latitude_deg=latitude_deg,
        longitude_deg=longitude_deg,
        altitude_m=altitude_m,
        elevation_mask_deg=own_mask_deg,
        radius_km=radius_km,
    )
