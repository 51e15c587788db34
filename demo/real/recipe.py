"""The numbers of the real demo model: which layers become experts, and how long each learns.

Measured on two cores for what three minutes can give (docs/LOG.md): a base that is used to raw text and to
its domains, and is yet far from having learnt them.
"""

from dataclasses import asdict, dataclass
from typing import Literal

RECIPE_VERSION = 1
"""Raise when the maker's code changes what it makes; a new version is made anew, whatever is cached."""

Routing = Literal["domains", "k-means"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRecipe:
    """How a dense model's last layers become experts.

    Parameters
    ----------
    routing : {"domains", "k-means"}
        ``domains``: an expert is tuned on each domain and its router row finds the tokens of that domain.
        ``k-means``: all experts are one generalist, tuned on the mixture; router rows are the centres of
        clusters of tokens, and no domain is anybody's.
    num_layers : int
        Layers from the top that become experts.
    blocks_per_domain : int
        Blocks of ``sequence_length`` tokens an expert learns from.
    num_steps, batch_size, learning_rate : int, int, float
        Of an expert's own tuning; the generalist takes ``generalist_steps``.
    router_blocks : int
        Blocks a domain that the router's rows are fitted on.
    router_decay : float
        L2 penalty of the logistic regression, per row and squared unit.
    """

    routing: Routing = "domains"
    num_layers: int = 6
    experts_per_token: int = 2
    shared_width: int = 8
    sequence_length: int = 64
    blocks_per_domain: int = 128
    num_steps: int = 24
    generalist_steps: int = 48
    batch_size: int = 8
    learning_rate: float = 3e-4
    router_blocks: int = 48
    router_decay: float = 1e-3
    seed: int = 20260

    def key(self) -> str:
        """Return a text that is the same exactly for equal recipes of one version."""
        return f"version {RECIPE_VERSION}: {asdict(self)}"


BY_NAME = {"demo-real": RealRecipe(), "demo-real-kmeans": RealRecipe(routing="k-means")}
"""What ``model.name`` may say."""
