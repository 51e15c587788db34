"""A run that lost a worker goes on by itself, from what it saved, and not for ever."""

from pathlib import Path

from server.launch.flower_run import FlowerRun, RunEnd
from server.launch.restart import LostWorker, follow_on


class Scripted(FlowerRun):
    """A run whose output and end are given."""

    def follow(self) -> RunEnd:
        assert self.watch is not None
        for line in self.command:
            self.watch(line)
        return RunEnd(completed=len(self.command) == 1, reason="")


def tries(lines: list[list[str]]) -> list[dict[str, object]]:
    """Return the settings of each start of a run with these outputs."""
    seen: list[dict[str, object]] = []

    def prepare(settings: dict[str, object], watch: LostWorker) -> FlowerRun:
        seen.append(settings)
        said = lines[min(len(seen), len(lines)) - 1]
        return Scripted(command=said, list_command=[], environment={}, silence_s=1.0, watch=watch)

    follow_on(prepare, {"seed": 3})
    return seen


DIED = "The run stopped: a worker process died (killed, or out of memory)"


def test_a_lost_worker_starts_the_run_again_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").touch()
    said = [f"run folder: {tmp_path}", DIED]
    assert tries([said, ["done"]]) == [{"seed": 3}, {"seed": 3, "run.resume": str(tmp_path)}]


def test_it_gives_up_after_three_more_starts(tmp_path: Path) -> None:
    (tmp_path / "state.safetensors").touch()
    assert len(tries([[f"run folder: {tmp_path}", DIED]])) == 4


def test_a_run_that_saved_nothing_or_failed_by_itself_is_not_started_again(tmp_path: Path) -> None:
    assert len(tries([[f"run folder: {tmp_path}", DIED]])) == 1
    (tmp_path / "state.safetensors").touch()
    assert len(tries([[f"run folder: {tmp_path}", "The run was refused"]])) == 1
