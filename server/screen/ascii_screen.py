"""Lines for people, on a screen that may know no letter beyond ASCII."""

from __future__ import annotations

import io
import sys


def say(text: str) -> None:
    """Print a line at once; letters that the stream cannot show are escaped."""
    print(showable(text, getattr(sys.stdout, "encoding", None)), flush=True)


def alarm(text: str) -> str:
    """Return a line in red; Flower passes the colour on to the screen, and logs show its code."""
    return f"\033[1;31m{text}\033[0m"


def showable(text: str, encoding: str | None) -> str:
    """Return a text as a stream of this encoding can show it.

    Flower copies what the app prints into a log of its own before the stream sees it, so the text itself
    must be harmless; a tolerant stream would not be enough.
    """
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def never_fail() -> None:
    """Let this process's streams escape what they cannot show, whoever prints it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
