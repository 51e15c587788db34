"""What the commands of this room have in common: output on any terminal, and a fault is one line."""

import functools
import io
import sys
from collections.abc import Callable
from typing import ParamSpec

_Arguments = ParamSpec("_Arguments")


def one_line_faults(
    name: str,
) -> Callable[[Callable[_Arguments, int]], Callable[_Arguments, int]]:
    """Return a decorator of a command's ``main``: what it refuses is one line on stderr and exit code 1.

    Parameters
    ----------
    name : str
        Of the command; the line begins with it.
    """

    def decorate(main: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
        @functools.wraps(main)
        def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
            _write_anything()
            try:
                return main(*args, **kwargs)
            except BrokenPipeError:
                raise
            except (ValueError, OSError) as error:
                # Names of files may hold line breaks, and other libraries' messages do.
                print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
                return 1

        return run

    return decorate


def _write_anything() -> None:
    """Let what a terminal has no characters for be written as escapes, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
