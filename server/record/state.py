"""Save and resume: the whole state of a run in one file, replaced atomically.

The file is a safetensors file: arrays by number, and one JSON text in its metadata that says where
each belongs. It is written beside the old one and moved over it, so that a crash at any moment
leaves either the old or the new state.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from moe.disk.writing import writing
from moe.experts import ExpertArrays, ExpertId, ParameterKey
from strategy.assignment import Assignment
from strategy.flights import Flights, InFlight
from strategy.messages import ExpertUpdate, Profile
from strategy.state import Arrival, EmsFlState

STATE_FILE = "state.safetensors"
FORMAT = 1


def save_state(
    folder: Path, strategy: EmsFlState, *, sky: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    """Write the state of a run.

    Parameters
    ----------
    folder : Path
        The run folder.
    strategy : EmsFlState
        Of the strategy.
    sky : Mapping
        Snapshot of the simulated grid (JSON values and bytes), or empty.
    extra : Mapping
        What else must survive (JSON values), such as the length of the event log.

    Raises
    ------
    OSError
        If the disk has no room; the state saved before is as it was.
    """
    arrays: list[NDArray[Any]] = []
    tree = {"format": FORMAT, "strategy": _pack_strategy(strategy), "sky": sky, "extra": extra}
    text = json.dumps(_without_arrays(tree, arrays))
    num_bytes = len(text) + sum(array.nbytes for array in arrays)
    unfinished = folder / f"{STATE_FILE}.tmp"
    with writing("the state of the run", folder / STATE_FILE, num_bytes):
        try:
            save_file(
                {str(at): array for at, array in enumerate(arrays)}, unfinished, metadata={"tree": text}
            )
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(folder / STATE_FILE)
        finally:
            unfinished.unlink(missing_ok=True)


def load_state(folder: Path) -> tuple[EmsFlState, dict[str, Any], dict[str, Any]]:
    """Return strategy state, sky snapshot and extras of a run.

    Raises
    ------
    ValueError
        If there is no state, or it is damaged or of another format.
    """
    file = folder / STATE_FILE
    if not file.is_file():
        raise ValueError(f"{folder} holds no {STATE_FILE}: the run was never saved; start a new one")
    try:
        with safe_open(file, "numpy") as opened:
            tree = json.loads(opened.metadata()["tree"])
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as fault:
        raise ValueError(f"{file} is damaged ({fault}): the run cannot be resumed") from None
    if tree.get("format") != FORMAT:
        raise ValueError(f"{file} has format {tree.get('format')}; this version reads {FORMAT}")
    whole = _with_arrays(tree, arrays)
    return _unpack_strategy(whole["strategy"]), whole["sky"], whole["extra"]


def _without_arrays(value: Any, arrays: list[NDArray[Any]]) -> Any:
    """Return JSON with arrays and bytes moved to ``arrays`` and their numbers left in their place."""
    if isinstance(value, np.ndarray):
        arrays.append(np.ascontiguousarray(value))
        return {"$array": len(arrays) - 1}
    if isinstance(value, bytes):
        arrays.append(np.frombuffer(value, np.uint8))
        return {"$bytes": len(arrays) - 1}
    if isinstance(value, Mapping):
        return {str(key): _without_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_arrays(item, arrays) for item in value]
    return value


def _with_arrays(value: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$array"}:
            return arrays[str(value["$array"])]
        if value.keys() == {"$bytes"}:
            return arrays[str(value["$bytes"])].tobytes()
        return {key: _with_arrays(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_arrays(item, arrays) for item in value]
    return value


def _pack_strategy(state: EmsFlState) -> dict[str, Any]:
    assignment = state.assignment
    return {
        "values": _pack_arrays(state.values),
        "versions": _pack_versions(state.versions),
        "profiles": {node: _pack_profile(profile) for node, profile in state.profiles.items()},
        "refused": state.refused,
        "assignment": assignment
        and {
            "experts": {n: [[e.layer, e.index] for e in es] for n, es in assignment.experts.items()},
            "groups": assignment.groups,
            "capture": assignment.capture,
            "random_capture": assignment.random_capture,
        },
        "provisional": {n: [[e.layer, e.index] for e in es] for n, es in state.provisional.items()},
        "flights": [[i, f.node_id, _pack_versions(f.versions), f.pieces] for i, f in state.in_flight.items()],
        "arrivals": {name: [_pack_arrival(a) for a in waiting] for name, waiting in state.arrivals.items()},
        "dispatches": state.dispatches,
        "failures": state.failures,
        "lost": {
            node: [[dispatch, _pack_versions(versions)] for dispatch, versions in of_node.items()]
            for node, of_node in state.lost.items()
        },
        "assignments": state.assignments,
        "watched": state.watched,
        "drifted_at_s": state.drifted_at_s,
        "outdated": sorted(state.outdated),
        "left_out": sorted(state.left_out),
        "held": {node: sorted(names) for node, names in state.held.items()},
        "merges": state.merges,
        "evaluated_at": state.evaluated_at,
    }


def _unpack_strategy(tree: Mapping[str, Any]) -> EmsFlState:
    assignment = tree["assignment"]
    profiles = {int(node): _unpack_profile(profile) for node, profile in tree["profiles"].items()}
    return EmsFlState(
        values=_unpack_arrays(tree["values"]),
        versions=_unpack_versions(tree["versions"]),
        profiles=profiles,
        refused={int(node): reason for node, reason in tree["refused"].items()},
        assignment=assignment
        and Assignment(
            experts={n: tuple(ExpertId(*e) for e in es) for n, es in assignment["experts"].items()},
            groups=tuple(tuple(group) for group in assignment["groups"]),
            capture=assignment["capture"],
            random_capture=assignment["random_capture"],
        ),
        provisional={
            name: tuple(ExpertId(*expert) for expert in experts)
            for name, experts in tree.get("provisional", {}).items()
        },
        in_flight=_unpack_flights(tree["flights"], profiles),
        arrivals={name: [_unpack_arrival(a) for a in waiting] for name, waiting in tree["arrivals"].items()},
        dispatches={int(node): count for node, count in tree["dispatches"].items()},
        failures={int(node): count for node, count in tree["failures"].items()},
        lost={
            int(node): {dispatch: _unpack_versions(versions) for dispatch, versions in of_node}
            for node, of_node in tree.get("lost", {}).items()
        },
        assignments=tree.get("assignments", int(assignment is not None)),
        watched=tree.get("watched", {}),
        drifted_at_s=tree.get("drifted_at_s"),
        outdated=set(tree.get("outdated", ())),
        left_out=set(tree.get("left_out", ())),
        held={int(node): set(names) for node, names in tree.get("held", {}).items()},
        merges=tree["merges"],
        evaluated_at=tree["evaluated_at"],
    )


def _unpack_flights(rows: list[list[Any]], profiles: Mapping[int, Profile]) -> Flights:
    flights = Flights()
    for message_id, node, versions, *rest in rows:
        # Only training carries experts.
        cluster = profiles[node].cluster if versions else ""
        pieces = tuple(rest[0]) if rest else ()
        flights.add(
            message_id,
            InFlight(node_id=node, cluster=cluster, versions=_unpack_versions(versions), pieces=pieces),
        )
    return flights


def _pack_arrays(arrays: ExpertArrays) -> list[list[Any]]:
    return [[key.layer, key.index, key.name, value] for key, value in arrays.items()]


def _unpack_arrays(rows: list[list[Any]]) -> ExpertArrays:
    return {ParameterKey(layer, index, name): value for layer, index, name, value in rows}


def _pack_versions(versions: Mapping[ExpertId, int]) -> list[list[int]]:
    return [[expert.layer, expert.index, version] for expert, version in versions.items()]


def _unpack_versions(rows: list[list[int]]) -> dict[ExpertId, int]:
    return {ExpertId(layer, index): version for layer, index, version in rows}


def _pack_profile(profile: Profile) -> dict[str, Any]:
    fields = {name: getattr(profile, name) for name in Profile.__dataclass_fields__}
    return fields | {"held": [[expert.layer, expert.index] for expert in profile.held]}


def _unpack_profile(tree: Mapping[str, Any]) -> Profile:
    held = tuple(ExpertId(*expert) for expert in tree.get("held", ()))
    devices, mass = tuple(tree["devices"]), tuple(tree["mass"])
    return Profile(**{**tree, "devices": devices, "mass": mass, "held": held})


def _pack_arrival(arrival: Arrival) -> dict[str, Any]:
    update = arrival.update
    return {
        "node_id": arrival.node_id,
        "versions": _pack_versions(arrival.versions),
        "arrived_s": arrival.arrived_s,
        "arrays": _pack_arrays(update.arrays),
        "numbers": [update.num_examples, update.train_loss, update.local_steps],
        "heldout_loss": update.heldout_loss,
        "capture": [update.capture, update.capture_of],
    }


def _unpack_arrival(tree: Mapping[str, Any]) -> Arrival:
    num_examples, train_loss, local_steps = tree["numbers"]
    capture, capture_of = tree.get("capture", (None, 0))
    update = ExpertUpdate(
        arrays=_unpack_arrays(tree["arrays"]),
        num_examples=num_examples,
        train_loss=train_loss,
        local_steps=local_steps,
        heldout_loss=tree.get("heldout_loss"),
        capture=capture,
        capture_of=capture_of,
    )
    return Arrival(
        node_id=tree["node_id"],
        versions=_unpack_versions(tree["versions"]),
        update=update,
        arrived_s=tree["arrived_s"],
    )
