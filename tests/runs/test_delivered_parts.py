"""A node that is sent pieces of the model: the real ClientApp, its folder on a real disk."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from client.app import app
from client.client_state import ClientState
from moe.delivery.part import make_part
from moe.disk.layout import open_storage
from moe.experts import ExpertArrays, ExpertId
from moe.export.checkpoint import fingerprint
from moe.held import LEDGER
from moe.tuning.adapters import initial_arrays
from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.delivery.catalogue import CheckpointPieces
from strategy.delivery.messages import delivery_instruction, piece_names, read_delivered, read_lacking
from strategy.messages import train_instruction
from strategy.wire.arrays import decode_arrays
from tests.fake_grid import FakeGrid
from tests.runs.conftest import Settings

EXPERTS = (ExpertId(0, 1), ExpertId(1, 2))


@pytest.fixture
def deployed(tiny_run: Settings) -> Settings:
    """Return the settings of a run over a real link whose experts are delivered."""
    FakeGrid(lambda _: None)  # a Message needs a run
    return {
        **tiny_run,
        **{"sky.simulated": False, "train.steps-wall-budget-s": 60.0, "train.max-steps": 2},
        **{"model.delivery": "experts", "population.clusters": 1},
    }


@pytest.fixture
def pieces(checkpoint: Path) -> CheckpointPieces:
    """Return the pieces of the server's checkpoint, each a message of its own."""
    return CheckpointPieces(
        open_storage(checkpoint),
        fingerprint(checkpoint),
        piece_bytes=2000,
        brings_shared=False,
        travels=True,
    )


@pytest.fixture
def part(checkpoint: Path, tmp_path: Path) -> Path:
    """Return a node's folder with the shared part."""
    return make_part(open_storage(checkpoint), fingerprint(checkpoint), tmp_path / "part")


@pytest.fixture
def ask(deployed: Settings) -> Callable[..., Message]:
    """Return what gives a node's answer to a message; without a folder it has the whole checkpoint."""

    def answer(message: Message, folder: Path | None = None) -> Message:
        config: dict[str, Scalar] = {"devices": "0", **({"model": str(folder)} if folder else {})}
        context = Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config=deployed)
        return app(message, context)

    return answer


def order(deployed: Settings) -> Message:
    """Return what asks a node to train its two experts."""
    config = read_config(deployed)
    state = ClientState(config)
    values: ExpertArrays = initial_arrays(state.path, state.tuning, sorted(EXPERTS))
    return train_instruction(1, values, 0)


def deliver(ask: Callable[..., Message], pieces: CheckpointPieces, folder: Path, *experts: ExpertId) -> None:
    for expert in experts:
        for piece in pieces.of(expert):
            message = delivery_instruction(1, [piece], pieces)
            assert read_delivered(ask(message, folder), piece_names(message)) == (piece.name,)


def test_a_node_trains_on_what_came_exactly_as_on_the_whole_checkpoint(
    deployed: Settings, ask: Callable[..., Message], pieces: CheckpointPieces, part: Path
) -> None:
    deliver(ask, pieces, part, *EXPERTS)
    found, wanted = (ask(order(deployed), folder) for folder in (part, None))
    for (key, value), (other, expected) in zip(
        decode_arrays(found.content.array_records["arrays"]).items(),
        decode_arrays(wanted.content.array_records["arrays"]).items(),
        strict=True,
    ):
        assert key == other
        np.testing.assert_array_equal(value, expected)
    assert any(value.any() for value in decode_arrays(found.content.array_records["arrays"]).values())


def test_a_node_with_half_of_its_experts_says_which_it_lacks(
    deployed: Settings, ask: Callable[..., Message], pieces: CheckpointPieces, part: Path
) -> None:
    deliver(ask, pieces, part, EXPERTS[0])
    reply = ask(order(deployed), part)
    assert read_lacking(reply) == {EXPERTS[1]}
    assert not reply.content.array_records
    deliver(ask, pieces, part, EXPERTS[1])
    assert not read_lacking(ask(order(deployed), part))


def test_a_folder_without_its_ledger_takes_no_piece(
    ask: Callable[..., Message], pieces: CheckpointPieces, part: Path
) -> None:
    (part / LEDGER).unlink()
    reply = ask(delivery_instruction(1, pieces.of(EXPERTS[0]), pieces), part)
    assert f"and no {LEDGER}: it is no device's part of a checkpoint" in (reply.error.reason or "")


@pytest.mark.parametrize("named", [None, "model", "./model"])
def test_a_node_that_does_not_say_where_to_keep_pieces_is_told_how(
    deployed: Settings, pieces: CheckpointPieces, named: str | None
) -> None:
    node: dict[str, Scalar] = {"devices": "0", **({"model": named} if named else {})}
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=deployed)
    reply = app(delivery_instruction(1, pieces.of(EXPERTS[0]), pieces), context)
    assert "start its SuperNode with --node-config 'model=" in (reply.error.reason or "")


def test_a_simulated_delivery_writes_nothing(
    ask: Callable[..., Message], checkpoint: Path, tmp_path: Path
) -> None:
    counted = CheckpointPieces(
        open_storage(checkpoint), "base", piece_bytes=2000, brings_shared=True, travels=False
    )
    message = delivery_instruction(1, counted.shared, counted)
    assert read_delivered(ask(message), piece_names(message)) == tuple(p.name for p in counted.shared)
    assert list(tmp_path.iterdir()) == []
