"""``scene.json``: what a run stands on that its events do not say, written when it begins.

Clusters, their contacts, the satellites, the model's sizes: what maps and timelines need. The report
reads it and does without where a run has none, such as one of an older version.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from server.record.run_folder import write_atomically

SCENE_FILE = "scene.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One contact of a cluster.

    Parameters
    ----------
    rise_s, set_s : float
        Seconds of the run's clock.
    down_bytes, up_bytes : float
        What the link carries in it.
    satellites : tuple[str, ...]
        Who serves.
    """

    rise_s: float
    set_s: float
    down_bytes: float
    up_bytes: float
    satellites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterScene:
    """One cluster on the ground.

    Parameters
    ----------
    name, domain : str
        The cluster, and what its text is about.
    latitude_deg, longitude_deg : float
        WGS84.
    num_devices : int
        In it.
    first_node : int
        Node id of its first node; the others follow. 0 where nodes are only known when they report.
    node_devices : tuple[int, ...]
        Devices of each node.
    node_step_s : tuple[float, ...]
        Seconds of one local step on each node.
    passes : tuple[Pass, ...]
        In order of time; empty where no sky is simulated.
    """

    name: str
    domain: str
    latitude_deg: float
    longitude_deg: float
    num_devices: int
    first_node: int = 0
    node_devices: tuple[int, ...] = ()
    node_step_s: tuple[float, ...] = ()
    passes: tuple[Pass, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Track:
    """The ground track of one satellite: degrees at 0, ``step_s``, 2 ``step_s``, ...; None off the map."""

    satellite: str
    longitude_deg: tuple[float | None, ...]
    latitude_deg: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelScene:
    """Sizes of the model.

    Parameters
    ----------
    name, family : str
        As given, and the checkpoint's own type.
    layers : tuple[int, ...]
        Decoder layers with experts.
    num_experts, expert_parameters : tuple[int, ...]
        Of each such layer: routed experts, and parameters of one.
    shared_parameters : int
        Of everything else.
    bytes_per_parameter : int
        In the type it is held in.
    top_k : int
        Experts a token uses in a layer.
    """

    name: str
    family: str
    layers: tuple[int, ...]
    num_experts: tuple[int, ...]
    expert_parameters: tuple[int, ...]
    shared_parameters: int
    bytes_per_parameter: int
    top_k: int

    def bytes_held(self, experts_per_layer: Sequence[int]) -> int:
        """Return the bytes of a sub-model with so many experts of each layer."""
        of_experts = sum(n * size for n, size in zip(experts_per_layer, self.expert_parameters, strict=True))
        return (self.shared_parameters + of_experts) * self.bytes_per_parameter

    def step_flops(self, experts_per_layer: Sequence[int], tokens: int, *, all_weights: bool) -> float:
        """Estimate the floating-point operations of one training step.

        Two a token for each parameter that it uses going forward and two going back through the frozen
        ones, and two more for the gradient of those that learn: 4 a parameter for an adapter, 6 for full
        tuning (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Attention scores are left out.
        """
        used = sum(
            min(n, self.top_k) * size
            for n, size in zip(experts_per_layer, self.expert_parameters, strict=True)
        )
        return tokens * (4.0 * (self.shared_parameters + used) + (2.0 * used if all_weights else 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything of a run that stands before its first event.

    Parameters
    ----------
    start_utc : str
        ISO instant that the run's seconds count from; empty where a plan does not say.
    horizon_s : float
        Longest the run may last, on its clock.
    is_simulated : bool
        Whether the sky is.
    clusters : tuple[ClusterScene, ...]
        In the population's order.
    model : ModelScene
        What is tuned.
    tokens_per_step : int
        Of one device.
    all_weights : bool
        Whether whole experts are tuned, not adapters.
    num_satellites : int
        Of the whole sky; ``tracks`` may show fewer.
    track_step_s : float
        Between two samples of a track.
    tracks : tuple[Track, ...]
        Empty where the satellites are not known.
    """

    start_utc: str
    horizon_s: float
    is_simulated: bool
    clusters: tuple[ClusterScene, ...]
    model: ModelScene
    tokens_per_step: int
    all_weights: bool = False
    num_satellites: int = 0
    track_step_s: float = 60.0
    tracks: tuple[Track, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What one cluster's model says after a beginning that no device has seen, before and after tuning."""

    cluster: str
    beginning: str
    original: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What only the models can say, measured when the run ends.

    Parameters
    ----------
    relevance : dict[str, tuple[tuple[float, ...], ...]]
        Cluster -> layer -> share of its routing mass on each expert.
    moved : tuple[tuple[float, ...], ...]
        Layer -> Frobenius norm of the change of each expert's weights.
    completions : tuple[Completion, ...]
        A few of each cluster.
    """

    relevance: dict[str, tuple[tuple[float, ...], ...]]
    moved: tuple[tuple[float, ...], ...]
    completions: tuple[Completion, ...] = ()


FINDINGS_FILE = "findings.json"
Kind = TypeVar("Kind")


def write_scene(folder: Path, scene: Scene) -> None:
    """Write ``scene.json`` into a run folder, atomically."""
    _write(folder / SCENE_FILE, scene)


def read_scene(folder: Path) -> Scene:
    """Return the scene of a run; as `read_findings`."""
    return _read(folder / SCENE_FILE, TypeAdapter(Scene))


def write_findings(folder: Path, findings: Findings) -> None:
    """Write ``findings.json`` into a run folder, atomically."""
    _write(folder / FINDINGS_FILE, findings)


def read_findings(folder: Path) -> Findings:
    """Return what was measured at a run's end.

    Raises
    ------
    FileNotFoundError
        If the file is not there: the run is of an older version, or has not come so far.
    ValueError
        If it is damaged or of another version.
    """
    return _read(folder / FINDINGS_FILE, TypeAdapter(Findings))


def _write(path: Path, value: Scene | Findings) -> None:
    write_atomically(path, json.dumps(asdict(value), allow_nan=False, separators=(",", ":")) + "\n")


def _read(path: Path, adapter: TypeAdapter[Kind]) -> Kind:
    try:
        return adapter.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(
            f"{path} is damaged, or another version of EMS-FL wrote it ({where}: {first['msg']})"
        ) from error
