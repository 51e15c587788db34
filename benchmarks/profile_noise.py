"""``python -m benchmarks.profile_noise``: what noise on profiles costs the assignment.

The demo's devices profile their data; experts are dealt out by the noisy profiles and judged by the exact:
captured routing mass over that of the exact assignment, median and worst of five seeds, beside a random deal.
Ends with one line of JSON.
"""

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from client.client_state import ClientState
from client.profile_noise import noise_stream, noised
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.job import prepare
from strategy.assignment import Assignment, assign_experts, captures

SCALES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SEEDS = range(5)
SETTINGS: Mapping[str, Mapping[str, Scalar]] = {
    "demo, 12 devices a cluster": {},
    "demo, 2 devices a cluster": {"population.devices": 16},
}

Mass = Mapping[str, Sequence[Any]]


def by_cluster(state: ClientState, masses: Mapping[int, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return the devices' profiles summed over each cluster, layer by layer."""
    found: dict[str, list[Any]] = {}
    for cluster in state.population.clusters:
        own = [masses[device.device_id] for device in state.population.cluster_devices(cluster.name)]
        found[cluster.name] = [np.sum(layers, axis=0) for layers in zip(*own, strict=True)]
    return found


def capture(assignment: Assignment, exact: Mass, layers: Sequence[int]) -> float:
    """Return the mean over clusters of what an assignment captures by the exact profiles."""
    return float(np.mean(list(captures(exact, layers, assignment).values())))


def measure(settings: Mapping[str, Scalar]) -> dict[str, list[float]]:
    """Return by scale what is kept of the exact capture, a number for each seed."""
    config = read_config(dict(settings))
    job, state = prepare(config, lambda _: None), ClientState(config)
    layers, limit = job.layout.layers, {name: 1 for name in job.clusters}
    masses = {device.device_id: state.mass(device.device_id) for device in state.population.devices}
    exact = by_cluster(state, masses)
    best = capture(assign_experts(exact, layers, limit), exact, layers)
    kept: dict[str, list[float]] = {}
    for scale in SCALES:
        for seed in SEEDS:
            told = {
                device: noised(mass, scale, noise_stream(seed, device, 0, simulated=True))
                for device, mass in masses.items()
            }
            assigned = assign_experts(by_cluster(state, told), layers, limit)
            kept.setdefault(f"{scale:g}", []).append(capture(assigned, exact, layers) / best)
    deals = [assign_experts(exact, layers, limit, method="random", seed=seed) for seed in SEEDS]
    kept["random"] = [capture(deal, exact, layers) / best for deal in deals]
    return kept


def main() -> None:
    """Measure and print."""
    found: dict[str, dict[str, float]] = {}
    for name, settings in SETTINGS.items():
        kept = measure(settings)
        print(f"{name}\n{'noise':>8}  {'kept':>6}  {'worst':>6}")
        for scale, shares in kept.items():
            print(f"{scale:>8}  {median(shares):6.3f}  {min(shares):6.3f}")
        found[name] = {scale: round(median(shares), 3) for scale, shares in kept.items()}
    print(json.dumps({"benchmark": "profile_noise", "capture_kept": found}))


if __name__ == "__main__":
    main()
