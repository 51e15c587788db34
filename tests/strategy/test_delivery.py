"""Experts over the link: nobody trains what it lacks, nothing travels twice, what was lost comes again."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from moe.experts import ExpertId
from strategy.delivery.messages import (
    DELIVERY,
    Piece,
    delivered_reply,
    delivery_instruction,
    freight_bytes,
    lacks_reply,
    piece_names,
    read_delivery,
)
from strategy.delivery.pieces import PieceDelivery
from strategy.ems_fl import EmsFl
from strategy.messages import Profile, read_task
from strategy.wire.arrays import encode_arrays
from tests.fake_grid import FakeGrid
from tests.strategy.world import ArithmeticClient, Ticks, settings, zeros

TWO = {1: "sea", 2: "ice", 3: "ice"}
FAVOURITE = {"sea": 1, "ice": 3}


def piece(name: str, num_bytes: int = 40) -> Piece:
    return Piece(name=name, extents=(("model.safetensors", 0, num_bytes),), sha256="00")


@dataclass
class Pieces:
    """Three pieces an expert, two shared ones if wanted."""

    brings_shared: bool = False
    travels: bool = False
    sizes: Mapping[str, int] = field(default_factory=lambda: {"model.safetensors": 1000})
    base: str = "base-1"

    @property
    def shared(self) -> Sequence[Piece]:
        return tuple(piece(f"shared/{at}") for at in range(2)) if self.brings_shared else ()

    def of(self, expert: ExpertId) -> Sequence[Piece]:
        return tuple(piece(f"{expert.name}/{at}") for at in range(3))

    def data(self, piece: Piece) -> bytes | None:
        return bytes(piece.num_bytes) if self.travels else None


class Devices(ArithmeticClient):
    """Nodes that keep what they are sent, and refuse to train or to profile what they lack."""

    disks: dict[int, set[str]]
    sent: Counter[tuple[int, str]]
    orders: list[tuple[int, str]]
    loses_after: int | None = None
    """Deliveries after which a node's disk is found empty, once."""
    pieces: Pieces

    def __call__(self, message: Message) -> RecordDict:
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        disk = self.disks.setdefault(node, set())
        self.orders.append((node, kind))
        if kind == DELIVERY:
            names = piece_names(message)
            self.sent.update((node, name) for name in names)
            disk.update(names)
            if self.loses_after == sum(1 for other, kind in self.orders if (other, kind) == (node, DELIVERY)):
                disk.clear()
            return delivered_reply(names, message).content
        if kind == "query":
            assert disk >= {piece.name for piece in self.pieces.shared}
            return super().__call__(message)
        experts = {key.expert for key in read_task(message).values}
        if lost := {e for e in experts if not disk >= {piece.name for piece in self.pieces.of(e)}}:
            assert self.loses_after is not None, f"node {node} was asked to train what it was not sent"
            return lacks_reply(lost, message).content
        return super().__call__(message)


def devices(clusters: Mapping[int, str] = TWO, pieces: Pieces | None = None) -> Devices:
    made = Devices(clusters=clusters, favourite=FAVOURITE)
    made.disks, made.sent, made.orders, made.pieces = {}, Counter(), [], pieces or Pieces()
    return made


def play(
    client: Devices,
    *,
    message_bytes: int = 100,
    max_merges: int = 4,
    delay: Callable[[int], int] = lambda _: 0,
    **changes: object,
) -> tuple[EmsFl, list[dict[str, object]]]:
    events: list[dict[str, object]] = []
    strategy = EmsFl(
        settings(("sea", "ice"), **changes),
        clock=Ticks(),
        on_event=events.append,
        delivery=PieceDelivery(client.pieces, message_bytes),
    )
    grid = FakeGrid(client, num_nodes=len(client.clusters), delay=delay)
    strategy.start(grid, encode_arrays(zeros()), max_merges, 2000.0)
    return strategy, events


def test_a_node_is_sent_its_clusters_experts_once_and_only_those() -> None:
    client = devices()
    strategy, _ = play(client)
    assert strategy.state.merges == 4
    for node, cluster in TWO.items():
        wanted = {f"{layer}.{FAVOURITE[cluster]}/{at}" for layer in (0, 2) for at in range(3)}
        assert {name for other, name in client.sent if other == node} == wanted
    assert set(client.sent.values()) == {1}


