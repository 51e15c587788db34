"""The contacts and ranges that an ION command file leaves behind, in seconds after the scenario's start.

Of the commands of ``ionadmin`` those count that make a contact plan: ``@`` sets the time that later ``+<s>``
count from, ``a`` adds, ``c`` changes and ``d`` deletes a contact or a range. All others, and the parts of
other programs in a node's file, are left alone.

Source: manual page ionrc(5) of ION 4.1.
"""

import datetime as dt
from collections.abc import Sequence
from difflib import get_close_matches
from math import isfinite
from typing import NamedTuple

_KINDS = ("contact", "range")
_TIME_RULE = "seconds after the reference time, as +60, or yyyy/mm/dd-hh:mm:ss"


class IonLine(NamedTuple):
    """What an ``a contact`` or ``a range`` line adds, and where it stands."""

    where: str
    kind: str
    start_s: float
    stop_s: float
    nodes: tuple[str, str]
    value: float


class _Time(NamedTuple):
    """Seconds after the Unix epoch, or after the unknown moment at which ``ionadmin`` is started."""

    is_absolute: bool
    time_s: float


def ion_lines(text: str, faults: list[str]) -> list[IonLine]:
    """Return the contacts and ranges of a command file, in its order.

    Left out are contacts and ranges of a node with itself, and those that carry nothing by definition:
    registrations (start -1) and hypothetical contacts (stop 0). A line that comes twice counts once. The
    scenario starts at the first absolute ``@``; without one, where all times are absolute, at the earliest
    contact; else when ``ionadmin`` is started.

    Parameters
    ----------
    text : str
        The file's content.
    faults : list[str]
        Appended to: every fault with its line.
    """
    commands = _Commands(faults)
    for number, raw in enumerate(text.split("\n"), start=1):
        if words := raw.split("#")[0].split():
            commands.run(words, f"line {number}")
    return commands.lines()


class _Draft(NamedTuple):
    """A line before it is known when the scenario starts."""

    where: str
    kind: str
    start: _Time
    stop: _Time
    nodes: tuple[str, str]
    value: float

    def is_same(self, kind: str, start: _Time | None, nodes: tuple[str, str]) -> bool:
        """Tell whether a command that changes or deletes means this one; of any start without one."""
        return self.kind == kind and self.nodes == nodes and start in (None, self.start)


