"""The numbers that `benchmarks.paper` makes of its cells."""

import argparse
import json
import math
from typing import Any

import numpy as np
import pytest

from benchmarks.paper.__main__ import candidates_of
from benchmarks.paper.cell import ROOT
from benchmarks.paper.measures import curve
from benchmarks.paper.methods import TABLES
from benchmarks.paper.models import load_cv, mean_of_others
from benchmarks.paper.plots import mean_curve
from benchmarks.paper.tables import forgotten, headline, hours_to, interval, mixed, paired, speedups, table


def cell(own: list[float], merged: list[float], **more: Any) -> dict[str, Any]:
    """Return a cell measured every hour, 1 MB an hour."""
    points = [
        {"time_s": 3600.0 * hour, "bytes_up": 1e6 * hour, "steps": 10 * hour, "own": a, "merged": b}
        for hour, (a, b) in enumerate(zip(own, merged, strict=True))
    ]
    return {
        "points": points, "own": own[-1], "merged": merged[-1], "merged_before": merged[0],
        "bytes_up": 1e6 * (len(own) - 1), "steps": 10 * (len(own) - 1), "memory_bytes": 10.0,
        "update_bytes": 4.0, "capture": 0.5, "staleness": 0.0,
    } | more  # fmt: skip


def test_an_interval_is_students() -> None:
    # Five values with standard deviation sqrt(2.5); t(0.975, 4) = 2.776445 (any table of Student's t).
    mean, half = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0 and half == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)
    assert math.isnan(interval([1.0])[1])


def test_differences_are_of_seeds_that_both_have() -> None:
    ours = {1: cell([4, 3], [4, 3]), 2: cell([4, 2], [4, 2]), 3: cell([9, 9], [9, 9])}
    theirs = {2: cell([4, 3.5], [4, 3.5]), 1: cell([4, 3.25], [4, 3.25])}
    assert paired(ours, theirs, "own") == [-0.25, -1.5]


def test_sooner_is_measured_where_the_other_first_had_what_it_ends_with() -> None:
    ours = {1: cell([4.0, 3.4, 3.0], [4.0, 3.9, 3.8])}
    theirs = {1: cell([4.0, 3.7, 3.6, 3.5, 3.4, 3.45, 3.45], [4.0] * 7)}
    assert hours_to(ours[1], 3.45, "own") == 1.0 and hours_to(ours[1], 2.9, "own") == math.inf
    # FedAvg ends with 3.45, which it first had (with less) after 4 hours.
    assert speedups(ours, theirs, "own") == [4.0]


def test_the_json_line_says_nothing_where_a_loss_is_never_reached() -> None:
    never = {"EMS-FL": {1: cell([4, 4], [4, 4])}, "FedAvg": {1: cell([4, 3], [4, 3])}}
    assert headline(never)["speedup_to_fedavg_loss"] == 0.0
    central = {1: cell([4, 3], [4, 3])}
    ours = {1: cell([4, 3.5], [4, 3.75], memory_bytes=2.5)}
    found = headline({"EMS-FL": ours, "FedAvg": {1: cell([4, 3.9], [4, 3.95])}, "central": central})
    assert found["share_of_central_gain"] == 0.25 and found["memory_ratio"] == 0.25
    assert found["own_loss_gain"] == 0.4 and found["merged_loss_gain"] == 0.2 and found["seeds"] == 1


def test_a_table_has_a_line_for_each_method_that_was_measured() -> None:
    told = table(
        {"EMS-FL": {1: cell([4, 3], [4, 3])}, "FedAvg": {1: cell([4, 3.5], [4, 3.5])}, "central": {}}
    )
    assert "EMS-FL" in told and "-0.500" in told and "central" not in told and "before: merged 4.000" in told


def test_what_is_forgotten_is_the_rise_on_the_others_text_and_a_dash_where_nobody_measured() -> None:
    new = cell([4, 3], [4, 3], others_before=4.0, others_after=4.25, load_cv_before=0.5, load_cv_after=0.75)
    old = cell([4, 3], [4, 3])
    assert forgotten(new) == 0.25 and forgotten(old) is None
    assert headline({"EMS-FL": {1: new, 2: old}})["forgetting"] == 0.25
    told = table({"EMS-FL": {1: new}, "FedAvg": {1: old}}).splitlines()
    assert "+0.250" in told[2] and "0.50 > 0.75" in told[2] and told[3].rstrip().endswith("-")


