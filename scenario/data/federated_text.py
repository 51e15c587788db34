"""Who has which text: a device's own examples and each cluster's held-out set.

Deterministic from the source, the seed and the population, so that every process of a run deals the
same texts without talking to the others.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from transformers import PreTrainedTokenizerBase

from demo.packing import pack
from scenario.data import partition
from scenario.data.deal import ClusterPart, deal
from scenario.data.text_source import read_texts
from scenario.tables.table import some
from sim.population import Population

__all__ = ["PARTITIONERS", "FederatedText", "check_blocks", "load_federated_text", "pack"]

PARTITIONERS = ("domain", "iid", "dirichlet")

_LONGEST_TOKEN_CHARS = 32
"""No tokenizer's mean token is longer, runs of blanks in source code included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedText:
    """Texts dealt to devices and held-out sets; no text is both trained on and held out.

    Parameters
    ----------
    domains : tuple[str, ...]
        Domain of each cluster in the population's order; "mixed" where a partitioner mixes them.
    notes : tuple[str, ...]
        What a person should know about the deal, such as domains nobody got; often empty.
    """

    domains: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _seed: int
    _texts: Sequence[str] = field(repr=False)
    _parts: Sequence[ClusterPart] = field(repr=False)
    _kin: Sequence[Sequence[int]] = field(repr=False)
    _places: Mapping[int, tuple[int, int]] = field(repr=False)
    """Of each device: position of its cluster, and its own in the cluster."""
    _clusters: Mapping[str, int] = field(repr=False)

    def device_texts(self, device_id: int) -> list[str]:
        """List the training texts of a device; at least one.

        Raises
        ------
        ValueError
            If the population has no such device.
        """
        cluster, position = self._place(device_id)
        return [self._texts[index] for index in self._parts[cluster].devices[position]]

    def more_device_texts(self, device_id: int) -> Iterator[str]:
        """Yield training texts of others that a device takes, one by one, if its own fill no example.

        First those of its cluster, then those of clusters of its domain, in a random order that is the
        device's own.

        Raises
        ------
        ValueError
            If the population has no such device.
        """
        cluster, position = self._place(device_id)
        rng = np.random.default_rng([self._seed, 0, device_id])
        given = set(self._parts[cluster].devices[position].tolist())
        return self._more([self._parts[other].training for other in self._kin[cluster]], given, rng)

    def heldout_texts(self, cluster: str) -> list[str]:
        """List the texts of a cluster that no device of any cluster trains on; at least one.

        Raises
        ------
        ValueError
            If the population has no such cluster.
        """
        return [self._texts[index] for index in self._parts[self._position(cluster)].heldout]

    def more_heldout_texts(self, cluster: str) -> Iterator[str]:
        """Yield texts that other clusters of the domain hold out, for a set that fills no example.

        Raises
        ------
        ValueError
            If the population has no such cluster.
        """
        position = self._position(cluster)
        rng = np.random.default_rng([self._seed, 1, position])
        given = set(self._parts[position].heldout.tolist())
        return self._more([self._parts[other].heldout for other in self._kin[position]], given, rng)

    def _place(self, device_id: int) -> tuple[int, int]:
        if device_id not in self._places:
            known = f"0 to {max(self._places)}" if self._places else "none"
            raise ValueError(f"there is no device {device_id}; devices are {known}")
        return self._places[device_id]

    def _position(self, cluster: str) -> int:
        if cluster not in self._clusters:
            raise ValueError(f"there is no cluster {cluster!r}; clusters are {', '.join(self._clusters)}")
        return self._clusters[cluster]

    def _more(
        self, pools: Iterable[partition.Indices], given: set[int], rng: np.random.Generator
    ) -> Iterator[str]:
        for pool in pools:
            for index in rng.permutation(pool).tolist():
                if index not in given:
                    given.add(index)
                    yield self._texts[index]


