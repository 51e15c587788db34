"""From the run configuration to the rooms' own values; server and clients derive the same ones."""

from collections.abc import Sequence
from typing import get_args

from moe.experts import Part, Tuning
from scenario.data.federated_text import NO_TEXTS, BlockForm, FederatedText, load_federated_text
from scenario.settings.config import RunConfig
from scenario.settings.world import NO_TEXT
from sim.population import Cluster, Device, Node, Population, build_population
from sim.sites import default_clusters, read_sites

MEGABYTE = 1_000_000


def clusters_from(config: RunConfig) -> tuple[Cluster, ...]:
    """Return the run's clusters: built-in places, or the first ones of a file of sites."""
    count, mask_deg = config.population.clusters, config.sky.elevation_mask_deg
    if not config.population.sites:
        return default_clusters(count, elevation_mask_deg=mask_deg)
    sites = read_sites(config.population.sites, elevation_mask_deg=mask_deg)
    if len(sites) < count:
        raise ValueError(
            f"population.clusters is {count}, but {config.population.sites} names {len(sites)} sites; "
            "lower it or add sites"
        )
    return sites[:count]


NOBODY = Population(clusters=(), devices=(), nodes=())
SERVER = "the server"
"""Who holds the text that a run measures on whose clusters are known on contact."""


def population_from(config: RunConfig) -> Population:
    """Return who lives where; nobody where that is known on contact."""
    settings = config.population
    if settings.known == "on-contact":
        return NOBODY
    return build_population(
        clusters=clusters_from(config),
        num_devices=settings.devices,
        devices_per_node=settings.devices_per_node,
        step_time_s=settings.step_time_s,
        speed_spread=settings.speed_spread,
        data_spread=settings.data_spread,
        memory_bytes=int(settings.memory_mb * MEGABYTE),
        seed=config.seed,
    )


def lone_population(config: RunConfig, name: str, number: int) -> Population:
    """Return one cluster of one device, as that device knows it; where on Earth it lies plays no part.

    Raises
    ------
    ValueError
        If that cannot be the name of a cluster.
    """
    place = Cluster(name=name, latitude_deg=0.0, longitude_deg=0.0)
    step_time_s, memory_bytes = config.population.step_time_s, int(config.population.memory_mb * MEGABYTE)
    device = Device(
        device_id=number, cluster=name, data_share=1.0, step_time_s=step_time_s, memory_bytes=memory_bytes
    )
    node = Node(node_id=1, cluster=name, device_ids=(number,), step_time_s=step_time_s)
    return Population(clusters=(place,), devices=(device,), nodes=(node,))


def measured_population(config: RunConfig) -> Population:
    """Return who holds the text that a run measures on whose clusters are known on contact: the server."""
    return NOBODY if config.data.source == NO_TEXT else lone_population(config, SERVER, 0)


def text_from(config: RunConfig, population: Population) -> FederatedText:
    """Return who has which text; where clusters are known on contact it is not dealt by domain or name."""
    settings, is_dealt = config.data, config.population.known == "beforehand"
    if not population.clusters:
        return NO_TEXTS
    return load_federated_text(
        source=settings.source,
        text_column=settings.text_column,
        domain_column=settings.domain_column,
        label_column=settings.label_column,
        split=settings.split,
        partitioner=settings.partitioner if is_dealt else "iid",
        dirichlet_alpha=settings.dirichlet_alpha,
        mixing=settings.mixing if is_dealt else 0.0,
        cluster_column=settings.cluster_column if is_dealt else "",
        device_column=settings.device_column if is_dealt else "",
        population=population,
        heldout_share=settings.heldout_share,
        seed=config.seed,
        prompt_column=settings.prompt_column,
        response_column=settings.response_column,
        messages_column=settings.messages_column,
    )


def era_at(config: RunConfig, time_s: float) -> int:
    """Return which text devices hold at a time of the run: 0, or 1 once ``data.drift-hours`` have passed."""
    drift_s = config.data.drift_hours * 3600.0
    return int(0.0 < drift_s <= time_s)


def drifted_text(config: RunConfig, text: FederatedText) -> FederatedText:
    """Return who has which text once it has drifted: the first clusters take over one another's."""
    count = len(text.clusters)
    turning = max(2, round(config.data.drift_share * count))
    order = [(at + 1) % turning if at < turning else at for at in range(count)]
    return text.exchanged(order)


def block_form(config: RunConfig) -> BlockForm:
    """Return what token blocks are like."""
    return BlockForm(sequence_length=config.data.sequence_length, long_examples=config.data.long_examples)


def tuning_from(config: RunConfig, layers: Sequence[int]) -> Tuning:
    """Return how experts are tuned.

    Parameters
    ----------
    layers : Sequence[int]
        Decoder layers of the base that have experts, ascending.

    Raises
    ------
    ValueError
        If ``train.layers`` names others.
    """
    settings = config.train
    return Tuning(
        method=settings.method,
        lora_rank=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        lora_rslora=settings.lora_rslora,
        router_rows=settings.router_rows,
        seed=config.seed,
        layers=tuned_layers(settings.layers, layers),
        parts=tuned_parts(settings.parts),
    )


def tuned_parts(choice: str) -> tuple[Part, ...]:
    """Return the parts of a decoder layer that ``train.parts`` names, each once, in one order."""
    named = {name.strip() for name in choice.split(",")}
    return tuple(part for part in get_args(Part) if part in named)


def tuned_layers(choice: str, layers: Sequence[int]) -> tuple[int, ...] | None:
    """Return the decoder layers that ``train.layers`` names, ascending; None for all.

    Raises
    ------
    ValueError
        If some of them have no experts, or there are fewer than asked for.
    """
    if choice == "all":
        return None
    if choice.startswith("last "):
        count = int(choice.removeprefix("last "))
        if count > len(layers):
            raise ValueError(
                f'train.layers must be at most the layers with experts, got "{choice}" of {len(layers)}; '
                'lower it, or choose "all"'
            )
        return tuple(layers[-count:])
    named = sorted({int(layer) for layer in choice.split(",")})
    if foreign := [layer for layer in named if layer not in layers]:
        raise ValueError(
            f"train.layers must name decoder layers that have experts, got {', '.join(map(str, foreign))}; "
            f"those of this model are {', '.join(map(str, layers))}"
        )
    return tuple(named)