class _Commands:
    """The state that the commands of a file build up."""

    def __init__(self, faults: list[str]) -> None:
        self._faults = faults
        self._reference = _Time(False, 0.0)
        self._first_reference: _Time | None = None
        self._drafts: list[_Draft] = []

    def run(self, words: Sequence[str], where: str) -> None:
        """Carry out one command, or note why it cannot be."""
        command, kind = words[0], words[1] if len(words) > 1 else ""
        before = len(self._faults)
        if command == "@":
            self._refer(words, where)
        elif command in ("a", "c", "d") and kind in _KINDS:
            {"a": self._add, "c": self._change, "d": self._delete}[command](words, where)
        elif command in ("a", "c", "d") and (near := get_close_matches(kind, _KINDS, n=1, cutoff=0.8)):
            self._faults.append(f"{where}: unknown command '{command} {kind}', did you mean {near[0]}?")
        del self._faults[before + 1 :]  # one fault a line: what follows from it says nothing new

    def lines(self) -> list[IonLine]:
        """Return what is there at the end, in seconds after the scenario's start."""
        absolute = [draft for draft in self._drafts if draft.start.is_absolute]
        for draft in self._drafts:
            ends = (draft.start.is_absolute, draft.stop.is_absolute)
            if not all(ends) and (absolute or any(ends)):
                self._faults.append(
                    f"{draft.where}: counts from when ionadmin is started, which absolute times beside it do "
                    "not say; begin the file with '@ yyyy/mm/dd-hh:mm:ss'"
                )
                return []
        zero_s = min((d.start.time_s for d in absolute if d.kind == "contact"), default=0.0)
        if self._first_reference is not None and absolute:
            zero_s = self._first_reference.time_s
        different: dict[tuple[object, ...], _Draft] = {}
        for draft in self._drafts:  # files of several nodes put together say the same
            different.setdefault(draft[1:], draft)
        found = [
            IonLine(d.where, d.kind, d.start.time_s - zero_s, d.stop.time_s - zero_s, d.nodes, d.value)
            for d in different.values()
        ]
        for line in found:
            if line.start_s < 0 and line.kind == "contact":
                self._faults.append(
                    f"{line.where}: must start at 0 or later, not {-line.start_s:g} s before the scenario"
                )
        return found

    def _refer(self, words: Sequence[str], where: str) -> None:
        """Set the reference time; ``@ 0`` is when ionadmin runs."""
        if words[1:] == ["0"]:
            self._reference = _Time(False, 0.0)
        elif len(words) != 2:
            self._faults.append(f"{where}: '@' needs one time, got {' '.join(words[1:])!r}")
        elif time := self._time(words[1], "reference time", where):
            self._reference = time
            if time.is_absolute and self._first_reference is None:
                self._first_reference = time

    def _add(self, words: Sequence[str], where: str) -> None:
        """Add a contact or a range."""
        kind = words[1]
        if not 7 <= len(words) <= 8:
            self._faults.append(f"{where}: 'a {kind}' needs start, stop, two nodes and a value, got "
                                f"{' '.join(words)!r}")  # fmt: skip
            return
        nodes = (words[4], words[5])
        if nodes[0] == nodes[1] or (kind == "contact" and (words[2] == "-1" or words[3] == "0")):
            return
        start, stop = self._time(words[2], "start", where), self._time(words[3], "stop", where)
        value = self._number(words[6], "value", where)
        confidence = self._number(words[7], "confidence", where) if len(words) == 8 else 1.0
        if start is None or stop is None or value is None or confidence is None:
            return
        if start.is_absolute == stop.is_absolute and not start.time_s < stop.time_s:
            self._faults.append(
                f"{where}: must start at 0 or later and stop later than that, got {words[2]} {words[3]}"
            )
        if value < 0 or (kind == "contact" and value == 0):
            self._faults.append(f"{where}: a rate must be > 0 and a light time >= 0, got {words[6]}")
        if confidence != 1.0:
            self._faults.append(
                f"{where}: a contact of confidence {words[7]} is imputed from the past and not scheduled; a "
                "plan here knows no chances: delete the line, or write 1.0"
            )
        self._drafts.append(_Draft(where, kind, start, stop, nodes, value))

    def _change(self, words: Sequence[str], where: str) -> None:
        """Change the rate of a contact."""
        if words[1] != "contact" or not 6 <= len(words) <= 7:
            self._faults.append(
                f"{where}: 'c contact' needs start, two nodes and a rate, got {' '.join(words)!r}"
            )
            return
        start, nodes = self._time(words[2], "start", where), (words[3], words[4])
        rate = self._number(words[5], "rate", where)
        places = [p for p, draft in enumerate(self._drafts) if draft.is_same("contact", start, nodes)]
        if start is None or rate is None:
            return
        if not places or rate <= 0:
            why = "no contact before it has this start and nodes" if not places else "a rate must be > 0"
            self._faults.append(f"{where}: {why}, got {' '.join(words)!r}")
        for place in places:
            self._drafts[place] = self._drafts[place]._replace(value=rate)

    def _delete(self, words: Sequence[str], where: str) -> None:
        """Delete a contact or a range, or with ``*`` all of a pair of nodes."""
        if len(words) != 5:
            self._faults.append(f"{where}: 'd {words[1]}' needs start and two nodes, got {' '.join(words)!r}")
            return
        if words[2] in ("0", "-1") or words[3] == words[4]:
            return  # of those that are left out
        start = None if words[2] == "*" else self._time(words[2], "start", where)
        if start is None and words[2] != "*":
            return
        nodes = (words[3], words[4])
        kept = [draft for draft in self._drafts if not draft.is_same(words[1], start, nodes)]
        if len(kept) == len(self._drafts) and start is not None:
            self._faults.append(f"{where}: no {words[1]} before it has this start and nodes")
        self._drafts = kept

    def _time(self, word: str, name: str, where: str) -> _Time | None:
        """Return a time, relative ones after the present reference; None, and note why, for no time."""
        try:
            if word.startswith("+"):
                after_s = float(word)
                if not (isfinite(after_s) and word[1:2].isdigit()):
                    raise ValueError
                return self._reference._replace(time_s=self._reference.time_s + after_s)
            instant = dt.datetime.strptime(word, "%Y/%m/%d-%H:%M:%S").replace(tzinfo=dt.UTC)
        except ValueError:
            self._faults.append(f"{where}: the {name} must be {_TIME_RULE}, got {word!r}")
            return None
        return _Time(True, instant.timestamp())

    def _number(self, word: str, name: str, where: str) -> float | None:
        """Return a finite number; None, and note why, for anything else."""
        try:
            value = float(word)
            if not isfinite(value):
                raise ValueError
        except ValueError:
            self._faults.append(f"{where}: the {name} must be a finite number, got {word!r}")
            return None
        return value
