"""What a run writes as it goes says so when the disk is full, and can go on when it is not any more."""

from pathlib import Path

import pytest

from scenario.settings.reading import read_config
from server.record.event_log import EventLog, read_events
from server.record.run_folder import create_run_folder, write_atomically
from server.record.run_log import RunLog
from tests.full_disk import contents, files_at_most

CONFIG = read_config({"run.heartbeat-s": 3600.0})


def test_an_event_that_does_not_fit_is_an_error_and_half_a_line_is_cut_off_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    log.append({"event": "one"})
    saved = log.offset
    says = rf"the event log cannot be written to {path} .*File too large.*free some space"
    with files_at_most(saved + 5):
        with pytest.raises(OSError, match=says):
            log.append({"event": "two"})
        log.close()  # has nothing new to say
    assert len(path.read_bytes()) == saved + 5
    log = EventLog(path)
    log.truncate(saved)
    log.append({"event": "three"})
    log.close()
    assert read_events(path) == [{"event": "one"}, {"event": "three"}]


# TensorBoard's own thread says it once more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("what", ["timings", "curves"])
def test_timings_and_curves_say_so_too_and_hide_no_other_error(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "run"
    with pytest.raises(OSError, match=rf"the {what} cannot be written to {folder}/{what}.*File too large"):
        fill(folder, what)
    with pytest.raises(KeyError, match="first"), RunLog.create(tmp_path / "again", CONFIG) as log:
        log.scalar("loss", 1.0, merges=0, time_s=0.0)
        with files_at_most(0), log.doing("failing"):
            raise KeyError("first")


def fill(folder: Path, what: str) -> None:
    """Write one line after another to a disk that ends at 500 bytes."""
    with RunLog.create(folder, CONFIG) as log, files_at_most(500):
        for merges in range(50):
            if what == "curves":
                log.scalar("loss", 1.0, merges=merges, time_s=0.0)
            else:
                log.timing("a step", 1.0)
        log.sync()


def test_a_log_that_cannot_be_flushed_to_the_end_closes_every_file(tmp_path: Path) -> None:
    log = RunLog.create(tmp_path / "run", CONFIG)
    with files_at_most(0):
        for write in (lambda: log.event({"event": "one"}), lambda: log.timing("a step", 1.0)):
            with pytest.raises(OSError, match="cannot be written"):
                write()
        log.close()
    # The lock is free: the run can be resumed by this very process.
    EventLog(tmp_path / "run" / "events.jsonl").close()


def test_a_run_folder_that_cannot_be_written_is_not_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "name"
    with (
        files_at_most(10),
        pytest.raises(ValueError, match=r"cannot be written \(.*File too large.*run\.dir"),
    ):
        create_run_folder(folder, CONFIG)
    assert not folder.exists()
    folder.mkdir(parents=True)
    with files_at_most(10), pytest.raises(ValueError, match="File too large"):
        create_run_folder(folder, CONFIG)
    assert list(folder.iterdir()) == []


def test_a_text_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    write_atomically(tmp_path / "summary.json", "old")
    says = r"summary\.json cannot be written to .*File too large.* are free there"
    with files_at_most(3), pytest.raises(OSError, match=says):
        write_atomically(tmp_path / "summary.json", "newer")
    assert contents(tmp_path) == {"summary.json": b"old"}
