"""A device counts once: the first node that says it hosts it, until that node is gone."""

from collections.abc import Sequence
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict

from server.hosts import Hosts
from server.patient_grid import PatientGrid
from strategy.messages import CONFIG, TURNED_AWAY
from tests.fake_grid import FakeGrid


def test_a_second_claim_on_a_device_is_turned_away_by_name_while_the_first_is_online() -> None:
    hosts = Hosts()
    assert hosts.claim(7, (0, 1, 2), {7, 8, 9}) == ""
    assert hosts.claim(9, (3,), {7, 8, 9}) == ""
    reason = hosts.claim(8, (1, 2, 3, 4), {7, 8, 9})
    assert "devices 1-3, which node 7 and node 9 hosts already" in reason
    assert hosts.is_turned_away(8, {7, 8}) and hosts.is_turned_away(8, {9, 8})
    assert not hosts.is_turned_away(7, {7, 8, 9}) and not hosts.is_turned_away(5, {7})
    assert hosts.claim(7, (0, 1, 2), {7, 8, 9}) == ""


def test_a_node_that_was_started_again_under_a_new_id_takes_over_once_the_old_one_is_gone() -> None:
    hosts = Hosts()
    hosts.claim(7, (0, 1), {7})
    assert hosts.claim(8, (0, 1), {7, 8})
    assert not hosts.is_turned_away(8, {8})
    assert hosts.claim(8, (0, 1), {8}) == ""
    assert hosts.is_turned_away(7, {7, 8}) and hosts.claim(7, (0, 1), {7, 8})


class Deployment:
    """Three nodes behind a patient grid; node n says it hosts ``devices[n]``."""

    def __init__(self, devices: dict[int, Sequence[int]], horizon_s: float = 100.0) -> None:
        def client(message: Message) -> RecordDict:
            hosted = list(devices[message.metadata.dst_node_id])
            return RecordDict({CONFIG: ConfigRecord({"cluster": "Leh", "devices": hosted})})

        self.inner = FakeGrid(client, num_nodes=3)
        self.events: list[dict[str, Any]] = []
        self.now_s = 1.0
        self.grid = PatientGrid(
            self.inner, clock=lambda: self.now_s, on_event=self.events.append, horizon_s=horizon_s
        )

    def ask(self, *nodes: int) -> dict[int, Message]:
        replies = self.grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])
        return {reply.metadata.src_node_id: reply for reply in replies}

    def told(self, *kinds: str) -> list[tuple[str, int]]:
        return [(event["event"], event["node"]) for event in self.events if event["event"] in kinds]


def test_a_node_that_names_anothers_devices_is_told_so_and_asked_no_more() -> None:
    deployment = Deployment({1: (0, 1), 2: (2, 3), 3: (3,)})
    deployment.ask(1)
    deployment.ask(2)
    (reply,) = deployment.ask(3).values()
    assert reply.has_error() and reply.error.code == TURNED_AWAY
    assert "device 3, which node 2 hosts already" in str(reply.error.reason)
    assert list(deployment.grid.get_node_ids()) == [1, 2]
    deployment.ask(1, 2, 3)
    assert deployment.told("joined", "turned-away") == [("joined", 1), ("joined", 2), ("turned-away", 3)]
    (turned_away,) = [event for event in deployment.events if event["event"] == "turned-away"]
    assert turned_away["devices"] == [3] and turned_away["cluster"] == "Leh"


def test_a_node_that_was_turned_away_is_shown_again_when_the_other_is_gone() -> None:
    deployment = Deployment({1: (0,), 2: (0,), 3: (1,)})
    deployment.ask(1)
    deployment.ask(2)
    deployment.inner.node_ids.remove(1)
    assert list(deployment.grid.get_node_ids()) == [2, 3]
    assert not deployment.ask(2)[2].has_error()
    assert deployment.told("joined", "turned-away") == [("joined", 1), ("turned-away", 2), ("joined", 2)]


def test_what_was_hosted_before_a_run_was_resumed_is_remembered() -> None:
    deployment = Deployment({1: (0,), 2: (0,), 3: (1,)})
    deployment.grid.remember(1, (0,))
    assert deployment.ask(2)[2].has_error()


def test_nobody_is_waited_for_beyond_the_horizon() -> None:
    deployment = Deployment({1: (0,), 2: (1,), 3: (2,)}, horizon_s=5.0)
    deployment.now_s = 5.0
    assert deployment.ask(1) == {}
