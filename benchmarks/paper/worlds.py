"""The worlds of the tables: base models and skies, of a size that many runs can afford."""

from collections.abc import Mapping

from benchmarks.paper.methods import Settings

SIZE: Settings = {
    "population.devices": 32,
    "population.clusters": 8,
    "sky.hours": 24.0,
    "train.max-steps": 32,
    "evaluate.every-merges": 4,
    "data.heldout-examples": 32,
    "report.page": False,
    "report.completions": 0,
}
"""Four devices a cluster instead of the demo's twelve: a run is a third of the demo's day."""
SMOKE: Settings = {
    "population.devices": 8,
    "train.max-steps": 8,
    "data.heldout-examples": 8,
    "sky.hours": 16.0,
}

BASES: Mapping[str, Settings] = {
    "sharp": {"model.name": "demo"},
    "field": {"model.name": "demo-field"},
    "flat": {"model.name": "demo-flat"},
}
SKIES: Mapping[str, Settings] = {
    # Three polar orbits with a satellite each: hours between contacts.
    "sparse": {},
    # Four satellites an orbit: a contact every half hour or so.
    "dense": {"sky.elements": "walker-star:12/3/0"},
    # The sparse one over 32 clusters of one device each: four share a set of experts, so updates are stale.
    "crowded": {"population.clusters": 32},
}
TUNING_SEED = 1000
"""Of the runs that settings are chosen by; in no table."""


def visits(settings: Settings) -> int:
    """Return how often a device trains in a method that sends nothing: about as often as in one that does."""
    return max(1, round(float(settings["sky.hours"]) / 4))
