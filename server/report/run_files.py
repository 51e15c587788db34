"""Everything that lies in a run folder, read with patience: what is missing or damaged is said, not fatal."""

import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flwr.common.config import flatten_dict

from scenario.settings.config import Scalar
from server.record.history import History, LogEnd, whole_events
from server.record.run_folder import CONFIG_FILE, RESUME_FILE
from server.record.run_log import EVENTS_FILE
from server.record.scene import (
    FINDINGS_FILE,
    SCENE_FILE,
    Findings,
    Scene,
    read_findings,
    read_scene,
)
from server.report.summary import SUMMARY_FILE, RunSummary, read_summary

OF_A_RUN = (CONFIG_FILE, RESUME_FILE, EVENTS_FILE, SUMMARY_FILE)
"""A folder with one of these is that of a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFiles:
    """One run as its folder tells it.

    Parameters
    ----------
    folder : Path
        Where.
    settings : dict
        Flat, by dotted key; empty where ``config.toml`` cannot be read.
    made_with : str
        Versions, from the head of ``config.toml``.
    history : History
        What the event log says.
    scene, findings, summary
        None where the run has none, or none yet.
    missing : tuple[str, ...]
        A sentence for each thing that is not there or cannot be read.
    state : {"ended", "going", "stopped"}
        ``going`` only while the run itself draws the page; a folder without a summary may be either.
    """

    folder: Path
    settings: dict[str, Scalar]
    made_with: str
    history: History
    scene: Scene | None = None
    findings: Findings | None = None
    summary: RunSummary | None = None
    missing: tuple[str, ...] = ()
    state: Literal["ended", "going", "stopped"] = "ended"

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def strategy(self) -> str:
        """Name of the strategy, as far as it is known."""
        return self.summary.strategy if self.summary else str(self.settings.get("strategy", "a run"))

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters, in the population's order where it is known."""
        # A scene has none where clusters are known on contact.
        if self.scene and self.scene.clusters:
            return tuple(cluster.name for cluster in self.scene.clusters)
        if self.summary:
            return tuple(cluster.name for cluster in self.summary.clusters)
        if self.scene:
            return tuple(sorted(set(self.history.cluster_of.values())))
        found = {name for point in self.history.evaluations for name in point.merged}
        return tuple(sorted(found | set(self.history.passes)))

    @property
    def num_devices(self) -> dict[str, int]:
        """Devices of each cluster, as far as they are known: beforehand, or from those who said so."""
        if self.scene and self.scene.clusters:
            return {cluster.name: cluster.num_devices for cluster in self.scene.clusters}
        found: Counter[str] = Counter()
        for node in self.history.device_names:
            found[self.history.cluster_of[node]] += self.history.devices_of[node]
        return dict(found)

    @property
    def end_s(self) -> float:
        """End of the run on its clock, or how far it has come."""
        return max(self.summary.clock_s if self.summary else 0.0, self.history.last_s)

    def experts_per_layer(self, cluster: str) -> tuple[int, ...]:
        """Return how many experts of every layer a cluster tunes; empty where that is not known."""
        if self.history.assignment is not None and self.scene:
            layers = [
                int(name.partition(".")[0]) for name in self.history.assignment["experts"].get(cluster, ())
            ]
            return tuple(layers.count(layer) for layer in self.scene.model.layers)
        if self.scene and self.strategy == "fedavg":
            return self.scene.model.num_experts
        return ()


def history_for(scene: Scene | None) -> History:
    """Return an empty history that knows the nodes of a scene."""
    cluster_of: dict[int, str] = {}
    devices_of: dict[int, int] = {}
    step_s_of: dict[int, float] = {}
    for cluster in scene.clusters if scene else ():
        for at, devices in enumerate(cluster.node_devices if cluster.first_node else ()):
            cluster_of[cluster.first_node + at] = cluster.name
            devices_of[cluster.first_node + at] = devices
        for at, step_s in enumerate(cluster.node_step_s):
            step_s_of[cluster.first_node + at] = step_s
    by_node = scene is not None and not scene.is_simulated
    return History(cluster_of, devices_of, step_s_of=step_s_of, by_node=by_node)


@dataclass(slots=True)
class _Reader:
    folder: Path
    missing: list[str] = field(default_factory=list)

    def settings(self) -> tuple[dict[str, Scalar], str]:
        path = self.folder / CONFIG_FILE
        try:
            text = path.read_text(encoding="utf-8")
            made_with = next((line[2:] for line in text.splitlines() if line.startswith("# Made with")), "")
            return flatten_dict(tomllib.loads(text)), made_with
        except (OSError, ValueError) as error:
            self.missing.append(f"its settings: {path} cannot be read ({error})")
            return {}, ""

    def events(self, history: History) -> None:
        path, end = self.folder / EVENTS_FILE, LogEnd()
        try:
            for event in whole_events(path, end):
                history.note(event)
        except OSError as error:
            self.missing.append(f"its events: {path} cannot be read ({error.strerror})")
        except (KeyError, TypeError, ValueError) as error:
            number = history.kinds.total()
            self.missing.append(
                f"its events from number {number} of {EVENTS_FILE} on: another version wrote them ({error!r})"
            )
        if end.bad_line:
            self.missing.append(
                f"what came after line {end.bad_line - 1} of {EVENTS_FILE}: the next line is cut or damaged "
                f"({end.reason})"
            )


def read_run(folder: Path) -> RunFiles:
    """Return what is in a run folder.

    Raises
    ------
    ValueError
        If it is the folder of no run: it has none of a run's files.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not the folder of a run: there is no such folder")
    if not any((folder / name).is_file() for name in OF_A_RUN):
        raise ValueError(f"{folder} is not the folder of a run: it has none of {', '.join(OF_A_RUN)}")
    reader = _Reader(folder)
    settings, made_with = reader.settings()
    scene = _scene(reader)
    history = history_for(scene)
    reader.events(history)
    summary = _summary(reader)
    return RunFiles(
        folder=folder,
        settings=settings,
        made_with=made_with,
        history=history,
        scene=scene,
        findings=_findings(reader, has_ended=summary is not None),
        summary=summary,
        missing=tuple(reader.missing),
        state="ended" if summary else "stopped",
    )


def _scene(reader: _Reader) -> Scene | None:
    try:
        return read_scene(reader.folder)
    except FileNotFoundError:
        reader.missing.append(
            f"places, contacts and sizes, and so the maps and the windows: there is no {SCENE_FILE}; runs of "
            "an older version have none"
        )
    except (OSError, ValueError) as error:
        reader.missing.append(f"places, contacts and sizes: {error}")
    return None


def _findings(reader: _Reader, *, has_ended: bool) -> Findings | None:
    try:
        return read_findings(reader.folder)
    except FileNotFoundError:
        why = "runs of an older version have none" if has_ended else "it is written when a run ends"
        reader.missing.append(
            f"relevance, movement of the experts and words: there is no {FINDINGS_FILE}; {why}"
        )
    except (OSError, ValueError) as error:
        reader.missing.append(f"relevance, movement of the experts and words: {error}")
    return None


def _summary(reader: _Reader) -> RunSummary | None:
    if not (reader.folder / SUMMARY_FILE).is_file():
        reader.missing.append(
            f"the last losses and the costs: there is no {SUMMARY_FILE}, so the run is still going or was "
            f"stopped; go on with it: ems-fl resume {reader.folder}"
        )
        return None
    try:
        return read_summary(reader.folder)
    except (OSError, ValueError) as error:
        reader.missing.append(f"the last losses and the costs: {error}")
    return None
