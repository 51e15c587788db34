"""What a silent run says of what it waits for."""

import threading
from pathlib import Path

import pytest

from scenario.settings.reading import read_config
from server.record.run_log import RunLog


def test_a_silent_run_says_what_is_awaited_unless_it_does_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, lines = threading.Event(), list[str]()

    def listen(line: str) -> None:
        lines.append(line)
        said.set()

    with RunLog.create(tmp_path / "run", read_config({"run.heartbeat-s": 0.05})) as log:
        monkeypatch.setattr(log, "say", listen)
        log.awaits = lambda: "waiting for the update of node 7"
        assert said.wait(20)
        with log.doing("measuring"):
            said.clear()
            assert said.wait(20)
    assert lines[0].startswith("... working (") and lines[0].endswith("): waiting for the update of node 7")
    assert lines[-1].startswith("... measuring (") and lines[-1].endswith(" s)")
