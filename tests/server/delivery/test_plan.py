"""What a user is told of a delivery before it begins."""

from collections.abc import Callable
from pathlib import Path

from moe.disk.layout import open_storage, read_layout
from moe.experts import ExpertId
from scenario.settings.reading import read_config
from server.delivery.catalogue import CheckpointPieces
from server.delivery.plan import catalogue_of, delivery_notes, delivery_of, whole_bytes
from server.report.ledger import DELIVERY as IN_THE_REPORT
from sim.grid.transit import KEPT_ACTION
from sim.plans.plan import ContactPlan
from strategy.delivery.messages import DELIVERY
from strategy.delivery.pieces import PieceDelivery
from tests.sim.grid.skies import flat

PLAN = ContactPlan(
    horizon_s=1000.0,
    contacts={"wide": (flat(0.0, 100.0, 1e6, 1.0),), "narrow": (flat(0.0, 100.0, 5.0, 1.0),)},
)


def test_bytes_are_told_and_clusters_whose_contacts_carry_no_whole_piece(tiny: Callable[[str], Path]) -> None:
    path = str(tiny("mixtral"))
    layers = read_layout(path).layers
    config = read_config({"model.delivery": "experts", "profile.method": "exact"})
    pieces = catalogue_of(config, path, "base", travels=False)
    assert pieces is not None
    sent, *notes = delivery_notes(config, pieces, layers, PLAN)
    one_of_each = sum(pieces.expert_bytes(ExpertId(layer, 0)) for layer in layers)
    assert sent == f"delivery: each node is sent {one_of_each / 1e6:.3g} MB for each expert of every layer"
    (note,) = notes
    assert note.startswith("note: no contact of narrow carries a piece")
    assert "at most 0.0005 MB" in note and "model.piece-mb" in note


def test_there_are_no_pieces_where_nothing_is_delivered(tiny: Callable[[str], Path]) -> None:
    path = str(tiny("mixtral"))
    config = read_config({})
    assert catalogue_of(config, path, "base", travels=True) is None
    assert not isinstance(delivery_of(config, None), PieceDelivery)


def test_the_parts_of_a_checkpoint_add_up_to_its_files(tiny: Callable[[str], Path]) -> None:
    path = tiny("mixtral")
    files = [f for f in path.iterdir() if f.is_file()]
    assert whole_bytes(str(path)) == sum(file.stat().st_size for file in files)


def test_an_expert_in_pieces_is_its_bytes(tiny: Callable[[str], Path]) -> None:
    path = tiny("mixtral")
    pieces = CheckpointPieces(open_storage(path), "base", piece_bytes=700, brings_shared=True, travels=True)
    for experts in ([ExpertId(0, 1)], [ExpertId(1, 3)]):
        for expert in experts:
            cut = pieces.of(expert)
            assert all(piece.num_bytes <= 700 for piece in cut)
            assert sum(piece.num_bytes for piece in cut) == pieces.expert_bytes(expert)
            assert all(len(pieces.data(piece) or b"") == piece.num_bytes for piece in cut)
    assert sum(piece.num_bytes for piece in pieces.shared) == pieces.shared_bytes()
    assert len({piece.name for piece in pieces.shared}) == len(pieces.shared)


def test_the_rooms_that_must_not_know_each_other_mean_one_message() -> None:
    assert DELIVERY == IN_THE_REPORT == f"query.{KEPT_ACTION}"
