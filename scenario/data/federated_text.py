"""Who has which text: a device's own examples and each cluster's held-out set.

Deterministic from the source, the seed and the population, so that every process of a run deals the
same texts without talking to the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from demo.packing import pack
from scenario.data import partition
from scenario.data.text_source import LabelledTexts, read_texts
from sim.population import Population

__all__ = ["PARTITIONERS", "FederatedText", "check_blocks", "load_federated_text", "pack"]

PARTITIONERS = ("domain", "iid", "dirichlet")

_LONGEST_TOKEN_CHARS = 32
"""No tokenizer's mean token is longer, runs of blanks in source code included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedText:
    """Texts dealt to devices and held-out sets; no text is in two places.

    Parameters
    ----------
    domains : tuple[str, ...]
        Domain of each cluster in the population's order; "mixed" where a partitioner mixes them.
    notes : tuple[str, ...]
        What a person should know about the deal, such as domains nobody got; often empty.
    """

    domains: tuple[str, ...]
    notes: tuple[str, ...] = ()
    _texts: Sequence[str] = field(repr=False)
    _device_parts: Mapping[int, partition.Indices] = field(repr=False)
    _heldout_parts: Mapping[str, partition.Indices] = field(repr=False)

    def device_texts(self, device_id: int) -> list[str]:
        """List the training texts of a device; at least one.

        Raises
        ------
        ValueError
            If the population has no such device.
        """
        if device_id not in self._device_parts:
            known = f"0 to {max(self._device_parts)}" if self._device_parts else "none"
            raise ValueError(f"there is no device {device_id}; devices are {known}")
        return [self._texts[index] for index in self._device_parts[device_id]]

    def heldout_texts(self, cluster: str) -> list[str]:
        """List the texts of a cluster that no device of any cluster trains on; at least one.

        Raises
        ------
        ValueError
            If the population has no such cluster.
        """
        if cluster not in self._heldout_parts:
            raise ValueError(
                f"there is no cluster {cluster!r}; clusters are {', '.join(self._heldout_parts)}"
            )
        return [self._texts[index] for index in self._heldout_parts[cluster]]


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
        ``"embedded"``, a file (csv, json, jsonl, parquet, txt), a folder that `datasets` can read, or
        a name on the Hugging Face hub (``name`` or ``name:configuration``).
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
        Every device has at least one text, every cluster at least one held-out text.

    Raises
    ------
    ValueError
        If a setting is out of range, the source is missing or lacks a column, or devices would be
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
    rng = np.random.default_rng([seed, PARTITIONERS.index(partitioner)])
    parts, domains, notes = _deal_to_clusters(
        found, partitioner, dirichlet_alpha, len(population.clusters), rng
    )
    return _deal_to_devices(found.texts, parts, domains, notes, population, heldout_share)


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


def _deal_to_clusters(
    found: LabelledTexts,
    partitioner: str,
    dirichlet_alpha: float,
    num_clusters: int,
    rng: np.random.Generator,
) -> tuple[list[partition.Indices], list[str], tuple[str, ...]]:
    """Give each cluster its texts; returns parts, domain names and notes."""
    mixed = ["mixed"] * num_clusters
    if partitioner == "iid":
        return partition.iid(len(found.texts), num_clusters, rng), mixed, ()
    if partitioner == "dirichlet":
        return partition.dirichlet(found.labels, num_clusters, dirichlet_alpha, rng), mixed, ()
    parts, domains = partition.by_domain(found.domains, num_clusters, rng)
    names = list(dict.fromkeys(found.domains))
    notes = []
    if len(names) > num_clusters:
        unused = ", ".join(names[num_clusters:])
        notes.append(f"{len(names)} domains for {num_clusters} clusters: not used are {unused}")
    if len(names) < num_clusters:
        notes.append(f"{len(names)} domains for {num_clusters} clusters: clusters share domains, not texts")
    return parts, domains, tuple(notes)


def _deal_to_devices(
    texts: Sequence[str],
    parts: list[partition.Indices],
    domains: list[str],
    notes: tuple[str, ...],
    population: Population,
    heldout_share: float,
) -> FederatedText:
    """Hold out a share of each cluster's part, and deal the rest by the devices' data shares."""
    device_parts: dict[int, partition.Indices] = {}
    heldout_parts: dict[str, partition.Indices] = {}
    faults: list[str] = []
    for cluster, domain, part in zip(population.clusters, domains, parts, strict=True):
        devices = [device for device in population.devices if device.cluster == cluster.name]
        num_heldout = max(1, round(heldout_share * len(part)))
        heldout, training = part[:num_heldout], part[num_heldout:]
        if len(training) < max(1, len(devices)):
            empty = [device.device_id for device in devices[len(training) :]]
            faults.append(
                f"cluster {cluster.name!r} ({domain}) has {len(part)} texts, {num_heldout} of them held out,"
                f" for {len(devices)} devices: nothing is left for devices {', '.join(map(str, empty))}"
            )
            continue
        counts = partition.apportion(len(training), [device.data_share for device in devices])
        pieces = np.split(training, np.cumsum(counts)[:-1].astype(np.int64))
        device_parts.update({device.device_id: piece for device, piece in zip(devices, pieces, strict=False)})
        heldout_parts[cluster.name] = heldout
    if faults:
        raise ValueError(
            "every device needs at least one text: "
            + "; ".join(faults)
            + ". Use fewer devices, more data, a smaller"
            " heldout_share, or with 'dirichlet' a larger dirichlet_alpha"
        )
    return FederatedText(
        domains=tuple(domains),
        notes=notes,
        _texts=texts,
        _device_parts=device_parts,
        _heldout_parts=heldout_parts,
    )


def check_blocks(
    text: FederatedText, tokenizer: PreTrainedTokenizerBase, population: Population, *, sequence_length: int
) -> None:
    """Refuse a deal in which a device or a held-out set does not fill one block of tokens.

    Only what is short is tokenised, so that this is quick however much text there is.

    Raises
    ------
    ValueError
        If any does not; names them all and says what to change.
    """
    holders = [(f"device {item.device_id}", text.device_texts(item.device_id)) for item in population.devices]
    holders += [
        (f"held-out set of {item.name}", text.heldout_texts(item.name)) for item in population.clusters
    ]
    faults = []
    for name, texts in holders:
        if sum(map(len, texts)) >= _LONGEST_TOKEN_CHARS * sequence_length:
            continue
        num_tokens = sum(len(tokenizer(item, add_special_tokens=False)["input_ids"]) + 1 for item in texts)
        if num_tokens < sequence_length:
            faults.append(f"{name} ({num_tokens} tokens)")
    if faults:
        raise ValueError(
            f"one example is {sequence_length} tokens, and less is held by {', '.join(faults)}. Use fewer"
            " devices, more data, a smaller data spread or a shorter sequence length"
        )
