"""Stand-ins in every family: fitted, put into the shared part, and the profile that comes of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.tiny_models import FAMILIES
from moe.disk.layout import open_storage
from moe.standin.fit import fit_stand_ins
from moe.standin.load import build_with_stand_ins
from moe.standin.stand_in import StandIn, StandIns
from moe.submodel.load import load_streamed
from moe.submodel.routing import routing_mass

HASHED = ("deepseek_v4",)
"""Their tiny models route by a hash of the token: nothing that experts give changes it."""


def nothing_like(stand_ins: StandIns) -> StandIns:
    """Return stand-ins that give zeros."""
    zeros = {
        layer: StandIn(**{name: torch.zeros_like(tensor) for name, tensor in stand_in.tensors.items()})
        for layer, stand_in in stand_ins.of_layer.items()
    }
    return StandIns(base=stand_ins.base, of_layer=zeros)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_profiled_without_its_experts(family: str, tiny: Callable[[str], Path]) -> None:
    path = tiny(family)
    # 24 tokens, fewer than the regressors (32 channels, 8 experts, 1): the fit goes through all of them.
    text = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(1))
    found = fit_stand_ins(path, text.split(1), base=family, rank=32)
    exact = routing_mass(load_streamed(path), [text])
    profiles = []
    for stand_ins in (found, nothing_like(found)):
        storage = open_storage(path)
        assert sorted(stand_ins.of_layer) == sorted(storage.blocks)[:-1]
        model = build_with_stand_ins(storage, stand_ins)
        assert storage.checkpoint.bytes_read == sum(
            storage.checkpoint.raw_bytes(name) for name in storage.shared_names
        )
        profiles.append(routing_mass(model, [text]))
    np.testing.assert_allclose(profiles[0][0], exact[0], rtol=1e-6)
    if found.of_layer and family not in HASHED:
        errors = [np.abs(profile - exact).sum() for profile in profiles]
        # Rounded to bfloat16 it still is the exact profile, but where two experts were nearly as good.
        assert errors[0] < 0.4 * errors[1], errors
