"""What the merged model of a finished run has, from the run's own folder."""

from pathlib import Path

from moe.disk.layout import read_layout
from moe.experts import ExpertArrays
from moe.tuning.adapters import initial_arrays
from scenario.derive import tuning_from
from server.record.run_folder import read_settings
from server.record.state import load_state
from strategy.serving import serving_values


def served_by(folder: Path, base: str | Path) -> ExpertArrays:
    """Return the arrays of the merged model at the end of a run, as its state says."""
    config, state, layout = read_settings(folder), load_state(folder)[0], read_layout(base)
    initial = initial_arrays(base, tuning_from(config, layout.layers), layout.experts)
    hosts = state.hosts.values()
    return serving_values(state.values, initial, state.assignment, hosts, layout.layers, config.merge.take)