def load_federated_text(
    *,
    source: str,
    text_column: str,
    domain_column: str,
    label_column: str,
    split: str,
    partitioner: str,
    dirichlet_alpha: float,
    population: Population,
    heldout_share: float,
    seed: int,
) -> FederatedText:
    """Read a data source and deal its texts to the population.

    Parameters
    ----------
    source : str
        ``"embedded"``, a file that `scenario.tables` can read, a folder that `datasets` can read, or a
        name on the Hugging Face hub (``name`` or ``name:configuration``).
    text_column : str
        Column of the text; several joined by ``+`` are put together, a line break between them.
    domain_column, label_column : str
        Columns of the domain and of the label, or "".
    split : str
        The dataset's split, slices such as ``train[:10%]`` included.
    partitioner : {"domain", "iid", "dirichlet"}
        ``domain``: one domain a cluster. ``iid``: all mixed. ``dirichlet``: the label (else the domain) is
        skewed over clusters with ``dirichlet_alpha`` > 0.
    population : Population
        Its devices' ``data_share`` sizes their parts within their cluster.
    heldout_share : float
        Part of each cluster's texts held out, in (0, 1); at least one text.
    seed : int
        >= 0; seeds every draw.

    Returns
    -------
    FederatedText
        Every device has at least one text, every cluster at least one held-out text. Devices have texts
        of their own as long as these go round, and draw from their cluster's where they do not.

    Raises
    ------
    ValueError
        If a setting is out of range, the source is missing or lacks a column, or a cluster would be
        empty; says which and what to change.
    """
    _check_settings(partitioner, dirichlet_alpha, heldout_share, seed)
    found = read_texts(
        source,
        text_column=text_column,
        domain_column=domain_column,
        label_column=label_column,
        split=split,
        needs={"domain": "domain", "dirichlet": "label"}.get(partitioner, ""),
    )
    dealt = deal(
        found,
        partitioner,
        dirichlet_alpha,
        population,
        heldout_share,
        seed,
        stream=PARTITIONERS.index(partitioner),
    )
    return FederatedText(
        domains=dealt.domains,
        notes=(*found.notes, *dealt.notes),
        _seed=seed,
        _texts=found.texts,
        _parts=dealt.parts,
        _kin=dealt.kin,
        _places=_places(population),
        _clusters={cluster.name: position for position, cluster in enumerate(population.clusters)},
    )


def _places(population: Population) -> dict[int, tuple[int, int]]:
    """Return of each device the position of its cluster and its own within the cluster."""
    positions = {cluster.name: position for position, cluster in enumerate(population.clusters)}
    sizes = [0] * len(positions)
    places = {}
    for device in population.devices:
        cluster = positions[device.cluster]
        places[device.device_id] = (cluster, sizes[cluster])
        sizes[cluster] += 1
    return places


def _check_settings(partitioner: str, dirichlet_alpha: float, heldout_share: float, seed: int) -> None:
    faults = []
    if partitioner not in PARTITIONERS:
        faults.append(f"partitioner must be one of {', '.join(PARTITIONERS)}, got {partitioner!r}")
    if not 0.0 < heldout_share < 1.0:
        faults.append(f"heldout_share must be in (0, 1), got {heldout_share}")
    if partitioner == "dirichlet" and not 0.0 < dirichlet_alpha < float("inf"):
        faults.append(f"dirichlet_alpha must be > 0 and finite, got {dirichlet_alpha}")
    if seed < 0:
        faults.append(f"seed must be >= 0, got {seed}")
    if faults:
        raise ValueError("data: " + "; ".join(faults))


def check_blocks(
    text: FederatedText, tokenizer: PreTrainedTokenizerBase, population: Population, *, sequence_length: int
) -> tuple[str, ...]:
    """Refuse a deal in which a device or a held-out set does not fill one block of tokens.

    A holder whose own texts are too short takes further ones, as `pack` does with ``more``. Only what is
    short is tokenised, and each text once, so that this is quick however many devices there are.

    Returns
    -------
    tuple[str, ...]
        What a person should know, such as how many devices take further texts; often empty.

    Raises
    ------
    ValueError
        If any does not; says which and what to change.
    """

    @cache
    def num_tokens(item: str) -> int:
        return len(tokenizer(item, add_special_tokens=False, verbose=False)["input_ids"]) + 1

    def fill(texts: Sequence[str], more: Iterator[str]) -> tuple[int, bool]:
        """Return the tokens of a holder, and whether they are not all its own; stops at one block."""
        if sum(map(len, texts)) >= _LONGEST_TOKEN_CHARS * sequence_length:
            return sequence_length, False
        own = total = sum(map(num_tokens, texts))
        while total < sequence_length and (further := next(more, None)) is not None:
            total += num_tokens(further)
        return total, own < sequence_length

    devices = {
        f"device {item.device_id}": fill(
            text.device_texts(item.device_id), text.more_device_texts(item.device_id)
        )
        for item in population.devices
    }
    heldout = {
        f"held-out set of {item.name}": fill(
            text.heldout_texts(item.name), text.more_heldout_texts(item.name)
        )
        for item in population.clusters
    }
    faults = [
        f"{name} ({total} tokens)"
        for name, (total, _) in (devices | heldout).items()
        if total < sequence_length
    ]
    if faults:
        raise ValueError(
            f"one example is {sequence_length} tokens, and less is held by {some(faults)}, with what it can"
            " take from its cluster and domain. Use fewer clusters, more data or a shorter sequence length"
        )
    taking = {
        f"{len(devices)} devices": sum(takes for _, takes in devices.values()),
        f"{len(heldout)} held-out sets": sum(takes for _, takes in heldout.values()),
    }
    return tuple(
        f"{count} of {those} fill no example of {sequence_length} tokens with texts of their own, and take"
        " further ones of their cluster or domain"
        for those, count in taking.items()
        if count
    )
