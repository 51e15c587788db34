"""Experiment trackers that people already use, through ``accelerate.tracking``: W&B and MLflow."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "ems-fl"
"""W&B's project and MLflow's experiment."""


def tracker_names(setting: str) -> tuple[str, ...]:
    """Return the trackers of ``report.trackers``, each once.

    Raises
    ------
    ValueError
        If the package of one is not installed.
    """
    names = tuple(dict.fromkeys(name for name in setting.split(",") if name))
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        packages = " ".join(missing)
        raise ValueError(
            f"report.trackers asks for {' and '.join(missing)}, and there is no such package here; install "
            f"with: .venv/bin/python -m pip install {packages} (or leave report.trackers empty)"
        )
    return names


class Trackers:
    """The trackers of one run; close them, or the last points may be lost.

    They take their own environment variables (``WANDB_MODE=offline``, ``MLFLOW_TRACKING_URI``); what they
    write on this disk goes into the run folder.
    """

    def __init__(self, trackers: Sequence["GeneralTracker"]) -> None:
        self._trackers = trackers

    @classmethod
    def start(
        cls, names: Sequence[str], folder: Path, settings: Mapping[str, bool | int | float | str]
    ) -> Self:
        """Start the trackers of a run and tell them its settings.

        Raises
        ------
        ValueError
            If a tracker will not start, such as W&B where nobody is logged in.
        """
        if not names:
            return cls([])
        # accelerate's logging refuses to work before it knows of the (one) process.
        from accelerate import PartialState
        from accelerate.tracking import MLflowTracker, WandBTracker

        PartialState(cpu=True)
        if "mlflow" in names and not os.environ.get("MLFLOW_TRACKING_URI"):
            import mlflow

            # Its own default is a file in the working folder, which Flower takes away with the app.
            mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        started: list[GeneralTracker] = []
        for name in names:
            tracker = (
                WandBTracker(PROJECT, dir=str(folder), name=folder.name)
                if name == "wandb"
                else MLflowTracker(PROJECT, logging_dir=str(folder / "mlruns"), run_name=folder.name)
            )
            try:
                tracker.start()
                tracker.store_init_configuration(dict(settings))
            except Exception as error:
                # Each package fails with exceptions of its own.
                raise ValueError(
                    f"the tracker {name} did not start ({type(error).__name__}: {error}); put that right, or "
                    "leave report.trackers empty"
                ) from error
            started.append(tracker)
        return cls(started)

    def log(self, tag: str, value: float, *, merges: int, time_s: float) -> None:
        """Add one point to a curve, at the number of merges so far."""
        for tracker in self._trackers:
            tracker.log({tag: value, "time_h": time_s / 3600.0}, step=merges)

    def close(self) -> None:
        """End all of them; what one of them fails at is its own business by then."""
        for tracker in self._trackers:
            with suppress(Exception):
                tracker.finish()
        self._trackers = []
