"""Who has which text: a device's own examples and each cluster's held-out set.

Deterministic from the source, the seed and the population, so that every process of a run deals the
same texts without talking to the others.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from demo.packing import pack
from scenario.data import partition
from scenario.data.deal import ClusterPart, deal, exchanged, places_of
from scenario.data.examples import PLAIN_NOTE, LongExamples, pack_examples, render
from scenario.data.questions import Questions, answers_of, questions_of
from scenario.data.text_source import read_texts
from scenario.tables.table import some
from sim.population import Population

__all__ = ["NO_TEXTS", "PARTITIONERS", "BlockForm", "FederatedText", "load_federated_text", "pack"]

PARTITIONERS = ("domain", "iid", "dirichlet", "cluster")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockForm:
    """What token blocks are like: their length, and what becomes of an example that is longer."""

    sequence_length: int
    long_examples: LongExamples = "truncate"


@dataclass(frozen=True, slots=True, kw_only=True)
class FederatedText:
    """Texts dealt to devices and held-out sets; no text is both trained on and held out.

    Parameters
    ----------
    domains : tuple[str, ...]
        Domain of each cluster in the population's order; "mixed" where a partitioner mixes them.
    notes : tuple[str, ...]
        What a person should know about the deal, such as domains nobody got; often empty.
    holds_examples : bool
        Whether texts are examples of `scenario.data.examples`.
    places : Sequence[str]
        Where each text stands in its source; empty for embedded text.
    """

    domains: tuple[str, ...]
    notes: tuple[str, ...] = ()
    holds_examples: bool = False
    places: Sequence[str] = field(default=(), repr=False)
    _seed: int
    _texts: Sequence[str] = field(repr=False)
    _parts: Sequence[ClusterPart] = field(repr=False)
    _kin: Sequence[Sequence[int]] = field(repr=False)
    _places: Mapping[int, tuple[int, int]] = field(repr=False)
    """Of each device: position of its cluster, and its own in the cluster."""
    _clusters: Mapping[str, int] = field(repr=False)

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters, in the population's order."""
        return tuple(self._clusters)

    def exchanged(self, order: Sequence[int]) -> "FederatedText":
        """Return the same with each cluster holding what another held; as `scenario.data.deal.exchanged`."""
        sizes = Counter(cluster for cluster, _ in self._places.values())
        domains, kin, parts = exchanged(self.domains, self._kin, self._parts, order, sizes)
        return replace(self, domains=domains, _kin=kin, _parts=parts)

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
        """Yield texts that clusters of the same domain hold out, if a set is too small; as those."""
        position = self._position(cluster)
        rng = np.random.default_rng([self._seed, 1, position])
        given = set(self._parts[position].heldout.tolist())
        return self._more([self._parts[other].heldout for other in self._kin[position]], given, rng)

    def pack_device(
        self, tokenizer: PreTrainedTokenizerBase, device_id: int, form: BlockForm, *, several: bool
    ) -> NDArray[np.int64]:
        """Return the token blocks of a device, ``[N, T]`` or of examples ``[N, 3, T]``.

        Parameters
        ----------
        form : BlockForm
            What blocks are like.
        several : bool
            Whether the model keeps several examples of one block apart.
        """
        texts = self.device_texts(device_id)
        return self._pack(tokenizer, texts, self.more_device_texts(device_id), form, 0, several)

    def pack_heldout(
        self, tokenizer: PreTrainedTokenizerBase, cluster: str, form: BlockForm, most: int, *, several: bool
    ) -> NDArray[np.int64]:
        """Return at most so many token blocks that a cluster holds out; as `pack_device`."""
        texts = self.heldout_texts(cluster)
        return self._pack(tokenizer, texts, self.more_heldout_texts(cluster), form, most, several)

    def _pack(
        self,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        more: Iterator[str],
        form: BlockForm,
        most: int,
        several: bool,
    ) -> NDArray[np.int64]:
        length = form.sequence_length
        if not self.holds_examples:
            return pack(tokenizer, texts, sequence_length=length, max_examples=most, more=more)
        return pack_examples(
            tokenizer,
            texts,
            sequence_length=length,
            max_examples=most,
            rule=form.long_examples,
            several=several,
        )

    def questions(
        self, tokenizer: PreTrainedTokenizerBase, cluster: str, count: int, sequence_length: int
    ) -> Questions:
        """Return the first examples that a cluster holds out, each with every answer of the data.

        Raises
        ------
        ValueError
            If there are too few or too many different answers to choose from.
        """
        examples = self.heldout_texts(cluster)[:count]
        return questions_of(examples, self.answers(), tokenizer, sequence_length)

    def answers(self) -> tuple[str, ...]:
        """Return the different responses of all examples; as `scenario.data.questions.answers_of`."""
        return answers_of(self._texts)

    def check_examples(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
        """Refuse examples that cannot be rendered, before anything is trained on them.

        Returns
        -------
        tuple[str, ...]
            What a person should know; empty where the tokenizer has a chat template.

        Raises
        ------
        ValueError
            Naming the first rows and why.
        """
        used = {int(index) for part in self._parts for index in (*part.training, *part.heldout)}
        faults = []
        for index in sorted(used):
            try:
                render(tokenizer, self._texts[index])
            except ValueError as fault:
                faults.append(f"{self.places[index]} {fault}")
        if faults:
            raise ValueError(
                f"data: {some(faults)}; leave out these rows, or use a checkpoint whose chat template takes "
                "them"
            )
        return () if getattr(tokenizer, "chat_template", None) else (PLAIN_NOTE,)

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


NO_TEXTS = FederatedText(domains=(), _seed=0, _texts=(), _parts=(), _kin=(), _places={}, _clusters={})
"""Of nobody."""


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
    prompt_column: str = "",
    response_column: str = "",
    messages_column: str = "",
    mixing: float = 0.0,
    cluster_column: str = "",
    device_column: str = "",
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
    partitioner : {"domain", "iid", "dirichlet", "cluster"}
        ``domain``: one domain a cluster. ``iid``: all mixed. ``dirichlet``: the label (else the domain) is
        skewed over clusters with ``dirichlet_alpha`` > 0.
    population : Population
        Its devices' ``data_share`` sizes their parts within their cluster.
    heldout_share : float
        Part of each cluster's texts held out, in (0, 1); at least one text.
    seed : int
        >= 0; seeds every draw.
    prompt_column, response_column, messages_column : str
        Of examples, in place of ``text_column``; see `scenario.data.text_source.read_texts`.
    mixing : float
        In [0, 1]: part of each cluster's texts that is exchanged at random for others of all clusters.
    cluster_column, device_column : str
        Natural partitions: who names the cluster of a text (``cluster``), and who holds it: a holder's texts
        are on one device; or "".

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
        needs={"domain": "domain", "dirichlet": "label", "cluster": "cluster"}.get(partitioner, ""),
        prompt_column=prompt_column,
        response_column=response_column,
        messages_column=messages_column,
        cluster_column=cluster_column,
        device_column=device_column,
    )
    dealt = deal(
        found,
        partitioner,
        dirichlet_alpha,
        population,
        heldout_share,
        seed,
        stream=PARTITIONERS.index(partitioner),
        mixing=mixing,
    )
    return FederatedText(
        domains=dealt.domains,
        notes=(*found.notes, *dealt.notes),
        holds_examples=bool(response_column or messages_column),
        places=found.places,
        _seed=seed,
        _texts=found.texts,
        _parts=dealt.parts,
        _kin=dealt.kin,
        _places=places_of(population),
        _clusters={cluster.name: position for position, cluster in enumerate(population.clusters)},
    )


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
