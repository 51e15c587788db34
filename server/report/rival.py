"""FedAvg in the demo's world, stored: what the demo's last line compares with."""

import hashlib
import json
from dataclasses import dataclass

from scenario.settings.config import RunConfig

_WORLD = ("seed", "model", "data", "sky", "link", "population", "train")
"""Sections in which a run must be as the demo for its losses to be comparable."""
SAME_START = 0.001
"""Losses before training, nats a token, that differ by less are of one base and text. The embedded text is
what the machine's Python has, so that another version of Python is another world."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """What FedAvg came to; mean held-out losses over clusters, nats a token.

    Parameters
    ----------
    date, world : str
        When it was measured, and the `world_of` its settings.
    before, after : float
        Of its one model, which is the merged model and each device's own.
    rounds : int
        That came to their end.
    """

    date: str
    world: str
    before: float
    after: float
    rounds: int


def world_of(config: RunConfig) -> str:
    """Name the settings that FedAvg and EMS-FL must share, by their hash."""
    settings = config.model_dump(by_alias=True)
    shared = json.dumps({name: settings[name] for name in _WORLD}, sort_keys=True)
    return hashlib.sha256(shared.encode()).hexdigest()[:12]


def comparison(config: RunConfig, before: float, own: float | None, merged: float) -> str:
    """Return a sentence that sets a run beside the stored FedAvg; empty where their worlds differ.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    before, merged : float
        Mean held-out loss of the merged model before and after, nats a token.
    own : float or None
        The same of the clusters' own sub-models at the end.
    """
    if config.strategy != "ems-fl" or world_of(config) != STORED.world:
        return ""
    if abs(before - STORED.before) > SAME_START:
        return "FedAvg under the same sky: make demo ARGS='-c conf/fedavg.toml'"
    ours = f"merged {merged:.3f}" + ("" if own is None else f", own {own:.3f}")
    return (
        f"FedAvg under the same sky ended at {STORED.after:.3f} after {STORED.rounds} rounds, here {ours} "
        f"(stored run of {STORED.date}; make demo ARGS='-c conf/fedavg.toml' repeats it)"
    )


STORED = Rival(date="2026-11-28", world="8bd4fbd87dfa", before=3.8992, after=3.8730, rounds=2)
"""Measured with ``conf/fedavg.toml`` on Python 3.11, one seed; docs/results.md has more."""