@pytest.mark.parametrize(("message_bytes", "most"), [(1, 1), (80, 2), (119, 2), (120, 3), (1000, 6)])
def test_a_message_carries_what_fits_and_at_least_one_piece(message_bytes: int, most: int) -> None:
    client = devices()
    play(client, message_bytes=message_bytes)
    kinds = Counter(order for order in client.orders if order[1] == DELIVERY)
    assert set(kinds.values()) == {-(-6 // most)}


def test_the_shared_part_comes_before_the_first_question() -> None:
    client = devices(pieces=Pieces(brings_shared=True))
    strategy, _ = play(client)
    assert strategy.state.merges == 4
    for node in TWO:
        assert [kind for other, kind in client.orders if other == node][:2] == [DELIVERY, "query"]
    assert set(client.sent.values()) == {1}
    assert {name for _, name in client.sent} >= {"shared/0", "shared/1"}


def test_what_a_node_says_it_holds_is_not_sent_to_it() -> None:
    class Equipped(Devices):
        def profile(self, node: int) -> Profile:
            expert = ExpertId(0, 1)
            self.disks[node] |= {piece.name for piece in self.pieces.of(expert)}
            return replace(super().profile(node), held=(expert,))

    client = Equipped(clusters=TWO, favourite=FAVOURITE)
    client.disks, client.sent, client.orders, client.pieces = {}, Counter(), [], Pieces()
    play(client)
    assert {name for node, name in client.sent if node == 1} == {"2.1/0", "2.1/1", "2.1/2"}


def test_a_node_whose_disk_lost_experts_is_sent_them_again() -> None:
    client = devices({1: "sea", 2: "ice"})
    client.loses_after = 2
    strategy, events = play(client)
    assert strategy.state.merges == 4
    reasons = [str(event["reason"]) for event in events if event["event"] == "refused"]
    assert len(reasons) == 2 and all("does not hold experts that it had acknowledged" in r for r in reasons)
    assert set(client.sent.values()) == {2}
    assert not strategy.state.refused


def test_a_node_that_keeps_losing_them_is_left_alone() -> None:
    class Leaky(Devices):
        def __call__(self, message: Message) -> RecordDict:
            content = super().__call__(message)
            self.disks[message.metadata.dst_node_id].clear()
            return content

    client = Leaky(clusters={1: "sea", 2: "ice"}, favourite=FAVOURITE)
    client.disks, client.sent, client.orders, client.pieces = {}, Counter(), [], Pieces()
    client.loses_after = -1
    strategy, _ = play(client, max_failures=3)
    assert set(strategy.state.refused) == {1, 2}
    assert Counter(kind for _, kind in client.orders)["train"] == 6


@pytest.mark.parametrize("claimed", [(), ("9.9/0",), ("0.1/0", "shared/7")])
def test_a_node_that_acknowledges_what_it_was_not_sent_is_refused(claimed: tuple[str, ...]) -> None:
    class Liar(Devices):
        def __call__(self, message: Message) -> RecordDict:
            if message.metadata.message_type == DELIVERY:
                return delivered_reply(claimed, message).content
            return super().__call__(message)

    client = Liar(clusters={1: "sea"}, favourite=FAVOURITE)
    client.disks, client.sent, client.orders, client.pieces = {}, Counter(), [], Pieces()
    strategy, _ = play(client, max_failures=2, profile_wait_s=5.0)
    assert set(strategy.state.refused) == {1}
    assert strategy.state.held.get(1, set()) == set()


def test_a_new_assignment_sends_only_what_is_new() -> None:
    delivery = PieceDelivery(Pieces(), 1000)
    held = {7: {f"0.1/{at}" for at in range(3)}}
    (message,) = delivery.messages([7], lambda _: (ExpertId(0, 1), ExpertId(0, 2)), held)
    assert piece_names(message) == ("0.2/0", "0.2/1", "0.2/2")
    held[7] |= set(piece_names(message))
    assert delivery.messages([7], lambda _: (ExpertId(0, 2),), held) == []
    assert delivery.is_complete((ExpertId(0, 1),), held[7])
    assert not delivery.is_complete((ExpertId(0, 3),), held[7])


def test_a_message_that_flower_refuses_to_push_is_no_delivery() -> None:
    class Busy(FakeGrid):
        def push_messages(self, messages: Iterable[Message]) -> list[str]:
            kept = [m for m in messages if m.metadata.message_type != DELIVERY or next(refusals) > 5]
            return super().push_messages(kept)

    refusals = count()
    client = devices()
    events: list[dict[str, object]] = []
    strategy = EmsFl(
        settings(("sea", "ice")),
        clock=Ticks(),
        on_event=events.append,
        delivery=PieceDelivery(client.pieces, 1000),
    )
    strategy.start(Busy(client, num_nodes=3), encode_arrays(zeros()), 4, 2000.0)
    assert next(refusals) > 6 and strategy.state.merges == 4
    assert [event for event in events if event["event"] == "refused"] == []


def test_provisional_experts_are_delivered_too() -> None:
    client = devices({1: "sea"})
    strategy, _ = play(client, is_provisional=True, profile_wait_s=1e6, max_merges=0)
    assert strategy.state.assignment is None
    assert client.trained and {name.partition("/")[0] for _, name in client.sent} == {"0.1", "2.1"}


@pytest.mark.parametrize("travels", [True, False])
def test_a_delivery_reads_as_it_was_written(travels: bool) -> None:
    FakeGrid(lambda _: None)  # a Message needs a run
    pieces = Pieces(travels=travels)
    sent = pieces.of(ExpertId(0, 1))
    message = delivery_instruction(3, sent, pieces)
    found = read_delivery(message)
    assert found.base == pieces.base and found.sizes == {"model.safetensors": 1000}
    assert found.pieces == tuple((piece, bytes(40) if travels else None) for piece in sent)
    assert freight_bytes(message.content) == (0 if travels else 120)


def test_a_broken_delivery_is_refused() -> None:
    FakeGrid(lambda _: None)
    message = delivery_instruction(3, Pieces().of(ExpertId(0, 1)), Pieces())
    del message.content.config_records["delivery"]["freight-bytes"]
    with pytest.raises(ValueError, match="neither bytes nor their number"):
        read_delivery(message)
    with pytest.raises(ValueError, match="cannot be read"):
        read_delivery(Message(RecordDict(), 3, DELIVERY))


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    delays=st.lists(st.integers(0, 6), min_size=1, max_size=9),
    message_bytes=st.integers(1, 300),
    brings_shared=st.booleans(),
    is_provisional=st.booleans(),
)
def test_in_whatever_order_replies_come_nobody_trains_what_it_lacks(
    delays: list[int], message_bytes: int, brings_shared: bool, is_provisional: bool
) -> None:
    client = devices(pieces=Pieces(brings_shared=brings_shared))
    strategy, events = play(
        client,
        message_bytes=message_bytes,
        delay=lambda number: delays[number % len(delays)],
        is_provisional=is_provisional,
        max_merges=6,
    )
    # `Devices` asserts it at each message, and the fake grid makes a refusal of what is raised there.
    assert [event for event in events if event["event"] == "refused"] == []
    assert strategy.state.merges >= 6
    assert set(client.sent.values()) == {1}


@pytest.mark.parametrize(
    ("kind", "field", "value", "said"),
    [
        (DELIVERY, "names", 5, "names of its answer must be a list of names"),
        (DELIVERY, "names", [1, 2], "names of its answer must be a list of names"),
        ("train", "lacks", 5, "lacks of its answer must be a list of names"),
        ("train", "lacks", ["x.y"], "'x.y' names no expert"),
        ("train", "lacks", ["1"], "'1' names no expert"),
    ],
)
def test_a_hostile_answer_is_refused_and_the_run_goes_on(
    kind: str, field: str, value: int | list[int] | list[str], said: str
) -> None:
    class Hostile(Devices):
        def __call__(self, message: Message) -> RecordDict:
            if message.metadata.dst_node_id == 1 and message.metadata.message_type == kind:
                return RecordDict({"delivery": ConfigRecord({field: value})})
            return super().__call__(message)

    client = Hostile(clusters=TWO, favourite=FAVOURITE)
    client.disks, client.sent, client.orders, client.pieces = {}, Counter(), [], Pieces()
    strategy, events = play(client, max_failures=3)
    assert strategy.state.merges >= 4
    reasons = [str(event["reason"]) for event in events if event["event"] == "refused"]
    assert reasons and all(said in reason for reason in reasons)
    assert set(strategy.state.refused) <= {1}
