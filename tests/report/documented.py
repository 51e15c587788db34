"""What docs/events.md says, beside what logs hold."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.rooms import ROOT


def documented() -> dict[str, set[str]]:
    """Return the fields of each event that docs/events.md names."""
    text = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
    found: dict[str, set[str]] = {}
    for part in text.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        names = (
            cell
            for row in re.findall(r"^\| (`[^|]*) \|", body, re.M)
            for cell in re.findall(r"`([^`]+)`", row)
        )
        found[heading] = set(names)
    return found


def fields_of(events: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for event in events:
        for name in event:
            yield event["event"], re.sub(r"-loss\..*", "-loss.CLUSTER", name)
        for update in event.get("updates", ()):
            yield from ((event["event"], name) for name in update)


def undocumented(events: list[dict[str, Any]]) -> set[tuple[str, str]]:
    page = documented()
    everywhere = page["In every event"]
    return {
        (kind, name) for kind, name in fields_of(events) if name not in everywhere | page.get(kind, set())
    }


def events_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
