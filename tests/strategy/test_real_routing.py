"""What our assignment captures of the routing of real models, beside what was measured on them."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from strategy.assignment import assign_experts

MODELS = {
    # file: capture of the best disjoint deal of an eighth of the experts to each domain, and of each domain's
    # own best (the README of the shared data; layers and domains as published by ESFT and OLMoE)
    "deepseek_v2_lite_gate_mass.csv": (0.388, 0.412),
    "olmoe_1b_7b_selections.csv": (0.312, 0.351),
    "mixtral_8x7b_selections.csv": (0.144, 0.148),
}


def read_mass(file: Path) -> tuple[dict[str, list[NDArray[np.float64]]], list[int]]:
    """Return share [E] by domain and layer, and the layers."""
    rows: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    with file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            rows[row["domain"]][int(row["layer"])][int(row["expert"])] = float(row["share"])
    layers = sorted(next(iter(rows.values())))
    mass = {
        domain: [np.array([by_layer[layer][e] for e in sorted(by_layer[layer])]) for layer in layers]
        for domain, by_layer in rows.items()
    }
    return mass, layers


@pytest.mark.parametrize("name", MODELS)
def test_the_assignment_captures_of_a_real_model_what_was_measured(shared_data: Path, name: str) -> None:
    mass, layers = read_mass(shared_data / "routing" / name)
    num_experts = len(next(iter(mass.values()))[0])
    limit = dict.fromkeys(mass, num_experts // 8)
    for method, expected in zip(("optimal", "overlap"), MODELS[name], strict=True):
        found = assign_experts(mass, layers, limit, method=method)
        assert np.mean(list(found.capture.values())) == pytest.approx(expected, abs=6e-4)
        assert all(share == pytest.approx(0.125) for share in found.random_capture.values())
        if method == "optimal":
            everybody = [expert for experts in found.experts.values() for expert in experts]
            assert len(everybody) == len(set(everybody))
