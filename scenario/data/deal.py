"""Deal texts to clusters and their devices: apart as long as they go round, drawn from a pool where not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import numpy as np

from scenario.data import partition
from scenario.data.partition import Indices
from scenario.data.text_source import LabelledTexts
from scenario.tables.table import some
from sim.population import Device, Population


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPart:
    """Indices of the texts of one cluster.

    Parameters
    ----------
    heldout : Indices
        What nobody trains on; at least one.
    training : Indices
        What its devices are dealt; at least one.
    devices : tuple[Indices, ...]
        Parts of ``training``, a device each in order, at least one text each; apart from each other unless
        there are fewer texts than devices.
    """

    heldout: Indices
    training: Indices
    devices: tuple[Indices, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """Who has which texts.

    Parameters
    ----------
    domains : tuple[str, ...]
        Of each cluster; "mixed" where the partitioner mixes them.
    kin : tuple[tuple[int, ...], ...]
        Per cluster the positions of the clusters whose texts are of the same kind, itself first.
    parts : tuple[ClusterPart, ...]
        Of each cluster; what any holds out, none trains on.
    notes : tuple[str, ...]
        What a person should know.
    """

    domains: tuple[str, ...]
    kin: tuple[tuple[int, ...], ...]
    parts: tuple[ClusterPart, ...]
    notes: tuple[str, ...]


def exchanged(
    domains: Sequence[str],
    kin: Sequence[Sequence[int]],
    parts: Sequence[ClusterPart],
    order: Sequence[int],
    sizes: Mapping[int, int],
) -> tuple[tuple[str, ...], list[tuple[int, ...]], list[ClusterPart]]:
    """Return domains, kin and parts with each cluster holding what another held.

    Parameters
    ----------
    domains, kin, parts
        As of `Deal`.
    order : sequence of int
        Of each cluster the position of the one whose texts it takes over, a permutation. A device takes over
        those of the device at its place in the other cluster; in a smaller one the places are counted round.
    sizes : Mapping[int, int]
        Devices of each cluster, by position.
    """
    back = {other: at for at, other in enumerate(order)}
    wide = [
        replace(parts[other], devices=tuple(islice(cycle(parts[other].devices), sizes[at])))
        for at, other in enumerate(order)
    ]
    return (
        tuple(domains[other] for other in order),
        [tuple(back[position] for position in kin[other]) for other in order],
        wide,
    )


def deal(
    found: LabelledTexts,
    partitioner: str,
    dirichlet_alpha: float,
    population: Population,
    heldout_share: float,
    seed: int,
    stream: int,
    mixing: float = 0.0,
) -> Deal:
    """Deal texts as `scenario.data.federated_text.load_federated_text` says.

    Parameters
    ----------
    stream : int
        Of the random numbers, another for each partitioner.
    mixing : float
        In [0, 1]; see there.

    Raises
    ------
    ValueError
        If a cluster has no text to hold out and another to train on.
    """
    rng = np.random.default_rng([seed, stream])
    num_clusters = len(population.clusters)
    names = [cluster.name for cluster in population.clusters]
    shuffled, domains, notes = _to_clusters(found, partitioner, dirichlet_alpha, names, rng)
    if mixing:
        shuffled = partition.mixed(shuffled, mixing, rng)
    kin = _kin(domains, apart=partitioner in ("dirichlet", "cluster") or bool(mixing))
    pooled = {
        position for position, of_kind in enumerate(kin) if any(len(shuffled[other]) < 2 for other in of_kind)
    }
    _refuse_too_few(shuffled, domains, kin, pooled, population)
    if pooled:
        notes.append(
            f"{len(pooled)} clusters share the training texts and the held-out texts of their domains, which"
            " have less than two texts for each of their clusters"
        )
    halves = [
        _halves(shuffled, kin[position], position in pooled, heldout_share)
        for position in range(num_clusters)
    ]
    own = _devices_by_cluster(population)
    # A stream of its own, so that what is dealt apart does not depend on whether some of it is drawn.
    drawing = np.random.default_rng([seed, stream, 1])
    parts, num_drawing = [], 0
    for position, (heldout, training) in enumerate(halves):
        devices = own[names[position]]
        if found.holders:
            _refuse_too_few_holders(training, found.holders, names[position], len(devices))
            pieces = partition.by_holder(training, found.holders, len(devices))
            parts.append(ClusterPart(heldout=heldout, training=training, devices=tuple(pieces)))
            continue
        apart = position not in pooled and len(training) >= len(devices)
        num_drawing += 0 if apart else len(devices)
        shares = [device.data_share for device in devices]
        pieces = partition.apart(training, shares) if apart else partition.drawn(training, shares, drawing)
        parts.append(ClusterPart(heldout=heldout, training=training, devices=tuple(pieces)))
    if num_drawing:
        notes.append(
            f"{num_drawing} of {len(population.devices)} devices draw their texts at random from those of"
            " their cluster, which has fewer texts than devices: a text may be on several devices"
        )
    return Deal(domains=tuple(domains), kin=kin, parts=tuple(parts), notes=tuple(notes))


def _to_clusters(
    found: LabelledTexts,
    partitioner: str,
    dirichlet_alpha: float,
    clusters: Sequence[str],
    rng: np.random.Generator,
) -> tuple[list[Indices], list[str], list[str]]:
    """Give each cluster its texts; returns parts, domain names and notes."""
    num_clusters = len(clusters)
    mixed = ["mixed"] * num_clusters
    if partitioner == "cluster":
        return _by_cluster(found, clusters, rng)
    if partitioner == "iid":
        return partition.iid(len(found.texts), num_clusters, rng), mixed, []
    if partitioner == "dirichlet":
        return partition.dirichlet(found.labels, num_clusters, dirichlet_alpha, rng), mixed, []
    parts, domains = partition.by_domain(found.domains, num_clusters, rng)
    names = list(dict.fromkeys(found.domains))
    notes = []
    if len(names) > num_clusters:
        notes.append(
            f"{len(names)} domains for {num_clusters} clusters: not used are {some(names[num_clusters:])}"
        )
    if len(names) < num_clusters:
        notes.append(f"{len(names)} domains for {num_clusters} clusters: clusters share domains")
    return parts, domains, notes


def _by_cluster(
    found: LabelledTexts, clusters: Sequence[str], rng: np.random.Generator
) -> tuple[list[Indices], list[str], list[str]]:
    """Give each cluster the texts that name it."""
    unknown = [name for name in dict.fromkeys(found.clusters) if name not in set(clusters)]
    if missing := [name for name in clusters if name not in set(found.clusters)]:
        there = some(list(dict.fromkeys(found.clusters)))
        raise ValueError(
            f"no text is of the clusters {some(missing)}; the data names {there}. Name the clusters of "
            "population.sites as the data does, or have fewer population.clusters"
        )
    notes = []
    if unknown:
        count = sum(name in set(unknown) for name in found.clusters)
        notes.append(f"{count} texts of clusters that take no part are not used: {some(unknown)}")
    return partition.by_name(found.clusters, clusters, rng), list(clusters), notes


def _refuse_too_few_holders(
    training: Indices, holders: Sequence[str], cluster: str, num_devices: int
) -> None:
    count = len({holders[text] for text in training.tolist()})
    if count < num_devices:
        raise ValueError(
            f"cluster {cluster!r} has {num_devices} devices and the texts of {count} holders "
            "(data.device-column), who are not divided; lower population.devices"
        )


def _kin(domains: Sequence[str], *, apart: bool) -> tuple[tuple[int, ...], ...]:
    """List for each cluster those of its domain, itself first; only itself where mixtures differ."""
    if apart:
        return tuple((position,) for position in range(len(domains)))
    of_domain: dict[str, list[int]] = {}
    for position, domain in enumerate(domains):
        of_domain.setdefault(domain, []).append(position)
    return tuple(
        (position, *(other for other in of_domain[domain] if other != position))
        for position, domain in enumerate(domains)
    )


def _halves(
    shuffled: Sequence[Indices], kin: Sequence[int], pooled: bool, heldout_share: float
) -> tuple[Indices, Indices]:
    """Return what a cluster holds out and what it trains on."""
    # In the order of the clusters, so that all that share a pool cut it in the same place.
    texts = np.concatenate([shuffled[other] for other in sorted(kin)]) if pooled else shuffled[kin[0]]
    num_heldout = min(max(1, round(heldout_share * len(texts))), len(texts) - 1)
    return texts[:num_heldout], texts[num_heldout:]


def _refuse_too_few(
    shuffled: Sequence[Indices],
    domains: Sequence[str],
    kin: Sequence[Sequence[int]],
    pooled: set[int],
    population: Population,
) -> None:
    faults = []
    for position in sorted(pooled):
        total = sum(len(shuffled[other]) for other in kin[position])
        if total < 2:
            name = population.clusters[position].name
            faults.append(f"cluster {name!r} ({domains[position]}) has {total} text{'s' * (total != 1)}")
    if faults:
        raise ValueError(
            f"every cluster needs one text to train on and one held out: {some(faults)}. Use fewer clusters,"
            " more data, or with 'dirichlet' a larger dirichlet_alpha"
        )


def places_of(population: Population) -> dict[int, tuple[int, int]]:
    """Return of each device the position of its cluster and its own within the cluster."""
    positions = {cluster.name: position for position, cluster in enumerate(population.clusters)}
    sizes = [0] * len(positions)
    places = {}
    for device in population.devices:
        cluster = positions[device.cluster]
        places[device.device_id] = (cluster, sizes[cluster])
        sizes[cluster] += 1
    return places


def _devices_by_cluster(population: Population) -> dict[str, list[Device]]:
    own: dict[str, list[Device]] = {cluster.name: [] for cluster in population.clusters}
    for device in population.devices:
        own[device.cluster].append(device)
    return own
