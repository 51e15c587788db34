"""Who lives where: clusters on the ground, their devices, and the nodes that host the devices.

A cluster is served by the same passes, a device holds private data, a node is what a Flower
strategy talks to and hosts one or more devices of one cluster.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.faults import raise_faults
from sim.names import name_fault

# Draws further out than this many standard deviations are pulled in, so that no spread makes one
# device a thousand times slower than the rest (its cluster would wait for it for ever).
MAX_SPREAD_SIGMAS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One region whose devices are seen by the same passes, at its WGS84 centre.

    Parameters
    ----------
    name : str
        Unique, and anything that can be printed (`sim.names.name_fault`): it names the cluster in logs and
        plan files, which quote it where they must.
    latitude_deg, longitude_deg : float
        WGS84 geodetic, in [-90, 90] and [-180, 360).
    altitude_m : float
        Above the WGS84 ellipsoid, in [-500, 9000].
    elevation_mask_deg : float
        In [0, 90): a satellite below it is out of contact.
    radius_km : float
        How far around the centre its devices live, in [0, 2000]; only a sky that asks for the contact of
        whole areas looks at it.

    Raises
    ------
    ValueError
        Naming every bad field of this cluster at once.
    """

    name: str
    latitude_deg: float
    longitude_deg: float
    altitude_m: float = 0.0
    elevation_mask_deg: float = 10.0
    radius_km: float = 0.0

    def __post_init__(self) -> None:
        raise_faults(self._faults())

    def _faults(self) -> list[str]:
        """Return one sentence for each bad field; ``not (a <= x <= b)`` so that NaN is a fault."""
        of = f"for cluster {self.name!r}"
        faults = []
        if fault := name_fault(self.name):
            faults.append(f"a cluster name {fault}, got {self.name!r}")
        if not -90.0 <= self.latitude_deg <= 90.0:
            faults.append(f"latitude_deg must be in [-90, 90], got {self.latitude_deg} {of}")
        if not -180.0 <= self.longitude_deg < 360.0:
            faults.append(f"longitude_deg must be in [-180, 360), got {self.longitude_deg} {of}")
        if not -500.0 <= self.altitude_m <= 9000.0:
            faults.append(f"altitude_m must be in [-500, 9000], got {self.altitude_m} {of}; it is in metres")
        if not 0.0 <= self.elevation_mask_deg < 90.0:
            faults.append(
                f"elevation_mask_deg must be in [0, 90), got {self.elevation_mask_deg} {of}; "
                "masks are degrees above the horizon"
            )
        if not 0.0 <= self.radius_km <= 2000.0:
            faults.append(f"radius_km must be in [0, 2000], got {self.radius_km} {of}")
        return faults


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One holder of private data.

    Parameters
    ----------
    device_id : int
        0 .. number of devices - 1, in cluster order; of a node that is known on contact any number >= 0.
    cluster : str
        Name of its cluster.
    data_share : float
        > 0; how much of the cluster's data it holds, relative to the other devices of the cluster.
    step_time_s : float
        Simulated seconds of one local training step, > 0.
    memory_bytes : int
        What a sub-model may take, > 0.
    """

    device_id: int
    cluster: str
    data_share: float
    step_time_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a strategy talks to: one or more devices of one cluster.

    Parameters
    ----------
    node_id : int
        1 .. number of nodes (Flower keeps 0 for nobody).
    cluster : str
        Name of the cluster of all its devices.
    device_ids : tuple[int, ...]
        Not empty, ascending.
    step_time_s : float
        That of its slowest device: the devices train side by side and the reply waits for the last.
    """

    node_id: int
    cluster: str
    device_ids: tuple[int, ...]
    step_time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Everybody on the ground, ascending by number.

    Of a run: ``devices[i].device_id == i``, ``nodes[i].node_id == i + 1``. Nobody at all where clusters are
    only known on contact.
    """

    clusters: tuple[Cluster, ...]
    devices: tuple[Device, ...]
    nodes: tuple[Node, ...]

    def device(self, device_id: int) -> Device:
        """Return the device of that id, or raise ``ValueError`` for an unknown one."""
        at = bisect_left(self.devices, device_id, key=lambda device: device.device_id)
        if at == len(self.devices) or self.devices[at].device_id != device_id:
            known = f"{self.devices[0].device_id} to {self.devices[-1].device_id}" if self.devices else "none"
            raise ValueError(f"no device {device_id}; devices are {known}")
        return self.devices[at]

    def node(self, node_id: int) -> Node:
        """Return the node of that id, or raise ``ValueError`` for an unknown one."""
        if not 1 <= node_id <= len(self.nodes):
            raise ValueError(f"no node {node_id}; nodes are 1 to {len(self.nodes)}")
        return self.nodes[node_id - 1]

    def cluster(self, name: str) -> Cluster:
        """Return the cluster of that name, or raise ``ValueError`` listing the names there are."""
        for cluster in self.clusters:
            if cluster.name == name:
                return cluster
        raise ValueError(f"no cluster {name!r}; clusters: {', '.join(c.name for c in self.clusters)}")

    def cluster_devices(self, name: str) -> tuple[Device, ...]:
        """Return the devices of one cluster, ascending."""
        self.cluster(name)
        return tuple(device for device in self.devices if device.cluster == name)

    def cluster_nodes(self, name: str) -> tuple[Node, ...]:
        """Return the nodes of one cluster, ascending."""
        self.cluster(name)
        return tuple(node for node in self.nodes if node.cluster == name)


def build_population(
    *,
    clusters: Sequence[Cluster],
    num_devices: int,
    devices_per_node: int,
    step_time_s: float,
    speed_spread: float,
    data_spread: float,
    memory_bytes: int,
    seed: int,
) -> Population:
    """Deal devices to clusters evenly and in order, and draw their speeds and data shares.

    With 96 devices and 8 clusters, devices 0..11 live in the first cluster, 12..23 in the second.
    Where it does not divide, the first clusters hold one device more. Step time and data share are
    log-normal, cut at two standard deviations.

    Parameters
    ----------
    clusters : Sequence[Cluster]
        At least one, with different names.
    num_devices : int
        At least one a cluster.
    devices_per_node : int
        >= 1; the last node of a cluster hosts what is left.
    step_time_s : float
        Median over the devices of the simulated seconds of one local step, > 0.
    speed_spread, data_spread : float
        Standard deviation of the logarithm of step time and of data share, in [0, 3]; 0 makes all
        devices equal, 0.5 makes the slowest about 2.7 times slower than the median.
    memory_bytes : int
        Memory of every device for a sub-model, > 0.
    seed : int
        >= 0; the same seed gives the same population.

    Returns
    -------
    Population
        Devices 0.., nodes 1.., both in cluster order.

    Raises
    ------
    ValueError
        Naming every impossible setting at once.
    """
    faults = [
        *_cluster_faults(clusters, num_devices),
        *_number_faults(devices_per_node, step_time_s, speed_spread, data_spread, memory_bytes, seed),
    ]
    raise_faults(faults)
    # One stream a quantity, so that a change of one spread leaves the other quantity as it was.
    speed_rng, data_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    step_times_s = step_time_s * _spread(speed_rng, num_devices, speed_spread)
    data_shares = _spread(data_rng, num_devices, data_spread)
    sizes = [len(part) for part in np.array_split(np.arange(num_devices), len(clusters))]
    names = [cluster.name for cluster, size in zip(clusters, sizes, strict=True) for _ in range(size)]
    devices = tuple(
        Device(
            device_id=index,
            cluster=name,
            data_share=float(data_shares[index]),
            step_time_s=float(step_times_s[index]),
            memory_bytes=memory_bytes,
        )
        for index, name in enumerate(names)
    )
    return Population(
        clusters=tuple(clusters), devices=devices, nodes=_host(clusters, devices, devices_per_node)
    )


def _host(clusters: Sequence[Cluster], devices: Sequence[Device], devices_per_node: int) -> tuple[Node, ...]:
    """Cut the devices of each cluster into nodes."""
    nodes: list[Node] = []
    for cluster in clusters:
        own = [device for device in devices if device.cluster == cluster.name]
        for start in range(0, len(own), devices_per_node):
            hosted = own[start : start + devices_per_node]
            nodes.append(
                Node(
                    node_id=len(nodes) + 1,
                    cluster=cluster.name,
                    device_ids=tuple(device.device_id for device in hosted),
                    step_time_s=max(device.step_time_s for device in hosted),
                )
            )
    return tuple(nodes)


def _spread(rng: np.random.Generator, count: int, sigma: float) -> np.ndarray:
    """Draw ``count`` log-normal factors with median 1."""
    draws = np.clip(rng.standard_normal(count), -MAX_SPREAD_SIGMAS, MAX_SPREAD_SIGMAS)
    factors: np.ndarray = np.exp(sigma * draws)
    return factors


def _cluster_faults(clusters: Sequence[Cluster], num_devices: int) -> list[str]:
    """Return what is wrong with the clusters and the number of devices."""
    faults = []
    names = [cluster.name for cluster in clusters]
    if not names:
        faults.append("a population needs at least one cluster, got none")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        faults.append(f"cluster names must differ, got more than one of: {', '.join(repeated)}")
    if num_devices < max(1, len(names)):
        faults.append(
            f"num_devices must be at least one a cluster ({len(names)} clusters), got {num_devices}; "
            "give more devices or fewer clusters"
        )
    return faults


def _number_faults(
    devices_per_node: int,
    step_time_s: float,
    speed_spread: float,
    data_spread: float,
    memory_bytes: int,
    seed: int,
) -> list[str]:
    """Return what is wrong with the scalar settings; the comparisons are false for NaN."""
    faults = []
    if devices_per_node < 1:
        faults.append(f"devices_per_node must be >= 1, got {devices_per_node}")
    if not 0.0 < step_time_s < float("inf"):
        faults.append(f"step_time_s must be a finite number > 0, got {step_time_s}")
    for name, value in (("speed_spread", speed_spread), ("data_spread", data_spread)):
        if not 0.0 <= value <= 3.0:
            faults.append(f"{name} must be in [0, 3], got {value}; it is a standard deviation of a logarithm")
    if memory_bytes < 1:
        faults.append(f"memory_bytes must be >= 1, got {memory_bytes}")
    if seed < 0:
        faults.append(f"seed must be >= 0, got {seed}")
    return faults
