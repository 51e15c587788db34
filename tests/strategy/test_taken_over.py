"""What the state says of who hosts the devices."""

import numpy as np

from strategy.messages import Profile
from strategy.state import EmsFlState


def profile(cluster: str, *devices: int) -> Profile:
    return Profile(
        cluster=cluster, devices=devices, mass=(np.ones(2),), num_examples=1, memory_bytes=1, fingerprint="x"
    )


def test_a_node_that_took_over_anothers_devices_stands_for_both() -> None:
    state = EmsFlState(values={})
    state.profiles = {7: profile("Leh", 0, 1), 8: profile("Leh", 2), 9: profile("Leh", 0, 1)}
    assert sorted(state.hosts) == [8, 9]
    state.profiles = {7: profile("Leh", 0), 8: profile("Leh", 1)}
    assert state.hosts == state.profiles
