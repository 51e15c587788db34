"""The law of a delivered sub-model: that of the whole checkpoint, from a folder without the other experts."""

import hashlib
from pathlib import Path

import pytest
import torch

from benchmarks.tiny_models import VOCABULARY
from moe.delivery.extents import cut, expert_extents
from moe.delivery.part import held_experts, make_part, put_piece, read_extents, weight_sizes
from moe.disk.layout import open_storage
from moe.disk.storage import Storage
from moe.experts import ExpertId
from moe.export.checkpoint import fingerprint
from moe.objective import language_model_inputs
from moe.submodel.load import load_submodel

PIECE_BYTES = 1000
TOKENS = torch.arange(VOCABULARY)[None, ::8]


def deliver(storage: Storage, folder: Path, expert: ExpertId, base: str) -> None:
    """Put an expert into a device's folder, piece by piece."""
    source = storage.checkpoint.folder
    for extents in cut(expert_extents(storage, expert), PIECE_BYTES):
        data = read_extents(source, extents)
        put_piece(folder, base, extents, weight_sizes(storage), data, hashlib.sha256(data).hexdigest())


def part_with(path: Path, folder: Path, index: int) -> Storage:
    """Make a device's part that holds one expert of every layer; returns the whole checkpoint."""
    storage = open_storage(path)
    base = fingerprint(path)
    make_part(storage, base, folder)
    for layer in storage.blocks:
        deliver(storage, folder, ExpertId(layer, index), base)
    return storage


def check_part(path: Path, folder: Path) -> None:
    """Compare what a part gives with the whole, and see that what it was not given is refused."""
    whole = part_with(path, folder, 1)
    kept = dict.fromkeys(whole.blocks, (1,))
    found, wanted = load_submodel(folder, kept), load_submodel(path, kept)
    for (name, value), (_, other) in zip(
        found.state_dict().items(), wanted.state_dict().items(), strict=True
    ):
        assert torch.equal(value, other), name
    inputs = language_model_inputs(wanted, TOKENS)
    with torch.no_grad():
        assert torch.equal(found(**inputs).logits, wanted(**inputs).logits)
    part = open_storage(folder)
    assert held_experts(part) == {ExpertId(layer, 1) for layer in whole.blocks}
    for layer in whole.blocks:
        with pytest.raises(ValueError, match="not delivered"):
            part.read_expert(layer, 2)
