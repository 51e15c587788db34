"""Deal texts to clusters and devices: pure functions of labels, shares and a random generator."""

from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def by_domain(
    labels: Sequence[str], num_clusters: int, rng: np.random.Generator
) -> tuple[list[Indices], list[str]]:
    """Give each cluster one domain's texts; domains are taken in the order of their first text, cyclically.

    Clusters of the same domain (more clusters than domains) share its texts evenly and without overlap;
    with more domains than clusters the last domains stay unused.

    Returns
    -------
    list[Indices], list[str]
        Per cluster the indices of its texts, shuffled, and the name of its domain.
    """
    names = list(dict.fromkeys(labels))
    label_of = np.asarray(labels, dtype=object)
    parts: dict[int, Indices] = {}
    for position, name in enumerate(names[:num_clusters]):
        sharers = range(position, num_clusters, len(names))
        texts = rng.permutation(np.flatnonzero(label_of == name))
        parts.update(zip(sharers, np.array_split(texts, len(sharers)), strict=True))
    clusters = range(num_clusters)
    return [parts[cluster] for cluster in clusters], [names[cluster % len(names)] for cluster in clusters]


def by_name(names_of: Sequence[str], clusters: Sequence[str], rng: np.random.Generator) -> list[Indices]:
    """Give each cluster the texts that name it, shuffled; texts that name none go to nobody."""
    label_of = np.asarray(names_of, dtype=object)
    return [rng.permutation(np.flatnonzero(label_of == name)) for name in clusters]


def by_holder(texts: Indices, holders: Sequence[str], num_devices: int) -> list[Indices]:
    """Give each device the texts of whole holders: the largest first, to who has least.

    Parameters
    ----------
    texts : Indices
        Of one cluster.
    holders : Sequence[str]
        Of every text of the source; at least as many different ones among ``texts`` as devices.

    Returns
    -------
    list[Indices]
        Of each device, at least one text; no holder on two devices.
    """
    held: dict[str, list[int]] = {}
    for text in texts.tolist():
        held.setdefault(holders[text], []).append(text)
    parts: list[list[int]] = [[] for _ in range(num_devices)]
    for of_holder in sorted(held.values(), key=len, reverse=True):
        min(parts, key=len).extend(of_holder)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def mixed(parts: Sequence[Indices], share: float, rng: np.random.Generator) -> list[Indices]:
    """Take a share of every part, shuffle all that was taken, and give each part as much back.

    Parameters
    ----------
    parts : Sequence[Indices]
        Apart from each other.
    share : float
        In [0, 1]: 0 leaves them as they are, 1 makes them samples of the whole, each of its own size.

    Returns
    -------
    list[Indices]
        Of the same sizes, shuffled, no text lost or twice.
    """
    taken = [round(share * len(part)) for part in parts]
    shuffled = [rng.permutation(part) for part in parts]
    pool = rng.permutation(np.concatenate([part[:n] for part, n in zip(shuffled, taken, strict=True)]))
    given = np.split(pool, np.cumsum(taken)[:-1])
    return [
        rng.permutation(np.concatenate([part[n:], back]))
        for part, n, back in zip(shuffled, taken, given, strict=True)
    ]


def iid(num_texts: int, num_clusters: int, rng: np.random.Generator) -> list[Indices]:
    """Shuffle all texts and cut them into even parts, one a cluster."""
    return list(np.array_split(rng.permutation(num_texts), num_clusters))


def dirichlet(
    labels: Sequence[str], num_clusters: int, dirichlet_alpha: float, rng: np.random.Generator
) -> list[Indices]:
    """Split every label's texts over the clusters in proportions drawn from a Dirichlet distribution.

    Parameters
    ----------
    dirichlet_alpha : float
        > 0; towards 0 a label falls to one cluster, towards infinity clusters get equal mixtures.

    Returns
    -------
    list[Indices]
        Per cluster, shuffled; a part may be empty when the parameter or the data are small.

    Source
    ------
    Hsu, Qi, Brown 2019 (arXiv 1909.06335) and Yurochkin et al. 2019, over clusters here and not over
    single devices: devices of one place share its skew.
    """
    label_of = np.asarray(labels, dtype=object)
    parts: list[list[Indices]] = [[] for _ in range(num_clusters)]
    for name in dict.fromkeys(labels):
        texts = rng.permutation(np.flatnonzero(label_of == name))
        shares = rng.dirichlet(np.full(num_clusters, dirichlet_alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(texts)).astype(np.int64)
        for part, piece in zip(parts, np.split(texts, ends), strict=True):
            part.append(piece)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def apart(texts: Indices, shares: Sequence[float]) -> list[Indices]:
    """Cut texts into parts in proportion to shares, at least one text each; as `apportion`."""
    ends = np.cumsum(apportion(len(texts), shares))[:-1].astype(np.int64)
    return np.split(texts, ends)[: len(shares)]


def drawn(texts: Indices, shares: Sequence[float], rng: np.random.Generator) -> list[Indices]:
    """Deal the same texts again and again, shuffled each time, until every share has its part.

    Parameters
    ----------
    texts : Indices
        At least one; in general fewer than shares.
    shares : Sequence[float]
        Each > 0, in any unit.

    Returns
    -------
    list[Indices]
        In proportion to the shares, rounded, at least one text each and at most all; a mean share gets its
        even part, or one. No text twice in a part, and over all parts each as often as any other, but for
        one or two times.
    """
    weights = np.asarray(shares, dtype=np.float64)
    even = max(1.0, len(texts) / max(1, len(shares)))
    counts = np.clip(np.rint(even * weights / weights.mean()), 1, len(texts)) if shares else weights
    parts, deck = [], deque[int]()
    for count in counts.tolist():
        part: dict[int, None] = {}
        put_back = []
        while len(part) < count:
            if not deck:
                deck.extend(rng.permutation(texts).tolist())
            text = deck.popleft()
            if text in part:
                put_back.append(text)
            else:
                part[text] = None
        deck.extendleft(put_back)
        parts.append(np.fromiter(part, dtype=np.int64, count=len(part)))
    return parts


def apportion(num_items: int, shares: Sequence[float]) -> list[int]:
    """Divide items in proportion to shares, each getting at least one (largest remainders).

    Parameters
    ----------
    num_items : int
        At least ``len(shares)``; 0 for no shares.
    shares : Sequence[float]
        Each > 0, in any unit.

    Returns
    -------
    list[int]
        Counts >= 1 that add up to ``num_items``.

    Raises
    ------
    ValueError
        If there are fewer items than shares.
    """
    if num_items < len(shares):
        raise ValueError(f"{num_items} items cannot give each of {len(shares)} shares at least one")
    if not shares:
        return []
    weights = np.asarray(shares, dtype=np.float64)
    exact = (num_items - len(shares)) * weights / weights.sum()
    counts = np.floor(exact).astype(np.int64) + 1
    by_remainder = np.argsort(-(exact - np.floor(exact)), kind="stable")
    counts[by_remainder[: num_items - int(counts.sum())]] += 1
    return [int(count) for count in counts]
