"""What a delivery takes of the sky, said before the run begins."""

from collections.abc import Iterator, Sequence

import numpy as np

from moe.disk.layout import open_storage
from moe.experts import ExpertId
from scenario.settings.config import RunConfig
from scenario.stand_ins import make_stand_ins
from server.delivery.catalogue import CheckpointPieces
from sim.plans.plan import ContactPlan
from strategy.delivery.pieces import Delivery, PieceDelivery

MEGABYTE = 1_000_000


def catalogue_of(config: RunConfig, path: str, base: str, *, travels: bool) -> CheckpointPieces | None:
    """Return the pieces that a run delivers; None where every device has the whole checkpoint.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path, base : str
        Folder of the checkpoint, and its fingerprint.
    travels : bool
        Whether the bytes are in the messages; if not, a simulated sky only counts them.
    """
    of = config.model
    if of.delivery == "beforehand":
        return None
    return CheckpointPieces(
        open_storage(path, of.dtype, of.hold),
        base,
        piece_bytes=int(of.piece_mb * MEGABYTE),
        brings_shared=of.delivery == "everything",
        travels=travels,
        stand_ins=make_stand_ins(config, path, base, print) if config.uses_stand_ins else None,
    )


def delivery_of(config: RunConfig, catalogue: CheckpointPieces | None) -> Delivery:
    """Return how the model comes to the nodes."""
    if catalogue is None:
        return Delivery()
    return PieceDelivery(catalogue, int(config.model.piece_mb * MEGABYTE))


def delivery_notes(
    config: RunConfig, catalogue: CheckpointPieces, layers: Sequence[int], plan: ContactPlan | None
) -> Iterator[str]:
    """Yield what a user should know of a delivery before it begins: its bytes, beside what contacts carry."""
    one_of_each = sum(catalogue.expert_bytes(ExpertId(layer, 0)) for layer in layers)
    shared = catalogue.shared_bytes() if config.model.delivery == "everything" else 0
    words = f"the shared part, {_mb(shared)}, and " if shared else ""
    yield f"delivery: each node is sent {words}{_mb(one_of_each)} for each expert of every layer"
    piece_bytes = min(config.model.piece_mb * MEGABYTE, max(one_of_each, shared))
    for cluster, contacts in (plan.contacts if plan else {}).items():
        carried = [contact.capacity_bytes("down") for contact in contacts]
        most = max(carried, default=0.0)
        if 0 < most < piece_bytes:
            yield (
                f"note: no contact of {cluster} carries a piece of {_mb(piece_bytes)} whole (at most "
                f"{_mb(most)}, {_mb(float(np.median(carried)))} in the median): it takes several passes; a "
                "smaller model.piece-mb loses less where a link breaks"
            )


def whole_bytes(path: str) -> int:
    """Return the bytes of a checkpoint's files that the model is made of, and of the files beside them."""
    pieces = CheckpointPieces(open_storage(path), "", piece_bytes=1, brings_shared=True, travels=False)
    return pieces.shared_bytes() + sum(pieces.expert_bytes(expert) for expert in pieces.experts())


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / MEGABYTE:.3g} MB"
