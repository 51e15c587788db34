"""Sites files: every column is understood or refused, and any printable name is a name."""

from pathlib import Path

import pytest

from sim.population import Cluster
from sim.sites import read_sites

NAMES = [
    "Xi'an",
    "São Tomé",
    'The "Rock"',
    "Washington, D.C.",
    "Base [7]",
    "Åland; north",
    "日本",
    "#5",
    "a\u200cb",
    "$x$",
]


def sites(tmp_path: Path, text: str) -> tuple[Cluster, ...]:
    path = tmp_path / "sites.csv"
    path.write_text(text, encoding="utf-8")
    return read_sites(path)


@pytest.mark.parametrize(
    ("column", "near"),
    [
        ("alt_km", "alt_m, which is altitude_m"),
        ("lattitude", None),
        ("radius_m", "radius"),
        ("elevation", None),
    ],
)
def test_a_column_that_is_not_known_is_refused_with_the_nearest_that_is(
    tmp_path: Path, column: str, near: str | None
) -> None:
    with pytest.raises(ValueError, match=f"sites.csv, line 1: column '{column}' is not known") as caught:
        sites(tmp_path, f"name,lat,lon,{column}\nA,1,2,3\n")
    assert "known are name, latitude_deg, longitude_deg, altitude_m, elevation_mask_deg, radius_km" in str(
        caught.value
    )
    assert "or begin its name with '#' if it is a remark" in str(caught.value)
    if near:
        assert f"did you mean {near}" in str(caught.value)


def test_all_unknown_columns_are_named_at_once_beside_the_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing longitude_deg, found name, lat, lng, foo") as caught:
        sites(tmp_path, "name,lat,lng,foo\nA,1,2,3\n")
    assert "column 'lng' is not known (did you mean lon" in str(caught.value)
    assert "column 'foo' is not known;" in str(caught.value)


def test_remarks_and_columns_without_name_and_content_are_left_alone(tmp_path: Path) -> None:
    (site,) = sites(tmp_path, "name,lat,lon,#alt_km,,\nA,1,2,3,,\n,,,,,\n")
    assert site == Cluster(name="A", latitude_deg=1.0, longitude_deg=2.0)
    with pytest.raises(ValueError, match="line 2: '9' stands in a column without a name"):
        sites(tmp_path, "name,lat,lon,\nA,1,2,9\n")


def test_two_columns_for_one_field_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than one column for latitude_deg: lat, latitude; keep one"):
        sites(tmp_path, "name,lat,latitude,lon\nA,1,2,3\n")


def test_a_comma_that_is_not_quoted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: 4 cells under 3 columns; .* needs double quotes"):
        sites(tmp_path, "lat,lon,name\n1,2,Washington, D.C.\n")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_cells_may_stand_between_commas_semicolons_or_tabs(tmp_path: Path, delimiter: str) -> None:
    text = "name,lat,lon\nA,1.5,2\n".replace(",", delimiter)
    assert [(s.name, s.latitude_deg, s.longitude_deg) for s in sites(tmp_path, text)] == [("A", 1.5, 2.0)]


def test_decimal_commas_are_refused_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: lat must be a number, got '1,5'"):
        sites(tmp_path, "name;lat;lon\nA;1,5;2\n")


@pytest.mark.parametrize("name", NAMES)
def test_any_printable_name_is_a_name(tmp_path: Path, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    (site,) = sites(tmp_path, f"name,lat,lon\n{quoted},1,2\n")
    assert site.name == name


def test_names_that_look_the_same_are_the_same(tmp_path: Path) -> None:
    # "ã" in one character and in two, and the blanks of other keyboards.
    with pytest.raises(ValueError, match="line 3: site 'São Tomé' is already on line 2"):
        sites(tmp_path, "name,lat,lon\nSão Tomé,1,2\n Sa\u0303o\u00a0 Tome\u0301 ,3,4\n")


@pytest.mark.parametrize("name", ["", " ", "a\tb", "a\nb", "\x07", " a", "a\u2028b", "\ud800"])
def test_what_cannot_be_printed_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"a cluster name must (not|hold printable)"):
        Cluster(name=name, latitude_deg=0.0, longitude_deg=0.0)