def test_others_are_all_but_ones_own() -> None:
    assert mean_of_others({"a": {"a": 1.0, "b": 2.0, "c": 4.0}, "b": {"a": 5.0, "b": 0.0, "c": 7.0}}) == 4.5


def test_an_even_load_has_no_variation() -> None:
    assert load_cv(np.array([[2.0, 2.0], [1.0, 3.0]])) == 0.25


def test_a_curve_is_the_mean_of_what_was_last_measured_as_long_as_all_go_on() -> None:
    cells = [cell([4, 3, 2], [4, 4, 4]), cell([4, 3.5], [4, 4])]
    found = mean_curve(cells, "time_s", "own", [0.0, 1800.0, 3600.0, 5000.0])
    assert found[:3] == [4.0, 4.0, 3.25] and math.isnan(found[3])


def test_every_method_of_a_table_is_named_once() -> None:
    for methods in TABLES.values():
        assert len({method.name for method in methods}) == len(methods)


def test_from_the_assignment_on_a_device_has_its_own_sub_model() -> None:
    events: list[dict[str, Any]] = [
        {"event": "evaluated", "time_s": 0.0, "loss": 4.0},
        {"event": "arrived", "time_s": 5.0, "bytes": 700},
        {"event": "assigned", "time_s": 10.0},
        {"event": "trained", "type": "train", "time_s": 15.0, "steps": 32},
        {"event": "evaluated", "time_s": 20.0, "loss": 3.9, "own-loss.a": 3.5, "own-loss.b": 3.0},
    ]
    assert [(p.time_s, p.bytes_up, p.steps, p.merged, p.own) for p in curve(events, 3.75)] == [
        (0.0, 0.0, 0, 4.0, 4.0), (10.0, 700.0, 0, 4.0, 3.75), (20.0, 700.0, 32, 3.9, 3.25),
    ]  # fmt: skip
    assert [p.own for p in curve(events[:2] + events[4:], None)] == [4.0, 3.25]


def test_cells_of_a_seed_must_begin_with_the_same_loss() -> None:
    ours, theirs = {1: cell([4, 3], [4, 3]), 2: cell([5, 3], [5, 3])}, {1: cell([4, 3.5], [4 + 1e-5, 3.5])}
    assert mixed({"EMS-FL": ours, "FedAvg": theirs}) == []
    (fault,) = mixed({"EMS-FL": ours, "FedAvg": {2: cell([5.01, 3], [5.01, 3])}})
    assert fault.startswith("seed 2") and "EMS-FL has 5.0000, FedAvg 5.0100" in fault


def test_what_is_there_before_training_was_not_reached_sooner() -> None:
    ours, worse = {1: cell([4, 3], [4, 3])}, {1: cell([4, 4.5], [4, 4.5])}
    assert math.isnan(speedups(ours, worse, "own")[0])
    assert " - " in table({"EMS-FL": ours, "FedAvg": worse}).splitlines()[2]
    assert headline({"EMS-FL": ours, "FedAvg": worse})["speedup_to_fedavg_loss"] is None


def test_on_every_base_the_same_values_are_tried() -> None:
    options = argparse.Namespace(table="split", bases=["sharp", "field"], skies=["sparse"])
    rates = ("train.learning-rate", "merge.server-learning-rate")
    tried = [(c.base, *map(c.settings.get, rates)) for c in candidates_of(options)]
    of = {base: [chosen for at, *chosen in tried if at == base] for base in options.bases}
    ours = [[None, None], [0.003, None], [0.03, None], [None, 2.0]]
    fedavg = [[None, 2.0], [0.003, 1.0], [0.01, 1.0], [0.03, 1.0], [None, 0.5], [None, 4.0]]
    # And what trains as EMS-FL.
    assert of["sharp"] == of["field"] == [*ours, *fedavg, [None, None]]


def test_the_kept_cells_do_not_say_on_whose_machine_they_ran() -> None:
    cells = [json.loads(file.read_text()) for file in (ROOT / "docs" / "results").glob("*/*.json")]
    assert len(cells) > 50
    assert [cell["cell"] for cell in cells if "run.dir" in cell["settings"]] == []
