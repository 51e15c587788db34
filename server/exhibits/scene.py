"""From a run's settings to ``scene.json``: who is where, who is seen when, how large the model is."""

import datetime as dt
import math
from collections.abc import Sequence

from moe.experts import ExpertLayout
from scenario.contact_plan import tracks_from
from scenario.settings.config import RunConfig
from server.record.scene import ClusterScene, ModelScene, Pass, Scene, Track
from sim.plans.plan import Contact, ContactPlan
from sim.plans.tracks import GroundTracks
from sim.population import Cluster, Population


def scene_of(
    config: RunConfig,
    population: Population,
    plan: ContactPlan | None,
    layout: ExpertLayout,
    *,
    domains: Sequence[str],
    horizon_s: float,
) -> Scene:
    """Return what a run stands on, for its report.

    Parameters
    ----------
    plan : ContactPlan or None
        None on a real network: the run then begins now.
    domains : Sequence[str]
        What each cluster's text is about.
    """
    start, tracks = tracks_from(config, plan) if plan else (dt.datetime.now(dt.UTC), None)
    clusters = zip(population.clusters, domains, strict=True)
    return Scene(
        start_utc=start.astimezone(dt.UTC).isoformat(timespec="seconds") if start else "",
        horizon_s=horizon_s,
        is_simulated=plan is not None,
        clusters=tuple(_cluster(population, plan, cluster, domain) for cluster, domain in clusters),
        model=_model(config.model.name, layout),
        tokens_per_step=config.train.batch_size * config.data.sequence_length,
        all_weights=config.train.method == "full",
        num_satellites=tracks.num_satellites if tracks else 0,
        track_step_s=tracks.step_s if tracks else 60.0,
        tracks=_tracks(tracks) if tracks else (),
    )


def _cluster(population: Population, plan: ContactPlan | None, cluster: Cluster, domain: str) -> ClusterScene:
    # On a real network node ids are Flower's, known when they report.
    nodes = population.cluster_nodes(cluster.name) if plan else ()
    return ClusterScene(
        name=cluster.name,
        domain=domain,
        latitude_deg=cluster.latitude_deg,
        longitude_deg=cluster.longitude_deg,
        num_devices=len(population.cluster_devices(cluster.name)),
        first_node=nodes[0].node_id if nodes else 0,
        node_devices=tuple(len(node.device_ids) for node in nodes),
        node_step_s=tuple(node.step_time_s for node in nodes),
        passes=tuple(_pass(contact) for contact in plan.contacts[cluster.name]) if plan else (),
    )


def _pass(contact: Contact) -> Pass:
    return Pass(
        rise_s=contact.rise_s,
        set_s=contact.set_s,
        down_bytes=contact.capacity_bytes("down"),
        up_bytes=contact.capacity_bytes("up"),
        satellites=contact.satellites,
    )


def _model(name: str, layout: ExpertLayout) -> ModelScene:
    return ModelScene(
        name=name,
        family=layout.family,
        layers=layout.layers,
        num_experts=tuple(layout.num_experts.values()),
        expert_parameters=tuple(layout.expert_bytes[layer] // layout.weight_bytes for layer in layout.layers),
        shared_parameters=layout.shared_bytes // layout.weight_bytes,
        bytes_per_parameter=layout.weight_bytes,
        top_k=layout.top_k,
    )


def _tracks(tracks: GroundTracks) -> tuple[Track, ...]:
    return tuple(
        Track(
            satellite=name,
            longitude_deg=tuple(_known(value) for value in tracks.longitude_deg[row].tolist()),
            latitude_deg=tuple(_known(value) for value in tracks.latitude_deg[row].tolist()),
        )
        for row, name in enumerate(tracks.satellites)
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 2)
