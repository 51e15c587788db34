"""How much a late update still counts.

``staleness`` is per expert: its version now minus the version the update started from, a whole
number of merges >= 0. A discount maps it to [0, 1], with ``discount(0) == 1``, never increasing.

Sources: Xie, Koyejo, Gupta, "Asynchronous Federated Optimization" (FedAsync, arXiv 1903.03934,
Section 5.2) for the three shapes; Nguyen et al., "Federated Learning with Buffered Asynchronous
Aggregation" (FedBuff, arXiv 2106.06639) uses the polynomial one with exponent 0.5.
"""

from collections.abc import Callable

Discount = Callable[[int], float]
"""Staleness (merges, >= 0) -> share of full strength in [0, 1]."""


def constant() -> Discount:
    """Return the discount that ignores staleness: ``f(s) = 1``."""
    return lambda staleness: 1.0 + 0.0 * _checked(staleness)


def polynomial(exponent: float = 0.5) -> Discount:
    """Return ``f(s) = (1 + s) ** -exponent``.

    Parameters
    ----------
    exponent : float
        >= 0; 0.5 in FedBuff and in FedAsync's experiments.

    Raises
    ------
    ValueError
        If the exponent is negative.

    Examples
    --------
    >>> polynomial(0.5)(3)
    0.5
    """
    if not exponent >= 0.0:
        raise ValueError(f"the exponent of a polynomial discount must be >= 0, got {exponent}")
    return lambda staleness: float((1.0 + _checked(staleness)) ** -exponent)


def hinge(slope: float = 0.5, grace: int = 4) -> Discount:
    """Return ``f(s) = 1 if s <= grace else 1 / (slope * (s - grace) + 1)``.

    Parameters
    ----------
    slope : float
        >= 0, how fast the discount falls once the grace is over.
    grace : int
        >= 0 merges that cost nothing.

    Raises
    ------
    ValueError
        If either is negative.

    Examples
    --------
    >>> [hinge(0.5, 4)(s) for s in (4, 6)]
    [1.0, 0.5]
    """
    if not slope >= 0.0 or grace < 0:
        raise ValueError(f"a hinge discount needs slope >= 0 and grace >= 0, got {slope} and {grace}")
    return lambda staleness: 1.0 / (slope * max(0, _checked(staleness) - grace) + 1.0)


def discount_from_name(name: str, *, a: float, b: int) -> Discount:
    """Return the discount a configuration names.

    Parameters
    ----------
    name : str
        ``constant``, ``polynomial`` (exponent ``a``) or ``hinge`` (slope ``a``, grace ``b``).
    a, b : float, int
        Its parameters, as FedAsync calls them.

    Raises
    ------
    ValueError
        If no discount has that name.
    """
    discounts: dict[str, Callable[[], Discount]] = {
        "constant": constant,
        "polynomial": lambda: polynomial(a),
        "hinge": lambda: hinge(a, b),
    }
    if name not in discounts:
        raise ValueError(f"unknown discount {name!r}; choose one of {', '.join(discounts)}")
    return discounts[name]()


def _checked(staleness: int) -> int:
    if staleness < 0:
        raise ValueError(f"staleness must be >= 0 merges, got {staleness}: an update from the future")
    return staleness
