"""The page of a run that goes on: kept from its events, written anew at evaluations."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.record.scene import Scene
from server.report.html_page import PAGE_FILE, prepare, write_page
from server.report.run_files import read_run

COST_SHARE = 0.02
"""Of the wall time, that writing pages may take while the run goes on."""


class LivePage:
    """One run's page while it runs.

    Parameters
    ----------
    folder : Path
        The run's, with its settings; events that are there already (a resumed run's) are read.
    scene : Scene
        Of the run; `server.record.scene.write_scene` has written it.
    """

    def __init__(self, folder: Path, scene: Scene) -> None:
        known = read_run(folder)
        self._run = replace(known, scene=scene, summary=None, findings=None, missing=(), state="going")
        self._not_before_s = 0.0
        prepare()  # so that the first page costs no more than the others

    def note(self, event: Mapping[str, Any]) -> None:
        """Take in one event."""
        self._run.history.note(event)

    def refresh(self) -> bool:
        """Write the page, unless pages have cost more than 2 % of the time; says whether it did.

        Raises
        ------
        OSError
            If the disk has no room.
        """
        began_s = time.monotonic()
        if began_s < self._not_before_s:
            return False
        write_page(self._run.folder / PAGE_FILE, [self._run])
        took_s = time.monotonic() - began_s
        self._not_before_s = time.monotonic() + took_s / COST_SHARE
        return True


def attempt(write: Callable[[], object]) -> str:
    """Write a page and return "", or a sentence of why it could not be drawn.

    A chart that fails must not end a run of days. A full disk does: nothing else could be written either.
    """
    try:
        write()
    except OSError:
        raise
    except Exception as error:
        return (
            f"the page could not be drawn ({type(error).__name__}: {error}); the run itself is not touched "
            "by that, please report it"
        )
    return ""


def final_page(folder: Path) -> Path:
    """Write the page of a run that has ended, from its folder, and return its path."""
    return write_page(folder / PAGE_FILE, [read_run(folder)])
