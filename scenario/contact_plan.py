"""From the run configuration to the contact plan: a saved one, or satellites, sites and link."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from scenario.settings.config import RunConfig
from sim.plans.from_orbits import SkySettings, build_plan, load_satellites, start_of
from sim.plans.link import Link, fixed_link, link_preset
from sim.plans.plan import ContactPlan
from sim.plans.tracks import GroundTracks, ground_tracks
from sim.population import Population
from sim.sites import read_sites

BITS = 8


def plan_from(config: RunConfig, population: Population, say: Callable[[str], None]) -> ContactPlan:
    """Return when each cluster of the population can be reached.

    Raises
    ------
    ValueError
        If elements, plan file or link cannot be used, or a cluster is never seen.
    """
    if config.sky.plan_file:
        return _saved_plan(Path(config.sky.plan_file), population)
    return build_plan(_sky(config), population.clusters, _link(config), on_notice=say)


def _sky(config: RunConfig) -> SkySettings:
    settings = config.sky
    start = datetime.fromisoformat(settings.start_utc) if settings.start_utc else None
    span_s = settings.hours * 3600.0
    sky = SkySettings(
        start=start,
        span_s=span_s,
        step_s=settings.step_s,
        ut1_utc_s=settings.ut1_utc_s,
        serving=settings.serving,
        area=settings.area,
        gateways=read_sites(settings.gateways) if settings.gateways else (),
    )
    kind, _, rest = settings.elements.partition(":")
    if kind == "tle":
        return replace(sky, elements=rest)
    total, planes, phasing = (int(part) for part in rest.split("/"))
    return replace(
        sky,
        walker_pattern="star" if kind == "walker-star" else "delta",
        walker_total=total,
        walker_planes=planes,
        walker_phasing=phasing,
        inclination_deg=settings.inclination_deg,
        altitude_km=settings.altitude_km,
    )


def _link(config: RunConfig) -> Link:
    if config.link.preset == "fixed":
        return fixed_link(config.link.down_bytes_per_s * BITS, config.link.up_bytes_per_s * BITS)
    return link_preset(config.link.preset)


def _saved_plan(path: Path, population: Population) -> ContactPlan:
    if not path.is_file():
        raise ValueError(f"sky.plan-file {path} does not exist; make one with python -m sim.contacts")
    from sim.plan_files.files import read_plan  # Only now: pyarrow takes a quarter of a second.

    plan = read_plan(path)
    missing = [c.name for c in population.clusters if not plan.contacts.get(c.name)]
    if missing:
        raise ValueError(
            f"{path} has no contact for {', '.join(missing)}; it knows {', '.join(plan.contacts)}: "
            "name the clusters as the plan does (population.sites), or use another plan"
        )
    return plan


def tracks_from(config: RunConfig, plan: ContactPlan) -> tuple[datetime | None, GroundTracks | None]:
    """Return when the plan's seconds begin, and the tracks of its satellites; None where nobody knows.

    A saved plan says neither.
    """
    if config.sky.plan_file:
        return None, None
    sky = _sky(config)
    satellites = load_satellites(sky)
    start = start_of(sky, satellites)
    return start, ground_tracks(plan, satellites, start)
