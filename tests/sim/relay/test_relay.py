"""The relay with real sockets: every byte comes over, none outside a contact, none before its time."""

import asyncio
import json
import socket
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.grid.capacity import Capacity
from sim.plan_files.files import write_plan
from sim.plans.plan import Contact, ContactPlan
from sim.relay.command import main
from sim.relay.relay import Carried, Relay

RATE = 400_000.0


def contact(rise_s: float, set_s: float, rate: float = RATE, delay_s: float = 0.0) -> Contact:
    knots, rates = np.array([rise_s, set_s]), np.array([rate, rate])
    return Contact(
        rise_s=rise_s, set_s=set_s, satellites=("S",), time_s=knots, down_bytes_per_s=rates,
        up_bytes_per_s=rates, delay_s=delay_s,
    )  # fmt: skip


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


PAYLOAD = bytes(np.random.default_rng(0).integers(0, 256, 150_000, dtype=np.uint8))
PLAN = ContactPlan(
    horizon_s=2.0, contacts={"Leh": (contact(0.3, 0.5), contact(1.0, 1.8, delay_s=0.05)), "Dark": ()}
)
Arrivals = list[tuple[float, int]]


async def connect(
    port: int, running: "asyncio.Future[None]"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect as soon as that is possible."""
    while not running.done():
        try:
            return await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.005)
    raise ConnectionRefusedError


async def through(
    plan: ContactPlan, cluster: str, *, speed: float = 1.0
) -> tuple[bytes, Arrivals, list[Carried]]:
    """Send the payload through a relay to a server that echoes it; return what came back, and arrivals."""
    port, carried, arrivals = free_port(), list[Carried](), list[tuple[float, int]]()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(65_536):
            arrivals.append((relay.now_s, len(chunk)))
            writer.write(chunk)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    there = server.sockets[0].getsockname()[1]
    relay = Relay(plan, {port: cluster}, ("127.0.0.1", there), on_carried=carried.append, speed=speed)
    ready = asyncio.Event()
    running = asyncio.ensure_future(relay.run(ready.set))
    await ready.wait()
    reader, writer = await connect(port, running)
    writer.write(PAYLOAD)
    writer.write_eof()
    back = await reader.read(-1)
    await running
    writer.close()
    server.close()
    return back, arrivals, carried


def play(
    awaited: Coroutine[Any, Any, tuple[bytes, Arrivals, list[Carried]]],
) -> tuple[bytes, Arrivals, list[Carried]]:
    return asyncio.run(asyncio.wait_for(awaited, 60.0))


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_every_byte_comes_over_both_ways_and_none_before_the_plan_carries_it(speed: float) -> None:
    back, arrivals, carried = play(through(PLAN, "Leh", speed=speed))
    assert back == PAYLOAD
    capacity, so_far = Capacity(contacts=PLAN.contacts["Leh"], direction="up"), 0
    for time_s, num_bytes in arrivals:
        so_far += num_bytes
        light_s = 0.05 if time_s > 0.9 else 0.0
        assert so_far <= capacity.bytes_at(time_s - light_s) + 1
    # The first contact carries 80,000 bytes: the rest had to wait for the second.
    first, second = carried
    assert 0 < first.up_bytes <= 80_000 and first.up_bytes + second.up_bytes == len(PAYLOAD)
    assert first.down_bytes + second.down_bytes == len(PAYLOAD)
    assert max(time_s for time_s, _ in arrivals) >= 1.05  # of the second, with its light time
    assert (second.rise_s, second.set_s, second.cluster) == (1.0, 1.8, "Leh")


def test_who_is_never_in_contact_finds_nobody() -> None:
    with pytest.raises(ConnectionRefusedError):
        play(through(PLAN, "Dark", speed=10.0))


def test_in_the_dark_who_is_connected_is_not_closed_and_who_connects_is_refused() -> None:
    async def attempt() -> None:
        port, ready = free_port(), asyncio.Event()
        server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
        relay = Relay(PLAN, {port: "Leh"}, ("127.0.0.1", server.sockets[0].getsockname()[1]))
        running = asyncio.ensure_future(relay.run(ready.set))
        await ready.wait()
        reader, writer = await connect(port, running)
        while relay.now_s < 0.7:  # between the set at 0.5 and the rise at 1.0
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert relay.now_s < 1.0 and not reader.at_eof()
        writer.close()
        await running
        server.close()

    asyncio.run(asyncio.wait_for(attempt(), 30.0))


def test_who_sends_little_does_not_wait_for_all_that_another_sends() -> None:
    arrivals: dict[bytes, float] = {}

    async def attempt() -> None:
        ports, ready = (free_port(), free_port()), asyncio.Event()

        async def listen(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            while chunk := await reader.read(65_536):
                arrivals[chunk[:1]] = relay.now_s

        plan = ContactPlan(horizon_s=1.5, contacts={"Leh": (contact(0.0, 1.5),)})
        server = await asyncio.start_server(listen, "127.0.0.1", 0)
        there = server.sockets[0].getsockname()[1]
        relay = Relay(plan, dict.fromkeys(ports, "Leh"), ("127.0.0.1", there))
        running = asyncio.ensure_future(relay.run(ready.set))
        await ready.wait()
        (_, much), (_, little) = [await connect(port, running) for port in ports]
        much.write(b"m" * 300_000)
        await asyncio.sleep(0.1)
        little.write(b"l" * 100)
        await running
        for writer in (much, little):
            writer.close()
        server.close()

    asyncio.run(asyncio.wait_for(attempt(), 30.0))
    assert arrivals[b"l"] < arrivals[b"m"] and arrivals[b"m"] >= 0.7


def test_a_superlink_that_is_not_there_resets_the_nodes_connection() -> None:
    async def attempt() -> bytes:
        port, ready = free_port(), asyncio.Event()
        relay = Relay(PLAN, {port: "Leh"}, ("127.0.0.1", free_port()), speed=4.0)
        running = asyncio.ensure_future(relay.run(ready.set))
        await ready.wait()
        reader, writer = await connect(port, running)
        try:
            return await reader.read(-1)
        finally:
            writer.close()
            await running

    with pytest.raises(ConnectionResetError):
        asyncio.run(asyncio.wait_for(attempt(), 30.0))


def test_a_side_that_goes_ends_the_connection_though_much_waits_to_be_taken() -> None:
    async def attempt() -> None:
        port, ready = free_port(), asyncio.Event()

        async def take_a_little_and_go(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readexactly(1000)
            await asyncio.sleep(0.5)
            writer.transport.abort()

        server = await asyncio.start_server(take_a_little_and_go, "127.0.0.1", 0)
        there = server.sockets[0].getsockname()[1]
        plan = ContactPlan(horizon_s=20.0, contacts={"Leh": (contact(0.0, 20.0, rate=1e9),)})
        relay = Relay(plan, {port: "Leh"}, ("127.0.0.1", there))
        running = asyncio.ensure_future(relay.run(ready.set))
        await ready.wait()
        reader, writer = await connect(port, running)
        # More than all buffers on the way hold: the relay waits for room when the other side goes.
        writer.write(b"x" * 30_000_000)
        with suppress(ConnectionError):
            assert await reader.read(-1) == b""
        assert relay.now_s < 15.0
        running.cancel()
        server.close()

    asyncio.run(asyncio.wait_for(attempt(), 30.0))


def test_the_command_runs_a_plan_to_its_end_and_writes_what_was_carried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, log = tmp_path / "plan.csv", tmp_path / "relay.jsonl"
    write_plan(ContactPlan(horizon_s=2.0, contacts={"Leh": (contact(0.3, 0.5),)}), file)
    to = ["--to", f"127.0.0.1:{free_port()}", "--node", f"Leh={free_port()}"]
    assert main([str(file), *to, "--speed", "20", "--log", str(log)]) == 0
    said = capsys.readouterr().out
    assert "1 contacts to 127.0.0.1" in said and "Leh is in contact until 0.5 s" in said and "is over" in said
    (line,) = [json.loads(row) for row in log.read_text().splitlines()]
    assert (line["cluster"], line["rise_s"], line["up_bytes"]) == ("Leh", 0.3, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--to", "host", "--node", "Leh=9101"], "--to must be HOST:PORT, got 'host'"),
        (["--to", "h:1", "--node", "Leh"], "--node must be CLUSTER=PORT"),
        (["--to", "h:1", "--node", "Leh=0"], "a port of 1 to 65535, got 'Leh=0'"),
        (["--to", "h:1", "--node", "Mars=9101"], "the plan knows Leh; name one of them"),
        (["--to", "h:1", "--node", "Leh=9101", "--node", "Leh=9101"], "port 9101 is another node's"),
        (["--to", "h:1", "--node", "Leh=9101", "--speed", "0"], "--speed must be > 0"),
        (["--to", "h:1", "--node", "Leh=9101", "--loss", "1"], r"--loss must be in [0, 1), got 1.0"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.csv"
    write_plan(ContactPlan(horizon_s=2.0, contacts={"Leh": (contact(0.3, 0.5),)}), file)
    assert main([str(file), *options]) == 2
    assert told in capsys.readouterr().err
    log = ["--log", str(tmp_path / "nowhere" / "relay.jsonl")]
    assert main([str(file), "--to", "h:1", "--node", "Leh=9101", *log]) == 2
    assert main([str(tmp_path / "none.csv"), "--to", "h:1", "--node", "Leh=1"]) == 2
