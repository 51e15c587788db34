"""Which devices a deployed node hosts, and whose data they hold: what its SuperNode was started with."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from scenario.data.federated_text import FederatedText, load_federated_text
from scenario.derive import lone_population, population_from
from scenario.settings.config import RunConfig, Scalar
from sim.population import Population

HOSTS = ("cluster", "devices")
PART = "model"
"""Key that says where a node keeps its own part of the checkpoint."""
KEEP = "keep"
"""Key that says where a node keeps its last update, for the case that the link loses it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnData:
    """Data that a node brings: names as in its ``--node-config``, with ``-`` for ``_``.

    Parameters
    ----------
    data : str
        Absolute path of a file or a folder, or a hub dataset that this node can read.
    text_column, prompt_column, response_column, messages_column : str
        Where its text is; empty ones are as in the run's ``data`` section.
    split : str
        Of a dataset with several; empty as in the run.
    memory_mb : float
        What a sub-model may take on its devices; 0 as in the run.
    hosts : tuple of (str, str)
        The keys that say which devices are its own.
    number : int
        Of its one device, where the population is known on contact: the node's own id.
    """

    data: str
    text_column: str = ""
    prompt_column: str = ""
    response_column: str = ""
    messages_column: str = ""
    split: str = ""
    memory_mb: float = 0.0
    hosts: tuple[tuple[str, str], ...] = ()
    number: int = 0


def own_data(node_config: Mapping[str, Scalar], node_id: int = 0) -> OwnData | None:
    """Return the data that a node brings, or None: then it holds a share of the run's.

    Raises
    ------
    ValueError
        If data is named beside a key that is unknown or a value that is not of its kind, or what belongs to
        data without it, so that nothing misspelt goes unseen.
    """
    known = {field.name.replace("_", "-") for field in fields(OwnData)} - {"hosts", "number"}
    if "data" not in node_config:
        if alone := sorted(known & node_config.keys()):
            raise ValueError(
                f"--node-config names {', '.join(alone)} without data, whose they would be; name it too"
            )
        return None
    if unknown := sorted(node_config.keys() - known - {*HOSTS, PART, KEEP}):
        raise ValueError(
            f"--node-config names {', '.join(unknown)}; a node that brings data knows "
            f"{', '.join(sorted(known | {*HOSTS, PART, KEEP}))}"
        )
    memory_mb = node_config.get("memory-mb", 0.0)
    if isinstance(memory_mb, bool | str) or not 0.0 <= memory_mb < float("inf"):
        raise ValueError(f"memory-mb of --node-config must be a number of megabytes, got {memory_mb!r}")
    texts = {
        key.replace("-", "_"): str(node_config[key]) for key in known & node_config.keys() - {"memory-mb"}
    }
    hosts = tuple((key, str(node_config[key])) for key in HOSTS if key in node_config)
    # Flower's ids have 64 bits, and whole numbers of its records 63.
    return OwnData(**texts, memory_mb=float(memory_mb), hosts=hosts, number=node_id & (2**63 - 1))


def node_population(own: OwnData | None, config: RunConfig) -> Population:
    """Return who lives where, as a node knows it: all of the run, or itself where others are not known.

    Raises
    ------
    ValueError
        If the population is known on contact, and the node does not say its cluster and bring its data.
    """
    if config.population.known == "beforehand":
        return population_from(config)
    hosts = dict(own.hosts) if own else {}
    if own is None or hosts.keys() != {"cluster"}:
        raise ValueError(
            "this run's population is known on contact (population.known): a node names its cluster and its "
            "data, and no devices, which nobody has numbered; start its SuperNode with --node-config "
            '\'cluster="NAME" data="/data/texts.parquet"\''
        )
    return lone_population(config, hosts["cluster"], own.number)


def own_text(own: OwnData, config: RunConfig, population: Population) -> FederatedText:
    """Return the texts of a node's devices; a part of them, ``data.heldout-share``, is never trained on.

    Raises
    ------
    ValueError
        If the data cannot be read.
    """
    settings = config.data
    brings_columns = own.text_column or own.prompt_column or own.response_column or own.messages_column
    columns = own if brings_columns else settings
    return load_federated_text(
        source=own.data,
        text_column=own.text_column or settings.text_column,
        prompt_column=columns.prompt_column,
        response_column=columns.response_column,
        messages_column=columns.messages_column,
        domain_column="",
        label_column="",
        split=own.split or settings.split,
        partitioner="iid",
        dirichlet_alpha=settings.dirichlet_alpha,
        population=_hosted_alone(population, hosted_devices(dict(own.hosts), population)),
        heldout_share=settings.heldout_share,
        seed=config.seed,
    )


def _hosted_alone(population: Population, devices: tuple[int, ...]) -> Population:
    """Return the population without anybody else."""
    hosted = tuple(population.device(device) for device in devices)
    cluster = population.cluster(hosted[0].cluster)
    return Population(clusters=(cluster,), devices=hosted, nodes=())


def hosted_devices(node: Mapping[str, Scalar], population: Population) -> tuple[int, ...]:
    """Read ``devices="0-11"`` (or ``"0,3,5"``), or ``cluster="NAME"`` for all of a cluster.

    Raises
    ------
    ValueError
        If neither is there, or names no device of this run.
    """
    if "devices" in node:
        known = {device.device_id for device in population.devices}
        devices = _parse_ranges(str(node["devices"]), limit=max(known) + 1)
        if not devices or not known.issuperset(devices):
            raise ValueError(f"devices={node['devices']!r}: this run has devices 0 to {max(known)}")
        if twice := sorted({device for device in devices if devices.count(device) > 1}):
            raise ValueError(
                f"devices={node['devices']!r} names {', '.join(map(str, twice))} twice; a device counts once"
            )
        return devices
    if "cluster" in node:
        cluster = str(node["cluster"])
        return tuple(device_id for n in population.cluster_nodes(cluster) for device_id in n.device_ids)
    raise ValueError(
        "this node does not say which devices it hosts: start its SuperNode with "
        "--node-config 'cluster=\"NAME\"' or --node-config 'devices=\"0-11\"'"
    )


def _parse_ranges(text: str, limit: int) -> tuple[int, ...]:
    """Return the whole numbers of a text such as ``0-3,7``; no more than one of them beyond the limit."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise ValueError(f"devices={text!r} must be numbers and ranges such as 0-11 or 0,3,5")
        numbers += range(min(int(first), limit), min(int(last or first), limit) + 1)
    return tuple(numbers)
