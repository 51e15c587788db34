"""Whose message it is: told by the simulated sky, or by the node's own configuration."""

import math

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict

from client.instructions import read_instructions
from scenario.derive import population_from
from scenario.settings.reading import read_config
from server.hosts import read_host
from sim.grid.transit import SKY_RECORD
from tests.fake_grid import FakeGrid

FakeGrid(lambda _: RecordDict())  # gives messages a run to belong to
CONFIG = read_config({"population.devices": 6, "population.clusters": 2, "train.steps-wall-budget-s": 7.0})
POPULATION = population_from(CONFIG)
FIRST, SECOND = (cluster.name for cluster in POPULATION.clusters)


def context(**node_config: bool | int | float | str) -> Context:
    return Context(run_id=1, node_id=1, node_config=node_config, state=RecordDict(), run_config={})


def message(content: RecordDict | None = None) -> Message:
    return Message(content or RecordDict(), 1, "train")


def test_the_sky_in_the_message_wins_over_the_node() -> None:
    sky = ConfigRecord({"cluster": SECOND, "devices": [4, 5], "local-steps": 9, "time-s": 12.5, "node": 5})
    told = message(RecordDict({SKY_RECORD: sky}))
    instructions = read_instructions(told, context(devices="0"), CONFIG, POPULATION)
    assert (instructions.cluster, instructions.devices, instructions.steps) == (SECOND, (4, 5), 9)
    assert instructions.wall_budget_s == math.inf


@pytest.mark.parametrize(
    ("node", "cluster", "devices"),
    [
        ({"devices": "0-2"}, FIRST, (0, 1, 2)),
        ({"devices": "3,5"}, SECOND, (3, 5)),
        ({"devices": "4"}, SECOND, (4,)),
        ({"cluster": SECOND}, SECOND, (3, 4, 5)),
    ],
)
def test_a_deployed_node_knows_its_devices_and_trains_for_a_budget_of_time(
    node: dict[str, str], cluster: str, devices: tuple[int, ...]
) -> None:
    instructions = read_instructions(message(), context(**node), CONFIG, POPULATION)
    assert (instructions.cluster, instructions.devices) == (cluster, devices)
    assert instructions.wall_budget_s == 7.0


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({}, "does not say which devices it hosts: start its SuperNode with"),
        ({"devices": "two"}, "numbers and ranges such as 0-11"),
        ({"devices": "0-9"}, "this run has devices 0 to 5"),
        ({"devices": "5-3"}, "this run has devices 0 to 5"),
        ({"devices": "2,3"}, "devices of one cluster"),
        ({"devices": "0-2,1,2"}, "names 1, 2 twice; a device counts once"),
        ({"devices": "0-99999999999999"}, "this run has devices 0 to 5"),
        ({"cluster": "Atlantis"}, "Atlantis"),
    ],
)
def test_a_node_that_does_not_say_whose_it_is_is_told_how_to(node: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_instructions(message(), context(**node), CONFIG, POPULATION)


def test_a_deployed_nodes_reply_says_which_devices_it_is_for_and_a_simulated_ones_does_not() -> None:
    deployed = read_instructions(message(), context(devices="3,5"), CONFIG, POPULATION)
    signed = deployed.sign(Message(RecordDict(), reply_to=message()))
    assert read_host(signed) == (SECOND, (3, 5))
    sky = ConfigRecord({"cluster": SECOND, "devices": [4, 5], "local-steps": 9, "time-s": 12.5, "node": 5})
    told = message(RecordDict({SKY_RECORD: sky}))
    simulated = read_instructions(told, context(), CONFIG, POPULATION)
    assert not simulated.sign(Message(RecordDict(), reply_to=told)).content
