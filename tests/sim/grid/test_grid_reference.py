"""Law 7, and the grid against the slow reference, on random skies."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sim.grid.grid import SatelliteGrid
from sim.plans.from_orbits import SkySettings, build_plan
from sim.plans.link import link_preset
from sim.plans.plan import DIRECTIONS, Contact, ContactPlan, Direction
from sim.population import Population, build_population
from sim.sites import default_clusters
from tests.fake_grid import Client, FakeGrid
from tests.sim.grid.skies import payload, people, train
from tests.sim.grid.sky_reference import SlowSky, Trip


@dataclass(frozen=True)
class Scenario:
    """A sky, a population, and who is sent what when."""

    plan: ContactPlan
    population: Population
    steps: dict[str, Any]
    pushes: list[tuple[float, int, int, bool]]  # when, node, bytes, is a training
    again: dict[int, list[tuple[int, bool]]]  # node -> (bytes, is a training) to send at its arrivals
    reply_bytes: list[int]  # by node


@st.composite
def contacts_of(draw: st.DrawFn) -> tuple[Contact, ...]:
    contacts, end_s = [], 0.0
    for _ in range(draw(st.integers(1, 4))):
        rise_s = end_s + draw(st.sampled_from([0.0, 7.0, 113.3, 1000.1]))
        set_s = rise_s + draw(st.floats(5.0, 400.0))
        knots = draw(st.integers(2, 5))
        rates = [
            [draw(st.one_of(st.just(0.0), st.floats(0.5, 60.0))) for _ in range(knots)] for _ in range(2)
        ]
        contacts.append(
            Contact(
                rise_s=rise_s,
                set_s=set_s,
                satellites=("S",),
                time_s=np.linspace(rise_s, set_s, knots),
                down_bytes_per_s=np.array(rates[0]),
                up_bytes_per_s=np.array(rates[1]),
                delay_s=draw(st.sampled_from([0.0, 0.004, 0.3])),
            )
        )
        end_s = set_s
    return tuple(contacts)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    contacts = {name: draw(contacts_of()) for name in ["A", "B"][: draw(st.integers(1, 2))]}
    horizon_s = max(its[-1].set_s for its in contacts.values()) + draw(st.sampled_from([0.0, 500.0]))
    population = people(
        {name: draw(st.lists(st.floats(0.3, 90.0), min_size=1, max_size=3)) for name in contacts}
    )
    num_nodes = len(population.nodes)
    # Nothing larger than all contacts together: that is refused, and tested elsewhere.
    limits = {
        direction: min(
            int(sum(contact.capacity_bytes(direction) for contact in its)) for its in contacts.values()
        )
        for direction in DIRECTIONS
    }
    assume(min(limits.values()) >= 20)
    node, flag = st.integers(1, num_nodes), st.booleans()
    size = st.integers(20, min(3000, limits["down"]))
    reply_size = st.integers(20, min(2000, limits["up"]))
    pushes = draw(st.lists(st.tuples(st.floats(0.0, horizon_s * 0.8), node, size, flag), max_size=8))
    first = draw(st.lists(st.tuples(st.just(0.0), node, size, flag), max_size=4))
    min_steps = draw(st.integers(1, 3))
    return Scenario(
        plan=ContactPlan(horizon_s=horizon_s, contacts=contacts),
        population=population,
        steps={"min_steps": min_steps, "max_steps": draw(st.integers(min_steps, 50)), "query_steps": 2},
        pushes=sorted(first + pushes, key=lambda push: push[0]),
        again=draw(st.dictionaries(node, st.lists(st.tuples(size, flag), max_size=3), max_size=3)),
        reply_bytes=draw(st.lists(reply_size, min_size=num_nodes, max_size=num_nodes)),
    )


def message(node_id: int, num_bytes: int, is_training: bool) -> Message:
    return train(node_id, num_bytes, kind="train" if is_training else "query")


def drive(
    scenario: Scenario,
    *,
    inner: Callable[..., FakeGrid] = FakeGrid,
    at_each_stop: Callable[[SatelliteGrid], SatelliteGrid] = lambda grid: grid,
    log: list[dict[str, Any]],
) -> SatelliteGrid:
    """Run a scenario on the grid: timed pushes, and an answer to every arrival."""

    def client(real: Message) -> Any:
        node_id = real.content.config_records["sky"]["node"]
        assert isinstance(node_id, int)
        return payload(scenario.reply_bytes[node_id - 1])

    grid = SatelliteGrid(
        inner(client), scenario.plan, scenario.population, on_event=log.append, **scenario.steps
    )
    pushes = list(scenario.pushes)
    again = {node_id: list(then) for node_id, then in scenario.again.items()}
    ids: set[str] = set()
    while not grid.is_over:
        while pushes and pushes[0][0] <= grid.now_s:
            ids |= set(grid.push_messages([message(*pushes.pop(0)[1:])]))
        grid = at_each_stop(grid)
        before_s = grid.now_s
        grid._simulator.advance(ids, pushes[0][0] if pushes else np.inf)
        assert grid.now_s >= before_s
        if grid._simulator.inbox:
            for reply in grid.pull_messages(ids):
                ids.discard(reply.metadata.reply_to_message_id)
                # Timed pushes of this very instant come first, as in the reference.
                while pushes and pushes[0][0] <= grid.now_s:
                    ids |= set(grid.push_messages([message(*pushes.pop(0)[1:])]))
                if then := again.get(reply.metadata.src_node_id):
                    ids |= set(grid.push_messages([message(reply.metadata.src_node_id, *then.pop(0))]))
    return grid


def slow_run(scenario: Scenario) -> SlowSky:
    """Run the same scenario on the reference."""
    numbers = iter(range(1000))

    def trip(node_id: int, num_bytes: int, is_training: bool) -> Trip:
        return Trip(next(numbers), node_id, num_bytes, scenario.reply_bytes[node_id - 1], is_training)

    slow = SlowSky(
        plan=scenario.plan,
        population=scenario.population,
        pushes=[(push[0], trip(*push[1:])) for push in scenario.pushes],
        again={node_id: [trip(node_id, *then) for then in its] for node_id, its in scenario.again.items()},
        **scenario.steps,
    )
    slow.run()
    return slow


def check_law_7(plan: ContactPlan, log: list[dict[str, Any]]) -> None:
    """No byte outside a contact, none over its capacity, none lost in the log."""
    carried: dict[tuple[str, Direction, float], float] = defaultdict(float)
    for event in log:
        if event["event"] == "trained":
            continue
        is_up = event["event"] == "arrived" or event.get("phase") in ("up", "returning")
        direction: Direction = "up" if is_up else "down"
        assert sum(part for _, part in event["crossed"]) == pytest.approx(event["bytes"], rel=1e-12)
        for rise_s, part in event["crossed"]:
            assert part > 0
            carried[event["cluster"], direction, rise_s] += part
        if event["event"] in ("delivered", "arrived"):
            last = next(c for c in plan.contacts[event["cluster"]] if c.rise_s == event["crossed"][-1][0])
            assert last.rise_s < event["time_s"] <= last.set_s + last.delay_s
    for (cluster, direction, rise_s), part in carried.items():
        contact = next(c for c in plan.contacts[cluster] if c.rise_s == rise_s)
        assert part <= contact.capacity_bytes(direction) * (1 + 1e-12) + 1e-3 * len(log)
    assert all(early["time_s"] <= late["time_s"] for early, late in pairwise(log))


@settings(max_examples=150, deadline=None)
@given(scenario=scenarios())
def test_the_grid_agrees_with_the_slow_reference_and_keeps_law_7(scenario: Scenario) -> None:
    log: list[dict[str, Any]] = []
    drive(scenario, log=log)
    check_law_7(scenario.plan, log)
    slow = slow_run(scenario)
    assume(not slow.is_delicate)
    # The k-th message to a node is the k-th in both.
    assert compare(log, scenario) == {
        (trip.node_id, rank, event): pytest.approx(time_s, abs=1e-5)
        for node in scenario.population.nodes
        for rank, trip in enumerate([trip for trip in slow.trips if trip.node_id == node.node_id])
        for event, time_s in trip.times_s.items()
    }


def test_a_day_of_the_default_sky_keeps_law_7() -> None:
    clusters = default_clusters(8)
    plan = build_plan(SkySettings(), clusters, link_preset("s-band"))
    population = build_population(
        clusters=clusters,
        num_devices=96,
        devices_per_node=1,
        step_time_s=60.0,
        speed_spread=0.5,
        data_spread=0.5,
        memory_bytes=1,
        seed=3,
    )
    log: list[dict[str, Any]] = []
    inner = FakeGrid(lambda real: payload(1_500_000 + real.metadata.dst_node_id), num_nodes=5)
    grid = SatelliteGrid(inner, plan, population, min_steps=1, max_steps=16, on_event=log.append)
    busy: dict[str, int] = {}
    while not grid.is_over:
        idle = set(grid.get_node_ids()) - set(busy.values())
        for node_id in sorted(idle):
            busy |= dict.fromkeys(grid.push_messages([train(node_id, 3_000_000)]), node_id)
        for reply in grid.pull_messages(busy.keys()):
            del busy[reply.metadata.reply_to_message_id]
    check_law_7(plan, log)
    assert sum(event["event"] == "arrived" for event in log) > 96
    assert any(len(event.get("crossed", [])) > 1 for event in log)


def compare(log: list[dict[str, Any]], scenario: Scenario) -> dict[tuple[int, int, str], float]:
    """Return when what happened to the k-th message to each node, from the log."""
    happened = {}
    for node in scenario.population.nodes:
        events = [event for event in log if event["node"] == node.node_id]
        for rank, message_id in enumerate(sorted({event["message"] for event in events})):
            for event in events:
                if event["message"] == message_id and event["event"] != "unfinished":
                    happened[node.node_id, rank, event["event"]] = event["time_s"]
    return happened


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios(), delays=st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_the_log_does_not_depend_on_how_many_workers_there_are_or_how_fast(
    scenario: Scenario, delays: list[int]
) -> None:
    alone: list[dict[str, Any]] = []
    drive(scenario, log=alone)
    many: list[dict[str, Any]] = []
    drive(
        scenario,
        inner=lambda client: FakeGrid(client, num_nodes=8, delay=lambda number: delays[number % 8]),
        log=many,
    )
    assert many == alone


def through_json(state: dict[str, Any]) -> Any:
    """Return a snapshot as it comes back from a file: JSON, with the bytes kept beside it."""
    contents = state["traffic"]["contents"]
    assert all(isinstance(content, bytes) for content in contents)
    text = json.dumps(state | {"traffic": state["traffic"] | {"contents": []}})
    again = json.loads(text)
    again["traffic"]["contents"] = contents
    return again


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios())
def test_a_run_stopped_and_resumed_at_every_pull_has_the_same_log(scenario: Scenario) -> None:
    straight: list[dict[str, Any]] = []
    stops: dict[str, list[tuple[float, list[int]]]] = {"straight": [], "resumed": []}

    def look(grid: SatelliteGrid) -> SatelliteGrid:
        stops["straight"].append((grid.now_s, grid.get_node_ids()))
        return grid

    drive(scenario, at_each_stop=look, log=straight)
    resumed: list[dict[str, Any]] = []
    inners: list[FakeGrid] = []

    def inner(client: Client) -> FakeGrid:
        inners.append(FakeGrid(client))
        return inners[-1]

    def resume(grid: SatelliteGrid) -> SatelliteGrid:
        fresh = SatelliteGrid(
            FakeGrid(inners[0].client, num_nodes=3),
            scenario.plan,
            scenario.population,
            on_event=resumed.append,
            **scenario.steps,
        )
        fresh.restore(through_json(grid.snapshot()))
        stops["resumed"].append((fresh.now_s, fresh.get_node_ids()))
        return fresh

    drive(scenario, inner=inner, at_each_stop=resume, log=resumed)
    assert resumed == straight
    assert stops["resumed"] == stops["straight"]


@settings(max_examples=60, deadline=None)
@given(scenario=scenarios())
def test_what_is_not_expected_does_not_arrive_in_the_present_contact(scenario: Scenario) -> None:
    log: list[dict[str, Any]] = []
    given_up: list[tuple[str, float, float]] = []  # message, from, until

    def ask(grid: SatelliteGrid) -> SatelliteGrid:
        for message_id, transit in grid._simulator.in_transit.items():
            contact = scenario.plan.contact_at(transit.node.cluster, grid.now_s)
            if contact and grid.get_node_ids() and not grid.expects(message_id):
                given_up.append((message_id, grid.now_s, contact.set_s))
        return grid

    drive(scenario, at_each_stop=ask, log=log)
    arrived_s = {event["message"]: event["time_s"] for event in log if event["event"] == "arrived"}
    for message_id, from_s, until_s in given_up:
        assert not from_s <= arrived_s.get(message_id, -1.0) < until_s
