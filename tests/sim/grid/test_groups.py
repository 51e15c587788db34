"""Many nodes' work in one message: taken apart as put together, equal arrays once, and no event differs."""

from typing import Any

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st

from sim.grid.grid import SatelliteGrid
from sim.grid.groups import client_fault, each_of_group, is_group, pack, unpack
from sim.grid.message_bytes import content_bytes, encode_content
from sim.grid.workers import WorkerOutOfMemoryError, WorkersLostError
from sim.plans.plan import ContactPlan
from tests.fake_grid import FakeGrid
from tests.sim.grid.skies import flat, people


def content(value: float, size: int = 3, **numbers: int) -> RecordDict:
    arrays = ArrayRecord({"w": Array(np.full(size, value, np.float32)), "v": Array(np.zeros((1, 2)))})
    return RecordDict(
        {"arrays": arrays, "config": ConfigRecord({"node": 1, **numbers}), "m": MetricRecord({"loss": value})}
    )


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.5, -0.0]), st.integers(1, 3), st.booleans()), min_size=1))
def test_what_is_packed_comes_out_byte_for_byte(rows: list[tuple[float, int, bool]]) -> None:
    contents = [
        Error(7, f"fault {at}") if broken else content(value, size, at=at)
        for at, (value, size, broken) in enumerate(rows)
    ]
    again = unpack(pack(contents))
    for was, now in zip(contents, again, strict=True):
        if isinstance(was, Error):
            assert isinstance(now, Error) and (now.code, now.reason) == (was.code, was.reason)
        else:
            assert isinstance(now, RecordDict)
            assert encode_content(now) == encode_content(was) and content_bytes(now) == content_bytes(was)
            np.testing.assert_array_equal(
                now.array_records["arrays"]["w"].numpy(), was.array_records["arrays"]["w"].numpy()
            )


def test_equal_arrays_travel_once_and_different_ones_in_one_piece() -> None:
    same = pack([content(1.0, 25_000, at=at) for at in range(50)])
    assert content_bytes(same) < 1.2 * content_bytes(content(1.0, 25_000)) + 50 * 200
    different = pack([content(float(at), 25_000) for at in range(50)])
    assert len(different.array_records) == 1 and len(different.array_records["stack-0"]) == 2


app = ClientApp(mods=[each_of_group])


@app.train()
def answer(message: Message, _: Context) -> Message:
    sky = message.content.config_records["sky"]
    if sky["node"] == 3:
        raise ValueError("the battery is empty")
    value = np.full(4, float(sky["node"]), np.float32)  # type: ignore[arg-type]
    return Message(RecordDict({"arrays": ArrayRecord({"w": Array(value)})}), reply_to=message)


def client(message: Message) -> RecordDict:
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = app(message, context)
    if reply.has_error():
        raise RuntimeError(reply.error.reason)
    return reply.content


def drive(is_grouped: bool, num_nodes: int = 2) -> tuple[list[dict[str, Any]], dict[int, Any], FakeGrid]:
    """Ask twelve nodes of two clusters, and return the log, the answers by node and the real messages."""
    contacts = {name: tuple(flat(at, at + 500.0, 1e4, 1e4) for at in (10.0, 5000.0)) for name in "AB"}
    log: list[dict[str, Any]] = []
    inner = FakeGrid(client, num_nodes=num_nodes)
    grid = SatelliteGrid(
        inner,
        ContactPlan(horizon_s=9000.0, contacts=contacts),
        people({"A": [300.0] * 6, "B": [40.0] * 6}),
        min_steps=1,
        max_steps=9,
        on_event=log.append,
        is_grouped=is_grouped,
    )
    shared = content(1.0, 500)
    waiting, found = set(grid.push_messages([Message(shared, node, "train") for node in range(1, 13)])), {}
    while not grid.is_over:
        for reply in grid.pull_messages(waiting):
            node = reply.metadata.src_node_id
            found[node] = reply.error.code if reply.has_error() else encode_content(reply.content)
    return log, found, inner


def test_groups_change_no_event_and_no_answer_and_need_fewer_messages() -> None:
    log, found, single = drive(is_grouped=False)
    grouped_log, grouped_found, grouped = drive(is_grouped=True)
    assert grouped_log == log and grouped_found == found and len(found) == 12
    assert found[3] == 2, "the code of a client that raised"
    assert len(single.pushed) == 12
    assert len(grouped.pushed) <= 4
    assert all(is_group(message.content) for message in grouped.pushed)


def test_no_node_is_idle_while_work_is_known() -> None:
    _, _, inner = drive(is_grouped=True, num_nodes=4)
    assert {message.metadata.dst_node_id for message in inner.pushed} == {1, 2, 3, 4}


def test_a_worker_that_died_ends_the_run_instead_of_failing_its_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def died(_: FakeGrid, message: Message) -> Message:
        return Message(Error(0, "<class 'ray.exceptions.ActorDiedError'>: pid 12\nmore"), reply_to=message)

    monkeypatch.setattr(FakeGrid, "_answer", died)
    with pytest.raises(WorkersLostError, match=r"a worker process died.*ActorDiedError"):
        drive(is_grouped=True)


@pytest.mark.parametrize(
    "fault",
    [
        MemoryError("no more"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_worker_without_memory_ends_the_run_instead_of_failing_its_nodes(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def lacked(_: FakeGrid, message: Message) -> Message:
        return Message(client_fault(fault), reply_to=message)

    monkeypatch.setattr(FakeGrid, "_answer", lacked)
    with pytest.raises(
        WorkerOutOfMemoryError, match=r"a worker ran out of memory: (Memory|Runtime)Error: .+"
    ):
        drive(is_grouped=False)


def test_what_else_a_client_raises_is_its_nodes_fault() -> None:
    assert client_fault(RuntimeError("no convergence")).reason == "RuntimeError: no convergence"
