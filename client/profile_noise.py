"""Noise on a routing profile before it leaves the device, since how a router is used tells of the data."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_STREAM = 0x70726F66
"""Keeps these draws apart from every other use of the run's seed."""


def noised(
    mass: Sequence[NDArray[np.float64]], scale: float, rng: np.random.Generator
) -> tuple[NDArray[np.float64], ...]:
    """Return a profile whose shares have Laplace noise on them, negative ones cut to zero.

    Parameters
    ----------
    mass : sequence of arrays [E]
        Gate mass of one device's data for each MoE layer, >= 0.
    scale : float
        Of the noise on an expert's share of its layer, > 0.
    rng : Generator
        Draws it.

    Notes
    -----
    Another data set moves the shares of a layer, which sum to one, by at most 2 in all. So a layer's noisy
    shares are (2 / scale)-differentially private for all data of a device at once, and those of L layers
    (2 L / scale); cutting at zero takes nothing away (Dwork and Roth 2014, theorem 3.6, proposition 2.1,
    theorem 3.14). How many tokens there were is not hidden: it is told with the profile.
    """
    return tuple(_noised_layer(mass_E, scale, rng) for mass_E in mass)


def _noised_layer(mass_E: NDArray[np.float64], scale: float, rng: np.random.Generator) -> NDArray[np.float64]:
    total = mass_E.sum()
    share_E = mass_E / (total or 1.0)
    noisy_E: NDArray[np.float64] = np.maximum(0.0, share_E + rng.laplace(0.0, scale, len(mass_E))) * total
    return noisy_E


def noise_stream(seed: int, device: int, era: int, *, simulated: bool) -> np.random.Generator:
    """Return where a device's noise comes from: the run's seed in simulation, else the machine's own chance.

    Who knows the seed can take the noise off again, and the server knows it.
    """
    return np.random.default_rng([_STREAM, seed, device, era] if simulated else None)
