"""The event log: JSON lines, the same bytes for the same seed, that can be cut back to a saved state."""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from moe.disk.writing import not_written


class EventLog:
    """One JSON-lines file, open for appending by this process alone.

    Parameters
    ----------
    path : Path
        Made if it does not exist; what is in it stays.

    Raises
    ------
    ValueError
        If another process is writing it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        try:
            # The kernel lets go of the lock when the process dies, so a crashed run can be resumed at once.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(
                f"another run is writing {path}; wait for it to end, or stop it, before this one is resumed"
            ) from error
        except OSError:
            # Some network file systems have no locks; a run there is as good, only not guarded.
            pass
        self._file.seek(0, os.SEEK_END)

    @property
    def offset(self) -> int:
        """Bytes so far; what a saved state must remember."""
        return self._file.tell()

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one event as a line of JSON with sorted keys.

        Parameters
        ----------
        record : Mapping[str, Any]
            JSON values and NumPy scalars. Times are seconds of the run's clock.

        Raises
        ------
        ValueError
            If a number is NaN or infinite, a value is not JSON, or a key speaks of the wall clock.
        OSError
            If the disk has no room. Half a line may be left: `truncate` cuts it off when the run goes on.
        """
        faults = list(_faults(record, ""))
        if faults:
            raise ValueError(f"the event {record!r} cannot be logged: " + "; ".join(faults))
        line = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise not_written("the event log", self.path, len(line), error) from error

    def truncate(self, offset: int) -> None:
        """Cut the log back to ``offset`` bytes, the end of a line.

        Raises
        ------
        ValueError
            If the log is shorter, or ``offset`` is inside a line.
        """
        size = os.fstat(self._file.fileno()).st_size
        if not 0 <= offset <= size:
            raise ValueError(
                f"{self.path} has {size} bytes but the saved state was written after byte {offset}: the log "
                "has been cut or replaced; resume from the state that belongs to it"
            )
        if offset:
            self._file.seek(offset - 1)
            if self._file.read(1) != b"\n":
                raise ValueError(
                    f"byte {offset} of {self.path} is inside a line: the log has been replaced; resume from "
                    "the state that belongs to it"
                )
        self._file.truncate(offset)
        self._file.seek(offset)

    def sync(self) -> None:
        """Force the log to the disk; call it before a state that remembers `offset` is saved."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise not_written("the event log", self.path, self.offset, error) from error

    def close(self) -> None:
        """Close the file and let go of it; closing twice does nothing."""
        # What could not be written was said when it was appended; saying it again would hide that.
        with suppress(OSError):
            self._file.close()


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return every event of a log, in order.

    Raises
    ------
    ValueError
        If a line is not a JSON object, with its number; a run that was killed may leave half a line.
    """
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            event = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"line {number} of {path} is not JSON ({error}); resume the run to repair it"
            ) from error
        if not isinstance(event, dict):
            raise ValueError(
                f"line {number} of {path} must be an event, got {event!r}; it is not a run's log"
            )
        events.append(event)
    return events


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar into Python's; JSON knows no other."""
    return value.item()


def _faults(value: Any, path: str) -> Iterator[str]:
    """Yield what keeps a value out of the log, naming the field."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield f"{path or 'the event'} has the key {key!r}, which is not text"
            elif key.startswith("wall"):
                yield f"{path}{key} is wall time, which differs from run to run; write it with RunLog.timing"
            else:
                yield from _faults(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _faults(inner, f"{path}[{index}]")
    elif value is None or isinstance(value, str):
        return
    elif not isinstance(value, int | float) and getattr(value, "ndim", None) != 0:
        yield f"{path} is of type {type(value).__name__}, which is not JSON"
    elif not math.isfinite(value):
        yield f"{path} must be finite, got {value}"
