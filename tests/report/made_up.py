"""A run folder of our own making: two clusters, two passes each, every number chosen by hand."""

import json
from pathlib import Path
from typing import Any

from scenario.settings.reading import read_config
from server.record.run_folder import create_run_folder
from server.record.scene import (
    ClusterScene,
    Completion,
    Findings,
    ModelScene,
    Pass,
    Scene,
    Track,
    write_findings,
    write_scene,
)
from server.report.summary import ClusterSummary, Cost, RunSummary, write_summary

MODEL = ModelScene(
    name="/models/tiny-moe",
    family="mixtral",
    layers=(0, 2),
    num_experts=(4, 4),
    expert_parameters=(1000, 1000),
    shared_parameters=2000,
    bytes_per_parameter=4,
    top_k=2,
)


def cluster(name: str, longitude_deg: float, first_node: int, rises_s: tuple[float, ...]) -> ClusterScene:
    passes = tuple(
        Pass(rise_s=rise_s, set_s=rise_s + 600.0, down_bytes=1e6, up_bytes=5000.0, satellites=("SAT-1",))
        for rise_s in rises_s
    )
    return ClusterScene(
        name=name,
        domain="rivers & <b>seas</b>",
        latitude_deg=10.0,
        longitude_deg=longitude_deg,
        num_devices=3,
        first_node=first_node,
        node_devices=(2, 1),
        node_step_s=(120.0, 120.0),
        passes=passes,
    )


SCENE = Scene(
    start_utc="2026-01-01T00:00:00+00:00",
    horizon_s=7200.0,
    is_simulated=True,
    clusters=(cluster("east", 20.0, 1, (100.0, 3000.0)), cluster("west", -70.0, 3, (900.0, 4000.0))),
    model=MODEL,
    tokens_per_step=10,
    num_satellites=1,
    track_step_s=60.0,
    tracks=(
        Track(
            satellite="SAT-1",
            longitude_deg=tuple(float((at * 4 + 180) % 360 - 180) for at in range(122)),
            latitude_deg=tuple(float(at % 50) for at in range(122)),
        ),
    ),
)

FINDINGS = Findings(
    relevance={name: ((0.4, 0.3, 0.2, 0.1), (0.25, 0.25, 0.25, 0.25)) for name in ("east", "west")},
    moved=((0.5, 0.0, 0.25, 0.0), (1.0, 0.0, 0.0, 0.0)),
    completions=(
        Completion(cluster="east", beginning="the river", original=" runs", before=" the the", after=" runs"),
    ),
)


def message(event: str, time_s: float, node: int, name: str, **more: Any) -> dict[str, Any]:
    kind = "query" if name.startswith("q") else "train"
    where = "east" if node < 3 else "west"
    return {
        "event": event,
        "time_s": time_s,
        "node": node,
        "cluster": where,
        "message": name,
        "type": kind,
    } | more


def evaluated(time_s: float, merges: int, merged: float, own: float | None) -> dict[str, Any]:
    losses = {f"merged-loss.{name}": merged for name in ("east", "west")}
    if own is not None:
        losses |= {f"own-loss.{name}": own for name in ("east", "west")}
    return {"event": "evaluated", "time_s": time_s, "merges": merges, "loss": merged} | losses


EVENTS: list[dict[str, Any]] = [
    evaluated(0.0, 0, 4.0, None),
    message("delivered", 110.0, 1, "q1", bytes=30, crossed=[[100.0, 30]], steps=1),
    message("trained", 120.0, 1, "q1", bytes=700, steps=1),
    message("arrived", 130.0, 1, "q1", bytes=700, crossed=[[100.0, 700]], steps=1),
    {
        "event": "profiled", "time_s": 130.0, "node": 1, "cluster": "east", "devices": [0, 1],
        "num_examples": 20,
    },
    {
        "event": "assigned", "time_s": 140.0, "experts": {"east": ["0.0", "2.0"], "west": ["0.2", "2.2"]},
        "groups": [["east"], ["west"]], "capture": {"east": 0.4, "west": 0.2},
        "random_capture": {"east": 0.25, "west": 0.25}, "near_uniform": ["west"], "not_heard": [],
    },
    message("delivered", 200.0, 1, "t1", bytes=1000, crossed=[[100.0, 1000]], steps=5),
    message("trained", 800.0, 1, "t1", bytes=6000, steps=5),
    # Too large for what the first pass has left: it goes on in the second.
    message("arrived", 3100.0, 1, "t1", bytes=6000, crossed=[[100.0, 4000], [3000.0, 2000]], steps=5),
    {
        "event": "merged", "time_s": 3150.0, "cluster": "east", "merges": 1, "versions": {"0.0": 1, "2.0": 1},
        "updates": [
            {"node": 1, "devices": [0, 1], "num_examples": 20, "local_steps": 5, "train_loss": 3.5,
             "staleness": {"0.0": 0, "2.0": 2}, "discount": {"0.0": 1.0, "2.0": 0.577}},
        ],
    },
    message("delivered", 3200.0, 1, "t2", bytes=1000, crossed=[[3000.0, 1000]], steps=5),
    {"event": "refused", "time_s": 3300.0, "node": 3, "reason": "no", "failures": 1},
    evaluated(3400.0, 1, 3.5, 3.25),
    message("unfinished", 7200.0, 1, "t2", bytes=0, crossed=[], phase="working"),
]  # fmt: skip

SUMMARY = RunSummary(
    strategy="ems-fl",
    clusters=tuple(
        ClusterSummary(
            name=name,
            domain="rivers",
            experts_per_layer=(1, 1),
            capture=0.4,
            random_capture=0.25,
            own_loss_before=4.5,
            own_loss_after=3.25,
            merged_loss_before=4.0,
            merged_loss_after=3.5,
        )
        for name in ("east", "west")
    ),
    spent=Cost(bytes_down=2030, bytes_up=6700, trainable_parameters=100),
    full_adapter=Cost(bytes_down=4000, bytes_up=6700, trainable_parameters=400),
    full_model=Cost(bytes_down=80_000, bytes_up=40_000, trainable_parameters=10_000),
    clock_s=7200.0,
    wall_s=3.0,
    stop_reason="the horizon was reached",
    run_folder="/somewhere",
    warnings=("the routing of west is near uniform over the experts",),
)


Settings = dict[str, bool | int | float | str]


def make_run(folder: Path, *, has_ended: bool = True, settings: Settings | None = None) -> Path:
    """Write the run into a folder and return it."""
    create_run_folder(folder, read_config(settings or {}))
    write_scene(folder, SCENE)
    lines = [json.dumps(event, sort_keys=True) + "\n" for event in EVENTS]
    (folder / "events.jsonl").write_text("".join(lines))
    if has_ended:
        write_findings(folder, FINDINGS)
        write_summary(folder, SUMMARY)
    return folder
