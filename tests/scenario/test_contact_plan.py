"""Every setting of the sky reaches the contact plan."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from scenario.contact_plan import plan_from
from scenario.derive import population_from
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from sim.plan_files.files import write_plan
from sim.plans.plan import ContactPlan


def plan(settings: Mapping[str, Scalar]) -> ContactPlan:
    config = read_config({"population.clusters": 2, "population.devices": 4, **settings})
    return plan_from(config, population_from(config), lambda _: None)


def total_s(contacts: ContactPlan) -> float:
    return sum(c.set_s - c.rise_s for served in contacts.contacts.values() for c in served)


def test_one_serving_satellite_gives_less_contact_than_any() -> None:
    whole = plan({})
    satellite = next(iter(whole.contacts.values()))[0].satellites[0]
    one = plan({"sky.serving": satellite})
    assert 0 < total_s(one) < total_s(whole)
    assert {name for served in one.contacts.values() for c in served for name in c.satellites} == {satellite}
    with pytest.raises(ValueError, match="serving satellite 'Sputnik' is not among"):
        plan({"sky.serving": "Sputnik"})


def test_satellites_without_links_between_them_wait_for_a_gateway(tmp_path: Path) -> None:
    gateways = tmp_path / "gateways.csv"
    gateways.write_text("name,latitude_deg,longitude_deg\nSvalbard,78.23,15.39\n")
    linked, stored = plan({}), plan({"sky.gateways": str(gateways)})
    assert max(c.delay_s for served in linked.contacts.values() for c in served) < 1.0
    assert max(c.delay_s for served in stored.contacts.values() for c in served) > 60.0


def test_an_orbit_a_mask_a_start_and_a_link_of_ones_own_change_the_plan() -> None:
    default = plan({})
    for change in (
        {"sky.inclination-deg": 80.0},
        {"sky.altitude-km": 700.0},
        {"sky.elements": "walker-star:4/2/0"},
        {"sky.elevation-mask-deg": 15.0},
        {"sky.start-utc": "2026-03-01T00:00:00Z"},
        {"sky.ut1-utc-s": 0.5},
    ):
        assert plan(change) != default, change
    fixed = plan({"link.preset": "fixed", "link.down-bytes-per-s": 5.0, "link.up-bytes-per-s": 3.0})
    contact = next(iter(fixed.contacts.values()))[0]
    assert set(contact.down_bytes_per_s) == {5.0} and set(contact.up_bytes_per_s) == {3.0}


def test_a_saved_plan_drives_a_run_as_the_computed_one_does(tmp_path: Path) -> None:
    computed = plan({})
    write_plan(computed, tmp_path / "plan.csv")
    assert plan({"sky.plan-file": str(tmp_path / "plan.csv")}) == computed


def test_a_plan_file_that_is_missing_or_of_other_clusters_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        plan({"sky.plan-file": str(tmp_path / "none.csv")})
    write_plan(plan({}), tmp_path / "plan.csv")
    with pytest.raises(ValueError, match="has no contact for"):
        plan({"sky.plan-file": str(tmp_path / "plan.csv"), "population.clusters": 4})
