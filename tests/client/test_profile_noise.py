"""Noise on profiles: as strong as it says, the same for who asks again, and no seed that the server knows."""

import numpy as np
import pytest

from client.profile_noise import noise_stream, noised

MASS = (np.array([30.0, 50.0, 20.0]), np.array([0.0, 400.0]))


def test_the_noise_is_laplace_of_the_scale_that_is_set() -> None:
    rng = noise_stream(7, 0, 0, simulated=True)
    share_E = np.full(2000, 1 / 2000)
    found = noised([share_E * 100], 1e-5, rng)[0] / 100 - share_E
    # Of a Laplace distribution the mean distance is the scale, the median distance scale * ln 2.
    assert np.abs(found).mean() == pytest.approx(1e-5, rel=0.1)
    assert np.median(np.abs(found)) == pytest.approx(1e-5 * np.log(2), rel=0.1)
    assert abs(found.mean()) < 1e-6


def test_shares_stay_masses_and_the_number_of_tokens_stays_in_their_size() -> None:
    layers = noised(MASS, 0.5, np.random.default_rng(1))
    assert [len(layer) for layer in layers] == [3, 2]
    assert all((layer >= 0).all() for layer in layers)
    big = noised([layer * 1000 for layer in MASS], 0.5, np.random.default_rng(1))
    assert all(np.allclose(b, 1000 * small) for b, small in zip(big, layers, strict=True))


def test_a_device_without_routing_stays_without() -> None:
    assert (noised([np.zeros(4)], 1.0, np.random.default_rng(0))[0] == 0).all()


def test_simulated_noise_is_the_runs_and_a_real_nodes_is_nobody_elses() -> None:
    first, again, other, later = (
        noise_stream(1, device, era, simulated=True).random()
        for device, era in ((3, 0), (3, 0), (4, 0), (3, 1))
    )
    assert first == again and len({first, other, later}) == 3
    assert noise_stream(1, 3, 0, simulated=False).random() != noise_stream(1, 3, 0, simulated=False).random()
