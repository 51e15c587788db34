"""From a job to ``scene.json``: who is where, who is seen when, how large the model is."""

import datetime as dt
import math

from scenario.contact_plan import tracks_from
from server.job import Job
from server.record.scene import ClusterScene, ModelScene, Pass, Scene, Track
from sim.plans.plan import Contact
from sim.plans.tracks import GroundTracks


def scene_of(job: Job) -> Scene:
    """Return what a run stands on, for its report."""
    config = job.config
    start, tracks = tracks_from(config, job.plan) if job.plan else (dt.datetime.now(dt.UTC), None)
    return Scene(
        start_utc=start.astimezone(dt.UTC).isoformat(timespec="seconds") if start else "",
        horizon_s=job.horizon_s,
        is_simulated=job.plan is not None,
        clusters=tuple(
            _cluster(job, name, domain) for name, domain in zip(job.clusters, job.text.domains, strict=True)
        ),
        model=_model(job),
        tokens_per_step=config.train.batch_size * config.data.sequence_length,
        all_weights=config.train.method == "full",
        num_satellites=tracks.num_satellites if tracks else 0,
        track_step_s=tracks.step_s if tracks else 60.0,
        tracks=_tracks(tracks) if tracks else (),
    )


def _cluster(job: Job, name: str, domain: str) -> ClusterScene:
    cluster, nodes = job.population.cluster(name), job.population.cluster_nodes(name)
    return ClusterScene(
        name=name,
        domain=domain,
        latitude_deg=cluster.latitude_deg,
        longitude_deg=cluster.longitude_deg,
        num_devices=len(job.population.cluster_devices(name)),
        # On a real network node ids are Flower's, known when they report.
        first_node=nodes[0].node_id if job.plan and nodes else 0,
        node_devices=tuple(len(node.device_ids) for node in nodes) if job.plan else (),
        node_step_s=tuple(node.step_time_s for node in nodes) if job.plan else (),
        passes=tuple(_pass(contact) for contact in job.plan.contacts[name]) if job.plan else (),
    )


def _pass(contact: Contact) -> Pass:
    return Pass(
        rise_s=contact.rise_s,
        set_s=contact.set_s,
        down_bytes=contact.capacity_bytes("down"),
        up_bytes=contact.capacity_bytes("up"),
        satellites=contact.satellites,
    )


def _model(job: Job) -> ModelScene:
    layout = job.layout
    return ModelScene(
        name=job.config.model.name,
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
