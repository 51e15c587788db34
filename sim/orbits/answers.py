"""What a file says that was to hold elements and does not: the answer of a server, saved in their place."""

import json
import re
from contextlib import suppress
from html.parser import HTMLParser

_MAX_SHOWN = 200


def shown_answer(text: str) -> str:
    """Return the words of an answer on one line, at most 200 characters, without brackets and tags."""
    text = text.strip()
    if text[:1] in ("{", "["):
        with suppress(ValueError):
            text = " ".join(_texts(json.loads(text)))
    elif text[:1] == "<":
        page = _Words()
        page.feed(text)
        page.close()
        text = " ".join(page.words)
    words = re.sub(r"[^\S ]|[\x00-\x1f\x7f]", " ", " ".join(text.split()))
    return words if len(words) <= _MAX_SHOWN else words[: _MAX_SHOWN - 3] + "..."


def _texts(value: object) -> list[str]:
    """Return what a JSON value says, keys before their values."""
    if isinstance(value, dict):
        return [part for key, inner in value.items() for part in (f"{key}:", *_texts(inner))]
    if isinstance(value, list):
        return [part for inner in value for part in _texts(inner)]
    return [str(value)]


class _Words(HTMLParser):
    """The words of a page, without scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words += data.split()
