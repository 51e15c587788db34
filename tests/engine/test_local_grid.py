"""The ClientApp in this process or in a pool: the same replies, faults that stay apart, deaths survived."""

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from time import sleep

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from engine.client_call import take_part_in_a_run
from engine.in_process import InProcess
from engine.local_grid import Computer, LocalGrid
from engine.processes import Processes
from tests.engine.little_app import load


def order(number: int, **more: str) -> Message:
    return Message(RecordDict({"order": ConfigRecord({"number": number, **more})}), 1, "train")


@pytest.fixture(params=["in-process", "processes"])
def computer(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Computer]:
    take_part_in_a_run()
    settings = {"dead": str(tmp_path / "dead")}
    made: Computer = (
        InProcess(load, settings)
        if request.param == "in-process"
        else Processes(load, settings, num_workers=2)
    )
    yield made
    made.close()


def answers(replies: list[Message]) -> dict[str, object]:
    """Return what came of each message, by its id."""
    return {
        reply.metadata.reply_to_message_id: f"{reply.error.code}: {reply.error.reason}"
        if reply.has_error()
        else reply.content.config_records["answer"]["twice"]
        for reply in replies
    }


def test_every_message_gets_its_own_reply(computer: Computer) -> None:
    grid = LocalGrid(computer)
    replies = grid.send_and_receive([order(number) for number in range(5)])
    assert answers(replies) == {f"local-{number}": 2 * number for number in range(5)}
    pids = {reply.content.config_records["answer"]["pid"] for reply in replies}
    assert (os.getpid() in pids) == isinstance(computer, InProcess)


def test_what_a_client_raises_is_the_error_of_its_message_alone(computer: Computer) -> None:
    replies = LocalGrid(computer).send_and_receive([order(1), order(2, **{"raise": "no power"}), order(3)])
    assert answers(replies) == {"local-0": 2, "local-1": "2: ValueError: no power", "local-2": 6}


def test_unknown_and_repeated_ids_pull_nothing(computer: Computer) -> None:
    grid = LocalGrid(computer)
    grid.send_and_receive([order(1)])
    assert grid.pull_messages(["local-0", "local-7"]) == []


def test_ctrl_c_in_a_client_of_this_process_is_no_reply() -> None:
    take_part_in_a_run()

    def interrupted(_: object, __: object) -> Message:
        raise KeyboardInterrupt

    grid = LocalGrid(InProcess(lambda: interrupted, {}))  # type: ignore[arg-type,return-value]
    with pytest.raises(KeyboardInterrupt):
        grid.send_and_receive([order(1)])


def test_work_of_a_killed_worker_is_done_again(tmp_path: Path) -> None:
    take_part_in_a_run()
    computer = Processes(load, {"dead": str(tmp_path / "dead")}, num_workers=2)
    try:
        grid = LocalGrid(computer)
        replies = grid.send_and_receive([order(n, **({"die": "once"} if n == 2 else {})) for n in range(6)])
        assert (tmp_path / "dead").exists()
        assert answers(replies) == {f"local-{number}": 2 * number for number in range(6)}
    finally:
        computer.close()


def test_work_that_kills_every_worker_ends_the_run_and_says_what_to_lower(tmp_path: Path) -> None:
    take_part_in_a_run()
    computer = Processes(load, {"dead": str(tmp_path / "dead")}, num_workers=1)
    try:
        with pytest.raises(RuntimeError, match=r"killed by SIGKILL.*fewer --workers.*model\.kept-mb"):
            LocalGrid(computer).send_and_receive([order(1, die="always")])
    finally:
        computer.close()


def test_a_closed_pool_leaves_no_process_behind() -> None:
    take_part_in_a_run()
    computer = Processes(load, {}, num_workers=2)
    LocalGrid(computer).send_and_receive([order(1), order(2)])
    mine = multiprocessing.active_children()
    assert mine
    computer.close()
    for _ in range(100):
        if not any(process.is_alive() for process in mine):
            break
        sleep(0.05)
    assert not any(process.is_alive() for process in mine)
