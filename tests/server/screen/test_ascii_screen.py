"""A screen that knows only ASCII ends nothing."""

import subprocess
import sys

from server.screen.ascii_screen import showable
from tests.rooms import ROOT

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "PATH": ""}


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], env=ASCII, cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_letters_that_a_stream_cannot_show_are_escaped() -> None:
    assert showable("é \udce9", "ascii") == "\\xe9 \\udce9"
    assert showable("é", "utf-8") == "é"
    assert showable("\udce9", "utf-8") == "\\udce9"
    assert showable("é", None) == "é"


def test_a_line_of_the_run_is_said_on_an_ascii_screen() -> None:
    said = run("-c", "from server.screen.ascii_screen import say; say('S\\u00e3o Gabriel')")
    assert (said.returncode, said.stdout) == (0, "S\\xe3o Gabriel\n"), said.stderr


def test_streams_that_never_fail_escape_what_others_print() -> None:
    said = run("-c", "from server.screen.ascii_screen import never_fail; never_fail(); print('S\\u00e3o')")
    assert (said.returncode, said.stdout) == (0, "S\\xe3o\n"), said.stderr


def test_the_launcher_refuses_in_ascii_what_was_written_in_more() -> None:
    said = run("-m", "server.launch", "run.name=São", "no-such-ké=1")
    assert said.returncode == 2 and "UnicodeEncodeError" not in said.stderr
    assert "S\\xe3o" in said.stderr and "no-such-k\\xe9" in said.stderr
